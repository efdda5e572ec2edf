"""What is swept, what is left alone, and what `down` ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import owner, sweep
from deploy.results import Results, RunFolder, RunState
from deploy.sweep import down
from node.errors import ConfigError, EnvironmentFault
from tests.unit.runs import FakeBackend, good_history, new_folder, write_records


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """No engine here, and a backend that only notes what it is told."""
    fake = FakeBackend(lambda poll: {})
    monkeypatch.setattr(sweep, "engine_answers", lambda: False)
    monkeypatch.setattr(sweep, "make_backend", lambda kind: fake)
    return fake


def abandon(folder: RunFolder) -> RunFolder:
    """Its owner is dead."""
    folder.write_text(folder.owner_file, replace(owner.current(), start=1).to_json())
    return folder


def test_an_abandoned_run_is_ended_in_its_owners_place(
    tmp_path: Path, backend: FakeBackend
) -> None:
    folder = abandon(new_folder(tmp_path))
    write_records(folder, good_history())
    said: list[str] = []
    assert sweep.sweep(Results(tmp_path / "results"), say=said.append) == [folder]
    assert said == ["sweeping pair/r1: the process that ran it is gone"]
    assert backend.calls == ["stop", "collect", "destroy"]
    assert folder.verdict is not None
    assert folder.verdict["verdict"] == "invalid"
    assert folder.verdict["reasons"] == [
        "interrupted: the process that ran it ended before the verdict"
    ]
    assert folder.summary is not None
    assert folder.summary["rounds"] == 2
    assert sweep.sweep(Results(tmp_path / "results"), say=said.append) == []


def test_what_is_not_ours_is_left(tmp_path: Path, backend: FakeBackend) -> None:
    running, elsewhere, done = (new_folder(tmp_path, run_id=name) for name in ("a", "b", "c"))
    text = replace(owner.current(), host="another-host").to_json()
    elsewhere.write_text(elsewhere.owner_file, text)
    done.write_json(done.verdict_file, {"verdict": "valid", "reasons": []})
    assert sweep.sweep(Results(tmp_path / "results"), say=lambda line: None) == []
    assert running.state() is RunState.RUNNING
    assert backend.calls == []


def test_a_run_without_a_plan_only_gets_its_verdict(tmp_path: Path, backend: FakeBackend) -> None:
    folder = abandon(new_folder(tmp_path))
    folder.plan_file.unlink()
    sweep.sweep(Results(tmp_path / "results"), say=lambda line: None)
    assert folder.state() is RunState.ENDED
    assert backend.calls == []


def test_a_docker_run_waits_for_its_engine(tmp_path: Path, backend: FakeBackend) -> None:
    from deploy.plan import BackendKind, plan_json
    from tests.unit.runs import plan

    folder = abandon(new_folder(tmp_path))
    folder.plan_file.write_text(plan_json(plan(backend=BackendKind.DOCKER)))
    said: list[str] = []
    assert sweep.sweep(Results(tmp_path / "results"), say=said.append) == []
    assert "no Docker engine answers" in said[0]
    assert folder.state() is RunState.ABANDONED


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a run and, told to end, writes its verdict."""
    folder = new_folder(tmp_path)
    verdict = folder.verdict_file
    script = f"""
trap 'echo "{{\\"verdict\\": \\"invalid\\", \\"reasons\\": []}}" > {verdict}; exit 0' TERM
echo ready
while :; do sleep 0.05; done
"""
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        folder.write_text(folder.owner_file, owner.describe(process.pid).to_json())
        yield process
        process.kill()


def test_down_asks_the_owner(
    tmp_path: Path, supervisor: subprocess.Popen[str], backend: FakeBackend
) -> None:
    results = tmp_path / "results"
    assert down(None, everything=False, results=results, as_json=False) == 0
    assert supervisor.wait(timeout=10) == 0
    assert RunFolder(results / "pair" / "r1").state() is RunState.ENDED
    assert backend.calls == []


def test_down_twice_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = abandon(new_folder(tmp_path))
    results = tmp_path / "results"
    assert down("r1", everything=False, results=results, as_json=True) == 0
    assert '"run": "r1"' in capsys.readouterr().out
    assert folder.state() is RunState.ENDED
    for _ in range(2):
        assert down("r1", everything=False, results=results, as_json=False) == 0
        assert "nothing to end" in capsys.readouterr().err
    assert down(None, everything=True, results=results, as_json=False) == 0


def test_down_without_a_name_never_guesses(tmp_path: Path) -> None:
    for name in ("a", "b"):
        new_folder(tmp_path, run_id=name)
    with pytest.raises(ConfigError, match="2 runs are under way: a, b"):
        down(None, everything=False, results=tmp_path / "results", as_json=False)


def test_down_leaves_runs_of_other_hosts(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.write_text(folder.owner_file, replace(owner.current(), host="another-host").to_json())
    with pytest.raises(EnvironmentFault, match="on another-host"):
        down("r1", everything=False, results=tmp_path / "results", as_json=False)
