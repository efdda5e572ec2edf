"""The network as a graph of directed links, and its collapse into one path for each pair (pure).

A path passes through bridges, and through a node only if the file makes it a router. What a path is
like follows from its links: delays add, jitters add in squares, losses compose as 1 - prod(1 - p),
the rate is that of the slowest link.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeVar

import networkx as nx
import numpy as np

from deploy.topology.routing import Graph, Tree
from node.config import PathSpec
from node.core.ids import NodeId
from node.errors import ConfigError

_T = TypeVar("_T")


@lru_cache(maxsize=65_536)
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
        """What the whole path is like.

        Raises:
            ConfigError: two of its links have what one path cannot have twice.
        """
        try:
            return collapse(tuple(link.spec for link in self.links))
        except ValueError as error:
            way = " > ".join(self.vertices)
            raise ConfigError(str(error), where=way, remedy="Give it to one of them.") from error

    @property
    def vertices(self) -> tuple[str, ...]:
        """Every name on the way, both ends included."""
        return (self.links[0].source, *(link.target for link in self.links))


@lru_cache(maxsize=65_536)
def collapse(specs: tuple[PathSpec, ...]) -> PathSpec:
    """One specification for links in a row. Equal paths share one object.

    Raises:
        ValueError: two of the links lose in bursts, or two let go in batches: what that comes to
            is no chain of two states, no single slot.
    """
    rates = [spec.rate_bps for spec in specs if spec.rate_bps is not None]
    return PathSpec(
        rate_bps=min(rates, default=None),
        delay_ns=sum(spec.delay_ns for spec in specs),
        jitter_ns=root(sum(spec.jitter_ns**2 for spec in specs)),
        loss=_either(spec.loss for spec in specs),
        burst=_only("burst", (spec.burst for spec in specs)),
        duplicate=_either(spec.duplicate for spec in specs),
        corrupt=_either(spec.corrupt for spec in specs),
        reorder=_either(spec.reorder for spec in specs),
        ordered=all(spec.ordered for spec in specs),
        queue_bytes=_bottleneck_queue(specs),
        slot=_only("slot", (spec.slot for spec in specs)),
    )


def root(square: int) -> int:
    """The square root, rounded to the nearest."""
    return (math.isqrt(4 * square) + 1) // 2


def _either(shares: Iterable[float]) -> float:
    """1 - prod(1 - p), in an order that leaves a single p exactly as it is."""
    total = 0.0
    for share in shares:
        total += share * (1.0 - total)
    return total


def _only(what: str, values: Iterable[_T | None]) -> _T | None:
    """What at most one link of a path may have."""
    found = [value for value in values if value is not None]
    if len(found) > 1:
        raise ValueError(f"{len(found)} links of one path have a `{what}` each")
    return found[0] if found else None


def _bottleneck_queue(specs: Iterable[PathSpec]) -> int | None:
    """The queue of the slowest link of those that say how long theirs is; of equals, the first."""
    told = [spec for spec in specs if spec.queue_bytes is not None]
    slowest = min(
        told, key=lambda s: math.inf if s.rate_bps is None else s.rate_bps, default=PathSpec()
    )
    return slowest.queue_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Nodes, bridges, and directed links between them, at most one from one vertex to another.

    Args:
        nodes, bridges: their names, in natural order.
        metric: what a shortest path minimises. Ties go to fewer links, then to the path that
            comes first in the natural order of the names along it.
        forwards: nodes that are routers, too.
    """

    nodes: tuple[NodeId, ...]
    bridges: tuple[str, ...]
    links: tuple[Link, ...]
    metric: Literal["hop", "latency"] = "hop"
    forwards: frozenset[NodeId] = frozenset()
    _leaving: Mapping[str, tuple[Link, ...]] = field(init=False, repr=False, compare=False)
    _entering: Mapping[str, tuple[Link, ...]] = field(init=False, repr=False, compare=False)
    _specs: Mapping[tuple[str, str], PathSpec] = field(init=False, repr=False, compare=False)
    _order: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _graphs: dict[frozenset[NodeId], Graph] = field(init=False, repr=False, compare=False)

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
        specs = {(link.source, link.target): link.spec for link in self.links}
        object.__setattr__(self, "_specs", specs)
        object.__setattr__(self, "_graphs", {})

    def leaving(self, vertex: str) -> tuple[Link, ...]:
        """The links that start at a vertex."""
        return self._leaving[vertex]

    def entering(self, vertex: str) -> tuple[Link, ...]:
        """The links that end at a vertex."""
        return self._entering[vertex]

    def spec(self, source: str, target: str) -> PathSpec | None:
        """What the link from one vertex to another is like; None: there is none."""
        return self._specs.get((source, target))

    @property
    def vertices(self) -> tuple[str, ...]:
        """Nodes and bridges, in natural order; their places are the numbers in a `tree`."""
        return tuple(self._order)

    def tree(self, source: str, *, through: frozenset[NodeId] | None = None) -> Tree:
        """The shortest paths from a vertex, by numbers: of links in `links`, of vertices in
        `vertices`. `through`: the nodes that forward, instead of `forwards`."""
        return self._routed(through).tree(self._order[source])

    def route(
        self, source: str, target: str, *, through: frozenset[NodeId] | None = None
    ) -> Route | None:
        """The shortest path from one vertex to another; None: there is none, or they are one."""
        way = self._routed(through).path(self._order[source], self._order[target])
        return Route(tuple(self.links[number] for number in way)) if way else None

    def _routed(self, through: frozenset[NodeId] | None) -> Graph:
        nodes = self.forwards if through is None else through
        if nodes not in self._graphs:
            self._graphs[nodes] = self._graph(nodes)
        return self._graphs[nodes]

    def _graph(self, through: frozenset[NodeId]) -> Graph:
        order, routers = self._order, {*self.bridges, *through}
        return Graph(
            [name in routers for name in order],
            ((order[k.source], order[k.target], k.spec.delay_ns) for k in self.links),
            weighted=self.metric == "latency",
        )

    def routes(
        self, source: NodeId, *, through: frozenset[NodeId] | None = None
    ) -> dict[NodeId, Route]:
        """The shortest path to every node that has one, in the order of `nodes`."""
        tree, links, order = self.tree(source, through=through), self.links, self._order
        ways = ((name, tree.path(order[name])) for name in self.nodes)
        return {name: Route(tuple(links[i] for i in way)) for name, way in ways if way}

    def reachable(self, source: NodeId) -> frozenset[NodeId]:
        """The nodes that have a path from `source`."""
        return self._reach(source, self._islands())

    def _reach(self, source: NodeId, islands: _Islands) -> frozenset[NodeId]:
        return islands.reachable(source, (link.target for link in self._leaving[source]))

    def reach(self) -> Iterator[tuple[NodeId, frozenset[NodeId]]]:
        """`reachable` of every node."""
        islands = self._islands()
        return ((node, self._reach(node, islands)) for node in self.nodes)

    def _islands(self) -> _Islands:
        routers = [*self.bridges, *sorted(self.forwards, key=natural)]
        near = {name: [link.target for link in self._leaving[name]] for name in routers}
        return _Islands(near, bridges=self.bridges)

    @property
    def both_ways(self) -> bool:
        """Whether every link has a way back."""
        return all((b, a) in self._specs for a, b in self._specs)


