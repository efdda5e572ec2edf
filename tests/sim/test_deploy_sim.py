"""`deploy sim` as users start it: the same bytes on any number of workers, with any hash seed, and
after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.small import EVENTFUL, files

SETS = (
    "training={dataset: digits, model: mlp, partition: {kind: dirichlet, alpha: 0.5}}",
    "trace=[east-0]",
    "stop.time=4s",
)


def command(folder: Path, *arguments: str) -> list[str]:
    results = ["--results", str(folder / "results")]
    return [sys.executable, "-m", "deploy", "sim", *results, *arguments]


def begun(folder: Path, *more: str, sets: tuple[str, ...] = SETS) -> list[str]:
    """The command that begins a run named `run`."""
    folder.mkdir(parents=True)
    file = folder / "eventful.yaml"
    file.write_text(EVENTFUL)
    options = [option for each in sets for option in ("--set", each)]
    return command(folder, str(file), "--name", "run", *options, *more)


def done(arguments: list[str], **environment: str) -> None:
    """Run it to its end."""
    outcome = subprocess.run(
        arguments, env=os.environ | environment, capture_output=True, text=True, timeout=200
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def run_of(folder: Path) -> Path:
    return folder / "results" / "eventful" / "run"


def compared(folder: Path) -> dict[str, bytes]:
    return files(run_of(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A run of one worker that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done(begun(folder, "--workers", "1", "--checkpoint-every", "0s"), PYTHONHASHSEED="0")
    found = compared(folder)
    assert {"coordinator.jsonl", "nodes/east-0.jsonl", "nodes/east-0.f32"} <= set(found)
    assert found["nodes/east-0.trace"]
    return found


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    names = sorted({*one, *other})
    return [name for name in names if one.get(name) != other.get(name)]


@pytest.mark.parametrize(("workers", "hash_seed"), [("2", "1"), ("3", "4242")])
def test_workers_and_hash_seeds_change_no_byte(
    tmp_path: Path, whole: dict[str, bytes], workers: str, hash_seed: str
) -> None:
    done(begun(tmp_path / "x", "--workers", workers), PYTHONHASHSEED=hash_seed)
    assert differences(compared(tmp_path / "x"), whole) == []


def test_another_seed_changes_them(tmp_path: Path, whole: dict[str, bytes]) -> None:
    done(begun(tmp_path / "x", "--workers", "1", "--seed", "2"))
    found = differences(compared(tmp_path / "x"), whole)
    assert set(found) >= {name for name in whole if name.endswith((".jsonl", ".f32"))} - {
        "control.jsonl"  # what the file has planned
    }


def killed(arguments: list[str], checkpoints: Path) -> None:
    """Run it until there is another checkpoint, and kill it."""
    before = set(checkpoints.glob("*.snapshot"))
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdout=quiet, stderr=quiet, start_new_session=True)
    while process.poll() is None and not set(checkpoints.glob("*.snapshot")) - before:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL, "it had ended before"


@pytest.mark.parametrize("kills", [1, 3])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: dict[str, bytes], kills: int
) -> None:
    folder, often = tmp_path / "x", ("--workers", "2", "--checkpoint-every", "20ms")
    start = begun(folder, *often)
    for _ in range(kills):
        killed(start, run_of(folder) / "checkpoints")
        assert not (run_of(folder) / "verdict.json").exists()
        start = command(folder, "--resume", "run", *often)
    assert differences(compared(folder), whole) != []
    done(command(folder, "--resume", "run", "--workers", "1"), PYTHONHASHSEED="7")
    assert differences(compared(folder), whole) == []
    assert json.loads((run_of(folder) / "verdict.json").read_text())["verdict"] == "valid"
