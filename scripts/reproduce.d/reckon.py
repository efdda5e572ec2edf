"""What curves come to (pure): targets, when they were reached, ratios of that.

A target that was not reached in the run's time was reached at infinity: "never" is a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

from deploy.curves import Points, first_time

SHARES: Final = (0.8, 0.9, 0.95)
"""The targets, as shares of the way that a baseline goes."""


def targets(baseline: Sequence[Points], shares: Sequence[float] = SHARES) -> tuple[float, ...]:
    """Values at these shares of the way from the first to the last of the baseline's curves, one
    for each seed; none without a curve."""
    if not baseline:
        return ()
    first, last = (fmean(points[i][1] for points in baseline) for i in (0, -1))
    return tuple(first + share * (last - first) for share in shares)


def arrival(points: Points, target: float, *, falling: bool = False) -> float:
    """Where a curve reached the target; infinite: never.

    Args:
        falling: the target is reached from above, as a loss is.
    """
    found = first_time(points, target, falling=falling)
    return math.inf if found is None else found


def speedup(baseline: Sequence[float], own: Sequence[float]) -> float:
    """The baseline's median arrival divided by this one's: above 1 where this one is sooner.

    Infinite where only this one arrived, 0 where only the baseline did, not a number where neither
    did or one has no runs.
    """
    if not baseline or not own:
        return math.nan
    one, other = median(baseline), median(own)
    if math.isinf(one) and math.isinf(other):
        return math.nan
    return math.inf if other == 0 else one / other


def shown(value: float, form: str = ".2f", unit: str = "") -> str:
    """A number in a table."""
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else f"{value:{form}}{unit}"


def arrival_shown(value: float, unit: str, form: str = ".1f") -> str:
    """Such as `12.5 s`, or `never`."""
    return "never" if math.isinf(value) else f"{value:{form}} {unit}"
