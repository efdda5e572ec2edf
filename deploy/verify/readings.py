"""What the records of a run say about its network (pure): throughput over time, and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deploy.history import Event, as_float, of_kind
from deploy.verify.model import Pair
from node.core.ids import NodeId
from node.units import SECOND, Nanos

_SAME_S: Final = 1e-6
"""Times are written as decimal fractions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Payload that arrived.

    Args:
        every_ns: length of an interval.
        received: for each pair, bytes in the intervals from run time 0 on; None: not recorded.
    """

    every_ns: Nanos
    received: Mapping[Pair, Sequence[float | None]]

    def mean_bps(self, pair: Pair, begin_ns: Nanos, end_ns: Nanos) -> float | None:
        """Over the intervals that lie within a time; None where one of them was not recorded, or
        there are none."""
        first, stop = -(-begin_ns // self.every_ns), end_ns // self.every_ns
        sizes = [s for s in self.received.get(pair, ())[first:stop] if s is not None]
        if stop <= first or len(sizes) < stop - first:
            return None
        return 8 * SECOND * sum(sizes) / (self.every_ns * len(sizes))


def throughput(
    nodes: Mapping[str, Sequence[Event]], pairs: Sequence[Pair], *, every_ns: Nanos
) -> Throughput:
    """From the nodes' `throughput` records. A source that a record does not name sent nothing."""
    received: dict[Pair, list[float | None]] = {}
    for target in {target for _, target in pairs}:
        sources = [source for source, other in pairs if other == target]
        curves: dict[NodeId, list[float | None]] = {source: [] for source in sources}
        for event in of_kind(nodes.get(target, ()), "throughput"):
            _take(event, curves, every_ns=every_ns)
        received |= {(source, target): curve for source, curve in curves.items()}
    return Throughput(every_ns=every_ns, received=received)


def _take(event: Event, curves: Mapping[NodeId, list[float | None]], *, every_ns: Nanos) -> None:
    """Put one record's intervals where they belong."""
    begin, told = as_float(event.get("begin")), event.get("from")
    if begin is None or begin < 0 or not isinstance(told, Mapping):
        return
    count = max((len(v) for v in told.values() if isinstance(v, list)), default=0)
    first = round(begin * SECOND / every_ns)
    for source, curve in curves.items():
        sizes: Any = told.get(source)
        if not isinstance(sizes, list):
            sizes = [0] * count
        curve.extend([None] * (first - len(curve)))
        curve[first:] = [as_float(size) for size in sizes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """How one planned change became true on one node.

    Args:
        late_ms: after it was due; None: never.
        error: what is not as asked, None: all is.
    """

    node: NodeId
    late_ms: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One time of the timeline, on all nodes whose links it changes."""

    at_s: float
    what: tuple[str, ...]
    nodes: tuple[Fired, ...] = field(default=())


def firings(
    planned: Mapping[NodeId, Mapping[Nanos, tuple[str, ...]]],
    nodes: Mapping[str, Sequence[Event]],
) -> tuple[Firing, ...]:
    """Every planned change, as the `link` records of the nodes tell of it.

    Args:
        planned: per node, the time in ns of each of its changes and what it is, in words.
    """
    times = sorted({at for changes in planned.values() for at in changes})
    return tuple(
        Firing(
            at_s=at / SECOND,
            what=next(changes[at] for changes in planned.values() if at in changes),
            nodes=tuple(
                _fired(NodeId(name), nodes.get(name, ()), at / SECOND)
                for name, changes in planned.items()
                if at in changes
            ),
        )
        for at in times
    )


def _fired(name: NodeId, events: Sequence[Event], at_s: float) -> Fired:
    for event in of_kind(events, "link"):
        asked, done = as_float(event.get("at")), as_float(event.get("t"))
        if asked is not None and abs(asked - at_s) < _SAME_S:
            late = as_float(event.get("late_ms"))
            if late is None and done is not None:
                late = 1000 * (done - asked)
            error = event.get("error")
            return Fired(node=name, late_ms=late, error=None if error is None else str(error))
    return Fired(node=name, late_ms=None)
