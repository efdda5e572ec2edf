"""What one life of a node sends (pure): its send queue, and its messages on their way.

The rules are those of `node.core.outbox` at the level of messages: one at a time in queue order
(sequential pacing), or one at a time to each peer (parallel). Chunks are not made: a message leaves
as one fluid, and a background message beside others has `BACKGROUND_SHARE` of the rate instead of
every so many chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from node.config import Pacing
from node.core.effects import DropQueued, InFlight, Send
from node.core.events import Received, SendFailed, Sent
from node.core.messages import Delivery, PeerMessage
from node.core.outbox import BACKGROUND_SHARE, Priority
from node.core.rng import stream
from node.sim.lanes import Entry, Lane, Transfer
from node.sim.meter import HELD_MAX, Meter
from node.units import SECOND, Nanos, format_duration

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network

_MODEL: Final = Priority.MODEL
_BACKGROUND: Final = Priority.BACKGROUND
_CONTROL: Final = Priority.CONTROL
_new: Final = tuple.__new__


class Outgoing:
    """See the module.

    Args:
        unheard: kinds of event that nobody listens to.
    """

    def __init__(
        self, mesh: Mesh, network: Network, *, pacing: Pacing, unheard: frozenset[type]
    ) -> None:
        self.meter = Meter()
        self._mesh = mesh
        self._network = network
        self._queue = network.queue
        self._flows = network.flows
        self._tells_sent = Sent not in unheard
        self._up = mesh.up
        self._ways = mesh.ways
        self._lanes: dict[int, Lane] = {}
        """By `_lane_of`."""
        self._first: Lane | None = None
        """With sequential pacing, that of all model messages."""
        self._stride = 0 if pacing is Pacing.SEQUENTIAL else 2
        self._waiting: dict[int, list[Entry]] = {}
        """What is for those to whom there is no stream."""
        self._expiries: dict[int, int] = {}
        """Of those, which call will give it up."""
        self._flying: dict[Transfer, None] = {}
        """What has begun to leave and has not arrived."""
        self._blocked: list[Entry] = []
        """Control messages for those to whom the stream is cut."""
        self._control = Lane(_CONTROL)
        self._background = False
        """There has been a background message."""
        self._uneven = False
        """Delays may have become shorter: the order of messages has to be seen to."""
        self._numbers = 0
        self._calls = 0
        self._control_free: Nanos = 0
        """When the last control message has left."""
        self._last: dict[int, Nanos] = {}
        """When the last message arrives, where paths do not keep their order by themselves."""
        self._rng: np.random.Generator | None = None

    # --- the queue

    def send(self, effect: Send, priority: Priority) -> None:
        """See `Mesh.send`."""
        message = effect.message
        if not isinstance(message, PeerMessage):
            raise ValueError(f"a {type(message).__name__} to a peer")
        target = self._network.places[effect.target]
        if message.part is None:
            priority = _CONTROL
        if effect.supersedes:
            self._supersede(target, effect.key)
        self._numbers += 1
        # What the class does itself, without its detour over names.
        entry = _new(Entry, (self._numbers, target, effect, message, priority, self._queue.now))
        if not self._up[target]:
            self._wait(entry)
        elif priority is _CONTROL:
            self._send_control(entry)
        else:
            lane = self._first if priority is _MODEL else None
            if lane is None:
                lane = self._lane_of(priority, target)
            lane.queue.append(entry)
            if lane.active is None:
                self._next(lane)

    def drop(self, effect: DropQueued) -> None:
        """See `Mesh.drop`."""
        prefix, abort = effect.key_prefix, effect.in_flight is InFlight.ABORT
        self._take_back(lambda key, _: key.startswith(prefix), begun=abort)
        if abort:
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

    def _queued(self) -> list[Entry]:
        queues: list[Iterable[Entry]] = [lane.queue for lane in self._lanes.values()]
        return [entry for queue in (*queues, *self._waiting.values()) for entry in queue]

    def _supersede(self, target: int, key: str) -> None:
        self._take_back(lambda other, of: of == target and other == key, begun=False)

    def _take_back(self, unwanted: Callable[[str, int], bool], *, begun: bool) -> None:
        """Cancel messages that wait.

        Args:
            unwanted: by key and target.
            begun: also those that have begun to leave.
        """
        for lane in self._lanes.values():
            if lane.priority is not _MODEL or not lane.queue:
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
        key = self._stride * target + (priority is _BACKGROUND)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(priority)
            self._background = self._background or priority is _BACKGROUND
            if key == 0:
                self._first = lane if not self._stride else None
        return lane

    # --- messages on their way

    def _next(self, lane: Lane) -> None:
        """Begin with the next message of a lane, if nothing is in the way."""
        if not lane.queue or lane.active is not None or lane.awaited or self._mesh.frozen:
            return
        entry, now, network = lane.queue[0], self._queue.now, self._network
        target = entry.target
        try:
            way = self._ways[target]
        except KeyError:
            way = self._mesh.way(target)
        if way is None:
            # A stream to a peer of which the network knows that it is gone: all is lost, in time.
            way = network.nowhere
        route = way.route
        if route.window < lane.window and (room := lane.room_at(now, route)) > now:
            lane.awaited = True
            self._queue.at(room, self._go_on, lane)
            return
        lane.queue.popleft()
        parcel = route.parcel(entry.message)
        to = network.lives[target]
        if to is not None and not to.up[self._mesh.place]:
            to = None
        transfer = Transfer(self, lane, entry, to, route, parcel, way.links, now)
        lane.active = transfer
        self._flying[transfer] = None
        self.meter.sent[parcel] += 1
        quiet = not (self._background or network.cuts)
        demand = route.demand if quiet else self._demand(transfer)
        self._flows.begin(transfer, size=parcel.wire, demand=demand)
        if self._background:
            self._balance()

    def _go_on(self, lane: Lane) -> None:
        lane.awaited = False
        self._next(lane)

    def _life(self, target: int) -> Mesh | None:
        """The life that a stream leads to; None: it is over."""
        to = self._network.lives[target]
        return to if to is not None and to.up[self._mesh.place] else None

    def _demand(self, transfer: Transfer) -> float:
        """bit/s that a message may have as things are, but for others' messages."""
        if self._network.cut(self._mesh.place, transfer.entry.target):
            return 0.0
        if not self._background:
            return transfer.route.demand
        share = BACKGROUND_SHARE
        if transfer.entry.priority is _BACKGROUND:
            beside = self._active(_MODEL)
        else:
            beside, share = self._active(_BACKGROUND), 1 - BACKGROUND_SHARE
        return transfer.route.demand * (share if beside else 1.0)

    def _active(self, priority: Priority) -> bool:
        return any(lane.active and lane.priority is priority for lane in self._lanes.values())

    def _balance(self) -> None:
        """Background messages have begun or ended beside others, or others beside them."""
        for lane in self._lanes.values():
            active = lane.active
            if active is not None and active.demand != (demand := self._demand(active)):
                self._flows.change(active, demand=demand)

    def through(self, transfer: Transfer) -> None:
        """All of a message has left."""
        lane, route, now = transfer.lane, transfer.route, self._queue.now
        lane.active = None
        lane.window = route.window
        left = lane.left
        while left and left[0][0] <= now:
            left.popleft()
        left.append((now + route.trip, transfer.parcel.wire, route.ns_per_byte))
        if route.fate is None and not self._uneven and not transfer.lost:
            self._queue.at(now + route.delay, self.arrived, transfer)
        elif not transfer.lost:
            self._fly(transfer, now)
        if lane.queue:
            self._next(lane)
        if self._background:
            self._balance()

    def _fly(self, transfer: Transfer, left: Nanos) -> None:
        """A message has left at this time: it arrives when its last packet does."""
        route = transfer.route
        target, datagram = transfer.entry.target, _is_datagram(transfer)
        arrivals = [left + route.delay]
        if route.fate is not None:
            if self._rng is None:
                self._rng = stream(self._network.seed, "link", self._mesh.me)
            extra = route.fate.extra(self._rng, packets=transfer.parcel.packets, datagram=datagram)
            arrivals = [left + max(0, route.delay + each) for each in extra]
        if not arrivals:
            self._lost_datagram(transfer)
        for at in arrivals:
            if not datagram or route.ordered:
                at = self._last[target] = max(at, self._last.get(target, 0))
            self._queue.at(at, self.arrived, transfer)

    def _lost_datagram(self, transfer: Transfer) -> None:
        """The sender does not hear of it: what was sent is acknowledged, whatever came of it."""
        entry = transfer.entry
        self._flying.pop(transfer, None)
        self.meter.lost(entry.message.kind, transfer.parcel.values)
        self._queue.after(transfer.route.trip, self._acknowledged, transfer)

    def arrived(self, transfer: Transfer) -> None:
        """All of it is at the other end."""
        to = transfer.to
        if transfer.lost or to is None or to.closed:
            return  # the stream is no more, or will be when this end hears of it
        if to.frozen:
            to.hold(transfer)
            return
        entry, parcel = transfer.entry, transfer.parcel
        if self._flying.pop(transfer, self) is None:
            acked = self._queue.now + transfer.route.back
            times = self.meter.times
            times.append((parcel, acked - entry.entered, transfer.begun - entry.entered))
            if len(times) >= HELD_MAX:
                self.meter.add_up()
            if self._tells_sent:
                self._queue.at(acked, self._acknowledged, transfer)
        to.outgoing.meter.received[parcel] += 1
        to.host.from_mesh(Received(sender=self._mesh.me, message=entry.message))

    def _acknowledged(self, transfer: Transfer) -> None:
        entry = transfer.entry
        if self._tells_sent:
            self._mesh.tell(
                Sent(
                    target=entry.effect.target,
                    key=entry.effect.key,
                    model_bytes=transfer.parcel.values,
                )
            )

    def _send_control(self, entry: Entry) -> None:
        """Control messages overtake others, and take their time from them."""
        way, now = self._mesh.way(entry.target), self._queue.now
        if way is None or self._network.cut(self._mesh.place, entry.target):
            self._blocked.append(entry)
            return
        route = way.route
        parcel = route.parcel(entry.message)
        transfer = Transfer(
            self, self._control, entry, self._life(entry.target), route, parcel, (), now
        )
        self._flying[transfer] = None
        self.meter.sent[parcel] += 1
        begin = max(now + self.ahead_ns(entry.target), self._control_free)
        self._control_free = begin + round(parcel.wire * route.ns_per_byte)
        for lane in self._lanes.values():
            if lane.active is not None:
                left = self._flows.left(lane.active)
                self._flows.resize(lane.active, left=left + parcel.wire)
                break
        self._fly(transfer, self._control_free)

    def ahead_ns(self, target: int) -> Nanos:
        """How long what was handed to the transport for a peer is in front of what follows."""
        for lane in self._lanes.values():
            active = lane.active
            if active is not None and active.entry.target == target and active.rate:
                return round(lane.handed(self._flows) * 8 * SECOND / active.rate)
        return 0

    # --- streams and paths that come and go

    def connected(self, target: int) -> None:
        """There is a stream to a peer: what waited for it is queued in its old place."""
        self._expiries.pop(target, None)
        changed: dict[Lane, list[Entry]] = {}
        for entry in self._waiting.pop(target, ()):
            if entry.priority is _CONTROL:
                self._send_control(entry)
            else:
                changed.setdefault(self._lane_of(entry.priority, target), []).append(entry)
        for lane, entries in changed.items():
            lane.queue = deque(sorted((*lane.queue, *entries)))
            self._next(lane)

    def lost(self, target: int, reason: str) -> None:
        """The stream to a peer is no more: what it may lack failed, what has not begun waits."""
        failed = [transfer for transfer in self._flying if transfer.entry.target == target]
        for transfer in failed:
            transfer.lost = True
            del self._flying[transfer]
            if transfer.lane.active is transfer:
                transfer.lane.active = None
                self._flows.stop(transfer)
        blocked = [entry for entry in self._blocked if entry.target == target]
        self._blocked = [entry for entry in self._blocked if entry.target != target]
        for lane in self._lanes.values():
            stay = [entry for entry in lane.queue if entry.target != target]
            if len(stay) < len(lane.queue):
                for entry in lane.queue:
                    if entry.target == target:
                        self._wait(entry)
                lane.queue = deque(stay)
        for entry in (*(transfer.entry for transfer in failed), *blocked):
            self._failed(entry, reason)

    def go_on(self) -> None:
        """Nothing is in the way any more."""
        for lane in list(self._lanes.values()):
            self._next(lane)

    def stalled(self, target: int) -> None:
        """A pair is cut: what is leaving to it stands still, and all that is behind it."""
        for lane in self._lanes.values():
            if lane.active is not None and lane.active.entry.target == target:
                self._flows.change(lane.active, demand=0.0)

    def resumed(self, target: int) -> None:
        """It is no longer cut."""
        for lane in self._lanes.values():
            if lane.active is not None and lane.active.entry.target == target:
                self._turn(lane.active)
        blocked = [entry for entry in self._blocked if entry.target == target]
        self._blocked = [entry for entry in self._blocked if entry.target != target]
        for entry in blocked:
            self._send_control(entry)

    def paths_changed(self) -> None:
        """What is leaving goes on as the network is now."""
        self._uneven = True
        for lane in self._lanes.values():
            if lane.active is not None:
                self._turn(lane.active)

    def _turn(self, transfer: Transfer) -> None:
        """The rest of a message goes the way that there is now."""
        left = self._flows.left(transfer)
        self._flows.stop(transfer)
        way = self._mesh.way(transfer.entry.target)
        transfer.links = ()
        if way is not None:
            transfer.route, transfer.links, transfer.weight = way.route, way.links, way.route.weight
        demand = 0.0 if way is None else self._demand(transfer)
        self._flows.begin(transfer, size=left, demand=demand)

    def close(self) -> None:
        """The process died: what has not left never will."""
        for lane in self._lanes.values():
            lane.queue.clear()
            if lane.active is not None:
                lane.active.lost = True
                self._flows.stop(lane.active)
        self._waiting.clear()
        self._expiries.clear()

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


def _is_datagram(transfer: Transfer) -> bool:
    return transfer.entry.message.delivery is Delivery.DATAGRAM
