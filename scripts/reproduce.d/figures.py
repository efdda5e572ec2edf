"""Tables and figures of a study: curves with bands over seeds, time to a target against a factor.

A target is a share of the way that the baseline goes at factor 1, where links do not matter: what
the slower method can reach. "never" is a result: the target was not reached in the run's time.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final

import numpy as np
import reckon
from study import Case

from deploy.curves import Points, mean_over_time
from node.metrics import read_events

Done = Sequence[tuple[Case, Path]]
_FACTOR_OF_TARGET: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is compared over time.

    Args:
        field: of the evaluation records.
        rises: whether more is better.
    """

    field: str
    label: str
    rises: bool


ACCURACY: Final = Measure(field="accuracy", label="mean test accuracy of the nodes", rises=True)
RMSE: Final = Measure(field="loss", label="mean test RMSE of the nodes", rises=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series at one factor, over its seeds.

    Args:
        seeds: of which there is a curve.
        final: the last value of each seed's curve.
        times: for each target the time of each seed, infinite where it was never reached.
    """

    series: str
    factor: float
    seeds: tuple[int, ...]
    final: tuple[float, ...]
    times: tuple[tuple[float, ...], ...]


def curve(folder: Path, measure: Measure) -> Points:
    """The mean over the nodes' newest values, over virtual time."""
    nodes = {path.stem: list(read_events(path)) for path in (folder / "nodes").glob("*.jsonl")}
    return mean_over_time(nodes, of=measure.field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a study comes to.

    Args:
        baseline: the series that the others' times are divided into, and that sets the targets.
    """

    baseline: str
    measure: Measure

    def write(self, done: Done, folder: Path) -> str:
        """Write figures and `table.csv` into the folder; the table in Markdown."""
        curves = {case: points for case, run in done if (points := curve(run, self.measure))}
        targets = self.targets(curves)
        if not targets:
            return f"No run of {self.baseline} at factor {_FACTOR_OF_TARGET:g} yet: no targets."
        rows = self.rows(curves, targets)
        folder.mkdir(parents=True, exist_ok=True)
        self._csv(rows, targets, folder / "table.csv")
        self._curves(curves, folder / "over-time.png")
        self._ratios(rows, targets, folder / "ratios.png")
        print(f"figures and table.csv are in {folder}", file=sys.stderr)
        return self._markdown(rows, targets)

    def targets(self, curves: dict[Case, Points]) -> tuple[float, ...]:
        """Values at the given shares of the way from the baseline's first to its last."""
        base = [
            points
            for case, points in curves.items()
            if case.series == self.baseline and case.factor == _FACTOR_OF_TARGET
        ]
        return reckon.targets(base)

    def rows(self, curves: dict[Case, Points], targets: Sequence[float]) -> list[Row]:
        """By factor, then in the order of the series."""
        groups: dict[tuple[float, str], dict[int, Points]] = {}
        for case, points in curves.items():
            groups.setdefault((case.factor, case.series), {})[case.seed] = points
        order = list(dict.fromkeys(case.series for case in curves))
        return [
            Row(
                series=series,
                factor=factor,
                seeds=tuple(every),
                final=tuple(points[-1][1] for points in every.values()),
                times=tuple(
                    tuple(
                        reckon.arrival(points, target, falling=not self.measure.rises)
                        for points in every.values()
                    )
                    for target in targets
                ),
            )
            for (factor, series), every in sorted(
                groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]))
            )
        ]

    def ratio(self, rows: Sequence[Row], row: Row, place: int) -> float:
        """See `reckon.speedup`, over the baseline at the same factor."""
        base = next((r for r in rows if (r.series, r.factor) == (self.baseline, row.factor)), None)
        return reckon.speedup(() if base is None else base.times[place], row.times[place])

    def _markdown(self, rows: Sequence[Row], targets: Sequence[float]) -> str:
        heads = [f"time to {target:.3f} (x)" for target in targets]
        lines = [
            f"| factor | series | seeds | final {self.measure.field} | {' | '.join(heads)} |",
            "|" + "---|" * (4 + len(heads)),
        ]
        for row in rows:
            cells = [
                f"{reckon.arrival_shown(median(times), 's')}"
                f" ({reckon.shown(self.ratio(rows, row, place))})"
                for place, times in enumerate(row.times)
            ]
            spread = f" ± {stdev(row.final):.3f}" if len(row.final) > 1 else ""
            final = f"{fmean(row.final):.3f}{spread}"
            line = f"| {row.factor:g} | {row.series} | {len(row.final)} | {final} |"
            lines.append(f"{line} {' | '.join(cells)} |")
        note = f"x: median time of {self.baseline} at the same factor divided by this one's."
        return "\n".join([*lines, "", note])

    def _csv(self, rows: Sequence[Row], targets: Sequence[float], path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["factor", "series", "seed", "final", *(f"{t:.4f}" for t in targets)])
            for row in rows:
                for place, (seed, final) in enumerate(zip(row.seeds, row.final, strict=True)):
                    times = [f"{times[place]:.3f}" for times in row.times]
                    writer.writerow([row.factor, row.series, seed, f"{final:.4f}", *times])

    def _curves(self, curves: dict[Case, Points], path: Path) -> None:
        factors = sorted({case.factor for case in curves})
        series = list(dict.fromkeys(case.series for case in curves))

        def draw(axes: Sequence[Any]) -> None:
            for axis, factor in zip(axes, factors, strict=True):
                for name in series:
                    every = [p for c, p in curves.items() if (c.series, c.factor) == (name, factor)]
                    if every:
                        band(axis, every, name)
                axis.set(title=f"straggling factor {factor:g}", xlabel="virtual time, s")
            axes[0].set(ylabel=self.measure.label)
            axes[-1].legend(fontsize=8)

        picture(path, len(factors), draw)

    def _ratios(self, rows: Sequence[Row], targets: Sequence[float], path: Path) -> None:
        def draw(axes: Sequence[Any]) -> None:
            for place, (axis, target) in enumerate(zip(axes, targets, strict=True)):
                for name in dict.fromkeys(row.series for row in rows):
                    found = [
                        (row.factor, ratio)
                        for row in rows
                        if row.series == name
                        and math.isfinite(ratio := self.ratio(rows, row, place))
                        and ratio > 0
                    ]
                    if found:
                        axis.plot(*zip(*found, strict=True), marker="o", label=name)
                axis.axhline(1, color="grey", linewidth=0.5)
                axis.set(title=f"time to {target:.3f}", xlabel="straggling factor")
            axes[0].set(ylabel=f"time of {self.baseline} / own time")
            axes[0].legend(fontsize=8)

        picture(path, len(targets), draw)


def picture(path: Path, columns: int, draw: Callable[[Sequence[Any]], None]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(4 * columns, 3.6), sharey=True, squeeze=False
    )
    draw(axes[0])
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def band(axis: Any, every: Sequence[Points], name: str) -> None:
    """The mean over the seeds, and from the least to the most of them."""
    end = min(points[-1][0] for points in every)
    begin = max(points[0][0] for points in every)
    grid = np.linspace(begin, end, 200)
    values = np.array(
        [np.interp(grid, [t for t, _ in points], [v for _, v in points]) for points in every]
    )
    (line,) = axis.plot(grid, values.mean(axis=0), label=name)
    axis.fill_between(
        grid, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2
    )
