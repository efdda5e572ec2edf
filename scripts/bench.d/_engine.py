"""A simulation with training off, as `deploy sim --no-training` runs it (`engine`)."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.plan import BackendKind, make_plan
from deploy.sim_network import Timeline
from deploy.topology.load import parse_topology
from node.config import NodeConfig, Pacing
from node.sim.interfaces import Sharing
from node.sim.records import Records
from node.sim.untrained import Untrained
from node.sim.world import Setting, World
from node.units import MICROSECOND, MILLISECOND

SIZE = 1_000
"""Parameters of the model that stands for GN-LeNet's 89,834."""
FRAGMENT = 89_834 * 4 // 10
"""Bytes that a fragment of it stands for."""
STEPS = 8
ROUND_NS = 800 * MILLISECOND
"""A fast node needs 0.29 s for its messages of a round, a slow one 1.44 s: half are cancelled."""
_FILE = """
name: engine
nodes: {{fast: {{replicas: {fast}}}{slow}}}
network:
  bridges: [hub]
  links:
    - {{from: fast, to: hub, rate: 60mbit, delay: 500us}}
{links}
overlay: full
algorithm: {{name: divshare, omega: 0.1, degree: 6, local_steps: 8}}
training: {{dataset: digits, model: mlp, message_size: 359336B, evaluate_every: 1000}}
stop: {{time: 1h}}
"""
_SLOW = "    - {from: slow, to: hub, rate: 12mbit, delay: 500us}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A run that is under way; `world.run` plays on."""

    world: World
    folder: tempfile.TemporaryDirectory[str]
    """Where its records are, as long as it is there."""

    @property
    def delivered(self) -> int:
        """Fragments that have come to an algorithm so far."""
        traffic = (host.mesh.traffic for host in self.world.hosts.values())
        return sum(each.model_received for each in traffic) // FRAGMENT


def bed(nodes: int, sharing: Sharing, *, slow: int = 0, pacing: Pacing = Pacing.SEQUENTIAL) -> Bed:
    """A run that is about to start.

    Args:
        slow: how many of the nodes have a slow link.
    """
    text = _FILE.format(
        fast=nodes - slow,
        slow=f", slow: {{replicas: {slow}}}" if slow else "",
        links=_SLOW if slow else "",
    )
    topology = parse_topology(text.encode(), path=Path("/engine.yaml"), overrides=())
    plan = make_plan(topology, run_id="engine", backend=BackendKind.SIM)
    setting = Setting(
        coordinator=plan.coordinator,
        nodes={
            node.name: _of_its_own(node.config, place, pacing)
            for place, node in enumerate(plan.nodes)
        },
        sharing=sharing,
    )
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    world = World(
        setting,
        timeline=Timeline(topology),
        trainers=Untrained.of_size(SIZE),
        records=Records(Path(folder.name)),
    )
    world.begin()
    return Bed(world=world, folder=folder)


def _of_its_own(config: NodeConfig, place: int, pacing: Pacing) -> NodeConfig:
    """Not all nodes at one time, which would be easier."""
    step = (ROUND_NS + place * 97 * MICROSECOND) // STEPS
    return dataclasses.replace(
        config,
        compute=dataclasses.replace(config.compute, step_ns=step),
        algorithm=dataclasses.replace(config.algorithm, pacing=pacing),
    )
