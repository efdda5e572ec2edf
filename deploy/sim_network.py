"""The network of a topology as a simulation looks it up: pair by pair, one view for each state of
the timeline (pure).

A network of 1,000 nodes has a million paths, of which a run uses few; so no plan lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from deploy.topology import Topology
from deploy.topology.network import Network
from deploy.topology.state import Ends, NetworkState, states
from node.config import Emulator, LinkChange, PathSpec
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.impair import refusals
from node.sim.interfaces import Access, NetworkView, Path
from node.units import Nanos

_PATHS_MAX: Final = 1 << 17
"""Paths that are kept; more are looked up again when they are asked for."""


class StateView:
    """One state of a network as a `NetworkView`."""

    def __init__(self, state: NetworkState) -> None:
        self._state = state
        self._network: Network = state.network
        self._hub = _hub(state.base)
        self._path = lru_cache(maxsize=_PATHS_MAX)(self._find)

    def path(self, source: NodeId, target: NodeId) -> Path | None:
        return self._path(source, target)

    def access(self, node: NodeId) -> Access | None:
        hub = self._hub
        if hub is None:
            return None
        up, down = self._network.spec(node, hub), self._network.spec(hub, node)
        return Access(
            kind=(up, down, self._state.part(node)),
            up=() if up is None or up.rate_bps is None else (f"{node}>{hub}",),
            down=() if down is None or down.rate_bps is None else (f"{hub}>{node}",),
        )

    def capacity(self, link: str) -> int:
        source, target = link.split(">")
        spec = self._network.spec(source, target)
        if spec is None or spec.rate_bps is None:
            raise KeyError(f"{link} is no link with a rate")
        return spec.rate_bps

    def _find(self, source: NodeId, target: NodeId) -> Path | None:
        part = self._state.part(source)
        if part is not None and target not in part:
            return None
        through = None if part is None else self._network.forwards & part
        route = self._network.route(source, target, through=through)
        if route is None:
            return None
        limits = tuple(link.name for link in route.links if link.spec.rate_bps is not None)
        return Path(spec=route.spec, links=limits)


def _hub(network: Network) -> str | None:
    """The one bridge that all links of a star start or end at; None: it is no star."""
    if len(network.bridges) != 1:
        return None
    hub = network.bridges[0]
    return hub if all(hub in (link.source, link.target) for link in network.links) else None


class Timeline:
    """The states of a topology's network over a run; their views are made as they are needed.

    Attributes:
        changes: when the network changes and why, in order of time; the state after the i-th of
            them is number i + 1.
    """

    def __init__(self, topology: Topology) -> None:
        self._states: list[NetworkState] = []
        self.changes: tuple[tuple[Nanos, tuple[str, ...]], ...] = ()
        for at_ns, what, state in _distinct(topology):
            if self._states:
                self.changes = (*self.changes, (at_ns, what))
            self._states.append(state)

    def view(self, number: int) -> NetworkView:
        """The network in the state of this number, from 0."""
        return StateView(self._states[number])


def check_links(topology: Topology) -> None:
    """Raise ConfigError if some link, now or later, is beyond what is modelled."""
    specs: dict[PathSpec, str] = {link.spec: link.name for link in topology.network.links}
    for _, _, state in states(topology):
        specs |= {spec: ">".join(ends) for ends, spec in sorted(state.altered, key=_ends)}
    for spec, name in specs.items():
        if found := refusals(spec, Emulator.MODEL):
            raise ConfigError(
                f"{' and '.join(found)} cannot be simulated",
                where=f"the link {name}",
                remedy="leave it out of the links, or run it in containers: deploy up",
            )


def _ends(entry: tuple[Ends, PathSpec]) -> Ends:
    return entry[0]


def planned_changes(topology: Topology) -> tuple[LinkChange, ...]:
    """When the network of a simulation changes, and why, as every node is told; not how: nobody
    has a list of its paths."""
    told = list(_distinct(topology))[1:]
    return tuple(LinkChange(at_ns=at_ns, what=what) for at_ns, what, _ in told)


def _distinct(topology: Topology) -> Iterator[tuple[Nanos, tuple[str, ...], NetworkState]]:
    """The states of the timeline, without steps that are about nodes only."""
    before: NetworkState | None = None
    for at_ns, what, state in states(topology):
        if before is None or _paths_of(state) != _paths_of(before):
            yield at_ns, what, state
        before = state


def _paths_of(state: NetworkState) -> tuple[object, ...]:
    """All that the paths of a state depend on: who is dead matters where it forwards."""
    dead = state.dead & state.base.forwards
    return state.altered, state.holds, state.absent, dead, state.parts
