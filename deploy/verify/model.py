"""What flows that all send as much as they can should get of a network (pure).

Two parties share out a network, each by its own rule, and a flow gets what both allow:

* the kernels at both ends of a path share the *access links*: HTB lends what is free in turns of
  one packet, so all classes of a link have the same weight (max-min between destinations where a
  node sends, between sources where it receives);
* the link agents share the *interior links*, max-min with the weight 1/RTT (Kollaps' contract).

Both are `node.links.sharing.max_min`. What one party allows is the other's demand: a flow that its
interior share holds down leaves the rest of the access link to others, and a flow that its access
link holds down leaves the rest of the interior link. So the two are computed in turn until neither
changes what the other has left (`_joint`). A flow is then held down by one link at which nobody has
more for the same weight, or by its own path's rate.

The flow on a path is not only data: TCP acknowledges every second packet, and on the way back these
66 bytes take their share of the same class. Where both directions are full that is 2.2 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from node.config import PathSpec
from node.core.ids import NodeId
from node.links.report import TCP_SHARE
from node.links.sharing import Flow, max_min, weight_of
from node.links.sizes import FRAME
from node.units import MILLISECOND, SECOND, Nanos, format_size

Pair = tuple[NodeId, NodeId]
"""From, to."""

ACK_BYTES: Final = 66
"""An acknowledgement on the wire: Ethernet, IP and TCP headers with timestamps."""
ACK_SHARE: Final = ACK_BYTES / (2 * FRAME)
"""Of the bytes of data: one for every second full packet."""
_ACK_ROUNDS: Final = 4
"""After which acknowledgements of acknowledgements' shares are below 0.0001 %."""
_TURNS: Final = 100
_SAME: Final = 1e-9
"""Relative difference of two rates that are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The way from one node to another.

    Args:
        links: names of the links on it, in order.
        spec: what they come to.
    """

    links: tuple[str, ...]
    spec: PathSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A network while nothing changes, as far as some pairs see it.

    Args:
        ways: of every pair that has one, and of its way back.
        capacities: bit/s of each link on them; None is unlimited.
    """

    ways: Mapping[Pair, Way]
    capacities: Mapping[str, int | None]

    def round_trip_ns(self, pair: Pair) -> Nanos:
        """Of a pair with a way there and back."""
        return self.ways[pair].spec.delay_ns + self.ways[pair[::-1]].spec.delay_ns

    def joined(self, pair: Pair) -> bool:
        """Whether a transfer is possible: data one way, acknowledgements the other."""
        return pair in self.ways and pair[::-1] in self.ways


def goodputs(
    picture: Picture, pairs: Iterable[Pair], *, demands: Mapping[Pair, float] | None = None
) -> dict[Pair, float] | None:
    """Payload bit/s of each pair's transfer when all of them send as much as they can.

    Args:
        pairs: who sends to whom; a pair without a way there and back gets nothing.
        demands: payload bit/s of transfers that do not take what they could.
    Returns:
        None where the two parties' rules have no common point that the computation finds; infinity
        for what nothing limits.
    """
    told = demands or {}
    wanted = list(dict.fromkeys(pairs))
    active = [pair for pair in wanted if picture.joined(pair)]
    acks: dict[Pair, float] = {}
    data: dict[Pair, float] = {}
    for _ in range(_ACK_ROUNDS):
        limits = {pair: _limit(picture, pair, told, acks) for pair in active}
        gross = _joint(picture, limits | _back(acks, active))
        if gross is None:
            return None
        data = {pair: max(0.0, gross[pair] - acks.get(pair, 0.0)) for pair in active}
        acks = {(b, a): ACK_SHARE * rate for (a, b), rate in data.items() if rate < math.inf}
    return {pair: data.get(pair, 0.0) * TCP_SHARE for pair in wanted}


def _back(acks: Mapping[Pair, float], active: list[Pair]) -> dict[Pair, float]:
    """What goes on ways that carry acknowledgements alone."""
    sending = set(active)
    return {pair: rate for pair, rate in acks.items() if pair not in sending}


def _limit(
    picture: Picture, pair: Pair, demands: Mapping[Pair, float], acks: Mapping[Pair, float]
) -> float:
    """Bit/s on the wire that a transfer takes at most, with the acknowledgements that share its
    way."""
    rate = picture.ways[pair].spec.rate_bps
    most = math.inf if rate is None else float(rate)
    if pair in demands:
        most = min(most, demands[pair] / TCP_SHARE + acks.get(pair, 0.0))
    return most


def _joint(picture: Picture, limits: Mapping[Pair, float]) -> dict[Pair, float] | None:
    """Bit/s on the wire of each pair, as access and interior links together allow them."""
    interior = interior_links(picture.ways[pair] for pair in limits)
    ends = {p: (picture.ways[p].links[0], picture.ways[p].links[-1]) for p in limits}
    inside = {p: tuple(k for k in picture.ways[p].links if k in interior) for p in limits}
    weights = {p: weight_of(picture.round_trip_ns(p)) for p in limits}
    one = dict.fromkeys(limits, 1.0)
    allowed = dict(limits)
    for _ in range(_TURNS):
        at_ends = _rates(allowed, ends, one, picture.capacities)
        asked = {p: at_ends[p] if _less(at_ends[p], allowed[p]) else limits[p] for p in limits}
        within = _rates(asked, inside, weights, picture.capacities)
        now = {p: within[p] if _less(within[p], asked[p]) else limits[p] for p in limits}
        if all(_same(now[p], allowed[p]) for p in limits):
            return {p: min(at_ends[p], within[p]) for p in limits}
        allowed = now
    return None


def interior_links(ways: Iterable[Way]) -> frozenset[str]:
    """The links that some way has between its first and its last one."""
    return frozenset(name for way in ways for name in way.links[1:-1])


def _rates(
    demands: Mapping[Pair, float],
    links: Mapping[Pair, tuple[str, ...]],
    weights: Mapping[Pair, float],
    capacities: Mapping[str, int | None],
) -> dict[Pair, float]:
    """One party's part."""
    flows = [
        Flow(
            key=f"{pair[0]}>{pair[1]}",
            links=links[pair],
            weight=weights[pair],
            demand_bps=None if demand == math.inf else demand,
        )
        for pair, demand in demands.items()
    ]
    rates = max_min(flows, {name: capacities[name] for way in links.values() for name in way})
    return {pair: rates[flow.key] for pair, flow in zip(demands, flows, strict=True)}


