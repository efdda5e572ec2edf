"""`deploy.sim_network` and the plan of a simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.plan import BackendKind, Plan, make_plan, plan_from_json, plan_json
from deploy.sim_network import StateView, Timeline, planned_changes
from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.state import states
from node.config import Emulator, LinkPolicy
from node.core.ids import NodeId
from node.errors import ConfigError
from node.units import SECOND

ROOT = Path(__file__).parents[2]
FILES = ("ring", "star", "line", "dumbbell", "parking-lot", "partition", "sync-ring")


def topology(name: str) -> Topology:
    return load_topology(ROOT / "topologies" / f"{name}.yaml")


def of(text: str, *sets: str) -> Topology:
    """A file of which the algorithm does not matter."""
    whole = "algorithm: {name: divshare}\n" + text
    return parse_topology(whole.encode(), path=Path("net.yaml"), overrides=sets)


def sim_plan(of_what: Topology) -> Plan:
    return make_plan(of_what, run_id="r1", backend=BackendKind.SIM)


@pytest.mark.parametrize("name", FILES)
def test_every_path_is_that_of_the_plan_of_containers(name: str) -> None:
    for _, _, state in states(topology(name)):
        view = StateView(state)
        for source in state.base.nodes:
            routes = state.routes(source)
            for target in state.base.nodes:
                path, route = view.path(source, target), routes.get(target)
                assert (path is None) == (route is None or source == target)
                if path is not None and route is not None:
                    assert path.spec == route.spec
                    rates = [k.spec.rate_bps for k in route.links if k.spec.rate_bps is not None]
                    assert [view.capacity(link) for link in path.links] == rates


def test_a_link_without_a_rate_limits_nothing() -> None:
    net = of("name: x\nnodes: 3\nnetwork: {shape: star, link: {delay: 1ms}}\nstop: {time: 1s}\n")
    view = Timeline(net).view(0)
    path = view.path(NodeId("n-0"), NodeId("n-1"))
    assert path is not None
    assert path.links == ()
    with pytest.raises(KeyError, match="no link with a rate"):
        view.capacity("n-0>switch")


def test_the_timeline_has_a_state_for_each_change() -> None:
    timeline = Timeline(topology("partition"))
    west, east = NodeId("west-0"), NodeId("east-0")
    found = []
    for number, (at_ns, _) in enumerate([(0, ()), *timeline.changes]):
        path = timeline.view(number).path(west, east)
        found.append((at_ns // SECOND, None if path is None else path.spec.rate_bps))
    assert found[:4] == [(0, 20_000_000), (5, 8_000_000), (10, None), (14, 20_000_000)]


def test_what_is_about_nodes_only_changes_no_network() -> None:
    text = """
name: x
nodes: {n: 3, late: {standby: true}}
network: {shape: star, link: {rate: 1mbit}}
events:
  - {at: 1s, pause: n-0}
  - {at: 2s, resume: n-0}
  - {at: 3s, crash: n-1}
  - {at: 4s, join: late}
  - {at: 5s, leave: n-2}
stop: {time: 9s}
"""
    # Who has not come yet has no links; who is gone or stands still keeps them.
    assert [change.at_ns // SECOND for change in planned_changes(of(text))] == [4]


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("duplicate: 1%", "`duplicate`"),
        ("corrupt: 1%", "`corrupt`"),
        ("jitter: 1ms, order: free", "jitter that changes the order"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(link: str, said: str) -> None:
    text = f"name: x\nnodes: 3\nnetwork: {{shape: ring, link: {{delay: 5ms, {link}}}}}\n"
    with pytest.raises(ConfigError, match="cannot be simulated") as refused:
        sim_plan(of(text + "stop: {time: 1s}\n"))
    assert said in str(refused.value)
    assert "the link n-" in str(refused.value)


def test_so_is_what_an_event_brings() -> None:
    text = """
name: x
nodes: 3
network: {shape: ring, link: {delay: 5ms}}
events:
  - {at: 1s, link: [n-0, n-1], set: {duplicate: 2%}}
stop: {time: 2s}
"""
    with pytest.raises(ConfigError, match="`duplicate` cannot be simulated"):
        sim_plan(of(text))


def test_the_plan_lists_no_paths() -> None:
    plan = sim_plan(topology("partition"))
    assert plan.coordinator.pairs == ()
    assert plan.coordinator.policy is LinkPolicy.OFF
    for node in plan.nodes:
        links = node.config.links
        assert (links.peers, links.emulator, links.policy) == ((), Emulator.MODEL, LinkPolicy.OFF)
        assert [change.at_ns for change in links.changes][:3] == [
            5 * SECOND,
            10 * SECOND,
            14 * SECOND,
        ]
        assert all(change.peers == () for change in links.changes)
    assert plan_from_json(plan_json(plan)) == plan


def test_a_plan_of_a_thousand_grows_with_the_nodes_not_with_their_pairs() -> None:
    small, large = (
        len(
            plan_json(
                sim_plan(load_topology(ROOT / "topologies" / "sim-1000.yaml", overrides=sets))
            )
        )
        for sets in (("nodes.fast.replicas=80", "nodes.slow.replicas=20"), ())
    )
    assert large < 11 * small


def test_all_else_is_as_in_containers() -> None:
    file = topology("sync-ring")
    names = [*(node.name for node in file.nodes), NodeId("coordinator")]
    ports = {name: 7000 + i for i, name in enumerate(names)}
    local = make_plan(file, run_id="r1", backend=BackendKind.LOCAL, ports=ports)
    for ours, theirs in zip(sim_plan(file).nodes, local.nodes, strict=True):
        for key in ("name", "index", "neighbours", "seed", "algorithm", "training", "compute",
                    "stop", "deadlines", "rounds"):  # fmt: skip
            assert getattr(ours.config, key) == getattr(theirs.config, key)
    assert sim_plan(file).actions == local.actions
