"""One node's end of its peer streams on virtual time; follows `node.runtime.mesh`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.core.effects import ConnectEdges, DropQueued, Send
from node.core.events import EdgeSettled, PeerChange, PeerChanged, Received, SendFailed, Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage

if TYPE_CHECKING:
    from tests.simulation.hosts import Node
    from tests.simulation.world import World

SETTLE_SHARE: Final = 0.8
"""Of the connection timeout: a member's own limit, so that its report comes in time."""


class Mesh:
    """See the module."""

    def __init__(self, world: World, node: Node) -> None:
        self.world = world
        self.node = node
        self.wanted: set[NodeId] = set()
        self._queued: dict[NodeId, list[Send]] = {}
        self._unacked: dict[NodeId, dict[int, Send]] = {}
        self._number = 0
        self._checks: dict[NodeId, tuple[int, int]] = {}
        """Peers that are not settled, and the round and attempt that they were asked for in."""
        self.deaf_until = 0
        """Until then nobody hears what comes of edges."""

    # --- sending

    def send(self, effect: Send) -> None:
        target = effect.target
        if effect.supersedes:
            queue = self._queued.get(target, [])
            queue[:] = [item for item in queue if item.key != effect.key]
        if self.world.wire(self.node.name, target).is_up[self.node.name]:
            self._write(effect)
        else:
            if not self._queued.get(target):
                self.world.after(self.world.plan.deadlines.peer_ns, self._expire, target)
            self._queued.setdefault(target, []).append(effect)

    def drop(self, effect: DropQueued) -> None:
        for queue in self._queued.values():
            queue[:] = [item for item in queue if not item.key.startswith(effect.key_prefix)]

    def _write(self, effect: Send) -> None:
        self._number += 1
        self._unacked.setdefault(effect.target, {})[self._number] = effect
        wire = self.world.wire(self.node.name, effect.target)
        wire.send(self.node.name, ("message", self._number, effect.message))

    def _expire(self, target: NodeId) -> None:
        """Out of reach for too long; a stream since then has emptied the queue."""
        if self.world.wire(self.node.name, target).is_up[self.node.name]:
            return
        for item in self._queued.pop(target, []):
            self._failed(item, "out of reach")

    def _failed(self, item: Send, reason: str) -> None:
        self.node.from_mesh(SendFailed(target=item.target, key=item.key, reason=reason))

    # --- streams

    def want(self, peers: tuple[NodeId, ...]) -> None:
        for peer in peers:
            self.wanted.add(peer)
            wire = self.world.wire(self.node.name, peer)
            if self.node.name == wire.ends[0]:
                wire.dial()

    def connected(self, peer: NodeId) -> None:
        self.node.from_mesh(PeerChanged(peer=peer, change=PeerChange.CONNECTED))
        for item in self._queued.pop(peer, []):
            self._write(item)
        if peer in self._checks:
            self._ping(peer)

    def disconnected(self, peer: NodeId) -> None:
        for item in self._unacked.pop(peer, {}).values():
            self._failed(item, "the connection broke")
        self.node.from_mesh(PeerChanged(peer=peer, change=PeerChange.LOST))

    def arrived(self, peer: NodeId, item: Any) -> None:
        if self.node.asleep is not None:
            self.node.asleep.append(lambda: self.arrived(peer, item))
            return
        wire = self.world.wire(self.node.name, peer)
        match item:
            case ("message", number, PeerMessage() as message):
                wire.send(self.node.name, ("ack", number), faithful=True)
                self.node.from_mesh(Received(sender=peer, message=message))
            case ("ack", number):
                sent = self._unacked.get(peer, {}).pop(number, None)
                if sent is not None:
                    assert isinstance(sent.message, PeerMessage)
                    size = sent.message.model_bytes
                    self.node.from_mesh(Sent(target=peer, key=sent.key, model_bytes=size))
            case ("ping", round_, attempt):
                wire.send(self.node.name, ("pong", round_, attempt), faithful=True)
            case ("pong", round_, attempt):
                self._settle(peer, (round_, attempt))

    # --- edges

    def connect_edges(self, effect: ConnectEdges) -> None:
        """As `node.runtime.edges`: what is under way for the same peers is forgotten."""
        stamp = (effect.round, effect.attempt)
        named = sorted({*effect.peers, *effect.spare})
        for peer in named:
            self._checks[peer] = stamp
        self.want(effect.peers)
        for peer in named:
            wire = self.world.wire(self.node.name, peer)
            renewed = peer in effect.anew and wire.ends[0] == self.node.name
            if (self.node.name, peer) in self.world.no_path:
                self._settle(peer, stamp, error="no path")
            elif renewed:
                wire.break_()
                wire.dial()
            elif wire.is_up[self.node.name]:
                self._ping(peer)
            elif peer in effect.spare:
                self._settle(peer, stamp, error="not connected")
        limit = round(self.world.plan.rounds.connection_timeout_ns * SETTLE_SHARE)
        self.world.after(limit, self._out_of_time, named, stamp)

    def _ping(self, peer: NodeId) -> None:
        wire = self.world.wire(self.node.name, peer)
        wire.send(self.node.name, ("ping", *self._checks[peer]), faithful=True)

    def _tell(self, settled: EdgeSettled) -> None:
        if self.world.now >= self.deaf_until:
            self.node.tell(settled)

    def _settle(self, peer: NodeId, stamp: tuple[int, int], *, error: str | None = None) -> None:
        if self._checks.get(peer) == stamp:
            del self._checks[peer]
            self._tell(EdgeSettled(peer=peer, round=stamp[0], attempt=stamp[1], error=error))

    def _out_of_time(self, peers: list[NodeId], stamp: tuple[int, int]) -> None:
        if not self.node.gone:
            for peer in peers:
                self._settle(peer, stamp, error=f"no answer from {peer}")
