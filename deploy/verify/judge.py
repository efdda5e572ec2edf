"""What was measured beside what the model expects (pure): `verify.json`, and the findings.

    flow    the mean over a segment, once settled, within 10 % of what is expected; nothing where
            there is no path
    sum     of all flows over a full link: within 5 % (application emulator: 25 % and 20 %)
    event   in force on all nodes within 20 ms of each other, 50 ms after it was due at most, and
            read back as asked

What TCP cannot tell is not judged, by name; its measured rate then counts as what it takes away
from others. Links measured alone are judged by the run itself (`links.json`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.checks import Finding, Judgement
from deploy.verify.model import ACK_SHARE, Pair, Picture, goodputs, interior_links, unfit
from deploy.verify.readings import Firing, Throughput
from deploy.verify.segments import Load, Segment
from node.config import Emulator
from node.core.ids import NodeId
from node.links.report import TCP_SHARE
from node.links.sizes import FRAME
from node.units import MILLISECOND, SECOND, Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a mean may be from what is expected, as a share of that.

    Args:
        flow: of one flow.
        sum: of all flows over a full link together.
    """

    flow: float
    sum: float


KERNEL: Final = Tolerance(flow=0.10, sum=0.05)
APPLICATION: Final = Tolerance(flow=0.25, sum=0.20)
"""A process like any other, whose streams keep little under way, so that a cancel has an effect."""
SPREAD_MS: Final = 20.0
"""Between the first and the last node on which an event is in force."""
LATE_MS: Final = 50.0
"""After an event was due, on any node."""
_WINDOW_NS: Final = SECOND // 2
"""A mean over less is not judged."""
_END_NS: Final = 200 * MILLISECOND
"""Before the end of the run: nodes stop at slightly different moments."""
_GRAIN: Final = 2 * FRAME
"""Bytes that a mean is uncertain by: packets that fall to one side or the other of its ends."""
_REST: Final = 32 * 1024
"""Bytes that may still arrive where no path is: what the receiver's kernel held back."""
_FULL: Final = 0.99
"""Of its capacity: a link that is full in the model."""
_TOLD: Final = 8
"""As many findings of one kind are told in the verdict; `verify.json` has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Something held against what is expected of it.

    Args:
        asked_bps: on the wire: the path's rate, the link's capacity; None: unlimited, or no path.
        expected_bps, measured_bps: payload.
        ok: None where it is not judged.
        why: what is off, or why it is not judged.
    """

    asked_bps: float | None
    expected_bps: float | None
    measured_bps: float | None
    ok: bool | None
    why: str | None = None

    @property
    def error(self) -> float | None:
        """Relative; None where there is nothing to compare."""
        if not self.expected_bps or self.measured_bps is None:
            return None
        return self.measured_bps / self.expected_bps - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One segment: its flows, and the links that they fill together."""

    segment: Segment
    flows: Mapping[Pair, Held]
    links: Mapping[str, Held]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHeld:
    """One time of the timeline, as it became true on the nodes."""

    firing: Firing
    late_ms: float | None
    spread_ms: float | None
    ok: bool
    why: str | None


def tolerance(emulator: str) -> Tolerance:
    """For what `links.json` says was in force."""
    return APPLICATION if Emulator.APPLICATION.value in emulator else KERNEL


def judge_segments(load: Load, throughput: Throughput, *, emulator: str) -> tuple[Judged, ...]:
    """All segments of the timeline."""
    return tuple(
        _Segment(segment, load, throughput, emulator=emulator).judged() for segment in load.segments
    )


class _Segment:
    """One segment while it is judged."""

    def __init__(
        self, segment: Segment, load: Load, throughput: Throughput, *, emulator: str
    ) -> None:
        self._segment = segment
        self._picture: Picture = segment.picture
        self._pairs = load.sample.pairs
        self._throughput = throughput
        self._application = Emulator.APPLICATION.value in emulator
        self._tolerance = tolerance(emulator)
        self._end = min(segment.end_ns, load.time_ns - _END_NS)
        self._greedy = goodputs(self._picture, self._pairs)

    def judged(self) -> Judged:
        measured = {pair: self._measured(pair) for pair in self._pairs}
        unjudged = {p: why for p in self._pairs if (why := self._excuse(p)) is not None}
        takes = {p: m for p in unjudged if (m := measured[p]) is not None}
        expected = goodputs(self._picture, self._pairs, demands=takes)
        flows = {}
        for pair in self._pairs:
            rate = None if expected is None else expected[pair]
            if pair in unjudged and self._greedy is not None:
                rate = self._greedy[pair]
            flows[pair] = self._flow(pair, rate, measured[pair], unjudged.get(pair))
        return Judged(segment=self._segment, flows=flows, links=dict(self._sums(flows)))

    def _begin(self, pair: Pair) -> Nanos:
        """From when on the flow's rate counts."""
        segment = self._segment
        settle = segment.settle_ns.get(pair, SECOND)
        if self._application:
            # What was under way is sent again at intervals that double, as TCP does.
            settle += segment.gone_ns.get(pair, 0)
        return segment.begin_ns + settle

    def _measured(self, pair: Pair) -> float | None:
        return self._throughput.mean_bps(pair, self._begin(pair), self._end)

    def _excuse(self, pair: Pair) -> str | None:
        """Why a flow is not judged in this segment; None: it is."""
        begin = self._begin(pair)
        if self._end - begin < _WINDOW_NS:
            lasts = (self._segment.end_ns - self._segment.begin_ns) / SECOND
            wants = (begin - self._segment.begin_ns + _WINDOW_NS) / SECOND
            return f"{lasts:.1f} s are too short: {wants:.1f} s are needed to settle and measure"
        if not self._picture.joined(pair):
            return None
        if (why := unfit(self._picture, pair)) is not None:
            return why
        if self._greedy is None:
            return "the shares of access and interior links have no common point"
        if self._greedy[pair] == math.inf:
            return "nothing limits its rate"
        if self._application and (full := self._full_interior(pair)):
            return f"the application emulator does not share the interior link {full}"
        return None

    def _full_interior(self, pair: Pair) -> str | None:
        """An interior link on the flow's way that several flows would fill."""
        joined = [p for p in self._pairs if self._picture.joined(p)]
        interior = interior_links(self._picture.ways[p] for p in joined)
        for name in self._picture.ways[pair].links:
            through = [p for p in joined if name in self._picture.ways[p].links]
            capacity = self._picture.capacities[name]
            if name in interior and capacity is not None and len(through) > 1:
                rates = [self._picture.ways[p].spec.rate_bps or math.inf for p in through]
                if sum(rates) > capacity:
                    return name
        return None

    def _flow(
        self, pair: Pair, expected: float | None, measured: float | None, excuse: str | None
    ) -> Held:
        joined = self._picture.joined(pair)
        asked = self._picture.ways[pair].spec.rate_bps if joined else None
        if expected == math.inf:
            expected = None
        ok: bool | None = None
        why = excuse
        if measured is None:
            why = excuse or "its throughput was not recorded"
        elif excuse is not None:
            most = math.inf if asked is None else asked * TCP_SHARE * (1 + self._tolerance.flow)
            if joined and measured > most:
                ok, why = False, f"{_mbit(measured)} on a path of {_mbit(asked)}"
        elif expected is not None:
            ok, why = self._within(pair, expected, measured)
        return Held(asked_bps=asked, expected_bps=expected, measured_bps=measured, ok=ok, why=why)

    def _within(self, pair: Pair, expected: float, measured: float) -> tuple[bool, str | None]:
        lasts_s = (self._end - self._begin(pair)) / SECOND
        if not self._picture.joined(pair):
            if measured * lasts_s <= 8 * _REST:
                return True, None
            return False, f"{_mbit(measured)} where no path is"
        slack = self._tolerance.flow * expected + 8 * _GRAIN / lasts_s
        if abs(measured - expected) <= slack:
            return True, None
        return (
            False,
            f"{_mbit(measured)}, expected {_off(measured, expected, self._tolerance.flow)}",
        )

    def _sums(self, flows: Mapping[Pair, Held]) -> Iterator[tuple[str, Held]]:
        """Every link that is full in the model and carries several flows."""
        for name, capacity in self._picture.capacities.items():
            if capacity is None:
                continue
            through = [p for p in flows if self._uses(p, name)]
            back = [p for p in flows if self._uses(p[::-1], name) and self._picture.joined(p)]
            wire = sum((flows[p].expected_bps or 0) / TCP_SHARE for p in through)
            wire += sum((flows[p].expected_bps or 0) / TCP_SHARE * ACK_SHARE for p in back)
            if len(through) > 1 and wire >= _FULL * capacity:
                held = [flows[pair] for pair in through]
                yield name, _sum(held, capacity, share=self._tolerance.sum)

    def _uses(self, pair: Pair, name: str) -> bool:
        return self._picture.joined(pair) and name in self._picture.ways[pair].links


