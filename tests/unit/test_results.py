"""The results folder: names, ownership, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import owner
from deploy.owner import Liveness
from deploy.results import Results, RunFolder, RunState, check_name, new_run_id
from node.errors import ConfigError, EnvironmentFault
from tests.unit.runs import new_folder


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


def test_latest_points_to_the_newest(results: Results) -> None:
    results.create(topology="ring", run_id="a")
    folder = results.create(topology="ring", run_id="b")
    latest = results.path / "ring" / "latest"
    assert latest.resolve() == folder.path
    assert not [path for path in latest.parent.iterdir() if path.name.startswith(".")]
    assert [run.run_id for run in results.runs()] == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["A", "with blank", "-x", "latest", "", "x" * 41, "ü", "a/b", ".."]
)
def test_names_that_cannot_be_a_containers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a run"):
        check_name(name)


def test_generated_names_are_valid_and_differ() -> None:
    names = {new_run_id() for _ in range(50)}
    assert len(names) > 45
    assert all(check_name(name) for name in names)


def test_a_taken_name_is_refused_also_by_another_experiment(results: Results) -> None:
    results.create(topology="ring", run_id="x")
    with pytest.raises(ConfigError, match="already") as caught:
        results.create(topology="star", run_id="x")
    assert "--name" in str(caught.value)
    assert not (results.path / "star").exists()


def test_find(results: Results) -> None:
    with pytest.raises(ConfigError, match="no run"):
        results.find(None)
    for topology, run_id in (("ring", "aa1"), ("ring", "aa2"), ("star", "b")):
        results.create(topology=topology, run_id=run_id)
    assert results.find("b").run_id == "b"
    assert results.find("ring").run_id == "aa2"
    assert results.find("ring/aa1").run_id == "aa1"
    assert results.find("latest").run_id == "b"
    assert results.find(None).run_id == "b"
    with pytest.raises(ConfigError, match="several"):
        results.find("aa")
    with pytest.raises(ConfigError, match="no run and no topology"):
        results.find("zzz")


def test_a_discarded_run_leaves_nothing(results: Results) -> None:
    first = results.create(topology="ring", run_id="a")
    results.discard(results.create(topology="ring", run_id="b"))
    assert (results.path / "ring" / "latest").resolve() == first.path
    results.discard(first)
    assert not (results.path / "ring").exists()


def test_state_follows_owner_and_verdict(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    assert folder.state() is RunState.RUNNING
    dead = replace(owner.current(), start=1)
    folder.write_text(folder.owner_file, dead.to_json())
    assert folder.state() is RunState.ABANDONED
    elsewhere = replace(owner.current(), host="another-host")
    folder.write_text(folder.owner_file, elsewhere.to_json())
    assert folder.state() is RunState.ELSEWHERE
    folder.write_text(folder.owner_file, "{")
    assert folder.state() is RunState.ABANDONED
    folder.write_json(folder.verdict_file, {"verdict": "valid", "reasons": []})
    assert folder.state() is RunState.ENDED


def test_a_process_is_dead_when_it_ended_or_its_number_was_reused() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        process = owner.describe(child.pid)
        assert process.liveness() is Liveness.ALIVE
        assert replace(process, start=process.start - 1).liveness() is Liveness.DEAD
        assert replace(process, boot="an earlier one").liveness() is Liveness.DEAD
        assert replace(process, namespace="pid:[1]").liveness() is Liveness.ELSEWHERE
        assert owner.from_json(process.to_json()) == process
    assert process.liveness() is Liveness.DEAD
    assert not process.signal(owner.signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        owner.describe(child.pid)


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.write_json(folder.summary_file, {"a": 1})
    before = set(folder.path.iterdir())
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json(folder.summary_file, {"a": float("nan")})
    assert json.loads(folder.summary_file.read_text()) == {"a": 1}
    assert set(folder.path.iterdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_folder(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)

    def make(*, prefix: str, dir: Path) -> tuple[int, str]:  # noqa: A002 - as mkstemp has it
        name = dir / f"{prefix}x"
        name.touch()
        return os.dup(full), str(name)

    monkeypatch.setattr("deploy.results.tempfile.mkstemp", make)
    with pytest.raises(EnvironmentFault, match="the disk is full") as caught:
        folder.write_text(folder.summary_file, "text")
    os.close(full)
    assert "--results" in str(caught.value)
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".summary")]


def test_the_reserve_takes_room_and_gives_it_back(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.reserve()
    reserve = folder.path / ".reserve"
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    folder.release_reserve()
    folder.release_reserve()
    assert not reserve.exists()


def test_unreadable_json_is_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_json(tmp_path / "missing.json") is None
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"a": ')
    assert folder.read_json(tmp_path / "list.json") is None
    assert folder.read_json(tmp_path / "half.json") is None
    assert folder.manifest == {}