class _Islands:
    """The parts of a network in which routers reach each other, and the nodes that each leads to.

    Args:
        near: for each router, the vertices that it has links to.
        bridges: the routers that are no nodes.
    """

    def __init__(self, near: Mapping[str, Sequence[str]], *, bridges: Iterable[str]) -> None:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(near)
        graph.add_edges_from((a, b) for a, others in near.items() for b in others if b in near)
        parts = nx.condensation(graph)
        led: dict[int, set[str]] = {}
        for part in reversed(list(nx.topological_sort(parts))):
            members: set[str] = parts.nodes[part]["members"]
            led[part] = members.union(*(near[name] for name in members))
            led[part].update(*(led[after] for after in parts.successors(part)))
        middle = {*bridges}
        self._of: Mapping[str, int] = parts.graph["mapping"]
        self._nodes = {
            part: frozenset(NodeId(name) for name in reached - middle)
            for part, reached in led.items()
        }

    def reachable(self, source: NodeId, linked: Iterable[str]) -> frozenset[NodeId]:
        """The nodes that a node has a path to, which has links to these vertices."""
        vertices = list(linked)
        near = {self._of[name] for name in (source, *vertices) if name in self._of}
        direct = frozenset(NodeId(name) for name in vertices if name not in self._of)
        return direct.union(*(self._nodes[i] for i in near)) - {source}


def mutual(network: Network) -> dict[NodeId, tuple[NodeId, ...]]:
    """For each node, those with a path to it and from it, in the order of `nodes`."""
    nodes = network.nodes
    if network.both_ways:
        return {
            node: tuple(other for other in nodes if other in there)
            for node, there in network.reach()
        }
    index = {node: i for i, node in enumerate(nodes)}
    found = np.zeros((len(nodes), len(nodes)), dtype=bool)
    for node, there in network.reach():
        found[index[node], [index[other] for other in there]] = True
    found &= found.T.copy()
    return {node: tuple(nodes[i] for i in np.flatnonzero(found[index[node]])) for node in nodes}


def connected_parts(neighbours: Mapping[NodeId, Iterable[NodeId]]) -> list[list[NodeId]]:
    """The parts of an undirected graph that hang together, each in natural order."""
    left, parts = dict.fromkeys(sorted(neighbours, key=natural)), []
    while left:
        part = [next(iter(left))]
        del left[part[0]]
        for node in part:  # which grows meanwhile
            fresh = [other for other in neighbours[node] if other in left] if left else []
            for other in fresh:
                left.pop(other, None)
            part += fresh
        parts.append(sorted({*part}, key=natural))
    return parts
