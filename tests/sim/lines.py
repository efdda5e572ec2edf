"""Nodes that only note what comes, on a network of given paths: for tests of the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from node.config import Deadlines, Pacing, PathSpec
from node.core.effects import Send
from node.core.events import Event, PeerChanged, Received, SendFailed, Sent
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.parts import Part, Span
from node.sim.interfaces import Access, Path, Sharing
from node.sim.mesh import Mesh
from node.sim.network import Network
from node.sim.queue import EventQueue
from node.units import MILLISECOND, SECOND, Nanos

A, B, C, D = (NodeId(name) for name in "abcd")
TEN_MBIT = PathSpec(rate_bps=10_000_000, delay_ns=10 * MILLISECOND)
DEADLINES = Deadlines(peer_ns=3 * SECOND)


@dataclass
class View:
    """Paths by their ends, and the rates of links.

    Args:
        default: of a pair that is not named.
    """

    default: PathSpec | None = TEN_MBIT
    specs: Mapping[tuple[NodeId, NodeId], PathSpec | None] = field(default_factory=dict)
    rates: Mapping[str, int] = field(default_factory=dict)

    def path(self, source: NodeId, target: NodeId) -> Path | None:
        spec = self.specs.get((source, target), self.default)
        if spec is None:
            return None
        ends = (f"{source}/up", f"{target}/down")
        return Path(spec=spec, links=tuple(link for link in ends if link in self.rates))

    def access(self, node: NodeId) -> Access | None:
        return None

    def capacity(self, link: str) -> int:
        return self.rates[link]


class Station:
    """A life of a node: what its mesh told it, and when."""

    def __init__(
        self, network: Network, me: NodeId, *, pacing: Pacing, unheard: frozenset[type]
    ) -> None:
        self._queue = network.queue
        self.heard: list[tuple[Nanos, Event]] = []
        self.mesh = Mesh(
            network=network, host=self, me=me, pacing=pacing, deadlines=DEADLINES, unheard=unheard
        )

    def from_mesh(self, event: Event) -> None:
        self.heard.append((self._queue.now, event))

    def send(self, target: NodeId, message: PeerMessage, *, key: str = "") -> None:
        self.mesh.send(Send(target=target, message=message, key=key))

    def received(self) -> list[tuple[Nanos, str]]:
        """When, and of what kind."""
        return [
            (at, event.message.kind)
            for at, event in self.heard
            if isinstance(event, Received) and isinstance(event.message, PeerMessage)
        ]

    def sent(self) -> list[str]:
        return [event.key for _, event in self.heard if isinstance(event, Sent)]

    def failed(self) -> list[tuple[Nanos, str]]:
        return [(at, event.key) for at, event in self.heard if isinstance(event, SendFailed)]

    def changes(self) -> list[tuple[Nanos, NodeId, str]]:
        return [
            (at, event.peer, event.change.value)
            for at, event in self.heard
            if isinstance(event, PeerChanged)
        ]


class Lines:
    """A network with a life of each node; all that want a stream to each other have it."""

    def __init__(
        self,
        view: View,
        *,
        nodes: tuple[NodeId, ...] = (A, B, C),
        sharing: Sharing = Sharing.NONE,
        pacing: Pacing = Pacing.SEQUENTIAL,
        message_bytes: int | None = None,
        seed: int = 1,
        unheard: frozenset[type] = frozenset(),
    ) -> None:
        self.queue = EventQueue()
        self.network = Network(
            queue=self.queue,
            view=view,
            members=nodes,
            sharing=sharing,
            seed=seed,
            message_bytes=message_bytes,
            model_bytes=4000,
        )
        self._pacing = pacing
        self._unheard = unheard
        self.at = {name: self.station(name) for name in nodes}
        for name in nodes:
            self.at[name].mesh.connect(other for other in nodes if other != name)
        self.run(SECOND)
        for station in self.at.values():
            station.heard.clear()

    def station(self, me: NodeId) -> Station:
        """A new life of a node."""
        return Station(self.network, me, pacing=self._pacing, unheard=self._unheard)

    def run(self, duration: Nanos) -> None:
        self.queue.run(until=self.queue.now + duration)


def model(values: int, *, kind: str = "m", delivery: Delivery = Delivery.RELIABLE) -> PeerMessage:
    """A message with so many values, 4 bytes each."""
    part = Part(where=Span(0, values), values=np.zeros(values, np.float32))
    return PeerMessage(kind=kind, round=0, part=part, delivery=delivery)


def control(kind: str = "c") -> PeerMessage:
    return PeerMessage(kind=kind, round=0)
