"""A verification for people: its segments, the worst flows and links, and the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from deploy.history import as_float

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_ROWS_MAX: Final = 24
_WHAT_MAX: Final = 60


def tables(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What `verify.json` says, as tables and lines."""
    segments = list(document.get("segments") or ())
    yield _segments(segments)
    rows = [row for number, segment in enumerate(segments) for row in _rows(number, segment)]
    if rows:
        yield _flows(rows)
    if events := document.get("events"):
        yield _events(events)
    for note in document.get("notes") or ():
        yield str(note)
    cpu = document.get("cpu") or {}
    if (busy := as_float(cpu.get("busy"))) is not None:
        yield f"the machine's {cpu.get('cores')} cores were {busy:.0%} busy while all sent"


def _segments(segments: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title="all at once: payload, sum over all flows", title_justify="left")
    for heading in ("", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("since then", overflow="fold")
    for heading in ("flows", "expected", "measured", "off", "not judged"):
        table.add_column(heading, justify="right")
    for number, segment in enumerate(segments):
        flows, links = segment.get("flows") or [], segment.get("links") or []
        judged = [flow for flow in flows if flow.get("ok") is not None]
        sums = [sum(as_float(f.get(key)) or 0.0 for f in judged) for key in _KEYS]
        off = sum(entry.get("ok") is False for entry in (*flows, *links))
        table.add_row(
            str(number),
            f"{segment.get('begin_s'):g} to {segment.get('end_s'):g}",
            _short(", ".join(segment.get("what") or ())),
            str(len(flows)),
            *(_rate(total) for total in sums),
            str(off or "-"),
            str(len(flows) - len(judged) or "-"),
            style="red" if off else None,
        )
    return table


_KEYS: Final = ("expected_bps", "measured_bps")


def _rows(number: int, segment: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for flow in segment.get("flows") or ():
        yield number, f"{flow.get('from')} to {flow.get('to')}", flow
    for link in segment.get("links") or ():
        yield number, f"link {link.get('name')} (sum)", link


def _flows(rows: Sequence[tuple[int, str, Mapping[str, Any]]]) -> Table:
    """All of them, or the worst."""
    from rich.table import Table

    shown = rows
    title = "flows and full links"
    if len(rows) > _ROWS_MAX:
        shown = sorted(rows, key=lambda row: _rank(row[2]))[:_ROWS_MAX]
        fine = sum(row[2].get("ok") is True for row in rows)
        title += f": the worst {len(shown)} of {len(rows)}, {fine} of which are as expected"
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("flow")
    for heading in ("asked", "expected", "measured", "off by"):
        table.add_column(heading, justify="right")
    table.add_column("as expected", overflow="fold")
    for number, name, held in shown:
        error = _error(held)
        table.add_row(
            str(number),
            name,
            *(_rate(as_float(held.get(key))) for key in ("asked_bps", *_KEYS)),
            "-" if error is None else f"{error:+.1%}",
            {True: "yes", None: f"not judged: {held.get('why')}"}.get(
                held.get("ok"), str(held.get("why"))
            ),
            style="red" if held.get("ok") is False else None,
        )
    return table


def _rank(held: Mapping[str, Any]) -> tuple[int, float]:
    """What is off first, then what is not judged, then by how far it is off."""
    order = {False: 0, None: 1, True: 2}[held.get("ok")]
    return order, -abs(_error(held) or 0.0)


def _error(held: Mapping[str, Any]) -> float | None:
    expected, measured = (as_float(held.get(key)) for key in _KEYS)
    return None if not expected or measured is None else measured / expected - 1


def _events(events: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    title, shown = "events", events
    if len(events) > _ROWS_MAX:
        shown = sorted(events, key=lambda event: event.get("ok") is not False)[:_ROWS_MAX]
        title += f": {len(shown)} of {len(events)}, those that are off first"
    table = Table(title=title, title_justify="left")
    table.add_column("at", justify="right")
    table.add_column("what", overflow="fold")
    for heading in ("nodes", "late by", "spread"):
        table.add_column(heading, justify="right")
    table.add_column("in force as asked", overflow="fold")
    for event in shown:
        table.add_row(
            f"{event.get('at_s'):g} s",
            _short(", ".join(event.get("what") or ())),
            str(event.get("nodes")),
            *(_millis(as_float(event.get(key))) for key in ("late_ms", "spread_ms")),
            "yes" if event.get("ok") else str(event.get("why")),
            style=None if event.get("ok") else "red",
        )
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3f} Mbit/s"


def _millis(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _short(text: str) -> str:
    return text if len(text) <= _WHAT_MAX else text[: _WHAT_MAX - 3] + "..."
