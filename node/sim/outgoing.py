"""What becomes of what one life of a node sends (pure): when it arrives, and what is said of it.

Chunks are not made: a message leaves as one fluid, and arrives when its last packet does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from node.core.events import Received, Sent
from node.core.messages import Delivery
from node.core.outbox import Priority
from node.core.rng import stream
from node.sim.interfaces import Sharing
from node.sim.lane import Lane
from node.sim.meter import HELD_MAX, Meter
from node.sim.pipe import Entry, Transfer
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network


class Outgoing:
    """See the module.

    Args:
        unheard: kinds of event that nobody listens to.

    Attributes:
        flying: what has been handed out and has not arrived.
    """

    def __init__(self, mesh: Mesh, network: Network, *, unheard: frozenset[type]) -> None:
        self.meter = Meter()
        self.place = mesh.place
        self.flying: dict[Transfer, None] = {}
        self._mesh = mesh
        self._network = network
        self._queue = network.queue
        self._fair = network.sharing is Sharing.FAIR
        self._tells_sent = Sent not in unheard
        self._control = Lane(Priority.CONTROL)
        self._blocked: list[Entry] = []
        """Control messages for those to whom the stream is cut."""
        self._uneven = False
        """Delays may have become shorter: the order of messages has to be seen to."""
        self._control_free: Nanos = 0
        """When the last control message has left."""
        self._last: dict[int, Nanos] = {}
        """When the last message arrives, where paths do not keep their order by themselves."""
        self._rng: np.random.Generator | None = None

    # --- control messages

    def send_control(self, entry: Entry) -> None:
        """They overtake others, and take their time from them."""
        way, target = self._mesh.way(entry.target), entry.target
        if way is None or self._network.cut(self.place, target):
            self._blocked.append(entry)
            return
        handout, now = self._mesh.handout, self._queue.now
        parcel = way.route.parcel(entry.message)
        to = self._network.life(target, self.place)
        transfer = Transfer(handout.pipe, self._control, entry, to, way, parcel, now)
        self.flying[transfer] = None
        self.meter.sent[parcel] += 1
        begin = max(now + handout.ahead_ns(target), self._control_free)
        self._control_free = begin + round(parcel.wire * way.route.ns_per_byte)
        handout.held_up(target, parcel.wire)
        self._fly(transfer, self._control_free)

    def unblock(self, target: int) -> None:
        """The stream to a peer is no longer cut."""
        blocked = [entry for entry in self._blocked if entry.target == target]
        self._blocked = [entry for entry in self._blocked if entry.target != target]
        for entry in blocked:
            self.send_control(entry)

    # --- on their way

    def left(self, transfer: Transfer) -> None:
        """All of a message has left."""
        route = transfer.route
        if transfer.lost:
            return
        if route.fate is None and not self._uneven:
            self._queue.at(self._queue.now + route.delay, self.arrived, transfer)
        else:
            self._fly(transfer, self._queue.now)

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
        self.flying.pop(transfer, None)
        self.meter.lost(entry.message.kind, transfer.parcel.values)
        if self._tells_sent:
            self._queue.after(transfer.route.trip, self._acknowledged, transfer)

    def arrived(self, transfer: Transfer) -> None:
        """All of it is at the other end."""
        to = transfer.to
        if transfer.lost or to is None or to.closed:
            return  # the stream is no more, or will be when this end hears of it
        if to.frozen:
            to.hold(self, transfer)
            return
        entry, parcel = transfer.entry, transfer.parcel
        if self.flying.pop(transfer, self) is None:
            acked = self._queue.now + transfer.route.back
            if self._fair:
                acked += to.handout.ahead_ns(self.place)  # behind what there is for this end
            times = self.meter.times
            times.append((parcel, acked - entry.entered, transfer.begun - entry.entered))
            if len(times) >= HELD_MAX:
                self.meter.add_up()
            if self._tells_sent:
                self._queue.at(acked, self._acknowledged, transfer)
        to.outgoing.meter.received[parcel] += 1
        to.host.from_mesh(Received(sender=self._mesh.me, message=entry.message))

    def _acknowledged(self, transfer: Transfer) -> None:
        effect = transfer.entry.effect
        values = transfer.parcel.values
        self._mesh.tell(Sent(target=effect.target, key=effect.key, model_bytes=values))

    # --- streams and paths that come and go

    def forget(self, target: int) -> list[Entry]:
        """The stream to a peer is no more: returns what it may lack."""
        lacking = [transfer for transfer in self.flying if transfer.entry.target == target]
        for transfer in lacking:
            transfer.lost = True
            del self.flying[transfer]
        blocked = [entry for entry in self._blocked if entry.target == target]
        self._blocked = [entry for entry in self._blocked if entry.target != target]
        return [*(transfer.entry for transfer in lacking), *blocked]

    def paths_changed(self) -> None:
        """Delays may be others from now on."""
        self._uneven = True


def _is_datagram(transfer: Transfer) -> bool:
    return transfer.entry.message.delivery is Delivery.DATAGRAM
