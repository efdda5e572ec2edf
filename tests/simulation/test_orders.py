"""What is ordered while a run goes on, over many seeds. A failing test's id names its seed."""

from __future__ import annotations

from typing import Any

import pytest

from node.config import LinkChange, LinkPolicy, Replan, StopConfig, to_json
from node.core.events import LinksOrdered, NodeOrdered
from node.core.ids import NodeId
from node.core.seats import Seat
from node.core.signals import ChangeLinks
from node.units import SECOND
from tests.simulation.harness import DEADLINES, World, seeds

LEASE_S = DEADLINES.lease_ns / SECOND
N0, N1, N2 = (NodeId(f"n-{i}") for i in range(3))
BEGUN_S = 9.0
"""By then every run here has begun, with links that are not measured."""


def trained(seed: int, *, for_s: float = 25.0) -> World:
    world = World(seed=seed, members=3, policy=LinkPolicy.OFF)
    world.train_s = dict.fromkeys(world.names, for_s)
    world.join_all()
    return world


def replan(at_s: float) -> Replan:
    at = round(at_s * SECOND)
    return Replan(at_ns=at, changes=(LinkChange(at_ns=at, what=("x",)),))


def links(number: int, *names: NodeId, at_s: float = 5.0) -> LinksOrdered:
    plan = to_json(replan(at_s))
    plans = dict.fromkeys(names, plan)
    return LinksOrdered(number=number, at_ns=round(at_s * SECOND), plans=plans, what=("x",))


def node(number: int, verb: str, who: NodeId = N1) -> NodeOrdered:
    return NodeOrdered(number=number, node=who, verb=verb, what=f"{verb} by hand")


def states(world: World, who: NodeId) -> list[Any]:
    records = [r.fields for r in world.coordinator.records if r.kind == "member"]
    return [fields["state"] for fields in records if fields["member"] == who]


def error(world: World) -> str | None:
    assert world.coordinator.finish is not None
    return world.coordinator.finish.error


@pytest.mark.parametrize("seed", seeds(100))
def test_an_order_reaches_those_that_it_concerns_once_and_in_order(seed: int) -> None:
    world = trained(seed)
    world.order(links(1, N0, N1, N2), after_s=BEGUN_S)
    world.order(links(2, N0, N2, at_s=6), after_s=BEGUN_S + float(world.rng.uniform(0, 1)))
    world.run(limit_s=60)
    assert error(world) is None
    both = [replan(5), replan(6)]
    assert [world.hosts[name].plans for name in world.names] == [both, [replan(5)], both]
    assert [(c["number"], c["state"]) for c in world.controls()] == [(1, "ordered"), (2, "ordered")]
    assert world.controls()[0]["nodes"] == [N0, N1, N2]


