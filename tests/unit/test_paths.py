"""`deploy paths` and `timeline`: what the network of a file is like, for people and scripts."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli import cli
from deploy.paths import PathTable
from deploy.topology import parse_topology
from deploy.topology.network import Link, Network
from deploy.topology.state import NetworkState
from node.config import Burst, PathSpec
from node.core.ids import NodeId
from node.errors import ConfigError

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
FIELDS = ["from", "to", "route", "latency_ms", "jitter_ms", "loss", "rate_bps"]


def deploy(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def shown(*arguments: str) -> str:
    done = deploy(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shown("paths", *arguments, "--json"))
    return found


LINE = str(TOPOLOGIES / "line.yaml")
CHANGING = str(TOPOLOGIES / "partition.yaml")


def test_one_path_for_scripts() -> None:
    [path] = listed(LINE, "west-0", "east-1")
    assert list(path) == FIELDS
    assert path == {
        "from": "west-0",
        "to": "east-1",
        "route": ["west-0", "w", "e", "east-1"],
        "latency_ms": 42.0,
        "jitter_ms": 2.0,
        "loss": 0.005,
        "rate_bps": 8_000_000,
    }


def test_all_ordered_pairs_or_those_of_a_node_or_a_group() -> None:
    nodes = ["east-0", "east-1", "west-0", "west-1"]
    assert [(p["from"], p["to"]) for p in listed(LINE)] == list(itertools.permutations(nodes, 2))
    assert [p["to"] for p in listed(LINE, "west-0")] == ["east-0", "east-1", "west-1"]
    assert [(p["from"], p["to"]) for p in listed(LINE, "-", "east")] == [
        ("east-0", "east-1"), ("east-1", "east-0"), ("west-0", "east-0"), ("west-0", "east-1"),
        ("west-1", "east-0"), ("west-1", "east-1"),
    ]  # fmt: skip


def test_a_table_for_people() -> None:
    text = shown("paths", LINE, "east-0", "west")
    assert text.splitlines() == [
        "from    to      latency     jitter      loss      rate        route",
        "east-0  west-0  42ms        2ms         0.5%      4mbit       east-0 > e > w > west-0",
        "east-0  west-1  42ms        2ms         0.5%      4mbit       east-0 > e > w > west-1",
    ]


def test_a_pair_without_a_path_is_left_out_and_said(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "nodes: 3\nnetwork: {shape: line}\nalgorithm: {name: divshare}\nstop: {rounds: 1}\n"
    )
    assert listed(str(file), "n-0", "n-2") == []
    assert "no path from n-0 to n-2" in shown("paths", str(file), "n-0", "n-2")
    assert len(listed(str(file))) == 4
    [path] = listed(str(file), "n-0", "n-1")
    assert path["rate_bps"] is None


def test_a_name_that_is_wrong_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'west'"):
        deploy("paths", LINE, "wst")
    with pytest.raises(ConfigError, match="'w' is a bridge"):
        deploy("paths", LINE, "west-0", "w")
    with pytest.raises(ConfigError, match="12"):
        deploy("paths", LINE, "--at", "12")


def test_the_network_at_a_time() -> None:
    def rate(at: str) -> list[int]:
        return [p["rate_bps"] for p in listed(CHANGING, "west-0", "east-0", "--at", at)]

    assert rate("0s") == rate("4999ms") == [20_000_000]
    assert rate("5s") == [8_000_000]
    assert rate("10s") == rate("13.9s") == []
    assert rate("14s") == [20_000_000]
    assert "-> none" in shown("timeline", CHANGING)


def test_a_set_key_counts() -> None:
    [path] = listed(LINE, "west-0", "east-0", "--set", "network.links.2.delay=1s")
    assert path["latency_ms"] == 1002.0


# The timeline ------------------------------------------------------------------------------------


def test_a_timeline_line_by_line() -> None:
    lines = shown("timeline", CHANGING).splitlines()
    assert len(lines) == 13
    assert (
        lines[0].split("  [")[0].split("  ")[-1] == "w - e: rate 8mbit, delay 40ms, back rate 4mbit"
    )
    assert "east-0 > west-0 and 3 more: 20mbit 12ms -> 4mbit 42ms" in lines[0]
    assert lines[1].lstrip().startswith("10s  partition west")
    assert lines[2].lstrip().startswith("14s  heal; w - e: rate 20mbit, delay 10ms")


def test_a_timeline_for_scripts() -> None:
    found = json.loads(shown("timeline", CHANGING, "--json"))
    assert [step["at_s"] for step in found[:4]] == [5.0, 10.0, 14.0, 16.0]
    assert found[0]["what"] == ["w - e: rate 8mbit, delay 40ms, back rate 4mbit"]
    first = found[0]["paths"][0]
    assert (first["from"], first["to"]) == ("east-0", "west-0")
    assert list(first["before"]) == FIELDS[2:]
    assert (first["before"]["rate_bps"], first["after"]["rate_bps"]) == (20_000_000, 4_000_000)
    assert {path["after"] for path in found[1]["paths"]} == {None}


def test_what_happens_to_nodes_stands_in_it(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "nodes: 3\nnetwork: {shape: star}\nalgorithm: {name: divshare}\nstop: {rounds: 1}\n"
        "events: [{at: 2s, crash: n, count: 1}]\n"
    )
    [step] = json.loads(shown("timeline", str(file), "--json"))
    assert [entry["verb"] for entry in step["nodes"]] == ["crash"]
    assert step["paths"] == []
    assert "no path is another" in shown("timeline", str(file))
    assert "no events" in shown("timeline", LINE)


# Against networkx --------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Bridges in a random graph, with a node on each of some of them; many equal costs."""
    count = draw(st.integers(2, 9))
    seed = draw(st.integers(0, 10**6))
    graph = nx.gnm_random_graph(count, draw(st.integers(1, 20)), seed=seed)
    values = draw(st.lists(st.integers(0, 3), min_size=60, max_size=60))
    values_of = itertools.cycle(values)
    links = []
    for a, b in [*graph.edges, *((f"n{i}", i) for i in range(0, count, 2))]:
        for ends in ((a, b), (b, a)):
            source, target = (end if isinstance(end, str) else f"b{end}" for end in ends)
            spec = PathSpec(
                rate_bps=next(values_of) * 1000 or None,
                delay_ns=next(values_of) * 1000,
                jitter_ns=next(values_of) * 100,
                loss=next(values_of) / 10,
            )
            links.append(Link(source=source, target=target, spec=spec))
    return Network(
        nodes=tuple(NodeId(f"n{i}") for i in range(0, count, 2)),
        bridges=tuple(f"b{i}" for i in range(count)),
        links=tuple(links),
        metric=draw(st.sampled_from(["hop", "latency"])),
    )


