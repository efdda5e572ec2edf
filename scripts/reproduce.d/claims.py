"""A report that holds claims against runs: a figure of each series, then claim by claim what came.

Claims are worked out seed by seed, since the runs of one seed share data and initial model; what is
told is the median over the seeds, and the range.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final, TypeAlias

import figures
import reckon
from study import Case

from deploy.curves import Points, evaluations, mean_over_time
from deploy.history import Event, as_float, as_int, of_kind
from node.metrics import read_events

Key: TypeAlias = tuple[str, float]
"""Series and factor."""


class Axis(StrEnum):
    """Along what accuracy grows; the value is the unit."""

    TIME = "s"
    ROUNDS = "rounds"
    MEGABYTES = "MB"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One simulation that has ended; read when asked for."""

    folder: Path

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
        """The nodes' mean test accuracy. Along `MEGABYTES` as if each round had cost the same,
        which is so for the synchronous algorithms that are compared along it."""
        if axis is Axis.TIME:
            return mean_over_time(self.nodes)
        rounds = by_round(self.nodes)
        if axis is Axis.ROUNDS or not rounds:
            return rounds
        each = self.sent_mb / rounds[-1][0]
        return [(round_ * each, value) for round_, value in rounds]


def by_round(nodes: Mapping[str, Sequence[Event]]) -> Points:
    """The mean accuracy over the nodes after each round that all have evaluated."""
    known: dict[int, list[float]] = {}
    for events in nodes.values():
        for event in of_kind(events, "evaluation"):
            accuracy = as_float(event.get("accuracy"))
            if accuracy is not None:
                known.setdefault(as_int(event.get("round"), 0), []).append(accuracy)
    return [(r, fmean(each)) for r, each in sorted(known.items()) if len(each) == len(nodes)]


def accuracy(run: Run) -> float:
    """The mean over the nodes' final models."""
    return run.curve(Axis.TIME)[-1][1]


