"""Pictures of a study: curves with bands over seeds, a number against the factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deploy.curves import Points

Bands: TypeAlias = Mapping[str, Sequence[Points]]
"""By series, a curve for each seed."""


def draw_curves(panels: Mapping[str, Bands], *, x: str, y: str, path: Path) -> None:
    """A panel for each title, with the mean of each series over the seeds in a band from the least
    to the most of them."""

    def draw(axes: Sequence[Any]) -> None:
        for axis, (title, bands) in zip(axes, panels.items(), strict=True):
            for name, every in bands.items():
                _band(axis, every, name)
            axis.set(title=title, xlabel=x)

    _picture(path, len(panels), y, draw)


def draw_lines(panels: Mapping[str, Mapping[str, Points]], *, x: str, y: str, path: Path) -> None:
    """A panel for each title, with a line for each series; 1 is marked."""

    def draw(axes: Sequence[Any]) -> None:
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for name, points in lines.items():
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
            axis.axhline(1, color="grey", linewidth=0.5)
            axis.set(title=title, xlabel=x)

    _picture(path, len(panels), y, draw)


def _picture(path: Path, columns: int, y: str, draw: Callable[[Sequence[Any]], None]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(max(6, 4 * columns), 4.2), sharey=True, squeeze=False
    )
    draw(axes[0])
    axes[0][0].set(ylabel=y)
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.legend(handles.values(), handles, loc="lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _band(axis: Any, every: Sequence[Points], name: str) -> None:
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
