"""The paths of a network, one row for each ordered pair, made as they are asked for (pure).

What a path is like is carried along the tree of shortest paths from its source, link by link, so
that a row costs little, and no more than one source's rows are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from deploy.topology import Topology
from deploy.topology.names import EventError, Names
from deploy.topology.network import root
from deploy.topology.state import NetworkState, states
from node.core.ids import NodeId
from node.errors import ConfigError
from node.units import Nanos, format_duration, format_rate, format_share

EVERY: Final = "-"
"""Stands for every node."""


class PathRow(NamedTuple):
    """One path: of millions, so a plain tuple.

    names: the vertices on the way, both ends included, as one text. loss: share of packets lost, in
    bursts and otherwise. rate_bps: None is unlimited.
    """

    source: NodeId
    target: NodeId
    names: str
    delay_ns: Nanos
    jitter_ns: Nanos
    loss: float
    rate_bps: int | None


def at_time(topology: Topology, at_ns: Nanos | None) -> NetworkState:
    """The network at a time of the timeline; None: before anything has happened."""
    every = states(topology)
    _, _, found = next(every)
    for step_ns, _, state in every if at_ns is not None else ():
        if at_ns is None or step_ns > at_ns:
            break
        found = state
    return found


def chosen(topology: Topology, name: str | None) -> tuple[NodeId, ...]:
    """The nodes that a name stands for: a node, a group; None or `EVERY`: all.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is None or name == EVERY:
        return tuple(node.name for node in topology.nodes)
    try:
        return Names(topology.file, topology.network).nodes(name)
    except EventError as error:
        raise ConfigError(error.message, where=str(topology.path), remedy=error.hint) from error


class PathTable:
    """The paths of a network, as columns of numbers: a million rows take seconds.

    Args:
        between: what stands between the names on the way.
    """

    def __init__(self, state: NetworkState, *, between: str) -> None:
        self._state, self._network, self._between = state, state.network, between
        self._names = self._network.vertices
        specs = [link.spec for link in self._network.links]
        self._targets = [link.target for link in self._network.links]
        self._delays = [spec.delay_ns for spec in specs]
        self._squares = [spec.jitter_ns**2 for spec in specs]
        self._losses = [spec.loss for spec in specs]
        self._bursts = [0.0 if spec.burst is None else spec.burst.loss for spec in specs]
        self._rates = [math.inf if spec.rate_bps is None else spec.rate_bps for spec in specs]
        place = {name: i for i, name in enumerate(self._names)}
        self._places = [(place[name], name) for name in self._network.nodes]

    def rows(self, source: NodeId, targets: Collection[NodeId]) -> Iterator[PathRow]:
        """The paths from one node to those of the targets that have one, in the network's order."""
        part = self._state.part(source)
        through = None if part is None else self._network.forwards & part
        tree = self._network.tree(source, through=through)
        count = len(self._names)
        delays, squares, rates = [0] * count, [0] * count, [math.inf] * count
        losses, bursts = [0.0] * count, [0.0] * count
        for vertex in tree.order[1:]:
            link, before = tree.link[vertex], tree.before[vertex]
            delays[vertex] = delays[before] + self._delays[link]
            squares[vertex] = squares[before] + self._squares[link]
            lost, burst = losses[before], bursts[before]
            losses[vertex] = lost + self._losses[link] * (1.0 - lost)
            bursts[vertex] = burst + self._bursts[link] * (1.0 - burst)
            rate, known = self._rates[link], rates[before]
            rates[vertex] = rate if rate < known else known
        wanted = {*targets} - {source}
        for vertex, name in self._places:
            if name not in wanted or tree.link[vertex] < 0 or not (part is None or name in part):
                continue
            loss, burst, rate = losses[vertex], bursts[vertex], rates[vertex]
            yield PathRow(
                source,
                name,
                self._between.join([source, *[self._targets[i] for i in tree.path(vertex)]]),
                delays[vertex],
                _root(squares[vertex]),
                1 - (1 - loss) * (1 - burst) if burst else loss,
                None if rate == math.inf else int(rate),
            )


def as_json(row: PathRow) -> str:
    """One row as a JSON object. `row.names` has `JSON_BETWEEN` between the names."""
    rate = "null" if row.rate_bps is None else row.rate_bps
    return (
        f'{{"from": "{row.source}", "to": "{row.target}", "route": ["{row.names}"], '
        f'"latency_ms": {row.delay_ns / 1e6}, "jitter_ms": {row.jitter_ns / 1e6}, '
        f'"loss": {row.loss}, "rate_bps": {rate}}}'
    )


JSON_BETWEEN: Final = '", "'
"""Names have nothing in them that JSON would write otherwise (`quantities.Name`)."""

HEADINGS: Final = ("from", "to", "latency", "jitter", "loss", "rate", "route")


def as_cells(row: PathRow) -> tuple[str, ...]:
    """One row in words, in the order of `HEADINGS`."""
    source, target, names, delay, jitter, loss, rate = row
    return (source, target, *_figures(delay, jitter, loss, rate), names)


@lru_cache(maxsize=65_536)
def _figures(
    delay_ns: Nanos, jitter_ns: Nanos, loss: float, rate_bps: int | None
) -> tuple[str, str, str, str]:
    return (
        format_duration(delay_ns),
        format_duration(round(jitter_ns, -3)) if jitter_ns else "-",
        format_share(float(f"{loss:.4g}")) if loss else "-",
        "unlimited" if rate_bps is None else format_rate(rate_bps),
    )


_root = lru_cache(maxsize=65_536)(root)
