"""From the file's groups, shapes and defaults to single nodes, links and overlay edges (pure).

Every function expects what `checks.py` has found right.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from deploy.topology.model import BurstLoss, Group, LinkEntry, LinkOptions, TopologyFile
from deploy.topology.network import Link, Network, mutual, natural
from deploy.topology.shapes import edges
from node.config import Burst, PathSpec, Slot
from node.core.ids import NodeId

SWITCH: Final = "switch"
"""The bridge in the middle of a network of shape star."""
NOTHING: Final = LinkOptions()


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


def bridges(file: TopologyFile) -> tuple[str, ...]:
    """The names of all bridges, in natural order; those that shared links make are among them."""
    given = (SWITCH,) if file.network.shape == "star" else file.network.bridges
    made = (bridge for by_end in share_bridges(file).values() for bridge in by_end.values())
    return tuple(sorted((*given, *made), key=natural))


def share_bridges(file: TopologyFile) -> dict[int, dict[str, str]]:
    """The bridges that shared links are made with: for each entry of `network.links` (-1: the links
    of a star) with a group that shares, from the group to its bridge.

    Each entry has one of its own, so that no traffic of others passes through it.
    """
    network, count, found = file.network, Counter[str](), dict[int, dict[str, str]]()
    if not any(group.share for group in file.nodes.values()):
        return found
    entries = [(i, [entry.source, entry.target]) for i, entry in enumerate(network.links)]
    if network.shape == "star":
        entries = [(-1, [*file.nodes])]
    for index, ends in entries:
        for name in ends:
            if name in file.nodes and file.nodes[name].share:
                count[name] += 1
                bridge = f"{name}-share" + (f"-{count[name]}" if count[name] > 1 else "")
                found.setdefault(index, {})[name] = bridge
    return found


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
        } | {NodeId(name): name for name in file.nodes}
        self._known: dict[tuple[str | None, str | None], LinkOptions] = {}
        self._bases: dict[int, tuple[LinkOptions, PathSpec]] = {}
        self._specs: dict[tuple[int, int], tuple[LinkOptions, LinkOptions, PathSpec]] = {}

    def spec(self, source: str, target: str, entry: LinkOptions = NOTHING) -> PathSpec:
        """What the link is like: its entry, the source's `up`, the target's `down`; of two nodes,
        the worse of both. Links that are alike share one object."""
        rules = self._between(source, target)
        key = (id(rules), id(entry))
        if key not in self._specs:
            # The options are kept with it: an id is good only as long as what it is of.
            if id(rules) not in self._bases:
                self._bases[id(rules)] = (rules, altered(PathSpec(), rules))
            self._specs[key] = (rules, entry, altered(self._bases[id(rules)][1], entry))
        return self._specs[key][2]

    def _between(self, source: str, target: str) -> LinkOptions:
        key = (self._group.get(NodeId(source)), self._group.get(NodeId(target)))
        if key not in self._known:
            self._known[key] = self._of_groups(*key)
        return self._known[key]

    def _of_groups(self, source: str | None, target: str | None) -> LinkOptions:
        base, groups = self._file.network.link, self._file.nodes
        sides = []
        if source is not None and groups[source].link.model_fields_set:
            link = groups[source].link
            sides.append(link.up.over(link.over(base)))
        elif source is not None:
            sides.append(base)
        if target is not None and groups[target].link.model_fields_set:
            link = groups[target].link
            sides.append(link.down.over(link.over(base)))
        elif target is not None:
            sides.append(base)
        if all(side is base for side in sides):  # so it is for most, and there may be many
            return base
        return _worse(*sides) if len(sides) == 2 else sides[0]


def _worse(one: LinkOptions, other: LinkOptions) -> LinkOptions:
    """Key by key the worse of both. A key that neither gives stays without a value."""
    both = (one, other)
    found: dict[str, Any] = {
        "rate": min((o.rate for o in both if o.rate is not None), default=None),
        "order": "free" if "free" in (one.order, other.order) else "keep",
        "queue": min((o.queue for o in both if o.queue is not None), default=None),
        "burst": max((o.burst for o in both if o.burst), key=_burst_loss, default=None),
        "slot": max((o.slot for o in both if o.slot), key=lambda slot: slot.most, default=None),
    }
    for key in ("delay", "jitter", "loss", "duplicate", "corrupt", "reorder"):
        found[key] = max(getattr(one, key), getattr(other, key))
    given = {*one.given(), *other.given()}
    return LinkOptions.model_construct(**{k: v for k, v in found.items() if k in given})


def _burst_loss(burst: BurstLoss) -> float:
    return _burst(burst).loss


def _burst(burst: BurstLoss) -> Burst:
    return Burst(enter=burst.enter, leave=burst.leave, bad=burst.bad, good=burst.good)


def altered(spec: PathSpec, options: LinkOptions) -> PathSpec:
    """A link with what the options give, and as it was in everything else."""
    fields: dict[str, Any] = {}
    for key, value in options.given().items():
        match key:
            case "rate":
                fields["rate_bps"] = value
            case "delay" | "jitter":
                fields[f"{key}_ns"] = value
            case "burst":
                fields[key] = None if value is None else _burst(value)
            case "order":
                fields["ordered"] = value == "keep"
            case "queue":
                fields["queue_bytes"] = value
            case "slot":
                slot = None if value is None else Slot(least_ns=value.least, most_ns=value.most)
                fields[key] = slot
            case _:
                fields[key] = value
    return replace(spec, **fields)


def _shaped_links(file: TopologyFile, names: tuple[NodeId, ...]) -> Iterator[Link]:
    network, rules = file.network, _LinkRules(file)
    assert network.shape is not None
    if network.shape == "star":
        shared = share_bridges(file).get(-1, {})
        for name, group in file.nodes.items():
            yield from _Bundle(
                sources=members(name, group),
                targets=(SWITCH,),
                bridges=(shared.get(name), None),
                there=rules.spec(name, SWITCH),
                back=rules.spec(SWITCH, name),
            ).links()
        return
    for i, j in edges(network.shape, network, count=len(names), seed=file.seed):
        a, b = names[i], names[j]
        yield Link(source=a, target=b, spec=rules.spec(a, b))
        yield Link(source=b, target=a, spec=rules.spec(b, a))


def _listed_links(file: TopologyFile) -> Iterator[Link]:
    rules, known, shared = _LinkRules(file), references(file.nodes), share_bridges(file)
    for i, entry in enumerate(file.network.links):
        back: LinkOptions = entry.back.over(entry) if entry.back.model_fields_set else entry
        if i not in shared:
            for a, b in entry_pairs(entry, known):
                yield Link(source=a, target=b, spec=rules.spec(a, b, entry))
                if not entry.oneway:
                    yield Link(source=b, target=a, spec=rules.spec(b, a, back))
            continue
        source, target = entry.source, entry.target
        yield from _Bundle(
            sources=known.get(source, (NodeId(source),)),
            targets=known.get(target, (NodeId(target),)),
            bridges=(shared[i].get(source), shared[i].get(target)),
            there=rules.spec(source, target, entry),
            back=None if entry.oneway else rules.spec(target, source, back),
        ).links()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bundle:
    """The links of one entry, of which at least one end shares.

    Kollaps' way: the members of a group that shares hang on a bridge by links of the same rate
    that neither delay nor lose; what one link is like, the common one behind the bridge is like.

    Args:
        sources, targets: the nodes, or a bridge.
        bridges: of the sources and of the targets; None: that end does not share.
        there, back: what the way there and back is like; `back` None: there is no way back.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    bridges: tuple[str | None, str | None]
    there: PathSpec
    back: PathSpec | None

    def links(self) -> Iterator[Link]:
        near, far = self.bridges
        for a, b in itertools.product(
            self.sources if near is None else (near,), self.targets if far is None else (far,)
        ):
            yield from self._both(a, b, self.there, self.back)
        there = PathSpec(rate_bps=self.there.rate_bps)
        back = None if self.back is None else PathSpec(rate_bps=self.back.rate_bps)
        if near is not None:
            for a in self.sources:
                yield from self._both(a, near, there, back)
        if far is not None:
            for b in self.targets:
                yield from self._both(far, b, there, back)

    @staticmethod
    def _both(a: str, b: str, there: PathSpec, back: PathSpec | None) -> Iterator[Link]:
        yield Link(source=a, target=b, spec=there)
        if back is not None:
            yield Link(source=b, target=a, spec=back)


def network(file: TopologyFile) -> Network:
    """The network with all its links. Raises ValueError where a random shape does not connect."""
    every = nodes(file.nodes)
    names = tuple(node.name for node in every)
    links = _shaped_links(file, names) if file.network.shape else _listed_links(file)
    middle = bridges(file)
    rank = {name: i for i, name in enumerate(sorted((*names, *middle), key=natural))}
    return Network(
        nodes=names,
        bridges=middle,
        links=tuple(sorted(links, key=lambda link: (rank[link.source], rank[link.target]))),
        metric=file.network.metric,
        forwards=frozenset(node.name for node in every if node.group.forwards),
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
