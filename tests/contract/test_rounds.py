"""Rounds among peers over loopback gRPC: barriers, latecomers, model sync, a coordinator that dies.

The orders in which things may happen are the simulation's (tests/simulation); here are the streams.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.config import (
    Deadlines,
    Mode,
    NodeConfig,
    PathSpec,
    PeerLink,
    RoundsConfig,
    StopConfig,
    Unreachable,
)
from node.core.ids import NodeId
from node.training.protocol import Trainer
from node.training.synthetic import SyntheticTrainer
from node.units import MILLISECOND, SECOND
from tests.contract.world import LOOPBACK, Setting, World, free_ports, run, setting, until

N0, N1, N2, N3 = NODES = tuple(NodeId(f"n-{i}") for i in range(4))
TIMEOUT, RETRIES = SECOND, 1
SYNC = RoundsConfig(
    mode=Mode.SYNC,
    connection_timeout_ns=TIMEOUT,
    max_connection_retry=RETRIES,
    gather_ns=5 * SECOND,
    share_ns=5 * SECOND,
    sync_ns=2 * SECOND,
)
ASYNC = dataclasses.replace(SYNC, mode=Mode.ASYNC)
LEASE_S = 3
WAITS = Deadlines(
    join_ns=20 * SECOND,
    ready_ns=20 * SECOND,
    stop_ns=5 * SECOND,
    heartbeat_ns=100 * MILLISECOND,
    lease_ns=LEASE_S * SECOND,
    peer_ns=2 * SECOND,
)
ALGORITHM = {Mode.SYNC: "dpsgd", Mode.ASYNC: "divshare"}
BARRIER_S = (RETRIES + 1) * TIMEOUT / SECOND + 2


def rounds_of(
    folder: Path, rounds: RoundsConfig, *, stop_rounds: int | None = None, **options: Any
) -> Setting:
    """Four nodes in a full overlay, which learn by the algorithm of the mode."""
    options.setdefault("step_ns", 2 * MILLISECOND)
    options.setdefault("options", {"local_steps": 5})
    options.setdefault("count", 4)
    return setting(
        folder,
        algorithm=ALGORITHM[rounds.mode],
        rounds=rounds,
        deadlines=WAITS,
        stop=StopConfig(time_ns=60 * SECOND, rounds=stop_rounds),
        **options,
    )


def of(some: Setting, node: NodeId, kind: str) -> list[dict[str, Any]]:
    """Records of a node whose log may not be there yet."""
    path = some.results / "nodes" / f"{node}.jsonl"
    return some.of(node, kind) if path.exists() else []


def rounds(some: Setting, node: NodeId) -> int:
    return len(of(some, node, "round"))


async def ended(world: World, *, limit_s: float = 40) -> dict[str, int]:
    async with asyncio.timeout(limit_s):
        return await world.ended()


async def stop(world: World) -> dict[str, int]:
    """End the run as a person would, at the coordinator."""
    world.coordinator._stop("SIGTERM")
    return await ended(world)


async def kill(world: World, name: str) -> None:
    """End a member without a word to anybody, as SIGKILL would."""
    task = world.statuses.pop(name)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def cut(config: NodeConfig, peer: NodeId) -> NodeConfig:
    """The node's links without a path to this peer."""
    peers = tuple(
        PeerLink(name=p.name, host=p.host, port=p.port) if p.name == peer else p
        for p in config.links.peers
    )
    return dataclasses.replace(config, links=dataclasses.replace(config.links, peers=peers))


def redirected(config: NodeConfig, peer: NodeId, port: int) -> NodeConfig:
    """The node's links with another port for this peer."""
    peers = tuple(
        dataclasses.replace(p, port=port) if p.name == peer else p for p in config.links.peers
    )
    return dataclasses.replace(config, links=dataclasses.replace(config.links, peers=peers))


def shares(some: Setting, node: NodeId) -> dict[int, dict[str, Any]]:
    """What a node has aggregated, by round."""
    records = of(some, node, "share")
    found = {record["round"]: record for record in records}
    assert len(found) == len(records), "a round is aggregated once"
    return found


# --- rounds