def _sum(flows: Sequence[Held], capacity: float, *, share: float) -> Held:
    """All flows over a full link as one."""
    expected = sum(flow.expected_bps or 0.0 for flow in flows)
    known = [flow.measured_bps for flow in flows if flow.measured_bps is not None]
    measured = sum(known) if len(known) == len(flows) else None
    unjudged = sum(flow.ok is None for flow in flows)
    ok: bool | None = None
    why: str | None = f"{unjudged} of its {len(flows)} flows are not judged"
    if not unjudged and measured is not None:
        ok, why = abs(measured - expected) <= share * expected, None
        if not ok:
            why = (
                f"{len(flows)} flows come to {_mbit(measured)}, expected"
                f" {_off(measured, expected, share)}"
            )
    return Held(asked_bps=capacity, expected_bps=expected, measured_bps=measured, ok=ok, why=why)


def _off(measured: float, expected: float, share: float) -> str:
    return f"{_mbit(expected)} ± {share:.0%}: {measured / expected - 1:+.1%}"


def _mbit(rate: float | None) -> str:
    return "unlimited" if rate is None else f"{rate / 1e6:.3f} Mbit/s"


def judge_events(firings: Sequence[Firing]) -> tuple[EventHeld, ...]:
    """Every event of the timeline that changes links."""
    return tuple(_event(firing) for firing in firings)


