"""The send queue of one life of a node (pure): what waits, and what a cancel takes back.

The rules are those of `node.core.outbox` at the level of messages: in queue order as the window
over all peers has room (sequential pacing, `node.sim.window`), or one at a time to each peer
(parallel). Where nothing is shared, sequential pacing is one message at a time to all peers, as if
each node had one link to all of them: side by side they would have that link's rate twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from node.config import Pacing
from node.core.effects import DropQueued, InFlight
from node.core.events import SendFailed
from node.core.outbox import Priority
from node.sim.interfaces import Sharing
from node.sim.lanes import Entry, Lane, Transfer
from node.sim.meter import Meter
from node.sim.window import Window
from node.units import format_duration

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network

_MODEL: Final = Priority.MODEL
_BACKGROUND: Final = Priority.BACKGROUND


class SendQueue:
    """See the module; `Outgoing` is one that sends."""

    def __init__(self, mesh: Mesh, network: Network, *, pacing: Pacing) -> None:
        self.meter = Meter()
        self.place = mesh.place
        self._mesh = mesh
        self._network = network
        self._queue = network.queue
        self._flows = network.flows
        self._lanes: dict[int, Lane] = {}
        """By `_lane_of`."""
        self._first: Lane | None = None
        """That of all model messages, where they leave one at a time."""
        sequential, fair = pacing is Pacing.SEQUENTIAL, network.sharing is Sharing.FAIR
        self._stride = 0 if sequential and not fair else 2
        self._window = Window() if sequential and fair else None
        self._waiting: dict[int, list[Entry]] = {}
        """What is for those to whom there is no stream."""
        self._expiries: dict[int, int] = {}
        """Of those, which call will give it up."""
        self._calls = 0
        self._flying: dict[Transfer, None] = {}
        """What has begun to leave and has not arrived."""
        self._background = False
        """There has been a background message."""

    def drop(self, effect: DropQueued) -> None:
        """See `Mesh.drop`."""
        prefix, abort = effect.key_prefix, effect.in_flight is InFlight.ABORT
        self._take_back(lambda key, _: key.startswith(prefix), begun=abort)
        if abort and self._window is not None:
            self._cut_short(self._window, prefix)
        elif abort:
            for lane in self._lanes.values():
                active = lane.active
                if active is None or lane.priority is not _MODEL:
                    continue
                if active.entry.effect.key.startswith(prefix):
                    self._cut_off(lane, active)

    def queued_model_bytes(self) -> int:
        """See `Mesh.queued_model_bytes`."""
        return sum(self._values(e) for e in self._queued() if e.priority is not _BACKGROUND)

    def _values(self, entry: Entry) -> int:
        return self._network.stands_for(entry.message.model_bytes)

    def _all_lanes(self) -> list[Lane]:
        return [*self._lanes.values(), *(() if self._window is None else (self._window,))]

    def _unbegun(self) -> list[Lane]:
        """Where messages wait that the window has not reached."""
        if self._window is None:
            return [lane for lane in self._lanes.values() if lane.priority is _MODEL]
        return [self._window]

    def _queued(self) -> list[Entry]:
        queues: list[Iterable[Entry]] = [lane.queue for lane in self._unbegun()]
        return [entry for queue in (*queues, *self._waiting.values()) for entry in queue]

    def _supersede(self, target: int, key: str) -> None:
        self._take_back(lambda other, of: of == target and other == key, begun=False)

    def _take_back(self, unwanted: Callable[[str, int], bool], *, begun: bool) -> None:
        """Cancel messages that wait.

        Args:
            unwanted: by key and target.
            begun: also those that have begun to leave.
        """
        for lane in self._unbegun():
            if not lane.queue:
                continue
            lane.queue, waiting = deque(), lane.queue
            written = self._written(lane, waiting)
            for entry in waiting:
                gone = next(written, 0)
                if unwanted(entry.effect.key, entry.target) and (begun or not gone):
                    self.meter.cancelled(entry.message.kind, max(0, self._values(entry) - gone))
                else:
                    lane.queue.append(entry)
        for target, entries in self._waiting.items():
            keep = []
            for entry in entries:
                if entry.priority is _MODEL and unwanted(entry.effect.key, target):
                    self.meter.cancelled(entry.message.kind, self._values(entry))
                else:
                    keep.append(entry)
            self._waiting[target] = keep

    def _written(self, lane: Lane, waiting: Iterable[Entry]) -> Iterator[int]:
        """How many bytes of the first messages that wait were handed to the transport by now."""
        ways = ((self._mesh.way(entry.target) or self._network.nowhere, entry) for entry in waiting)
        sizes = ((way.route, way.route.parcel(entry.message).message) for way, entry in ways)
        return iter(lane.begun(self._flows, self._queue.now, sizes))

    def _cut_short(self, window: Window, prefix: str) -> None:
        """The message that began last is cut off where it has not been handed out."""
        unwritten = window.unwritten(self._queue.now)
        number = next(reversed(window.under_way), None)
        if number is None or not unwritten:
            return
        lane = self._lane_of(_MODEL, window.under_way[number][0])
        active = lane.active
        if active is not None and active.entry.number == number:
            if active.entry.effect.key.startswith(prefix):
                parcel = active.parcel
                rest = self._flows.left(active)
                unsent = min(unwritten * parcel.wire / parcel.message, rest)
                active.lost = True
                self._flying.pop(active, None)
                self.meter.cut_off(parcel.kind, int(unsent * parcel.values / parcel.wire))
                self._flows.resize(active, left=rest - unsent)
        elif lane.queue and lane.queue[-1].effect.key.startswith(prefix):
            # What of it was handed out takes no time of the link.
            entry = lane.queue.pop()
            lane.held = 0 if not lane.queue else lane.held
            values = self._values(entry)
            self.meter.cut_off(entry.message.kind, min(values, unwritten))
            window.ended(number)

    def _cut_off(self, lane: Lane, active: Transfer) -> None:
        """Of what is leaving, only what was handed to the transport leaves, in vain."""
        handed = lane.handed(self._flows)
        left, parcel = self._flows.left(active), active.parcel
        unsent = int(max(0.0, left - handed) * parcel.values / parcel.wire)
        active.lost = True
        self._flying.pop(active, None)
        self.meter.cut_off(active.entry.message.kind, unsent)
        self._flows.resize(active, left=handed)

    def _lane_of(self, priority: Priority, target: int) -> Lane:
        """Where a message waits: one lane for all peers, or one for each, for either priority."""
        if priority is _BACKGROUND:
            key = self._stride * target + 1 if self._window is None else 1
        else:
            key = self._stride * target
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(priority)
            self._background = self._background or priority is _BACKGROUND
            if key == 0 and not self._stride:
                self._first = lane
        return lane

    def _wait(self, entry: Entry) -> None:
        """Until there is a stream, or it has taken too long."""
        self._waiting.setdefault(entry.target, []).append(entry)
        if entry.target not in self._expiries:
            self._calls += 1
            self._expiries[entry.target] = self._calls
            limit = self._mesh.deadlines.peer_ns
            self._queue.after(limit, self._expire, entry.target, self._calls)

    def _expire(self, target: int, call: int) -> None:
        if self._expiries.get(target) != call:
            return
        del self._expiries[target]
        wait = format_duration(self._mesh.deadlines.peer_ns)
        for entry in self._waiting.pop(target, ()):
            self._failed(entry, f"out of reach for {wait}")

    def _failed(self, entry: Entry, reason: str) -> None:
        self.meter.lost(entry.message.kind, self._values(entry))
        effect = entry.effect
        self._mesh.tell(SendFailed(target=effect.target, key=effect.key, reason=reason))
