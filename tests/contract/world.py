"""A whole run on loopback in one event loop: coordinator, nodes, toy training."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    CoordinatorConfig,
    Deadlines,
    Emulator,
    ExpectedPair,
    LinkPolicy,
    LinksConfig,
    NodeConfig,
    Pacing,
    PathSpec,
    PeerLink,
    RoundsConfig,
    StopConfig,
    TrainingConfig,
)
from node.core.ids import NodeId
from node.metrics import read_events
from node.runtime.coordinator_runner import CoordinatorRunner
from node.runtime.local_run import StartTrainer
from node.runtime.node_runner import NodeRunner
from node.training.protocol import Trainer
from node.training.synthetic import SyntheticTrainer
from node.units import MILLISECOND, SECOND

T = TypeVar("T")
LOOPBACK = "127.0.0.1"


def run(work: Awaitable[T], *, limit_s: float = 60.0) -> T:
    """Run a scenario with a deadline."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, limit_s)

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool], *, limit_s: float = 20.0, what: str = "") -> None:
    """Let the loop turn until something holds; fails at the deadline."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"not within {limit_s:g} s: {what or condition}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the members of a run are told."""

    nodes: dict[NodeId, NodeConfig]
    coordinator: CoordinatorConfig

    @property
    def results(self) -> Path:
        return Path(self.coordinator.results)

    def log(self, node: str) -> list[dict[str, Any]]:
        events = read_events(self.results / "nodes" / f"{node}.jsonl")
        found = list(events)
        assert events.skipped == 0
        return found

    def of(self, node: str, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.log(node) if event["kind"] == kind]

    def coordinator_log(self) -> list[dict[str, Any]]:
        return list(read_events(self.results / "coordinator.jsonl"))

    def of_coordinator(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.coordinator_log() if event["kind"] == kind]

    def links(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.results / "links.json").read_text())
        return content


def setting(
    results: Path,
    *,
    count: int = 3,
    path: PathSpec | None = None,
    policy: LinkPolicy = LinkPolicy.OFF,
    stop: StopConfig | None = None,
    options: dict[str, Any] | None = None,
    pacing: Pacing = Pacing.SEQUENTIAL,
    deadlines: Deadlines | None = None,
    step_ns: int = 2 * MILLISECOND,
    algorithm: str = "divshare",
    rounds: RoundsConfig | None = None,
    standby: tuple[NodeId, ...] = (),
) -> Setting:
    """A full overlay of nodes n-0, n-1, ...; `path` (emulated in the application) between all."""
    rounds = rounds or RoundsConfig()
    names = [NodeId(f"n-{i}") for i in range(count)]
    coordinator_port, *ports_of = free_ports(count + 1)
    ports = dict(zip(names, ports_of, strict=True))
    stop = stop or StopConfig(time_ns=30 * SECOND, rounds=5)
    training = TrainingConfig()
    deadlines = deadlines or Deadlines(
        join_ns=20 * SECOND, ready_ns=20 * SECOND, heartbeat_ns=100 * MILLISECOND
    )
    spec = path or PathSpec()
    nodes = {}
    for index, name in enumerate(names):
        peers = tuple(
            PeerLink(name=other, host=LOOPBACK, port=ports[other], out=spec, into=spec)
            for other in names
            if other != name
        )
        nodes[name] = NodeConfig(
            session="contract",
            name=name,
            index=index,
            members=tuple(names),
            neighbours=tuple(other for other in names if other != name),
            seed=7,
            host=LOOPBACK,
            port=ports[name],
            coordinator_host=LOOPBACK,
            coordinator_port=coordinator_port,
            links=LinksConfig(
                emulator=Emulator.APPLICATION if path is not None else Emulator.NETEM,
                policy=policy,
                peers=peers,
            ),
            algorithm=AlgorithmConfig(name=algorithm, options=options or {}, pacing=pacing),
            training=training,
            compute=ComputeConfig(step_ns=step_ns),
            stop=stop,
            deadlines=deadlines,
            results=str(results),
            rounds=rounds,
        )
    pairs = tuple(
        ExpectedPair(source=a, target=b, out=spec, back=spec)
        for a, b in itertools.permutations(names, 2)
    )
    coordinator = CoordinatorConfig(
        session="contract",
        members=tuple(names),
        seed=7,
        host=LOOPBACK,
        port=coordinator_port,
        policy=policy,
        pairs=pairs,
        candidates=len(pairs),
        training=training,
        stop=stop,
        deadlines=deadlines,
        results=str(results),
        rounds=rounds,
        overlay=tuple(itertools.combinations(names, 2)),
        standby=standby,
    )
    return Setting(nodes=nodes, coordinator=coordinator)


def toy(size: int = 2000) -> Callable[[NodeConfig, float], Awaitable[Trainer]]:
    async def start(config: NodeConfig, deadline_s: float) -> Trainer:
        return SyntheticTrainer(config, size=size)

    return start


def toy_evaluator(some: Setting, size: int = 2000) -> Callable[[Any, float], Awaitable[Trainer]]:
    async def start(config: CoordinatorConfig, deadline_s: float) -> Trainer:
        return SyntheticTrainer(next(iter(some.nodes.values())), size=size)

    return start


async def _life(runner: NodeRunner | CoordinatorRunner) -> int:
    try:
        await runner.open(signals=False)
        return await runner.ended()
    finally:
        await runner.close()


class World:
    """The run of a setting."""

    def __init__(self, some: Setting, *, run_dir: Path, size: int = 2000) -> None:
        self.setting = some
        self.run_dir = run_dir
        self._size = size
        self.nodes: dict[NodeId, NodeRunner] = {}
        self.statuses: dict[str, asyncio.Task[int]] = {}

    def start(self) -> None:
        self.start_coordinator()
        for name in self.setting.nodes:
            self.start_node(name)

    def start_coordinator(self) -> None:
        """Again, after it was killed: a later life of it."""
        runner = self.coordinator = CoordinatorRunner(
            self.setting.coordinator,
            start_evaluator=toy_evaluator(self.setting, self._size),
            run_dir=self.run_dir,
        )
        self.statuses["coordinator"] = asyncio.create_task(_life(runner))

    def start_node(
        self, name: NodeId, *, start_trainer: StartTrainer | None = None, **changes: Any
    ) -> None:
        config = dataclasses.replace(self.setting.nodes[name], **changes)
        trainer = start_trainer or toy(self._size)
        runner = NodeRunner(config, start_trainer=trainer, run_dir=self.run_dir)
        self.nodes[name] = runner
        self.statuses[name] = asyncio.create_task(_life(runner))

    async def ended(self) -> dict[str, int]:
        """Exit statuses of all that were started."""
        names = list(self.statuses)
        results = await asyncio.gather(*(self.statuses[name] for name in names))
        return dict(zip(names, results, strict=True))
