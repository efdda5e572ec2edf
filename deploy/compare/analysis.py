"""Runs side by side (pure): those that differ in the seed alone are one group, with a spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Final

from deploy.compare.metrics import METRICS, Metric, kind_metrics, latency_metrics
from deploy.compare.settings import DATASET, SEED, Settings, differences
from deploy.curves import Points, first_time, value_at

_TIMES: Final = 9
"""Of the table of accuracy over time."""
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as it is compared.

    Args:
        name: topology/run.
        accuracy, loss: of local models, their mean over time.
        merged: accuracy of the merged model over time, where it is known.
        version: of the code that ran it.
    """

    name: str
    settings: Settings
    summary: Mapping[str, Any]
    accuracy: Points
    loss: Points
    merged: Points
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A number of a group.

    Args:
        mean: None where a run of the group does not know it, or never got there.
        spread: standard deviation over the runs; None of fewer than two.
        known: how many of the runs know it.
    """

    mean: float | None
    spread: float | None
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ in the seed alone."""

    letter: str
    runs: tuple[Run, ...]

    @property
    def settings(self) -> Settings:
        return self.runs[0].settings

    @property
    def name(self) -> str:
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return self.runs[0].name + more

    @property
    def seeds(self) -> list[Any]:
        return [run.settings.get(SEED) for run in self.runs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A metric of all groups, and what each is of the first (None: not to be said)."""

    metric: Metric
    values: tuple[Value, ...]
    ratios: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When each group reached a target.

    Args:
        what: `mean`, `merged` (accuracy), or `loss`.
        recorded: whether a group's runs have the curve at all.
    """

    what: str
    target: float
    recorded: tuple[bool, ...]
    values: tuple[Value, ...]
    ratios: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that `deploy compare` says.

    Args:
        differences: settings that are not the same in all groups, by name; one text for each group.
        times, accuracy: common times, s, and the mean accuracy of each group at each of them.
        notes: what cannot be compared, and why.
    """

    groups: tuple[Group, ...]
    differences: Mapping[str, Sequence[str]]
    rows: tuple[Row, ...]
    reached: tuple[Reached, ...]
    kinds: tuple[Row, ...]
    latencies: tuple[Row, ...]
    times: tuple[float, ...]
    accuracy: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = field(default=())


def compare(
    runs: Sequence[Run], *, accuracies: Iterable[float] = (), losses: Iterable[float] = ()
) -> Comparison:
    """Compare runs; the first is what the others are measured against.

    Args:
        accuracies, losses: targets whose times are wanted besides those in the summaries.
    """
    groups = grouped(runs)
    same_task = len({str(group.settings.get(DATASET)) for group in groups}) == 1
    kinds = _names(runs, "bytes", "kinds")
    latencies = _names(runs, "latency")
    times = _common_times(groups) if same_task else ()
    return Comparison(
        groups=groups,
        differences=differences([_without_seed(group.settings) for group in groups]),
        rows=_rows(METRICS, groups, same_task=same_task),
        reached=_reached(groups, accuracies, losses, same_task=same_task),
        kinds=_rows([m for k in kinds for m in kind_metrics(k)], groups, same_task=same_task),
        latencies=_rows([m for k in latencies for m in latency_metrics(k)], groups, same_task=True),
        times=times,
        accuracy=tuple(
            tuple(_value(value_at(run.accuracy, t) for run in group.runs) for t in times)
            for group in groups
        ),
        notes=tuple(_notes(groups, same_task=same_task)),
    )


def grouped(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Groups in the order of their first runs; in a group each seed stands once."""
    found: list[list[Run]] = []
    for run in runs:
        for group in found:
            seeds = [other.settings.get(SEED) for other in group]
            alike = _without_seed(group[0].settings) == _without_seed(run.settings)
            if alike and run.settings.get(SEED) not in seeds:
                group.append(run)
                break
        else:
            found.append([run])
    return tuple(
        Group(letter=_letter(number), runs=tuple(group)) for number, group in enumerate(found)
    )


def _letter(number: int) -> str:
    more, rest = divmod(number, len(_LETTERS))
    return _LETTERS[rest] + (str(more) if more else "")


def _without_seed(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != SEED}


def _names(runs: Iterable[Run], *where: str) -> list[str]:
    """The keys that any summary has at a place."""
    names: set[str] = set()
    for run in runs:
        found: Any = run.summary
        for key in where:
            found = found.get(key) if isinstance(found, Mapping) else None
        names.update(map(str, found if isinstance(found, Mapping) else ()))
    return sorted(names)


# Numbers -----------------------------------------------------------------------------------------


def _value(numbers: Iterable[float | None]) -> Value:
    every = list(numbers)
    known = [number for number in every if number is not None]
    return Value(
        mean=fmean(known) if known and len(known) == len(every) else None,
        spread=stdev(known) if len(known) > 1 and len(known) == len(every) else None,
        known=len(known),
    )


def _ratios(values: Sequence[Value], *, meant: bool = True) -> tuple[float | None, ...]:
    """Each value over the first."""
    first = values[0].mean
    if not meant or not first:
        return (None,) * len(values)
    ratios = [None if value.mean is None else value.mean / first for value in values]
    return tuple(ratio if ratio is None or math.isfinite(ratio) else None for ratio in ratios)


def _rows(
    metrics: Iterable[Metric], groups: Sequence[Group], *, same_task: bool
) -> tuple[Row, ...]:
    """The metrics that any of the runs knows."""
    rows = []
    for metric in metrics:
        values = tuple(_value(metric.of(run.summary) for run in group.runs) for group in groups)
        if any(value.known for value in values):
            ratios = _ratios(values, meant=same_task or not metric.of_task)
            rows.append(Row(metric=metric, values=values, ratios=ratios))
    return tuple(rows)


def _reached(
    groups: Sequence[Group],
    accuracies: Iterable[float],
    losses: Iterable[float],
    *,
    same_task: bool,
) -> tuple[Reached, ...]:
    """Targets of the summaries and those asked for; of the merged model where it is known."""
    runs = [run for group in groups for run in group.runs]
    targets = {float(t) for run in runs for t in run.summary.get("time_to_accuracy") or {}}
    wanted: list[tuple[str, float]] = [("mean", t) for t in sorted({*targets, *accuracies})]
    if any(run.merged for run in runs):
        wanted += [("merged", t) for _, t in wanted]
    wanted += [("loss", target) for target in sorted(set(losses), reverse=True)]
    found = []
    for what, target in wanted:
        curves_of = [[_curve(run, what) for run in group.runs] for group in groups]
        values = tuple(
            _value(first_time(curve, target, falling=what == "loss") for curve in curves)
            for curves in curves_of
        )
        if any(value.known for value in values) or target not in targets:
            reached = Reached(
                what=what,
                target=target,
                recorded=tuple(all(curves) for curves in curves_of),
                values=values,
                ratios=_ratios(values, meant=same_task),
            )
            found.append(reached)
    return tuple(found)


def _curve(run: Run, what: str) -> Points:
    return {"mean": run.accuracy, "merged": run.merged, "loss": run.loss}[what]


def _common_times(groups: Sequence[Group]) -> tuple[float, ...]:
    """Times at which all curves are known, evenly spread."""
    curves = [run.accuracy for group in groups for run in group.runs]
    if not all(curves):
        return ()
    begin = max(curve[0][0] for curve in curves)
    end = min(curve[-1][0] for curve in curves)
    if begin >= end:
        return ()
    step = (end - begin) / (_TIMES - 1)
    digits = max(0, 1 - math.floor(math.log10(step)))
    times = {round(begin + number * step, digits) for number in range(_TIMES)}
    return tuple(sorted(time for time in times if begin <= time <= end))


def _notes(groups: Sequence[Group], *, same_task: bool) -> Iterable[str]:
    if not same_task:
        sets = ", ".join(f"{g.letter}: {g.settings.get(DATASET)}" for g in groups)
        yield (
            f"the data sets differ ({sets}): what was learnt is shown, but without ratios, and"
            " not over time"
        )
    versions = {run.version for group in groups for run in group.runs if run.version}
    if len(versions) > 1:
        yield f"the runs are of {len(versions)} versions of the code: {', '.join(sorted(versions))}"
    for group in groups:
        silent = [run.name for run in group.runs if not run.accuracy]
        if silent:
            yield f"no accuracy over time in {', '.join(silent)}"
