"""What a simulation of a study left, and the figures that are read from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from deploy.curves import Points, evaluations, mean_over_time
from deploy.history import Event, as_float, as_int, of_kind
from node.metrics import read_events


class Axis(StrEnum):
    """Along what the nodes learn; the value is the unit."""

    TIME = "s"
    ROUNDS = "rounds"
    MEGABYTES = "MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What tells how much the nodes have learnt.

    Args:
        field: of the evaluation records.
        rises: whether more is better.
    """

    field: str
    label: str
    rises: bool


BY_ACCURACY: Final = Measure(field="accuracy", label="mean test accuracy of the nodes", rises=True)
BY_RMSE: Final = Measure(field="loss", label="mean test RMSE of the nodes", rises=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One simulation that has ended; read when asked for."""

    folder: Path
    measure: Measure

    @cached_property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @cached_property
    def nodes(self) -> dict[str, list[Event]]:
        paths = sorted((self.folder / "nodes").glob("*.jsonl"))
        return {path.stem: list(read_events(path)) for path in paths}

    @property
    def sent_mb(self) -> float:
        """Model bytes that a node handed to the network, on average, in MB."""
        return float(self.summary["bytes"]["model"]) / len(self.summary["nodes"]) / 1e6

    def curve(self, axis: Axis) -> Points:
        """The mean over the nodes. Along `MEGABYTES` as if each round had cost the same, which is
        so for the synchronous algorithms that are compared along it."""
        if axis is Axis.TIME:
            return mean_over_time(self.nodes, of=self.measure.field)
        rounds = by_round(self.nodes, of=self.measure.field)
        if axis is Axis.ROUNDS or not rounds:
            return rounds
        each = self.sent_mb / rounds[-1][0]
        return [(round_ * each, value) for round_, value in rounds]


def by_round(nodes: Mapping[str, Sequence[Event]], *, of: str = "accuracy") -> Points:
    """The mean over the nodes after each round that all have evaluated."""
    known: dict[int, list[float]] = {}
    for events in nodes.values():
        for event in of_kind(events, "evaluation"):
            value = as_float(event.get(of))
            if value is not None:
                known.setdefault(as_int(event.get("round"), 0), []).append(value)
    return [(r, fmean(each)) for r, each in sorted(known.items()) if len(each) == len(nodes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure that each run has.

    Args:
        form: how it is printed.
    """

    label: str
    of: Callable[[Run], float]
    form: str = ".3f"


def _final(run: Run) -> float:
    """The mean over the nodes' final models."""
    return run.curve(Axis.TIME)[-1][1]


def _worst(run: Run) -> float:
    """Of the node whose final model is worst."""
    measure = run.measure
    ends = [evaluations(events, of=measure.field)[-1][1] for events in run.nodes.values()]
    return min(ends) if measure.rises else max(ends)


ACCURACY: Final = Column(label="final accuracy", of=_final)
RMSE: Final = Column(label="final RMSE", of=_final)
WORST: Final = Column(label="worst node", of=_worst)
SENT: Final = Column(label="MB a node", of=lambda run: run.sent_mb, form=".2f")
