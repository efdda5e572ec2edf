"""Messages that wait for each other, and the send window that they share (pure).

The arithmetic of `node.core.outbox` without its chunks: what has been handed to the transport and
is not acknowledged follows from when each message ends at its present rate, in closed form, so that
no event is needed for an acknowledgement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from node.core.outbox import Priority
from node.sim.pipe import NEVER, Entry, Transfer
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.network import Route, Way


_new: Final = tuple.__new__


class Gone(NamedTuple):
    """What was handed out of a message, and has left.

    Attributes:
        target: the place of whom it is for.
        begun: when the message began.
        size: bytes, as the send queue counts them.
        chunk: in which they are acknowledged.
        pace: bytes a nanosecond, at which they are acknowledged.
        acked: when the last of them is.
    """

    target: int
    begun: Nanos
    size: int
    chunk: int
    pace: float
    acked: Nanos


class Lane:
    """Messages of one priority that wait for each other, and the window that they share.

    Attributes:
        queue: those that have not been handed out, in order.
        begun: those that have been and have not left, in order.
        recent: what has left and may not be acknowledged yet.
        window: of the path of the one that began last.
    """

    __slots__ = ("begun", "priority", "queue", "recent", "window")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.queue: deque[Entry] = deque()
        self.begun: list[Transfer] = []
        self.recent: deque[Gone] = deque()
        self.window = 0

    def gone(self, transfer: Transfer, now: Nanos, late: Nanos) -> None:
        """All that was handed out of one that has begun has left; the last of it is acknowledged
        so much later than after the round trip."""
        recent = self.recent
        while recent and recent[0].acked <= now:
            recent.popleft()
        size, takes = transfer.size, transfer.end - transfer.set_out + late - transfer.late
        acked = transfer.end + transfer.trip + late
        fields = (
            transfer.entry.target, transfer.begun, size, transfer.chunk, size / max(1, takes), acked
        )  # fmt: skip
        recent.append(_new(Gone, fields))
        transfer.size = 0

    @property
    def starved(self) -> Transfer | None:
        """The message that began last, if its handing out waits for acknowledgements and all before
        has left."""
        last = self.begun[-1] if self.begun else None
        return last if last is not None and last.rest and not last.size else None

    def pending(self, now: Nanos) -> float:
        """Bytes that have been handed out, or will be before any that wait, less what is
        acknowledged at a time from now on, as things are."""
        return self._pending(now)[1]

    def unwritten(self, now: Nanos) -> float:
        """Of them, those of the message that began last that have not been handed out."""
        return max(0.0, self.pending(now) - self.window) if self.begun else 0.0

    def fits(self, size: int, route: Route, now: Nanos) -> int:
        """How many of so many bytes can be handed out after all that has been: whole chunks."""
        rest = self.begun[-1].rest if self.begun else 0
        return _chunks(size, route.chunk, max(0, int(route.window + rest - self.pending(now))))

    def room_at(self, limit: int, now: Nanos, before: Nanos) -> Nanos:
        """When no more than so many bytes are pending, as things are; if not `before` a time, any
        that is no sooner."""
        while now < before:
            held, fluid, pace, changes = self._pending(now)
            if held <= limit:
                return now
            # Whole chunks are acknowledged no sooner than as many bytes.
            now = max(changes, now + int((fluid - limit) / pace)) if pace else changes
        return now

    def _pending(self, now: Nanos) -> tuple[float, float, float, Nanos]:
        """`pending`, where chunks are acknowledged as a whole and where each byte is; by how much
        that may fall each ns; and when the former falls next (NEVER: not by itself)."""
        held = fluid = fewer = 0.0
        next_wait = NEVER
        moving: list[tuple[int, int, int, int, float, int]] = [*self.recent]
        for transfer in self.begun:
            if transfer.rest:
                held += transfer.rest
                fluid += transfer.rest
            if (end := transfer.end) == NEVER:
                left = transfer.left * transfer.parcel.message / transfer.parcel.wire
                held += left
                fluid += left
                continue
            acked = end + transfer.trip + transfer.late
            size, takes = transfer.size, end - transfer.set_out
            pace = size / takes if takes > 0 else float(size)
            moving.append((0, 0, size, transfer.chunk, pace, acked))
        for _, _, size, chunk, pace, acked in moving:
            if (wait := acked - now) <= 0:
                continue
            fewer += pace
            rest = wait * pace
            if rest > size:
                rest = size
            fluid += rest
            whole = rest + (size - rest) % chunk if size > chunk else size
            held += whole
            if whole > chunk:
                wait -= int((whole - chunk) / pace)
            if wait < next_wait:
                next_wait = wait
        return held, fluid, fewer, now + next_wait if next_wait > 1 else now + 1

    def limit(self, way: Way, size: int) -> int:
        """How many bytes may be pending for a message of `size` bytes to begin: the one before it
        has been handed out, and there is room for its first chunk."""
        route = way.route
        return min(self.window, max(0, route.window - min(size, route.chunk)))

    def handed(self, limit: int, entered: Nanos, now: Nanos) -> Nanos:
        """When the next was handed out, which was not looked for and lies behind: when no more
        than so many bytes were pending."""
        if not self.recent:
            return now
        last = self.recent[-1]
        before = int(max(0.0, limit - self.pending(now)) / last.pace)
        return max(entered, last.begun, now - before)

    def written(self, ways: Iterable[tuple[Way, int]], now: Nanos) -> Iterator[int]:
        """How many bytes of the first messages in the queue have been handed out by now, which
        go these ways and have these sizes."""
        if not self.begun:
            return
        pending, before = self.pending(now), self.window
        for way, size in ways:
            room = max(0, int(way.route.window - pending))
            part = _chunks(size, way.route.chunk, room)
            if part <= 0 or pending > before:
                return
            yield part
            pending += size
            before = way.route.window


def _chunks(size: int, chunk: int, room: int) -> int:
    """How many of so many bytes go into some room in whole chunks, the last of which is shorter."""
    return size if size <= room else room // chunk * chunk
