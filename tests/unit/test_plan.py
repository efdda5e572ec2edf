"""The plan: a topology resolved into all that will be set, the same bytes for the same input."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.places import addresses_needed
from deploy.plan import BackendKind, Plan, make_plan, plan_from_json, plan_json
from deploy.topology import Topology, load_topology, parse_topology
from node.config import AccessLink, Deadlines, Emulator, LinkPolicy, PathSpec
from node.core.ids import COORDINATOR, NodeId
from node.errors import ConfigError
from node.units import MILLISECOND, SECOND

ROOT = Path(__file__).parents[2]
EXAMPLES = ["ring", "star", "line"]
SUBNET = IPv4Network("10.77.0.0/24")
REST = "\nalgorithm: {name: divshare, omega: 0.2}\nstop: {rounds: 3, accuracy: 90%}\n"


def parse(text: str) -> Topology:
    return parse_topology((text + REST).encode(), path=Path("/somewhere/test.yaml"))


def docker(topology: Topology, **options: Any) -> Plan:
    given: dict[str, Any] = {"run_id": "r1", "subnet": SUBNET} | options
    return make_plan(topology, backend=BackendKind.DOCKER, **given)


def example(name: str) -> Topology:
    return load_topology(ROOT / "topologies" / f"{name}.yaml")


def test_addresses_follow_the_names() -> None:
    plan = docker(parse("nodes: {n: 11, a: }\nnetwork: {shape: star}"))
    assert plan.coordinator_address == IPv4Address("10.77.0.2")
    addresses = {node.name: str(node.address) for node in plan.nodes}
    assert addresses["a"] == "10.77.0.3"
    assert addresses["n-2"] == "10.77.0.6"
    assert addresses["n-10"] == "10.77.0.14"
    for node in plan.nodes:
        assert (node.config.host, node.config.port) == (str(node.address), 7000)
        assert (node.config.coordinator_host, node.config.coordinator_port) == ("10.77.0.2", 7070)


def test_a_subnet_that_is_too_small_or_missing_is_our_mistake() -> None:
    ring = parse("nodes: 3\nnetwork: {shape: ring}")
    assert addresses_needed(ring) == 5
    docker(ring, subnet=IPv4Network("10.0.0.0/29"))
    with pytest.raises(ValueError, match="do not fit"):
        docker(ring, subnet=IPv4Network("10.0.0.0/30"))
    with pytest.raises(ValueError, match="needs a subnet"):
        docker(ring, subnet=None)


def test_every_node_is_told_its_place_and_the_same_rest() -> None:
    plan = docker(parse("nodes: 3\nnetwork: {shape: line}\nseed: 7\nlinks: strict"))
    first, middle, last = (node.config for node in plan.nodes)
    assert [config.index for config in (first, middle, last)] == [0, 1, 2]
    assert first.members == last.members == plan.coordinator.members == ("n-0", "n-1", "n-2")
    assert (first.neighbours, middle.neighbours) == (("n-1",), ("n-0", "n-2"))
    assert first.seed == plan.coordinator.seed == plan.seed == 7
    assert first.session == plan.coordinator.session == plan.run_id == "r1"
    assert first.links.policy is plan.coordinator.policy is LinkPolicy.STRICT
    assert first.stop.rounds == plan.coordinator.stop.rounds == 3
    assert first.stop.accuracy == 0.9
    assert first.stop.time_ns == 600 * SECOND
    assert first.deadlines == Deadlines()


def test_every_option_of_the_algorithm_is_in_the_plan() -> None:
    [node, _] = docker(parse("nodes: 2\nnetwork: {shape: line}")).nodes
    options = node.config.algorithm.options
    assert options["omega"] == 0.2
    assert options["local_steps"] == 8  # the default, written out
    assert options["permutation"] == "fixed"


def test_deadlines_of_the_file_reach_every_member() -> None:
    plan = docker(parse("nodes: 2\nnetwork: {shape: line}\ndeadlines: {join: 5s, lease: 2s}"))
    expected = Deadlines(join_ns=5 * SECOND, lease_ns=2 * SECOND)
    assert plan.coordinator.deadlines == plan.nodes[0].config.deadlines == expected


def test_what_differs_between_nodes() -> None:
    plan = docker(
        parse(
            "nodes: {a: {cpus: 0.5, memory: 512MiB, compute: {step: 5ms, speed: 0.5}}, b: }\n"
            "network: {shape: line}"
        )
    )
    a, b = plan.nodes
    assert (a.resources.cpus, a.resources.memory) == (0.5, 2**29)
    assert (a.config.compute.step_ns, a.config.compute.speed) == (5 * MILLISECOND, 0.5)
    assert (b.resources.cpus, b.resources.memory, b.config.compute.step_ns) == (None, None, None)


# The network of a node ---------------------------------------------------------------------------


def test_in_a_star_all_paths_share_the_access_link() -> None:
    plan = docker(example("star"))
    slow = next(node.config for node in plan.nodes if node.name == "slow")
    assert slow.links.up == (AccessLink(name="slow>switch", rate_bps=12_000_000),)
    assert slow.links.down == (AccessLink(name="switch>slow", rate_bps=12_000_000),)
    assert {(peer.up, peer.down) for peer in slow.links.peers} == {("slow>switch", "switch>slow")}
    fast = next(node.config for node in plan.nodes if node.name == "fast-0")
    assert fast.links.up[0].rate_bps == 60_000_000
    to_slow = next(peer for peer in fast.links.peers if peer.name == "slow")
    assert to_slow.out == PathSpec(rate_bps=12_000_000, delay_ns=10 * MILLISECOND)
    assert (to_slow.host, to_slow.port) == (slow.host, 7000)


def test_without_a_path_there_is_none_in_the_plan() -> None:
    plan = docker(parse("nodes: 3\nnetwork: {shape: line, link: {rate: 5mbit}}"))
    first = plan.nodes[0].config.links
    assert [peer.name for peer in first.peers] == ["n-1", "n-2"]
    near, far = first.peers
    assert (near.up, near.down) == ("n-0>n-1", "n-1>n-0")
    assert (far.out, far.into, far.up, far.down) == (None, None, None, None)
    pairs = {(pair.source, pair.target) for pair in plan.coordinator.pairs}
    assert pairs == {("n-0", "n-1"), ("n-1", "n-0"), ("n-1", "n-2"), ("n-2", "n-1")}


def test_both_directions_of_a_pair_are_known_to_who_measures_it() -> None:
    plan = docker(example("line"))
    pair = next(
        pair
        for pair in plan.coordinator.pairs
        if (pair.source, pair.target) == ("west-0", "east-0")
    )
    assert (pair.out.rate_bps, pair.back.rate_bps) == (8_000_000, 4_000_000)
    assert pair.out.loss == pair.back.loss == 0.005
    assert len(plan.coordinator.pairs) == 12


@pytest.mark.parametrize("name", EXAMPLES)
def test_members_agree_on_every_path(name: str) -> None:
    plan = docker(example(name))
    told = {(node.name, peer.name): peer for node in plan.nodes for peer in node.config.links.peers}
    for (a, b), peer in told.items():
        assert peer.out == told[b, a].into
    for pair in plan.coordinator.pairs:
        assert told[pair.source, pair.target].out == pair.out
        assert told[pair.source, pair.target].into == pair.back


# Choices of the caller ---------------------------------------------------------------------------


def test_a_seed_of_its_own_leaves_the_network_as_it_is() -> None:
    topology = parse("nodes: 12\nnetwork: {shape: random-regular, degree: 3}\nseed: 3")
    one, other = docker(topology), docker(topology, seed=99)
    assert (one.seed, other.seed) == (3, 99)
    assert [n.config.neighbours for n in one.nodes] == [n.config.neighbours for n in other.nodes]


def test_the_local_backend_tells_members_apart_by_port() -> None:
    topology = parse("nodes: 2\nnetwork: {shape: line}")
    ports = {NodeId("n-0"): 5001, NodeId("n-1"): 5003, COORDINATOR: 5005}
    plan = make_plan(
        topology, run_id="r", backend=BackendKind.LOCAL, ports=ports, results="/tmp/run"
    )
    first = plan.nodes[0].config
    assert (first.host, first.port) == ("127.0.0.1", 5001)
    assert (first.links.peers[0].host, first.links.peers[0].port) == ("127.0.0.1", 5003)
    assert (first.coordinator_host, first.coordinator_port) == ("127.0.0.1", 5005)
    assert (plan.coordinator.host, plan.coordinator.port) == ("127.0.0.1", 5005)
    assert first.links.emulator is Emulator.APPLICATION
    assert first.results == plan.coordinator.results == "/tmp/run"


@pytest.mark.parametrize("ports", [None, {}, {"n-0": 1, "n-1": 1, "coordinator": 2}])
def test_ports_that_are_missing_or_shared_are_our_mistake(ports: Any) -> None:
    topology = parse("nodes: 2\nnetwork: {shape: line}")
    with pytest.raises(ValueError, match="port"):
        make_plan(topology, run_id="r", backend=BackendKind.LOCAL, ports=ports)


def test_a_data_folder_counts_from_the_topology_file() -> None:
    text = "nodes: 2\nnetwork: {shape: line}\ntraining: {data_dir: sets}"
    plan = docker(parse(text))
    assert plan.data_dir == "/somewhere/sets"
    assert plan.nodes[0].config.training.data_dir == "/data"  # where a container sees it
    assert docker(parse("nodes: 2\nnetwork: {shape: line}")).data_dir is None
    ports = {NodeId("n-0"): 1, NodeId("n-1"): 2, COORDINATOR: 3}
    local = make_plan(parse(text), run_id="r", backend=BackendKind.LOCAL, ports=ports)
    assert local.nodes[0].config.training.data_dir == "/somewhere/sets"


# Bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_plan_is_read_back(name: str) -> None:
    plan = docker(example(name))
    assert plan_from_json(plan_json(plan)) == plan
    assert plan_json(plan_from_json(plan_json(plan))) == plan_json(plan)


@pytest.mark.parametrize("text", ["", "{}", '{"nodes": 3}', "[]"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a plan"):
        plan_from_json(text)


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(rng: random.Random) -> None:
    data = yaml.safe_load((ROOT / "topologies" / "star.yaml").read_text())
    path = Path("star.yaml")
    straight = parse_topology(yaml.safe_dump(data).encode(), path=path)
    shuffled = parse_topology(
        yaml.safe_dump(shuffle(data, rng), sort_keys=False).encode(), path=path
    )
    assert plan_json(docker(straight)) == plan_json(docker(shuffled))


def shuffle(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    items = [(key, shuffle(item, rng)) for key, item in value.items()]
    rng.shuffle(items)
    return dict(items)


PROGRAM = """
import hashlib, sys
from ipaddress import IPv4Network
from pathlib import Path
from deploy.plan import BackendKind, make_plan, plan_json
from deploy.render import render
from deploy.topology import parse_topology
text = sys.stdin.buffer.read()
plan = make_plan(parse_topology(text, path=Path("t.yaml")), run_id="r",
                 backend=BackendKind.DOCKER, subnet=IPv4Network("10.77.0.0/24"))
files = render(plan, image="i")
print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())
"""


@pytest.mark.parametrize(
    "network",
    [
        "{shape: random-regular, degree: 4}",
        "{shape: small-world, degree: 4}",
        "{shape: scale-free, degree: 2}",
        "{bridges: [s, t, u], links: [{from: n, to: s}, {from: n, to: t}, {from: s, to: u}]}",
    ],
)
def test_the_same_bytes_whatever_pythons_hash_seed(network: str) -> None:
    text = f"nodes: 12\nnetwork: {network}{REST}"
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=text.encode(),
            env=dict(os.environ, PYTHONHASHSEED=str(seed), PYTHONPATH=str(ROOT)),
            capture_output=True,
            check=True,
        ).stdout
        for seed in (0, 1, 4242)
    }
    assert len(digests) == 1
