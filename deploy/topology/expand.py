"""From the file's groups, shapes and defaults to single nodes, links and overlay edges (pure).

Every function expects what `checks.py` has found right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from deploy.topology.model import Group, LinkEntry, LinkOptions, TopologyFile
from deploy.topology.model import Network as NetworkEntry
from deploy.topology.network import Link, Network, mutual, natural
from deploy.topology.shapes import edges
from node.config import PathSpec
from node.core.ids import NodeId

SWITCH = "switch"
"""The bridge in the middle of a network of shape star."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, and the group of the file that it comes from."""

    name: NodeId
    group: Group


def members(name: str, group: Group) -> tuple[NodeId, ...]:
    """The nodes of a group."""
    if group.replicas is None:
        return (NodeId(name),)
    return tuple(NodeId(f"{name}-{i}") for i in range(group.replicas))


def nodes(groups: Mapping[str, Group]) -> tuple[Node, ...]:
    """All nodes, in natural order of their names."""
    every = [Node(name=n, group=group) for g, group in groups.items() for n in members(g, group)]
    return tuple(sorted(every, key=lambda node: natural(node.name)))


def references(groups: Mapping[str, Group]) -> dict[str, tuple[NodeId, ...]]:
    """What a name in the file may stand for: a node for itself, a group for all its nodes."""
    found = {name: members(name, group) for name, group in groups.items()}
    return found | {node: (node,) for group in list(found.values()) for node in group}


def bridges(network: NetworkEntry) -> tuple[str, ...]:
    """The names of all bridges, in natural order."""
    if network.shape == "star":
        return (SWITCH,)
    return tuple(sorted(network.bridges, key=natural))


def entry_pairs(
    entry: LinkEntry, known: Mapping[str, tuple[NodeId, ...]]
) -> Iterator[tuple[str, str]]:
    """The links that one entry stands for, each once: (from, to)."""
    sources: tuple[str, ...] = known.get(entry.source, (NodeId(entry.source),))
    targets: tuple[str, ...] = known.get(entry.target, (NodeId(entry.target),))
    if entry.source == entry.target and len(sources) > 1:  # all pairs within a group
        yield from itertools.combinations(sources, 2)
    else:
        yield from itertools.product(sources, targets)


class _LinkRules:
    """What one direction of a link is like, before what its own entry says.

    Nodes of a group share their rules, so each pair of groups is worked out once.
    """

    def __init__(self, file: TopologyFile) -> None:
        self._file = file
        self._group = {
            node: name for name, group in file.nodes.items() for node in members(name, group)
        }
        self._known: dict[tuple[str | None, str | None], LinkOptions] = {}

    def between(self, source: str, target: str) -> LinkOptions:
        """The source's `up`, the target's `down`; of two nodes, the worse of both."""
        key = (self._group.get(NodeId(source)), self._group.get(NodeId(target)))
        if key not in self._known:
            self._known[key] = self._of_groups(*key)
        return self._known[key]

    def _of_groups(self, source: str | None, target: str | None) -> LinkOptions:
        base, groups = self._file.network.link, self._file.nodes
        sides = []
        if source is not None:
            link = groups[source].link
            sides.append(link.up.over(link.over(base)))
        if target is not None:
            link = groups[target].link
            sides.append(link.down.over(link.over(base)))
        return _worse(*sides) if len(sides) == 2 else sides[0] if sides else base


def _worse(one: LinkOptions, other: LinkOptions) -> LinkOptions:
    rates = [rate for rate in (one.rate, other.rate) if rate is not None]
    return LinkOptions.model_construct(
        rate=min(rates, default=None),
        delay=max(one.delay, other.delay),
        jitter=max(one.jitter, other.jitter),
        loss=max(one.loss, other.loss),
    )


def _link(source: str, target: str, options: LinkOptions) -> Link:
    spec = _spec(options.rate, options.delay, options.jitter, options.loss)
    return Link(source=source, target=target, spec=spec)


@lru_cache(maxsize=4096)
def _spec(rate: int | None, delay: int, jitter: int, loss: float) -> PathSpec:
    return PathSpec(rate_bps=rate, delay_ns=delay, jitter_ns=jitter, loss=loss)


def _shaped_links(file: TopologyFile, names: tuple[NodeId, ...]) -> Iterator[Link]:
    network, rules = file.network, _LinkRules(file)
    assert network.shape is not None
    pairs: Iterator[tuple[str, str]]
    if network.shape == "star":
        pairs = ((name, SWITCH) for name in names)
    else:
        found = edges(network.shape, network, count=len(names), seed=file.seed)
        pairs = ((names[a], names[b]) for a, b in found)
    for a, b in pairs:
        yield _link(a, b, rules.between(a, b))
        yield _link(b, a, rules.between(b, a))


def _listed_links(file: TopologyFile) -> Iterator[Link]:
    rules, known = _LinkRules(file), references(file.nodes)
    for entry in file.network.links:
        for a, b in entry_pairs(entry, known):
            yield _link(a, b, entry.over(rules.between(a, b)))
            if not entry.oneway:
                yield _link(b, a, entry.back.over(entry.over(rules.between(b, a))))


def network(file: TopologyFile) -> Network:
    """The network with all its links. Raises ValueError where a random shape does not connect."""
    names = tuple(node.name for node in nodes(file.nodes))
    links = _shaped_links(file, names) if file.network.shape else _listed_links(file)
    middle = bridges(file.network)
    rank = {name: i for i, name in enumerate(sorted((*names, *middle), key=natural))}
    return Network(
        nodes=names,
        bridges=middle,
        links=tuple(sorted(links, key=lambda link: (rank[link.source], rank[link.target]))),
        metric=file.network.metric,
    )


def overlay(file: TopologyFile, network: Network) -> dict[NodeId, tuple[NodeId, ...]]:
    """The neighbours of each node, in natural order. Raises ValueError as `network` does."""
    if not file.overlay.edges and file.overlay.shape in (None, "network"):
        return mutual(network)
    neighbours: dict[NodeId, set[NodeId]] = {name: set() for name in network.nodes}
    for a, b in _overlay_pairs(file, network.nodes):
        neighbours[a].add(b)
        neighbours[b].add(a)
    return {a: tuple(sorted(neighbours[a], key=natural)) for a in network.nodes}


def _overlay_pairs(
    file: TopologyFile, names: tuple[NodeId, ...]
) -> Iterator[tuple[NodeId, NodeId]]:
    """The pairs that the file lists or its shape makes; a pair may come twice."""
    overlay = file.overlay
    if overlay.edges:
        known = references(file.nodes)
        for one, other in overlay.edges:
            for a, b in itertools.product(known[one], known[other]):
                if a != b:
                    yield a, b
    else:
        assert overlay.shape is not None
        if overlay.shape == "star" and overlay.center:
            center = NodeId(overlay.center)
            names = (center, *(name for name in names if name != center))
        for i, j in edges(overlay.shape, overlay, count=len(names), seed=file.seed):
            yield names[i], names[j]
