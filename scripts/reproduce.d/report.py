"""The report of a study: a row of figures for each series, claim by claim what came, pictures."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Final, TypeAlias

import figures
import reckon
from claims import DECISIVE, Claim, Figures, Key
from runs import ACCURACY, BY_ACCURACY, SENT, WORST, Axis, Column, Measure, Run
from study import Case

from deploy.curves import Points

Done: TypeAlias = Sequence[tuple[Case, Path]]
"""Simulations that have ended, and their run folders."""
_UNITS: Final = {
    Axis.TIME: "virtual time, s",
    Axis.MEGABYTES: "MB that a node has sent",
    Axis.ROUNDS: "rounds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a study comes to.

    Args:
        baseline: the series and factor that set the targets.
        factor: what the factor is, in the table's head; empty: there is one only.
        axis: along what targets are reached.
        shares: of the baseline's way, which are the targets.
        subject, against: the series that it is about, and those whose times are divided by its at
            each factor, in a table; by all others', in a picture.
    """

    baseline: Key
    claims: Sequence[Claim]
    columns: Sequence[Column] = (ACCURACY, WORST, SENT)
    measure: Measure = BY_ACCURACY
    factor: str = ""
    axis: Axis = Axis.ROUNDS
    shares: Sequence[float] = (0.8, 0.9)
    subject: str = ""
    against: Sequence[str] = ()

    def write(self, done: Done, folder: Path) -> str:
        """Write pictures and `table.csv` into the folder; the tables in Markdown."""
        runs = {case: Run(folder=run, measure=self.measure) for case, run in done}
        curves = {case: points for case, run in runs.items() if (points := run.curve(self.axis))}
        base = [p for case, p in curves.items() if (case.series, case.factor) == self.baseline]
        targets = reckon.targets(base, self.shares)
        seeds = self._seeds(runs, curves)
        if not seeds:
            return "No run has an evaluation yet."
        folder.mkdir(parents=True, exist_ok=True)
        self._csv(seeds, targets, folder / "table.csv")
        self._draw_curves(curves, folder / f"over-{self.axis.name.lower()}.png")
        told = list(seeds.values())
        ratios = self._ratios(told) if self.against else []
        if ratios:
            self._draw_ratios(told, folder / "ratios.png")
        print(f"figures and table.csv are in {folder}", file=sys.stderr)
        claims = [claim.held(told) for claim in self.claims]
        head = ["| claim | asked | median (range) over seeds | holds |", "|---|---|---|---|"]
        return "\n".join([*self._series(told, targets), "", *ratios, *head, *claims])

    def _seeds(self, runs: Mapping[Case, Run], curves: Mapping[Case, Points]) -> dict[int, Figures]:
        seeds: dict[int, Figures] = {}
        for seed in dict.fromkeys(case.seed for case in curves):
            mine = {(c.series, c.factor): c for c in curves if c.seed == seed}
            seeds[seed] = Figures(
                values={
                    key: {column.label: column.of(runs[case]) for column in self.columns}
                    for key, case in mine.items()
                },
                curves={key: curves[case] for key, case in mine.items()},
                falling=not self.measure.rises,
            )
        return seeds

    def _arrivals(self, found: Figures, key: Key, targets: Sequence[float]) -> list[float]:
        falling = not self.measure.rises
        return [reckon.arrival(found.curves[key], each, falling=falling) for each in targets]

    def _heads(self, targets: Sequence[float]) -> list[str]:
        heads = ["series", *([self.factor] if self.factor else []), "seeds"]
        heads += [column.label for column in self.columns]
        return heads + [f"{self.axis} to {target:.3f}" for target in targets]

    def _series(self, seeds: Sequence[Figures], targets: Sequence[float]) -> list[str]:
        """A row for each series at each factor, factors in order."""
        heads = self._heads(targets)
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        form = ".0f" if self.axis is Axis.ROUNDS else ".2f"
        for key in _keys(seeds):
            there = [each for each in seeds if key in each.values]
            cells = [key[0], *([f"{key[1]:g}"] if self.factor else []), str(len(there))]
            for column in self.columns:
                values = [each.at(key, column) for each in there]
                spread = f" ± {stdev(values):{column.form}}" if len(values) > 1 else ""
                cells.append(f"{fmean(values):{column.form}}{spread}")
            for arrivals in zip(
                *(self._arrivals(each, key, targets) for each in there), strict=True
            ):
                middle = median(arrivals)
                cells.append("never" if math.isinf(middle) else f"{middle:{form}}")
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def _ratios(self, seeds: Sequence[Figures]) -> list[str]:
        """How many times sooner the subject goes a share of the way that another goes."""
        heads = [f"{share:.0%} of its way" for share in self.shares]
        lines = [
            f"| time of | {self.factor} | {' | '.join(heads)} |",
            "|" + "---|" * (2 + len(heads)),
        ]
        for against in self.against:
            for factor in sorted(dict.fromkeys(factor for _, factor in _keys(seeds))):
                own, base = (self.subject, factor), (against, factor)
                cells = [
                    reckon.spread([each.speedup(base, own, share) for each in seeds])
                    for share in self.shares
                ]
                lines.append(f"| {against} | {factor:g} | {' | '.join(cells)} |")
        return [*lines, "", f"Divided by that of {self.subject}: median (range) over seeds.", ""]

    def _csv(self, seeds: Mapping[int, Figures], targets: Sequence[float], path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            labels = [column.label for column in self.columns]
            units = [f"{self.axis} to {target:.4f}" for target in targets]
            writer.writerow(["series", "factor", "seed", *labels, *units])
            for seed, found in seeds.items():
                for key, values in found.values.items():
                    cells = [*values.values(), *self._arrivals(found, key, targets)]
                    writer.writerow([*key, seed, *(f"{each:.4f}" for each in cells)])

    def _draw_curves(self, curves: Mapping[Case, Points], path: Path) -> None:
        panels: dict[str, dict[str, list[Points]]] = {}
        for case, points in sorted(curves.items(), key=lambda item: item[0].factor):
            title = f"{self.factor} {case.factor:g}" if self.factor else ""
            panels.setdefault(title, {}).setdefault(case.series, []).append(points)
        figures.draw_curves(panels, x=_UNITS[self.axis], y=self.measure.label, path=path)

    def _draw_ratios(self, seeds: Sequence[Figures], path: Path) -> None:
        """The median over the seeds; a ratio that is not finite has no point."""
        panels: dict[str, dict[str, Points]] = {}
        for against in self.against:
            lines = panels.setdefault(f"against {against}", {})
            for series, factor in _keys(seeds):
                base, own = (against, factor), (series, factor)
                found = reckon.known(each.speedup(base, own, DECISIVE) for each in seeds)
                if found and 0 < (middle := median(found)) < math.inf:
                    lines.setdefault(series, []).append((factor, middle))
        y = f"its time / own time, {DECISIVE:.0%} of its way"
        figures.draw_lines(panels, x=self.factor, y=y, path=path)


def _keys(seeds: Sequence[Figures]) -> list[Key]:
    """By factor, then in the order of the cases."""
    return sorted(dict.fromkeys(key for each in seeds for key in each.values), key=lambda k: k[1])
