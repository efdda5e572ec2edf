"""The command line: exit statuses, messages without tracebacks, JSON that is only JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.cli import cli
from deploy.owner import describe
from tests.unit.runs import FakeBackend, good_history, new_folder, write_records

ROOT = Path(__file__).parents[2]
RING = str(ROOT / "topologies" / "ring.yaml")
VERBS = {
    "up", "down", "status", "logs", "wait", "validate", "render", "build", "schema", "doctor",
    "results", "link", "partition", "heal", "kill", "pause", "resume", "restart", "add", "remove",
    "verify", "convert", "paths", "timeline", "sim", "compare", "replay", "check-algorithm",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and no Docker engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    return tmp_path


def finished(tmp_path: Path, *, verdict: str = "valid", status: int = 0) -> None:
    """results/pair/r1, a run that has ended."""
    from deploy.summary import summarise

    folder = new_folder(tmp_path)
    write_records(folder, good_history())
    folder.write_json(folder.manifest_file, {"algorithm": "divshare", "nodes": 2})
    folder.write_json(folder.summary_file, summarise(good_history()))
    folder.write_json(
        folder.verdict_file, {"verdict": verdict, "reasons": ["why"], "exit_status": status}
    )


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(cli.commands) - {"supervise"} == VERBS
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5
    assert main(["--help"]) == 0
    assert "supervise" not in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from deploy.__main__ import main; main(['--help']);"
        "heavy = {'docker', 'rich', 'matplotlib', 'pydantic', 'numpy', 'yaml', 'networkx'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


WRONG = {
    "no such verb": (["fly"], "No such command"),
    "no such option": (["up", RING, "--fast"], "No such option"),
    "no such file": (["up", "ring.yml"], "no such file"),
    "folder as file": (["validate", "."], "is a folder"),
    "wrong key": (["up", RING, "--set", "stop.round=3"], "did you mean 'rounds'"),
    "wrong value": (["up", RING, "--set", "stop.time=20"], "has no unit"),
    "wrong name": (["up", RING, "--backend", "local", "--name", "A b"], "cannot name a run"),
    "no run": (["wait", "nothing"], "no run and no topology"),
    "no run at all": (["status"], "no run in"),
    "wrong picture": (["results", "r1", "--plot", "a.doc"], "cannot draw"),
    "no such member": (["logs", "r1", "n-9"], "no member 'n-9'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_status_2_with_a_message(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if "r1" in WRONG[name][0]:
        finished(here)
    arguments, message = WRONG[name]
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (here / "results" / "ring").exists()


def test_no_engine_is_status_3(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for verb in (["up", RING, "--backend", "docker"], ["build"]):
        assert main(verb) == 3
        error = capfd.readouterr().err
        assert "no Docker engine answers at unix:///nonexistent.sock" in error
        assert "--backend local" in error
    assert main(["doctor"]) == 3
    assert not (here / "results").exists()


def test_a_missing_package_is_told_in_one_line() -> None:
    code = (
        "import sys; sys.modules['click'] = None;"
        "from deploy.__main__ import main; sys.exit(main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "packages are missing: click" in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setattr("deploy.inspect_file.load_topology", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["validate", RING])


def test_validate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["validate", RING]) == 0
    assert "3 nodes" in capsys.readouterr().out
    assert main(["validate", RING, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nodes: 3\nnetwrk: {}\nstop: {rounds: many}\n")
    assert main(["validate", str(wrong), "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert {"netwrk", "stop.rounds"} <= {problem["key"] for problem in problems}
    assert all(problem["line"] for problem in problems if problem["key"] == "netwrk")


def test_render(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["render", RING]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# ==> compose.yaml")
    assert "tc " in printed
    assert main(["render", RING, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "compose.yaml").exists()
    assert (tmp_path / "out" / "plan.json").exists()
    assert main(["render", RING, "--backend", "local"]) == 0
    assert main(["render", RING]) == 0
    capsys.readouterr()
    assert main(["render", RING, "-o", "/proc/nowhere"]) == 3
    assert "cannot write" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "peerbed topology"


@pytest.mark.parametrize(("verdict", "status"), [("valid", 0), ("invalid", 1), ("unknown", 1)])
def test_wait_ends_with_the_verdicts_status(
    verdict: str, status: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(here, verdict=verdict, status=status)
    assert main(["wait", "r1"]) == status
    assert main(["wait", "--json"]) == status
    capsys.readouterr()


def test_wait_outlasts_the_process_that_wrote_the_verdict(here: Path) -> None:
    finished(here, status=0)
    owner_file = here / "results" / "pair" / "r1" / "owner.json"
    with subprocess.Popen(["sleep", "60"]) as process, ThreadPoolExecutor() as pool:
        owner_file.write_text(describe(process.pid).to_json())
        status = pool.submit(main, ["wait", "r1", "--json"])
        assert wait([status], timeout=0.5).not_done
        process.kill()
        process.wait()
        assert status.result(timeout=4) == 0


def test_wait_gives_up(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_folder(here)
    assert main(["wait", "r1", "--timeout", "0"]) == 1
    assert "has not ended within 0 s" in capsys.readouterr().err


def test_looking_at_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results"]) == 0
    assert "no runs in" in capsys.readouterr().out
    finished(here)
    assert main(["results"]) == 0
    assert "pair/r1" in capsys.readouterr().out
    assert main(["results", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["run"], row["verdict"], row["accuracy"]) == ("r1", "valid", 0.9)
    assert main(["results", "r1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["rounds"] == 2
    assert main(["results", "pair/latest"]) == 0
    printed = capsys.readouterr().out
    assert "90.0%" in printed
    assert "valid" in printed
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [node["round"] for node in found["nodes"]] == [2, 2]
    assert main(["status"]) == 0
    assert "pair/r1: ended valid" in capsys.readouterr().out


def test_logs_of_an_ended_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(here)
    logs = here / "results" / "pair" / "r1" / "logs"
    (logs / "n-0.log").write_text("hello\n[not markup]\n")
    (logs / "coordinator.log").write_text("all here\n")
    assert main(["logs"]) == 0
    assert capsys.readouterr().out == ("coordinator | all here\nn-0 | hello\nn-0 | [not markup]\n")
    assert main(["logs", "n-0"]) == 0
    assert capsys.readouterr().out == "hello\n[not markup]\n"
    assert main(["logs", "-f", "r1", "n-0"]) == 0
    assert capsys.readouterr().out == "hello\n[not markup]\n"


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_picture_of_a_run(here: Path, ending: str) -> None:
    finished(here)
    path = here / "docs" / f"run{ending}"
    assert main(["results", "r1", "--plot", str(path)]) == 0
    assert path.stat().st_size > 5000


def test_up_runs_and_reports(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.unit.runs import TOPOLOGY, ended

    (here / "pair.yaml").write_bytes(TOPOLOGY)
    fake = FakeBackend(lambda poll: ended())
    fake.records = lambda folder: write_records(folder, good_history())
    monkeypatch.setattr("deploy.experiment.make_backend", lambda kind: fake)
    assert main(["up", "pair.yaml", "--backend", "local", "--name", "one", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["verdict"], found["run"], found["state"]) == ("valid", "one", "ended")
    assert "training" in captured.err
    folder = here / "results" / "pair" / "one"
    assert {"topology.yaml", "plan.json", "manifest.json", "owner.json"} <= {
        path.name for path in folder.iterdir()
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["backend"] == "local"
    assert manifest["seed"] == 1
    assert main(["up", "pair.yaml", "--backend", "local", "--name", "one"]) == 2
    assert "there is a run named 'one' already" in capsys.readouterr().err


def test_a_results_folder_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", RING, "--backend", "local", "--results", "/proc/nowhere"]) == 3
    assert "--results DIR" in capsys.readouterr().err
