"""Which paths are measured when, and for how long (pure).

In one slot a node sends to one other at most and receives from one at most, and no two paths cross
one shared link, so no two transfers share a link; together they stay below what two cores can push
through bridges and queues. What is measured again is measured with more care (`AGAIN`). Round trips
take next to nothing and are probed for many pairs at once, before the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.config import ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND, Nanos

BUDGET_BPS: Final = 800_000_000
"""Sum of the rates measured at the same time."""

PINGS: Final = 30
JITTER_PINGS: Final = 120
"""Where the deviation is to be known, too: to 6.5 % of itself."""
PING_EVERY_NS: Final = 14 * MILLISECOND
"""On average; none is closer than 10 ms to the one before (`ping.SPREAD`), so that a delay line
with nothing else to do lets each one go on time."""
PING_PAIRS: Final = 64
"""Pairs whose round trips are probed at once: 9,000 packets/s in all."""

NODES_AT_ONCE: Final = 32
"""Nodes that send or receive in one slot. Each has a delay line and a prober that wake up for its
packets; with 64 of them two cores were late by 10 ms."""

SEGMENT_BITS: Final = 8 * 1448
FIRST_WINDOW: Final = 10
"""Segments that TCP sends before the first acknowledgement."""
WINDOW_PACKETS: Final = 100
"""Full packets that a rate rests on at least; it is taken from one arrival to another, so what is
left is the jitter of two arrivals."""
WINDOW_NS: Final = (600 * MILLISECOND, 5 * SECOND)

LOSS_PACKETS: Final = (2000, 5000)
LOSS_PPS: Final = 5000
LOSS_FRAME: Final = 64
"""Bytes on the wire of a packet that counts losses; the rate is no question then."""
_GOLDEN: Final = 0.6180339887498949
SETTLE_NS: Final = 200 * MILLISECOND
"""To connect, report and let queues run empty, round trips apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What is measured at the same time.

    Args:
        pairs: (from, to); whoever is `from` measures.
        measures: of `rtt`, `rate`, `loss`; a pair without loss skips `loss`.
        expected_ns: how long it should take; give it twice that and 3 s before giving up.
    """

    pairs: tuple[tuple[NodeId, NodeId], ...]
    measures: tuple[str, ...]
    expected_ns: Nanos

    @property
    def deadline_ns(self) -> Nanos:
        """After this long the slot is not going to end."""
        return 2 * self.expected_ns + 3 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of what is measured at the same time.

    Args:
        bps: sum of the rates.
        nodes: that send or receive.
        apart: a node that sends receives nothing, whose acknowledgements would take up to 2 % of
            its rate; and it pings, or is pinged by, one other.
    """

    bps: int = BUDGET_BPS
    nodes: int = NODES_AT_ONCE
    apart: bool = False


