"""Topology files: what the keys mean, from text to nodes, links and neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.model import TopologyFile
from node.config import LinkPolicy, Pacing, PathSpec
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND

ROOT = Path(__file__).parents[2]
REST = "\nalgorithm: {name: divshare}\nstop: {rounds: 3}\n"


def parse(text: str, *overrides: str) -> Topology:
    return parse_topology((text + REST).encode(), path=Path("test.yaml"), overrides=overrides)


def spec(topology: Topology, source: str, target: str) -> PathSpec:
    return topology.network.routes(NodeId(source))[NodeId(target)].spec


def names(topology: Topology) -> list[str]:
    return [node.name for node in topology.nodes]


@pytest.mark.parametrize("name", ["ring", "star", "line"])
def test_the_examples_are_right(name: str) -> None:
    topology = load_topology(ROOT / "topologies" / f"{name}.yaml")
    assert topology.name == name
    assert topology.text == (ROOT / "topologies" / f"{name}.yaml").read_bytes()
    assert topology.text.startswith(b"# yaml-language-server: $schema=topology.schema.json\n")


def test_the_ring_is_what_it_says() -> None:
    topology = load_topology(ROOT / "topologies" / "ring.yaml")
    assert names(topology) == ["n-0", "n-1", "n-2"]
    expected = PathSpec(rate_bps=20_000_000, delay_ns=10 * MILLISECOND)
    assert spec(topology, "n-0", "n-2") == expected
    assert topology.overlay["n-1"] == ("n-0", "n-2")


# Nodes -------------------------------------------------------------------------------------------


def test_a_number_of_nodes() -> None:
    assert names(parse("nodes: 2\nnetwork: {shape: ring}")) == ["n-0", "n-1"]


def test_groups_replicas_and_single_nodes() -> None:
    topology = parse("nodes: {b: {replicas: 2}, a: 1, lone: , c: {}}\nnetwork: {shape: full}")
    assert names(topology) == ["a-0", "b-0", "b-1", "c", "lone"]


def test_nodes_stand_in_natural_order() -> None:
    topology = parse("nodes: {n: 11, m: 1}\nnetwork: {shape: line}")
    assert names(topology)[:4] == ["m-0", "n-0", "n-1", "n-2"]
    assert names(topology)[-1] == "n-10"
    assert topology.overlay["n-9"] == ("n-8", "n-10")


def test_limits_and_compute_times_are_of_the_group() -> None:
    text = "nodes: {a: {replicas: 2, cpus: 0.5, memory: 1GiB, compute: {step: 5ms, speed: 0.5}}}"
    group = parse(text + "\nnetwork: {shape: ring}").nodes[1].group
    assert (group.cpus, group.memory) == (0.5, 2**30)
    assert (group.compute.step, group.compute.speed) == (5 * MILLISECOND, 0.5)


def test_words_that_yaml_1_1_takes_for_switches_are_names() -> None:
    topology = parse("nodes: {on: , off: , no: , y: }\nnetwork: {shape: full}\nlinks: off")
    assert names(topology) == ["no", "off", "on", "y"]
    assert topology.file.links is LinkPolicy.OFF


# Links -------------------------------------------------------------------------------------------


def test_a_star_is_a_switch_with_a_link_for_each_node() -> None:
    topology = parse("nodes: 3\nnetwork: {shape: star, link: {rate: 60mbit, delay: 5ms}}")
    route = topology.network.routes(NodeId("n-0"))[NodeId("n-2")]
    assert route.vertices == ("n-0", "switch", "n-2")
    assert route.spec == PathSpec(rate_bps=60_000_000, delay_ns=10 * MILLISECOND)


def test_a_node_of_a_star_may_have_its_own_link() -> None:
    topology = parse(
        "nodes: {fast: 2, slow: {link: {rate: 12mbit, up: {delay: 7ms}, down: {loss: 1%}}}}\n"
        "network: {shape: star, link: {rate: 60mbit, delay: 5ms}}"
    )
    up = spec(topology, "slow", "fast-0")
    assert up == PathSpec(rate_bps=12_000_000, delay_ns=12 * MILLISECOND)
    down = spec(topology, "fast-0", "slow")
    assert down == PathSpec(rate_bps=12_000_000, delay_ns=10 * MILLISECOND, loss=0.01)
    assert spec(topology, "fast-0", "fast-1").rate_bps == 60_000_000


def test_on_a_direct_link_the_worse_of_both_ends_applies() -> None:
    topology = parse(
        "nodes:\n"
        "  a: {link: {up: {rate: 10mbit, delay: 1ms}}}\n"
        "  b: {link: {down: {rate: 20mbit, delay: 9ms, jitter: 2ms, loss: 1%}}}\n"
        "network: {shape: line, link: {rate: 100mbit, delay: 5ms, loss: 0.5%}}"
    )
    assert spec(topology, "a", "b") == PathSpec(
        rate_bps=10_000_000, delay_ns=9 * MILLISECOND, jitter_ns=2 * MILLISECOND, loss=0.01
    )
    assert spec(topology, "b", "a") == PathSpec(
        rate_bps=100_000_000, delay_ns=5 * MILLISECOND, loss=0.005
    )


def test_a_rate_is_unlimited_where_none_is_given_or_it_says_so() -> None:
    assert spec(parse("nodes: 2\nnetwork: {shape: line}"), "n-0", "n-1").rate_bps is None
    topology = parse(
        "nodes: {a: {link: {rate: unlimited}}, b: }\nnetwork: {shape: star, link: {rate: 1mbit}}"
    )
    assert topology.network.leaving("a")[0].spec.rate_bps is None
    assert spec(topology, "a", "b").rate_bps == 1_000_000


LISTED = """
nodes: {a: 2, b: , c: {link: {rate: 3mbit}}}
network:
  bridges: [s, t]
  link: {rate: 100mbit, delay: 1ms}
  links:
    - {from: a, to: s}
    - {from: s, to: t, delay: 20ms, jitter: 3ms, loss: 1%, back: {delay: 40ms}}
    - {from: t, to: b, rate: 5mbit}
    - {from: c, to: t}
