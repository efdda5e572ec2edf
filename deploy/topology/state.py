"""The network at one time: what the events so far have made of it (pure).

A link is there if nothing holds it down and both its ends are in the network; a path is there if
besides no partition lies between its ends. What a link is like is kept while it is down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy.topology.expand import altered
from deploy.topology.network import Link, Network, Route
from deploy.topology.timeline import (
    Action,
    Heal,
    LinkDown,
    LinkUp,
    NodeAction,
    Partition,
    SetLink,
    Step,
)
from node.config import PathSpec
from node.core.ids import NodeId
from node.units import Nanos

if TYPE_CHECKING:
    from deploy.topology.load import Topology

Ends = tuple[str, str]
"""One direction of a link: from, to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """What is different from the network of the file. Equal states of one file have equal paths.

    Args:
        base: the network of the file.
        altered: links that are not as in the file, with what they are like.
        holds: (from, to, who holds it down).
        absent: nodes that have not come yet: without links.
        dead: nodes that have left or crashed: they forward nothing, but their links are there, or
            the goodbye of one that leaves would not get out, and its peers would wait for it.
        parts: of a partition, each with its nodes; empty: there is none.
    """

    base: Network = field(repr=False, hash=False)
    altered: frozenset[tuple[Ends, PathSpec]] = frozenset()
    holds: frozenset[tuple[str, str, str]] = frozenset()
    absent: frozenset[NodeId] = frozenset()
    dead: frozenset[NodeId] = frozenset()
    parts: tuple[frozenset[NodeId], ...] = ()
    _made: list[Network] = field(default_factory=list, init=False, repr=False, compare=False)

    @staticmethod
    def initial(network: Network, absent: Iterable[NodeId] = ()) -> NetworkState:
        """Before anything has happened.

        Args:
            absent: the nodes that are not there yet (`Topology.standby`).
        """
        return NetworkState(base=network, absent=frozenset(absent))

    def after(self, actions: Iterable[Action]) -> NetworkState:
        """The state that these make of this one, each after the other.

        Raises:
            ValueError: an action is about a link that the network does not have.
        """
        change = _Change(self)
        for action in actions:
            change.apply(action)
        return change.state()

    @property
    def network(self) -> Network:
        """The links that are there, as they are. All nodes and bridges are in it, and a partition
        is not seen: see `routes`."""
        if not self._made:
            self._made.append(self._effective())
        return self._made[0]

    def _effective(self) -> Network:
        if not (self.altered or self.holds or self.absent or self.dead):
            return self.base
        gone = {(a, b) for a, b, _ in self.holds}
        specs = dict(self.altered)

        def there() -> Iterator[Link]:
            for link in self.base.links:
                ends = (link.source, link.target)
                if ends in gone or link.source in self.absent or link.target in self.absent:
                    continue
                spec = specs.get(ends)
                yield link if spec is None else dataclasses.replace(link, spec=spec)

        forwards = self.base.forwards - self.dead - self.absent
        return dataclasses.replace(self.base, links=tuple(there()), forwards=forwards)

    def routes(self, source: NodeId) -> dict[NodeId, Route]:
        """The path to every node that has one, in the order of the network's nodes."""
        part = self.part(source)
        if part is None:
            return self.network.routes(source)
        found = self.network.routes(source, through=self.network.forwards & part)
        return {name: route for name, route in found.items() if name in part}

    def part(self, node: NodeId) -> frozenset[NodeId] | None:
        """The part of the partition that a node is in; None: there is no partition."""
        return next((part for part in self.parts if node in part), None)

    def changed_links(self, before: NetworkState) -> dict[Ends, PathSpec]:
        """The links that are not like they were in a state before, and what they are like now; also
        those that are down."""
        now = dict(self.altered)
        found = {}
        for ends, _ in self.altered ^ before.altered:
            spec = now.get(ends) or self.base.spec(*ends)
            assert spec is not None
            found[ends] = spec
        return dict(sorted(found.items()))


class _Change:
    """A state that is being changed."""

    def __init__(self, before: NetworkState) -> None:
        self._before = before
        self._altered = dict(before.altered)
        self._holds = set(before.holds)
        self._absent, self._dead = set(before.absent), set(before.dead)
        self._parts = before.parts

    def apply(self, action: Action) -> None:
        match action:
            case SetLink():
                ends = self._known(action.source, action.target)
                spec = self._altered.get(ends) or self._before.base.spec(*ends)
                assert spec is not None
                self._altered[ends] = altered(spec, action.options)
            case LinkDown():
                self._holds.add((*self._known(action.source, action.target), action.by))
            case LinkUp():
                ends = self._known(action.source, action.target)
                self._holds = {
                    hold
                    for hold in self._holds
                    if hold[:2] != ends or action.by not in (None, hold[2])
                }
            case Partition():
                self._parts = tuple(frozenset(part) for part in action.parts)
            case Heal():
                self._parts = ()
            case NodeAction():
                self._node(action)

    def _known(self, source: str, target: str) -> Ends:
        if self._before.base.spec(source, target) is None:
            raise ValueError(f"there is no link {source} > {target}")
        return source, target

    def _node(self, action: NodeAction) -> None:
        match action.verb:
            case "leave" | "crash":
                self._dead.add(action.node)
            case "join" | "restart" | "return":
                self._absent.discard(action.node)
                self._dead.discard(action.node)

    def state(self) -> NetworkState:
        base = self._before.base
        return dataclasses.replace(
            self._before,
            altered=frozenset((k, s) for k, s in self._altered.items() if s != base.spec(*k)),
            holds=frozenset(self._holds),
            absent=frozenset(self._absent),
            dead=frozenset(self._dead),
            parts=self._parts,
        )


def states(topology: Topology) -> Iterator[tuple[Nanos, tuple[str, ...], NetworkState]]:
    """The network over the timeline: before anything happens (at 0, of nothing), then after each
    step: its time, what it was in words, and the state from then on."""
    state = NetworkState.initial(topology.network, topology.standby)
    yield 0, (), state
    yield from later(state, topology.timeline)


def later(
    state: NetworkState, steps: Sequence[Step]
) -> Iterator[tuple[Nanos, tuple[str, ...], NetworkState]]:
    """The states that steps make of one."""
    for step in steps:
        state = state.after(step.actions)
        yield step.at_ns, step.what, state
