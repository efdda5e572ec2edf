"""Shortest paths from one vertex, deterministic, on numbers instead of names (pure).

Of two paths that cost the same, that with fewer links wins; of those, the one whose vertices have
the lower numbers, compared from the start. So a path does not depend on the order of links, and a
part of a shortest path is one, too: the paths from one vertex form a tree.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_TREES_MAX: Final = 64
"""Trees that are kept for `Graph.path`."""
Edge = tuple[int, int, int]
"""Target, weight, and the number of the link."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The shortest paths from one vertex.

    Args:
        order: the vertices that can be reached, each after the one that its path comes from.
        before: for each vertex, the one that its path comes from; -1: none.
        link: for each vertex, the number of the last link on its path; -1: none.
    """

    order: Sequence[int]
    before: Sequence[int]
    link: Sequence[int]

    def path(self, target: int) -> list[int]:
        """The numbers of the links on the way to a vertex, in order; none if there is no way."""
        taken = []
        while (link := self.link[target]) >= 0:
            taken.append(link)
            target = self.before[target]
        taken.reverse()
        return taken


class Graph:
    """Directed links between vertices 0 to n - 1, some of which forward.

    Args:
        forwards: for each vertex, whether a path may lead through it.
        links: (source, target, weight); at most one from one vertex to another.
        weighted: whether a path costs the sum of its weights; otherwise, its number of links.
    """

    def __init__(
        self, forwards: Sequence[bool], links: Iterable[tuple[int, int, int]], *, weighted: bool
    ) -> None:
        self._forwards = tuple(forwards)
        leaving: list[list[Edge]] = [[] for _ in self._forwards]
        # One integer for (cost, links): every link adds a little less than any weight can.
        scale = len(self._forwards) + 1
        for number, (source, target, weight) in enumerate(links):
            leaving[source].append((target, weight * scale + 1, number))
        for edges in leaving:
            edges.sort()
        self._leaving = leaving
        self._weighted = weighted
        self._kept: dict[int, Tree] = {}
        self._newest = lru_cache(maxsize=_TREES_MAX)(self._made)

    def tree(self, source: int) -> Tree:
        """The shortest paths from a vertex to all that it can reach."""
        only = self._only(source)
        if only is None:
            return self._made(source)
        via, _, number = only
        shared = self._shared(via)
        before, link = list(shared.before), list(shared.link)
        before[via], link[via] = source, number
        before[source] = link[source] = -1
        return Tree([source, *(v for v in shared.order if v != source)], before, link)

    def path(self, source: int, target: int) -> list[int]:
        """The numbers of the links on the shortest path; none if there is none. For single paths,
        of which a tree has many."""
        only = self._only(source)
        if source == target:
            return []
        if only is None:
            return self._newest(source).path(target)
        via, _, number = only
        rest = self._shared(via).path(target)
        return [number, *rest] if rest or via == target else []

    def _only(self, source: int) -> Edge | None:
        """The one link that leaves a vertex, if it leads to one that forwards.

        All that hang on one switch by one link share its tree: no path leads back through them.
        """
        edges = self._leaving[source]
        return edges[0] if len(edges) == 1 and self._forwards[edges[0][0]] else None

    def _shared(self, via: int) -> Tree:
        if via not in self._kept:
            self._kept[via] = self._made(via)
        return self._kept[via]

    def _made(self, source: int) -> Tree:
        return self._by_weight(source) if self._weighted else self._by_links(source)

    def _by_links(self, source: int) -> Tree:
        """Breadth first. Each level stands in the order of its paths, and the links of a vertex in
        that of their targets; so whoever finds a vertex first has the first path to it."""
        count = len(self._forwards)
        before, link = [-1] * count, [-1] * count
        found = [False] * count
        found[source] = True
        order = [source]
        leaving, forwards = self._leaving, self._forwards
        for vertex in order:  # grows while it is read
            if not forwards[vertex] and vertex != source:
                continue
            for target, _, number in leaving[vertex]:
                if not found[target]:
                    found[target] = True
                    before[target], link[target] = vertex, number
                    order.append(target)
        return Tree(order, before, link)

    def _by_weight(self, source: int) -> Tree:
        """Dijkstra; of equal paths the first, which both are known to the end when they meet."""
        count = len(self._forwards)
        before, link = [-1] * count, [-1] * count
        cost: list[int | None] = [None] * count
        done = [False] * count
        cost[source] = 0
        order: list[int] = []
        heap = [(0, source)]
        leaving, forwards = self._leaving, self._forwards
        while heap:
            so_far, vertex = heapq.heappop(heap)
            if done[vertex]:
                continue
            done[vertex] = True
            order.append(vertex)
            if not forwards[vertex] and vertex != source:
                continue
            for target, weight, number in leaving[vertex]:
                if done[target]:
                    continue
                known, reached = cost[target], so_far + weight
                if known is None or reached < known:
                    cost[target] = reached
                    heapq.heappush(heap, (reached, target))
                elif reached > known or not _first(before, vertex, before[target]):
                    continue
                before[target], link[target] = vertex, number
        return Tree(order, before, link)


def _first(before: Sequence[int], one: int, other: int) -> bool:
    """Whether the path to `one` comes before that to `other`; both have as many links."""
    smaller = False
    while one != other:
        smaller = one < other  # the pair that is nearest to the start decides
        one, other = before[one], before[other]
    return smaller
