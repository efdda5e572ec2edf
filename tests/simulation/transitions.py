"""Holds what machines do to their tables (`node.core.tables`, `node.core.tables_member`).

A table's row says which states an event may lead to from a state. An event without a row of its
own in a state must not change it. `seen` is what a run has taken of the rows, so that many runs
together can tell which rows nobody ever takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from node.core.tables import Row

RowId = tuple[str, str, str]
"""Table, state and event of one row, as they are written there."""
_known: dict[tuple[str, str, str, str], list[RowId] | None] = {}
"""Which rows allow a transition of a table, for all worlds: there are few, and they are many."""


@dataclass(slots=True)
class Table:
    """One machine's table, ready to be asked.

    Args:
        seen: rows by what has been taken of them, and how often.
    """

    name: str
    rows: tuple[Row, ...]
    seen: dict[RowId, int] = field(default_factory=dict)

    def check(self, state: str, event: str, to: str) -> str | None:
        """Note a transition; what is wrong with it, or None."""
        key = (self.name, state, event, to)
        if key not in _known:
            found = self._find(state, event, to)
            named = None if found is None else [(self.name, r.state, r.event) for r in found]
            _known[key] = named
        rows = _known[key]
        if rows is None:
            allowed = sorted({s for row in self._rows(state, event) for s in row.to}) or [state]
            return f"{self.name}: {state} --{event}--> {to}, where the table has {allowed}"
        for row in rows:
            self.seen[row] = self.seen.get(row, 0) + 1
        return None

    def row_ids(self) -> Iterable[RowId]:
        return [(self.name, row.state, row.event) for row in self.rows]

    def _rows(self, state: str, event: str) -> list[Row]:
        named = [row for row in self.rows if event in row.event.split(" | ")]
        here = [row for row in named if row.state == state]
        others = [row for row in named if row.state == "any"]
        other_events = [r for r in self.rows if r.event == "any" and r.state in (state, "any")]
        return here + others or other_events

    def _find(self, state: str, event: str, to: str) -> list[Row] | None:
        rows = self._rows(state, event)
        fit = [row for row in rows if to in row.to or (row.state == "any" and to == state)]
        if fit:
            return fit
        return [] if not rows and to == state else None
