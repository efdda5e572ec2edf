"""Weighted max-min fair rates of many flows at once (pure): `node.links.sharing` in arrays.

Apart from it because link agents hold no NumPy in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fill_many(
    routes: Sequence[Sequence[int]],
    weights: Sequence[float],
    demands: Sequence[float],
    capacities: Sequence[float],
) -> list[float]:
    """`fill` of many flows, in arrays: each of them crosses a link.

    All that is decided is fixed at once: flows that want less than any of their links would give
    them, and links that give all flows on them the least of what these could get. What is left
    rises on, as in `fill`, in as many turns as bottlenecks depend on each other.
    """
    count = np.fromiter(map(len, routes), np.int64, len(routes))
    link = np.fromiter((link for route in routes for link in route), np.int64, int(count.sum()))
    flow = np.repeat(np.arange(len(routes)), count)
    by_flow = np.concatenate(([0], np.cumsum(count)[:-1]))
    order = np.argsort(link, kind="stable")
    used, by_link = np.unique(link[order], return_index=True)
    weight, free = np.asarray(weights, float), np.asarray(capacities, float).copy()
    wanted = np.asarray(demands, float) / weight
    rising = np.ones(len(routes), bool)
    rates = np.zeros(len(routes))
    while rising.any():
        on = np.bincount(link, np.where(rising, weight, 0.0)[flow], minlength=free.size)
        level = np.divide(np.maximum(free, 0.0), on, out=np.full(free.size, np.inf), where=on > 0)
        given = np.minimum.reduceat(level[link], by_flow)
        reached = np.where(rising, np.minimum(given, wanted), np.inf)
        least = np.full(free.size, np.inf)
        least[used] = np.minimum.reduceat(reached[flow][order], by_link)
        full = (least == level) & (on > 0)
        stops = rising & ((wanted <= given) | np.logical_or.reduceat(full[link], by_flow))
        rates[stops] = (weight * reached)[stops]
        rising &= ~stops
        free -= np.bincount(link, np.where(stops, rates, 0.0)[flow], minlength=free.size)
    return [float(rate) for rate in rates]