def test_all_aggregate_in_the_same_rounds_and_attempts(tmp_path: Path) -> None:
    some = rounds_of(tmp_path, SYNC, stop_rounds=6)

    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path)
        world.start()
        return await ended(world)

    assert set(run(scenario()).values()) == {0}
    for name in some.nodes:
        found = shares(some, name)
        assert list(found) == list(range(6))
        for record in found.values():
            assert sorted(record["received"]) == [n for n in some.nodes if n != name]
            assert record["missing"] == []
    for number in range(6):
        assert len({shares(some, name)[number]["attempt"] for name in some.nodes}) == 1
    # All average with equal weights: the same model everywhere, and what each sent is arithmetic.
    models = [np.fromfile(tmp_path / "nodes" / f"{n}.f32", dtype="<f4") for n in some.nodes]
    for model in models[1:]:
        assert np.allclose(model, models[0], atol=1e-5)
    for name in some.nodes:
        last = of(some, name, "bytes")[-1]
        assert last["model_sent"] == 6 * 3 * 2000 * 4
        assert last["sync_sent"] == last["sync_received"] == 0
        assert not of(some, name, "refused")


@pytest.mark.parametrize("mode", Mode)
def test_an_edge_without_a_path_is_dropped_and_only_that(tmp_path: Path, mode: Mode) -> None:
    chosen = SYNC if mode is Mode.SYNC else ASYNC
    some = rounds_of(tmp_path, chosen, stop_rounds=4)
    some.nodes[N1] = cut(some.nodes[N1], N2)  # n-2 knows of a path, and is not answered

    async def scenario() -> tuple[dict[str, int], float]:
        world = World(some, run_dir=tmp_path)
        begin = time.monotonic()
        world.start()
        await until(lambda: all(rounds(some, n) for n in NODES), what="a round of each")
        first = "share" if mode is Mode.SYNC else "round"
        await until(lambda: all(of(some, n, first) for n in NODES), what="they share")
        took = time.monotonic() - begin
        return await ended(world), took

    statuses, took = run(scenario())
    assert set(statuses.values()) == {0}
    assert took < BARRIER_S + 3, "and what it takes to come up"
    (edge,) = some.of_coordinator("edge")
    assert (edge["peers"], edge["state"]) == ([N1, N2], "dropped")
    states = {(e["member"], e["state"]) for e in some.of_coordinator("member")}
    assert not {state for _, state in states} & {"expelled", "lost", "failed"}
    if mode is Mode.SYNC:
        for record in shares(some, N1).values():
            assert sorted(record["received"]) == [N0, N3]
        for record in shares(some, N0).values():
            assert sorted(record["received"]) == [N1, N2, N3]


@pytest.mark.parametrize("unreachable", Unreachable)
def test_a_node_whose_port_answers_nothing(tmp_path: Path, unreachable: Unreachable) -> None:
    """The others start in time, with it (and none of its edges) or without it."""
    some = rounds_of(tmp_path, dataclasses.replace(SYNC, unreachable=unreachable), stop_rounds=4)

    async def scenario() -> tuple[dict[str, int], float]:
        (port,) = free_ports(1)
        mute = await asyncio.start_server(lambda *_: None, LOOPBACK, port)
        for name in (N0, N1, N2):
            some.nodes[name] = redirected(some.nodes[name], N3, port)
        async with mute:
            world = World(some, run_dir=tmp_path)
            world.start()
            await until(lambda: all(rounds(some, n) for n in (N0, N1, N2)), what="training")
            begin = time.monotonic()
            await until(lambda: all(shares(some, n) for n in (N0, N1, N2)), what="sharing")
            took = time.monotonic() - begin
            return await ended(world), took

    statuses, took = run(scenario())
    assert took < BARRIER_S
    for name in (N0, N1, N2):
        assert statuses[name] == 0
        for record in shares(some, name).values():
            assert sorted(record["received"]) == [n for n in (N0, N1, N2) if n != name]
    if unreachable is Unreachable.PEERS:
        assert statuses[N3] == 1
        assert statuses["coordinator"] == 1
        said = "no connection to n-0, n-1, n-2 in 2 attempts of round 0"
        assert said in str(of(some, N3, "finish")[0]["error"])
        (gone,) = [e for e in some.of_coordinator("member") if e["state"] == "expelled"]
        assert gone["member"] == N3
        assert said in gone["error"]
        assert said in some.of_coordinator("finish")[0]["error"]
    else:
        assert set(statuses.values()) == {0}
        dropped = sorted(e["peers"] for e in some.of_coordinator("edge"))
        assert dropped == [[N0, N3], [N1, N3], [N2, N3]]


# --- latecomers and model sync