"""


def test_listed_links_expand_groups_and_have_a_way_back() -> None:
    topology = parse(LISTED)
    route = topology.network.routes(NodeId("a-1"))[NodeId("b")]
    assert route.vertices == ("a-1", "s", "t", "b")
    assert route.spec == PathSpec(
        rate_bps=5_000_000, delay_ns=22 * MILLISECOND, jitter_ns=3 * MILLISECOND, loss=0.01
    )
    back = spec(topology, "b", "a-1")
    assert (back.delay_ns, back.jitter_ns) == (42 * MILLISECOND, 3 * MILLISECOND)


def test_an_entry_wins_over_the_node_and_the_node_over_the_network() -> None:
    assert spec(parse(LISTED), "c", "a-0").rate_bps == 3_000_000
    entry = LISTED.replace("{from: c, to: t}", "{from: c, to: t, rate: 9mbit}")
    assert spec(parse(entry), "c", "a-0").rate_bps == 9_000_000


def test_a_oneway_link_has_no_way_back() -> None:
    topology = parse(
        "nodes: {a: , b: , c: }\nnetwork:\n  links:\n"
        "    - {from: a, to: b, oneway: true}\n"
        "    - {from: b, to: c}\n    - {from: c, to: a}\n"
    )
    assert NodeId("a") not in topology.network.routes(NodeId("b"))
    assert NodeId("b") in topology.network.routes(NodeId("a"))
    assert topology.overlay["a"] == ("c",)  # an exchange needs a path both ways


def test_a_link_from_a_group_to_itself_joins_each_pair_once() -> None:
    topology = parse("nodes: {a: 3}\nnetwork: {links: [{from: a, to: a}]}")
    assert len(topology.network.links) == 6


# Overlay -----------------------------------------------------------------------------------------


def test_neighbours_are_those_with_a_path_unless_said_otherwise() -> None:
    line = parse("nodes: 3\nnetwork: {shape: line}")
    assert line.overlay == {"n-0": ("n-1",), "n-1": ("n-0", "n-2"), "n-2": ("n-1",)}
    star = parse("nodes: 3\nnetwork: {shape: star}")
    assert star.overlay["n-0"] == ("n-1", "n-2")


def test_an_overlay_of_its_own() -> None:
    ring = parse("nodes: 4\nnetwork: {shape: star}\noverlay: ring")
    assert ring.overlay["n-0"] == ("n-1", "n-3")
    edges = parse("nodes: {a: 2, b: }\nnetwork: {shape: star}\noverlay: {edges: [[a, b]]}")
    assert edges.overlay == {"a-0": ("b",), "a-1": ("b",), "b": ("a-0", "a-1")}


def test_an_overlay_star_has_a_node_in_the_middle() -> None:
    text = "nodes: 3\nnetwork: {shape: star}\noverlay: {shape: star%s}"
    assert parse(text % "").overlay["n-0"] == ("n-1", "n-2")
    assert parse(text % ", center: n-1").overlay["n-2"] == ("n-1",)


# The rest ----------------------------------------------------------------------------------------


def test_defaults() -> None:
    file = parse("nodes: 2\nnetwork: {shape: ring}").file
    assert file.name == "test"
    assert file.seed == 1
    assert file.stop.time == 600 * SECOND
    assert file.links is LinkPolicy.WARN
    assert file.algorithm.pacing is Pacing.SEQUENTIAL
    assert file.training.dataset == "digits"


def test_a_single_node_is_an_experiment() -> None:
    assert parse("nodes: {a: }\nnetwork: {shape: ring}").overlay == {"a": ()}


SET = "nodes: {n: 3, m: }\nnetwork: {shape: ring, link: {rate: 20mbit}}"


def test_set_replaces_any_key_of_the_file() -> None:
    topology = parse(
        SET,
        "network.link.rate=5mbit",
        "network.shape=star",
        "nodes.n.replicas=1",
        "nodes.m.cpus=0.5",
        "algorithm.omega=0.5",
        "stop={time: 5s, accuracy: 90%}",
        "name=other",
    )
    assert names(topology) == ["m", "n-0"]
    assert spec(topology, "m", "n-0").rate_bps == 5_000_000
    assert topology.nodes[0].group.cpus == 0.5
    assert topology.file.algorithm.options == {"omega": 0.5}
    assert (topology.file.stop.time, topology.file.stop.rounds) == (5 * SECOND, None)
    assert topology.name == "other"
    assert topology.text == (SET + REST).encode()  # as given


def test_set_reaches_into_shorthands_and_lists() -> None:
    ring = parse("nodes: 3\nnetwork: {shape: ring}", "nodes.n.memory=64MiB")
    assert [node.group.memory for node in ring.nodes] == [2**26] * 3
    listed = parse(LISTED, "network.links.2.rate=7mbit", "network.links[1].loss=2%")
    assert spec(listed, "a-0", "b") == PathSpec(
        rate_bps=7_000_000, delay_ns=22 * MILLISECOND, jitter_ns=3 * MILLISECOND, loss=0.02
    )


def test_the_last_set_of_a_key_wins() -> None:
    assert parse(SET, "seed=3", "seed=4").seed == 4


def test_anchors_and_aliases_work() -> None:
    topology = parse("nodes: {a: &one {cpus: 2}, b: *one}\nnetwork: {shape: line}")
    assert [node.group.cpus for node in topology.nodes] == [2, 2]


@settings(deadline=None)
@given(
    rate=st.integers(1_000, 10**11),
    delay=st.integers(0, 60 * SECOND),
    loss=st.floats(0, 0.999, allow_subnormal=False),
    memory=st.integers(2**24, 2**40),
)
def test_a_file_written_by_us_is_read_back(rate: int, delay: int, loss: float, memory: int) -> None:
    """What `model_dump` writes is a topology file again: nothing is lost, units included."""
    file = parse(LISTED).file
    link = file.network.link.model_copy(update={"rate": rate, "delay": delay, "loss": loss})
    group = file.nodes["b"].model_copy(update={"memory": memory})
    changed = file.model_copy(
        update={
            "network": file.network.model_copy(update={"link": link}),
            "nodes": file.nodes | {"b": group},
        }
    )
    written = changed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    again = TopologyFile.model_validate(written)
    assert again.network.link == link
    assert again.nodes["b"].memory == memory
    assert again.network.links == file.network.links
