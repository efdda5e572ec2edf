"""The send window of sequential pacing, which holds over all peers together (pure).

As in `node.core.outbox`, messages are handed to the transport in queue order, each as soon as the
window of its path has room for its first chunk. What has been handed out to different peers leaves
side by side, and counts until it is acknowledged. Of a message of several chunks all counts from
its beginning, so that the next begins when the last chunk is handed out and no sooner; that
it leaves no faster than its chunks are handed out is not seen to, which puts it ahead by less
than a round trip, and only behind one on a slower and longer path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.core.outbox import Priority
from node.sim.flows import NEVER
from node.sim.lanes import Entry, Lane, Transfer
from node.units import MICROSECOND, SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.network import Route
    from node.sim.wire import Parcel

_BITS: Final = 8 * SECOND
_STEP: Final = 20 * MICROSECOND
"""Two looks are not closer."""


class Window(Lane):
    """Messages that wait for room, and what there is under way. Those that have begun are in the
    lanes of their peers.

    Attributes:
        under_way: of messages that have begun and are not acknowledged, by number: for whom, how
            many bytes, since when.
        pending: bytes of all those.
        parted: of them, those of several chunks that are leaving or have left.
        last: the window of the one that began last.
        look: when the next call is queued that sees whether there is room.
    """

    __slots__ = ("last", "look", "parted", "pending", "under_way")

    def __init__(self) -> None:
        super().__init__(Priority.MODEL)
        self.under_way: dict[int, tuple[int, int, Nanos]] = {}
        self.pending = 0
        self.parted: dict[Transfer, None] = {}
        self.last = 0
        self.look = NEVER

    def room_for(self, route: Route, parcel: Parcel, now: Nanos) -> Nanos:
        """When there is room for a message to begin, as far as it is known; NEVER: when another is
        acknowledged as a whole."""
        if not self.pending:
            return now
        want = min(parcel.message, route.chunk)
        over = self.pending - min(self.last, max(0, route.window - want))
        if over <= 0:
            return now
        acked, coming = self._parts(now)
        over -= acked
        if over <= 0:
            return now
        if not coming:
            return NEVER
        wait = int(max(over, route.chunk // 2) / sum([pace for _, _, pace in coming]))
        return max(now + _STEP, min([max(clear, since + wait) for since, clear, _ in coming]))

    def _parts(self, now: Nanos) -> tuple[int, list[tuple[Nanos, Nanos, float]]]:
        """Of messages that are not acknowledged as a whole: bytes of the chunks that are; and for
        each that there is more of, from when, before when none is heard of, and bytes/ns."""
        acked = 0
        coming: list[tuple[Nanos, Nanos, float]] = []
        for each in self.parted:
            until, lag, clear = _heard(each, now)
            parcel, chunk = each.parcel, each.route.chunk
            gone = parcel.wire - each.left + each.rate * (until - each.since) / _BITS
            whole = -(-parcel.message // chunk)
            # The last one counts with the message.
            chunks = min(max(0, int(gone / parcel.wire * whole)), whole - 1)
            acked += chunks * chunk
            if chunks < whole - 1 and each.rate:
                pace = each.rate / _BITS * parcel.message / parcel.wire
                coming.append((until + lag, clear, pace))
        return acked, coming

    def begin(self, entry: Entry, route: Route, parcel: Parcel, now: Nanos) -> None:
        """A message begins."""
        self.under_way[entry.number] = (entry.target, parcel.message, now)
        self.pending += parcel.message
        self.last = route.window

    def ended(self, number: int) -> bool:
        """A message is acknowledged, or nobody waits for that any more; whether it had begun."""
        known = self.under_way.pop(number, None)
        if known is None:
            return False
        self.pending -= known[1]
        return True

    def forget(self, target: int) -> None:
        """The stream to a peer is no more."""
        for number in [number for number, (to, _, _) in self.under_way.items() if to == target]:
            self.ended(number)
        self.parted = {each: None for each in self.parted if each.entry.target != target}

    def unwritten(self, now: Nanos) -> int:
        """Bytes of the message that began last that were not handed out yet."""
        return max(0, self.pending - self._parts(now)[0] - self.last)


def _heard(transfer: Transfer, now: Nanos) -> tuple[Nanos, Nanos, Nanos]:
    """Up to when chunks left that are acknowledged by now, how much later the next will be, and
    before when they will not.

    Acknowledgements are behind what the other end has handed to the transport for this one.
    """
    route, to = transfer.route, transfer.to
    back = to.outgoing.leaving(transfer.sender.place) if to is not None else None
    if to is None or back is None or not back.rate:
        return now - route.trip, route.trip, now
    handed = min(back.parcel.message, back.route.window) / back.parcel.message * back.parcel.wire
    clear = back.begun + int(handed * _BITS / back.rate) + route.back
    if now < clear:
        return min(back.begun, now - route.back) - route.delay, route.trip, clear
    lag = route.trip + to.outgoing.ahead_ns(transfer.sender.place)
    return now - lag, lag, now
