"""The pictures of a verification: the network measured pair by pair, and all of it over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploy.history import as_float
from deploy.results import writing
from deploy.verify.judge import Held, Judged, Tolerance
from deploy.verify.model import Pair
from deploy.verify.readings import Throughput
from deploy.verify.segments import Load
from node.errors import EnvironmentFault
from node.units import SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERS_MAX: Final = 12
"""Up to so many nodes, cells have their number written in them."""
_TICKS_MAX: Final = 32
_PANELS_MAX: Final = 12
_COLUMNS: Final = 3
_EVENTS_NAMED: Final = 12
_OFF: Final = "#c0392b"
_MODEL: Final = "#222222"
_MEASURED: Final = "#2471a3"


# The network, pair by pair -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Map:
    """One heatmap.

    Args:
        value: of a pair's entry in links.json; None: not measured.
        allowed: of an error, whose colours part at 0 and are full at what is allowed.
        digits: of the numbers in the cells.
    """

    title: str
    unit: str
    value: Callable[[Mapping[str, Any]], float | None]
    allowed: Callable[[Mapping[str, Any]], float | None] | None = None
    digits: int = 1


def draw_network(path: Path, *, links: Mapping[str, Any], names: Sequence[str]) -> None:
    """Round trip, rate (and loss, where asked for) of every ordered pair, and how far each is off.

    Args:
        links: content of links.json.
        names: of the nodes, in the order of rows and columns.
    """
    pairs = {(str(p.get("from")), str(p.get("to"))): p for p in links.get("pairs", [])}
    columns = list(_maps(pairs))
    side = min(7.5, max(3.2, 0.36 * len(names)))
    figure = _figure((side * 1.25 * len(columns), side * 2.15))
    axes = figure.subplots(2, len(columns), squeeze=False)
    for number, maps in enumerate(columns):
        for row, one in enumerate(maps):
            _heat(axes[row][number], one, pairs, names)
    emulator = links.get("emulator") or "unknown emulator"
    figure.suptitle(
        f"measured alone ({emulator}): rows send to columns; grey: not measured; framed: off\n"
        "an error's colour is full where its tolerance ends",
        fontsize=10,
    )
    _save(figure, path)


def _maps(pairs: Mapping[Any, Mapping[str, Any]]) -> list[tuple[_Map, _Map]]:
    """For each property its values, and how far they are off."""

    def measured(key: str, scale: float) -> Callable[[Mapping[str, Any]], float | None]:
        def value(entry: Mapping[str, Any]) -> float | None:
            number = as_float((entry.get("measured") or {}).get(key))
            return None if number is None else number * scale

        return value

    def trip_off(entry: Mapping[str, Any]) -> float | None:
        back = pairs.get((str(entry.get("to")), str(entry.get("from"))), entry)
        delays = [as_float((way.get("asked") or {}).get("delay_ms")) for way in (entry, back)]
        asked = None if None in delays else sum(delay or 0.0 for delay in delays)
        return _minus(trip(entry), asked)

    def rate_off(entry: Mapping[str, Any]) -> float | None:
        ideal, value = _middle(entry, "goodput_bps"), rate(entry)
        return None if not ideal or value is None else 100 * (value * 1e6 / ideal - 1)

    def rate_allowed(entry: Mapping[str, Any]) -> float | None:
        ideal, half = _middle(entry, "goodput_bps"), _half(entry, "goodput_bps")
        return None if not ideal or half is None else 100 * half / ideal

    def loss_off(entry: Mapping[str, Any]) -> float | None:
        return _minus(loss(entry), 100 * (as_float((entry.get("asked") or {}).get("loss")) or 0))

    def loss_allowed(entry: Mapping[str, Any]) -> float | None:
        half = _half(entry, "loss")
        return None if half is None else 100 * half

    trip = measured("rtt_ms", 1)
    rate, loss = measured("goodput_bps", 1e-6), measured("loss", 100)
    trips = _Map(
        title="round trip, off by",
        unit="ms",
        value=trip_off,
        allowed=lambda entry: _half(entry, "rtt_ms"),
        digits=2,
    )
    rates = _Map(title="goodput, off by", unit="%", value=rate_off, allowed=rate_allowed)
    columns = [
        (_Map(title="round trip", unit="ms", value=trip), trips),
        (_Map(title="goodput", unit="Mbit/s", value=rate), rates),
    ]
    if any(loss(entry) is not None for entry in pairs.values()):
        losses = _Map(
            title="loss, off by",
            unit="% of all packets",
            value=loss_off,
            allowed=loss_allowed,
            digits=2,
        )
        columns.append((_Map(title="loss", unit="%", value=loss, digits=2), losses))
    return columns


def _bounds(entry: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    told = (entry.get("tolerance") or {}).get(key)
    numbers = [as_float(bound) for bound in told] if isinstance(told, list) else []
    known = [number for number in numbers if number is not None]
    return (known[0], known[1]) if len(known) == 2 else None


def _middle(entry: Mapping[str, Any], key: str) -> float | None:
    bounds = _bounds(entry, key)
    return None if bounds is None else (bounds[0] + bounds[1]) / 2


def _half(entry: Mapping[str, Any], key: str) -> float | None:
    bounds = _bounds(entry, key)
    return None if bounds is None else (bounds[1] - bounds[0]) / 2


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _heat(
    axes: Axes,
    one: _Map,
    pairs: Mapping[Any, Mapping[str, Any]],
    names: Sequence[str],
) -> None:
    from matplotlib.colors import Normalize

    table, painted = _table(one.value, pairs, names), "viridis"
    most = _largest(table)
    norm = Normalize(0.0, most)
    if one.allowed is not None:
        painted, most = "RdBu_r", _largest(_table(one.allowed, pairs, names))
        norm = Normalize(-most, most)
    image = axes.imshow(table, cmap=painted, norm=norm)
    axes.set_facecolor("#d0d0d0")
    axes.plot(range(len(names)), range(len(names)), "x", color="#f4f4f4", markersize=3)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=one.unit)
    axes.set_title(one.title, fontsize=10)
    _label(axes, names)
    if len(names) <= _NUMBERS_MAX:
        _write(axes, one, table, most)
    _frame_misses(axes, pairs, names)


def _table(
    value: Callable[[Mapping[str, Any]], float | None],
    pairs: Mapping[Any, Mapping[str, Any]],
    names: Sequence[str],
) -> Any:
    """The values of all pairs; NaN where there is none."""
    table = np.full((len(names), len(names)), np.nan)
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            found = value(pairs[source, target]) if (source, target) in pairs else None
            table[i, j] = math.nan if found is None else found
    return table


def _largest(table: Any) -> float:
    known = np.abs(table[np.isfinite(table)])
    return float(np.max(known, initial=0.0)) or 1.0


def _write(axes: Axes, one: _Map, table: Any, most: float) -> None:
    """Each cell's number in it, in a colour that can be read."""
    for (i, j), value in np.ndenumerate(table):
        if math.isfinite(value):
            dark = value < 0.6 * most if one.allowed is None else abs(value) > 0.6 * most
            text = f"{value:{'' if one.allowed is None else '+'}.{one.digits}f}"
            colour = "white" if dark else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)