def _less(a: float, b: float) -> bool:
    return a < b * (1 - _SAME) if b < math.inf else a < math.inf


def _same(a: float, b: float) -> bool:
    return a == b or math.isclose(a, b, rel_tol=_SAME)


def unfit(picture: Picture, pair: Pair) -> str | None:
    """Why TCP cannot tell the rate of a pair's path; None where it can."""
    out, back = picture.ways[pair].spec, picture.ways[pair[::-1]].spec
    for spec, where in ((out, "the path"), (back, "the way back")):
        faults = {
            "loses packets": spec.loss_rate > 0,
            "corrupts packets": spec.corrupt > 0,
            "reorders packets": spec.reorder > 0 or (spec.jitter_ns > 0 and not spec.ordered),
            "duplicates packets": spec.duplicate > 0,
            "lets packets go in batches": spec.slot is not None,
        }
        for fault, present in faults.items():
            if present:
                return f"{where} {fault}: TCP does not tell its rate"
    if out.rate_bps is not None and out.queue_bytes is not None:
        under_way = out.rate_bps * picture.round_trip_ns(pair) // (8 * SECOND)
        if out.queue_bytes < under_way:
            return (
                f"a queue of {format_size(out.queue_bytes)} is too short for TCP to fill"
                f" {out.rate_bps / 1e6:g} Mbit/s with a round trip of"
                f" {picture.round_trip_ns(pair) / MILLISECOND:g} ms"
            )
    return None
