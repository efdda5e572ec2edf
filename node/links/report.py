"""What was asked of each path, what was applied and what was measured: `links.json` (pure).

Tolerances are for a path measured alone on a machine with room to spare:

    rtt      1 ms + 2 % of the delays asked for, and what the median of 30 varies by with jitter
    goodput  3 % of what the rate leaves for payload: 0.956 with TCP, 0.972 with UDP, less the loss
    loss     the 99 % interval of what was counted contains what was asked for

The application emulator is a process like any other: 5 ms + 5 %, 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.config import Emulator, ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links.schedule import PINGS, window_ns
from node.links.tc_plan import FRAME
from node.units import MILLISECOND, SECOND

TCP_SHARE: Final = 1448 / FRAME
UDP_SHARE: Final = 1472 / FRAME
"""Payload per byte that HTB charges, at MTU 1500."""

Z_99: Final = 2.5758293035489004
"""Half-width of a 99 % interval, in standard deviations."""
_MEDIAN_SIGMA: Final = 1.2533
"""Standard deviation of a median of normal values, times the square root of their number."""

Applied = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a measurement may be off: an absolute part and a share of what was asked."""

    rtt_ms: float
    rtt_share: float
    goodput_share: float


KERNEL: Final = Tolerance(rtt_ms=1.0, rtt_share=0.02, goodput_share=0.03)
APPLICATION: Final = Tolerance(rtt_ms=5.0, rtt_share=0.05, goodput_share=0.10)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """The verdict on one ordered pair.

    Args:
        ok: whether all that was measured is within tolerance; None if nothing was.
        why: what is not, or why nothing was measured.
        applied: what was read back of both ends, None if that is unknown.
        tolerance: the bounds, and for the loss the interval, for the reader of links.json.
    """

    pair: ExpectedPair
    reading: LinkReading | None
    applied: Applied | None
    ok: bool | None
    why: str | None
    tolerance: Mapping[str, Any]


def judge(
    expected: ExpectedPair,
    reading: LinkReading | None,
    applied: Applied | None,
    *,
    emulator: Emulator,
) -> PairReport:
    """Hold what was measured of a pair against what was asked for.

    Args:
        reading: None where links are not measured.
        applied: from `applied_to_pair`.
    """
    rules = APPLICATION if emulator is Emulator.APPLICATION else KERNEL
    misses: list[str] = []
    bounds: dict[str, Any] = {"rtt_ms": None, "goodput_bps": None, "loss": None}
    if reading is not None:
        bounds["rtt_ms"] = _judge_rtt(expected, reading, rules, misses)
        ideal = expected_goodput(expected.out, transport=reading.transport, emulator=emulator)
        bounds["goodput_bps"] = _judge_goodput(expected.out, reading, rules, ideal, misses)
        bounds["loss"] = _judge_loss(expected.out, reading, misses)
        if reading.error is not None:
            misses.append(reading.error)
    measured = reading is not None and (
        reading.error is not None
        or any(v is not None for v in (reading.rtt_ns, reading.goodput_bps, reading.loss))
    )
    return PairReport(
        pair=expected,
        reading=reading,
        applied=applied,
        ok=not misses if measured else None,
        why="; ".join(misses) if misses else None if measured else "not measured",
        tolerance=bounds,
    )


def _judge_rtt(
    expected: ExpectedPair, reading: LinkReading, rules: Tolerance, misses: list[str]
) -> list[float] | None:
    if reading.rtt_ns is None:
        return None
    asked = (expected.out.delay_ns + expected.back.delay_ns) / MILLISECOND
    sigma = math.hypot(expected.out.jitter_ns, expected.back.jitter_ns) / MILLISECOND
    # Jitter below zero delay cannot be, so the median of a path that is mostly jitter is not known.
    slack = rules.rtt_ms + rules.rtt_share * asked + Z_99 * _MEDIAN_SIGMA * sigma / math.sqrt(PINGS)
    bounds = [max(0.0, asked - slack), asked + slack]
    seen = reading.rtt_ns / MILLISECOND
    if not bounds[0] <= seen <= bounds[1]:
        misses.append(f"round trip {seen:.2f} ms, asked {asked:.2f} ± {slack:.2f} ms")
    return bounds


