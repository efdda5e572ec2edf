"""Whole runs with containers: accuracy of the ring, and start-up against Compose alone."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Bench, Row

ROOT = Path(__file__).parents[2]
DEPLOY = [sys.executable, "-m", "deploy"]
REPEATS = 3


def up(*options: str) -> tuple[int, float, dict[str, Any], Path]:
    """One run of ring.yaml: exit status, Unix time of the call, its summary and its folder."""
    results = Path(tempfile.mkdtemp(prefix="peerbed-bench-"))
    begin = time.time()
    call = [*DEPLOY, "up", "topologies/ring.yaml", "--results", str(results), "--json", *options]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    folder = results / "ring" / "latest"
    if not (folder / "summary.json").exists():
        raise RuntimeError(f"deploy up exited with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode, begin, json.loads((folder / "summary.json").read_text()), folder


def ring() -> list[Row]:
    """Accuracy of three containers within 60 s of training, at a valid verdict."""
    status, _, summary, folder = up()
    verdict = json.loads((folder / "verdict.json").read_text())
    reached = summary["time_to_accuracy"].get("0.9")
    shutil.rmtree(folder.parents[1])
    accuracy = summary["accuracy"]["mean"]
    in_time = reached is not None and reached <= 60
    return [
        Row(figure="mean accuracy of 3 nodes", value=accuracy, target=">= 0.9",
            holds=accuracy >= 0.9),
        Row(figure="time to 90 % mean accuracy", value=reached or float("inf"), unit="s",
            target="<= 60 s of training", holds=in_time),
        Row(figure="exit status", value=status, target=f"0, verdict {verdict['verdict']}",
            holds=status == 0 and verdict["verdict"] == "valid"),
    ]  # fmt: skip


def compose_seconds(count: int) -> float:
    """How long Compose alone takes to bring up as many containers that only sleep."""
    compose = (
        ["docker", "compose"]
        if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        else ["docker-compose"]
    )
    service = {"image": "peerbed-node:0.1.0", "entrypoint": ["sleep", "1000"], "init": False}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compose.json"
        services = {f"s{i}": service for i in range(count)}
        path.write_text(json.dumps({"version": "2.4", "services": services}))
        call = [*compose, "-p", f"peerbed-bench-{count}", "-f", str(path)]
        begin = time.monotonic()
        subprocess.run([*call, "up", "-d"], capture_output=True, check=True)
        seconds = time.monotonic() - begin
        subprocess.run([*call, "down", "-t", "0"], capture_output=True, check=True)
    return seconds


def startup_seconds(count: int) -> tuple[float, float]:
    """From `deploy up` to the first training step, link measuring apart; and the measuring."""
    _, begin, _, folder = up(
        "--set", f"nodes.n.replicas={count}", "--set", "stop.rounds=2", "--set", "stop.time=30s"
    )
    lines = (folder / "coordinator.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    phases = {r["phase"]: r["wall"] for r in records if r["kind"] == "phase"}
    (start,) = (r["at_wall"] for r in records if r["kind"] == "start")
    measuring = phases["preparing"] - phases["measuring"]
    shutil.rmtree(folder.parents[1])
    return start - begin - measuring, measuring


def startup() -> list[Row]:
    rows = []
    for count, measuring_max in ((3, 10), (16, 30)):
        plain = statistics.median(compose_seconds(count + 1) for _ in range(REPEATS))
        ours = [startup_seconds(count) for _ in range(REPEATS)]
        up_s = statistics.median(seconds for seconds, _ in ours)
        measuring = statistics.median(seconds for _, seconds in ours)
        limit = 3 * plain + 5
        rows += [
            Row(figure=f"Compose alone, {count + 1} sleeping containers", value=plain, unit="s"),
            Row(figure=f"deploy up to first step, {count} nodes", value=up_s, unit="s",
                target=f"<= 3 x Compose + 5 s = {limit:.1f} s", holds=up_s <= limit),
            Row(figure=f"measuring of links, {count} nodes", value=measuring, unit="s",
                target=f"<= {measuring_max} s", holds=measuring <= measuring_max),
        ]  # fmt: skip
    return rows


BENCHES: dict[str, Bench] = {"ring": ring, "startup": startup}
