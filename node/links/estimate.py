"""What samples say about a path, and how sure that is (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

from node.config import PathSpec
from node.links.impair import loss_chain
from node.units import Nanos

STALL: Final = 6.0
"""Deviations from the median beyond which a sample is a stall of this machine's, not jitter."""
_NORMAL_MAD: Final = 1.4826
"""A normal distribution's standard deviation in median absolute deviations."""


def median(trips: Sequence[Nanos], *, early: float = 0.0) -> Nanos:
    """The median of those that took the whole way.

    Args:
        early: share of packets that are sent ahead, without the delay: the lowest of the samples.
    """
    whole = sorted(trips)[round(early * len(trips)) :] or [max(trips)]
    return round(statistics.median(whole))


def deviation(trips: Sequence[Nanos]) -> Nanos:
    """The standard deviation, without stalls."""
    middle = statistics.median(trips)
    scale = _NORMAL_MAD * statistics.median(abs(trip - middle) for trip in trips)
    near = [trip for trip in trips if abs(trip - middle) <= STALL * scale]
    return round(statistics.stdev(near)) if len(near) > 1 else 0


def loss_weight(path: PathSpec) -> float:
    """How many counted packets tell as much about the loss as one would if losses were independent.

    The variance of a mean over a Gilbert-Elliott chain, against that of independent draws: the
    covariance of two packets fades with (1 - enter - leave) for each step between them.
    """
    chain = loss_chain(path)
    if chain is None or not 0 < chain.loss < 1:
        return 1.0
    enter, leave = chain.enter, chain.leave
    fades = 1 - enter - leave
    bad = enter / (enter + leave)
    covariance = bad * (1 - bad) * (chain.bad - chain.good) ** 2
    series = covariance * fades / (1 - fades)
    return max(1.0, 1 + 2 * series / (chain.loss * (1 - chain.loss)))


def deviation_error(count: int) -> float:
    """Standard error of a normal sample's deviation, as a share of it."""
    return 1 / math.sqrt(2 * max(1, count - 1))
