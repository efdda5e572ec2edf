"""Shares of interior links, computed by every link agent for its own paths (pure).

No kernel sees all of the traffic on an interior link, so every `TICK_NS` each agent

    measures what its own paths use         -> `observe`
    tells the agents that it shares a link with, and hears from them   -> `turn`, `hear`
    computes weighted max-min fair shares (`sharing.max_min`) and limits its own paths -> `turn`

All agents compute the same from the same reports; there is no central one. A path that is held
back by its ceiling counts as wanting all that it can have, one that is not as wanting what it uses
and a twentieth more: at the border both are the same, so nothing jumps. A path that wants less than
its share, or nothing, has as ceiling what it would get if it wanted more, so it can always grow.

Use that rises counts at once, so others make room within a tick and a message. Use that ends
counts after two ticks; use that falls does so by `DECAY` a tick, for traffic is never even. That is
the only damping: a step takes a quarter to half a second until all have what they are due.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.config import LinksConfig, PathSpec
from node.core.ids import NodeId
from node.links.sharing import Flow, max_min, weight_of
from node.links.sizes import FRAME, UNLIMITED_BPS
from node.links.usage_wire import Usage, decode, encode
from node.units import MILLISECOND, SECOND, Nanos

TICK_NS: Final = 50 * MILLISECOND
GREEDY: Final = 0.95
"""Share of its ceiling from which on a path counts as wanting more."""
HELD: Final = 0.7
"""The same for a path that the kernel says it held back."""
STICKY_TICKS: Final = 4
"""A path that was held back counts as greedy this long, also when its ceiling has been raised."""
DECAY: Final = 0.7
STOPPED_TICKS: Final = 2
STOPPED_BYTES: Final = 8 * FRAME
"""A path that has let nothing through for two ticks, in which so much would have come at its rate
until then, has stopped."""
ACTIVE: Final = 0.01
"""Share of the tightest link on its way from which on a path counts as used, as in Kollaps."""
WINDOW_BYTES: Final = 20 * FRAME
WINDOW_TICKS: Final = 8
"""A rate is taken over so many bytes or so many ticks, whichever is less: single packets of a slow
path would look like bursts."""
REPEATS: Final = 2
"""How often a report is said again, against loss."""
KEEP_TICKS: Final = (3, 20)
"""Least and most ticks between two reports of an agent that has nothing new to say."""
LOST_REPORTS: Final = 5
"""So many in a row that do not come: the sender is gone. At a loss of 10 %, once in 10^5."""
CHANGED: Final = 0.05
"""A demand that moves by less is nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A path's counters in the kernel.

    Args:
        size: bytes that left, since the start.
        held: how often its ceiling held it back, since the start.
    """

    size: int
    held: int


@dataclass(slots=True, kw_only=True)
class Own:
    """One path out of this node that crosses shared links.

    Args:
        links: their positions.
        bound_bps: what limits it apart from them: its own rate, or the access link's.
        least_bps: below this it counts as unused.
        ceiling_bps: what its class has now.
        used_bps: smoothed as the head of this file says.
    """

    links: tuple[int, ...]
    weight: float
    bound_bps: int
    least_bps: float
    ceiling_bps: float
    samples: deque[tuple[Nanos, Sample]] = field(
        default_factory=lambda: deque(maxlen=WINDOW_TICKS + 1)
    )
    used_bps: float = 0.0
    greedy_ticks: int = 0

    def at(self, sample: Sample) -> bool:
        """Whether that is where it was the last time."""
        return bool(self.samples) and self.samples[-1][1].size == sample.size

    def take(self, sample: Sample, *, now: Nanos) -> None:
        """What the kernel counted up to now."""
        if self.samples:
            when, before = self.samples[-1]
            if sample.size < before.size:
                self.samples.clear()  # the class was made anew
            elif now - when > 2 * TICK_NS:  # it was at rest
                self.samples.append((now - TICK_NS, before))
        self.samples.append((now, sample))
        if len(self.samples) < 2:
            return
        if self._stopped():
            self.used_bps, self.greedy_ticks = 0.0, 0
            return
        rate = self._rate()
        self.used_bps = max(rate, DECAY * self.used_bps + (1 - DECAY) * rate)
        held = self.samples[-1][1].held > self.samples[-2][1].held
        if rate >= (HELD if held else GREEDY) * self.ceiling_bps:
            self.greedy_ticks = STICKY_TICKS
        elif self.greedy_ticks:
            self.greedy_ticks -= 1

    def _stopped(self) -> bool:
        """Whether nothing has come for so long that several packets would have."""
        if len(self.samples) <= STOPPED_TICKS:
            return False
        expected = self.used_bps * STOPPED_TICKS * TICK_NS / (8 * SECOND)
        last, before = self.samples[-1][1], self.samples[-1 - STOPPED_TICKS][1]
        return last.size == before.size and expected >= STOPPED_BYTES

    def _rate(self) -> float:
        usual = self.used_bps * TICK_NS / (8 * SECOND)
        ticks = min(WINDOW_TICKS, math.ceil(WINDOW_BYTES / usual)) if usual >= 1 else WINDOW_TICKS
        end, last = self.samples[-1]
        begin, size = end, 0
        for number in range(1, min(ticks, len(self.samples) - 1) + 1):
            begin, first = self.samples[-1 - number]
            size = last.size - first.size
            if size >= WINDOW_BYTES:
                break
        return 8 * size * SECOND / max(1, end - begin)

    def demand_bps(self) -> float:
        """What it wants, as far as one can tell."""
        if self.greedy_ticks:
            return float(self.bound_bps)
        return min(self.used_bps / GREEDY, float(self.bound_bps))


@dataclass(slots=True, kw_only=True)
class _Heard:
    """One sender's latest whole report, and the parts of the one that is coming in."""

    sequence: int = -1
    until: Nanos = 0
    flows: tuple[Usage, ...] = ()
    coming: int = -1
    parts: dict[int, tuple[Usage, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is to be done after a tick.

    Args:
        datagrams: for every partner.
        ceilings: of all paths that shared links limit below their own rate; None: as before.
    """

    datagrams: tuple[bytes, ...] = ()
    ceilings: Mapping[NodeId, int] | None = None


class Exchange:
    """One agent's part in it.

    Args:
        sequence: of the first report; must be more than any that this node ever sent in the run.

    Attributes:
        refused: datagrams that were no report of a partner in this run.
    """

    def __init__(self, links: LinksConfig, *, me: NodeId, session: str, sequence: int) -> None:
        self._me, self._session = me, session
        self._sequence = sequence
        self._heard: dict[NodeId, _Heard] = {}
        self._own: dict[NodeId, Own] = {}
        self._said: tuple[Usage, ...] = ()
        self._repeats = 0
        self._silent_ticks = 0
        self._dirty = True
        self._samples: Mapping[NodeId, Sample] = {}
        self._idle = True
        self.refused = 0
        self.configure(links)

    def configure(self, links: LinksConfig) -> None:
        """The links are these from now on; what was heard and measured stays."""
        self._partners = frozenset(links.partners)
        self._capacity = [link.rate_bps for link in links.shared]
        places = {link.name: place for place, link in enumerate(links.shared)}
        access = {link.name: link.rate_bps for link in links.up}
        own: dict[NodeId, Own] = {}
        for peer in links.peers:
            if peer.out is None or not peer.shared:
                continue
            rates = (peer.out.rate_bps, access[peer.up] if peer.up is not None else None)
            bound = min((rate for rate in rates if rate is not None), default=UNLIMITED_BPS)
            crossed = tuple(sorted({places[name] for name in peer.shared}))
            limits = [bound, *(r for link in crossed if (r := self._capacity[link]) is not None)]
            kept = self._own.get(peer.name)
            path = Own(
                links=crossed,
                weight=weight_of(round_trip(peer.out, peer.into)),
                bound_bps=bound,
                least_bps=ACTIVE * min(limits),
                ceiling_bps=float(bound) if kept is None else min(kept.ceiling_bps, bound),
            )
            if kept is not None:
                path.samples, path.used_bps = kept.samples, kept.used_bps
                path.greedy_ticks = kept.greedy_ticks
            own[peer.name] = path
        self._own = own
        self._idle = not any(path.used_bps >= path.least_bps for path in own.values())
        self._keep_ticks = min(KEEP_TICKS[1], max(KEEP_TICKS[0], len(self._partners) // 4))
        self._dirty = True

    @property
    def paths(self) -> Mapping[NodeId, Own]:
        """The paths that are limited here."""
        return self._own

    def observe(self, samples: Mapping[NodeId, Sample], *, now: Nanos) -> None:
        """What the kernel has counted of our paths; cheap when it is the same object as before."""
        if samples is self._samples and self._idle:
            return
        self._samples = samples
        for peer, own in self._own.items():
            sample = samples.get(peer)
            if sample is not None and (own.used_bps or not own.at(sample)):
                own.take(sample, now=now)
        self._idle = not any(own.used_bps >= own.least_bps for own in self._own.values())

    def hear(self, sender: NodeId, datagram: bytes, *, now: Nanos) -> bool:
        """A datagram came in; False if it is none of ours."""
        part = decode(datagram, session=self._session, sender=sender)
        if part is None or sender not in self._partners:
            self.refused += 1
            return False
        heard = self._heard.setdefault(sender, _Heard())
        if part.sequence <= heard.sequence or part.sequence < heard.coming:
            return True  # late, or said again
        if part.sequence > heard.coming:
            heard.coming, heard.parts = part.sequence, {}
        heard.parts[part.part] = part.flows
        if len(heard.parts) == part.parts:
            flows = tuple(f for number in sorted(heard.parts) for f in heard.parts[number])
            self._dirty = self._dirty or flows != heard.flows
            heard.sequence, heard.flows, heard.parts = part.sequence, flows, {}
            heard.until = now + part.valid_ms * MILLISECOND
        return True

    def turn(self, *, now: Nanos) -> Turn:
        """A tick has passed: what to say, and our paths' ceilings if something is different."""
        self._expire(now)
        report = self._report()
        new = _different(self._said, report)
        self._silent_ticks += 1
        if new:
            self._repeats = REPEATS + 1
            self._dirty = True
        if self._repeats:
            self._repeats -= 1
        elif not report or self._silent_ticks < self._keep_ticks:
            return Turn(ceilings=self._ceilings(report) if self._dirty else None)
        self._said, self._silent_ticks = report, 0
        self._sequence += 1
        datagrams = encode(
            report,
            session=self._session,
            sender=self._me,
            sequence=self._sequence,
            valid_ms=LOST_REPORTS * self._keep_ticks * TICK_NS // MILLISECOND,
        )
        return Turn(
            datagrams=tuple(datagrams),
            ceilings=self._ceilings(report) if self._dirty else None,
        )

    def _expire(self, now: Nanos) -> None:
        for sender, heard in self._heard.items():
            if heard.flows and (now > heard.until or sender not in self._partners):
                heard.flows = ()
                self._dirty = True

    def _report(self) -> tuple[Usage, ...]:
        """What we use, flows that cross the same links together.

        Greedy ones are added up only where they have the same rate at the same level of filling;
        then the sum gets exactly what they would get one by one.
        """
        if self._idle:
            return ()
        sums: dict[tuple[tuple[int, ...], float], tuple[float, float]] = {}
        for own in self._own.values():
            if own.used_bps < own.least_bps:
                continue
            demand = own.demand_bps()
            key = (own.links, demand / own.weight if own.greedy_ticks else -1.0)
            weight, total = sums.get(key, (0.0, 0.0))
            sums[key] = (weight + own.weight, total + demand)
        return tuple(
            Usage(links=links, weight=weight, demand_bps=demand)
            for (links, _), (weight, demand) in sorted(sums.items())
        )

    def _ceilings(self, report: Sequence[Usage]) -> dict[NodeId, int]:
        """Our paths' shares as things are now."""
        self._dirty = False
        capacities = {str(place): rate for place, rate in enumerate(self._capacity)}
        others = [usage for heard in self._heard.values() for usage in heard.flows]
        usages = [*self._own_usages(), *(self._clipped(usage) for usage in others)]
        flows = [
            Flow(
                key=f"{number:06}",
                links=tuple(map(str, usage.links)),
                weight=usage.weight,
                demand_bps=usage.demand_bps,
            )
            for number, usage in enumerate(usages)
        ]
        rates = max_min(flows, capacities)
        offers = _Offers(usages, [rates[flow.key] for flow in flows], self._capacity)
        found: dict[NodeId, int] = {}
        for number, (peer, own) in enumerate(self._own.items()):
            share = offers.to(number, own.links, own.weight)
            own.ceiling_bps = max(1.0, min(share, float(own.bound_bps)))
            if own.ceiling_bps < own.bound_bps:
                found[peer] = max(1, int(own.ceiling_bps))
        return found

    def _own_usages(self) -> Iterator[Usage]:
        """Our paths one by one, unused ones with no demand."""
        for own in self._own.values():
            used = own.used_bps >= own.least_bps
            demand = own.demand_bps() if used else 0.0
            yield Usage(links=own.links, weight=own.weight, demand_bps=demand)

    def _clipped(self, usage: Usage) -> Usage:
        """Without links that we do not know of yet."""
        known = tuple(place for place in usage.links if place < len(self._capacity))
        if known == usage.links:
            return usage
        return Usage(links=known, weight=usage.weight, demand_bps=usage.demand_bps)


class _Offers:
    """What each link has for a flow that wants more, the others being as they are.

    Each link on its own: a flow that another link holds back keeps the rate that it has. That is
    exact for flows that got less than they want, and near enough for those that might.
    """

    def __init__(
        self, usages: Sequence[Usage], rates: Sequence[float], capacity: Sequence[int | None]
    ) -> None:
        self._capacity = capacity
        self._known: dict[tuple[int, float], float] = {}
        self._on: list[list[tuple[float, float, float, int]]] = [[] for _ in capacity]
        level = [0.0] * len(capacity)
        total = [0.0] * len(capacity)
        for usage, rate in zip(usages, rates, strict=True):
            for link in usage.links:
                level[link] = max(level[link], rate / usage.weight)
                total[link] += rate
        for number, (usage, rate) in enumerate(zip(usages, rates, strict=True)):
            if rate <= 0:
                continue
            for link in usage.links:
                limit = capacity[link]
                held_here = (
                    limit is not None
                    and rate < usage.demand_bps
                    and total[link] >= limit * (1 - 1e-6)
                    and rate / usage.weight >= level[link] * (1 - 1e-6)
                )
                cap = math.inf if held_here else rate
                self._on[link].append((cap / usage.weight, cap, usage.weight, number))
        for entries in self._on:
            entries.sort()

    def to(self, number: int, links: Sequence[int], weight: float) -> float:
        """bit/s for this one of the flows, if it crosses these links with this weight."""
        return min((weight * self._level(link, number, weight) for link in links), default=math.inf)

    def _level(self, link: int, number: int, weight: float) -> float:
        free = self._capacity[link]
        if free is None:
            return math.inf
        counted = any(entry[3] == number for entry in self._on[link])
        if not counted and (known := self._known.get((link, weight))) is not None:
            return known
        left = float(free)
        heavy = weight + sum(entry[2] for entry in self._on[link] if entry[3] != number)
        for ratio, cap, other, whose in self._on[link]:
            if whose == number:
                continue
            if ratio * heavy > left:
                break
            left -= cap
            heavy -= other
        found = left / heavy
        if not counted:
            self._known[link, weight] = found
        return found


def round_trip(out: PathSpec, into: PathSpec | None) -> Nanos:
    """Of a small packet on the idle path; there and back as slow if there is no path back."""
    return out.delay_ns + (into.delay_ns if into is not None else out.delay_ns)


def _different(old: Sequence[Usage], new: Sequence[Usage]) -> bool:
    """Whether others have to know."""
    if [(u.links, u.weight) for u in old] != [(u.links, u.weight) for u in new]:
        return True
    return any(
        abs(a.demand_bps - b.demand_bps) > CHANGED * max(a.demand_bps, b.demand_bps)
        for a, b in zip(old, new, strict=True)
    )
