"""Messages that wait for each other, and the send window that they share (pure).

The arithmetic of `node.core.outbox` without its chunks: what has been handed to the transport and
is not acknowledged follows from when each message ends at its present rate, in closed form, so that
no event is needed for an acknowledgement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from node.core.outbox import Priority
from node.sim.pipe import NEVER, Entry, Transfer
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.network import Way


class Lane:
    """Messages of one priority that wait for each other, and the window that they share.

    Attributes:
        queue: those that have not been handed out, in order.
        begun: those that have been and have not left, in order.
        recent: those that have left and may not be acknowledged yet.
        window: of the path of the one that began last.
        late: by how much longer than the round trip acknowledgements take; ns.
    """

    __slots__ = ("begun", "late", "priority", "queue", "recent", "window")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.queue: deque[Entry] = deque()
        self.begun: list[Transfer] = []
        self.recent: deque[Transfer] = deque()
        self.window = 0
        self.late: Nanos = 0

    def hear(self, behind: Nanos) -> None:
        """An acknowledgement takes so much longer than the round trip."""
        if behind != self.late:
            self.late += (behind - self.late) // 8

    def left(self, transfer: Transfer, now: Nanos) -> None:
        """One of those that have begun is through."""
        self.begun.remove(transfer)
        recent = self.recent
        recent.append(transfer)
        late = self.late
        while recent and recent[0].end + recent[0].route.trip + late <= now:
            recent.popleft()

    def pending(self, now: Nanos) -> float:
        """Bytes that have been handed out, or will be before any that wait, less what is
        acknowledged at a time from now on, as things are."""
        return self._pending(now)[1]

    def unwritten(self, now: Nanos) -> float:
        """Of them, those of the message that began last that have not been handed out."""
        return max(0.0, self.pending(now) - self.window) if self.begun else 0.0

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
        since = now - self.late
        for transfer in (*self.recent, *self.begun) if self.recent else self.begun:
            end, parcel = transfer.end, transfer.parcel
            if end == NEVER:
                rest = transfer.left * parcel.message / parcel.wire
                held += rest
                fluid += rest
                continue
            wait = end + transfer.trip - since
            if wait <= 0:
                continue
            pace = transfer.rate * parcel.share
            size, chunk, rest = transfer.size, transfer.chunk, wait * pace
            fewer += pace
            if rest >= size:
                held += size
                fluid += size
                if size > chunk:
                    wait -= int((size - chunk) / pace)
            elif size <= chunk:
                held += size
                fluid += rest
            else:
                whole = rest + (size - rest) % chunk
                held += whole
                fluid += rest
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
        before = int(max(0.0, limit - self.pending(now)) / (last.rate * last.parcel.share))
        return max(entered, last.begun, now - before)

    def written(self, ways: Iterable[tuple[Way, int]], now: Nanos) -> Iterator[float]:
        """How many bytes of the first messages in the queue have been handed out by now, which
        go these ways and have these sizes."""
        if not self.begun:
            return
        pending, before = self.pending(now), self.window
        for way, size in ways:
            room, chunk = max(0.0, way.route.window - pending), way.route.chunk
            part = min(float(size), room // chunk * chunk)
            if size - part <= min(chunk, room - part):
                part = float(size)
            if part <= 0 or pending > before:
                return
            yield part
            pending += size
            before = way.route.window