FIRST: Final = Limits()
AGAIN: Final = Limits(bps=BUDGET_BPS // 2, nodes=NODES_AT_ONCE // 2, apart=True)
"""For what was not as asked: whether that is the network or the measuring will show."""


def schedule(pairs: Sequence[ExpectedPair], *, limits: Limits = FIRST) -> tuple[Slot, ...]:
    """All that has to be measured of these pairs, in the order of time."""
    return (*_rtt_slots(pairs, limits), *_bulk_slots(pairs, limits))


def takes_ns(pairs: Sequence[ExpectedPair], *, limits: Limits = FIRST) -> Nanos:
    """How long all of it should take, one slot after the other."""
    return sum(slot.expected_ns for slot in schedule(pairs, limits=limits))


def sample(pairs: Sequence[ExpectedPair], *, within_ns: Nanos) -> tuple[ExpectedPair, ...]:
    """The pairs that can be measured in this time: all of them, or some from and to every node.

    Twice as many as long as that fits, so that it is more than half of what would fit. In the order
    that they are given in; the same pairs and time give the same sample.
    """
    names = sorted({name for pair in pairs for name in (pair.source, pair.target)})
    place = {name: i for i, name in enumerate(names)}
    turn = {distance: i for i, distance in enumerate(spread(len(names)))}

    def rank(pair: ExpectedPair) -> tuple[int, int]:
        source, target = place[pair.source], place[pair.target]
        return turn[(target - source) % len(names)], source

    order = sorted(range(len(pairs)), key=lambda i: rank(pairs[i]))
    taken = min(len(pairs), len(names))
    while taken > 1 and takes_ns([pairs[i] for i in order[:taken]]) > within_ns:
        taken //= 2
    while taken < len(pairs):
        more = min(2 * taken, len(pairs))
        if takes_ns([pairs[i] for i in order[:more]]) > within_ns:
            break
        taken = more
    return tuple(pairs[i] for i in sorted(order[:taken]))


def spread(count: int) -> list[int]:
    """Distances between the nodes of a circle, in an order that spreads them (multiples of the
    golden ratio): all pairs of the first few are from and to every node equally often."""
    return sorted(range(1, count), key=lambda distance: (distance * _GOLDEN) % 1.0)


def round_trip_ns(out: PathSpec, back: PathSpec) -> Nanos:
    """Of a small packet on an idle path, there and back."""
    return out.delay_ns + back.delay_ns


def pings(out: PathSpec, back: PathSpec) -> tuple[int, Nanos]:
    """(how many, how far apart) to know the round trip, and its jitter where there is any.

    Packets with jitter keep their order, so close ones would push each other back.
    """
    if not (out.jitter_ns or back.jitter_ns):
        return PINGS, PING_EVERY_NS
    apart = 4 * (out.jitter_ns + back.jitter_ns)
    return JITTER_PINGS, max(PING_EVERY_NS, min(apart, 100 * MILLISECOND))


def counted(path: PathSpec) -> bool:
    """Whether packets are to be counted one by one: some are lost, or come twice."""
    return bool(path.loss_rate or path.duplicate or path.corrupt)


def scattered(path: PathSpec) -> bool:
    """Whether TCP might not fill the path by itself, so that datagrams tell its rate."""
    return counted(path) or path.reorder > 0 or (path.jitter_ns > 0 and not path.ordered)


def ramp_ns(out: PathSpec, back: PathSpec) -> Nanos:
    """Until TCP fills the path: it doubles what is under way every round trip (measured: up to
    1.5 s at 50 Mbit/s and 200 ms)."""
    trip = round_trip_ns(out, back)
    packets = (out.rate_bps or BUDGET_BPS) * trip / (SEGMENT_BITS * SECOND)
    rounds = math.log2(max(1.0, packets / FIRST_WINDOW)) + 3
    return 100 * MILLISECOND + round(trip * rounds)


def window_ns(out: PathSpec) -> Nanos:
    """How long the steady rate is measured for; longer on slow paths."""
    packets = WINDOW_PACKETS * SEGMENT_BITS * SECOND // (out.rate_bps or BUDGET_BPS)
    return min(WINDOW_NS[1], max(WINDOW_NS[0], packets))


def loss_pace(out: PathSpec) -> tuple[int, int]:
    """(packets, packets/s) of a loss count: half the rate, and few enough under way that a netem
    leaf (`tc_plan.netem_packets`) holds them all."""
    pace = float(LOSS_PPS)
    if out.rate_bps is not None:
        pace = min(pace, out.rate_bps / (2 * 8 * LOSS_FRAME))
        if out.delay_ns:
            held = 64 + out.rate_bps * out.delay_ns / (8 * 256 * SECOND)
            pace = min(pace, 0.8 * held * SECOND / out.delay_ns)
    pace = max(50.0, pace)
    return min(LOSS_PACKETS[1], max(LOSS_PACKETS[0], round(pace))), round(pace)


def _rtt_slots(pairs: Sequence[ExpectedPair], limits: Limits) -> Iterator[Slot]:
    for group in _ping_groups(pairs, limits):
        longest = max(round_trip_ns(p.out, p.back) for p in group)
        yield Slot(
            pairs=tuple((p.source, p.target) for p in group),
            measures=("rtt",),
            expected_ns=max(math.prod(pings(p.out, p.back)) for p in group)
            + 2 * longest
            + SETTLE_NS,
        )


def _ping_groups(pairs: Sequence[ExpectedPair], limits: Limits) -> Iterator[list[ExpectedPair]]:
    """Each pair in the first group that has room for it."""
    groups: list[tuple[list[ExpectedPair], set[NodeId]]] = []
    for pair in pairs:
        ends = {pair.source, pair.target}
        for group, nodes in groups:
            full = len(group) == PING_PAIRS or len(nodes | ends) > limits.nodes
            if not full and not (limits.apart and nodes & ends):
                break
        else:
            group, nodes = [], set()
            groups.append((group, nodes))
        group.append(pair)
        nodes |= ends
    for group, _ in groups:
        yield group


@dataclass(slots=True)
class _Open:
    """A slot that is being filled."""

    pairs: list[ExpectedPair]
    sources: set[NodeId]
    targets: set[NodeId]
    bps: int
    shared: set[str]

    def takes(self, pair: ExpectedPair, limits: Limits) -> bool:
        return (
            pair.source not in self.sources
            and pair.target not in self.targets
            and not (limits.apart and (pair.source in self.targets or pair.target in self.sources))
            and self.shared.isdisjoint(pair.shared)
            and len(self.sources | self.targets | {pair.source, pair.target}) <= limits.nodes
            and self.bps + (pair.out.rate_bps or 0) <= limits.bps
        )


def _bulk_slots(pairs: Sequence[ExpectedPair], limits: Limits) -> Iterator[Slot]:
    """First fit in the order of a round robin: n - 1 slots for all pairs of n nodes."""
    names = sorted({name for pair in pairs for name in (pair.source, pair.target)})
    place = {name: i for i, name in enumerate(names)}
    judged = [p for p in pairs if p.out.rate_bps is not None or counted(p.out)]
    judged.sort(
        key=lambda p: ((place[p.target] - place[p.source]) % len(names), _bulk_ns(p), p.source)
    )
    slots: list[_Open] = []
    for pair in judged:
        slot = next((s for s in slots if s.takes(pair, limits)), None)
        if slot is None:  # also for a path that alone is above the budget
            slot = _Open([], set(), set(), 0, set())
            slots.append(slot)
        slot.pairs.append(pair)
        slot.sources.add(pair.source)
        slot.targets.add(pair.target)
        slot.bps += pair.out.rate_bps or 0
        slot.shared.update(pair.shared)
    for slot in slots:
        lossy = any(counted(pair.out) for pair in slot.pairs)
        yield Slot(
            pairs=tuple((pair.source, pair.target) for pair in slot.pairs),
            measures=("rate", "loss") if lossy else ("rate",),
            expected_ns=max(_bulk_ns(pair) for pair in slot.pairs),
        )


def _bulk_ns(pair: ExpectedPair) -> Nanos:
    trip = round_trip_ns(pair.out, pair.back)
    total = 0
    if pair.out.rate_bps is not None:
        total += ramp_ns(pair.out, pair.back) + window_ns(pair.out) + 2 * trip + SETTLE_NS
    if counted(pair.out):
        packets, pace = loss_pace(pair.out)
        total += packets * SECOND // pace + 4 * trip + SETTLE_NS
    return total
