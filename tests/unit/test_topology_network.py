"""Path collapse: the shortest path between two nodes, never through a third, as one link."""

from __future__ import annotations

import itertools
import math
import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology.network import Link, Network, collapse, connected_parts, mutual, natural
from node.config import PathSpec
from node.core.ids import NodeId

Metric = Literal["hop", "latency"]


def network(
    links: dict[tuple[str, str], PathSpec], *, bridges: str = "", metric: Metric = "hop"
) -> Network:
    """One-letter names; those in `bridges` forward."""
    names = sorted({name for ends in links for name in ends}, key=natural)
    return Network(
        nodes=tuple(NodeId(name) for name in names if name not in bridges),
        bridges=tuple(name for name in names if name in bridges),
        links=tuple(Link(source=a, target=b, spec=spec) for (a, b), spec in links.items()),
        metric=metric,
    )


def delays(text: str) -> dict[tuple[str, str], PathSpec]:
    """`"a-s:5 s-b:7"`: links both ways with delays in ns."""
    links = {}
    for word in text.split():
        ends, _, delay = word.partition(":")
        a, b = ends.split("-")
        links[a, b] = links[b, a] = PathSpec(delay_ns=int(delay or 1))
    return links


def route(net: Network, source: str, target: str) -> str:
    return "".join(net.routes(NodeId(source))[NodeId(target)].vertices)


def test_a_path_adds_delays_and_takes_the_slowest_link() -> None:
    path = (
        PathSpec(rate_bps=50, delay_ns=1, jitter_ns=3, loss=0.5),
        PathSpec(rate_bps=None, delay_ns=10, jitter_ns=4, loss=0.0),
        PathSpec(rate_bps=20, delay_ns=100, jitter_ns=0, loss=0.5),
    )
    assert collapse(path) == PathSpec(rate_bps=20, delay_ns=111, jitter_ns=5, loss=0.75)


specs = st.builds(
    PathSpec,
    rate_bps=st.none() | st.integers(1, 10**11),
    delay_ns=st.integers(0, 10**10),
    jitter_ns=st.integers(0, 10**10),
    loss=st.floats(0, 0.999),
)


@given(specs)
def test_a_path_of_one_link_is_that_link_exactly(spec: PathSpec) -> None:
    assert collapse((spec,)) == spec


@given(st.lists(specs, min_size=1, max_size=6).map(tuple))
def test_collapse_follows_the_formulas(path: tuple[PathSpec, ...]) -> None:
    whole = collapse(path)
    rates = [spec.rate_bps for spec in path if spec.rate_bps is not None]
    assert whole.rate_bps == (min(rates) if rates else None)
    assert whole.delay_ns == sum(spec.delay_ns for spec in path)
    assert whole.jitter_ns == pytest.approx(math.hypot(*(s.jitter_ns for s in path)), abs=1)
    assert whole.loss == pytest.approx(1 - math.prod(1 - spec.loss for spec in path))


def test_nodes_are_no_routers() -> None:
    line = network(delays("a-b b-c"))
    assert NodeId("c") not in line.routes(NodeId("a"))
    assert line.reachable(NodeId("a")) == {"b"}


def test_bridges_forward_and_are_no_destination() -> None:
    net = network(delays("a-s s-t t-b"), bridges="st")
    assert route(net, "a", "b") == "astb"
    assert set(net.routes(NodeId("a"))) == {"b"}


def test_the_metric_decides() -> None:
    links = delays("a-s:1 s-t:1 t-b:1 a-b:9")
    assert route(network(links, bridges="st"), "a", "b") == "ab"
    assert route(network(links, bridges="st", metric="latency"), "a", "b") == "astb"


def test_ties_go_to_fewer_links_then_to_names() -> None:
    equal = delays("a-t t-b a-s s-b")
    assert route(network(equal, bridges="st"), "a", "b") == "asb"
    longer = delays("a-s:1 s-t:1 t-b:1 a-z:2 z-b:1")
    assert route(network(longer, bridges="stz", metric="latency"), "a", "b") == "azb"


def test_links_of_no_delay_make_no_loops() -> None:
    net = network(delays("a-s:0 s-t:0 t-u:0 u-s:0 u-b:0"), bridges="stu", metric="latency")
    assert route(net, "a", "b") == "asub"


def test_exchange_needs_a_path_both_ways() -> None:
    links = delays("b-s c-s") | {("a", "s"): PathSpec()}
    net = network(links, bridges="s")
    assert net.reachable(NodeId("a")) == {"b", "c"}
    assert mutual(net) == {"a": (), "b": ("c",), "c": ("b",)}


def test_parts_that_hang_together() -> None:
    neighbours = {"a": ["c"], "b": [], "c": ["a"], "d": ["e"], "e": ["d"]}
    typed = {NodeId(k): [NodeId(n) for n in v] for k, v in neighbours.items()}
    assert connected_parts(typed) == [["a", "c"], ["b"], ["d", "e"]]


@given(st.permutations(["n", "n-0", "n-2", "n-10", "n-010", "n-10-a", "m-3", "n2"]))
def test_names_stand_in_natural_order(names: list[str]) -> None:
    expected = ["m-3", "n", "n2", "n-0", "n-2", "n-010", "n-10", "n-10-a"]
    assert sorted(names, key=natural) == expected


# Against brute force -----------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Up to three nodes and four bridges, some links missing, some one-way, equal costs."""
    nodes, bridges = "abc"[: draw(st.integers(2, 3))], "wxyz"[: draw(st.integers(0, 4))]
    rng = random.Random(draw(st.integers(0, 10**6)))
    density = draw(st.sampled_from([0.3, 0.6, 1.0]))
    links = {
        pair: PathSpec(delay_ns=rng.randint(0, 3), rate_bps=rng.choice([None, 1, 2]))
        for pair in itertools.permutations(nodes + bridges, 2)
        if rng.random() < density
    }
    links |= {("a", "b"): PathSpec(delay_ns=9), ("b", "a"): PathSpec(delay_ns=9)}
    links |= {(n, "a"): PathSpec() for n in nodes[2:] + bridges if (n, "a") not in links}
    metric: Metric = draw(st.sampled_from(["hop", "latency"]))
    return network(links, bridges=bridges, metric=metric)


def every_path(net: Network, source: str, target: str) -> list[tuple[Link, ...]]:
    """All simple paths whose inner vertices are bridges."""
    found: list[tuple[Link, ...]] = []
    todo: list[tuple[tuple[str, ...], tuple[Link, ...]]] = [((source,), ())]
    while todo:
        seen, taken = todo.pop()
        for link in net.leaving(seen[-1]):
            if link.target == target:
                found.append((*taken, link))
            elif link.target in net.bridges and link.target not in seen:
                todo.append(((*seen, link.target), (*taken, link)))
    return found


@settings(deadline=None)
@given(networks())
def test_the_shortest_of_all_paths_is_taken(net: Network) -> None:
    for a, b in itertools.permutations(net.nodes, 2):
        paths = every_path(net, a, b)

        def rank(path: tuple[Link, ...]) -> tuple[int, int, list[str]]:
            cost = sum(link.spec.delay_ns for link in path) if net.metric == "latency" else 0
            return cost, len(path), [link.target for link in path]

        routes = net.routes(a)
        assert (b in routes) == bool(paths) == (b in net.reachable(a))
        if paths:
            best = min(paths, key=rank)
            assert routes[b].links == best
            assert routes[b].spec == collapse(tuple(link.spec for link in best))
