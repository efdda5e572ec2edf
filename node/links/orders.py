"""What the node process may tell its link agent: when the run began, and changes by hand (pure).

One JSON object a line. The node process is an ordinary user that talks to the network; the agent
has NET_ADMIN. So everything is checked here, what does not fit is refused, and nothing is fatal.
"""

from __future__ import annotations

import json
from typing import Final

from node.config import LinkChange, Replan, from_json
from node.errors import ConfigError
from node.units import SECOND, Nanos

LINE_MAX: Final = 4 * 2**20
"""Bytes of a line; a thousand paths take less than a tenth."""
CHANGES_MAX: Final = 10_000
AT_NS_MAX: Final[Nanos] = 10 * 365 * 86400 * SECOND
CLOCK_NS_MAX: Final[Nanos] = 86400 * SECOND
"""A run does not begin further away from now."""


class Lines:
    """Cuts what comes in into lines; one that is too long is skipped to its end."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def take(self, data: bytes) -> list[bytes]:
        """The lines that are whole now; a line that is too long as the piece that is there."""
        whole: list[bytes] = []
        *ends, rest = (self._rest + data).split(b"\n")
        for line in ends:
            if self._skipping:
                self._skipping = False
            else:
                whole.append(line)
        if self._skipping:
            rest = b""
        elif len(rest) > LINE_MAX:
            whole.append(rest)
            rest, self._skipping = b"", True
        self._rest = rest
        return whole


def parse(line: bytes, *, now_wall: Nanos) -> Nanos | Replan:
    """The beginning of the run on the wall clock, or a new plan.

    Raises:
        ConfigError: it is neither, or has numbers that cannot be.
    """
    if len(line) > LINE_MAX:
        raise ConfigError(f"a line of more than {LINE_MAX} bytes", where="an order")
    try:
        order = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", where="an order") from error
    match order:
        case {"start": int(start), **rest} if not rest and not isinstance(start, bool):
            if abs(start - now_wall) > CLOCK_NS_MAX:
                raise ConfigError(f"the run cannot begin at {start}", where="an order")
            return start
        case {"change": dict(text), **rest} if not rest:
            return _replan(text)
    raise ConfigError("neither `start` nor `change`", where="an order")


def _replan(text: dict[str, object]) -> Replan:
    try:
        order = from_json(Replan, json.dumps(text))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"not a change of links: {error}", where="an order") from error
    changes: tuple[LinkChange, ...] = order.changes
    if len(changes) > CHANGES_MAX:
        raise ConfigError(f"{len(changes)} changes at once", where="an order")
    for at in (order.at_ns, *(change.at_ns for change in changes)):
        if not 0 <= at <= AT_NS_MAX:
            raise ConfigError(f"there is no time {at} on the run clock", where="an order")
    return order
