"""Shapes: the graphs that their names promise, the same for the same seed."""

from __future__ import annotations

import typing
from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology.model import OverlayShape, ShapeName, ShapeOptions
from deploy.topology.shapes import SHAPES, Edges, complaints, edges


def options(**given: object) -> ShapeOptions:
    return ShapeOptions.model_validate(given)


def make(name: str, count: int, *, seed: int = 1, **given: object) -> Edges:
    assert not list(complaints(name, options(**given), count=count))
    return edges(name, options(**given), count=count, seed=seed)


def degrees(found: Edges) -> list[int]:
    return sorted(Counter(end for edge in found for end in edge).values())


def test_every_name_has_a_shape() -> None:
    assert set(SHAPES) == set(typing.get_args(ShapeName))
    assert set(typing.get_args(OverlayShape)) == {"network", *SHAPES}


def test_plain_shapes() -> None:
    assert make("ring", 4) == ((0, 1), (0, 3), (1, 2), (2, 3))
    assert make("line", 4) == ((0, 1), (1, 2), (2, 3))
    assert make("star", 4) == ((0, 1), (0, 2), (0, 3))
    assert len(make("full", 5)) == 10


def test_small_numbers() -> None:
    for name in SHAPES.keys() - {"random-regular", "small-world", "scale-free"}:
        assert make(name, 1) == ()
        assert make(name, 2) == ((0, 1),)
    assert make("ring", 3) == ((0, 1), (0, 2), (1, 2))


def test_a_grid_may_end_in_a_broken_row() -> None:
    assert make("grid", 5, columns=3) == ((0, 1), (0, 3), (1, 2), (1, 4), (3, 4))
    assert make("grid", 4) == ((0, 1), (0, 2), (1, 3), (2, 3))
    assert make("grid", 3, columns=9) == make("line", 3)


def test_a_tree_branches() -> None:
    assert make("tree", 7) == ((0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6))
    assert make("tree", 4, branching=3) == ((0, 1), (0, 2), (0, 3))


def test_random_regular_is_regular_and_follows_its_seed() -> None:
    found = make("random-regular", 20, degree=3)
    assert degrees(found) == [3] * 20
    assert found == make("random-regular", 20, degree=3)
    assert found != make("random-regular", 20, degree=3, seed=2)
    assert make("random-regular", 20, seed=9, degree=3) != found
    pinned = edges("random-regular", options(degree=3, seed=1), count=20, seed=77)
    assert pinned == found


def test_small_world_and_scale_free() -> None:
    assert len(make("small-world", 30, degree=4)) == 60
    assert make("small-world", 10, degree=2, rewire="0%") == make("ring", 10)
    assert max(degrees(make("scale-free", 60, degree=2))) > 8


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.integers(2, 40), st.integers(2, 6), st.integers(0, 2**63)
)
def test_every_graph_is_connected_and_simple(name: str, count: int, degree: int, seed: int) -> None:
    given = {"degree": degree} if "degree" in SHAPES[name].needs else {}
    if list(complaints(name, options(**given), count=count)):
        return
    found = edges(name, options(**given), count=count, seed=seed)
    assert len(set(found)) == len(found)
    assert all(0 <= a < b < count for a, b in found)
    graph: nx.Graph[int] = nx.Graph(found)
    assert len(graph) == count
    assert nx.is_connected(graph)


@pytest.mark.parametrize(
    ("name", "count", "given", "complaint"),
    [
        ("ring", 4, {"degree": 2}, ("degree", "no such option; its options: none")),
        ("grid", 4, {"branching": 2}, ("branching", "its options: columns")),
        ("random-regular", 4, {}, ("degree", "needs it")),
        ("random-regular", 5, {"degree": 3}, ("degree", "must be even")),
        ("random-regular", 4, {"degree": 4}, ("degree", "at most 3 neighbours")),
        ("random-regular", 4, {"degree": 1}, ("degree", "connects only two nodes")),
        ("small-world", 9, {"degree": 3}, ("degree", "even degree")),
        ("scale-free", 4, {"degree": 4}, ("degree", "at most 3")),
    ],
)
def test_impossible_graphs(
    name: str, count: int, given: dict[str, object], complaint: tuple[str, str]
) -> None:
    [(option, message)] = complaints(name, options(**given), count=count)
    assert option == complaint[0]
    assert complaint[1] in message
