"""Small simulated runs for tests: a file as text, and trainers that need no torch.

begin(text, folder) -> World      as `deploy sim` begins one
files(folder)                     all that it has recorded, by name
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.plan import BackendKind, Plan, make_plan
from deploy.sim_network import Timeline
from deploy.topology.load import parse_topology
from node.core.ids import NodeId
from node.core.parts import Layout, Vector, frozen
from node.core.rng import stream
from node.sim.interfaces import Ticket
from node.sim.records import Records
from node.sim.world import Action, Setting, World
from node.units import Nanos

STEADY = """
name: steady
nodes: {n: {replicas: 6, compute: {step: 2ms}}}
network: {shape: star, link: {rate: 4mbit, delay: 5ms}}
overlay: full
algorithm: {name: divshare, omega: 0.25, degree: 2, local_steps: 4}
training: {dataset: digits, model: mlp, partition: {kind: dirichlet, alpha: 0.5}}
stop: {rounds: 8, time: 10s}
"""
EVENTFUL = """
name: eventful
nodes:
  west: {replicas: 3, compute: {step: 5ms}}
  east: {replicas: 2, compute: {step: 5ms, speed: 0.3}}
  late: {compute: {step: 5ms}}
network:
  link: {rate: 8mbit, delay: 4ms, jitter: 2ms, loss: 1%}
  bridges: [w, e]
  links:
    - {from: west, to: w}
    - {from: east, to: e}
    - {from: late, to: e}
    - {from: w, to: e, rate: 6mbit, delay: 10ms}
overlay: full
events:
  - {at: 500ms, join: late}
  - {at: 800ms, link: [w, e], set: {rate: 2mbit, delay: 40ms}}
  - {at: 1s, pause: west-1}
  - {at: 1500ms, partition: [[west]]}
  - {at: 2s, crash: east-1}
  - {at: 2200ms, heal: true}
  - {at: 2500ms, resume: west-1}
  - {at: 2600ms, restart: west-2}
  - {at: 3s, return: east-1}
  - {at: 3500ms, leave: west-0}
algorithm: {name: divshare, omega: 0.2, degree: 2, local_steps: 6}
training: {dataset: digits, model: mlp}
stop: {time: 6s}
"""


class Wander:
    """Trainers whose models move in a way that node, model and step decide, as real ones' do.

    Args:
        seed: of where they move.
        size: parameters of the model.
    """

    def __init__(self, *, seed: int = 1, size: int = 2_000) -> None:
        self.layout = Layout.of({"weight": (size - 10,), "bias": (10,)})
        self.initial: Vector = frozen(np.linspace(-1, 1, size, dtype=np.float32))
        self._seed = seed
        self._begun: dict[NodeId, int] = {}
        self._jobs: dict[Ticket, tuple[NodeId, int, Vector]] = {}
        self._tickets: Ticket = 0

    def samples(self, node: NodeId) -> int:
        return 100 + len(node)

    def label_counts(self, node: NodeId) -> tuple[int, ...]:
        return (self.samples(node),)

    def restarted(self, node: NodeId) -> None:
        self._begun[node] = 0

    def train(self, node: NodeId, *, steps: int, parameters: Vector, due: Nanos) -> Ticket:
        del due
        noise = stream(self._seed, "step", node, self._begun[node])
        self._begun[node] += steps
        moved = parameters + noise.normal(size=parameters.size).astype(np.float32) / 10
        return self._ticket(node, steps, frozen(moved * np.float32(0.9)))

    def evaluate(self, node: NodeId | None, *, parameters: Vector, due: Nanos) -> Ticket:
        del due
        return self._ticket(NodeId(str(node)), 0, parameters)

    def trained(self, ticket: Ticket) -> tuple[Vector, float]:
        _, _, model = self._jobs.pop(ticket)
        return model, float(np.abs(model).mean())

    def evaluated(self, ticket: Ticket) -> tuple[float, float]:
        _, _, model = self._jobs.pop(ticket)
        return float((model > 0).mean()), float(np.abs(model).max())

    def give_up(self, ticket: Ticket) -> None:
        self._jobs.pop(ticket)

    def state(self) -> Mapping[str, object]:
        done = dict(self._begun)
        for node, steps, _ in self._jobs.values():
            if steps:
                done[node] -= steps
        return {"steps": done}

    def restore(self, state: Mapping[str, object]) -> None:
        steps: Any = state["steps"]
        self._begun, self._jobs = dict(steps), {}

    def close(self) -> None:
        """Nothing to end."""

    def _ticket(self, node: NodeId, steps: int, model: Vector) -> Ticket:
        self._tickets += 1
        self._jobs[self._tickets] = (node, steps, model)
        return self._tickets


def plan_of(text: str, *sets: str) -> tuple[Plan, Timeline]:
    topology = parse_topology(text.encode(), path=Path("/small.yaml"), overrides=sets)
    plan = make_plan(topology, run_id="small", backend=BackendKind.SIM)
    return plan, Timeline(topology)


def begin(
    plan: Plan, timeline: Timeline, folder: Path, *, trainers: Wander | None = None
) -> tuple[World, Records]:
    """A run that has begun; `World.run` plays it."""
    records = Records(folder)
    setting = Setting(
        coordinator=plan.coordinator,
        nodes={node.name: node.config for node in plan.nodes},
        actions=tuple(
            Action(at_ns=a.at_ns, node=a.node, verb=a.verb, what=a.what) for a in plan.actions
        ),
        changes=plan.nodes[0].config.links.changes,
    )
    trainers = trainers or Wander(seed=plan.seed)
    world = World(setting, timeline=timeline, trainers=trainers, records=records)
    world.begin()
    return world, records


def played(folder: Path, text: str, *sets: str) -> dict[str, bytes]:
    """A run from its beginning to its end: its files."""
    world, records = begin(*plan_of(text, *sets), folder)
    world.run()
    records.flush()
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    """What a run has recorded; without checkpoints, and without what `deploy` says of itself."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    wanted = ("*.jsonl", "*.f32", "*.trace", "links.json", "summary.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if any(path.match(pattern) for pattern in wanted)
    }
