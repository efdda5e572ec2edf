"""What a netem does, as `tc -j qdisc show` prints it, held against what was asked for (pure).

tc prints six digits; times in seconds, shares from 0 to 1, rates in bytes/s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from node.config import Burst, PathSpec
from node.links.impair import LEAST_DELAY_NS, ORDER_BPS, loss_chain, order_rate
from node.units import MICROSECOND, SECOND

DIGITS: Final = 1e-5
TIME_S: Final = MICROSECOND / SECOND
"""tc reads whole microseconds; the kernel keeps ticks of 64 ns."""
SHARE: Final = 1e-6
"""Shares are 32 bits wide."""

Options = Mapping[str, Any]


def in_force(options: Options) -> dict[str, float]:
    """Delay, jitter and loss, as links.json has them; `loss` is all of it, in the long run."""
    chain = _chain(options)
    return {
        "delay_ms": _number(options, "delay", "delay") * 1000,
        "jitter_ms": _number(options, "delay", "jitter") * 1000,
        "loss": _number(options, "loss-random", "loss") if chain is None else chain.loss,
    }


def difference(options: Options, path: PathSpec, *, limit: int) -> str | None:
    """The first property that is not as asked, in words; None if all are.

    Args:
        options: of the qdisc.
        limit: packets that it may hold, as asked.
    """
    for name, seen, asked, slack in _pairs(options, path):
        if abs(seen - asked) > max(slack, abs(asked) * DIGITS):
            return f"the {name} is {seen:g}, asked was {asked:g}"
    if options.get("limit") != limit:
        return f"the limit is {options.get('limit')} packets, asked was {limit}"
    return None


def _pairs(options: Options, path: PathSpec) -> Iterator[tuple[str, float, float, float]]:
    """(name, seen, asked, slack) of each property."""
    # A path that needs a delay for something else has the least one.
    delay = _number(options, "delay", "delay")
    yield "delay in s", delay, path.delay_ns / SECOND, TIME_S + LEAST_DELAY_NS / SECOND
    yield "jitter in s", _number(options, "delay", "jitter"), path.jitter_ns / SECOND, TIME_S
    seen, asked = _chain(options), loss_chain(path)
    random = path.loss if asked is None else 0.0
    yield "random loss", _number(options, "loss-random", "loss"), random, SHARE
    for name in ("enter", "leave", "bad", "good"):
        values = (float(getattr(chain, name)) if chain else 0.0 for chain in (seen, asked))
        yield f"burst loss ({name})", *values, SHARE
    for name in ("duplicate", "corrupt"):
        yield name, _number(options, name, name), getattr(path, name), SHARE
    # Without a gap the kernel does not reorder, whatever share it remembers.
    reorder = _number(options, "reorder", "reorder") if options.get("gap") else 0.0
    yield "reorder", reorder, path.reorder, SHARE
    rate = ORDER_BPS / 8 if order_rate(path) else 0.0
    yield "rate that keeps the order", _number(options, "rate", "rate"), rate, 1.0
    slot = path.slot
    for key, asked_ns in (
        ("min-delay", slot.least_ns if slot else 0),
        ("max-delay", slot.most_ns if slot else 0),
    ):
        yield f"slot's {key}", _number(options, "slot", key), asked_ns / SECOND, TIME_S


def _chain(options: Options) -> Burst | None:
    """The Gilbert-Elliott chain in force; None without one."""
    found = options.get("loss-gemodel")
    if not isinstance(found, Mapping):
        return None
    enter, leave, bad, good = (float(found.get(key, 0.0)) for key in ("p", "r", "1-h", "1-k"))
    return Burst(enter=enter, leave=leave, bad=bad, good=good) if enter + leave else None


def _number(options: Options, group: str, key: str) -> float:
    found = options.get(group)
    return float(found.get(key, 0.0)) if isinstance(found, Mapping) else 0.0
