"""Latency matrices as networks (docs/kollaps.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.topology import Topology, TopologyErrors, load_topology, parse_topology
from node.core.ids import NodeId
from node.units import MILLISECOND as MS

REGIONS = Path(__file__).parents[2] / "topologies" / "regions.csv"
CELLS = ", a, b, c\na, 0, 10, 30\nb, 12, 0, 20\nc, 30, 20, 0\n"


def parse(text: str, *overrides: str) -> Topology:
    return parse_topology(text.encode(), path=Path("test.csv"), overrides=overrides)


def delay(topology: Topology, source: str, target: str) -> float:
    return topology.network.routes(NodeId(source))[NodeId(target)].spec.delay_ns / MS


@pytest.mark.parametrize("head", ["rtt", "RTT ms", "rtt_ms", "round-trip", "latency (RTT, ms)"])
def test_half_a_round_trip_is_a_way(head: str) -> None:
    topology = parse(head.replace(",", "") + CELLS)
    assert delay(topology, "a", "b") == 5
    assert delay(topology, "b", "a") == 6
    assert delay(topology, "c", "a") == 15


@pytest.mark.parametrize("head", ["one-way", "one-way ms", "one_way_ms", "One way [ms]"])
def test_a_way_is_a_way(head: str) -> None:
    assert delay(parse(head + CELLS), "a", "b") == 10


def test_options_say_what_the_file_does_not() -> None:
    topology = parse("from" + CELLS, "format.latency=one-way", "format.unit=us")
    assert delay(topology, "a", "b") == 0.010


def test_a_cell_may_have_its_own_unit() -> None:
    assert delay(parse("one-way s" + CELLS.replace(" 10,", " 15ms,")), "a", "b") == 15


def test_what_a_cell_is_is_never_guessed() -> None:
    for head in ("", "ms", "latency", "rtt one-way"):
        with pytest.raises(TopologyErrors, match="round-trip times or one-way latencies"):
            parse(head + CELLS)


def test_sites_are_nodes_with_direct_links() -> None:
    topology = parse("rtt" + CELLS, "network.link.rate=5mbit")
    assert topology.network.bridges == ()
    assert len(topology.network.links) == 6
    assert {link.spec.rate_bps for link in topology.network.links} == {5_000_000}


def test_or_bridges_with_a_node_each() -> None:
    topology = parse("one-way" + CELLS, "format.sites=bridges", "nodes.a.replicas=2")
    assert [node.name for node in topology.nodes] == ["a-0", "a-1", "b", "c"]
    # The direct line, although 10 + 20 ms over b would be as short.
    assert topology.network.routes(NodeId("a-1"))[NodeId("c")].vertices == (
        "a-1",
        "a-r",
        "c-r",
        "c",
    )


def test_two_empty_cells_are_no_link() -> None:
    cells = CELLS.replace("10, 30", "10, -").replace("c, 30,", "c, ,")
    assert topology_links(parse("rtt" + cells)) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}


def topology_links(topology: Topology) -> set[tuple[str, str]]:
    return {(link.source, link.target) for link in topology.network.links}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(delimiter: str) -> None:
    assert delay(parse("rtt" + CELLS.replace(", ", delimiter)), "a", "b") == 5


def test_columns_in_another_order() -> None:
    topology = parse("one-way, b, a\na, 3, 0\nb, 0, 4\n")
    assert (delay(topology, "a", "b"), delay(topology, "b", "a")) == (3, 4)


def test_what_is_measured_within_a_site_is_a_warning() -> None:
    topology = parse("rtt" + CELLS.replace("a, 0,", "a, 1,"))
    assert any("within a site are not used" in w.message for w in topology.warnings)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "there is no matrix in it"),
        ("rtt,a\n", 1, "there is no matrix in it"),
        ("rtt,a,b\na,0,1\n", 1, "do not have the same names"),
        ("rtt,a,b\na,0,1\nc,1,0\n", 1, "do not have the same names"),
        ("rtt,a,a\na,0,1\na,1,0\n", 3, "a second thing called 'a'"),
        ("rtt,a,b\na,0\nb,1,0\n", 2, "the row 'a' has 1 cells, not 2"),
        ("rtt,a,b\na,0,x1\nb,1,0\n", 2, "a to b: 'x1'"),
        ("rtt,a,b\na,0,-4\nb,1,0\n", 2, "a to b: '-4'"),
        ("rtt,a,b\na,0,1\nb,,0\n", 3, "b to a is empty, but a to b is not"),
        ("rtt,a,b\na,0,999999\nb,999999,0\n", 2, "at most 60s"),
        ("rtt,a,b\na,0,\nb,,0\n", 1, "this key is missing|needs a `shape`|falls into 2 parts"),
        ("rtt ms us,a,b\na,0,1\nb,1,0\n", 1, "which unit?"),
        ("rtt,A,a\nA,0,1\na,1,0\n", 3, "are both 'a' here"),
        ("rtt,\udce9,b\n", None, "expected CSV in UTF-8"),
    ],
)
def test_what_is_wrong_has_its_line(text: str, line: int | None, message: str) -> None:
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(text.encode(errors="surrogateescape"), path=Path("t.csv"))
    found = [(problem.line, problem.message) for problem in caught.value.problems]
    several = message.split("|")
    assert any(any(m in said for m in several) and at == line for at, said in found), found


def test_the_example() -> None:
    topology = load_topology(REGIONS)
    assert delay(topology, "ireland", "sydney") == 129
    assert delay(topology, "sydney", "ireland") == 128
