"""Groups that share their links, and nodes that forward."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology import Topology, TopologyErrors, parse_topology
from deploy.topology.state import states
from node.config import PathSpec
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND

REST = "algorithm: {name: divshare}\nstop: {rounds: 1}\n"


def parse(text: str) -> Topology:
    return parse_topology((text + REST).encode(), path=Path("t.yaml"))


def links(topology: Topology) -> dict[str, PathSpec]:
    return {link.name: link.spec for link in topology.network.links}


LINE = "rate: 8mbit, delay: 40ms, jitter: 2ms, loss: 1%, back: {rate: 4mbit}"


def test_a_group_that_shares_has_one_instance_of_its_link() -> None:
    topology = parse(
        "nodes: {west: {replicas: 2, share: true}, b: }\nnetwork:\n  bridges: [s]\n"
        f"  links: [{{from: west, to: s, {LINE}}}, {{from: b, to: s}}]\n"
    )
    found = links(topology)
    assert topology.network.bridges == ("s", "west-share")
    common = PathSpec(
        rate_bps=8_000_000, delay_ns=40 * MILLISECOND, jitter_ns=2 * MILLISECOND, loss=0.01
    )
    assert found["west-share>s"] == common
    assert found["s>west-share"].rate_bps == 4_000_000
    for i in (0, 1):
        assert found[f"west-{i}>west-share"] == PathSpec(rate_bps=8_000_000)
        assert found[f"west-share>west-{i}"] == PathSpec(rate_bps=4_000_000)
    routes = topology.network.routes(NodeId("west-0"))
    assert routes[NodeId("b")].spec == common
    assert routes[NodeId("west-1")].spec == PathSpec(rate_bps=4_000_000)


def test_both_ends_may_share() -> None:
    topology = parse(
        "nodes: {a: {replicas: 2, share: true}, b: {replicas: 3, share: true}}\n"
        "network: {links: [{from: a, to: b, rate: 1mbit, delay: 5ms}]}\n"
    )
    assert len(links(topology)) == 2 + 2 * 2 + 2 * 3
    way = topology.network.routes(NodeId("a-0"))[NodeId("b-2")]
    assert way.vertices == ("a-0", "a-share", "b-share", "b-2")
    assert way.spec == PathSpec(rate_bps=1_000_000, delay_ns=5 * MILLISECOND)


def test_each_link_of_a_group_has_a_bridge_of_its_own_that_nobody_else_passes() -> None:
    topology = parse(
        "nodes: {g: {replicas: 2, share: true}, a: , b: }\nnetwork:\n  bridges: [s, t]\n  links:\n"
        "  - {from: g, to: s}\n  - {from: g, to: t}\n  - {from: a, to: s}\n  - {from: b, to: t}\n"
        "overlay: {edges: [[g, a], [g, b]]}\n"
    )
    assert {"g-share", "g-share-2"} <= {*topology.network.bridges}
    assert NodeId("b") not in topology.network.routes(NodeId("a"))


def test_in_a_star_the_replicas_share_one_access_link() -> None:
    topology = parse(
        "nodes: {g: {replicas: 2, share: true}, a: }\n"
        "network: {shape: star, link: {rate: 5mbit, delay: 1ms}}\n"
    )
    assert topology.network.routes(NodeId("g-1"))[NodeId("a")].vertices == (
        "g-1", "g-share", "switch", "a"
    )  # fmt: skip


def test_one_way_stays_one_way() -> None:
    topology = parse(
        "nodes: {g: {replicas: 2, share: true}, b: }\nnetwork:\n  bridges: [s]\n  links:\n"
        "  - {from: g, to: s, oneway: true}\n  - {from: b, to: s}\n  - {from: b, to: g-0}\n"
        "  - {from: b, to: g-1}\noverlay: {edges: [[g, b]]}\n"
    )
    assert {n for n in links(topology) if "share" in n} == {
        "g-0>g-share", "g-1>g-share", "g-share>s"
    }  # fmt: skip


def test_an_event_of_the_groups_link_is_about_the_common_one() -> None:
    topology = parse(
        "nodes: {g: {replicas: 2, share: true}, b: }\nnetwork:\n  bridges: [s]\n  links:\n"
        "  - {from: g, to: s, rate: 2mbit, delay: 9ms}\n  - {from: b, to: s}\n"
        "events:\n  - {at: 1s, link: [s, g], set: {rate: 6mbit, loss: 1%}, back: {rate: 3mbit}}\n"
        "  - {at: 2s, down: [g, s]}\n"
    )
    network = next(state.network for at, _, state in states(topology) if at == SECOND)
    found = {link.name: link.spec for link in network.links}
    assert (found["s>g-share"].rate_bps, found["g-share>s"].rate_bps) == (6_000_000, 3_000_000)
    assert found["g-share>s"].loss == 0.01
    assert found["g-share>g-0"] == PathSpec(rate_bps=6_000_000)  # the replicas' own ends follow
    assert found["g-1>g-share"] == PathSpec(rate_bps=3_000_000)
    [*_, last] = [state for _, _, state in states(topology)]
    assert {*last.routes(NodeId("g-0"))} == {"g-1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "nodes: {a: {share: true}, b: }\nnetwork: {shape: star}\n",
            "one node has nobody to share",
        ),
        (
            "nodes: {g: {replicas: 3, share: true}}\nnetwork: {shape: ring}\n",
            "the shape ring has no link that a group could share",
        ),
        (
            "nodes: {g: {replicas: 3, share: true}}\nnetwork: {links: [{from: g, to: g}]}\n",
            "cannot be one's both ends",
        ),
        (
            "nodes: {g: {replicas: 2, share: true}, g-share: }\nnetwork: {shape: star}\n",
            "'g-share' is the bridge that the group 'g' shares links by",
        ),
        (
            "nodes: {g: {replicas: 2, share: true}, b: }\nnetwork:\n  bridges: [s]\n  links:\n"
            "  - {from: g, to: s}\n  - {from: b, to: s}\n"
            "events: [{at: 1s, down: [g-1, s]}]\n",
            "'g-1' shares one link with its group: g-share - s",
        ),
    ],
)
def test_sharing_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(TopologyErrors, match=said):
        parse(text)


# Forwarding --------------------------------------------------------------------------------------


def test_a_node_forwards_only_if_the_file_says_so() -> None:
    line = "nodes: {{a: , b: {}, c: }}\nnetwork: {{shape: line, link: {{delay: 3ms}}}}\n"
    plain = parse(line.format(""))
    assert NodeId("c") not in plain.network.routes(NodeId("a"))
    assert plain.overlay[NodeId("a")] == ("b",)
    router = parse(line.format("{forwards: true}"))
    way = router.network.routes(NodeId("a"))[NodeId("c")]
    assert (way.vertices, way.spec.delay_ns) == (("a", "b", "c"), 6 * MILLISECOND)
    assert router.overlay[NodeId("a")] == ("b", "c")


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 12), st.sets(st.integers(0, 11)), st.sampled_from(["hop", "latency"]))
def test_what_can_be_reached_is_what_has_a_route(
    count: int, routers: set[int], metric: str
) -> None:
    nodes = ", ".join(f"n-{i}: {{forwards: {str(i in routers).lower()}}}" for i in range(count))
    topology = parse(
        f"nodes: {{{nodes}}}\nnetwork: {{shape: small-world, degree: 2, metric: {metric}}}\n"
        f"overlay: network\n"
    )
    for node in topology.network.nodes:
        routes = topology.network.routes(node)
        assert topology.network.reachable(node) == {*routes}
        for route in routes.values():
            assert {*route.vertices[1:-1]} <= {f"n-{i}" for i in routers}