@pytest.mark.parametrize("mode", Mode)
def test_a_latecomer_gets_the_model_and_takes_part(tmp_path: Path, mode: Mode) -> None:
    chosen = SYNC if mode is Mode.SYNC else ASYNC
    some = rounds_of(tmp_path, chosen, standby=(N3,))

    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path)
        world.start_coordinator()
        for name in (N0, N1, N2):
            world.start_node(name)
        await until(lambda: rounds(some, N0) > 10, what="some rounds without it")
        world.start_node(N3)
        await until(lambda: rounds(some, N3) > 5, what="rounds of the newcomer")
        await until(lambda: rounds(some, N0) > 20, what="the others go on")
        return await stop(world)

    statuses = run(scenario())
    assert {statuses[name] for name in NODES} == {0}
    assert [e["state"] for e in some.of_coordinator("sync")] == ["assigned", "done"]
    (synced,) = [e for e in some.of_coordinator("sync") if e["state"] == "done"]
    assert synced["member"] == N3
    provider = some.of_coordinator("sync")[0]["provider"]
    assert of(some, N3, "bytes")[-1]["sync_received"] == 4 * 2000
    assert of(some, provider, "bytes")[-1]["sync_sent"] >= 4 * 2000
    first = of(some, N3, "round")[0]
    assert first["round"] > 5, "it does not begin at 0"
    begin = of(some, N3, "evaluation")[0]
    theirs_at = [e["accuracy"] for e in of(some, N0, "evaluation") if e["t"] <= begin["t"]]
    assert begin["accuracy"] > 0.5 * (theirs_at[0] + theirs_at[-1]), "nor from nothing"
    if mode is Mode.SYNC:
        mine, theirs = shares(some, N3), shares(some, N0)
        assert set(mine) <= set(theirs)
        both = [n for n in mine if N3 in theirs[n]["received"]]
        assert len(both) >= len(mine) - 1, "the last round may have been cut off by the end"
        assert all(mine[n]["attempt"] == theirs[n]["attempt"] for n in both)


def slow_model(folder: Path, chosen: RoundsConfig, *, size: int, **options: Any) -> Setting:
    """Links on which a model of `size` parameters takes about 0.4 s."""
    path = PathSpec(rate_bps=80 * size, delay_ns=5 * MILLISECOND)
    return rounds_of(folder, chosen, path=path, step_ns=100 * MILLISECOND, **options)


SIZE = 200_000


@pytest.mark.parametrize("mode", Mode)
def test_a_member_that_comes_back_gets_the_rest_after_its_stream_broke(
    tmp_path: Path, mode: Mode
) -> None:
    chosen = SYNC if mode is Mode.SYNC else ASYNC
    some = slow_model(tmp_path, chosen, size=SIZE, count=3)

    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path, size=SIZE)
        world.start()
        await until(lambda: all(rounds(some, n) > 1 for n in some.nodes), what="rounds")
        await kill(world, N2)
        await until(lambda: rounds(some, N0) > 3, what="the others go on")
        world.start_node(N2)
        newcomer = world.nodes[N2]
        await until(
            lambda: newcomer.mesh.traffic.sync_received > SIZE, what="a quarter of the model"
        )
        (assigned,) = some.of_coordinator("sync")
        stream = newcomer.mesh.stream(assigned["provider"])
        assert stream is not None
        stream.end("broken by the test")
        await until(lambda: len(of(some, N2, "start")) == 2, limit_s=40, what="it takes part")
        await until(lambda: rounds(some, N2) > 4, limit_s=30, what="rounds of its new life")
        return await stop(world)

    statuses = run(scenario(), limit_s=110)
    assert {statuses[name] for name in some.nodes} == {0}
    assert [e["state"] for e in some.of_coordinator("sync")] == ["assigned", "done"]
    received = of(some, N2, "bytes")[-1]["sync_received"]
    assert 4 * SIZE <= received < 1.5 * 4 * SIZE, "what had come was not sent again"
    lives = [e["incarnation"] for e in of(some, N2, "process")]
    assert lives[1] > lives[0]


def test_a_provider_that_dies_in_the_middle_is_replaced(tmp_path: Path) -> None:
    some = slow_model(tmp_path, ASYNC, size=SIZE, standby=(N3,))

    async def scenario() -> str:
        world = World(some, run_dir=tmp_path, size=SIZE)
        world.start_coordinator()
        for name in (N0, N1, N2):
            world.start_node(name)
        await until(lambda: all(rounds(some, n) > 1 for n in (N0, N1, N2)), what="rounds")
        world.start_node(N3)
        newcomer = world.nodes[N3]
        await until(
            lambda: newcomer.mesh.traffic.sync_received > SIZE, what="a quarter of the model"
        )
        provider = NodeId(some.of_coordinator("sync")[0]["provider"])
        await kill(world, provider)
        await until(lambda: rounds(some, N3) > 1, limit_s=40, what="the newcomer trains")
        statuses = await stop(world)
        assert {statuses[n] for n in NODES if n != provider} == {0}
        return provider

    provider = run(scenario(), limit_s=110)
    said = [(e["state"], e["provider"]) for e in some.of_coordinator("sync")]
    assert [state for state, _ in said] == ["assigned", "failed", "assigned", "done"]
    assert said[0][1] == provider != said[2][1]


