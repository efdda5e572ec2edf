"""Nodes that send load instead of training: over TCP, over the mesh, and as a whole run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from node.config import LinkPolicy, LoadConfig, Pacing, PathSpec, StopConfig
from node.core.ids import NodeId
from node.runtime.load_tcp import PORT, TcpLoad
from node.runtime.tasks import Tasks
from node.units import MILLISECOND, SECOND
from tests.contract.world import LOOPBACK, Setting, World, run, setting, until

N0, N1, N2 = (NodeId(f"n-{i}") for i in range(3))


def loaded(some: Setting, targets: dict[NodeId, tuple[NodeId, ...]]) -> Setting:
    nodes = {
        name: dataclasses.replace(config, load=LoadConfig(targets=targets.get(name, ())))
        for name, config in some.nodes.items()
    }
    return dataclasses.replace(some, nodes=nodes)


class Station:
    """One node's TCP load, and what has arrived at it."""

    def __init__(self, some: Setting, name: NodeId) -> None:
        self.arrived: Counter[NodeId] = Counter()
        self.defects: list[Exception] = []
        self.tasks = Tasks(on_defect=self.defects.append)
        self.config = some.nodes[name]
        self.load = TcpLoad(self.config, arrived=self._arrived, tasks=self.tasks)

    def _arrived(self, source: NodeId, size: int) -> None:
        self.arrived[source] += size

    async def close(self) -> None:
        await self.tasks.close()
        await self.load.close()
        assert self.defects == []

    async def more(self, source: NodeId) -> None:
        """Wait until clearly more has come from a node than is there now."""
        before = self.arrived[source]
        await until(lambda: self.arrived[source] > before + 10_000_000, what=f"load from {source}")


@asynccontextmanager
async def stations(tmp_path: Path) -> AsyncIterator[tuple[Station, Station]]:
    """n-0, which sends to n-1."""
    some = loaded(setting(tmp_path, count=2), {N0: (N1,)})
    pair = Station(some, N0), Station(some, N1)
    try:
        for station in pair:
            await station.load.open()
        yield pair
    finally:
        for station in pair:
            await station.close()


def test_what_is_sent_arrives_and_not_before_the_beginning(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stations(tmp_path) as (sender, receiver):
            assert await sender.load.connect(deadline_s=5) == []
            assert await receiver.load.connect(deadline_s=5) == []
            await asyncio.sleep(0.05)
            assert receiver.arrived[N0] == 0
            sender.load.begin()
            await receiver.more(N0)
            receiver.load.tick()  # fewer wake-ups from now on, and no less arrives
            await receiver.more(N0)
            assert set(receiver.arrived) == {N0}
            assert not sender.arrived

    run(scenario())


def test_a_target_that_does_not_listen_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stations(tmp_path) as (sender, receiver):
            await receiver.load.close()
            assert await sender.load.connect(deadline_s=0.5) == [N1]

    run(scenario())


def test_a_transfer_comes_back_by_itself(tmp_path: Path) -> None:
    """The receiver goes away and is there again, as after a path that was gone."""

    async def scenario() -> None:
        async with stations(tmp_path) as (sender, receiver):
            await sender.load.connect(deadline_s=5)
            sender.load.begin()
            await receiver.more(N0)
            await receiver.load.close()
            again = Station(loaded(setting(tmp_path, count=2), {}), N1)
            again.config = dataclasses.replace(
                receiver.config, load=LoadConfig(), links=receiver.config.links
            )
            again.load = TcpLoad(again.config, arrived=again._arrived, tasks=again.tasks)
            await again.load.open()
            await again.more(N0)
            await again.close()

    run(scenario())


def test_a_renewed_connection_is_another_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stations(tmp_path) as (sender, receiver):
            await sender.load.connect(deadline_s=5)
            sender.load.begin()
            await receiver.more(N0)
            (before,) = receiver.load._inflows.values()
            sender.load.renew(N1)
            await until(lambda: list(receiver.load._inflows.values()) not in ([], [before]))
            await receiver.more(N0)

    run(scenario())


def test_strangers_are_not_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stations(tmp_path) as (_, receiver):
            port = receiver.config.port + PORT
            greetings = [
                json.dumps({"session": "another", "from": "n-0"}).encode() + b"\n",
                json.dumps({"session": "contract", "from": "n-9"}).encode() + b"\n",
                b"[" * 100_000 + b"\n",
                b"\xff" * 5000,
            ]
            for greeting in greetings:
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(greeting + bytes(100_000))
                with contextlib.suppress(ConnectionError):  # ended with a reset
                    assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
            assert not receiver.arrived

    run(scenario())


def whole_run(some: Setting, tmp_path: Path) -> None:
    async def complete() -> None:
        world = World(some, run_dir=tmp_path)
        world.start()
        assert set((await world.ended()).values()) == {0}

    run(complete())


def rates(some: Setting, node: str) -> dict[str, list[float]]:
    """Bit/s from each source in every recorded interval, gaps checked."""
    found: dict[str, list[float]] = {}
    expected = 0.0
    for record in some.of(node, "throughput"):
        assert abs(record["begin"] - expected) < 1e-6
        counts = {len(sizes) for sizes in record["from"].values()} or {0}
        assert len(counts) == 1
        expected = record["begin"] + counts.pop() * record["every"]
        for source, sizes in record["from"].items():
            found.setdefault(source, []).extend(8 * size / record["every"] for size in sizes)
    return found


def test_a_run_of_load_over_tcp(tmp_path: Path) -> None:
    some = setting(tmp_path, stop=StopConfig(time_ns=1500 * MILLISECOND))
    some = loaded(some, {N0: (N1, N2), N1: (N0,)})
    whole_run(some, tmp_path)
    assert set(rates(some, "n-1")) == {"n-0"}
    assert set(rates(some, "n-0")) == {"n-1"}
    assert rates(some, "n-2")["n-0"][5] > 1e6
    for name in some.nodes:
        (finish,) = some.of(name, "finish")
        assert (finish["reason"], finish["error"]) == ("time", None)
        assert some.of(name, "trainer") == []
    kinds = {event["kind"] for event in some.coordinator_log()}
    assert not kinds & {"merged", "warning", "error", "refused"}


def test_a_run_of_load_over_emulated_links(tmp_path: Path) -> None:
    path = PathSpec(rate_bps=8_000_000, delay_ns=5 * MILLISECOND)
    some = setting(
        tmp_path,
        path=path,
        policy=LinkPolicy.OFF,
        pacing=Pacing.PARALLEL,
        stop=StopConfig(time_ns=2 * SECOND),
    )
    some = loaded(some, {N0: (N1, N2)})
    whole_run(some, tmp_path)
    for target in ("n-1", "n-2"):
        steady = rates(some, target)["n-0"][5:19]
        assert 0.6 * 8e6 < sum(steady) / len(steady) < 0.96 * 8e6