def _event(firing: Firing) -> EventHeld:
    never = [fired.node for fired in firing.nodes if fired.late_ms is None]
    wrong = [f"{fired.node}: {fired.error}" for fired in firing.nodes if fired.error is not None]
    late = {fired.node: fired.late_ms for fired in firing.nodes if fired.late_ms is not None}
    most = max(late.values(), default=None)
    spread = None if most is None else most - min(late.values())
    misses = []
    if never:
        misses.append(f"not applied on {_names(never)}")
    if wrong:
        misses.append(f"not as asked: {'; '.join(wrong[:_TOLD])}")
    if most is not None and most > LATE_MS:
        slow = max(late, key=late.__getitem__)
        misses.append(f"{most:.0f} ms late on {slow} (limit {LATE_MS:g} ms)")
    if spread is not None and spread > SPREAD_MS:
        misses.append(f"{spread:.0f} ms between the nodes (limit {SPREAD_MS:g} ms)")
    return EventHeld(
        firing=firing,
        late_ms=most,
        spread_ms=spread,
        ok=not misses,
        why="; ".join(misses) or None,
    )


def _names(nodes: Sequence[NodeId]) -> str:
    more = f" and {len(nodes) - _TOLD} more" if len(nodes) > _TOLD else ""
    return ", ".join(nodes[:_TOLD]) + more