def worst(run: Run) -> float:
    """The final accuracy of the worst node."""
    return min(evaluations(events)[-1][1] for events in run.nodes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure that each run has.

    Args:
        form: how it is printed.
    """

    label: str
    of: Callable[[Run], float]
    form: str = ".3f"


ACCURACY: Final = Column(label="final accuracy", of=accuracy)
WORST: Final = Column(label="worst node", of=worst)
SENT: Final = Column(label="MB a node", of=lambda run: run.sent_mb, form=".2f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one seed's runs.

    Args:
        values: of each series and factor by the column's label.
        arrivals: where on the axis each reached the targets; infinite: never.
    """

    values: Mapping[Key, Mapping[str, float]]
    arrivals: Mapping[Key, Sequence[float]] = field(default_factory=dict)

    def at(self, key: Key, column: Column) -> float:
        """Not a number where that run is missing."""
        return self.values.get(key, {}).get(column.label, math.nan)

    def speedup(self, base: Key, own: Key, place: int) -> float:
        """How much sooner one reached a target than another; see `reckon.speedup`."""
        one, other = self.arrivals.get(base), self.arrivals.get(own)
        if not one or not other:
            return math.nan
        return reckon.speedup([one[place]], [other[place]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is claimed of the figures of one seed.

    Args:
        says: the claim, and what of it is asked here.
        of: the number that decides.
        least: it holds from this number on.
        form: how the number is printed.
    """

    says: str
    of: Callable[[Figures], float]
    least: float
    form: str = ".2f"

    def held(self, seeds: Sequence[Figures]) -> str:
        """Its row in Markdown."""
        found = [value for each in seeds if not math.isnan(value := self.of(each))]
        least = reckon.shown(self.least, self.form)
        if not found:
            return f"| {self.says} | {least} | - | not known |"
        middle = reckon.shown(median(found), self.form)
        low, high = (reckon.shown(of(found), self.form) for of in (min, max))
        verdict = "yes" if median(found) >= self.least else "no"
        return f"| {self.says} | {least} | {middle} ({low} to {high}) | {verdict} |"


def sooner(says: str, *, base: Key, own: Key, target: int, least: float) -> Claim:
    """How many times sooner one reaches the target (its place in the list) than another."""
    return Claim(says=says, of=lambda seed: seed.speedup(base, own, target), least=least)


def ahead(says: str, *, base: tuple[Key, Column], own: tuple[Key, Column], least: float) -> Claim:
    """How many points one accuracy is above another."""
    return Claim(says=says, of=lambda seed: 100 * (seed.at(*own) - seed.at(*base)), least=least)


def quotient(says: str, *, of: tuple[Key, Column], by: tuple[Key, Column], least: float) -> Claim:
    """One figure divided by another."""
    return Claim(says=says, of=lambda seed: seed.at(*of) / (seed.at(*by) or math.nan), least=least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a study comes to.

    Args:
        baseline: the series and factor that set the targets.
        factor: what the factor is, in the table's head; empty: there is one only.
        axis: along what targets are reached.
        shares: of the baseline's way, which are the targets.
    """

    baseline: Key
    claims: Sequence[Claim]
    columns: Sequence[Column] = (ACCURACY, WORST, SENT)
    factor: str = ""
    axis: Axis = Axis.ROUNDS
    shares: Sequence[float] = (0.8, 0.9)

    def write(self, done: figures.Done, folder: Path) -> str:
        """Write `over-<axis>.png` into the folder; the tables in Markdown."""
        runs = {case: Run(folder=run) for case, run in done}
        curves = {case: points for case, run in runs.items() if (points := run.curve(self.axis))}
        base = [p for case, p in curves.items() if (case.series, case.factor) == self.baseline]
        targets = reckon.targets(base, self.shares)
        seeds = self._seeds({case: runs[case] for case in curves}, curves, targets)
        if not seeds:
            return "No run has an evaluation yet."
        folder.mkdir(parents=True, exist_ok=True)
        self._draw(curves, folder / f"over-{self.axis.name.lower()}.png")
        print(f"figures are in {folder}", file=sys.stderr)
        claims = [claim.held(list(seeds.values())) for claim in self.claims]
        head = ["| claim | at least | median (range) over seeds | holds |", "|---|---|---|---|"]
        return "\n".join([*self._series(list(seeds.values()), targets), "", *head, *claims])

    def _seeds(
        self, runs: Mapping[Case, Run], curves: Mapping[Case, Points], targets: Sequence[float]
    ) -> dict[int, Figures]:
        seeds: dict[int, Figures] = {}
        for seed in dict.fromkeys(case.seed for case in runs):
            mine = {(c.series, c.factor): c for c in runs if c.seed == seed}
            seeds[seed] = Figures(
                values={
                    key: {column.label: column.of(runs[case]) for column in self.columns}
                    for key, case in mine.items()
                },
                arrivals={
                    key: [reckon.arrival(curves[case], target) for target in targets]
                    for key, case in mine.items()
                },
            )
        return seeds

    def _series(self, seeds: Sequence[Figures], targets: Sequence[float]) -> list[str]:
        """A row for each series at each factor."""
        heads = ["series", *([self.factor] if self.factor else []), "seeds"]
        heads += [column.label for column in self.columns]
        heads += [f"{self.axis} to {target:.3f}" for target in targets]
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        form = ".0f" if self.axis is Axis.ROUNDS else ".2f"
        for key in dict.fromkeys(key for each in seeds for key in each.values):
            there = [each for each in seeds if key in each.values]
            cells = [key[0], *([f"{key[1]:g}"] if self.factor else []), str(len(there))]
            for column in self.columns:
                values = [each.at(key, column) for each in there]
                spread = f" ± {stdev(values):{column.form}}" if len(values) > 1 else ""
                cells.append(f"{fmean(values):{column.form}}{spread}")
            for place in range(len(targets)):
                middle = median(each.arrivals[key][place] for each in there)
                cells.append("never" if math.isinf(middle) else f"{middle:{form}}")
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def _draw(self, curves: Mapping[Case, Points], path: Path) -> None:
        def draw(axes: Sequence[Any]) -> None:
            for key in dict.fromkeys((case.series, case.factor) for case in curves):
                every = [p for case, p in curves.items() if (case.series, case.factor) == key]
                name = f"{key[0]}, {self.factor} {key[1]:g}" if self.factor else key[0]
                figures.band(axes[0], every, name)
            unit = {Axis.TIME: "virtual time, s", Axis.MEGABYTES: "MB that a node has sent"}
            axes[0].set(xlabel=unit.get(self.axis, "rounds"), ylabel=figures.ACCURACY.label)
            axes[0].legend(fontsize=8)

        figures.picture(path, 1, draw)