def _label(axes: Axes, names: Sequence[str]) -> None:
    """Names along both sides, as many as can be read."""
    step = -(-len(names) // _TICKS_MAX)
    ticks = range(0, len(names), step)
    size = 8 if len(names) <= _NUMBERS_MAX else 6
    axes.set_xticks(list(ticks), [names[i] for i in ticks], rotation=90, fontsize=size)
    axes.set_yticks(list(ticks), [names[i] for i in ticks], fontsize=size)


def _frame_misses(axes: Axes, pairs: Mapping[Any, Mapping[str, Any]], names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    for i, source in enumerate(names):
        for j, target in enumerate(names):
            if pairs.get((source, target), {}).get("ok") is False:
                frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_OFF, linewidth=2)
                axes.add_patch(frame)


# Over time ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """A flow, or several together, over time.

    Args:
        pairs: whose throughputs are added.
        steps: expected and judged in each segment; None where there is nothing to say.
        share: the tolerance.
    """

    title: str
    pairs: tuple[Pair, ...]
    steps: tuple[Held | None, ...]
    share: float

    @property
    def worst(self) -> float:
        """Panels that are off come first, then those that are nearest to it."""
        held = [step for step in self.steps if step is not None]
        errors = [abs(step.error or 0.0) for step in held if step.ok is not None]
        return (10.0 if any(step.ok is False for step in held) else 0.0) + max(errors, default=0.0)


def draw_timeline(
    path: Path,
    *,
    load: Load,
    segments: Sequence[Judged],
    curves: Throughput,
    allowed: Tolerance,
    title: str,
) -> None:
    """Throughput against the model's steps: of each flow, or, where there are many, of the links
    that they fill and the nodes that they end at, the worst of them."""
    panels = _panels(load, segments, allowed)
    shown = sorted(panels, key=lambda panel: -panel.worst)[:_PANELS_MAX]
    shown = [panel for panel in panels if panel in shown]
    columns = min(_COLUMNS, len(shown)) or 1
    rows = -(-len(shown) // columns) or 1
    figure = _figure((4.6 * columns + 0.6, 2.3 * rows + 1.1))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for place in axes.flat[len(shown) :]:
        place.set_visible(False)
    for place, panel in zip(axes.flat, shown, strict=False):
        _draw_panel(place, panel, load, segments, curves)
    for place in axes[-1]:
        place.set_xlabel("seconds on the run clock", fontsize=8)
    for row in axes:
        row[0].set_ylabel("payload, Mbit/s", fontsize=8)
    more = f", {len(shown)} of {len(panels)} shown: the worst" if len(shown) < len(panels) else ""
    _legend(figure)
    figure.suptitle(f"{title}: all send at once{more}\n{_legend_of_events(segments)}", fontsize=9)
    _save(figure, path)


def _panels(load: Load, segments: Sequence[Judged], allowed: Tolerance) -> list[_Panel]:
    """One a flow; of many, one a full link, and one a node that receives."""
    pairs = load.sample.pairs
    if len(pairs) <= _PANELS_MAX:
        return [_of_flow(pair, segments, allowed) for pair in pairs]
    names = dict.fromkeys(name for judged in segments for name in judged.links)
    panels = [_of_link(name, load, segments, allowed) for name in names]
    if not panels:
        panels = [_of_flow(pair, segments, allowed) for pair in pairs]
    return panels


def _of_flow(pair: Pair, segments: Sequence[Judged], allowed: Tolerance) -> _Panel:
    steps = tuple(judged.flows.get(pair) for judged in segments)
    return _Panel(title=f"{pair[0]} to {pair[1]}", pairs=(pair,), steps=steps, share=allowed.flow)


def _of_link(name: str, load: Load, segments: Sequence[Judged], allowed: Tolerance) -> _Panel:
    """Flows that ever cross a link; where it is not full there is no step."""
    through = tuple(
        pair
        for pair in load.sample.pairs
        if any(
            pair in judged.segment.picture.ways and name in judged.segment.picture.ways[pair].links
            for judged in segments
        )
    )
    steps = tuple(judged.links.get(name) for judged in segments)
    title = f"link {name}, {len(through)} flows"
    return _Panel(title=title, pairs=through, steps=steps, share=allowed.sum)


def _draw_panel(
    axes: Axes, panel: _Panel, load: Load, segments: Sequence[Judged], curves: Throughput
) -> None:
    times, rates = _curve(panel.pairs, load, curves)
    axes.plot(times, rates, color=_MEASURED, linewidth=0.9)
    top = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
    for judged, held in zip(segments, panel.steps, strict=True):
        begin, end = judged.segment.begin_ns / SECOND, judged.segment.end_ns / SECOND
        if held is None or held.expected_bps is None:
            continue
        rate = held.expected_bps / 1e6
        top = max(top, rate)
        judged_at_all = held.ok is not None
        axes.plot(
            [begin, end], [rate, rate], color=_MODEL, linewidth=1.4,
            linestyle="-" if judged_at_all else ":",
        )  # fmt: skip
        if judged_at_all:
            colour = _MODEL if held.ok else _OFF
            low, high = rate * (1 - panel.share), rate * (1 + panel.share)
            axes.fill_between([begin, end], low, high, color=colour, alpha=0.15, linewidth=0)
        if held.ok is False:
            axes.axvspan(begin, end, color=_OFF, alpha=0.10, linewidth=0)
    for number, judged in enumerate(segments[1:], start=1):
        at = judged.segment.begin_ns / SECOND
        axes.axvline(at, color="#888888", linewidth=0.7, linestyle="--")
        axes.text(
            at, 1.0, str(number), transform=axes.get_xaxis_transform(), fontsize=6,
            color="#666666", ha="center", va="bottom",
        )  # fmt: skip
    axes.set_title(panel.title, fontsize=8, pad=9)
    axes.set_xlim(0, load.time_ns / SECOND)
    axes.set_ylim(0, 1.15 * top or 1.0)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)


def _curve(
    pairs: Sequence[Pair], load: Load, curves: Throughput
) -> tuple[list[float], list[float]]:
    """Middle of each interval, and Mbit/s in it; NaN where one of the pairs was not recorded."""
    count = load.time_ns // curves.every_ns
    total = np.zeros(count)
    for pair in pairs:
        sizes = list(curves.received.get(pair, ()))[:count]
        sizes += [None] * (count - len(sizes))
        total += np.array([math.nan if size is None else size for size in sizes])
    every = curves.every_ns / SECOND
    times = (np.arange(count) + 0.5) * every
    return times.tolist(), (total * 8 / every / 1e6).tolist()


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=_MEASURED, label="measured"),
        Line2D([], [], color=_MODEL, label="model"),
        Line2D([], [], color=_MODEL, linestyle=":", label="model, not judged"),
        Patch(color=_MODEL, alpha=0.15, label="tolerance"),
        Patch(color=_OFF, alpha=0.25, label="off"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7)


def _legend_of_events(segments: Sequence[Judged]) -> str:
    """What the numbered lines are."""
    lines = [
        f"{number}: {judged.segment.begin_ns / SECOND:g} s {_short(', '.join(judged.segment.what))}"
        for number, judged in enumerate(segments[1:], start=1)
    ]
    more = len(lines) - _EVENTS_NAMED
    if more > 0:
        lines = [*lines[:_EVENTS_NAMED], f"and {more} more"]
    return "\n".join("    ".join(lines[i : i + 3]) for i in range(0, len(lines), 3))


def _short(text: str) -> str:
    return text if len(text) <= 48 else text[:45] + "..."


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentFault(
            "Python's matplotlib package is missing", remedy="pip install 'peerbed[deploy]'"
        ) from error
    return Figure(figsize=size, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
