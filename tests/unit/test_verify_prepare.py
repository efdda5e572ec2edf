"""A plan to train becomes one to verify; what that leaves out is said."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from deploy.plan import BackendKind, Plan, make_plan, plan_from_json, plan_json
from deploy.topology import Topology, parse_topology
from deploy.verify.prepare import loaded
from deploy.verify.run import notes, planned
from deploy.verify.segments import plan_load
from node.config import LinkPolicy, Pacing
from node.core.ids import NodeId
from node.units import SECOND

FILE = b"""
name: four
nodes: 4
network: {shape: star, link: {rate: 20mbit, delay: 5ms}}
events:
  - {at: 4s, link: [n-0, switch], set: {rate: 4mbit}}
  - {at: 5s, crash: n-2}
  - {at: 20s, down: n-1}
algorithm: {name: divshare, local_steps: 2}
training: {data_dir: /data/sets}
stop: {rounds: 5, time: 60s}
links: "off"
deadlines: {links: 1s}
"""


def topology() -> Topology:
    return parse_topology(FILE, path=Path("four.yaml"))


def plan() -> Plan:
    subnet = IPv4Network("10.99.0.0/24")
    return make_plan(topology(), run_id="r", backend=BackendKind.DOCKER, subnet=subnet)


def test_nodes_send_load_for_as_long_as_the_timeline_takes() -> None:
    load = plan_load(topology(), pairs=None)
    made = loaded(plan(), load)
    assert load.time_ns == 24 * SECOND
    for node in made.nodes:
        assert node.config.load is not None
        assert set(node.config.load.targets) == {n.name for n in made.nodes} - {node.name}
        assert node.config.stop.time_ns == load.time_ns
        assert node.config.stop.rounds is None
        assert node.config.links.policy is LinkPolicy.WARN
        assert node.config.algorithm.pacing is Pacing.PARALLEL
    assert made.coordinator.policy is LinkPolicy.WARN
    assert made.coordinator.stop == made.nodes[0].config.stop
    assert len(made.coordinator.pairs) == 12
    assert made.coordinator.deadlines.links_ns > 20 * SECOND, "time for all pairs, one by one"
    assert made.data_dir is None
    assert plan_from_json(plan_json(made)) == made


def test_a_sample_is_measured_alone_and_together() -> None:
    load = plan_load(topology(), pairs=4)
    made = loaded(plan(), load)
    assert [(p.source, p.target) for p in made.coordinator.pairs] == list(load.sample.pairs)
    targets = [node.config.load.targets for node in made.nodes if node.config.load is not None]
    assert sum(map(len, targets)) == 4
    text = "\n".join(notes(topology(), load))
    assert "4 of 12 ordered pairs" in text
    assert "--pairs" in text


def test_nothing_is_done_to_nodes_and_that_is_said() -> None:
    load = plan_load(topology(), pairs=None)
    assert plan().actions
    assert loaded(plan(), load).actions == ()
    assert any("crash n-2 at 5 s" in line for line in notes(topology(), load))


def test_there_are_no_barriers_and_all_nodes_are_there() -> None:
    text = FILE.replace(b"nodes: 4", b"nodes: {n: 3, late: {standby: true}}")
    later = parse_topology(text, path=Path("four.yaml"))
    plan = make_plan(
        later, run_id="r", backend=BackendKind.DOCKER, subnet=IPv4Network("10.99.0.0/24")
    )
    assert plan.coordinator.standby == ("late",)
    assert plan.coordinator.rounds is not None
    made = loaded(plan, plan_load(later, pairs=None))
    assert made.coordinator.standby == ()
    assert made.coordinator.rounds is None
    assert all(node.config.rounds is None for node in made.nodes)


def test_what_comes_after_the_end_is_not_played() -> None:
    load = plan_load(topology(), pairs=None, until_ns=10 * SECOND)
    made = loaded(plan(), load)
    assert {at for changes in planned(made).values() for at in changes} == {4 * SECOND}
    assert {at for changes in planned(plan()).values() for at in changes} == {
        4 * SECOND,
        20 * SECOND,
    }
    assert any("1 later step" in line for line in notes(topology(), load))
    assert NodeId("n-0") in planned(made)
