"""What one life of a node hands to the transport, and when (pure).

The rules are those of `node.core.outbox`. With sequential pacing messages are handed out in queue
order, each as soon as the window over all peers has room for its first chunk; what has been handed
out to different peers leaves side by side, what is for one peer one behind the other. With parallel
pacing each peer has a queue of its own, and messages are handed out as a whole.

Of a message for which there is no room at once, the rest is handed out where what has been drains:
sooner it would leave no sooner. Where there is no room then either, it waits for acknowledgements,
and those wait behind what the other end has handed out for this one.

Where all goes over one uplink, and what is ahead fills it, what could be handed out would leave no
sooner: nobody looks for the moment. A cancel finds out what has been handed out by then. Where
nothing is shared, sequential pacing is one message at a time to all peers, as if each node had one
link to all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING, Final

from node.config import Pacing
from node.core.outbox import BACKGROUND_SHARE, Priority
from node.sim.interfaces import Sharing
from node.sim.lane import Lane
from node.sim.pipe import BITS, NEVER, Entry, Link, Pipe, Transfer
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.mesh import Mesh
    from node.sim.network import Network, Way
    from node.sim.outgoing import Outgoing

_MODEL: Final = Priority.MODEL
_BACKGROUND: Final = Priority.BACKGROUND


class Handout:
    """See the module.

    Args:
        outgoing: hears of what has left.

    Attributes:
        first: the lane of all model messages, where the window is over all peers.
    """

    def __init__(self, mesh: Mesh, network: Network, outgoing: Outgoing, *, pacing: Pacing) -> None:
        self._mesh = mesh
        self._network = network
        self._outgoing = outgoing
        self._queue = network.queue
        self._shares = network.shares
        self._fair = network.sharing is Sharing.FAIR
        self.first = Lane(_MODEL) if pacing is Pacing.SEQUENTIAL else None
        self._windowed = self.first if self._fair else None
        """The same where what is not acknowledged holds messages up."""
        self.pipe = Pipe(self, network.shares, in_order=self.first is not None)
        self._lanes: dict[tuple[Priority, int], Lane] = {}
        """The others, by priority and peer."""
        self._head: tuple[Entry | None, Link | None, int] = (None, None, 0)
        """The next message where there is one lane: the uplink that it has in common with all
        others, if there is one, and the limit of its window."""
        self._unsure: list[Transfer] = []
        """Of which is to be found out how late they are acknowledged, once rates are known."""
        self._background = False
        """There has been a background message."""

    # --- lanes

    def lanes(self) -> list[Lane]:
        return [*(() if self.first is None else (self.first,)), *self._lanes.values()]

    def model_lanes(self) -> list[Lane]:
        return [lane for lane in self.lanes() if lane.priority is _MODEL]

    def lane_of(self, priority: Priority, target: int) -> Lane:
        """One for all peers or one for each, as the pacing has it."""
        if self.first is not None:
            if priority is _MODEL:
                return self.first
            target = -1
        lane = self._lanes.get((priority, target))
        if lane is None:
            lane = self._lanes[priority, target] = Lane(priority)
            self._background = self._background or priority is _BACKGROUND
        return lane

    def way(self, entry: Entry) -> Way:
        return self._mesh.way(entry.target) or self._network.nowhere

    # --- what begins

    def next(self, lane: Lane) -> None:
        """Begin with the next message of a lane, if nothing is in the way; where messages leave
        side by side, `opens` tells when one begins beside others."""
        if lane is self.first:
            self._shares.touch(self.pipe)
        if lane.begun or not lane.queue or self._mesh.frozen:
            return
        way = self.way(lane.queue[0])
        if lane is self.first and not self._room(lane, way):
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
        if self._unsure:
            for transfer in self._unsure:
                transfer.late = max(0, self._late(transfer) - transfer.route.delay)
            self._unsure.clear()
        lane = self.first
        if lane is None or self._mesh.frozen or (lane.begun and not self._fair):
            return NEVER
        if (starved := lane.starved) is not None:
            uplink = self._network.uplink(self._mesh.place)
            limit = lane.window + max(0, starved.rest - starved.chunk)
        elif lane.queue:
            entry, (known, uplink, limit) = lane.queue[0], self._head
            if known is not entry:
                way = self.way(entry)
                uplink = self._network.uplink(self._mesh.place)
                limit = lane.limit(way, way.route.parcel(entry.message).message)
                self._head = (entry, uplink, limit)
        else:
            return NEVER
        if uplink is not None and lane.begun and not uplink.spare:
            self.pipe.full = True
            return NEVER  # it would have nothing of it, nor those behind it
        return lane.room_at(limit, self._queue.now, before)

    def open(self) -> None:
        """See `Sender`."""
        lane = self.first
        assert lane is not None
        if (last := lane.starved) is not None:
            fits = lane.fits(last.rest, last.route, self._queue.now)
            self._hand_out(last, max(fits, min(last.rest, last.chunk)))
            self._leave(last)
            return
        if lane.begun:  # what there is of it has been handed out without being looked for
            self._hand_out(lane.begun[-1], lane.begun[-1].rest)
        entry = lane.queue.popleft()
        self._begin(lane, entry, self.way(entry))

    def go_on(self) -> None:
        """See `Sender`."""
        if self.first is not None:
            self.next(self.first)

    def _begin(self, lane: Lane, entry: Entry, way: Way) -> None:
        """A message is handed out, and leaves unless one for the same peer is ahead of it."""
        network, target, outgoing = self._network, entry.target, self._outgoing
        parcel = way.route.parcel(entry.message)
        to = network.life(target, self._mesh.place)
        begun = self._queue.now
        if self.pipe.full and lane is self.first:
            begun = lane.handed(lane.limit(way, parcel.message), entry.entered, begun)
        transfer = Transfer(self.pipe, lane, entry, to, way, parcel, begun)
        if lane is self._windowed:
            self._hand_out_first(transfer, lane)
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
        self._set_out(transfer)
        if self._background:
            self._balance()

    # --- piece by piece

    def _hand_out_first(self, transfer: Transfer, lane: Lane) -> None:
        """Of a message that begins, what there is room for: a chunk, or more."""
        route, size = transfer.route, transfer.size
        if size > route.chunk:
            fits = lane.fits(size, route, self._queue.now)
            transfer.size = max(fits, route.chunk)
            transfer.rest = size - transfer.size
            transfer.left *= transfer.size / size

    def _hand_out(self, transfer: Transfer, size: int) -> None:
        """So many bytes more of the message that began last."""
        if size:
            transfer.rest -= size
            transfer.size += size
            parcel = transfer.parcel
            self.pipe.add(transfer, size * parcel.wire / parcel.message)

    def _set_out(self, transfer: Transfer) -> None:
        """A piece of it begins to leave. What the other end has handed out for this one and
        has not arrived yet, is acknowledged behind this."""
        transfer.set_out = self._queue.now
        if transfer.lane is not self._windowed or transfer.to is None or transfer.to.closed:
            return
        self._unsure.append(transfer)
        there = transfer.to.handout
        other = there.leaving_to(self._mesh.place)
        if other is not None and self._queue.now < other.set_out + other.route.delay:
            there._unsure.append(other)
            self._shares.touch(there.pipe)

    def _late(self, transfer: Transfer) -> Nanos:
        """How long acknowledgements wait behind what the other end has handed out for this one."""
        to = transfer.to
        return 0 if to is None or to.closed else to.handout.ahead_ns(self._mesh.place)

    def drained(self, transfer: Transfer) -> bool:
        """See `Sender`."""
        lane = transfer.lane
        late = self._late(transfer) if lane is self._windowed else 0
        lane.gone(transfer, self._queue.now, late)
        if not transfer.rest:
            return False
        fits = lane.fits(transfer.rest, transfer.route, self._queue.now)
        if fits:
            self._hand_out(transfer, fits)
            self._set_out(transfer)
        return fits > 0

    def through(self, transfer: Transfer) -> None:
        """See `Sender`."""
        lane, target = transfer.lane, transfer.entry.target
        lane.begun.remove(transfer)
        self._outgoing.left(transfer)
        if lane is self.first:
            for follower in lane.begun:
                if follower.entry.target == target:
                    self._leave(follower)
                    break
        else:
            self.next(lane)
            if not lane.begun and not lane.queue:
                key = lane.priority, target if self.first is None else -1
                if self._lanes.get(key) is lane:
                    del self._lanes[key]
        if self._background:
            self._balance()

    def cut_short(self, lane: Lane, prefix: str) -> None:
        """The message that began last is cut off where it has not been handed out."""
        unwritten = int(lane.unwritten(self._queue.now))
        if not unwritten or not lane.begun[-1].entry.effect.key.startswith(prefix):
            return
        last = lane.begun[-1]
        parcel = last.parcel
        last.lost = True
        self._outgoing.flying.pop(last, None)
        self._outgoing.meter.cut_off(parcel.kind, unwritten * parcel.values // parcel.message)
        starved = lane.starved is not None
        self._hand_out(last, last.rest - unwritten)
        last.rest = 0
        if starved:
            self.through(last)

    # --- background messages beside others

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

    # --- what is ahead of others

    def leaving_to(self, target: int) -> Transfer | None:
        """The message that is leaving to a peer, a model message before a background one."""
        if self.first is None:
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
        if last.entry.target == target and (last.rest or lane is not self._windowed):
            handed = last.rest - lane.unwritten(self._queue.now)
            ahead = max(0.0, ahead + handed * last.parcel.wire / last.parcel.message)
        rate = first.rate
        if self.first is not None and first.links:
            # In order or not, small ones do not wait for all that goes to other peers.
            uplink = first.links[0]
            share = min(first.demand, uplink.free / len(uplink.flows), *first.offers[1:])
            rate = max(rate, share)
        return round(ahead * BITS / rate) if rate else 0

    def held_up(self, target: int, wire: int) -> None:
        """So many bytes to a peer go before others: what leaves to it, or over the same link,
        leaves later by as much."""
        behind = self.leaving_to(target)
        if behind is None and self.first is not None:
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

    def forget(self, target: int) -> None:
        """The stream to a peer is no more."""
        for lane in self.lanes():
            for transfer in [each for each in lane.begun if each.entry.target == target]:
                transfer.lost = True
                lane.begun.remove(transfer)
                if transfer in self.pipe.leaving:
                    self.pipe.stop(transfer)
            lane.recent = deque([each for each in lane.recent if each.target != target])

    def stalled(self, target: int) -> None:
        """A pair is cut: what is leaving to it stands still, and all that is behind it."""
        for transfer in self.pipe.leaving:
            if transfer.entry.target == target:
                self.pipe.change(transfer, demand=0.0)
        self._shares.settle()

    def turn(self, targets: Container[int] | None) -> None:
        """What has been handed out for these peers, or all, goes on as the network is now."""
        self._head = (None, None, 0)
        for lane in self.lanes():
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
        for lane in self.lanes():
            lane.queue.clear()
            for transfer in lane.begun:
                transfer.lost = True
            lane.begun.clear()
        for transfer in list(self.pipe.leaving):
            self.pipe.stop(transfer)
