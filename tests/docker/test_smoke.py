"""The main job: three containers of topologies/ring.yaml, from the command to the verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker.support import RING, Deploy, Done, end, readable, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

NODES = ("n-0", "n-1", "n-2")
FLOAT = 4
NET_ADMIN = 1 << 12


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


class Run:
    """The one run that all tests here look at."""

    def __init__(self, deploy: Deploy) -> None:
        self.deploy = deploy
        self.path = deploy.path("smoke", topology="ring")
        process = deploy.start("up", str(RING), "--name", "smoke", "--json")
        until(
            lambda: all(self._trains(node) for node in NODES) or process.poll() is not None,
            what="all nodes train",
            deadline_s=300,
        )
        self.processes = {node: self._processes(node) for node in NODES}
        self.done: Done = end(process, timeout_s=180)
        self.summary = self._read("summary.json")
        self.links = self._read("links.json")
        self.verdict = self._read("verdict.json")
        self.plan = self._read("plan.json")

    def _trains(self, node: str) -> bool:
        file = self.path / "nodes" / f"{node}.jsonl"
        return file.exists() and '"kind":"round"' in file.read_text()

    def _processes(self, node: str) -> list[dict[str, str]]:
        """Name, user and capabilities of every process in a node's container."""
        command = "for f in /proc/[0-9]*/status; do cat $f; echo; done"
        _, output = self.deploy.container("smoke", node).exec_run(["sh", "-c", command])
        blocks = output.decode().split("\n\n")
        found = [
            dict(line.split(":\t", 1) for line in block.splitlines() if ":\t" in line)
            for block in blocks
        ]
        return [status for status in found if status.get("Name") not in (None, "sh", "cat")]

    def _read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())


@pytest.fixture(scope="module")
def run(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    deploy = Deploy(tmp_path_factory.mktemp("smoke"))
    yield Run(deploy)
    deploy.run("down", "--all")


def test_it_is_valid_and_says_so(run: Run) -> None:
    valid = {"verdict": "valid", "reasons": [], "exit_status": 0, "remarks": []}
    assert run.verdict == valid, run.done.err
    assert run.done.status == 0
    assert run.done.json["verdict"] == "valid"


def test_it_learns(run: Run) -> None:
    assert run.summary["accuracy"]["mean"] >= 0.90
    assert run.summary["time_to_accuracy"]["0.9"] <= 60
    assert run.summary["accuracy"]["merged"] is not None


def test_all_end_at_the_same_stop_condition(run: Run) -> None:
    assert run.summary["stop"] in ("accuracy", "rounds", "time")
    assert {node["stop"] for node in run.summary["nodes"].values()} == {run.summary["stop"]}


def test_every_link_was_measured_and_is_as_asked(run: Run) -> None:
    assert run.links["emulator"] in ("netem", "nfqueue")
    pairs = {(pair["from"], pair["to"]): pair for pair in run.links["pairs"]}
    assert set(pairs) == {(a, b) for a in NODES for b in NODES if a != b}
    for pair in pairs.values():
        assert pair["ok"] is True, pair
        assert pair["asked"]["rate_bps"] == 20_000_000
        assert 19.9 <= pair["measured"]["rtt_ms"] <= 21.4
        assert pair["measured"]["goodput_bps"] == pytest.approx(0.956 * 20e6, rel=0.03)


def test_bytes_are_those_of_the_algorithm(run: Run) -> None:
    """DivShare queues `degree` models a round, whatever omega is; all of it is accounted for."""
    options = run.plan["nodes"][0]["config"]["algorithm"]["options"]
    degree = options["degree"]
    for node in NODES:
        file = run.path / "nodes" / f"{node}.jsonl"
        (trainer,) = events(file, "trainer")
        rounds = len(events(file, "round"))
        counts = events(file, "bytes")[-1]
        models = degree * FLOAT * trainer["parameters"]
        left = rounds * models - counts["model_sent"] - counts["cancelled"]
        # What is neither sent nor cancelled is of the last round, and still queued at the stop.
        assert 0 <= left <= models
        assert left == counts.get("queued", left)
        assert run.summary["nodes"][node]["rounds"] == rounds
        assert (run.path / "nodes" / f"{node}.f32").stat().st_size == FLOAT * trainer["parameters"]


def test_bytes_on_the_wire_are_plausible(run: Run) -> None:
    for node, summary in run.summary["nodes"].items():
        counts = summary["bytes"]
        assert counts["model"] <= counts["wire"] <= 1.25 * counts["model"], node


def test_nodes_have_no_privileges(run: Run) -> None:
    for node, processes in run.processes.items():
        agent, others = processes[0], processes[1:]
        assert int(agent["CapEff"], 16) & NET_ADMIN
        assert len(others) >= 2, f"{node}: node and trainer"
        for process in others:
            assert process["Uid"].split()[0] == "10001", process["Name"]
            assert int(process["CapEff"], 16) == 0
            assert process["NoNewPrivs"] == "1"


def test_the_folder_is_complete_and_readable(run: Run) -> None:
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert {
        "topology.yaml", "plan.json", "compose.yaml", "manifest.json", "links.json",
        "coordinator.jsonl", "summary.json", "verdict.json", "logs/coordinator.log",
        *(f"nodes/{node}.jsonl" for node in NODES), *(f"logs/{node}.log" for node in NODES),
    } <= names  # fmt: skip
    readable(run.path)
    manifest = run._read("manifest.json")
    assert manifest["image_digest"].startswith("sha256:")
    assert manifest["emulator"] == run.links["emulator"]
    assert (run.path.parent / "latest").resolve() == run.path


def test_nothing_is_left(run: Run) -> None:
    assert run.deploy.leftovers() == []


def test_the_rendered_files_start_as_they_are(run: Run, engine: docker.DockerClient) -> None:
    """Training began soon after the first record: start-up and measuring have their limits."""
    coordinator = run.path / "coordinator.jsonl"
    first = events(coordinator, "phase")[0]["wall"]
    (start,) = events(coordinator, "start")
    assert start["at_wall"] - first < 60
    assert time.time() > start["at_wall"]
