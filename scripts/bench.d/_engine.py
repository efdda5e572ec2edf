"""Nodes on a simulated network with training off: what the engine alone does (`engine`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.algorithms import make
from node.config import Deadlines, Pacing, PathSpec, StopConfig
from node.core.effects import DropQueued, Effect, Evaluate, Send, Train
from node.core.events import Evaluated, Event, Received, Started, Trained
from node.core.ids import NodeId
from node.core.parts import Layout
from node.core.peer import Peer, PeerSetting
from node.sim.interfaces import Access, Path, Sharing
from node.sim.mesh import Mesh
from node.sim.network import Network
from node.sim.queue import EventQueue
from node.units import MICROSECOND, MILLISECOND, SECOND

MODEL_BYTES = 89_834 * 4
"""GN-LeNet, for which a small model stands."""
LAYOUT = Layout.of({"weight": (20, 48), "bias": (40,)})
FAST, SLOW = 60_000_000, 12_000_000
ROUND_NS = 800 * MILLISECOND
"""A fast node needs 0.29 s for its messages of a round, a slow one 1.44 s: half are cancelled."""


class Star:
    """Each node has one link, as fast up as down; all meet in the middle.

    Args:
        slow: every so manieth node is slow; 0: none.
    """

    def __init__(self, nodes: int, *, slow: int) -> None:
        self.names = tuple(NodeId(f"n{i:04d}") for i in range(nodes))
        self._rates = {
            name: SLOW if slow and i % slow else FAST for i, name in enumerate(self.names)
        }
        self._specs = {rate: PathSpec(rate_bps=rate, delay_ns=MILLISECOND) for rate in (FAST, SLOW)}

    def path(self, source: NodeId, target: NodeId) -> Path | None:
        rate = min(self._rates[source], self._rates[target])
        return Path(spec=self._specs[rate], links=(f"{source}/up", f"{target}/down"))

    def access(self, node: NodeId) -> Access:
        return Access(kind=self._rates[node], up=(f"{node}/up",), down=(f"{node}/down",))

    def capacity(self, link: str) -> int:
        return self._rates[NodeId(link.split("/")[0])]


class Node:
    """A peer machine and its mesh; training takes `ROUND_NS` and changes nothing."""

    def __init__(
        self, network: Network, me: NodeId, index: int, *, degree: int, pacing: Pacing
    ) -> None:
        self._queue = network.queue
        self._index = index
        self.delivered = 0
        setting = PeerSetting(
            me=me,
            peers=tuple(name for name in network.members if name != me),
            members=len(network.members),
            seed=7,
            layout=LAYOUT,
            stop=StopConfig(time_ns=3600 * SECOND),
            evaluate_every=1000,
        )
        algorithm = make("divshare", {"degree": degree})
        self.peer = Peer(
            setting=setting, algorithm=algorithm, initial=np.zeros(LAYOUT.size, np.float32)
        )
        self.mesh = Mesh(
            network=network,
            host=self,
            me=me,
            pacing=pacing,
            deadlines=Deadlines(),
            unheard=self.peer.unheard,
        )

    def from_mesh(self, event: Event) -> None:
        if type(event) is Received:
            self.delivered += 1
        for effect in self.peer.step(event, now=self._queue.now):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.mesh.send(effect)
        elif isinstance(effect, DropQueued):
            self.mesh.drop(effect)
        elif isinstance(effect, Train):
            # Not all at one time, which would be easier.
            self._queue.after(ROUND_NS + self._index * 97 * MICROSECOND, self._trained, effect)
        elif isinstance(effect, Evaluate):
            self.from_mesh(Evaluated(round=effect.round, accuracy=0.0, loss=0.0))

    def _trained(self, job: Train) -> None:
        trained = Trained(job=job.job, parameters=job.parameters, loss=0.0, steps=job.steps)
        self.from_mesh(trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A network with its nodes, all connected and started."""

    queue: EventQueue
    nodes: list[Node]

    @property
    def delivered(self) -> int:
        return sum(node.delivered for node in self.nodes)


def bed(
    nodes: int,
    sharing: Sharing,
    *,
    slow: int = 0,
    degree: int = 6,
    pacing: Pacing = Pacing.SEQUENTIAL,
) -> Bed:
    """All nodes know each other, and are connected and started."""
    queue, star = EventQueue(), Star(nodes, slow=slow)
    network = Network(
        queue=queue,
        view=star,
        members=star.names,
        sharing=sharing,
        seed=7,
        message_bytes=MODEL_BYTES,
        model_bytes=4 * LAYOUT.size,
    )
    lives = [
        Node(network, name, i, degree=degree, pacing=pacing) for i, name in enumerate(star.names)
    ]
    for node in lives:
        node.mesh.connect(name for name in star.names if name != node.mesh.me)
    queue.run(until=SECOND)
    for node in lives:
        node.from_mesh(Started())
    return Bed(queue=queue, nodes=lives)
