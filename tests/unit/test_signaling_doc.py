"""docs/signaling.md shows the tables that the machines follow, as diagrams and in words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from node.core.coordinator import Phase
from node.core.member import State
from node.core.rounds import RoundState
from node.core.tables import COORDINATOR, ROUNDS, Row
from node.core.tables_member import MEMBER, PARTICIPANT

DOC = Path(__file__).parents[2] / "docs" / "signaling.md"
MARK = "pytest tests/unit/test_signaling_doc.py -->\n"
TABLES = (
    ("The life of a run (coordinator)", COORDINATOR),
    ("The rounds (coordinator)", ROUNDS),
    ("The life of a member", MEMBER),
    ("A member's part in the rounds", PARTICIPANT),
)
EVENTS_SHOWN = 3


def rendered() -> str:
    return "".join(section(title, rows) for title, rows in TABLES)


def section(title: str, rows: Sequence[Row]) -> str:
    lines = [f"\n### {title}\n\n", *diagram(rows), "\n| state | event | what it does | then |\n"]
    lines.append("|---|---|---|---|\n")
    for row in rows:
        events = row.event.replace(" | ", ", ")
        then = ", ".join(row.to) if row.to != (row.state,) else ""
        lines.append(f"| {row.state} | {events} | {row.does} | {then} |\n")
    return "".join(lines)


def diagram(rows: Sequence[Row]) -> Iterable[str]:
    """The transitions between different states; events in order of the rows, a few of them."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for target in row.to:
            if target != row.state and row.state != "any":
                events = arrows.setdefault((row.state, target), [])
                events += [e for e in row.event.split(" | ") if e not in events]
    yield "```mermaid\nstateDiagram-v2\n"
    yield f"    [*] --> {rows[0].state}\n"
    for (source, target), events in arrows.items():
        more = ", ..." if len(events) > EVENTS_SHOWN else ""
        yield f"    {source} --> {target}: {', '.join(events[:EVENTS_SHOWN])}{more}\n"
    yield "```\n"


def test_the_document_shows_the_tables() -> None:
    text = DOC.read_text()
    head, mark, _ = text.partition(MARK)
    assert mark, f"{DOC} has lost its mark"
    wanted = head + mark + rendered()
    if os.environ.get("PEERBED_REWRITE"):
        DOC.write_text(wanted)
    assert DOC.read_text() == wanted, "write it again: PEERBED_REWRITE=1"


@pytest.mark.parametrize(
    ("rows", "states"),
    [
        (COORDINATOR, {phase.value for phase in Phase}),
        (ROUNDS, {state.value for state in RoundState}),
        (MEMBER, {state.value for state in State}),
    ],
)
def test_the_tables_speak_of_states_that_exist(rows: Sequence[Row], states: set[str]) -> None:
    named = {row.state for row in rows} | {state for row in rows for state in row.to}
    assert named - {"any"} <= states
    assert states - named <= {"ended", "left", "closed"}, "and of all of them"
