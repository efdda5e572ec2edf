"""Weighted max-min fair rates of flows that meet on links (pure).

What rates are fair on an interior link that no kernel sees whole: the link agents and the model
that `deploy verify` compares with use `max_min`. The simulator comes to the same rates event by
event (`node.sim.pipe`); its tests hold it against the core, `fill`. The weight of a path is 1/RTT,
as in Kollaps (Gouveia et al., EuroSys 2020, section 4) and as TCP Reno has it.

Progressive filling (Bertsekas and Gallager, Data Networks, section 6.5.2): all rates rise together,
each in proportion to its weight, until a link is full or a demand is met; those flows stop, the
rest go on.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.units import MILLISECOND, SECOND, Nanos

RTT_NS_MIN: Final = MILLISECOND
"""Weights are told apart down to this round trip: what no link delays is no 1000 times heavier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """All traffic on one path.

    Args:
        key: names it; one flow a key.
        links: names of the links that it crosses.
        weight: how much of a common link it gets compared with others; above 0.
        demand_bps: how much it wants at most; None: as much as it can get.
    """

    key: str
    links: tuple[str, ...]
    weight: float
    demand_bps: float | None = None


def weight_of(rtt_ns: Nanos) -> float:
    """The weight of a path with this round trip: 1/s."""
    return SECOND / max(RTT_NS_MIN, rtt_ns)


def max_min(flows: Sequence[Flow], capacities: Mapping[str, float | None]) -> dict[str, float]:
    """The weighted max-min fair rate of each flow.

    No flow could have more without one of the same or a lower rate per weight having less. The
    order of the flows does not matter.

    Args:
        capacities: bit/s of every link that a flow crosses; None is unlimited.
    Returns:
        bit/s by key; infinity for what neither a link nor a demand limits.
    Raises:
        ValueError: a link without capacity, two flows of one key, a weight not above 0, or a
            negative or undefined number.
    """
    ordered = sorted(flows, key=lambda f: f.key)
    _check(ordered, capacities)
    places = {name: place for place, name in enumerate(capacities)}
    limits = [math.inf if limit is None else limit for limit in capacities.values()]
    routes = [[places[name] for name in dict.fromkeys(f.links)] for f in ordered]
    demands = [math.inf if f.demand_bps is None else f.demand_bps for f in ordered]
    rates = fill(routes, [f.weight for f in ordered], demands, limits)
    return {flow.key: rate for flow, rate in zip(ordered, rates, strict=True)}


def fill(
    routes: Sequence[Sequence[int]],
    weights: Sequence[float],
    demands: Sequence[float],
    capacities: Sequence[float],
) -> list[float]:
    """The same on plain numbers, unchecked: one entry a flow, links by their place.

    Args:
        routes: the links of each flow, none twice.
        demands, capacities: infinity is unlimited.
    """
    count = len(capacities)
    free, weight, rising = list(capacities), [0.0] * count, [0] * count
    crossing: list[list[int]] = [[] for _ in range(count)]
    for flow, route in enumerate(routes):
        for link in route:
            crossing[link].append(flow)
            weight[link] += weights[flow]
            rising[link] += 1
    rates = [-1.0] * len(routes)
    met = sorted(
        (
            (demand / weights[flow], flow)
            for flow, demand in enumerate(demands)
            if demand < math.inf
        ),
        reverse=True,
    )
    # Stopping a flow only raises the levels of its links, so an old entry of the heap is never too
    # high: it is looked at again when its turn comes.
    full = [
        (free[link] / weight[link], link)
        for link in range(count)
        if rising[link] and free[link] < math.inf
    ]
    heapq.heapify(full)
    while full or met:
        if met and (not full or met[-1][0] <= full[0][0]):
            stopping, level = [met.pop()[1]], math.inf
        else:
            level, link = heapq.heappop(full)
            if not rising[link]:
                continue
            if (now := max(0.0, free[link]) / weight[link]) > level:
                heapq.heappush(full, (now, link))
                continue
            stopping = crossing[link]
        for flow in stopping:
            if rates[flow] >= 0.0:
                continue
            rate = rates[flow] = min(demands[flow], weights[flow] * level)
            for each in routes[flow]:
                free[each] -= rate
                weight[each] -= weights[flow]
                rising[each] -= 1
    return [math.inf if rate < 0.0 else rate for rate in rates]


def _check(flows: Sequence[Flow], capacities: Mapping[str, float | None]) -> None:
    """Raise ValueError where `max_min` says so. Flows in the order of their keys."""
    for before, flow in zip((None, *flows), flows, strict=False):
        if before is not None and before.key == flow.key:
            raise ValueError(f"two flows are called {flow.key!r}")
        if not 0 < flow.weight < math.inf:
            raise ValueError(f"flow {flow.key!r}: the weight must be above 0, not {flow.weight}")
        if flow.demand_bps is not None and not flow.demand_bps >= 0:
            raise ValueError(f"flow {flow.key!r}: a demand cannot be {flow.demand_bps}")
        for name in flow.links:
            if name not in capacities:
                raise ValueError(f"flow {flow.key!r} crosses {name!r}, which is no link")
            capacity = capacities[name]
            if capacity is not None and not capacity >= 0:
                raise ValueError(f"link {name!r}: a capacity cannot be {capacity}")