# The verdict -------------------------------------------------------------------------------------


def findings(segments: Sequence[Judged], events: Sequence[EventHeld]) -> Iterator[Finding]:
    """What speaks against the network, by name."""
    off = [
        (f"flow {pair[0]} to {pair[1]}", held, _when(judged))
        for judged in segments
        for pair, held in judged.flows.items()
        if held.ok is False
    ]
    off += [
        (f"link {name}", held, _when(judged))
        for judged in segments
        for name, held in judged.links.items()
        if held.ok is False
    ]
    off.sort(key=lambda miss: -abs(miss[1].error or 1.0))
    for who, held, when in off[:_TOLD]:
        yield _finding(Judgement.INVALID, f"{held.why} ({when})", who)
    if len(off) > _TOLD:
        yield _finding(Judgement.INVALID, f"{len(off) - _TOLD} more flows and links are off")
    missed = [event for event in events if not event.ok]
    for event in missed[:_TOLD]:
        what = ", ".join(event.firing.what) or "a change"
        yield _finding(Judgement.INVALID, str(event.why), f"at {event.firing.at_s:g} s, {what}")
    if len(missed) > _TOLD:
        yield _finding(Judgement.INVALID, f"{len(missed) - _TOLD} more events are off")
    flows = [held for judged in segments for held in judged.flows.values()]
    if not any(held.ok is not None for held in flows):
        reasons = sorted({str(held.why) for held in flows}) or ["no pair has a path"]
        yield _finding(Judgement.UNKNOWN, f"no flow could be judged: {'; '.join(reasons[:_TOLD])}")


def _when(judged: Judged) -> str:
    segment = judged.segment
    return f"{segment.begin_ns / SECOND:g} s to {segment.end_ns / SECOND:g} s"


def _finding(judgement: Judgement, reason: str, who: str | None = None) -> Finding:
    return Finding(judgement=judgement, reason=reason, who=who)


# verify.json -------------------------------------------------------------------------------------


def document(
    load: Load,
    segments: Sequence[Judged],
    events: Sequence[EventHeld],
    *,
    emulator: str,
    **beside: Any,
) -> dict[str, Any]:
    """The content of `verify.json`; `beside` are further keys."""
    return {
        "emulator": emulator,
        **beside,
        "ok": all(f.judgement is not Judgement.INVALID for f in findings(segments, events)),
        "pairs": {
            "candidates": load.sample.candidates,
            "measured": len(load.sample.pairs),
            "sampled": load.sample.partial,
        },
        "duration_s": load.time_ns / SECOND,
        "tolerance": {
            "flow": tolerance(emulator).flow,
            "sum": tolerance(emulator).sum,
            "event_spread_ms": SPREAD_MS,
            "event_late_ms": LATE_MS,
        },
        "segments": [_segment_json(judged) for judged in segments],
        "events": [_event_json(event) for event in events],
    }


def _segment_json(judged: Judged) -> dict[str, Any]:
    return {
        "begin_s": judged.segment.begin_ns / SECOND,
        "end_s": judged.segment.end_ns / SECOND,
        "what": list(judged.segment.what),
        "flows": [
            {"from": pair[0], "to": pair[1], **_held_json(held)}
            for pair, held in judged.flows.items()
        ],
        "links": [{"name": name, **_held_json(held)} for name, held in judged.links.items()],
    }


def _held_json(held: Held) -> dict[str, Any]:
    return {
        "asked_bps": held.asked_bps,
        "expected_bps": held.expected_bps,
        "measured_bps": held.measured_bps,
        "ok": held.ok,
        "why": held.why,
    }


def _event_json(event: EventHeld) -> dict[str, Any]:
    return {
        "at_s": event.firing.at_s,
        "what": list(event.firing.what),
        "nodes": len(event.firing.nodes),
        "late_ms": event.late_ms,
        "spread_ms": event.spread_ms,
        "ok": event.ok,
        "why": event.why,
    }
