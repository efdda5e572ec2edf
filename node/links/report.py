"""What was asked of each path, what was applied and what was measured: `links.json` (pure).

Tolerances are for a path measured alone on a machine with room to spare:

    rtt        0.1 ms early, 1 ms or 1 % late, and what a median varies by with jitter
    jitter     of the round trip: 15 %, and what the deviation of so many varies by
    goodput    2 % (3 % from 500 Mbit/s) of what the rate leaves for payload: 0.956 with TCP, 0.972
               with UDP, less the loss
    loss       the 99.9 % interval of what was counted has what was asked for in it; packets lost in
               bursts tell less than single ones, so the interval is wider
    duplicate  likewise

The application emulator is a process like any other: 5 ms + 5 %, 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from node.config import Emulator, ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links.estimate import deviation_error, loss_weight
from node.links.schedule import pings, window_ns
from node.links.sizes import FRAME
from node.units import MILLISECOND, SECOND

TCP_SHARE: Final = 1448 / FRAME
UDP_SHARE: Final = 1472 / FRAME
"""Payload per byte that HTB charges, at MTU 1500."""

Z_99: Final = 2.5758293035489004
Z_999: Final = 3.2905267314919255
"""Half-widths of a 99 % and a 99.9 % interval, in standard deviations."""
_MEDIAN_SIGMA: Final = 1.2533
"""Standard deviation of a median of normal values, times the square root of their number."""

Applied = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a measurement may be off: absolute parts and shares of what was asked.

    Args:
        early_ms, early_share: both together.
        late_ms, late_share: whichever is more.
        goodput_share, fast_share: of rates below and from `FAST_BPS`.
    """

    early_ms: float
    early_share: float
    late_ms: float
    late_share: float
    jitter_share: float
    goodput_share: float
    fast_share: float

    def times(self, factor: float) -> Tolerance:
        """So much more room, for a slow machine."""
        return Tolerance(**{name: factor * value for name, value in asdict(self).items()})


