"""A comparison on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from deploy.compare.analysis import Comparison, Group, Reached, Row, Value
from deploy.compare.metrics import Unit, said

if TYPE_CHECKING:
    from rich.table import Table

_WHAT = {
    "mean": ("mean of the nodes at", Unit.SHARE),
    "merged": ("merged model at", Unit.SHARE),
    "loss": ("mean loss at most", Unit.NUMBER),
}


def lines(comparison: Comparison) -> Iterator[str | Table]:
    """What is printed, in order."""
    for group in comparison.groups:
        seeds = ", ".join(map(str, group.seeds))
        many = (
            f"{len(group.runs)} seeds, mean and standard deviation: " if _many(group) else "seed "
        )
        yield f"{group.letter}  {group.name} ({group.settings.get('backend')}; {many}{seeds})"
    for note in comparison.notes:
        yield f"  note: {note}"
    yield from _differences(comparison)
    yield from _numbers("what they came to", comparison, comparison.rows)
    yield from _reached(comparison)
    yield from _over_time(comparison)
    yield from _numbers("bytes of messages by kind", comparison, comparison.kinds)
    yield from _numbers(
        "latency of messages: send queue to acknowledgement", comparison, comparison.latencies
    )


def _many(group: Group) -> bool:
    return len(group.runs) > 1


def _table(title: str, first: str, comparison: Comparison, *, ratios: bool = False) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for number, group in enumerate(comparison.groups):
        table.add_column(group.letter, justify="right")
        if ratios and number:
            table.add_column(f"{group.letter}/{comparison.groups[0].letter}", justify="right")
    return table


def _differences(comparison: Comparison) -> Iterator[str | Table]:
    if len(comparison.groups) < 2:
        yield "they differ in the seed alone"
        return
    if not comparison.differences:
        yield "they were asked to be the same"
        return
    table = _table("what differs", "setting", comparison)
    for name, texts in comparison.differences.items():
        table.add_row(name, *texts)
    yield table


def _numbers(title: str, comparison: Comparison, rows: Sequence[Row]) -> Iterator[Table]:
    if rows:
        table = _table(title, "", comparison, ratios=True)
        for row in rows:
            texts = [_said(value, row.metric.unit) for value in row.values]
            table.add_row(row.metric.name, *_with_ratios(texts, row.ratios))
        yield table


def _reached(comparison: Comparison) -> Iterator[Table]:
    if not comparison.reached:
        return
    table = _table("time to reach", "", comparison, ratios=True)
    for row in comparison.reached:
        runs = [len(group.runs) for group in comparison.groups]
        texts = [
            _time(value, count) if recorded else "-"
            for value, count, recorded in zip(row.values, runs, row.recorded, strict=True)
        ]
        table.add_row(_target(row), *_with_ratios(texts, row.ratios))
    yield table


def _time(value: Value, runs: int) -> str:
    if value.mean is not None:
        return _said(value, Unit.SECONDS)
    return "never" if not value.known else f"never in {runs - value.known} of {runs}"


def _target(row: Reached) -> str:
    words, unit = _WHAT[row.what]
    return f"{words} {said(row.target, unit)}"


def _over_time(comparison: Comparison) -> Iterator[Table]:
    if not comparison.times:
        return
    from rich.table import Table

    table = Table(title="accuracy over time (points above the first)", title_justify="left")
    table.add_column("after", justify="right")
    for group in comparison.groups:
        table.add_column(group.letter, justify="right")
    for number, time in enumerate(comparison.times):
        first = comparison.accuracy[0][number].mean
        cells = []
        for place, curve in enumerate(comparison.accuracy):
            value = curve[number]
            told = _said(value, Unit.SHARE)
            if place and first is not None and value.mean is not None:
                told += f" ({100 * (value.mean - first):+.1f})"
            cells.append(told)
        table.add_row(f"{time:g} s", *cells)
    yield table


def _with_ratios(texts: Iterable[str], ratios: Sequence[float | None]) -> Iterator[str]:
    """Each text, and from the second on what its number is of the first."""
    for number, (told, ratio) in enumerate(zip(texts, ratios, strict=True)):
        yield told
        if number:
            yield "" if ratio is None else f"{ratio:.3g}x"


def _said(value: Value, unit: Unit) -> str:
    told = said(value.mean, unit)
    return told if value.spread is None else f"{told} ± {said(value.spread, unit)}"


# JSON --------------------------------------------------------------------------------------------


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison for scripts; lists have an entry for each group, in their order."""
    return {
        "groups": [
            {
                "letter": group.letter,
                "runs": [run.name for run in group.runs],
                "seeds": group.seeds,
                "backend": group.settings.get("backend"),
            }
            for group in comparison.groups
        ],
        "notes": list(comparison.notes),
        "differences": {name: list(texts) for name, texts in comparison.differences.items()},
        "metrics": _json_rows(comparison.rows),
        "time_to_reach": [
            {"what": row.what, "target": row.target, "recorded": list(row.recorded)}
            | _json_values(row.values, row.ratios)
            for row in comparison.reached
        ],
        "accuracy_over_time": {
            "t_s": list(comparison.times),
            "mean": [[value.mean for value in curve] for curve in comparison.accuracy],
            "spread": [[value.spread for value in curve] for curve in comparison.accuracy],
        },
        "kinds": _json_rows(comparison.kinds),
        "latency": _json_rows(comparison.latencies),
    }


def _json_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        {"name": row.metric.name, "unit": row.metric.unit.value}
        | _json_values(row.values, row.ratios)
        for row in rows
    ]


def _json_values(values: Sequence[Value], ratios: Sequence[float | None]) -> dict[str, Any]:
    return {
        "mean": [value.mean for value in values],
        "spread": [value.spread for value in values],
        "known": [value.known for value in values],
        "ratio": list(ratios),
    }