@pytest.mark.parametrize("seed", seeds(100))
def test_a_broken_stream_neither_loses_nor_doubles_an_order(seed: int) -> None:
    world = trained(seed)
    world.break_stream(N1, after_s=BEGUN_S, for_s=float(world.rng.uniform(0.1, 3)))
    for number in (1, 2, 3):
        at = BEGUN_S + number - 1 + float(world.rng.uniform(0, 1))
        world.order(links(number, *world.names, at_s=number), after_s=at)
    world.break_stream(N1, after_s=BEGUN_S + 4, for_s=0.5)
    world.run(limit_s=60)
    assert error(world) is None
    given = [c["number"] for c in world.controls()]
    for name in world.names:  # each builds on those before
        assert [plan.at_ns // SECOND for plan in world.hosts[name].plans] == given


def test_an_order_before_the_start_or_after_the_end_is_refused() -> None:
    world = trained(3)
    world.order(links(1, N0), after_s=0.0)
    world.order(node(2, "crash"), after_s=0.0)
    world.order(node(3, "pause", NodeId("n-9")), after_s=BEGUN_S)
    world.run(limit_s=60)
    said = {c["number"]: c for c in world.controls()}
    assert {c["state"] for c in said.values()} == {"refused"}
    assert said[1]["reason"] == "the run is gathering"
    assert said[3]["reason"] == "n-9 is not in this run"
    assert error(world) is None
    assert world.hosts[N0].plans == []


def test_a_plan_that_cannot_be_read_is_refused_by_name() -> None:
    world = trained(4)
    wrong = LinksOrdered(number=1, at_ns=0, plans={N0: '{"at_ns": "soon"}'})
    world.order(wrong, after_s=BEGUN_S)
    world.run(limit_s=60)
    assert world.hosts[N0].plans == []
    refused = world.controls()[-1]
    assert (refused["state"], refused["member"]) == ("refused", N0)
    assert "at_ns" in str(refused["reason"])
    assert error(world) is None


@pytest.mark.parametrize("seed", seeds(50))
@pytest.mark.parametrize("verb", ["crash", "leave"])
def test_who_was_ended_on_purpose_is_no_failure_and_nobody_waits(seed: int, verb: str) -> None:
    world = trained(seed, for_s=12)
    world.order(node(1, verb), after_s=BEGUN_S)
    world.crash(N1, after_s=BEGUN_S + 0.3)
    world.run(limit_s=60)
    assert error(world) is None
    assert states(world, N1)[-1] == {"crash": "killed", "leave": "left"}[verb]
    ended = world.coordinator.finished_at
    others = [world.hosts[name].began_at for name in (N0, N2)]
    assert ended is not None
    assert ended < max(at for at in others if at) + (12 + 3) * SECOND, "not a lease later"


@pytest.mark.parametrize("seed", seeds(50))
def test_a_short_pause_changes_nothing(seed: int) -> None:
    world = trained(seed)
    world.order(node(1, "pause"), after_s=BEGUN_S)
    world.pause(N1, after_s=BEGUN_S + 0.2, for_s=4)
    world.order(node(2, "resume"), after_s=BEGUN_S + 4.1)
    world.run(limit_s=80)
    assert error(world) is None
    assert states(world, N1)[-2:] == ["done", "left"]


@pytest.mark.parametrize("seed", seeds(50))
def test_one_that_is_paused_for_longer_than_a_lease_is_missed_and_comes_back(seed: int) -> None:
    world = trained(seed, for_s=40)
    world.order(node(1, "pause"), after_s=BEGUN_S)
    world.pause(N1, after_s=BEGUN_S + 0.2, for_s=LEASE_S + 5)
    world.order(node(2, "resume"), after_s=BEGUN_S + LEASE_S + 5.1)
    world.run(limit_s=120)
    assert error(world) is None
    assert "silent" in states(world, N1)
    assert "back" in states(world, N1)
    assert states(world, N1)[-1] == "left"


@pytest.mark.parametrize("seed", seeds(30))
def test_one_that_stays_paused_is_not_waited_for_at_the_end(seed: int) -> None:
    stop = StopConfig(time_ns=12 * SECOND)
    world = World(seed=seed, members=3, policy=LinkPolicy.OFF, stop=stop)
    world.train_s = dict.fromkeys(world.names)
    world.join_all()
    world.order(node(1, "pause"), after_s=BEGUN_S)
    world.pause(N1, after_s=BEGUN_S + 0.2, for_s=1000)
    world.after(200, lambda: setattr(world.hosts[N1], "alive", False))  # `deploy` ends it
    world.run(limit_s=300)
    assert error(world) is None
    assert world.coordinator.finished_at is not None
    assert states(world, N1)[-1] in ("paused at the end", "silent")


@pytest.mark.parametrize("seed", seeds(100))
def test_one_that_is_started_again_stays_idle_with_its_links_as_they_are(seed: int) -> None:
    world = trained(seed)
    world.order(links(1, N0, N1), after_s=BEGUN_S)
    world.order(node(2, "restart"), after_s=BEGUN_S + 0.5)
    world.restart(N1, after_s=BEGUN_S + 1 + float(world.rng.uniform(0, 14)))
    world.order(links(3, N0, N1, at_s=16.5), after_s=BEGUN_S + 16)
    world.run(limit_s=80)
    assert error(world) is None
    again = world.hosts[N1]
    assert again.idle_since is not None
    assert again.began_at is None
    assert again.plans == [replan(5), replan(16.5)], "what was ordered before, too"
    assert again.finish is not None
    assert again.finish.error is None
    assert "idle" in states(world, N1)
    for other in (N0, N2):
        finish = world.hosts[other].finish
        assert finish is not None
        assert finish.reason == "rounds", "nobody waits for it"


def test_one_that_is_started_again_by_somebody_else_is_an_error() -> None:
    world = trained(5)
    world.restart(N1, after_s=BEGUN_S + 1)
    world.run(limit_s=80)
    assert error(world) == "n-1: started again by somebody else"
    assert world.hosts[N1].idle_since is not None


def test_an_order_is_acknowledged_each_time_but_done_once() -> None:
    world = trained(6)
    signal = ChangeLinks(number=7, plan=to_json(replan(3)))
    world.after(BEGUN_S, lambda: world._deliver(NodeId("coordinator"), N0, signal))
    world.after(BEGUN_S, lambda: world._deliver(NodeId("coordinator"), N0, signal))
    world.run(limit_s=60)
    assert len(world.hosts[N0].plans) == 1


def test_a_resumed_member_that_never_answers_is_lost() -> None:
    world = trained(7, for_s=40)
    world.order(node(1, "pause"), after_s=BEGUN_S)
    world.pause(N1, after_s=BEGUN_S + 0.2, for_s=1000)
    world.order(node(2, "resume"), after_s=BEGUN_S + 2)
    world.after(200, lambda: setattr(world.hosts[N1], "alive", False))
    world.run(limit_s=300)
    assert error(world) == "n-1: not heard from for 10s"


def test_a_seat_is_excused_for_what_was_done_to_it_last() -> None:
    seat = Seat()
    assert seat.excuse is None
    seat.take(node(1, "pause"))
    assert (seat.excuse, seat.paused, seat.going) == ("silent", True, False)
    seat.take(node(2, "resume"))
    assert seat.excuse is None
    seat.take(node(3, "restart"))
    assert (seat.excuse, seat.going) == ("restarting", True)
