"""GraphML and GML files, as of the Internet Topology Zoo, as networks (docs/kollaps.md)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deploy.topology import Topology, TopologyErrors, load_topology, parse_topology
from node.core.ids import NodeId
from node.units import MILLISECOND as MS

ABILENE = Path(__file__).parents[2] / "topologies" / "abilene.graphml"
KEYS = ("label", "Latitude", "Longitude", "LinkSpeedRaw", "LinkSpeed", "LinkSpeedUnits", "latency",
        "latency_ms", "delay", "bandwidth", "bandwidth_mbit")  # fmt: skip


def data(**said: object) -> str:
    return "".join(f'<data key="{key}">{value}</data>' for key, value in said.items())


def node(key: int, **said: object) -> str:
    return f'<node id="{key}">{data(**said)}</node>\n'


def edge(a: int, b: int, **said: object) -> str:
    return f'<edge source="{a}" target="{b}">{data(**said)}</edge>\n'


def graphml(*parts: str, directed: str = "undirected") -> str:
    keys = "".join(f'<key attr.name="{key}" for="all" id="{key}"/>' for key in KEYS)
    return (
        f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{keys}\n'
        f'<graph edgedefault="{directed}">\n{"".join(parts)}</graph></graphml>'
    )


def parse(text: str, *overrides: str, suffix: str = ".graphml") -> Topology:
    return parse_topology(text.encode(), path=Path("test" + suffix), overrides=overrides)


def link(topology: Topology, source: str, target: str) -> tuple[float, int | None]:
    """Delay in ms and rate of a link."""
    spec = topology.network.spec(source, target)
    assert spec is not None
    return spec.delay_ns / MS, spec.rate_bps


PAIR = node(0, label="Vienna") + node(1, label="São Paulo")


def test_a_router_is_a_bridge_with_a_node_attached() -> None:
    topology = parse(graphml(PAIR, edge(0, 1, latency_ms=7.5, bandwidth_mbit=40)))
    assert [n.name for n in topology.nodes] == ["sao-paulo", "vienna"]
    assert topology.network.bridges == ("sao-paulo-r", "vienna-r")
    route = topology.network.routes(NodeId("vienna"))[NodeId("sao-paulo")]
    assert route.vertices == ("vienna", "vienna-r", "sao-paulo-r", "sao-paulo")
    assert (route.spec.delay_ns, route.spec.rate_bps) == (7_500_000, 40_000_000)


def test_or_the_routers_are_the_nodes() -> None:
    topology = parse(graphml(PAIR, edge(0, 1, latency="3ms")), "format.nodes=routers")
    assert topology.network.bridges == ()
    assert link(topology, "vienna", "sao-paulo") == (3, None)


def test_the_way_to_a_router_is_network_link() -> None:
    topology = parse(graphml(PAIR, edge(0, 1, latency="3ms")), "network.link.rate=9mbit")
    assert link(topology, "vienna", "vienna-r") == (0, 9_000_000)


def test_latency_follows_from_the_distance_at_two_thirds_of_the_speed_of_light() -> None:
    # A quarter of the equator: 10,007.5 km of fibre.
    places = node(0, Latitude=0, Longitude=10) + node(1, Latitude=0, Longitude=100)
    delay, _ = link(parse(graphml(places, edge(0, 1))), "n0-r", "n1-r")
    assert delay == pytest.approx(6371 * math.pi / 2 / (299792.458 * 2 / 3) * 1000, abs=0.001)
    assert link(parse(graphml(places, edge(0, 1, latency="1ms"))), "n0-r", "n1-r")[0] == 1


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        ({"LinkSpeedRaw": "2500000000.0"}, 2_500_000_000),
        ({"LinkSpeed": "155", "LinkSpeedUnits": "M"}, 155_000_000),
        ({"LinkSpeed": "1", "LinkSpeedUnits": "G", "LinkSpeedRaw": "2e9"}, 2_000_000_000),
        ({"bandwidth": "10mbit"}, 10_000_000),
        ({"LinkSpeedRaw": "0"}, None),
        ({}, None),
    ],
)
def test_speeds(said: dict[str, str], rate: int | None) -> None:
    assert link(parse(graphml(PAIR, edge(0, 1, **said))), "vienna-r", "sao-paulo-r")[1] == rate


def test_what_edges_do_not_say_is_a_warning_with_a_count() -> None:
    messages = [w.message for w in parse(graphml(PAIR, edge(0, 1))).warnings]
    assert any("1 edges have no latency, and no coordinates" in m for m in messages)
    assert any("1 edges have no speed" in m for m in messages)


def test_parallel_edges_and_loops() -> None:
    edges = edge(0, 1, LinkSpeedRaw=1e6) + edge(1, 0, LinkSpeedRaw=1e9) + edge(0, 0)
    topology = parse(graphml(PAIR, edges))
    assert link(topology, "vienna-r", "sao-paulo-r")[1] == 1_000_000_000
    messages = [(w.line, w.message) for w in topology.warnings]
    assert (6, "1 edges are parallel to another; the fastest of them counts") in messages
    assert (7, "1 edges from a node to itself are left out") in messages


def test_labels_that_repeat_or_say_nothing_are_numbered() -> None:
    nodes = node(0, label="X") + node(1, label="X") + node(2, label="?") + node(3)
    edges = edge(0, 1) + edge(1, 2) + edge(2, 3)
    topology = parse(graphml(nodes, edges))
    assert [n.name for n in topology.nodes] == ["n3", "router-2", "x", "x-2"]


def test_edges_of_a_directed_graph_are_one_way() -> None:
    edges = edge(0, 1, latency="1ms") + edge(1, 0, latency="2ms")
    topology = parse(graphml(PAIR, edges, directed="directed"))
    assert link(topology, "vienna-r", "sao-paulo-r")[0] == 1
    assert link(topology, "sao-paulo-r", "vienna-r")[0] == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (graphml(PAIR, edge(0, 1, latency="7")), 5, "'7' has no unit"),
        (graphml(PAIR, edge(0, 1, latency_ms="-7")), 5, "is not a number from 0 on"),
        (graphml(PAIR, edge(0, 1, bandwidth="7")), 5, "'7' has no unit"),
        (graphml(PAIR, edge(0, 1, LinkSpeed="7", LinkSpeedUnits="x")), 5, "none of K, M, G, T"),
        (graphml(PAIR, edge(0, 9)), 5, "there is no node with the id '9'"),
        (graphml(PAIR, node(1), edge(0, 1)), 5, "a second node '1'"),
        (graphml(PAIR), 1, "the overlay falls into 2 parts"),
        (graphml(), None, "there is no node in the graph"),
        (graphml(PAIR, edge(0, 1, latency="3h")), 5, "at most 60s"),
        (graphml(PAIR, "<hyperedge/>"), 5, "<hyperedge> is not supported"),
        ("<graphml/>", 1, "0 graphs in it"),
        ("<html/>", 1, "the root is <html>"),
    ],
)
def test_what_is_wrong_has_its_line(text: str, line: int | None, message: str) -> None:
    with pytest.raises(TopologyErrors) as caught:
        parse(text)
    found = [(problem.line, problem.message) for problem in caught.value.problems]
    assert any(at == line and message in said for at, said in found), found


def test_an_option_gives_latencies_their_unit() -> None:
    topology = parse(graphml(PAIR, edge(0, 1, latency="7")), "format.unit=us")
    assert link(topology, "vienna-r", "sao-paulo-r")[0] == 0.007


def test_the_example_is_as_long_as_the_united_states_are_wide() -> None:
    topology = load_topology(ABILENE)
    assert len(topology.nodes) == 11
    assert len(topology.network.links) == 2 * (11 + 14)
    spec = topology.network.routes(NodeId("seattle"))[NodeId("new-york")].spec
    assert spec.rate_bps == 10_000_000_000
    assert 20 <= spec.delay_ns / MS <= 30  # about 4,600 km as the lines go


GML = """graph [
  node [ id 0 label "Vienna" Latitude 48.2 Longitude 16.37 ]
  node [ id 1 label "Graz" Latitude 47.07 Longitude 15.44 ]
  edge [ source 0 target 1 LinkSpeedRaw 1000000000.0 ]
  edge [ source 0 target 1 LinkSpeedRaw 2000000000.0 ]
]
"""


def test_gml_is_read_alike() -> None:
    topology = parse(GML, suffix=".gml")
    delay, rate = link(topology, "vienna-r", "graz-r")
    assert rate == 2_000_000_000
    assert delay == pytest.approx(0.72, abs=0.02)  # 144 km


@pytest.mark.parametrize(
    "text", ["", "graph [", "graph [ node [ ] ]", "graph 3", "\xff", "[" * 9999]
)
def test_what_is_no_gml(text: str) -> None:
    with pytest.raises(TopologyErrors, match=r"not valid GML|no node|nested"):
        parse(text, suffix=".gml")
