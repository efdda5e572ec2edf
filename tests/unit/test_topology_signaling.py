"""Modes, barriers, and nodes that come later: what the file says, and what the plan makes of it."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy.plan import BackendKind, Plan, make_plan, plan_from_json, plan_json
from deploy.render import render
from deploy.topology import Topology, TopologyErrors, parse_topology
from deploy.topology.lives import NEXT, NOW
from deploy.topology.state import states
from node.config import Mode, RoundsConfig, Unreachable
from node.units import SECOND

RING = """
name: ring
nodes: {n: 4, late: {standby: true}}
network: {shape: full}
overlay: {edges: [[n-0, n-1], [n-1, n-2], [n-2, n-3], [n-3, n-0], [late, n-0], [late, n-3]]}
algorithm: {name: divshare}
stop: {time: 60s}
"""


def read(text: str = RING, *sets: str) -> Topology:
    return parse_topology(text.encode(), path=Path("t.yaml"), overrides=sets)


def planned(topology: Topology) -> Plan:
    return make_plan(
        topology,
        run_id="r1",
        backend=BackendKind.DOCKER,
        subnet=IPv4Network("10.99.0.0/24"),
    )


def rounds(topology: Topology) -> RoundsConfig:
    found = planned(topology).coordinator.rounds
    assert found is not None
    return found


def wrong(text: str, *sets: str) -> str:
    with pytest.raises(TopologyErrors) as caught:
        read(text, *sets)
    return str(caught.value)


# Mode and signaling ------------------------------------------------------------------------------


def test_the_mode_is_the_algorithms_own() -> None:
    assert rounds(read()).mode is Mode.ASYNC
    assert rounds(read(RING, "algorithm={name: dpsgd}")).mode is Mode.SYNC
    assert rounds(read(RING, "algorithm={name: dpsgd}", "mode=sync")).mode is Mode.SYNC


def test_a_mode_that_the_algorithm_cannot_run_in_is_refused_with_its_place() -> None:
    text = wrong(RING + "mode: sync\n")
    assert "t.yaml:8:7: mode: divshare cannot run in mode sync" in text
    assert "it can in async" in text
    assert "mode" in wrong(RING + "mode: sometimes\n")


def test_every_key_of_signaling_arrives() -> None:
    keys = (
        "{max_connection_retry: 0, connection_timeout: 2s, min_participants: 3, quorum: 75%, "
        "gather: 7s, share: 8s, sync: 9s, unreachable: peers}"
    )
    assert rounds(read(RING, f"signaling={keys}")) == RoundsConfig(
        mode=Mode.ASYNC,
        unreachable=Unreachable.PEERS,
        max_connection_retry=0,
        connection_timeout_ns=2 * SECOND,
        min_participants=3,
        quorum=0.75,
        gather_ns=7 * SECOND,
        share_ns=8 * SECOND,
        sync_ns=9 * SECOND,
    )
    assert rounds(read()) == RoundsConfig(mode=Mode.ASYNC)


@pytest.mark.parametrize(
    "value", ["{max_connection_retry: -1}", "{quorum: 0%}", "{connection_timeout: 0s}", "{rty: 1}"]
)
def test_values_that_mean_nothing_are_refused(value: str) -> None:
    assert "signaling" in wrong(RING, f"signaling={value}")


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("overlay: {shape: full}", Unreachable.PEERS),
        ("overlay: {shape: ring}", Unreachable.EDGES),
        ("overlay: network", Unreachable.PEERS),
    ],
)
def test_what_is_given_up_follows_from_the_overlay(overlay: str, expected: Unreachable) -> None:
    text = re.sub(r"overlay:.*", overlay, RING)
    assert rounds(read(text)).unreachable is expected
    other = {Unreachable.PEERS: "edges", Unreachable.EDGES: "peers"}[expected]
    assert rounds(read(text, f"signaling.unreachable={other}")).unreachable == other


def test_more_participants_than_are_there_at_the_start_would_only_wait() -> None:
    read(RING, "signaling.min_participants=4")
    text = wrong(RING + "signaling:\n  min_participants: 5\n")
    assert "t.yaml:9:21: signaling.min_participants: 5 nodes are needed" in text
    assert "4 are there" in text
    alone = RING.replace("n: 4", "n: 1").replace("late: {standby: true}", "")
    alone = re.sub(r"overlay:.*\n", "", alone)
    assert rounds(read(alone)).min_participants == 1


def test_the_plan_says_who_exchanges_with_whom_each_pair_once() -> None:
    plan = planned(read())
    pairs = [set(pair) for pair in plan.coordinator.overlay]
    assert len(pairs) == 6
    assert all(len(pair) == 2 for pair in pairs)
    assert {"late", "n-3"} in pairs
    assert {"n-0", "n-2"} not in pairs
    assert plan_from_json(plan_json(plan)) == plan
    assert {node.config.rounds for node in plan.nodes} == {plan.coordinator.rounds}
    assert plan.nodes[0].config.deadlines.coordinator_ns == 60 * SECOND


# Standby -----------------------------------------------------------------------------------------


def test_a_node_on_standby_has_no_paths_until_it_joins() -> None:
    topology = read(RING, "events=[{at: 3s, join: late}]")
    assert topology.standby == ("late",)
    (_, _, before), (at_ns, what, after) = states(topology)
    assert "late" not in before.routes(topology.nodes[1].name)
    assert (at_ns, what) == (3 * SECOND, ("join late",))
    assert "late" in after.routes(topology.nodes[1].name)
    plan = planned(topology)
    assert plan.coordinator.standby == ("late",)
    assert [(a.at_ns, a.node, a.verb) for a in plan.actions] == [(3 * SECOND, "late", "join")]
    assert all("late" not in (pair.source, pair.target) for pair in plan.coordinator.pairs)


def test_one_that_never_joins_waits_for_deploy_add() -> None:
    plan = planned(read())
    assert plan.coordinator.standby == ("late",)
    assert plan.actions == ()


def test_a_node_whose_first_event_is_to_join_is_on_standby_by_itself() -> None:
    topology = read(
        RING.replace(", late: {standby: true}", ", late: {}"), "events=[{at: 3s, join: late}]"
    )
    assert topology.standby == ("late",)


def test_joining_at_0_is_being_there() -> None:
    topology = read(RING, "events=[{at: 0s, join: late}]")
    assert topology.standby == ()
    assert planned(topology).actions == (), "it runs already"


def test_some_of_a_group_join() -> None:
    text = re.sub(r"overlay:.*\n", "", RING).replace("late: {standby: true}", "late: {replicas: 3}")
    topology = read(text, "events=[{at: 3s, join: late, count: 2}]")
    assert len(topology.standby) == 2
    waiting = read(text, "nodes.late.standby=true", "events=[{at: 3s, join: late, count: 2}]")
    assert waiting.standby == ("late-0", "late-1", "late-2")
    assert len(planned(waiting).actions) == 2


def test_where_nobody_else_would_be_there_those_that_join_first_are() -> None:
    text = re.sub(r"overlay:.*\n", "", RING)
    topology = read(
        text, "events=[{at: 1s, join: n, count: 2}, {at: 2s, join: n}, {at: 3s, join: late}]"
    )
    first = [n.name for n in topology.nodes if n.name not in topology.standby]
    assert len(first) == 2
    assert {a.node for a in planned(topology).actions} == set(topology.standby)
    assert "no node is there at the start" in wrong(text, "nodes.n={replicas: 2, standby: true}")


@pytest.mark.parametrize("verb", ["leave", "crash", "pause", "restart", "return"])
def test_one_on_standby_can_only_join(verb: str) -> None:
    text = wrong(RING, f"events=[{{at: 3s, {verb}: late}}]")
    assert "late has not joined yet at 3s" in text
    assert "then it can only join" in text


# Return ------------------------------------------------------------------------------------------


def test_a_node_that_left_or_crashed_returns() -> None:
    events = (
        "events=[{at: 1s, leave: n-1}, {at: 2s, crash: n-2}, {at: 5s, return: n-1},"
        " {at: 6s, return: n-2}]"
    )
    topology = read(RING, events)
    dead = {at // SECOND: sorted(state.dead) for at, _, state in states(topology)}
    assert dead == {0: [], 1: ["n-1"], 2: ["n-1", "n-2"], 5: ["n-2"], 6: []}
    verbs = [(a.node, a.verb) for a in planned(topology).actions]
    assert verbs == [("n-1", "leave"), ("n-2", "crash"), ("n-1", "return"), ("n-2", "return")]


@pytest.mark.parametrize("life", sorted(set(NOW) - {"gone", "crashed"}))
def test_nobody_returns_who_has_not_gone(life: str) -> None:
    assert (life, "return") not in NEXT
    before = {"running": "", "paused": "{at: 1s, pause: n-1},", "waiting": "{at: 9s, join: n-1},"}
    assert f"n-1 {NOW[life]} at 3s" in wrong(
        RING, f"events=[{before[life]} {{at: 3s, return: n-1}}]"
    )


# What is rendered --------------------------------------------------------------------------------


def test_the_compose_file_leaves_standby_nodes_to_a_profile() -> None:
    files = render(planned(read()), image="image")
    (text,) = (text for path, text in files.items() if path.name == "compose.yaml")
    services = re.split(r"^  '", text, flags=re.MULTILINE)
    marked = [part.partition("'")[0] for part in services if "profiles: [standby]" in part]
    assert marked == ["late"]