def _judge_goodput(
    path: PathSpec, reading: LinkReading, rules: Tolerance, ideal: float, misses: list[str]
) -> list[float] | None:
    if path.rate_bps is None or reading.goodput_bps is None:
        return None
    share = rules.goodput_share
    if reading.transport == "udp":  # and what the number lost within the window varies by
        packets = path.rate_bps * window_ns(path) / (8 * FRAME * SECOND)
        share += Z_99 * math.sqrt(path.loss / (packets * max(0.01, 1 - path.loss)))
    bounds = [ideal * (1 - share), ideal * (1 + share)]
    if not bounds[0] <= reading.goodput_bps <= bounds[1]:
        off = reading.goodput_bps / ideal - 1
        misses.append(
            f"goodput {reading.goodput_bps / 1e6:.3f} Mbit/s is {off:+.1%} off the"
            f" {ideal / 1e6:.3f} Mbit/s of a {path.rate_bps / 1e6:g} Mbit/s path"
        )
    return bounds


def expected_goodput(path: PathSpec, *, transport: str | None, emulator: Emulator) -> float:
    """Payload bit/s on a path with a rate: what its headers and its losses leave.

    Netem loses packets before they have taken their share of the rate, the delay line afterwards,
    as most real links do; a train that is sent fast enough shows the difference.
    """
    rate = float(path.rate_bps or 0)
    if transport != "udp":
        return rate * TCP_SHARE
    return rate * UDP_SHARE * (1 if emulator is Emulator.NETEM else 1 - path.loss)


def _judge_loss(path: PathSpec, reading: LinkReading, misses: list[str]) -> list[float] | None:
    if reading.loss is None or not reading.loss_packets:
        return None
    lost = round(reading.loss * reading.loss_packets)
    low, high = wilson(lost, reading.loss_packets)
    if not low <= path.loss <= high:
        misses.append(
            f"loss {reading.loss:.3%} of {reading.loss_packets} packets"
            f" (99 %: {low:.3%} to {high:.3%}), asked {path.loss:.3%}"
        )
    return [low, high]


def wilson(hits: int, count: int, *, z: float = Z_99) -> tuple[float, float]:
    """Wilson's score interval of a share, by default of 99 %; it holds up at no hits, too."""
    share, weight = hits / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return 0.0 if hits == 0 else low, 1.0 if hits == count else high


def applied_to_pair(
    states: Mapping[NodeId, Mapping[str, Any]], *, source: NodeId, target: NodeId
) -> dict[str, Any] | None:
    """What is in force on the way from source to target, from both ends' `links.json`.

    The sender's classes have the rate (and netem's delays), the receiver's delay line the rest.

    Args:
        states: per node what its link agent read back, parsed from `Hello.applied`.
    """
    out = _side(states, me=source, peer=target, side="out")
    into = _side(states, me=target, peer=source, side="into")
    if out is None and into is None:
        return None
    merged: dict[str, Any] = {}
    for key in ("rate_bps", "delay_ms", "jitter_ms", "loss"):
        values = [float(v) for end in (out, into) if end and (v := end.get(key)) is not None]
        merged[key] = (min(values) if key == "rate_bps" else max(values)) if values else None
    return merged


def _side(
    states: Mapping[NodeId, Mapping[str, Any]], *, me: NodeId, peer: NodeId, side: str
) -> Mapping[str, Any] | None:
    found = states.get(me, {}).get("peers", {}).get(peer, {}).get("applied", {})
    value: Mapping[str, Any] | None = found.get(side) if isinstance(found, Mapping) else None
    return value


def links_json(reports: Sequence[PairReport], *, emulator: str) -> dict[str, Any]:
    """The content of `links.json`; what was not measured is null."""
    return {"emulator": emulator, "pairs": [_pair_json(report) for report in reports]}


def _pair_json(report: PairReport) -> dict[str, Any]:
    path, reading = report.pair.out, report.reading
    measured: dict[str, Any] = {"rtt_ms": None, "goodput_bps": None, "loss": None}
    beside: dict[str, Any] = {"loss_packets": None, "transport": None}
    if reading is not None:
        measured["rtt_ms"] = None if reading.rtt_ns is None else reading.rtt_ns / MILLISECOND
        measured["goodput_bps"] = reading.goodput_bps
        measured["loss"] = reading.loss
        beside = {"loss_packets": reading.loss_packets, "transport": reading.transport}
    return {
        "from": report.pair.source,
        "to": report.pair.target,
        "asked": {
            "rate_bps": path.rate_bps,
            "delay_ms": path.delay_ns / MILLISECOND,
            "jitter_ms": path.jitter_ns / MILLISECOND,
            "loss": path.loss,
        },
        "applied": report.applied,
        "measured": measured | beside,
        "tolerance": dict(report.tolerance),
        "ok": report.ok,
        "why": report.why,
    }
