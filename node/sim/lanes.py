"""Messages that wait and messages on their way (pure), with the arithmetic of the send window.

`node.core.outbox` at the level of messages: what the window would have handed to the transport by
now has begun, and cannot be taken back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from node.core.effects import Send
from node.core.messages import PeerMessage
from node.core.outbox import Priority
from node.sim.flows import NEVER, Flow, Flows, Link
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Route
    from node.sim.outgoing import Outgoing
    from node.sim.wire import Parcel


class Entry(NamedTuple):
    """A message that waits.

    Attributes:
        number: of all that a life of a node has queued.
        target: the place of whom it is for.
        entered: when it was queued.
    """

    number: int
    target: int
    effect: Send
    message: PeerMessage
    priority: Priority
    entered: Nanos


class Transfer(Flow):
    """A message on its way.

    Attributes:
        to: the life of a node that it is for; None: it is over.
        begun: when it began to leave.
        owed: bytes of its acknowledgements that nothing leaves behind yet.
        lost: it will not arrive.
    """

    __slots__ = ("begun", "entry", "lane", "lost", "owed", "parcel", "route", "to")
    sender: Outgoing

    def __init__(
        self, sender: Outgoing, lane: Lane, entry: Entry, to: Mesh | None, route: Route,
        parcel: Parcel, links: tuple[Link, ...], begun: Nanos,
    ) -> None:  # fmt: skip
        self.sender = sender
        self.links = links
        self.weight = route.weight
        self.lane = lane
        self.entry = entry
        self.to = to
        self.route = route
        self.parcel = parcel
        self.begun = begun
        self.lost = False
        self.owed = 0
        self.due = NEVER
        self.mark = 0


class Lane:
    """Messages of one priority that leave one behind the other.

    Attributes:
        queue: those that have not begun to leave, in order.
        active: the one that is leaving.
        held: bytes on the wire of those in the queue, where all of them have been handed out.
        awaited: a call is queued that goes on with the lane.
        window: of the message that left last.
        left: messages that have left, as far as they may not be acknowledged yet: when the last
            byte is, how many there are, ns for each.
    """

    __slots__ = ("active", "awaited", "held", "left", "priority", "queue", "window")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.queue: deque[Entry] = deque()
        self.active: Transfer | None = None
        self.awaited = False
        self.held = 0
        self.window = 0
        self.left: deque[tuple[Nanos, int, float]] = deque()

    def room_at(self, now: Nanos, route: Route) -> Nanos:
        """When the window has room for a first chunk on this path.

        The window of sequential pacing holds over all peers together: after a path with a large
        window, one with a small one waits until most of what is under way is acknowledged.
        """
        if route.window >= self.window:
            return now
        room = route.window - route.chunk
        for acked, size, pace in reversed(self.left):
            if size > room:
                return max(now, acked - int(room * pace))
            room -= size
        return now

    def begun(self, flows: Flows, now: Nanos, sizes: Iterable[tuple[Route, int]]) -> list[int]:
        """How many bytes of the first messages in the queue were handed to the transport by now.

        Args:
            sizes: of those in the queue, the path and the size.
        """
        active = self.active
        if active is None:
            return []
        pending = flows.left(active) + _under_way(active, flows)
        for acked, size, pace in self.left:
            pending += min(size, max(0, acked - now) / pace)
        written = []
        for route, size in sizes:
            room = max(0, route.window - math.ceil(pending))
            part = min(size, room // route.chunk * route.chunk)
            if size - part <= min(route.chunk, room - part):
                part = size
            if part <= 0:
                break
            written.append(part)
            pending += part
            if part < size:
                break
        return written

    def handed(self, flows: Flows) -> float:
        """Of the bytes of the active message that have not left, those handed to the transport."""
        active = self.active
        if active is None:
            return 0.0
        room = active.route.window - _under_way(active, flows)
        return min(flows.left(active), max(0.0, room))


def _under_way(active: Transfer, flows: Flows) -> float:
    """Bytes of a message that have left and were not acknowledged yet."""
    gone = active.parcel.wire - flows.left(active)
    return min(gone, active.route.trip / active.route.ns_per_byte)
