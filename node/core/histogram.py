"""How a quantity is spread (pure): counts in buckets whose width grows with the value.

A bucket is as wide as the values in it are large, over 16: a quantile is off by 1/32 at most,
over any range, in a few dozen buckets. Integers alone: the same on every machine. Histograms of
several nodes add up, which their quantiles do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.core.effects import Value
from node.units import MICROSECOND, MILLISECOND, Nanos

_BITS: Final = 4
"""Of a value, after its first: 16 buckets from a power of two to the next."""
QUANTILES: Final = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
"""Fields of a record."""


@dataclass(slots=True)
class Histogram:
    """Durations, in buckets of whole us.

    Args:
        buckets: counts by the bucket's upper bound, us, exclusive.
    """

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0
    total: Nanos = 0
    longest: Nanos = 0

    def add(self, duration: Nanos) -> None:
        """Count one; a negative one (a clock was set back) counts as 0."""
        self.add_all((duration,))

    def add_all(self, durations: Sequence[Nanos]) -> None:
        """Count some."""
        buckets = self.buckets
        for duration in durations:
            upper = _upper(duration // MICROSECOND) if duration > 0 else 1
            buckets[upper] = buckets.get(upper, 0) + 1
        self.count += len(durations)
        self.total += sum(each for each in durations if each > 0)
        self.longest = max(self.longest, *durations)

    def merge(self, other: Histogram) -> None:
        """Count all that the other has counted, too."""
        for upper, count in other.buckets.items():
            self.buckets[upper] = self.buckets.get(upper, 0) + count
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def quantile(self, share: float) -> Nanos | None:
        """What this share (0 to 1) of the values is not above, to 1/32; None of nothing."""
        found, left = None, share * self.count
        for upper in sorted(self.buckets):
            found, left = upper, left - self.buckets[upper]
            if left <= 0:
                break
        if found is None:
            return None
        return min(self.longest, (2 * found - _width(found - 1)) * MICROSECOND // 2)

    def steps(self) -> list[tuple[float, float]]:
        """The cumulative distribution: upper bounds of the buckets, ms, and the share below."""
        points, below = [], 0
        for upper in sorted(self.buckets):
            below += self.buckets[upper]
            points.append((upper / 1000, below / self.count))
        return points

    def record(self) -> dict[str, Value]:
        """As fields of a record; `buckets` has pairs of a bucket's bound and its count."""
        return {
            "count": self.count,
            "mean_ms": _milliseconds(self.total / self.count) if self.count else None,
            **{name: _milliseconds(self.quantile(share)) for name, share in QUANTILES.items()},
            "max_ms": _milliseconds(self.longest) if self.count else None,
            "buckets": [[upper, self.buckets[upper]] for upper in sorted(self.buckets)],
        }

    @staticmethod
    def of(record: Mapping[str, Any]) -> Histogram:
        """Read `record` back; ValueError where it is none."""
        try:
            buckets = {int(upper): int(count) for upper, count in record["buckets"]}
            if any(upper < 1 or _upper(upper - 1) != upper for upper in buckets):
                raise ValueError(f"other buckets than ours: {sorted(buckets)[:3]}...")
            count = sum(buckets.values())
            mean, longest = (float(record[key] or 0.0) for key in ("mean_ms", "max_ms"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a histogram: {error!r}") from error
        total = round(mean * count * MILLISECOND)
        return Histogram(buckets, count, total, round(longest * MILLISECOND))


def _width(micros: int) -> int:
    """Of the bucket that a value lies in, us."""
    return 1 << max(0, micros.bit_length() - 1 - _BITS)


def _upper(micros: int) -> int:
    shift = micros.bit_length() - 1 - _BITS
    return (micros >> shift) + 1 << shift if shift > 0 else micros + 1


def _milliseconds(duration: float | None) -> float | None:
    return None if duration is None else round(duration / MILLISECOND, 3)
