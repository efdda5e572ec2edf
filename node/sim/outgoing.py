"""What one life of a node sends (pure): its messages on their way.

Chunks are not made: a message leaves as one fluid, and a background message beside others has
`BACKGROUND_SHARE` of the rate instead of every so many chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from node.config import Pacing
from node.core.effects import Send
from node.core.events import Received, Sent
from node.core.messages import Delivery, PeerMessage
from node.core.outbox import BACKGROUND_SHARE, Priority
from node.core.rng import stream
from node.sim.flows import NEVER
from node.sim.lanes import Entry, Lane, Transfer
from node.sim.meter import HELD_MAX
from node.sim.send_queue import SendQueue
from node.sim.window import Window
from node.units import SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network

_MODEL: Final = Priority.MODEL
_BACKGROUND: Final = Priority.BACKGROUND
_CONTROL: Final = Priority.CONTROL
_new: Final = tuple.__new__


class Outgoing(SendQueue):
    """See the module.

    Args:
        unheard: kinds of event that nobody listens to.
    """

    def __init__(
        self, mesh: Mesh, network: Network, *, pacing: Pacing, unheard: frozenset[type]
    ) -> None:
        super().__init__(mesh, network, pacing=pacing)
        self._tells_sent = Sent not in unheard
        self._up = mesh.up
        self._ways = mesh.ways
        self._blocked: list[Entry] = []
        """Control messages for those to whom the stream is cut."""
        self._control = Lane(_CONTROL)
        self._uneven = False
        """Delays may have become shorter: the order of messages has to be seen to."""
        self._numbers = 0
        self._control_free: Nanos = 0
        """When the last control message has left."""
        self._last: dict[int, Nanos] = {}
        """When the last message arrives, where paths do not keep their order by themselves."""
        self._rng: np.random.Generator | None = None

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
        elif self._window is not None and priority is _MODEL:
            self._window.queue.append(entry)
            if len(self._window.queue) == 1:
                self._hand_out(self._window)
        else:
            lane = self._first if priority is _MODEL else None
            if lane is None:
                lane = self._lane_of(priority, target)
            lane.queue.append(entry)
            if lane.active is None:
                self._next(lane)

    # --- messages on their way

    def _hand_out(self, window: Window) -> None:
        """Begin with the messages that the window has room for."""
        now, network = self._queue.now, self._network
        while window.queue and not self._mesh.frozen:
            entry = window.queue[0]
            route = (self._mesh.way(entry.target) or network.nowhere).route
            parcel = route.parcel(entry.message)
            at = window.room_for(route, parcel, now)
            if at > now:
                if at < window.look:
                    window.look = at
                    self._queue.at(at, self._look, window)
                return
            window.queue.popleft()
            window.begin(entry, route, parcel, now)
            self.meter.sent[parcel] += 1
            lane = self._lane_of(_MODEL, entry.target)
            lane.queue.append(entry)
            lane.held += parcel.wire
            if lane.active is None:
                self._next(lane)

    def _look(self, window: Window) -> None:
        if window.look == self._queue.now:
            window.look = NEVER
            self._hand_out(window)

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
        if to is not None and not to.up[self.place]:
            to = None
        transfer = Transfer(self, lane, entry, to, route, parcel, way.links, now)
        lane.active = transfer
        self._flying[transfer] = None
        size: float = parcel.wire
        window = self._window
        if window is None or lane.priority is not _MODEL:
            self.meter.sent[parcel] += 1
        else:
            transfer.begun = window.under_way[entry.number][2]
            lane.held -= parcel.wire
            if parcel.message > route.chunk:
                window.parted[transfer] = None
            size += self._acks(transfer)
        quiet = not (self._background or network.cuts)
        demand = route.demand if quiet else self._demand(transfer)
        self._flows.begin(transfer, size=size, demand=demand)
        if self._background:
            self._balance()

    def _go_on(self, lane: Lane) -> None:
        if isinstance(lane, Window):
            self._hand_out(lane)
        else:
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
        if self._window is None:
            lane.window = route.window
            left = lane.left
            while left and left[0][0] <= now:
                left.popleft()
            left.append((now + route.trip, transfer.parcel.wire, route.ns_per_byte))
        elif transfer.lost:
            # What was cut off is acknowledged as far as it was handed out.
            self._queue.at(now + route.trip, self._freed, transfer)
        if route.fate is None and not self._uneven and not transfer.lost:
            self._queue.at(now + route.delay, self.arrived, transfer)
        elif not transfer.lost:
            self._fly(transfer, now)
        if lane.queue:
            self._next(lane)
        elif self._window is not None and lane.active is None:
            key = self._stride * transfer.entry.target
            if self._lanes.get(key) is lane:  # and not one of background messages to this peer
                del self._lanes[key]
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
            if self._window is not None:
                # Behind what there is for this end.
                acked += to.outgoing.ahead_ns(self.place)
            times = self.meter.times
            times.append((parcel, acked - entry.entered, transfer.begun - entry.entered))
            if len(times) >= HELD_MAX:
                self.meter.add_up()
            if self._tells_sent or self._window is not None:
                self._queue.at(acked, self._acknowledged, transfer)
        to.outgoing.meter.received[parcel] += 1
        to.host.from_mesh(Received(sender=self._mesh.me, message=entry.message))

    def _acknowledged(self, transfer: Transfer) -> None:
        entry = transfer.entry
        if self._window is not None:
            self._freed(transfer)
        if self._tells_sent:
            self._mesh.tell(
                Sent(
                    target=entry.effect.target,
                    key=entry.effect.key,
                    model_bytes=transfer.parcel.values,
                )
            )

    def _freed(self, transfer: Transfer) -> None:
        """What there was of a message is acknowledged, which leaves room for others."""
        window = self._window
        assert window is not None
        window.parted.pop(transfer, None)
        if window.ended(transfer.entry.number) and window.queue:
            self._hand_out(window)

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
        if self._window is not None:
            active = self.leaving(target)
            if active is None or not active.rate:
                return 0
            ahead = min(self._flows.left(active) + active.lane.held, active.route.window)
            return round(ahead * 8 * SECOND / active.rate)
        for lane in self._lanes.values():
            active = lane.active
            if active is not None and active.entry.target == target and active.rate:
                return round(lane.handed(self._flows) * 8 * SECOND / active.rate)
        return 0

    def leaving(self, target: int) -> Transfer | None:
        """The model message that is leaving to a peer, where each peer has a lane of its own."""
        lane = self._lanes.get(self._stride * target)
        return None if lane is None else lane.active

    def _acks(self, transfer: Transfer) -> float:
        """A message begins, whose acknowledgements take their time from what the peer sends here;
        returns how many bytes of others are in front of it for what came before."""
        to = transfer.to
        back = None if to is None else to.outgoing.leaving(self.place)
        if back is None:
            transfer.owed = transfer.parcel.back
            return 0.0
        left = self._flows.left(back)
        self._flows.resize(back, left=left + transfer.parcel.back)
        owed, back.owed = back.owed, 0
        return owed * min(1.0, left / back.parcel.wire)

    # --- streams and paths that come and go

    def connected(self, target: int) -> None:
        """There is a stream to a peer: what waited for it is queued in its old place."""
        self._expiries.pop(target, None)
        changed: dict[Lane, list[Entry]] = {}
        for entry in self._waiting.pop(target, ()):
            if entry.priority is _CONTROL:
                self._send_control(entry)
            elif self._window is not None and entry.priority is _MODEL:
                changed.setdefault(self._window, []).append(entry)
            else:
                changed.setdefault(self._lane_of(entry.priority, target), []).append(entry)
        for lane, entries in changed.items():
            lane.queue = deque(sorted((*lane.queue, *entries)))
        for lane in changed:
            self._go_on(lane)

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
        begun: Iterable[Entry] = ()
        if self._window is not None:
            lane = self._lanes.pop(self._stride * target, None)
            begun = () if lane is None else lane.queue
            self._window.forget(target)
        for lane in self._all_lanes():
            stay = [entry for entry in lane.queue if entry.target != target]
            if len(stay) < len(lane.queue):
                for entry in lane.queue:
                    if entry.target == target:
                        self._wait(entry)
                lane.queue = deque(stay)
        for entry in (*(transfer.entry for transfer in failed), *begun, *blocked):
            self._failed(entry, reason)

    def go_on(self) -> None:
        """Nothing is in the way any more."""
        for lane in self._all_lanes():
            self._go_on(lane)

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
        for lane in self._all_lanes():
            lane.queue.clear()
            if lane.active is not None:
                lane.active.lost = True
                self._flows.stop(lane.active)
        self._waiting.clear()
        self._expiries.clear()


def _is_datagram(transfer: Transfer) -> bool:
    return transfer.entry.message.delivery is Delivery.DATAGRAM
