"""Graphs by name: which of n nodes, numbered 0 to n-1, are neighbours (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import networkx as nx

from deploy.topology.model import ShapeOptions

Edges = tuple[tuple[int, int], ...]
"""Pairs (low, high), ascending, without repeats or loops."""

_TRIES: Final = 200
_REWIRE: Final = 0.1
_BRANCHING: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How to build one kind of graph.

    Args:
        build: from the number of nodes, the options, a seed.
        takes: the options that mean something to it.
        needs: those that must be given.
        problems: from the number of nodes and the options: (option, what is wrong with it).
    """

    build: Callable[[int, ShapeOptions, int], nx.Graph[int]]
    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    problems: Callable[[int, ShapeOptions], str | None] = field(default=lambda n, o: None)


def edges(name: str, options: ShapeOptions, *, count: int, seed: int) -> Edges:
    """The graph `name` over `count` nodes; `complaints` has found nothing wrong with the options.

    Raises:
        ValueError: no connected graph came out of a random shape.
    """
    if count == 1:
        return ()
    graph = SHAPES[name].build(count, options, seed if options.seed is None else options.seed)
    return tuple(sorted((min(a, b), max(a, b)) for a, b in graph.edges if a != b))


def complaints(name: str, options: ShapeOptions, *, count: int) -> Iterator[tuple[str, str]]:
    """What is wrong with the options of a shape: (option, message)."""
    shape = SHAPES[name]
    given = {key for key in ShapeOptions.model_fields if key in options.model_fields_set}
    for option in sorted(given - shape.takes):
        taken = ", ".join(sorted(shape.takes)) or "none"
        yield option, f"the shape {name} has no such option; its options: {taken}"
    for option in sorted(shape.needs - given):
        yield option, f"the shape {name} needs it"
    if shape.needs <= given and (message := shape.problems(count, options)):
        yield min(shape.needs), message


def _star(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    graph: nx.Graph[int] = nx.star_graph(n - 1)
    return graph


def _grid(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    columns = o.columns or math.ceil(math.sqrt(n))
    graph: nx.Graph[int] = nx.Graph()
    graph.add_edges_from((i, i + 1) for i in range(n - 1) if (i + 1) % columns)
    graph.add_edges_from((i, i + columns) for i in range(n - columns))
    return graph


def _tree(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    graph: nx.Graph[int] = nx.full_rary_tree(o.branching or _BRANCHING, n)
    return graph


def _random_regular(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    assert o.degree is not None
    for attempt in range(_TRIES):
        graph: nx.Graph[int] = nx.random_regular_graph(
            o.degree, n, seed=(seed * _TRIES + attempt) % 2**32
        )
        if nx.is_connected(graph):
            return graph
    raise ValueError(f"{_TRIES} random graphs of degree {o.degree}, none of them connected")


def _regular_problem(n: int, o: ShapeOptions) -> str | None:
    assert o.degree is not None
    if o.degree >= n:
        return f"{n} nodes have at most {n - 1} neighbours each"
    if n * o.degree % 2:
        return f"{n} nodes of degree {o.degree} cannot be: their product must be even"
    return "a graph of degree 1 connects only two nodes" if o.degree == 1 and n > 2 else None


def _small_world(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    assert o.degree is not None
    rewire = _REWIRE if o.rewire is None else o.rewire
    graph: nx.Graph[int]
    try:
        graph = nx.connected_watts_strogatz_graph(n, o.degree, rewire, _TRIES, seed % 2**32)
    except nx.NetworkXError as error:
        raise ValueError(f"{_TRIES} small worlds, none of them connected") from error
    return graph


def _small_world_problem(n: int, o: ShapeOptions) -> str | None:
    assert o.degree is not None
    if o.degree >= n:
        return f"{n} nodes have at most {n - 1} neighbours each"
    return "a small world has an even degree" if o.degree % 2 else None


def _scale_free(n: int, o: ShapeOptions, seed: int) -> nx.Graph[int]:
    assert o.degree is not None
    return nx.barabasi_albert_graph(n, o.degree, seed=seed % 2**32)


def _scale_free_problem(n: int, o: ShapeOptions) -> str | None:
    assert o.degree is not None
    return f"{n} nodes: at most {n - 1}" if o.degree >= n else None


SHAPES: Final = {
    "ring": Shape(build=lambda n, o, seed: nx.cycle_graph(n)),
    "line": Shape(build=lambda n, o, seed: nx.path_graph(n)),
    "star": Shape(build=_star),
    "full": Shape(build=lambda n, o, seed: nx.complete_graph(n)),
    "grid": Shape(build=_grid, takes=frozenset({"columns"})),
    "tree": Shape(build=_tree, takes=frozenset({"branching"})),
    "random-regular": Shape(
        build=_random_regular,
        takes=frozenset({"degree", "seed"}),
        needs=frozenset({"degree"}),
        problems=_regular_problem,
    ),
    "small-world": Shape(
        build=_small_world,
        takes=frozenset({"degree", "rewire", "seed"}),
        needs=frozenset({"degree"}),
        problems=_small_world_problem,
    ),
    "scale-free": Shape(
        build=_scale_free,
        takes=frozenset({"degree", "seed"}),
        needs=frozenset({"degree"}),
        problems=_scale_free_problem,
    ),
}
"""Every shape, by the names that `model.ShapeName` lists."""
