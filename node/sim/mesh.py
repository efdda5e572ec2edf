"""One life of a node on the network: its streams to others (pure).

What `node.runtime.mesh` and `node.runtime.edges` are in containers: one stream for each pair,
dialled by the node whose name sorts first, dialled again when it breaks. What is sent on them is
the work of `SendQueue`, `Handout` and `Outgoing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from node.config import Deadlines, Pacing
from node.core.effects import ConnectEdges, DropQueued, Send
from node.core.events import EdgeSettled, Event, PeerChange, PeerChanged
from node.core.ids import NodeId
from node.core.outbox import Priority
from node.core.traffic import Traffic
from node.sim.handout import Handout
from node.sim.interfaces import MeshHost
from node.sim.network import SETTLE_NS, WAYS_MAX, Network, Way, next_try
from node.sim.outgoing import Outgoing
from node.sim.pipe import Transfer
from node.sim.send_queue import SendQueue
from node.units import MILLISECOND, SECOND, Nanos, format_duration

LIMIT_SHARE: Final = 0.8
"""Of the connection timeout, as in `node.runtime.edges`."""
RETRY_NS: Final = (200 * MILLISECOND, 2 * SECOND, 1.6)
"""Between two dials, as in `node.runtime.mesh`: first, longest, growth."""


class Mesh:
    """See the module. It answers those who dial from now on.

    Events of a node that is frozen wait until it is thawed.

    Args:
        host: hears of everything.
        connection_timeout_ns: `RoundsConfig.connection_timeout_ns`.
        unheard: kinds of event that nobody there listens to.
    """

    def __init__(
        self,
        *,
        network: Network,
        host: MeshHost,
        me: NodeId,
        pacing: Pacing,
        deadlines: Deadlines,
        connection_timeout_ns: Nanos = 5 * SECOND,
        unheard: frozenset[type] = frozenset(),
    ) -> None:
        self.me = me
        self.place = network.places[me]
        self.closed = False
        self.frozen = False
        self.host = host
        self.deadlines = deadlines
        members = len(network.members)
        self.up = bytearray(members)
        """1 where there is a stream, by place."""
        self._network = network
        self._queue = network.queue
        self._limit: Nanos = round(connection_timeout_ns * LIMIT_SHARE)
        self._lives = bytearray(members)
        """Counts the streams to a place, modulo 256: what belongs to an old one is void."""
        self._wanted = bytearray(members)
        self._since: dict[int, Nanos] = {}
        """Peers that are wanted and not there, and since when."""
        self.ways: dict[int, Way | None] = {}
        """Those that are remembered; `way` knows them all."""
        self._checks: dict[int, tuple[int, int]] = {}
        """Peers that are not settled, and the round and attempt that they were asked for in."""
        self._held: list[tuple[Outgoing, Transfer] | Event] = []
        self.outgoing = Outgoing(self, network, unheard=unheard)
        self.handout = Handout(self, network, self.outgoing, pacing=pacing)
        self.sends = SendQueue(self, network, self.outgoing, self.handout)
        network.opened(self)

    # --- what a host asks for

    @property
    def traffic(self) -> Traffic:
        """What this life has sent and received."""
        return self.outgoing.meter.traffic

    def has_path(self, peer: NodeId) -> bool:
        """Whether there is a path to this member and back now."""
        return self.way(self._network.places[peer]) is not None

    def stream_up(self, peer: NodeId) -> bool:
        return bool(self.up[self._network.places[peer]])

    def connect(self, peers: Iterable[NodeId]) -> None:
        """Keep a stream to each of these from now on, or once there is a path."""
        places = [self._network.places[peer] for peer in peers]
        new = [place for place in places if not self._wanted[place]]
        for place in new:
            self._wanted[place] = 1
            if not self.up[place]:
                self._since[place] = self._queue.now
        self._dial(new)

    def keep(self, peer: NodeId) -> None:
        """Keep a stream to this peer, though it may be no neighbour."""
        self.connect((peer,))

    def connect_edges(self, order: ConnectEdges) -> None:
        """Find out which of these peers answer; `EdgeSettled` tells of each.

        What is under way for the same ones is forgotten.
        """
        stamp = (order.round, order.attempt)
        named = [self._network.places[p] for p in dict.fromkeys((*order.peers, *order.spare))]
        asked_for = {self._network.places[peer] for peer in order.peers}
        anew = {self._network.places[peer] for peer in order.anew}
        self.connect(order.peers)
        for place in named:
            self._checks[place] = stamp
            peer = self._network.members[place]
            if self.way(place) is None:
                self._settle(place, stamp, f"no path to {peer} in the link plan")
            elif place not in asked_for and not self.up[place]:
                self._settle(place, stamp, f"no stream to {peer}, and none was asked for")
            elif place in anew and self._dials(place):
                self._network.broken(self.place, place, "to be dialled anew")
                self._dial([place])
            elif self.up[place]:
                self._ping(place)
            else:
                self._dial([place])
        self._queue.after(self._limit, self._out_of_time, named, stamp)

    def send(self, effect: Send, *, priority: Priority = Priority.MODEL) -> None:
        """Queue a message to a peer. Raises ValueError where it cannot be one.

        Args:
            priority: if it has a part; a message without is a control message.
        """
        self.sends.send(effect, priority)

    def drop(self, effect: DropQueued) -> None:
        """Cancel what is queued, as `effect` says."""
        self.sends.drop(effect)

    def queued_model_bytes(self) -> int:
        """Model bytes in the queue that no stream has been given yet, model sync apart."""
        return self.sends.queued_model_bytes()

    def wire(self) -> tuple[int, int]:
        """Bytes on the wire so far, sent and received, acknowledgements included."""
        return self.outgoing.meter.wire

    def refused(self, peer: NodeId, reason: str) -> None:
        """What came from a peer was of no use."""
        self.traffic.refused += 1

    def close(self) -> None:
        """The process died: its streams break at the other ends when they hear of it."""
        self.closed = True
        self.sends.close()
        for place in self.connected():
            way, other = self.way(place), self._network.lives[place]
            # A pair that is cut does not hear of it: it is silent, and given up in time.
            if way is not None and other is not None and not self._network.cut(self.place, place):
                life = other.life_of(self.place)
                self._queue.after(way.route.delay, other.hung_up, self.place, life)
        self._network.ended(self)

    # --- what the network asks for

    def way(self, target: int) -> Way | None:
        """The way to another node; None: there is none, or none back."""
        try:
            return self.ways[target]
        except KeyError:
            if len(self.ways) >= WAYS_MAX:
                self.ways.clear()
            way = self.ways[target] = self._network.way(self.place, target)
            return way

    def connected(self) -> list[int]:
        """To whom there is a stream, in order of places."""
        return [place for place, up in enumerate(self.up) if up]

    def life_of(self, target: int) -> int:
        """Which stream to a peer the present one is."""
        return self._lives[target]

    def paths_changed(self, places: Sequence[int]) -> None:
        """The network is another for these: what is sent goes another way, or stands still."""
        self.ways.clear()
        self.outgoing.paths_changed()
        self.handout.turn(None if self.place in places else places)
        self._queue.after(SETTLE_NS, self._dial, list(self._since))

    def appeared(self, target: int) -> None:
        """A life of a wanted peer has begun: it is there when it is dialled next."""
        since = self._since.get(target)
        if since is not None and self._dials(target):
            self._queue.at(next_try(since, self._queue.now, *RETRY_NS), self._dial, [target])

    def stalled(self, target: int) -> None:
        """A pair is cut."""
        self.handout.stalled(target)

    def resumed(self, target: int) -> None:
        """It is no longer."""
        self.handout.turn([target])
        self.outgoing.unblock(target)
        if target in self._checks:
            self._ping(target)

    def thawed(self) -> None:
        """The node goes on."""
        self.frozen = False
        held, self._held = self._held, []
        for what in held:
            if isinstance(what, tuple):
                sender, transfer = what
                sender.arrived(transfer)
            else:
                self.tell(what)
        self.sends.resume()

    def lost(self, target: int, reason: str) -> None:
        """The stream to a peer is no more."""
        if not self.up[target]:
            return
        self.up[target] = 0
        self.sends.lost(target, f"the connection broke: {reason}")
        self.tell(PeerChanged(peer=self._network.members[target], change=PeerChange.LOST))
        self.sends.resume()
        if self._wanted[target]:
            self._since[target] = self._queue.now
            first = self._queue.now + RETRY_NS[0]
            self._queue.at(first, self._dial, [target])

    def hung_up(self, target: int, life: int) -> None:
        """The process at the other end died, of which this one hears now."""
        if self.up[target] and self._lives[target] == life and not self.closed:
            self.lost(target, "the other end hung up")

    def linked(self, target: int) -> None:
        """There is a stream to a peer, in the place of an old one."""
        if self.up[target]:
            self.lost(target, "replaced by a newer stream")
        self.up[target] = 1
        self._lives[target] = (self._lives[target] + 1) % 256
        self._since.pop(target, None)
        if not self._since:
            self._since = {}  # a dict never shrinks by itself

    def established(self, target: int) -> None:
        """The same, and the peer has it, too."""
        self.tell(PeerChanged(peer=self._network.members[target], change=PeerChange.CONNECTED))
        self.sends.connected(target)
        if target in self._checks:
            self._ping(target)

    def hold(self, sender: Outgoing, transfer: Transfer) -> None:
        """A message has come for a node that is frozen."""
        self._held.append((sender, transfer))

    def tell(self, event: Event) -> None:
        """Tell the host, or keep it for when the node is thawed."""
        if self.frozen:
            self._held.append(event)
        elif not self.closed:
            self.host.from_mesh(event)

    # --- dialling

    def _dials(self, target: int) -> bool:
        return self.me < self._network.members[target]

    def _dial(self, targets: list[int]) -> None:
        """Dial those of them that are there; the others will be dialled when they are."""
        met: dict[Nanos, list[int]] = {}
        for target in targets:
            if self._dials(target) and target in self._since and self._reachable(target):
                way = self.way(target)
                assert way is not None
                met.setdefault(way.route.connect_ns, []).append(target)
        for wait, reached in met.items():
            self._queue.after(wait, self._met, reached)

    def _met(self, targets: list[int]) -> None:
        """The greetings are exchanged."""
        for target in targets:
            if target in self._since and self._reachable(target):
                self._network.met(target, self.place)

    def _reachable(self, target: int) -> bool:
        """Whether a packet comes through now, and one back."""
        return not self.closed and self._network.through(self.place, target)

    # --- edges

    def _ping(self, target: int) -> None:
        way = self.way(target)
        if way is not None and not self._network.cut(self.place, target):
            wait = way.route.trip + self.handout.ahead_ns(target)
            self._queue.after(wait, self._ponged, target, self._checks[target], self._lives[target])

    def _ponged(self, target: int, stamp: tuple[int, int], life: int) -> None:
        same = self.up[target] and self._lives[target] == life
        if same and not self._network.cut(self.place, target):
            self._settle(target, stamp, None)

    def _settle(self, target: int, stamp: tuple[int, int], error: str | None) -> None:
        if self._checks.get(target) != stamp:
            return
        del self._checks[target]
        peer = self._network.members[target]
        settled = EdgeSettled(peer=peer, round=stamp[0], attempt=stamp[1], error=error)
        # Not within the call that asked for it.
        self._queue.after(0, self.tell, settled)

    def _out_of_time(self, targets: list[int], stamp: tuple[int, int]) -> None:
        limit = format_duration(self._limit)
        for target in targets:
            peer, up = self._network.members[target], self.up[target]
            self._settle(
                target,
                stamp,
                f"no {'answer to a ping from' if up else 'stream to'} {peer} within {limit}",
            )
