"""The send queue of one life of a node (pure): what waits, and what a cancel takes back.

The rules are those of `node.core.outbox` at the level of messages; `Handout` has those of what
begins, and when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from node.core.effects import DropQueued, InFlight, Send
from node.core.events import SendFailed
from node.core.messages import PeerMessage
from node.core.outbox import Priority
from node.sim.handout import Handout
from node.sim.lane import Lane
from node.sim.pipe import Entry
from node.units import format_duration

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network, Way
    from node.sim.outgoing import Outgoing

_MODEL: Final = Priority.MODEL
_BACKGROUND: Final = Priority.BACKGROUND
_CONTROL: Final = Priority.CONTROL
_new: Final = tuple.__new__


class SendQueue:
    """See the module.

    Args:
        outgoing: has control messages, which do not wait.
        handout: takes messages from their lanes.
    """

    def __init__(self, mesh: Mesh, network: Network, outgoing: Outgoing, handout: Handout) -> None:
        self._mesh = mesh
        self._network = network
        self._outgoing = outgoing
        self._handout = handout
        self._queue = network.queue
        self._shares = network.shares
        self._up = mesh.up
        self._waiting: dict[int, list[Entry]] = {}
        """What is for those to whom there is no stream."""
        self._expiries: dict[int, int] = {}
        """Of those, which call will give it up."""
        self._calls = self._numbers = 0

    # --- what waits

    def send(self, effect: Send, priority: Priority) -> None:
        """See `Mesh.send`."""
        message = effect.message
        if not isinstance(message, PeerMessage):
            raise ValueError(f"a {type(message).__name__} to a peer")
        target = self._network.places[effect.target]
        if message.part is None:
            priority = _CONTROL
        if effect.supersedes:
            key = effect.key
            self._take_back(lambda other, of: of == target and other == key, begun=False)
        self._numbers += 1
        # What the class does itself, without its detour over names.
        entry = _new(Entry, (self._numbers, target, effect, message, priority, self._queue.now))
        if not self._up[target]:
            self._wait(entry)
        elif priority is _CONTROL:
            self._outgoing.send_control(entry)
        else:
            lane = self._handout.first
            if lane is None or priority is not _MODEL:
                lane = self._handout.lane_of(priority, target)
            lane.queue.append(entry)
            if len(lane.queue) == 1:
                self._handout.next(lane)
                self._shares.settle()

    def drop(self, effect: DropQueued) -> None:
        """See `Mesh.drop`."""
        prefix, abort = effect.key_prefix, effect.in_flight is InFlight.ABORT
        self._take_back(lambda key, _: key.startswith(prefix), begun=abort)
        if abort:
            for lane in self._handout.model_lanes():
                self._handout.cut_short(lane, prefix)
        self._shares.settle()

    def queued_model_bytes(self) -> int:
        """See `Mesh.queued_model_bytes`."""
        queues: list[Iterable[Entry]] = [lane.queue for lane in self._handout.model_lanes()]
        entries = [entry for queue in (*queues, *self._waiting.values()) for entry in queue]
        return sum(self._values(each) for each in entries if each.priority is not _BACKGROUND)

    def _values(self, entry: Entry) -> int:
        return self._network.stands_for(entry.message.model_bytes)

    def _ways(self, entries: Iterable[Entry]) -> Iterator[tuple[Way, int]]:
        for entry in entries:
            way = self._handout.way(entry)
            yield way, way.route.parcel(entry.message).message

    def _take_back(self, unwanted: Callable[[str, int], bool], *, begun: bool) -> None:
        """Cancel messages that wait.

        Args:
            unwanted: by key and target.
            begun: also those that have begun to be handed out; what has been takes no time of
                the link.
        """
        for lane in self._handout.model_lanes():
            if not lane.queue:
                continue
            lane.queue, waiting = deque(), lane.queue
            written = lane.written(self._ways(waiting), self._queue.now)
            for entry in waiting:
                gone = next(written, 0)
                if unwanted(entry.effect.key, entry.target) and (begun or not gone):
                    unsent = max(0, self._values(entry) - int(gone))
                    self._outgoing.meter.cancelled(entry.message.kind, unsent)
                else:
                    lane.queue.append(entry)
        for target, entries in self._waiting.items():
            keep = []
            for entry in entries:
                if entry.priority is _MODEL and unwanted(entry.effect.key, target):
                    self._outgoing.meter.cancelled(entry.message.kind, self._values(entry))
                else:
                    keep.append(entry)
            self._waiting[target] = keep

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
        self._outgoing.meter.lost(entry.message.kind, self._values(entry))
        effect = entry.effect
        self._mesh.tell(SendFailed(target=effect.target, key=effect.key, reason=reason))

    # --- streams and paths that come and go

    def connected(self, target: int) -> None:
        """There is a stream to a peer: what waited for it is queued in its old place."""
        self._expiries.pop(target, None)
        changed: dict[Lane, list[Entry]] = {}
        for entry in self._waiting.pop(target, ()):
            if entry.priority is _CONTROL:
                self._outgoing.send_control(entry)
            else:
                changed.setdefault(self._handout.lane_of(entry.priority, target), []).append(entry)
        for lane, entries in changed.items():
            lane.queue = deque(sorted((*lane.queue, *entries)))
        for lane in changed:
            self._handout.next(lane)
        self._shares.settle()

    def lost(self, target: int, reason: str) -> None:
        """The stream to a peer is no more: what it may lack failed, what has not begun waits."""
        failed = self._outgoing.forget(target)
        for lane in self._handout.lanes():
            written = lane.written(self._ways(lane.queue), self._queue.now)
            stay: deque[Entry] = deque()
            for entry in lane.queue:
                begun = next(written, 0)
                if entry.target != target:
                    stay.append(entry)
                elif begun:
                    self._outgoing.meter.sent[
                        self._handout.way(entry).route.parcel(entry.message)
                    ] += 1
                    failed.append(entry)
                else:
                    self._wait(entry)
            lane.queue = stay
        self._handout.forget(target)
        self._shares.settle()
        for entry in sorted(failed):
            self._failed(entry, reason)

    def resume(self) -> None:
        """Nothing is in the way any more."""
        for lane in self._handout.lanes():
            self._handout.next(lane)
        self._shares.settle()

    def close(self) -> None:
        """The process died: what has not left never will."""
        self._handout.close()
        self._waiting.clear()
        self._expiries.clear()
        self._shares.settle()
