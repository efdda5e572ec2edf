"""The smallest set of peers that explains failed edges, against brute force."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from node.core.cover import smallest_cover
from node.core.ids import NodeId

names = st.integers(0, 6).map(lambda number: NodeId(f"n-{number}"))
edge_lists = st.lists(st.tuples(names, names).filter(lambda pair: pair[0] != pair[1]), max_size=12)


def smallest_size(edges: list[tuple[NodeId, NodeId]]) -> int:
    every = sorted({name for edge in edges for name in edge})
    return next(
        size
        for size in range(len(every) + 1)
        for chosen in itertools.combinations(every, size)
        if all(set(edge) & set(chosen) for edge in edges)
    )


@given(edge_lists)
def test_it_covers_every_edge_with_the_fewest(edges: list[tuple[NodeId, NodeId]]) -> None:
    cover = smallest_cover(edges)
    assert all(set(edge) & cover for edge in edges)
    assert len(cover) == smallest_size(edges)


@given(edge_lists)
def test_the_order_of_the_edges_does_not_matter(edges: list[tuple[NodeId, NodeId]]) -> None:
    turned = [(b, a) for a, b in reversed(edges)]
    assert smallest_cover(edges) == smallest_cover(turned)


def test_one_unreachable_peer_among_many_is_the_one_that_goes() -> None:
    star = [(NodeId("n-0"), NodeId(f"n-{i}")) for i in range(1, 1000)]
    assert smallest_cover(star) == {"n-0"}


def test_of_two_that_do_not_reach_each_other_the_last_by_name_goes() -> None:
    assert smallest_cover([(NodeId("a"), NodeId("b"))]) == {"b"}


def test_a_graph_too_large_to_search_is_covered_all_the_same() -> None:
    ring = [
        (NodeId(f"n-{i:03}"), NodeId(f"n-{(i * 7 + j) % 300:03}"))
        for i in range(300)
        for j in (1, 2, 3)
    ]
    edges = [edge for edge in ring if edge[0] != edge[1]]
    cover = smallest_cover(edges)
    assert all(set(edge) & cover for edge in edges)


def test_nothing_failed() -> None:
    assert smallest_cover([]) == frozenset()