FAST_BPS: Final = 500_000_000
KERNEL: Final = Tolerance(
    early_ms=0.1,
    early_share=0.0,
    late_ms=1.0,
    late_share=0.01,
    jitter_share=0.15,
    goodput_share=0.02,
    fast_share=0.03,
)
APPLICATION: Final = Tolerance(
    early_ms=5.0,
    early_share=0.05,
    late_ms=10.0,
    late_share=0.10,
    jitter_share=0.5,
    goodput_share=0.10,
    fast_share=0.10,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """The verdict on one ordered pair.

    Args:
        ok: whether all that was measured is within tolerance; None if nothing was.
        why: what is not, or why nothing was measured.
        applied: what was read back of both ends, None if that is unknown.
        tolerance: the bounds, and for the loss the interval, for the reader of links.json.
    """

    pair: ExpectedPair
    reading: LinkReading | None
    applied: Applied | None
    ok: bool | None
    why: str | None
    tolerance: Mapping[str, Any]


def judge(
    expected: ExpectedPair,
    reading: LinkReading | None,
    applied: Applied | None,
    *,
    emulator: Emulator,
    tolerance: Tolerance | None = None,
) -> PairReport:
    """Hold what was measured of a pair against what was asked for.

    Args:
        reading: None where links are not measured.
        applied: from `applied_to_pair`.
        tolerance: another than the emulator's.
    """
    rules = tolerance or (APPLICATION if emulator is Emulator.APPLICATION else KERNEL)
    misses: list[str] = []
    bounds: dict[str, Any] = dict.fromkeys(
        ("rtt_ms", "jitter_ms", "goodput_bps", "loss", "duplicate")
    )
    if reading is not None:
        bounds["rtt_ms"] = _judge_rtt(expected, reading, rules, misses)
        bounds["jitter_ms"] = _judge_jitter(expected, reading, rules, misses)
        ideal = expected_goodput(expected.out, transport=reading.transport, emulator=emulator)
        bounds["goodput_bps"] = _judge_goodput(expected.out, reading, rules, ideal, misses)
        bounds["loss"] = _judge_loss(expected.out, reading, misses)
        bounds["duplicate"] = _judge_duplicate(expected.out, reading, misses)
        if reading.error is not None:
            misses.append(reading.error)
    measured = reading is not None and (
        reading.error is not None
        or any(v is not None for v in (reading.rtt_ns, reading.goodput_bps, reading.loss))
    )
    return PairReport(
        pair=expected,
        reading=reading,
        applied=applied,
        ok=not misses if measured else None,
        why="; ".join(misses) if misses else None if measured else "not measured",
        tolerance=bounds,
    )


def _judge_rtt(
    expected: ExpectedPair, reading: LinkReading, rules: Tolerance, misses: list[str]
) -> list[float] | None:
    if reading.rtt_ns is None:
        return None
    asked = (expected.out.delay_ns + expected.back.delay_ns) / MILLISECOND
    # Jitter below zero delay cannot be, so the median of a path that is mostly jitter is not known.
    count, _ = pings(expected.out, expected.back)
    spread = Z_99 * _MEDIAN_SIGMA * _sigma_ms(expected) / math.sqrt(count)
    slots = [p.slot.most_ns for p in (expected.out, expected.back) if p.slot is not None]
    early = rules.early_ms + rules.early_share * asked + spread
    late = max(rules.late_ms, rules.late_share * asked) + spread + sum(slots) / MILLISECOND
    bounds = [max(0.0, asked - early), asked + late]
    seen = reading.rtt_ns / MILLISECOND
    if not bounds[0] <= seen <= bounds[1]:
        misses.append(f"round trip {seen:.2f} ms, asked {asked:.2f} (-{early:.2f}, +{late:.2f}) ms")
    return bounds


def _sigma_ms(expected: ExpectedPair) -> float:
    """Standard deviation of a round trip, as asked."""
    return math.hypot(expected.out.jitter_ns, expected.back.jitter_ns) / MILLISECOND


def _judge_jitter(
    expected: ExpectedPair, reading: LinkReading, rules: Tolerance, misses: list[str]
) -> list[float] | None:
    """Only where the jitter is whole: cut off at no delay, or mixed with others', it is less."""
    ways = (expected.out, expected.back)
    whole = all(p.delay_ns >= 3 * p.jitter_ns and not p.reorder and not p.slot for p in ways)
    asked = _sigma_ms(expected)
    if reading.jitter_ns is None or not asked or not whole:
        return None
    count, _ = pings(expected.out, expected.back)
    share = rules.jitter_share + Z_99 * deviation_error(count)
    bounds = [asked * (1 - share), asked * (1 + share)]
    seen = reading.jitter_ns / MILLISECOND
    if not bounds[0] <= seen <= bounds[1]:
        misses.append(f"jitter {seen:.2f} ms there and back, asked {asked:.2f} ± {share:.0%}")
    return bounds


def _judge_goodput(
    path: PathSpec, reading: LinkReading, rules: Tolerance, ideal: float, misses: list[str]
) -> list[float] | None:
    if path.rate_bps is None or reading.goodput_bps is None:
        return None
    share = rules.goodput_share if path.rate_bps < FAST_BPS else rules.fast_share
    if reading.transport == "udp":  # and what the number lost within the window varies by
        packets = path.rate_bps * window_ns(path) / (8 * FRAME * SECOND) / loss_weight(path)
        share += Z_99 * math.sqrt(path.loss_rate / (packets * max(0.01, 1 - path.loss_rate)))
        share += path.corrupt + path.duplicate
    bounds = [ideal * (1 - share), ideal * (1 + share)]
    if not bounds[0] <= reading.goodput_bps <= bounds[1]:
        off = reading.goodput_bps / ideal - 1
        misses.append(
            f"goodput {reading.goodput_bps / 1e6:.3f} Mbit/s is {off:+.1%} off the"
            f" {ideal / 1e6:.3f} Mbit/s of a {path.rate_bps / 1e6:g} Mbit/s path"
        )
    return bounds


def expected_goodput(path: PathSpec, *, transport: str | None, emulator: Emulator) -> float:
    """Payload bit/s on a path with a rate: what its headers and its losses leave.

    Netem loses packets before they have taken their share of the rate, the delay line afterwards,
    as most real links do; a train that is sent fast enough shows the difference.
    """
    rate = float(path.rate_bps or 0)
    if transport != "udp":
        return rate * TCP_SHARE
    return rate * UDP_SHARE * (1 if emulator is Emulator.NETEM else 1 - path.loss_rate)


def _judge_loss(path: PathSpec, reading: LinkReading, misses: list[str]) -> list[float] | None:
    if reading.loss is None or not reading.loss_packets:
        return None
    low, high = share_interval(reading.loss, reading.loss_packets / loss_weight(path))
    # A packet with a flipped bit is dropped by the receiver's kernel, mostly: not where the bit is
    # in its Ethernet address. One that is sent twice is lost if netem loses both.
    most = 1 - (1 - path.loss_rate) * (1 - path.corrupt)
    least = path.loss_rate * (1 - path.duplicate)
    if not (low <= most and least <= high):
        misses.append(
            f"loss {reading.loss:.3%} of {reading.loss_packets} packets"
            f" (99.9 %: {low:.3%} to {high:.3%}), asked {path.loss_rate:.3%}"
        )
    return [low, high]


def _judge_duplicate(path: PathSpec, reading: LinkReading, misses: list[str]) -> list[float] | None:
    if reading.duplicate is None or not reading.loss_packets:
        return None
    low, high = share_interval(reading.duplicate, reading.loss_packets / loss_weight(path))
    # Both of them have to come through.
    through = (1 - path.loss_rate) * (1 - path.corrupt)
    if not (low <= path.duplicate and path.duplicate * through**2 <= high):
        misses.append(
            f"{reading.duplicate:.3%} of {reading.loss_packets} packets came twice"
            f" (99.9 %: {low:.3%} to {high:.3%}), asked {path.duplicate:.3%}"
        )
    return [low, high]


def share_interval(share: float, count: float) -> tuple[float, float]:
    """The 99.9 % interval of a share that was seen.

    Args:
        count: of independent observations that it rests on; need not be whole.
    """
    return wilson(share * count, count, z=Z_999)


def wilson(hits: float, count: float, *, z: float = Z_99) -> tuple[float, float]:
    """Wilson's score interval of a share, by default of 99 %; it holds up at no hits, too."""
    share, weight = hits / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return 0.0 if hits == 0 else low, 1.0 if hits == count else high


def applied_to_pair(
    states: Mapping[NodeId, Mapping[str, Any]], *, source: NodeId, target: NodeId
) -> dict[str, Any] | None:
    """What is in force on the way from source to target, from both ends' `links.json`.

    The sender's classes have the rate (and netem's delays), the receiver's delay line the rest.

    Args:
        states: per node what its link agent read back, parsed from `Hello.applied`.
    """
    out = _side(states, me=source, peer=target, side="out")
    into = _side(states, me=target, peer=source, side="into")
    if out is None and into is None:
        return None
    merged: dict[str, Any] = {}
    for key in ("rate_bps", "delay_ms", "jitter_ms", "loss"):
        values = [float(v) for end in (out, into) if end and (v := end.get(key)) is not None]
        merged[key] = (min(values) if key == "rate_bps" else max(values)) if values else None
    return merged


def _side(
    states: Mapping[NodeId, Mapping[str, Any]], *, me: NodeId, peer: NodeId, side: str
) -> Mapping[str, Any] | None:
    found = states.get(me, {}).get("peers", {}).get(peer, {}).get("applied", {})
    value: Mapping[str, Any] | None = found.get(side) if isinstance(found, Mapping) else None
    return value


def links_json(reports: Sequence[PairReport], *, emulator: str) -> dict[str, Any]:
    """The content of `links.json`; what was not measured is null."""
    return {"emulator": emulator, "pairs": [_pair_json(report) for report in reports]}


def _pair_json(report: PairReport) -> dict[str, Any]:
    path, reading = report.pair.out, report.reading
    measured: dict[str, Any] = {"rtt_ms": None, "goodput_bps": None, "loss": None}
    beside: dict[str, Any] = {
        "jitter_ms": None,
        "duplicate": None,
        "loss_packets": None,
        "transport": None,
    }
    if reading is not None:
        measured["rtt_ms"] = None if reading.rtt_ns is None else reading.rtt_ns / MILLISECOND
        measured["goodput_bps"] = reading.goodput_bps
        measured["loss"] = reading.loss
        beside = {
            "jitter_ms": None if reading.jitter_ns is None else reading.jitter_ns / MILLISECOND,
            "duplicate": reading.duplicate,
            "loss_packets": reading.loss_packets,
            "transport": reading.transport,
        }
    return {
        "from": report.pair.source,
        "to": report.pair.target,
        "asked": asked_json(path),
        "applied": report.applied,
        "measured": measured | beside,
        "tolerance": dict(report.tolerance),
        "ok": report.ok,
        "why": report.why,
    }


def asked_json(path: PathSpec) -> dict[str, Any]:
    """A path as links.json has it; what is asked for seldom, only where it is.

    `loss` is all of it in the long run, in bursts and otherwise.
    """
    always: dict[str, Any] = {
        "rate_bps": path.rate_bps,
        "delay_ms": path.delay_ns / MILLISECOND,
        "jitter_ms": path.jitter_ns / MILLISECOND,
        "loss": path.loss_rate,
    }
    seldom: dict[str, Any] = {
        "burst": None if path.burst is None else asdict(path.burst),
        "duplicate": path.duplicate,
        "corrupt": path.corrupt,
        "reorder": path.reorder,
        "queue_bytes": path.queue_bytes,
        "slot_ms": None
        if path.slot is None
        else [path.slot.least_ns / MILLISECOND, path.slot.most_ns / MILLISECOND],
    }
    if path.jitter_ns and not path.ordered:
        seldom["ordered"] = path.ordered
    return always | {key: value for key, value in seldom.items() if value or value is False}
