"""Weighted max-min fair rates of flows that meet on links (pure).

What rates are fair on an interior link that no kernel sees whole: the link agents, the simulator
and the model that `deploy verify` compares with all use this one function. The weight of a path is
1/RTT, as in Kollaps (Gouveia et al., EuroSys 2020, section 4) and as TCP Reno has it.

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


class _Link:
    """A link while it fills.

    Attributes:
        free_bps: what the flows that have stopped leave.
        weight, rising: of the flows that have not: their sum and their number.
    """

    __slots__ = ("flows", "free_bps", "rising", "weight")

    def __init__(self, capacity_bps: float) -> None:
        self.free_bps = capacity_bps
        self.flows: list[Flow] = []
        self.weight = 0.0
        self.rising = 0

    def level(self) -> float:
        """The rate per weight at which the link is full if nothing stops before."""
        return max(0.0, self.free_bps) / self.weight if self.rising else math.inf


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
    links = _links(flows, capacities)
    rates: dict[str, float] = {}
    # Stopping a flow only raises the levels of its links, so an old entry of the heap is never too
    # high: it is looked at again when its turn comes.
    full = [(link.level(), name) for name, link in links.items()]
    heapq.heapify(full)
    met = [(f.demand_bps / f.weight, f.key, f) for f in flows if f.demand_bps is not None]
    met.sort(key=lambda entry: entry[:2])
    met.reverse()
    while full or met:
        if met and (not full or met[-1][0] <= full[0][0]):
            flow = met.pop()[2]
            if flow.key not in rates:
                _stop(flow, flow.demand_bps or 0.0, rates, links)
            continue
        level, name = heapq.heappop(full)
        link = links[name]
        if not link.rising:
            continue
        if (now := link.level()) > level:
            heapq.heappush(full, (now, name))
            continue
        for flow in link.flows:
            if flow.key not in rates:
                _stop(flow, flow.weight * level, rates, links)
    for flow in flows:
        rates.setdefault(flow.key, math.inf)
    return rates


def _stop(flow: Flow, rate: float, rates: dict[str, float], links: Mapping[str, _Link]) -> None:
    """This flow rises no more."""
    rates[flow.key] = rate
    for name in set(flow.links):
        if (link := links.get(name)) is not None:
            link.free_bps -= rate
            link.weight -= flow.weight
            link.rising -= 1


def _links(flows: Sequence[Flow], capacities: Mapping[str, float | None]) -> dict[str, _Link]:
    """The limited links that flows cross, with their flows in the order of their keys."""
    links: dict[str, _Link] = {}
    seen: set[str] = set()
    for flow in sorted(flows, key=lambda f: f.key):
        if flow.key in seen:
            raise ValueError(f"two flows are called {flow.key!r}")
        seen.add(flow.key)
        if not 0 < flow.weight < math.inf:
            raise ValueError(f"flow {flow.key!r}: the weight must be above 0, not {flow.weight}")
        if flow.demand_bps is not None and not flow.demand_bps >= 0:
            raise ValueError(f"flow {flow.key!r}: a demand cannot be {flow.demand_bps}")
        for name in set(flow.links):
            link = links.get(name)
            if link is None:
                if name not in capacities:
                    raise ValueError(f"flow {flow.key!r} crosses {name!r}, which is no link")
                capacity = capacities[name]
                if capacity is None:
                    continue
                if not capacity >= 0:
                    raise ValueError(f"link {name!r}: a capacity cannot be {capacity}")
                link = links[name] = _Link(capacity)
            link.flows.append(flow)
            link.weight += flow.weight
            link.rising += 1
    return links