# --- the coordinator


def gaps(some: Setting, node: NodeId) -> float:
    """The longest time (s) between two rounds of training."""
    times = [record["t"] for record in of(some, node, "round")]
    return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("mode", Mode)
def test_a_coordinator_that_dies_is_replaced_in_the_middle(tmp_path: Path, mode: Mode) -> None:
    """Synchronous rounds go on within a lease and 5 s; asynchronous training never stops."""
    chosen = SYNC if mode is Mode.SYNC else ASYNC
    some = rounds_of(tmp_path, chosen, step_ns=5 * MILLISECOND)
    control = tmp_path / "control"

    def order(number: int, text: str) -> None:
        control.mkdir(exist_ok=True)
        (control / f"{number:06d}.json").write_text(text)

    async def scenario() -> tuple[dict[str, int], float]:
        world = World(some, run_dir=tmp_path)
        world.start()
        await until(lambda: all(rounds(some, n) > 5 for n in NODES), what="rounds")
        order(1, '{"number": 1, "kind": "links", "at_ns": 1, "what": [], "plans": {}}')
        order(2, "{")
        await until(lambda: len(some.of_coordinator("control")) == 2, what="orders")
        await kill(world, "coordinator")
        with (tmp_path / "coordinator.jsonl").open("a") as log:
            log.write('{"t": 1, "kind": "rou')  # it died in the middle of a line
        await asyncio.sleep(1.0)
        before = {name: rounds(some, name) for name in NODES}
        begin = time.monotonic()
        world.start_coordinator()
        await until(
            lambda: all(rounds(some, name) > before[name] + 2 for name in NODES),
            what="rounds under the new coordinator",
        )
        took = time.monotonic() - begin
        order(3, '{"number": 3, "kind": "links", "at_ns": 2, "what": [], "plans": {}}')
        await until(lambda: len(some.of_coordinator("control")) == 3, what="a new order")
        return await stop(world), took

    statuses, took = run(scenario())
    assert {statuses[name] for name in NODES} == {0}
    assert took < LEASE_S + 5
    assert [e["number"] for e in some.of_coordinator("control") if "number" in e] == [1, 3]
    assert len(some.of_coordinator("start")) == 1
    began = some.of_coordinator("start")[0]["at_wall"]
    for record in some.of_coordinator("phase")[-2:]:
        assert record["t"] == pytest.approx(record["wall"] - began, abs=0.01), "the same run clock"
    assert not [e for e in some.of_coordinator("member") if e["state"] in ("lost", "failed")]
    if mode is Mode.ASYNC:
        assert max(gaps(some, name) for name in NODES) < 0.6, "as long as the rest of this machine"
    else:
        for name in NODES:
            found = shares(some, name)
            assert list(found) == list(range(len(found))), "no round is left out"


def test_a_coordinator_that_dies_before_the_start_begins_anew(tmp_path: Path) -> None:
    some = rounds_of(tmp_path, SYNC, stop_rounds=3)

    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path)
        world.start_coordinator()
        for name in (N0, N1, N2):
            world.start_node(name)
        await until(
            lambda: len([e for e in some.of_coordinator("member") if e["state"] == "joined"]) == 3
        )
        await kill(world, "coordinator")
        world.start_coordinator()
        world.start_node(N3)
        return await ended(world)

    assert set(run(scenario()).values()) == {0}


# --- a trainer that takes its time to come up


def test_members_that_are_not_ready_yet_are_waited_for(tmp_path: Path) -> None:
    some = rounds_of(tmp_path, ASYNC, stop_rounds=3)

    def late(delay_s: float) -> Callable[[NodeConfig, float], Awaitable[Trainer]]:
        async def start(config: NodeConfig, deadline_s: float) -> Trainer:
            await asyncio.sleep(delay_s)
            return SyntheticTrainer(config, size=2000)

        return start

    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path)
        world.start_coordinator()
        for index, name in enumerate(NODES):
            world.start_node(name, start_trainer=late(0.3 * index))
        return await ended(world)

    assert set(run(scenario()).values()) == {0}
    assert not some.of_coordinator("edge")
    starts = {of(some, name, "start")[0]["at_wall"] for name in NODES}
    assert len(starts) == 1
