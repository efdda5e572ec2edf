"""What curves come to (pure): targets, when they were reached, ratios of that.

A target that was not reached in the run's time was reached at infinity: "never" is a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from deploy.curves import Points, first_time


def targets(baseline: Sequence[Points], shares: Sequence[float]) -> tuple[float, ...]:
    """Values at these shares of the way that the baseline's curves go, one for each seed; none
    without a curve. The way ends at the mean of the last tenth: single points are noisy."""
    if not baseline:
        return ()
    first = fmean(points[0][1] for points in baseline)
    last = fmean(fmean(v for _, v in points[-max(1, len(points) // 10) :]) for points in baseline)
    return tuple(first + share * (last - first) for share in shares)


def arrival(points: Points, target: float, *, falling: bool = False) -> float:
    """Where a curve reached the target; infinite: never.

    Args:
        falling: the target is reached from above, as a loss is.
    """
    found = first_time(points, target, falling=falling)
    return math.inf if found is None else found


def speedup(base: float, own: float) -> float:
    """One arrival divided by another: above 1 where the second is sooner.

    Infinite where only the second arrived, 0 where only the first did, not a number where neither
    did.
    """
    if math.isinf(base) and math.isinf(own):
        return math.nan
    if own == 0:
        return 1.0 if base == 0 else math.inf
    return base / own


def known(values: Iterable[float]) -> list[float]:
    """Those that are numbers: of runs that are missing nothing is known."""
    return [value for value in values if not math.isnan(value)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range of those that are numbers, as in a table."""
    found = known(values)
    if not found:
        return "-"
    low, middle, high = (shown(of(found), form) for of in (min, median, max))
    return f"{middle} ({low} to {high})"


def shown(value: float, form: str = ".2f") -> str:
    """A number in a table."""
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else f"{value:{form}}"
