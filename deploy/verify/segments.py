"""A topology's timeline as stretches in which nothing changes, and who sends in them (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from deploy.topology import Topology
from deploy.topology.network import Route
from deploy.topology.state import NetworkState, states
from deploy.verify.model import Pair, Picture, Way, goodputs
from node.config import Renewal
from node.core.ids import NodeId
from node.links.schedule import ramp_ns, spread
from node.links.sizes import queue_bytes
from node.links.window import room_bytes, window_bytes
from node.units import SECOND, Nanos

SETTLE_NS: Final = SECOND
"""After an event, until rates are compared: senders, queues and link agents adapt meanwhile."""
TAIL_NS: Final = 4 * SECOND
"""From the last event to the end, at least."""
LEAST_NS: Final = 6 * SECOND
"""That is replayed, at least."""
Joined = Callable[[Pair], bool]
"""Whether a pair has a way there and back."""
_RENEW_NS: Final = SECOND // 20
"""After an event: it must be in force on both sides, or the first packet would be in vain."""
_WINDOW_SHARE: Final = 0.5
"""What TCP keeps of its window after a loss (RFC 5681)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The ordered pairs that are measured.

    Args:
        pairs: sorted by source, then target, as the nodes are.
        candidates: how many there are with a way there and back at some time.
    """

    pairs: tuple[Pair, ...]
    candidates: int

    @property
    def partial(self) -> bool:
        return len(self.pairs) < self.candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of the timeline.

    Args:
        begin_ns, end_ns: on the run clock.
        what: the events at its beginning, in words.
        picture: the network from then on.
        settle_ns: for each pair with a way there and back, how long after the beginning its rate
            counts.
        gone_ns: for pairs whose way has just come back, for how long it was gone.
    """

    begin_ns: Nanos
    end_ns: Nanos
    what: tuple[str, ...]
    picture: Picture
    settle_ns: Mapping[Pair, Nanos]
    gone_ns: Mapping[Pair, Nanos]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What `deploy verify` does to a topology.

    Args:
        time_ns: how long it takes on the run clock.
        last_ns: what the file plans for later is not played.
        unplayed: how many steps that are.
    """

    sample: Sample
    segments: tuple[Segment, ...]
    renewals: Mapping[NodeId, tuple[Renewal, ...]]
    time_ns: Nanos
    last_ns: Nanos
    unplayed: int


def plan_load(topology: Topology, *, pairs: int | None, until_ns: Nanos | None = None) -> Load:
    """Who sends to whom, and what the network is like meanwhile.

    Args:
        pairs: measure at most this many ordered pairs; None: all.
        until_ns: leave out later events; None: those after the file's `stop.time`.
    """
    last = topology.file.stop.time if until_ns is None else until_ns
    every = [(at, what, state) for at, what, state in states(topology) if at <= last]
    later = sum(step.at_ns > last for step in topology.timeline)
    # Of several states at one time the last counts; what made the others is told, too.
    played: list[tuple[Nanos, tuple[str, ...], NetworkState]] = []
    for at, what, state in every:
        before = played.pop()[1] if played and played[-1][0] == at else ()
        played.append((at, (*before, *what), state))
    time_ns = max(LEAST_NS, played[-1][0] + TAIL_NS)
    routes = [_Routes(state) for _, _, state in played]
    sample = choose(
        [node.name for node in topology.nodes],
        joined=lambda pair: any(r.joined(pair) for r in routes),
        limit=pairs,
    )
    pictures = [r.picture(sample.pairs) for r in routes]
    bounds = [*(at for at, _, _ in played), time_ns]
    fresh = [{p: 0 for p in sample.pairs if pictures[0].joined(p)}]
    fresh += [_fresh(a, b, sample.pairs) for a, b in pairwise(pictures)]
    segments = tuple(
        Segment(
            begin_ns=begin,
            end_ns=end,
            what=what,
            picture=picture,
            settle_ns={
                p: _settle(picture, p, fresh=new) for p in sample.pairs if picture.joined(p)
            },
            gone_ns=gone,
        )
        for (begin, end), (_, what, _), picture, new, gone in zip(
            pairwise(bounds), played, pictures, fresh, _gone(pictures, bounds, sample), strict=True
        )
    )
    return Load(
        sample=sample,
        segments=segments,
        renewals=_renewals(segments, fresh),
        time_ns=time_ns,
        last_ns=last,
        unplayed=later,
    )


class _Routes:
    """All paths of one state, computed as they are asked for."""

    def __init__(self, state: NetworkState) -> None:
        self._state = state
        self._from: dict[NodeId, dict[NodeId, Route]] = {}

    def route(self, source: NodeId, target: NodeId) -> Route | None:
        if source not in self._from:
            self._from[source] = self._state.routes(source)
        return self._from[source].get(target)

    def joined(self, pair: Pair) -> bool:
        return self.route(*pair) is not None and self.route(*pair[::-1]) is not None

    def picture(self, pairs: Iterable[Pair]) -> Picture:
        """The network as these pairs see it."""
        ways: dict[Pair, Way] = {}
        capacities: dict[str, int | None] = {}
        for pair in pairs:
            for source, target in (pair, pair[::-1]):
                route = self.route(source, target)
                if route is not None and (source, target) not in ways:
                    names = tuple(link.name for link in route.links)
                    ways[source, target] = Way(links=names, spec=route.spec)
                    capacities |= {link.name: link.spec.rate_bps for link in route.links}
        return Picture(ways=ways, capacities=capacities)


def choose(names: Sequence[NodeId], *, joined: Joined, limit: int | None) -> Sample:
    """All pairs, or `limit` of them, spread so that every node sends and receives about as much.

    The nodes stand in a circle; pairs of one distance after the other are taken. The same names and
    limit give the same pairs.
    """
    n = len(names)
    found = [
        (source, names[(i + distance) % n])
        for distance in spread(n)
        for i, source in enumerate(names)
        if joined((source, names[(i + distance) % n]))
    ]
    place = {name: i for i, name in enumerate(names)}
    taken = found if limit is None else found[:limit]
    taken.sort(key=lambda pair: (place[pair[0]], place[pair[1]]))
    return Sample(pairs=tuple(taken), candidates=len(found))


def _settle(picture: Picture, pair: Pair, *, fresh: Mapping[Pair, Nanos]) -> Nanos:
    """A new connection waits for what is left of the old one, and has its window to fill."""
    if pair not in fresh:
        return SETTLE_NS
    ramp = ramp_ns(picture.ways[pair].spec, picture.ways[pair[::-1]].spec)
    return SETTLE_NS + ramp + fresh[pair]


def _fresh(before: Picture, after: Picture, pairs: Sequence[Pair]) -> dict[Pair, Nanos]:
    """The pairs whose transfers begin anew, and how long the old one still takes to pass.

    The path has come (back); or it can have so much more under way that TCP, which adds little by
    little, would not be there in time; or so much less that the rest would be lost.
    """
    old, new = goodputs(before, pairs), goodputs(after, pairs)
    found: dict[Pair, Nanos] = {}
    for pair in pairs:
        if not after.joined(pair):
            continue
        if not before.joined(pair):
            found[pair] = 0
        elif old is not None and new is not None and new[pair] < math.inf:
            left = _left(before, after, pair, was_bps=old[pair], is_bps=new[pair])
            if left is not None:
                found[pair] = round(8 * SECOND * left / max(1.0, new[pair]))
    return found


def _left(
    before: Picture, after: Picture, pair: Pair, *, was_bps: float, is_bps: float
) -> int | None:
    """Bytes of the old connection that are in the way of a new one; None: it may stay."""
    spec, trip = before.ways[pair].spec, before.round_trip_ns(pair)
    now, back = after.ways[pair].spec, after.ways[pair[::-1]].spec
    room = room_bytes(now, back)
    if spec.rate_bps is None or room is None:
        return None
    queue = queue_bytes(rate_bps=spec.rate_bps, rtt_ns=trip, asked=spec.queue_bytes)
    most = was_bps * trip / (8 * SECOND) + queue
    under_way = window_bytes(spec, before.ways[pair[::-1]].spec) or most
    if under_way > room:
        return queue_bytes(
            rate_bps=now.rate_bps or 0, rtt_ns=after.round_trip_ns(pair), asked=now.queue_bytes
        )
    held = min(under_way, _WINDOW_SHARE * most)
    return 0 if is_bps * after.round_trip_ns(pair) / (8 * SECOND) > held else None


def _gone(
    pictures: Sequence[Picture], bounds: Sequence[Nanos], sample: Sample
) -> Iterator[dict[Pair, Nanos]]:
    """For each picture, the pairs that were not joined before, and how long not."""
    since: dict[Pair, Nanos] = {}
    for picture, begin in zip(pictures, bounds[:-1], strict=True):
        joined = [pair for pair in sample.pairs if picture.joined(pair)]
        yield {pair: begin - since.pop(pair) for pair in joined if pair in since}
        for pair in sample.pairs:
            if not picture.joined(pair):
                since.setdefault(pair, begin)


def _renewals(
    segments: Sequence[Segment], fresh: Sequence[Mapping[Pair, Nanos]]
) -> dict[NodeId, tuple[Renewal, ...]]:
    """For each node, when it connects anew to whom."""
    made: dict[NodeId, list[Renewal]] = {}
    for segment, pairs in zip(segments[1:], fresh[1:], strict=True):
        for source, target in sorted(pairs):
            renewal = Renewal(target=target, at_ns=segment.begin_ns + _RENEW_NS)
            made.setdefault(source, []).append(renewal)
    return {name: tuple(renewals) for name, renewals in made.items()}
