"""A comparison as a picture: accuracy over time, time to accuracy, bytes by kind, latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from deploy.compare.analysis import Comparison, Group
from deploy.curves import value_at
from deploy.report import check_picture, columns, pictures
from deploy.results import writing
from deploy.summary import FATES
from node.core.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f",
)  # fmt: skip
_STYLES: Final = ("-", "--", ":", "-.")
_POINTS: Final = 200
_LABEL_MAX: Final = 60
_NAMED: Final = 3
_TELLING: Final = ("backend", "algorithm")
"""Settings whose values say what they are."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a comparison. Raises ConfigError, EnvironmentFault."""
    check_picture(path)
    pyplot = pictures()
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    labels = _labels(comparison)
    _draw_curves(axes[0][0], comparison.groups, labels)
    _draw_times(axes[0][1], comparison, labels)
    _draw_bytes(axes[1][0], comparison.groups, labels)
    _draw_latency(axes[1][1], comparison.groups)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _labels(comparison: Comparison) -> list[str]:
    """What tells each group from the others: its first few settings that differ."""
    differ = [(name, texts) for name, texts in comparison.differences.items() if name != "emulator"]
    labels = []
    for number, group in enumerate(comparison.groups):
        told = [_short(name, texts[number]) for name, texts in differ[:_NAMED]]
        told = told or [str(group.settings.get("algorithm"))]
        if len(group.runs) > 1:
            told.append(f"{len(group.runs)} seeds")
        labels.append(f"{group.letter}: {', '.join(told)}"[:_LABEL_MAX])
    return labels


def _short(name: str, text: str) -> str:
    """`sim`, `dpsgd`, `omega 0.5`."""
    return text if name in _TELLING else f"{name.rpartition('.')[2]} {text}"


def _draw_curves(axes: Axes, groups: Sequence[Group], labels: Sequence[str]) -> None:
    """The mean over the seeds of a group, and a band from its lowest to its highest."""
    for number, group in enumerate(groups):
        colour, curves = _colour(number), [run.accuracy for run in group.runs if run.accuracy]
        if not curves:
            continue
        if len(curves) == 1:
            axes.plot(
                *columns(curves[0]), color=colour, label=labels[number], drawstyle="steps-post"
            )
            continue
        begin, end = max(c[0][0] for c in curves), min(c[-1][0] for c in curves)
        times = [begin + (end - begin) * i / (_POINTS - 1) for i in range(_POINTS)]
        values = [[v for c in curves if (v := value_at(c, t)) is not None] for t in times]
        means = [sum(known) / len(known) for known in values]
        axes.plot(times, means, color=colour, label=labels[number])
        axes.fill_between(
            times, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.2
        )
    axes.set(
        title="Local models", xlabel="time, s", ylabel="mean test accuracy of nodes", ylim=(0, 1)
    )
    _finish(axes, "lower right")


def _draw_times(axes: Axes, comparison: Comparison, labels: Sequence[str]) -> None:
    """Time to accuracy; what was never reached has no bar."""
    rows = [row for row in comparison.reached if row.what == "mean"]
    width = 0.8 / len(comparison.groups)
    for number, group in enumerate(comparison.groups):
        known = [(i, value) for i, row in enumerate(rows) if (value := row.values[number]).known]
        reached = [(i, value.mean, value.spread) for i, value in known if value.mean is not None]
        axes.bar(
            [i + (number - (len(comparison.groups) - 1) / 2) * width for i, _, _ in reached],
            [mean for _, mean, _ in reached],
            width,
            yerr=[spread or 0.0 for _, _, spread in reached] if len(group.runs) > 1 else None,
            color=_colour(number),
            label=labels[number],
            capsize=3,
        )
    axes.set_xticks(range(len(rows)), [f"{row.target:.0%}" for row in rows])
    axes.margins(y=0.25)
    axes.set(title="Time to accuracy", xlabel="mean test accuracy of nodes", ylabel="time, s")
    _finish(axes, "upper left")


def _draw_bytes(axes: Axes, groups: Sequence[Group], labels: Sequence[str]) -> None:
    """What became of the messages of each kind, mean over the runs of a group."""
    bars: list[str] = []
    for number, group in enumerate(groups):
        sums: dict[str, float] = {}
        for run in group.runs:
            kinds = (run.summary.get("bytes") or {}).get("kinds") or {}
            for kind, counts in kinds.items():
                for fate in FATES:
                    name = f"{kind}\n{fate}"
                    sums[name] = sums.get(name, 0.0) + counts[fate] / len(group.runs) / 1e6
        bars += [name for name, value in sums.items() if value and name not in bars]
        width = 0.8 / len(groups)
        axes.bar(
            [i + (number - (len(groups) - 1) / 2) * width for i in range(len(bars))],
            [sums.get(name, 0.0) for name in bars],
            width,
            color=_colour(number),
            label=labels[number],
        )
    axes.set_xticks(range(len(bars)), bars, fontsize=8)
    axes.margins(y=0.25)
    axes.set(title="Messages by kind", ylabel="model values, MB")
    _finish(axes, "upper right")


def _draw_latency(axes: Axes, groups: Sequence[Group]) -> None:
    """The distribution of each kind's latency over all nodes and runs of a group."""
    for number, group in enumerate(groups):
        total: dict[str, Histogram] = {}
        for run in group.runs:
            for kind, record in (run.summary.get("latency") or {}).items():
                try:
                    total.setdefault(kind, Histogram()).merge(Histogram.of(record))
                except ValueError:
                    continue
        for place, (kind, histogram) in enumerate(sorted(total.items())):
            axes.plot(
                *columns(histogram.steps()),
                color=_colour(number),
                linestyle=_STYLES[place % len(_STYLES)],
                label=f"{group.letter}: {kind}",
            )
    axes.set(
        title="Latency of messages, queue included",
        xlabel="send queue to acknowledgement, ms",
        ylabel="share of messages",
        ylim=(0, 1),
        xscale="log",
    )
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes, "lower right")


def _finish(axes: Axes, place: Literal["lower right", "upper left", "upper right"]) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=8)
    else:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center")
