"""Verdicts: each thing that can be wrong makes a run not valid, and is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deploy.checks import CHECKS, Finding, Judgement, judge
from deploy.history import Ending, History, MemberState
from tests.unit.runs import (
    NAMES,
    changed,
    coordinator_events,
    ended,
    event,
    good_history,
    links_json,
    node_events,
    plan,
    reasons,
)

GOOD = good_history()


def ending(**changes: Any) -> Ending:
    return Ending(**{"members": ended(), **changes})


def with_node(extra: Any) -> dict[str, Any]:
    return {"n-0": [*GOOD.nodes["n-0"], extra], "n-1": GOOD.nodes["n-1"]}


def test_a_good_run_is_valid() -> None:
    verdict = judge(GOOD)
    assert verdict.to_json() == {
        "verdict": "valid", "reasons": [], "exit_status": 0, "remarks": []
    }  # fmt: skip
    assert verdict.exit_status == 0


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "interrupted": ({"ending": ending(interrupted="interrupted (Ctrl-C)")}, "Ctrl-C"),
    "deploy's own problem": ({"ending": ending(problems=("the run hangs",))}, "the run hangs"),
    "coordinator's error": (
        {"coordinator": coordinator_events(error="n-1: lost; n-0: disk full")},
        "n-0: disk full",
    ),
    "coordinator without an end": (
        {"coordinator": coordinator_events()[:-1]},
        "coordinator: its records stop",
    ),
    "node's error": (
        {"nodes": with_node(event("n-0", "error", 3.0, message="trainer died"))},
        "n-0: trainer died",
    ),
    "exit status": ({"ending": ending(members=ended(n_1=7))}, "n-1: exit status 7"),
    "signal": ({"ending": ending(members=ended(n_1=137))}, "n-1: killed by signal 9"),
    "last words": (
        {"ending": ending(members=ended(n_1=1), last_words={"n-1": "no such data set"})},
        "n-1: exit status 1: no such data set",
    ),
    "out of memory": (
        {
            "ending": ending(
                members=ended()
                | {
                    "n-0": MemberState(
                        member="n-0", status="exited", alive=False, exit_status=137, oom_killed=True
                    )
                }
            )
        },
        "n-0: killed: out of memory",
    ),
    "member missing": (
        {"ending": ending(members={k: v for k, v in ended().items() if k != "n-0"})},
        "n-0: it was never started",
    ),
    "hung": ({"ending": ending(stopped={"n-1": "paused"})}, "n-1: it had not ended"),
    "did not stop": ({"ending": ending(killed=("n-0",))}, "n-0: it did not stop when asked to"),
    "different ends": (
        {
            "coordinator": [
                *(e for e in coordinator_events(reason="rounds+time") if e["kind"] != "member"),
                event("coordinator", "member", 2.0, member="n-0", state="done", reason="rounds"),
                event("coordinator", "member", 2.0, member="n-1", state="done", reason="time"),
            ]
        },
        "n-0 at rounds, n-1 at time",
    ),
    "another end": ({"coordinator": coordinator_events(reason="nobody left")}, "nobody left"),
    "too few rounds": (
        {"nodes": {"n-0": node_events("n-0", rounds=1), "n-1": GOOD.nodes["n-1"]}},
        "n-0: 1 rounds of 2",
    ),
    "no training": ({"nodes": {"n-0": [], "n-1": GOOD.nodes["n-1"]}}, "n-0: no evaluation"),
    "never started": (
        {"coordinator": [e for e in coordinator_events() if e["kind"] != "start"]},
        "before training began",
    ),
    "link not as asked": (
        {"links": links_json(ok=False, why="round trip 45 ms")},
        "link n-1 to n-0: not as asked: round trip 45 ms",
    ),
    "no links.json": ({"links": None}, "links.json is missing"),
    "clock back": ({"nodes": with_node(event("n-0", "peer", 0.5))}, "n-0: its run clock went back"),
    "less on the wire": (
        {"nodes": with_node(event("n-0", "bytes", 3.0, model_delivered=5000, wire_tx=4000))},
        "n-0: 4000 bytes left its interface",
    ),
    "more arrived": (
        {"nodes": with_node(event("n-0", "bytes", 3.0, model_received=9_000_000))},
        "more model bytes arrived than were sent",
    ),
    "more acknowledged": (
        {"nodes": with_node(event("n-0", "bytes", 3.0, model_delivered=9_000_000))},
        "more model bytes were acknowledged than arrived",
    ),
    "clocks apart": (
        {
            "nodes": {
                "n-0": GOOD.nodes["n-0"],
                "n-1": [{**e, "wall": e["wall"] + 2.0} for e in GOOD.nodes["n-1"]],
            }
        },
        "n-1: its run clock started 2.00 s after that of n-0",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_makes_a_run_invalid(name: str) -> None:
    changes, reason = INVALID[name]
    verdict = judge(changed(GOOD, **changes))
    assert verdict.judgement is Judgement.INVALID
    assert reason in reasons(verdict.reasons)
    assert verdict.exit_status == 1


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "links off": ({"plan": plan(links="off"), "links": None}, "links: off"),
    "link not measured": (
        {"links": links_json(ok=None)},
        "link n-0 to n-1, link n-1 to n-0: not measured",
    ),
    "pair missing": (
        {"links": links_json() | {"pairs": links_json()["pairs"][:1]}},
        "link n-1 to n-0: not measured",
    ),
    "half a line": ({"garbled": {"n-0": 1}}, "n-0: a line of its records cannot be read"),
    "nobody saw it end": ({"ending": ending(members=ended(None))}, "nobody saw it end"),
    "odd links.json": ({"links": {"emulator": "netem"}}, "check links failed: KeyError"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_makes_a_run_unknown(name: str) -> None:
    changes, reason = UNKNOWN[name]
    verdict = judge(changed(GOOD, **changes))
    assert verdict.judgement is Judgement.UNKNOWN
    assert reason in reasons(verdict.reasons)
    assert verdict.exit_status == 1


def test_a_check_that_throws_is_unknown_but_does_not_hide_what_is_invalid() -> None:
    def throws(history: History) -> Iterator[Finding]:
        yield Finding(judgement=Judgement.UNKNOWN, reason="before")
        raise RuntimeError("broken")

    verdict = judge(GOOD, checks=(throws, *CHECKS))
    assert verdict.judgement is Judgement.UNKNOWN
    assert "check throws failed: RuntimeError: broken" in reasons(verdict.reasons)
    bad = changed(GOOD, ending=ending(problems=("really wrong",)))
    verdict = judge(bad, checks=(throws, *CHECKS))
    assert verdict.judgement is Judgement.INVALID
    assert verdict.reasons[0] == "really wrong"


def test_what_is_true_of_many_is_said_once() -> None:
    def many(history: History) -> Iterator[Finding]:
        for number in range(12):
            yield Finding(judgement=Judgement.INVALID, reason="too slow", who=f"n-{number}")

    verdict = judge(GOOD, checks=(many,))
    assert verdict.reasons == ("n-0, n-1, n-2, n-3, n-4, n-5, n-6, n-7, and 4 more: too slow",)


def test_an_interrupted_run_is_not_blamed_for_its_early_end() -> None:
    cut = changed(
        GOOD,
        coordinator=coordinator_events()[:3],
        nodes=dict.fromkeys(NAMES, ()),
        links=None,
        ending=Ending(interrupted="interrupted (Ctrl-C)"),
    )
    assert judge(cut).reasons == ("interrupted (Ctrl-C)",)


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (2, 2), (1, 1), (137, 1)])
def test_what_a_member_lacks_before_the_start_is_the_exit_status(
    status: int, expected: int
) -> None:
    early = changed(
        GOOD,
        coordinator=[e for e in coordinator_events() if e["kind"] != "start"],
        ending=ending(members=ended(n_0=status)),
    )
    assert judge(early).exit_status == expected
    assert judge(changed(GOOD, ending=ending(members=ended(n_0=status)))).exit_status == 1
