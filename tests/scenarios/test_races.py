"""The 18 races of frameworks.md, section 4.5, one after the other.

Each is played as a scenario, and where feasible in all orders of the messages that race. What
happens is kept as a transcript beside this file (messages as they arrive, changes of state, times
in s of virtual time, a signal's round and attempt in brackets), so that a change of behaviour is a
diff to be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios import barrier_races, membership_races, sync_races

HERE = Path(__file__).parent
RACES: dict[str, Callable[[], str]] = {
    "T01-payload-before-listener": barrier_races.t01,
    "T02-start-before-last-edge": barrier_races.t02,
    "T03-stale-report": barrier_races.t03,
    "T04-stale-order-in-new-round": barrier_races.t04,
    "T05-one-unreachable-peer": barrier_races.t05,
    "T06-leave-in-each-state": membership_races.t06,
    "T07-join-in-each-state": membership_races.t07,
    "T08-enough-overtakes-welcome": membership_races.t08,
    "T09-double-timer": barrier_races.t09,
    "T10-provider-dies": sync_races.t10,
    "T11-two-newcomers-one-provider": sync_races.t11,
    "T12-round-ends-during-sync": sync_races.t12,
    "T13-coordinator-restarts": membership_races.t13,
    "T14-member-restarts": membership_races.t14,
    "T15-asymmetric-reachability": barrier_races.t15,
    "T16-duplicates-in-any-order": membership_races.t16,
    "T17-threshold-flaps": membership_races.t17,
    "T18-deadline-against-last-payload": barrier_races.t18,
}


@pytest.mark.parametrize("name", RACES)
def test_race(name: str) -> None:
    play = RACES[name]
    title = (play.__doc__ or "").strip()
    text = f"{name.split('-')[0]}. {title}\n\n{play()}"
    path = HERE / f"{name}.txt"
    if os.environ.get("PEERBED_REWRITE"):
        path.write_text(text)
    assert path.read_text() == text, (
        "made anew by: PEERBED_REWRITE=1 pytest tests/scenarios/test_races.py"
    )


def test_all_races_are_there() -> None:
    assert [name[:3] for name in RACES] == [f"T{number:02}" for number in range(1, 19)]
    assert {path.stem for path in HERE.glob("T*.txt")} == set(RACES)
