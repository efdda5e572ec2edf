"""The links of every node over a run (pure): paths, what is planned to change, what is shared.

    states, one after the other --> pairs whose route differs --> a LinkChange for each node

A directed link is *shared* if no kernel sees all of its traffic: neither do all paths over it begin
with it (then it is the sender's) nor do all end with it (the receiver's). The link agents compute
each path's share of those. A link that cannot be a bottleneck, whatever is sent, is left out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.topology import Route, Topology
from deploy.topology.state import Ends, NetworkState, states
from node.config import AccessLink, LinkChange, PathChange, PathSpec, SharedLink
from node.core.ids import NodeId
from node.units import Nanos

Pair = tuple[NodeId, NodeId]
"""A path by its ends: from, to."""
Timed = tuple[Nanos, tuple[str, ...], NetworkState]
"""A state, the time from which it holds, and what made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is different from one state to the next.

    Args:
        routes: the pairs whose route, or a link on it, differs: before and after; None: no path.
        links: the links that are not like they were, and what they are like now.
    """

    at_ns: Nanos
    what: tuple[str, ...]
    routes: Mapping[Pair, tuple[Route | None, Route | None]]
    links: Mapping[Ends, PathSpec]


def moments(every: Iterable[Timed]) -> Iterator[Moment]:
    """What is different from state to state; in the first, all routes are new."""
    before: NetworkState | None = None
    routes: dict[NodeId, dict[NodeId, Route]] = {}
    for at_ns, what, state in every:
        changed: dict[Pair, tuple[Route | None, Route | None]] = {}
        for node in state.base.nodes if state != before else ():
            was, now = routes.get(node, {}), state.routes(node)
            for other in {**was, **now}:
                if (old := was.get(other)) != (new := now.get(other)):
                    changed[node, other] = (old, new)
            routes[node] = now
        links = {} if before is None else state.changed_links(before)
        yield Moment(at_ns=at_ns, what=what, routes=changed, links=links)
        before = state


@dataclass(slots=True)
class _Crossing:
    """The paths over one directed link.

    Args:
        sources: how many paths each node has over it.
        firsts, lasts: how often each link is the first, and the last, of a path over it.
    """

    sources: Counter[NodeId] = field(default_factory=Counter)
    firsts: Counter[Ends] = field(default_factory=Counter)
    lasts: Counter[Ends] = field(default_factory=Counter)

    def count(self, source: NodeId, first: Ends, last: Ends, more: int) -> None:
        """One path more, or one less."""
        self.sources[source] += more
        self.firsts[first] += more
        self.lasts[last] += more

    def shared(self, ends: Ends, rates: Mapping[Ends, int | None]) -> bool:
        """Whether no kernel sees all of the traffic, and it may become more than goes."""
        paths, capacity = self.sources.total(), rates[ends]
        if capacity is None or paths < 2 or paths in (self.firsts[ends], self.lasts[ends]):
            return False
        return min(_sum(self.firsts, rates), _sum(self.lasts, rates)) > capacity


def _sum(access: Counter[Ends], rates: Mapping[Ends, int | None]) -> float:
    """What some links let through together, bit/s."""
    return sum(
        math.inf if (rate := rates[ends]) is None else rate
        for ends, paths in access.items()
        if paths
    )


class _Sharing:
    """Which links are shared, at any time, and who meets whom on them."""

    def __init__(self) -> None:
        self._crossings: dict[Ends, _Crossing] = defaultdict(_Crossing)
        self._rates: dict[Ends, int | None] = {}
        self._met: dict[Ends, set[frozenset[NodeId]]] = defaultdict(set)

    def follow(self, moment: Moment) -> None:
        touched: set[Ends] = set()
        for (source, _), (old, new) in moment.routes.items():
            was, now = _ends(old), _ends(new)
            if new is not None:
                self._rates.update(
                    zip(now, (link.spec.rate_bps for link in new.links), strict=True)
                )
            touched.update(was, now)
            if was != now:
                for way, more in ((was, -1), (now, 1)):
                    for ends in way:
                        self._crossings[ends].count(source, way[0], way[-1], more)
        for ends in touched:
            crossing = self._crossings[ends]
            if crossing.shared(ends, self._rates):
                self._met[ends].add(frozenset(+crossing.sources))

    def names(self) -> set[Ends]:
        return {*self._met}

    def partners(self) -> dict[NodeId, set[NodeId]]:
        """For each node, the others with a path over a shared link at a time when it has one."""
        found: dict[NodeId, set[NodeId]] = defaultdict(set)
        for groups in self._met.values():
            for group in groups:
                for node in group:
                    found[node] |= group - {node}
        return found


def _ends(route: Route | None) -> tuple[Ends, ...]:
    return tuple((link.source, link.target) for link in route.links) if route else ()


class LinkPlan:
    """The links of all nodes from one state of the network on.

    Args:
        every: the state at the beginning, and those that are to follow, in order of time.
        shared: links that are listed as shared in any case, before the others.
    """

    def __init__(self, every: Iterable[Timed], *, shared: Sequence[SharedLink] = ()) -> None:
        timed = iter(every)
        start = next(timed)
        self._base, sharing = start[2].base, _Sharing()
        self._moments: list[Moment] = []
        for moment in moments(itertools.chain([start], timed)):
            sharing.follow(moment)
            self._moments.append(moment)
        self._order = {node: i for i, node in enumerate(self._base.nodes)}
        self._partners = sharing.partners()
        specs = dict(start[2].altered)
        self._rates = {
            (k.source, k.target): specs.get((k.source, k.target), k.spec).rate_bps
            for k in self._base.links
        }
        given, names = {link.name for link in shared}, sharing.names()
        found = (
            SharedLink(name=f"{a}>{b}", rate_bps=rate)
            for (a, b), rate in self._rates.items()
            if (a, b) in names and f"{a}>{b}" not in given
        )
        self.shared: tuple[SharedLink, ...] = (*shared, *found)
        self._shared_names = frozenset(link.name for link in self.shared)
        self._specs: dict[tuple[int, ...], tuple[Route, PathSpec]] = {}
        self._routes = {pair: new for pair, (_, new) in self._moments[0].routes.items() if new}
        self._changes = self._all_changes()

    @classmethod
    def of(cls, topology: Topology) -> LinkPlan:
        """From the start of a run on, with all that its timeline does."""
        return cls(states(topology))

    # What each node is told ----------------------------------------------------------------------

    def up(self, node: NodeId) -> tuple[AccessLink, ...]:
        """The links that start at a node, also those that are down."""
        return tuple(
            AccessLink(name=link.name, rate_bps=self._rates[link.source, link.target])
            for link in self._base.leaving(node)
        )

    def down(self, node: NodeId) -> tuple[AccessLink, ...]:
        """The links that end at a node, also those that are down."""
        return tuple(
            AccessLink(name=link.name, rate_bps=self._rates[link.source, link.target])
            for link in self._base.entering(node)
        )

    def path(self, node: NodeId, other: NodeId) -> PathChange:
        """The paths between a node and another at the beginning."""
        return self._path(node, other, self._routes)

    def route(self, source: NodeId, target: NodeId) -> Route | None:
        """The path at the beginning; None: there is none."""
        return self._routes.get((source, target))

    def partners(self, node: NodeId) -> tuple[NodeId, ...]:
        """The nodes whose paths meet those of this node on a shared link at some time."""
        return tuple(sorted(self._partners.get(node, ()), key=self._order.__getitem__))

    def changes(self, node: NodeId) -> tuple[LinkChange, ...]:
        """What is planned to change for a node, in order of time."""
        return tuple(self._changes.get(node, ()))

    def _path(self, node: NodeId, other: NodeId, routes: Mapping[Pair, Route]) -> PathChange:
        out, into = routes.get((node, other)), routes.get((other, node))
        return PathChange(
            name=other,
            out=self._spec(out) if out else None,
            into=self._spec(into) if into else None,
            up=out.links[0].name if out else None,
            down=into.links[-1].name if into else None,
            shared=tuple(k.name for k in out.links if k.name in self._shared_names) if out else (),
        )

    def _spec(self, route: Route) -> PathSpec:
        """What a path is like. There are many paths over few kinds of links."""
        key = tuple(id(link.spec) for link in route.links)
        if key not in self._specs:
            self._specs[key] = (route, route.spec)  # the route keeps what the ids are of
        return self._specs[key][1]

    def _all_changes(self) -> dict[NodeId, list[LinkChange]]:
        routes, rates = dict(self._routes), dict(self._rates)
        told_last: dict[Pair, PathChange] = {}
        changes: dict[NodeId, list[LinkChange]] = defaultdict(list)
        for moment in self._moments[1:]:
            pairs = {pair: None for a, b in moment.routes for pair in ((a, b), (b, a))}
            for pair in pairs:
                if pair not in told_last:
                    told_last[pair] = self._path(*pair, routes)
            for pair, (_, new) in moment.routes.items():
                if new is None:
                    routes.pop(pair, None)
                else:
                    routes[pair] = new
            told: dict[NodeId, _Told] = defaultdict(_Told)
            for pair in pairs:
                if (now := self._path(*pair, routes)) != told_last[pair]:
                    told_last[pair] = now
                    told[pair[0]].peers.append(now)
            news = {
                ends: spec.rate_bps
                for ends, spec in moment.links.items()
                if spec.rate_bps != rates[ends]
            }
            rates |= news
            self._tell_rates(news, told)
            for node, change in told.items():
                changes[node].append(change.at(moment, self._order))
        return changes

    def _tell_rates(self, news: Mapping[Ends, int | None], told: Mapping[NodeId, _Told]) -> None:
        """Rates of links: to the nodes at their ends, and of shared ones to all."""
        for (a, b), rate in news.items():
            name = f"{a}>{b}"
            for end in (a, b):
                if (node := NodeId(end)) in self._order:
                    told[node].access.append(AccessLink(name=name, rate_bps=rate))
            for node in self._order if name in self._shared_names else ():
                told[node].shared.append(SharedLink(name=name, rate_bps=rate))


@dataclass(slots=True)
class _Told:
    """What one node is told of one moment."""

    peers: list[PathChange] = field(default_factory=list)
    access: list[AccessLink] = field(default_factory=list)
    shared: list[SharedLink] = field(default_factory=list)

    def at(self, moment: Moment, order: Mapping[NodeId, int]) -> LinkChange:
        return LinkChange(
            at_ns=moment.at_ns,
            what=moment.what,
            peers=tuple(sorted(self.peers, key=lambda path: order[path.name])),
            access=tuple(self.access),
            shared=tuple(self.shared),
        )
