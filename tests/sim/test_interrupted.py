"""Ctrl-C while `deploy sim` runs: it ends in order, and can be gone on with."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from pathlib import Path

from tests.sim.small import STEADY
from tests.sim.test_deploy_sim import command


def begun(folder: Path) -> tuple[Path, list[str]]:
    """The folder of a run that takes a while, and the command that begins it."""
    file = folder / "steady.yaml"
    file.write_text(STEADY)
    sets = ("--set", "stop.rounds=1500", "--set", "stop.time=60s", "--no-training")
    return folder / "results" / "steady" / "run", command(folder, str(file), "--name", "run", *sets)


def interrupted(arguments: list[str], records: Path) -> subprocess.CompletedProcess[str]:
    """Run it until it trains, then do as Ctrl-C does."""
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (records.exists() and b'"round"' in records.read_bytes()):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, output)


def test_an_interrupted_run_has_a_verdict_and_goes_on(tmp_path: Path) -> None:
    run, arguments = begun(tmp_path)
    outcome = interrupted(arguments, run / "nodes" / "n-0.jsonl")
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stdout
    assert "deploy sim --resume run" in outcome.stdout
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["reasons"] == ["interrupted (Ctrl-C)"]
    assert json.loads((run / "summary.json").read_text())["rounds"] < 1500
    again = subprocess.run(
        command(tmp_path, "--resume", "run"), capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((run / "verdict.json").read_text())["verdict"] == "valid"
    assert json.loads((run / "summary.json").read_text())["rounds"] == 1500
    assert not (run / "checkpoints").exists()
