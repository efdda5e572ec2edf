"""The network as a graph of directed links, and its collapse into one path for each pair (pure).

A path never passes through a node: only bridges forward. What a path is like follows from its
links: delays add, jitters add in squares, losses compose as 1 - prod(1 - p), the rate is that of
the slowest link.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from node.config import PathSpec
from node.core.ids import NodeId


def natural(name: str) -> tuple[tuple[int | str, ...], str]:
    """The order of names: `n-2` before `n-10`."""
    parts = re.split("([0-9]+)", name)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(parts)), name


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link between two vertices (nodes or bridges)."""

    source: str
    target: str
    spec: PathSpec

    @property
    def name(self) -> str:
        return f"{self.source}>{self.target}"


@dataclass(frozen=True, slots=True)
class Route:
    """The path from one node to another: the links that it takes, in order."""

    links: tuple[Link, ...]

    @property
    def spec(self) -> PathSpec:
        """What the whole path is like."""
        return collapse(tuple(link.spec for link in self.links))

    @property
    def vertices(self) -> tuple[str, ...]:
        """Every name on the way, both ends included."""
        return (self.links[0].source, *(link.target for link in self.links))


@lru_cache(maxsize=65_536)
def collapse(specs: tuple[PathSpec, ...]) -> PathSpec:
    """One specification for links in a row. Equal paths share one object."""
    rates = [spec.rate_bps for spec in specs if spec.rate_bps is not None]
    squares = sum(spec.jitter_ns**2 for spec in specs)
    loss = 0.0
    for spec in specs:
        loss += spec.loss * (1.0 - loss)
    return PathSpec(
        rate_bps=min(rates, default=None),
        delay_ns=sum(spec.delay_ns for spec in specs),
        jitter_ns=(math.isqrt(4 * squares) + 1) // 2,  # the root, rounded to the nearest
        loss=loss,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Nodes, bridges, and directed links between them, at most one from one vertex to another.

    Args:
        nodes, bridges: their names, in natural order.
        metric: what a shortest path minimises. Ties go to fewer links, then to the path that
            comes first in the natural order of the names along it.
    """

    nodes: tuple[NodeId, ...]
    bridges: tuple[str, ...]
    links: tuple[Link, ...]
    metric: Literal["hop", "latency"] = "hop"
    _leaving: Mapping[str, tuple[Link, ...]] = field(init=False, repr=False, compare=False)
    _entering: Mapping[str, tuple[Link, ...]] = field(init=False, repr=False, compare=False)
    _order: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = sorted((*self.nodes, *self.bridges), key=natural)
        object.__setattr__(self, "_order", {name: i for i, name in enumerate(names)})
        leaving: dict[str, list[Link]] = {name: [] for name in names}
        entering: dict[str, list[Link]] = {name: [] for name in names}
        for link in self.links:
            leaving[link.source].append(link)
            entering[link.target].append(link)
        object.__setattr__(self, "_leaving", {k: tuple(v) for k, v in leaving.items()})
        object.__setattr__(self, "_entering", {k: tuple(v) for k, v in entering.items()})

    def leaving(self, vertex: str) -> tuple[Link, ...]:
        """The links that start at a vertex."""
        return self._leaving[vertex]

    def entering(self, vertex: str) -> tuple[Link, ...]:
        """The links that end at a vertex."""
        return self._entering[vertex]

    def routes(self, source: NodeId) -> dict[NodeId, Route]:
        """The shortest path to every node that has one, in the order of `nodes`."""
        order, bridges = self._order, frozenset(self.bridges)
        best: dict[str, tuple[_Key, tuple[Link, ...]]] = {}
        start: _Key = (0, 0, (order[source],))
        heap: list[tuple[_Key, str, tuple[Link, ...]]] = [(start, source, ())]
        done: set[str] = {source}
        while heap:
            (cost, hops, names), vertex, taken = heapq.heappop(heap)
            if vertex in done and vertex != source:
                continue
            done.add(vertex)
            for link in self._leaving[vertex]:
                if link.target in done:
                    continue
                step = link.spec.delay_ns if self.metric == "latency" else 1
                key: _Key = (cost + step, hops + 1, (*names, order[link.target]))
                if link.target not in best or key < best[link.target][0]:
                    best[link.target] = (key, (*taken, link))
                    if link.target in bridges:
                        heapq.heappush(heap, (key, link.target, (*taken, link)))
        return {name: Route(best[name][1]) for name in self.nodes if name in best}

    def reachable(self, source: NodeId) -> frozenset[NodeId]:
        """The nodes that have a path from `source`."""
        bridges = frozenset(self.bridges)
        seen: set[str] = {source}
        todo: list[str] = [source]
        while todo:
            for link in self._leaving[todo.pop()]:
                if link.target not in seen:
                    seen.add(link.target)
                    if link.target in bridges:
                        todo.append(link.target)
        return frozenset(NodeId(name) for name in seen - bridges - {source})


_Key = tuple[int, int, tuple[int, ...]]
"""Cost by the metric, number of links, positions in name order: smaller is better, and of two
paths to the same vertex the better stays so however both go on."""


def mutual(network: Network) -> dict[NodeId, tuple[NodeId, ...]]:
    """For each node, those with a path to it and from it, in the order of `nodes`."""
    ends = {(link.source, link.target) for link in network.links}
    both_ways = all((target, source) in ends for source, target in ends)
    reach = {node: network.reachable(node) for node in (() if both_ways else network.nodes)}
    found = {}
    for node in network.nodes:
        there = network.reachable(node)
        found[node] = tuple(
            other
            for other in network.nodes
            if other in there and (both_ways or node in reach[other])
        )
    return found


def connected_parts(neighbours: Mapping[NodeId, Iterable[NodeId]]) -> list[list[NodeId]]:
    """The parts of an undirected graph that hang together, each in natural order."""
    left, parts = dict.fromkeys(sorted(neighbours, key=natural)), []
    while left:
        part, todo = set(), [next(iter(left))]
        while todo:
            node = todo.pop()
            if node in left:
                del left[node]
                part.add(node)
                todo.extend(neighbours[node])
        parts.append(sorted(part, key=natural))
    return parts
