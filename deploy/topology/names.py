"""What the names in events stand for in a network: nodes, links, all links around it (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from deploy.topology import expand
from deploy.topology.model import TopologyFile
from deploy.topology.network import Network, natural
from deploy.topology.problems import Loc, nearest
from deploy.topology.timeline import LINK
from node.core.ids import NodeId

Ends = tuple[str, str]


class EventError(ValueError):
    """An event means nothing in this network.

    Args:
        message: what is wrong.
        hint: what would be right.
        loc: where, below the event's action.
    """

    def __init__(self, message: str, hint: str = "", *, loc: Loc = ()) -> None:
        self.message, self.hint, self.loc = message, hint, loc
        super().__init__(f"{message}\n  {hint}" if hint else message)


class Names:
    """The vertices and links of a network, by all names that a file may use for them."""

    def __init__(self, file: TopologyFile, network: Network) -> None:
        self.network = network
        self._nodes = expand.references(file.nodes)
        self._links = {(link.source, link.target) for link in network.links}
        self._bridges = frozenset(network.bridges)
        self._shared: dict[str, list[str]] = {}
        """From a group that shares to its bridges, and from such a bridge to the group's nodes."""
        self._members: dict[str, tuple[NodeId, ...]] = {}
        for by_group in expand.share_bridges(file).values():
            for group, bridge in by_group.items():
                self._shared.setdefault(group, []).append(bridge)
                self._members[bridge] = self._nodes[group]

    def has_nodes(self, name: str) -> bool:
        """Whether there is such a node or group."""
        return name in self._nodes

    def nodes(self, name: str, *, loc: Loc = ()) -> tuple[NodeId, ...]:
        """A node, or all nodes of a group."""
        if name in self._nodes:
            return self._nodes[name]
        if name in self._bridges:
            raise EventError(f"{name!r} is a bridge; this is for nodes and groups", loc=loc)
        hint = nearest(name, sorted(self._nodes, key=natural), what="nodes and groups")
        raise EventError(f"there is no node or group {name!r}", hint, loc=loc)

    def _vertices(self, name: str, *, loc: Loc = ()) -> Sequence[str]:
        """A bridge, a node, the nodes of a group; of one that shares, its bridges."""
        if name in self._bridges:
            return (name,)
        if name in self._shared:
            return self._shared[name]
        if name in self._nodes:
            return self._nodes[name]
        known = sorted({*self._nodes, *self._bridges}, key=natural)
        hint = nearest(name, known, what="nodes and bridges")
        raise EventError(f"there is no node, group or bridge {name!r}", hint, loc=loc)

    def link(self, ends: Ends, *, oneway: bool) -> Iterator[tuple[bool, Ends]]:
        """The directed links between two ends: whether it is the way there, and its ends.

        Raises:
            EventError: there is none.
        """
        sides = [self._vertices(name, loc=(i,)) for i, name in enumerate(ends)]
        pairs: Iterator[Ends] = itertools.product(*sides)  # type: ignore[assignment]
        if ends[0] == ends[1]:
            pairs = itertools.combinations(sides[0], 2)
        found = False
        for a, b in pairs:
            for forward, way in ((True, (a, b)), (False, (b, a))):
                if way in self._links and (forward or not oneway):
                    found = True
                    yield forward, way
        if not found:
            raise EventError(*self._no_link(ends, oneway=oneway))

    def _no_link(self, ends: Ends, *, oneway: bool) -> tuple[str, str]:
        """The message and the hint: with whom the first end has links."""
        sides = [self._vertices(name) for name in ends]
        for near, far, this, that in ((*sides, *ends), (*sides[::-1], *ends[::-1])):
            linked = {b for a, b in self._links if a in near} | {
                a for a, b in self._links if b in near
            }
            for bridge in linked & {*self._members}:
                other = {b for a, b in self._links if a == bridge}
                if other & {*far}:
                    hint = f"{this!r} shares one link with its group: {bridge} - {that}"
                    return f"there is no link between {ends[0]!r} and {ends[1]!r}", hint
        linked = {b for a, b in self._links if a in sides[0]}
        hint = ", ".join(sorted(linked, key=natural)[:16])
        way = f"from {ends[0]!r} to" if oneway else f"between {ends[0]!r} and"
        return f"there is no link {way} {ends[1]!r}", f"{ends[0]} is linked with: {hint or 'none'}"

    def behind(self, source: str, target: str) -> Iterator[Ends]:
        """Of a link that a group shares, the ends of its members in the same direction."""
        for node in self._members.get(source, ()):
            if (node, source) in self._links and target not in self._members[source]:
                yield node, source
        for node in self._members.get(target, ()):
            if (target, node) in self._links and source not in self._members[target]:
                yield target, node

    def affected(self, what: str | Ends, *, oneway: bool) -> Iterator[tuple[str, str, str]]:
        """The links of an event `down`, `up` or `flap`, each with who holds it down: `LINK`, or
        the vertex around which all links are meant."""
        if not isinstance(what, str):
            for _, (a, b) in self.link(what, oneway=oneway):
                yield a, b, LINK
            return
        if what in self._nodes:
            vertices: Sequence[str] = self._nodes[what]
        else:
            vertices = self._vertices(what)
        for vertex in vertices:
            for link in (*self.network.leaving(vertex), *self.network.entering(vertex)):
                yield link.source, link.target, vertex

    def parts(self, named: Sequence[Sequence[str]]) -> tuple[tuple[NodeId, ...], ...]:
        """A partition in which every node is in one part, those that are not named in the last."""
        seen: set[NodeId] = set()
        parts = []
        for i, part in enumerate(named):
            nodes: list[NodeId] = []
            for k, name in enumerate(part):
                members = self.nodes(name, loc=(i, k))
                if twice := next((node for node in members if node in seen), None):
                    raise EventError(f"{twice!r} is in two parts", loc=(i, k))
                seen.update(members)
                nodes += members
            parts.append(tuple(sorted(nodes, key=natural)))
        if rest := tuple(node for node in self.network.nodes if node not in seen):
            parts.append(rest)
        if len(parts) < 2:
            raise EventError("a partition has at least two parts, and here is one of all nodes")
        return tuple(parts)
