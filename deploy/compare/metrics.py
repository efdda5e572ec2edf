"""What a run came to, as numbers that can stand side by side (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from deploy.history import as_float
from deploy.live import percent, size
from deploy.summary import FATES


class Unit(Enum):
    """How a number is said."""

    SHARE = "share"
    NUMBER = "number"
    SECONDS = "s"
    MILLISECONDS = "ms"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One line of the table.

    Args:
        name: for people and for scripts.
        where: its place in `summary.json`.
        of_task: says something only where the data set is the same.
    """

    name: str
    where: tuple[str, ...]
    unit: Unit
    of_task: bool = False

    def of(self, summary: Mapping[str, Any]) -> float | None:
        """Its value in a summary; None where it is not known."""
        found: Any = summary
        for key in self.where:
            if not isinstance(found, Mapping):
                return None
            found = found.get(key)
        return as_float(found)


def _learnt() -> list[Metric]:
    """Of local models mean, worst and best; of the merged one."""
    found = []
    for what, unit, (worst, best) in (
        ("accuracy", Unit.SHARE, ("min", "max")),
        ("loss", Unit.NUMBER, ("max", "min")),
    ):
        for name, key in (("mean", "mean"), ("worst", worst), ("best", best), ("merged", "merged")):
            found.append(Metric(name=f"{what}, {name}", where=(what, key), unit=unit, of_task=True))
    return found


def _sent() -> list[Metric]:
    names = {
        "model": "model bytes sent",
        "delivered": "model bytes delivered",
        "cancelled": "model bytes cancelled",
        "lost": "model bytes lost",
        "sync": "model sync bytes",
        "control": "control bytes",
        "wire": "bytes on the wire",
    }
    return [Metric(name=n, where=("bytes", key), unit=Unit.BYTES) for key, n in names.items()]


METRICS: Final = (
    *_learnt(),
    Metric(
        name="consensus distance", where=("consensus", "distance"), unit=Unit.NUMBER, of_task=True
    ),
    Metric(name="duration", where=("duration_s",), unit=Unit.SECONDS),
    Metric(name="rounds of the slowest", where=("rounds",), unit=Unit.NUMBER),
    *_sent(),
    Metric(name="age in rounds, mean", where=("staleness", "mean"), unit=Unit.NUMBER),
    Metric(name="age in rounds, most", where=("staleness", "max"), unit=Unit.NUMBER),
    Metric(name="coverage", where=("coverage", "mean"), unit=Unit.SHARE),
    Metric(name="idle, mean", where=("idle_s", "mean"), unit=Unit.SECONDS),
    Metric(name="idle, most", where=("idle_s", "max"), unit=Unit.SECONDS),
)
"""In the order of the table. Those of kinds of messages depend on the runs: see `kind_metrics`."""
LATENCIES: Final = {
    "p50": ("p50_ms",),
    "p90": ("p90_ms",),
    "p99": ("p99_ms",),
    "mean": ("mean_ms",),
    "queued, p50": ("queued", "p50_ms"),
    "queued, p99": ("queued", "p99_ms"),
}


def kind_metrics(kind: str) -> list[Metric]:
    """Bytes of a kind of message, by what became of them."""
    return [
        Metric(name=f"{kind}: {fate}", where=("bytes", "kinds", kind, fate), unit=Unit.BYTES)
        for fate in FATES
    ]


def latency_metrics(kind: str) -> list[Metric]:
    """From send queue to acknowledgement, and the part in the queue."""
    return [
        Metric(name=f"{kind}: {name}", where=("latency", kind, *where), unit=Unit.MILLISECONDS)
        for name, where in LATENCIES.items()
    ]


def said(value: float | None, unit: Unit) -> str:
    """A number for people."""
    if value is None:
        return "-"
    match unit:
        case Unit.SHARE:
            return percent(value)
        case Unit.SECONDS:
            return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
        case Unit.MILLISECONDS:
            return f"{value:.1f} ms"
        case Unit.BYTES:
            return size(round(value))
        case Unit.NUMBER:
            return f"{value:.4g}"
