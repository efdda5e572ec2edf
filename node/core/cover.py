"""The smallest set of peers that explains failed edges: a minimum vertex cover (pure).

Exact where it matters. An end that alone is left on an edge (one unreachable peer among n: a star)
is never taken before the other end; what these reductions leave is searched by branch and bound.
The search is bounded, as the problem is NP-hard; beyond the bound the peer with most failed edges
is taken, again and again, which may take more than the fewest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from node.core.ids import NodeId

_BRANCHES: Final = 2000
_Graph = dict[NodeId, set[NodeId]]


def smallest_cover(edges: Iterable[tuple[NodeId, NodeId]]) -> frozenset[NodeId]:
    """The fewest peers such that each edge has one of them at an end; of equals the last by name.

    An edge whose two ends are equal puts its end into the cover.
    """
    graph: _Graph = {}
    taken: set[NodeId] = set()
    for a, b in edges:
        if a == b:
            taken.add(a)
        graph.setdefault(a, set()).add(b)
        graph.setdefault(b, set()).add(a)
    for node in taken:
        _remove(graph, node)
    search = _Search()
    return frozenset(taken | search.cover(graph, limit=len(graph)))


class _Search:
    """Branch and bound over the peer with most edges: it is in the cover, or all its ends are."""

    def __init__(self) -> None:
        self._branches = 0

    def cover(self, graph: _Graph, *, limit: int) -> set[NodeId]:
        """A cover, the smallest if it has fewer than `limit` peers; else any."""
        taken = _reduce(graph)
        if not graph:
            return taken
        node = max(graph, key=lambda name: (len(graph[name]), name))
        others = set(graph[node])
        with_it = {node} | self.cover(_without(graph, {node}), limit=limit - len(taken) - 1)
        best = with_it
        self._branches += 1
        bound = min(limit - len(taken), len(with_it))
        if self._branches < _BRANCHES and len(others) < bound:
            rest = _without(graph, others)
            without = others | self.cover(rest, limit=bound - len(others))
            if len(without) < len(best):
                best = without
        return taken | best


def _reduce(graph: _Graph) -> set[NodeId]:
    """Take the neighbour of every peer with a single edge; of two such peers the last by name."""
    taken: set[NodeId] = set()
    while True:
        leaves = [name for name, ends in graph.items() if len(ends) == 1]
        if not leaves:
            return taken
        leaf = min(leaves)
        (other,) = graph[leaf]
        taken.add(other)
        _remove(graph, other)


def _without(graph: _Graph, nodes: set[NodeId]) -> _Graph:
    rest = {name: ends - nodes for name, ends in graph.items() if name not in nodes}
    return {name: ends for name, ends in rest.items() if ends}


def _remove(graph: _Graph, node: NodeId) -> None:
    for other in graph.pop(node, set()):
        if other != node:
            graph[other].discard(node)
            if not graph[other]:
                del graph[other]
