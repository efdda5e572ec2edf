"""Conducting a run: when it is over, and that every end of it is in order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy import conduct as conducting
from deploy.checks import Judgement, Verdict
from deploy.conduct import Watch, conduct
from deploy.history import MemberState
from deploy.interrupt import Interruption
from deploy.results import RunFolder, RunState
from node.errors import EnvironmentFault, RunFailed
from tests.unit.runs import (
    FakeBackend,
    Lines,
    ended,
    good_history,
    new_folder,
    plan,
    reasons,
    write_records,
)


def running(*dead: str, statuses: Mapping[str, int] | None = None) -> dict[str, MemberState]:
    """All members run but those that ended, with status 0 unless told."""
    return {
        name: MemberState(member=name, status="running", alive=True)
        if name not in dead
        else MemberState(
            member=name, status="exited", alive=False, exit_status=(statuses or {}).get(name, 0)
        )
        for name in ("n-0", "n-1", "coordinator")
    }


# When it is over ---------------------------------------------------------------------------------


@pytest.fixture
def watch() -> Watch:
    return Watch(plan=plan(), now=100.0)


def test_an_orderly_end(watch: Watch) -> None:
    assert watch.judge(running(), now=101.0, phase="running", started=True) is None
    assert watch.judge(running("coordinator"), now=102.0, phase="running", started=True) is None
    assert watch.judge(ended(), now=103.0, phase="running", started=True) == []


def test_a_coordinator_that_dies_ends_the_run_at_once(watch: Watch) -> None:
    states = running("coordinator", statuses={"coordinator": 137})
    found = watch.judge(states, now=101.0, phase="running", started=True)
    assert found == ["the coordinator ended unexpectedly (killed by signal 9)"]
    states.pop("coordinator")
    assert watch.judge(states, now=101.0, phase="running", started=True) is not None


def test_nodes_that_outlive_the_coordinator_are_ended_after_its_deadline(watch: Watch) -> None:
    states = running("coordinator", "n-0")
    assert watch.judge(states, now=110.0, phase="running", started=True) is None
    assert watch.judge(states, now=129.0, phase="running", started=True) is None
    assert watch.judge(states, now=131.0, phase="running", started=True) == []


def test_nobody_waits_for_one_that_is_paused_once_the_coordinator_has_ended(watch: Watch) -> None:
    states = running("coordinator", "n-0", statuses={"coordinator": 0})
    states["n-0"] = dataclasses.replace(states["n-0"], alive=True, status="paused")
    states["n-1"] = dataclasses.replace(states["n-1"], alive=False, status="exited", exit_status=0)
    assert watch.judge(states, now=101.0, phase="ended", started=True) == []
    both = {
        name: dataclasses.replace(state, alive=True, status="paused")
        for name, state in running().items()
    }
    both["coordinator"] = running()["coordinator"]
    for now in (101.0, 128.0):
        assert watch.judge(both, now=now, phase="running", started=True) is None


def test_a_node_that_ends_before_the_start_ends_the_run_soon(watch: Watch) -> None:
    states = running("n-1", statuses={"n-1": 3})
    assert watch.judge(states, now=101.0, phase="preparing", started=False) is None
    found = watch.judge(states, now=105.0, phase="preparing", started=False)
    assert found == ["ended before the run began: n-1 (exit status 3); see its log"]


def test_a_node_lost_later_is_the_coordinators_business(watch: Watch) -> None:
    states = running("n-1", statuses={"n-1": 137})
    assert watch.judge(states, now=105.0, phase="running", started=True) is None
    assert watch.judge(states, now=115.0, phase="running", started=True) is None


def test_a_coordinator_has_time_for_the_merged_model(watch: Watch) -> None:
    states = running("n-0", "n-1")
    for now in (101.0, 175.0):
        assert watch.judge(states, now=now, phase="ended", started=True) is None
    assert watch.judge(states, now=177.0, phase="ended", started=True) is not None


def test_a_coordinator_without_nodes_is_ended_after_a_lease(watch: Watch) -> None:
    states = running("n-0", "n-1")
    for now in (101.0, 113.0):
        assert watch.judge(states, now=now, phase="running", started=True) is None
    found = watch.judge(states, now=115.0, phase="running", started=True)
    assert found == ["the coordinator did not end after every node had (running)"]


def test_a_hang_ends(watch: Watch) -> None:
    told = plan().coordinator
    limit = conducting.total_s(told.deadlines, time_ns=30 * 10**9, rounds=told.rounds)
    barrier = 60 + 4 * 5
    assert limit == 90 + 120 + 120 + 30 + 20 + 30 + barrier
    assert watch.judge(running(), now=100 + limit - 1, phase="running", started=True) is None
    found = watch.judge(running(), now=100 + limit + 1, phase="running", started=True)
    assert found is not None
    assert "hangs" in found[0]


# The whole of it ---------------------------------------------------------------------------------


def run(backend: FakeBackend, folder: RunFolder) -> tuple[Verdict, Lines, Interruption]:
    screen, interruption = Lines(), Interruption()
    verdict = conduct(
        folder=folder, plan=plan(), backend=backend, screen=screen, interruption=interruption
    )
    return verdict, screen, interruption


def test_a_good_run(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.reserve()
    backend = FakeBackend(lambda poll: running() if poll < 2 else ended())
    backend.records = lambda folder: write_records(folder, good_history())
    verdict, screen, _ = run(backend, folder)
    assert verdict.judgement is Judgement.VALID
    assert backend.calls == ["start", "stop", "collect", "destroy"]
    assert "measuring 2 links" in screen.lines
    assert "training" in screen.lines
    assert folder.state() is RunState.ENDED
    assert json.loads(folder.summary_file.read_text())["accuracy"]["merged"] == 0.95
    assert folder.manifest["ended_unix"] > 0
    assert not (folder.path / ".reserve").exists()


def test_a_failed_start_still_cleans_up(tmp_path: Path) -> None:
    class Broken(FakeBackend):
        def start(self, *_: object, **__: object) -> None:
            raise RunFailed("Compose could not start", remedy="do this")

    folder = new_folder(tmp_path)
    backend = Broken(lambda poll: {})
    verdict, _, _ = run(backend, folder)
    assert verdict.judgement is Judgement.INVALID
    assert "Compose could not start (do this)" in reasons(verdict.reasons)
    assert backend.calls == ["stop", "collect", "destroy"]
    assert folder.verdict == verdict.to_json()


def test_every_step_of_the_end_is_done_whatever_fails(tmp_path: Path) -> None:
    class Failing(FakeBackend):
        def stop(self, folder: RunFolder, *, grace_s: float = 10) -> list[str]:
            super().stop(folder)
            raise EnvironmentFault("the engine died")

        def collect(self, folder: RunFolder) -> list[str]:
            super().collect(folder)
            raise KeyError("a defect")

        def destroy(self, folder: RunFolder) -> None:
            super().destroy(folder)
            raise RunFailed("these could not be removed: x")

    folder = new_folder(tmp_path)
    backend = Failing(lambda poll: ended())
    backend.records = lambda folder: write_records(folder, good_history())
    verdict, _, _ = run(backend, folder)
    text = reasons(verdict.reasons)
    assert "the engine died" in text
    assert "deploy itself failed: KeyError" in text
    assert "these could not be removed: x" in text
    assert folder.summary is not None


def test_an_interrupted_run_is_ended_and_judged(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    screen, interruption = Lines(), Interruption()
    interruption.reason = "interrupted (Ctrl-C)"
    backend = FakeBackend(lambda poll: running())
    verdict = conduct(
        folder=folder, plan=plan(), backend=backend, screen=screen, interruption=interruption
    )
    assert verdict.reasons == ("interrupted (Ctrl-C)",)
    assert backend.calls == ["start", "stop", "collect", "destroy"]


def test_a_defect_keeps_its_traceback_and_leaves_a_verdict(tmp_path: Path) -> None:
    class Defect(FakeBackend):
        def start(self, *_: object, **__: object) -> None:
            raise ZeroDivisionError

    folder = new_folder(tmp_path)
    backend = Defect(lambda poll: {})
    with pytest.raises(ZeroDivisionError):
        run(backend, folder)
    assert backend.calls == ["stop", "collect", "destroy"]
    assert folder.state() is RunState.ENDED


def test_half_a_line_at_the_end_breaks_no_reader(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    backend = FakeBackend(lambda poll: ended())

    def records(folder: RunFolder) -> None:
        write_records(folder, good_history())
        with folder.node_file("n-1").open("a") as file:
            file.write('{"t": 3.0, "wall": 17')

    backend.records = records
    verdict, _, _ = run(backend, folder)
    assert verdict.judgement is Judgement.UNKNOWN
    assert verdict.reasons == ("n-1: a line of its records cannot be read",)
