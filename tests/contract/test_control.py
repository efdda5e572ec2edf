"""Links that change while a run goes on, by plan and by hand; all members in one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from node.config import (
    AccessLink,
    LinkChange,
    LinksConfig,
    NodeConfig,
    PathChange,
    PathSpec,
    Replan,
    StopConfig,
    from_json,
    to_json,
)
from node.core.ids import NodeId
from node.runtime.control_folder import file_name
from node.runtime.link_agent import VARIABLE
from node.units import MILLISECOND, SECOND
from tests.contract.world import Setting, World, run, setting, until

N0, N1, N2 = (NodeId(f"n-{i}") for i in range(3))
LONG = StopConfig(time_ns=60 * SECOND)
SLOW = 100 * MILLISECOND
"""A training step that leaves the links idle for most of the time."""
LATE_MS = 20.0
"""Asked for; a machine that is busy with other things is given some more."""
SLACK_MS = 100.0


def spec(delay_ms: float, rate_mbit: float = 20) -> PathSpec:
    return PathSpec(rate_bps=int(rate_mbit * 1e6), delay_ns=int(delay_ms * MILLISECOND))


def to(name: NodeId, path: PathSpec | None) -> PathChange:
    return PathChange(name=name, out=path, into=path)


def changing(some: Setting, changes: dict[NodeId, tuple[LinkChange, ...]]) -> Setting:
    """The setting, with these changes planned."""
    nodes = {
        name: dataclasses.replace(
            config, links=dataclasses.replace(config.links, changes=changes.get(name, ()))
        )
        for name, config in some.nodes.items()
    }
    return dataclasses.replace(some, nodes=nodes)


def change(at_s: float, *peers: PathChange, **others: Any) -> LinkChange:
    return LinkChange(at_ns=round(at_s * SECOND), what=("because",), peers=peers, **others)


async def ping_ms(world: World, source: NodeId, target: NodeId, *, limit_s: float = 5.0) -> float:
    """The shortest of three round trips."""
    stream = world.nodes[source].mesh.stream(target)
    assert stream is not None
    answers = [await asyncio.wait_for(stream.ping(), limit_s) for _ in range(3)]
    assert all(answers)
    return min(answer for answer in answers if answer) / MILLISECOND


async def settled_below_ms(world: World, limit_ms: float) -> float:
    """A round trip from n-0 to n-1 that is shorter, once what had queued up before is through."""
    async with asyncio.timeout(10):
        while (found := await ping_ms(world, N0, N1)) >= limit_ms:
            pass
    return found


def of(some: Setting, node: NodeId, kind: str) -> list[dict[str, Any]]:
    """Records of a node whose log may not be there yet."""
    path = some.results / "nodes" / f"{node}.jsonl"
    return some.of(node, kind) if path.exists() else []


async def begin(some: Setting, tmp_path: Path) -> World:
    world = World(some, run_dir=tmp_path)
    world.start()
    await until(lambda: all(of(some, n, "start") for n in some.nodes), what="the start")
    return world


async def stop(world: World) -> dict[str, int]:
    for node in world.nodes.values():
        node._stop("SIGTERM")
    return await world.ended()


def order(some: Setting, number: int, **content: Any) -> None:
    """Leave an order as `deploy` does."""
    folder = some.results / "control"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"number": number, "what": ["by hand"], **content})
    (folder / ".scratch").write_text(text)
    (folder / ".scratch").replace(folder / file_name(number))


def order_links(
    some: Setting, number: int, at_s: float, plans: dict[NodeId, tuple[LinkChange, ...]]
) -> None:
    at = round(at_s * SECOND)
    found = {
        name: json.loads(to_json(Replan(at_ns=at, changes=made))) for name, made in plans.items()
    }
    order(some, number, kind="links", at_ns=at, plans=found)


def test_planned_changes_come_in_time_everywhere_and_are_recorded(tmp_path: Path) -> None:
    pair = {N0: N1, N1: N0}
    planned = {
        me: (change(0.8, to(other, spec(40))), change(1.6, to(other, spec(5))))
        for me, other in pair.items()
    }
    some = changing(setting(tmp_path, path=spec(5), stop=LONG, step_ns=SLOW), planned)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        assert 10 <= await ping_ms(world, N0, N1) <= 10 + SLACK_MS
        await until(lambda: all(len(of(some, n, "link")) == 1 for n in pair), what="the first")
        assert await ping_ms(world, N0, N1) >= 80
        assert await ping_ms(world, N0, N2) >= 10
        await until(lambda: all(len(of(some, n, "link")) == 2 for n in pair), what="the second")
        assert await settled_below_ms(world, 80) >= 10
        await stop(world)

    run(scenario())
    for me, other in pair.items():
        for record, at, delay in zip(of(some, me, "link"), (0.8, 1.6), (40, 5), strict=True):
            assert record["at"] == at
            assert record["what"] == ["because"]
            assert record["error"] is None
            assert record["applied"][other]["out"]["delay_ms"] == delay
            assert 0 <= record["late_ms"] <= LATE_MS + SLACK_MS
            assert record["t"] == pytest.approx(at + record["late_ms"] / 1000, abs=0.05)
    assert of(some, N2, "link") == []


def test_nothing_passes_a_path_that_is_gone_and_nothing_is_lost_for_good(tmp_path: Path) -> None:
    """Bytes that were under way come after all, as TCP's would; the stream lives on."""
    gone = {
        me: (change(0.6, to(other, None)), change(2.0, to(other, spec(5))))
        for me, other in {N0: N1, N1: N0}.items()
    }
    some = changing(setting(tmp_path, path=spec(5), stop=LONG, count=2), gone)

    async def scenario() -> tuple[int, int]:
        world = await begin(some, tmp_path)
        await until(lambda: len(of(some, N0, "link")) == 1, what="the path goes")
        await asyncio.sleep(0.1)  # both ends have done it
        stream = world.nodes[N0].mesh.stream(N1)
        assert stream is not None
        before, answer = stream.received_bytes, stream.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answer), 0.8)
        during = stream.received_bytes
        assert await asyncio.wait_for(answer, 5), "the ping is answered after all"
        assert stream is world.nodes[N0].mesh.stream(N1)
        await until(lambda: stream.received_bytes > during, what="more bytes")
        await stop(world)
        return before, during

    before, during = run(scenario())
    assert during == before
    assert len(of(some, N0, "link")) == 2
    lost = [e for n in (N0, N1) for e in of(some, n, "peer") if e["change"] == "lost"]
    assert all(e["t"] > 2.0 for e in lost), "nobody was lost while the path was gone"


