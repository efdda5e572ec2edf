"""The send queue of one life of a node (pure): what waits, what begins, what a cancel takes back.

The rules are those of `node.core.outbox` at the level of messages. With sequential pacing they are
handed to the transport in queue order, each as soon as the window over all peers has room for its
first chunk; what has been handed out to different peers leaves side by side, what is for one peer
one behind the other. With parallel pacing each peer has a queue and a window of its own.

Where all goes over one uplink, and what is ahead fills it, what could be handed out would leave no
sooner: nobody looks for the moment. A cancel finds out what has been handed out by then. Where
nothing is shared, sequential pacing is one message at a time to all peers, as if each node had one
link to all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from node.config import Pacing
from node.core.effects import DropQueued, InFlight, Send
from node.core.events import SendFailed
from node.core.messages import PeerMessage
from node.core.outbox import BACKGROUND_SHARE, Priority
from node.sim.interfaces import Sharing
from node.sim.lane import Lane
from node.sim.pipe import BITS, NEVER, Entry, Link, Pipe, Transfer
from node.units import Nanos, format_duration

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
        outgoing: hears of what has left.
    """

    def __init__(self, mesh: Mesh, network: Network, outgoing: Outgoing, *, pacing: Pacing) -> None:
        self._mesh = mesh
        self._network = network
        self._outgoing = outgoing
        self._queue = network.queue
        self._shares = network.shares
        self._up = mesh.up
        self._first = Lane(_MODEL) if pacing is Pacing.SEQUENTIAL else None
        """That of all model messages, where the window is over all peers."""
        self._fair = network.sharing is Sharing.FAIR
        self.pipe = Pipe(self, network.shares, in_order=self._first is not None)
        self._lanes: dict[tuple[Priority, int], Lane] = {}
        """The others, by priority and peer."""
        self._waiting: dict[int, list[Entry]] = {}
        """What is for those to whom there is no stream."""
        self._expiries: dict[int, int] = {}
        """Of those, which call will give it up."""
        self._head: tuple[Entry | None, Link | None, int] = (None, None, 0)
        """The next message where there is one lane: the uplink that it has in common with all
        others, if there is one, and the limit of its window."""
        self._calls = self._numbers = 0
        self._background = False
        """There has been a background message."""

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
            lane = self._first
            if lane is None or priority is not _MODEL:
                lane = self._lane_of(priority, target)
            lane.queue.append(entry)
            if len(lane.queue) == 1:
                self._next(lane)
                self._shares.settle()

    def drop(self, effect: DropQueued) -> None:
        """See `Mesh.drop`."""
        prefix, abort = effect.key_prefix, effect.in_flight is InFlight.ABORT
        self._take_back(lambda key, _: key.startswith(prefix), begun=abort)
        if abort:
            for lane in self._model_lanes():
                self._cut_short(lane, prefix)
        self._shares.settle()

    def queued_model_bytes(self) -> int:
        """See `Mesh.queued_model_bytes`."""
        queues: list[Iterable[Entry]] = [lane.queue for lane in self._model_lanes()]
        entries = [entry for queue in (*queues, *self._waiting.values()) for entry in queue]
        return sum(self._values(each) for each in entries if each.priority is not _BACKGROUND)

    def _values(self, entry: Entry) -> int:
        return self._network.stands_for(entry.message.model_bytes)

    def _all_lanes(self) -> list[Lane]:
        return [*(() if self._first is None else (self._first,)), *self._lanes.values()]

    def _model_lanes(self) -> list[Lane]:
        return [lane for lane in self._all_lanes() if lane.priority is _MODEL]

    def _lane_of(self, priority: Priority, target: int) -> Lane:
        """One for all peers or one for each, as the pacing has it."""
        if self._first is not None:
            if priority is _MODEL:
                return self._first
            target = -1
        lane = self._lanes.get((priority, target))
        if lane is None:
            lane = self._lanes[priority, target] = Lane(priority)
            self._background = self._background or priority is _BACKGROUND
        return lane

    def _way(self, entry: Entry) -> Way:
        return self._mesh.way(entry.target) or self._network.nowhere

    def _ways(self, entries: Iterable[Entry]) -> Iterator[tuple[Way, int]]:
        for entry in entries:
            way = self._way(entry)
            yield way, way.route.parcel(entry.message).message

    def _take_back(self, unwanted: Callable[[str, int], bool], *, begun: bool) -> None:
        """Cancel messages that wait.

        Args:
            unwanted: by key and target.
            begun: also those that have begun to be handed out; what has been takes no time of
                the link.
        """
        for lane in self._model_lanes():
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

    def _cut_short(self, lane: Lane, prefix: str) -> None:
        """The message that began last is cut off where it has not been handed out."""
        unwritten = lane.unwritten(self._queue.now)
        if not unwritten or not lane.begun[-1].entry.effect.key.startswith(prefix):
            return
        last = lane.begun[-1]
        parcel, left = last.parcel, self.pipe.left(last)
        unsent = min(left, unwritten * parcel.wire / parcel.message)
        last.lost = True
        last.size -= int(unwritten)
        self._outgoing.flying.pop(last, None)
        self._outgoing.meter.cut_off(parcel.kind, int(unsent * parcel.values / parcel.wire))
        self.pipe.resize(last, left=left - unsent)

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

    # --- what begins

    def _next(self, lane: Lane) -> None:
        """Begin with the next message of a lane, if nothing is in the way; where messages leave
        side by side, `opens` tells when one begins beside others."""
        if lane is self._first:
            self._shares.touch(self.pipe)
        if lane.begun or not lane.queue or self._mesh.frozen:
            return
        way = self._way(lane.queue[0])
        if lane is self._first and not self._room(lane, way):
            return
        self._begin(lane, lane.queue.popleft(), way)

    def _room(self, lane: Lane, way: Way) -> bool:
        """Whether the next message may begin although what has left is not acknowledged."""
        if lane.window > way.route.window:
            return False
        if not self._fair or not lane.recent:
            return True
        now, size = self._queue.now, way.route.parcel(lane.queue[0].message).message
        return lane.room_at(lane.limit(way, size), now, now + 1) <= now

    def opens(self, before: Nanos) -> Nanos:
        """See `Sender`."""
        lane = self._first
        if lane is None or not lane.queue or self._mesh.frozen:
            return NEVER
        if lane.begun and not self._fair:
            return NEVER
        entry, (known, uplink, limit) = lane.queue[0], self._head
        if known is not entry:
            way = self._way(entry)
            uplink = self._network.uplink(self._mesh.place)
            limit = lane.limit(way, way.route.parcel(entry.message).message)
            self._head = (entry, uplink, limit)
        if uplink is not None and lane.begun and not uplink.spare:
            self.pipe.full = True
            return NEVER  # it would have nothing of it, nor those behind it
        return lane.room_at(limit, self._queue.now, before)

    def open(self) -> None:
        """See `Sender`."""
        lane = self._first
        assert lane is not None
        entry = lane.queue.popleft()
        self._begin(lane, entry, self._way(entry))

    def go_on(self) -> None:
        """See `Sender`."""
        if self._first is not None:
            self._next(self._first)

    def _begin(self, lane: Lane, entry: Entry, way: Way) -> None:
        """A message is handed out, and leaves unless one for the same peer is ahead of it."""
        network, target, outgoing = self._network, entry.target, self._outgoing
        parcel = way.route.parcel(entry.message)
        to = network.life(target, self._mesh.place)
        begun = self._queue.now
        if self.pipe.full and lane is self._first:
            begun = lane.handed(lane.limit(way, parcel.message), entry.entered, begun)
        transfer = Transfer(self.pipe, lane, entry, to, way, parcel, begun)
        outgoing.flying[transfer] = None
        outgoing.meter.sent[parcel] += 1
        behind = False
        for other in lane.begun:
            if other.entry.target == target:
                behind = True
        lane.begun.append(transfer)
        lane.window = way.route.window
        if not behind:
            self._leave(transfer)

    def _leave(self, transfer: Transfer) -> None:
        quiet = not (self._background or self._network.cuts)
        demand = transfer.route.demand if quiet else self._demand(transfer)
        self.pipe.begin(transfer, demand=demand)
        if self._background:
            self._balance()

    def _demand(self, transfer: Transfer) -> float:
        """bit/s that a message may have as things are, but for others' messages."""
        if self._network.cut(self._mesh.place, transfer.entry.target):
            return 0.0
        if not self._background:
            return transfer.route.demand
        share = BACKGROUND_SHARE
        if transfer.entry.priority is _BACKGROUND:
            beside = self._leaves(_MODEL)
        else:
            beside, share = self._leaves(_BACKGROUND), 1 - BACKGROUND_SHARE
        return transfer.route.demand * (share if beside else 1.0)

    def _leaves(self, priority: Priority) -> bool:
        return any(transfer.lane.priority is priority for transfer in self.pipe.leaving)

    def _balance(self) -> None:
        """Background messages have begun or ended beside others, or others beside them."""
        for transfer in self.pipe.leaving:
            if transfer.demand != (demand := self._demand(transfer)):
                self.pipe.change(transfer, demand=demand)

    def through(self, transfer: Transfer) -> None:
        """See `Sender`."""
        lane, target = transfer.lane, transfer.entry.target
        lane.left(transfer, self._queue.now)
        self._outgoing.left(transfer)
        if lane is self._first:
            for follower in lane.begun:
                if follower.entry.target == target:
                    self._leave(follower)
                    break
        else:
            self._next(lane)
            if not lane.begun and not lane.queue:
                key = lane.priority, target if self._first is None else -1
                if self._lanes.get(key) is lane:
                    del self._lanes[key]
        if self._background:
            self._balance()

    # --- what is ahead of others

    def leaving_to(self, target: int) -> Transfer | None:
        """The message that is leaving to a peer, a model message before a background one."""
        if self._first is None:
            for priority in (_MODEL, _BACKGROUND):
                lane = self._lanes.get((priority, target))
                if lane is not None and lane.begun:
                    return lane.begun[0]
            return None
        for transfer in self.pipe.leaving:
            if transfer.entry.target == target:
                return transfer
        return None

    def ahead_ns(self, target: int) -> Nanos:
        """How long what was handed to the transport for a peer is in front of what follows."""
        first = self.leaving_to(target)
        if first is None or not first.demand:
            return 0
        lane = first.lane
        ahead = sum([self.pipe.left(t) for t in lane.begun if t.entry.target == target])
        last = lane.begun[-1]
        if last.entry.target == target:
            unwritten = lane.unwritten(self._queue.now) * last.parcel.wire / last.parcel.message
            ahead = max(0.0, ahead - unwritten)
        rate = first.rate
        if self._first is not None and first.links:
            # In order or not, small ones do not wait for all that goes to other peers.
            uplink = first.links[0]
            rate = max(rate, min(first.demand, uplink.free / len(uplink.flows)))
        return round(ahead * BITS / rate) if rate else 0

    def held_up(self, target: int, wire: int) -> None:
        """So many bytes to a peer go before others: what leaves to it, or over the same link,
        leaves later by as much."""
        behind = self.leaving_to(target)
        if behind is None and self._first is not None:
            way = self._mesh.way(target)
            uplink = way.links[0] if way is not None and way.links else None
            for transfer in self.pipe.leaving:
                if not self._fair or (uplink is not None and uplink in transfer.links):
                    behind = transfer
                    break
        if behind is not None:
            self.pipe.resize(behind, left=self.pipe.left(behind) + wire)
            self._shares.settle()

    # --- streams and paths that come and go

    def connected(self, target: int) -> None:
        """There is a stream to a peer: what waited for it is queued in its old place."""
        self._expiries.pop(target, None)
        changed: dict[Lane, list[Entry]] = {}
        for entry in self._waiting.pop(target, ()):
            if entry.priority is _CONTROL:
                self._outgoing.send_control(entry)
            else:
                changed.setdefault(self._lane_of(entry.priority, target), []).append(entry)
        for lane, entries in changed.items():
            lane.queue = deque(sorted((*lane.queue, *entries)))
        for lane in changed:
            self._next(lane)
        self._shares.settle()

    def lost(self, target: int, reason: str) -> None:
        """The stream to a peer is no more: what it may lack failed, what has not begun waits."""
        failed = self._outgoing.forget(target)
        for lane in self._all_lanes():
            written = lane.written(self._ways(lane.queue), self._queue.now)
            stay: deque[Entry] = deque()
            for entry in lane.queue:
                begun = next(written, 0)
                if entry.target != target:
                    stay.append(entry)
                elif begun:
                    self._outgoing.meter.sent[self._way(entry).route.parcel(entry.message)] += 1
                    failed.append(entry)
                else:
                    self._wait(entry)
            lane.queue = stay
            for transfer in [each for each in lane.begun if each.entry.target == target]:
                transfer.lost = True
                lane.begun.remove(transfer)
                if transfer in self.pipe.leaving:
                    self.pipe.stop(transfer)
            lane.recent = deque([each for each in lane.recent if each.entry.target != target])
        self._shares.settle()
        for entry in sorted(failed):
            self._failed(entry, reason)

    def resume(self) -> None:
        """Nothing is in the way any more."""
        for lane in self._all_lanes():
            self._next(lane)
        self._shares.settle()

    def stalled(self, target: int) -> None:
        """A pair is cut: what is leaving to it stands still, and all that is behind it."""
        for transfer in self.pipe.leaving:
            if transfer.entry.target == target:
                self.pipe.change(transfer, demand=0.0)
        self._shares.settle()

    def turn(self, targets: Container[int] | None) -> None:
        """What has been handed out for these peers, or all, goes on as the network is now."""
        self._head = (None, None, 0)
        for lane in self._all_lanes():
            for transfer in lane.begun:
                if targets is None or transfer.entry.target in targets:
                    self._turn(transfer)
        self._shares.settle()

    def _turn(self, transfer: Transfer) -> None:
        """The rest of a message goes the way that there is now."""
        leaves, way = transfer in self.pipe.leaving, self._mesh.way(transfer.entry.target)
        if leaves:
            self.pipe.stop(transfer)
        if way is not None:
            transfer.turn(way)
            old, new = transfer.parcel, way.route.parcel(transfer.entry.message)
            if new is not old and not transfer.lost:
                self._outgoing.meter.sent[old] -= 1
                self._outgoing.meter.sent[new] += 1
                transfer.left *= new.wire / old.wire
                transfer.parcel = new
        if leaves:
            self.pipe.begin(transfer, demand=0.0 if way is None else self._demand(transfer))

    def close(self) -> None:
        """The process died: what has not left never will."""
        for lane in self._all_lanes():
            lane.queue.clear()
            for transfer in lane.begun:
                transfer.lost = True
            lane.begun.clear()
        for transfer in list(self.pipe.leaving):
            self.pipe.stop(transfer)
        self._waiting.clear()
        self._expiries.clear()
        self._shares.settle()