@settings(deadline=None, max_examples=150)
@given(networks())
def test_rows_are_the_routes_and_no_path_is_shorter(network: Network) -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for link in network.links:
        weight = link.spec.delay_ns if network.metric == "latency" else 1
        graph.add_edge(link.source, link.target, weight=weight)
    table = PathTable(NetworkState.initial(network), between=" ")
    for source in network.nodes:
        found = {row.target: row for row in table.rows(source, network.nodes)}
        routes = network.routes(source)
        # A node is no router: with the others cut off, what is left is what may be passed.
        only = graph.subgraph([*network.bridges, source])
        assert found.keys() == routes.keys() == network.reachable(source)
        for target, route in routes.items():
            row, spec = found[target], route.spec
            assert row.names.split() == list(route.vertices)
            assert (row.delay_ns, row.jitter_ns) == (spec.delay_ns, spec.jitter_ns)
            assert (row.loss, row.rate_bps) == (spec.loss_rate, spec.rate_bps)
            ends = nx.DiGraph(only)
            ends.add_edges_from((k.source, k.target, graph.edges[k.source, k.target])
                                for k in network.entering(target))  # fmt: skip
            cost = nx.shortest_path_length(ends, source, target, weight="weight")
            weights = [graph.edges[k.source, k.target]["weight"] for k in route.links]
            assert sum(weights) == cost


def test_bursts_count_as_loss() -> None:
    burst = Burst(enter=0.1, leave=0.4)
    specs = {("a", "s"): PathSpec(loss=0.1), ("s", "b"): PathSpec(burst=burst)}
    network = Network(
        nodes=(NodeId("a"), NodeId("b")),
        bridges=("s",),
        links=tuple(Link(source=a, target=b, spec=spec) for (a, b), spec in specs.items()),
    )
    [row] = PathTable(NetworkState.initial(network), between=">").rows(NodeId("a"), network.nodes)
    assert burst.loss == pytest.approx(0.2)
    assert row.loss == pytest.approx(1 - 0.9 * 0.8)
    assert math.isclose(row.loss, network.routes(NodeId("a"))[NodeId("b")].spec.loss_rate)


def test_thousands_of_links_in_a_row_are_no_problem() -> None:
    """Neither time nor memory grows with the square of the length."""
    names = ["x", *(f"b{i}" for i in range(20_000)), "y"]
    links = tuple(
        Link(source=one, target=other, spec=PathSpec(delay_ns=1))
        for a, b in itertools.pairwise(names)
        for one, other in ((a, b), (b, a))
    )
    network = Network(
        nodes=(NodeId("x"), NodeId("y")), bridges=tuple(names[1:-1]), links=links, metric="latency"
    )
    [row] = PathTable(NetworkState.initial(network), between=" ").rows(NodeId("x"), network.nodes)
    assert row.delay_ns == 20_001
    assert network.reachable(NodeId("x")) == {"y"}


def test_a_large_network_that_forwards_is_read_and_routed() -> None:
    text = (
        "nodes: {n: {replicas: 2000, forwards: true}}\n"
        "network: {shape: scale-free, degree: 2, metric: latency, link: {delay: 1ms}}\n"
        "overlay: ring\nalgorithm: {name: divshare}\nstop: {rounds: 1}\n"
    )
    topology = parse_topology(text.encode(), path=Path("t.yaml"))
    table = PathTable(NetworkState.initial(topology.network), between=" ")
    found = list(table.rows(NodeId("n-17"), topology.network.nodes))
    assert len(found) == 1999
    graph = nx.Graph([(link.source, link.target) for link in topology.network.links])
    lengths = nx.single_source_shortest_path_length(graph, "n-17")
    assert all(row.delay_ns == lengths[row.target] * 10**6 for row in found)