def test_a_node_that_comes_later_is_reached_when_its_path_is_there(tmp_path: Path) -> None:
    """The run begins without it; nobody waits for a connection that cannot be yet."""
    base = setting(tmp_path, path=spec(2), stop=LONG)

    def apart(me: NodeId, links: LinksConfig) -> LinksConfig:
        far = {N2} if me != N2 else {N0, N1}
        peers = tuple(
            dataclasses.replace(p, out=None, into=None) if p.name in far else p for p in links.peers
        )
        joined = change(1.0, *(to(name, spec(2)) for name in sorted(far)))
        return dataclasses.replace(links, peers=peers, changes=(joined,))

    nodes = {
        name: dataclasses.replace(config, links=apart(name, config.links))
        for name, config in base.nodes.items()
    }
    some = dataclasses.replace(base, nodes=nodes)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        assert of(some, N2, "peer") == []
        await until(lambda: len(of(some, N2, "peer")) >= 2, what="n-2 is connected")
        assert await ping_ms(world, N2, N0) >= 4
        await stop(world)

    run(scenario())
    assert all(event["t"] >= 1.0 for event in of(some, N2, "peer"))
    assert not [e for n in some.nodes for e in of(some, n, "refused")]


def test_an_access_link_changes_for_all_paths_through_it(tmp_path: Path) -> None:
    base = setting(tmp_path, path=spec(1, rate_mbit=100), stop=LONG)
    slow = change(0.3, access=(AccessLink(name="up", rate_bps=1_000_000),))
    links = base.nodes[N0].links
    links = dataclasses.replace(
        links,
        up=(AccessLink(name="up", rate_bps=50_000_000),),
        peers=tuple(dataclasses.replace(peer, up="up") for peer in links.peers),
        changes=(slow,),
    )
    nodes = {**base.nodes, N0: dataclasses.replace(base.nodes[N0], links=links)}
    some = dataclasses.replace(base, nodes=nodes)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        await until(lambda: len(of(some, N0, "link")) == 1, what="the change")
        await stop(world)

    run(scenario())
    (record,) = of(some, N0, "link")
    assert {p: a["out"]["rate_bps"] for p, a in record["applied"].items()} == dict.fromkeys(
        (N1, N2), 1_000_000
    )


