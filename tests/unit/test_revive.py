"""A coordinator that dies is started again, three times at most, and that is in the records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy import conduct as conducting
from deploy.checks import judge
from deploy.conduct import Watch, conduct
from deploy.history import MemberState
from deploy.interrupt import Interruption
from deploy.interventions import stopped
from deploy.records import load_history
from deploy.results import RunFolder
from deploy.revive import TIMES, Revival
from node.core.ids import NodeId
from node.errors import RunFailed
from tests.unit.runs import (
    WALL,
    FakeBackend,
    Lines,
    ended,
    good_history,
    new_folder,
    plan,
    write_records,
)


class Again(FakeBackend):
    """Starts things again, or fails to."""

    def __init__(self, script: Any, *, error: str = "") -> None:
        super().__init__(script)
        self.acts: list[tuple[str, str]] = []
        self._error = error

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        self.acts.append((node, verb))
        if self._error:
            raise RunFailed(self._error, where=node)


def states(status: int | None, *, alive: bool = False, oom: bool = False) -> dict[str, MemberState]:
    made = {name: MemberState(member=name, status="running", alive=True) for name in ("n-0", "n-1")}
    dead = MemberState(
        member="coordinator", status="exited", alive=alive, exit_status=status, oom_killed=oom
    )
    return {**made, "coordinator": dead}


def revival(folder: RunFolder, backend: Again) -> tuple[Revival, Lines]:
    screen = Lines()
    clock = lambda: WALL + 12.5  # noqa: E731
    return Revival(folder=folder, backend=backend, say=screen.say, clock=clock), screen


def tend(one: Revival, now: Mapping[str, MemberState], *, phase: str = "running") -> bool:
    return one.tend(now, phase=phase, started_at=WALL)


def test_a_coordinator_that_was_killed_is_started_again_three_times(tmp_path: Path) -> None:
    folder, backend = new_folder(tmp_path), Again(lambda _: {})
    one, screen = revival(folder, backend)
    assert [tend(one, states(137)) for _ in range(TIMES + 1)] == [True] * TIMES + [False]
    assert backend.acts == [("coordinator", "restart")] * TIMES
    assert screen.lines[0] == (
        "coordinator: started again by deploy at 12.500 s, having been killed by signal 9"
    )
    records = [json.loads(line) for line in folder.control_log.read_text().splitlines()]
    assert [(r["member"], r["verb"], r["by"]) for r in records] == [
        ("coordinator", "restart", "deploy")
    ] * TIMES


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (states(None, alive=True), "running"),
        (states(0), "running"),
        (states(1), "running"),
        (states(2), "running"),
        (states(3), "running"),
        (states(137), "measuring"),
        (states(137), "stopping"),
        ({}, "running"),
    ],
)
def test_one_that_runs_or_has_ended_or_is_not_needed_is_left_alone(
    now: Mapping[str, MemberState], phase: str, tmp_path: Path
) -> None:
    backend = Again(lambda _: {})
    one, _ = revival(new_folder(tmp_path), backend)
    assert not tend(one, now, phase=phase)
    assert backend.acts == []


def test_it_may_die_while_it_finds_its_way_back(tmp_path: Path) -> None:
    one, _ = revival(new_folder(tmp_path), Again(lambda _: {}))
    assert tend(one, states(137, oom=True), phase="recovering")


def test_what_cannot_be_started_is_told_and_not_tried_again(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    backend = Again(lambda _: {}, error="the engine is gone")
    one, screen = revival(folder, backend)
    assert not tend(one, states(137))
    assert not tend(one, states(137))
    assert len(backend.acts) == 1
    assert "not started again" in screen.lines[0]
    assert "the engine is gone" in screen.lines[0]
    write_records(folder, good_history())
    history = load_history(folder=folder, plan=plan(), ending=good_history().ending)
    (reason,) = judge(history).reasons
    assert reason.startswith("coordinator: not started again")


def test_the_run_goes_on_and_its_verdict_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conducting, "_POLL_EVERY_S", 0.0)
    monkeypatch.setattr(conducting, "_LOOK_EVERY_S", 0.01)
    folder = new_folder(tmp_path)

    def script(poll: int) -> Mapping[str, MemberState]:
        if poll == 1:
            folder.coordinator_file.write_text(
                "".join(
                    json.dumps(e) + "\n"
                    for e in good_history().coordinator
                    if e["kind"] not in ("stop", "finish", "merged")
                )
            )
        if poll == 5:
            write_records(folder, good_history())
        return states(137) if poll in (3, 4) else ended() if poll > 5 else states(None, alive=True)

    backend = Again(script)
    verdict = conduct(
        folder=folder, plan=plan(), backend=backend, screen=Lines(), interruption=Interruption()
    )
    assert backend.acts[0] == ("coordinator", "restart")
    assert verdict.judgement == "valid", verdict.reasons
    assert any("coordinator: started again by deploy" in remark for remark in verdict.remarks)
    assert folder.summary is not None
    assert folder.summary["signaling"]["coordinator_restarts"] == len(backend.acts)


def test_it_is_nobodys_fate(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    one, _ = revival(folder, Again(lambda _: {}))
    tend(one, states(137))
    write_records(folder, good_history())
    history = load_history(folder=folder, plan=plan(), ending=good_history().ending)
    assert stopped(history) == {}


# What the watch makes of members that are not there ----------------------------------------------


def test_nodes_on_standby_or_expelled_have_not_ended_before_the_start() -> None:
    run = plan()
    told = replace(run.coordinator, standby=(NodeId("n-0"),))
    watch = Watch(plan=replace(run, coordinator=told), now=100.0)
    now = states(None, alive=True)
    now["n-0"] = MemberState(member="n-0", status="created", alive=False)
    now["n-2"] = MemberState(member="n-2", status="running", alive=True)
    now["n-1"] = MemberState(member="n-1", status="exited", alive=False, exit_status=1)
    for at in (101.0, 110.0):
        found = watch.judge(now, now=at, phase="connecting", started=False, gone={"n-1"})
        assert found is None
    for at in (111.0, 120.0):
        found = watch.judge(now, now=at, phase="connecting", started=False)
    assert found == ["ended before the run began: n-1 (exit status 1); see its log"]


def test_a_coordinator_that_is_back_has_time(tmp_path: Path) -> None:
    watch = Watch(plan=plan(), now=100.0)
    told = plan().coordinator
    limit = conducting.total_s(told.deadlines, time_ns=30 * 10**9, rounds=told.rounds)
    watch.prolong()
    now = states(None, alive=True)
    assert watch.judge(now, now=100 + limit + 5, phase="running", started=True) is None
    found = watch.judge(now, now=100 + limit + 60, phase="running", started=True)
    assert found is not None