def test_orders_in_the_control_folder_are_followed_and_nonsense_is_refused(tmp_path: Path) -> None:
    planned = {N0: (change(2.5, to(N1, spec(60))),), N1: (change(2.5, to(N0, spec(60))),)}
    some = changing(setting(tmp_path, path=spec(5), stop=LONG, step_ns=SLOW), planned)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        (tmp_path / "control").mkdir()
        (tmp_path / "control" / file_name(1)).write_text("{")
        (tmp_path / "control" / file_name(2)).write_text('{"number": 3, "kind": "links"}')
        order(some, 3, kind="node", node="n-1", verb="explode")
        order(some, 4, kind="links", at_ns=1, plans={"n-0": {"at_ns": "x"}})
        hand = {
            N0: (change(1.0, to(N1, spec(30))), change(1.8, to(N1, spec(2)))),
            N1: (change(1.0, to(N0, spec(30))), change(1.8, to(N0, spec(2)))),
        }
        order_links(some, 5, 1.0, hand)
        await until(lambda: len(of(some, N0, "link")) == 1, what="by hand")
        assert await ping_ms(world, N0, N1) >= 60
        await until(lambda: len(of(some, N0, "link")) == 2, what="what was planned instead")
        await asyncio.sleep(1.0)  # the former plan's time passes
        assert await settled_below_ms(world, 60) >= 4, "the former plan holds no more"
        await stop(world)

    run(scenario())
    said = some.of_coordinator("control")
    assert [record["state"] for record in said] == ["refused"] * 4 + ["ordered"]
    for record, words in zip(said, ("not JSON", "not an order", "explode", "at_ns"), strict=False):
        assert words in record["reason"]
    assert (said[4]["number"], said[4]["at"], said[4]["nodes"]) == (5, 1.0, [N0, N1])
    assert [e["at"] for e in of(some, N0, "link")] == [1.0, 1.8]


def test_orders_wait_for_the_run_and_outlive_a_coordinator(tmp_path: Path) -> None:
    """An order that is there before the start is followed, once, whoever coordinates."""
    some = setting(tmp_path, path=spec(5), stop=LONG, step_ns=SLOW)
    hand = {N0: (change(0.3, to(N1, spec(30))),), N1: (change(0.3, to(N0, spec(30))),)}
    order_links(some, 1, 0.3, hand)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        await until(lambda: all(len(of(some, n, "link")) == 1 for n in hand), what="by hand")
        old = world.statuses.pop("coordinator")
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)
        world.start_coordinator()
        again = {N0: (change(0.6, to(N1, spec(2))),), N1: (change(0.6, to(N0, spec(2))),)}
        order_links(some, 2, 0.6, again)
        await until(lambda: all(len(of(some, n, "link")) == 2 for n in hand), what="again")
        await stop(world)

    run(scenario())
    said = some.of_coordinator("control")
    assert [(record["number"], record["state"]) for record in said] == [
        (1, "ordered"),
        (2, "ordered"),
    ]
    assert [e["at"] for e in of(some, N0, "link")] == [0.3, 0.6]


def test_an_order_that_comes_late_ends_in_the_right_state(tmp_path: Path) -> None:
    some = setting(tmp_path, path=spec(5), stop=LONG)

    async def scenario() -> None:
        world = await begin(some, tmp_path)
        await until(lambda: len(of(some, N0, "round")) > 3, what="some rounds")
        hand = {N0: (change(0.01, to(N1, None)), change(0.02, to(N1, spec(40))))}
        order_links(some, 1, 0.01, hand)
        await until(lambda: len(of(some, N0, "link")) == 2, what="both at once")
        assert await ping_ms(world, N0, N1) >= 40
        await stop(world)

    run(scenario())
    assert all(event["late_ms"] > 0 for event in of(some, N0, "link"))


def test_the_agent_is_told_of_the_start_and_of_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links of the kernel are the agent's: the node process writes to the pipe, records nothing."""
    some = setting(tmp_path, count=2, stop=LONG)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    lines: list[dict[str, Any]] = []
    rest = b""

    def read() -> int:
        nonlocal rest
        try:
            *whole, rest = (rest + os.read(reader, 1 << 20)).split(b"\n")
        except BlockingIOError:
            whole = []
        lines.extend(json.loads(line) for line in whole)
        return len(lines)

    # Larger than a pipe takes at once: writing it must not stop the node.
    many = tuple(to(NodeId(f"x-{i}"), spec(i + 1)) for i in range(2000))

    async def scenario() -> None:
        world = World(some, run_dir=tmp_path)
        world.start_coordinator()
        monkeypatch.setenv(VARIABLE, str(writer))
        world.start_node(N0)
        monkeypatch.delenv(VARIABLE)
        world.start_node(N1)
        await until(lambda: all(of(some, n, "start") for n in some.nodes), what="the start")
        order_links(some, 1, 1.0, {N0: (change(1.0, *many),)})
        await until(lambda: some.of_coordinator("control") != [], what="the order")
        rounds = len(of(some, N0, "round"))
        await until(lambda: len(of(some, N0, "round")) > rounds + 3, what="it trains on")
        await until(lambda: read() == 2, what="both lines")
        await stop(world)

    run(scenario())
    os.close(reader)
    os.close(writer)
    start, told = lines
    assert start["start"] / SECOND == of(some, N0, "start")[0]["at_wall"]
    plan = from_json(Replan, json.dumps(told["change"]))
    assert plan.changes[0].peers == many
    assert of(some, N0, "link") == []


def test_a_node_that_is_started_again_takes_part_with_its_links_as_they_are(
    tmp_path: Path,
) -> None:
    planned = {me: (change(0.5, to(N1, spec(30))),) for me in (N0, N2)}
    planned[N1] = (change(0.5, to(N0, spec(30)), to(N2, spec(30))),)
    rounds = StopConfig(time_ns=60 * SECOND, rounds=200)
    some = changing(setting(tmp_path, path=spec(5), stop=rounds, step_ns=5 * MILLISECOND), planned)

    async def scenario() -> dict[str, int]:
        world = await begin(some, tmp_path)
        await until(lambda: len(of(some, N1, "link")) == 1, what="the change")
        order(some, 1, kind="node", node="n-1", verb="restart")
        await until(lambda: some.of_coordinator("control") != [], what="the order")
        old = world.statuses.pop(N1)
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)
        world.start_node(N1)
        await until(lambda: len(of(some, N1, "link")) == 2, what="the change, again")
        await until(lambda: len(of(some, N1, "start")) == 2, what="it takes part")
        assert await ping_ms(world, N1, N0) >= 60
        return await world.ended()

    statuses = run(scenario(), limit_s=90)
    assert set(statuses.values()) == {0}
    first, second = (record["at_wall"] for record in of(some, N1, "start"))
    assert first == pytest.approx(second, abs=1e-6), "the run clock is the same as before"
    states = [e["state"] for e in some.of_coordinator("sync")]
    assert states == ["assigned", "done"]
    assert of(some, N1, "bytes")[-1]["sync_received"] == 4 * 2000
    assert of(some, N0, "finish")[0]["reason"] == "rounds"
    (finish,) = some.of_coordinator("finish")
    assert finish["error"] is None
    (merged,) = some.of_coordinator("merged")
    assert merged["models"] == 3


def test_configurations_with_changes_are_the_same_after_json(tmp_path: Path) -> None:
    some = changing(setting(tmp_path, path=spec(5)), {N0: (change(1, to(N1, None)),)})
    assert from_json(NodeConfig, to_json(some.nodes[N0])) == some.nodes[N0]
