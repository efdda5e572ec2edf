"""Real processes, killed, asked to stop, and short of disk."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from node.config import Deadlines, StopConfig, to_json
from node.core.ids import COORDINATOR, NodeId
from node.units import MILLISECOND, SECOND
from tests.contract.world import Setting, setting

ROOT = Path(__file__).parents[2]
N0, N1, N2 = (NodeId(f"n-{i}") for i in range(3))
LONG = StopConfig(time_ns=60 * SECOND, rounds=10_000)
QUICK = Deadlines(
    join_ns=20 * SECOND,
    ready_ns=20 * SECOND,
    stop_ns=5 * SECOND,
    heartbeat_ns=100 * MILLISECOND,
    lease_ns=2 * SECOND,
    peer_ns=SECOND,
    coordinator_ns=3 * SECOND,
)


class Fleet:
    """The processes of a run."""

    def __init__(self, some: Setting, folder: Path) -> None:
        self.setting = some
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, member: str, **options: Any) -> subprocess.Popen[str]:
        config = (
            self.setting.coordinator
            if member == COORDINATOR
            else self.setting.nodes[NodeId(member)]
        )
        role = "coordinator" if member == COORDINATOR else "peer"
        path = self.folder / f"{member}.json"
        path.write_text(to_json(config))
        process = self.processes[member] = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.synthetic_process", role, "--config", str(path)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            **options,
        )
        return process

    def start_all(self, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        for member in (COORDINATOR, *self.setting.nodes):
            self.start(member, **(options or {}).get(member, {}))

    def wait(self, condition: Callable[[], object], *, limit_s: float = 30, what: str) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not within {limit_s:g} s: {what}")
            time.sleep(0.02)

    def wait_for_rounds(self, count: int) -> None:
        for name in self.setting.nodes:
            self.wait(
                lambda name=name: (
                    (self.setting.results / "nodes" / f"{name}.jsonl").exists()
                    and len(self.setting.of(name, "round")) >= count
                ),
                what=f"{count} rounds of {name}",
            )

    def statuses(self, *, limit_s: float = 30) -> dict[str, int]:
        """Exit statuses of all, once all have ended."""
        end = time.monotonic() + limit_s
        return {
            member: process.wait(max(0.1, end - time.monotonic()))
            for member, process in self.processes.items()
        }


@contextlib.contextmanager
def fleet(some: Setting, folder: Path) -> Iterator[Fleet]:
    made = Fleet(some, folder)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.communicate()


def test_a_killed_node_is_lost_and_the_others_end_well(tmp_path: Path) -> None:
    stop = StopConfig(time_ns=60 * SECOND, rounds=200)
    some = setting(tmp_path, stop=stop, deadlines=QUICK, step_ns=3 * MILLISECOND)
    with fleet(some, tmp_path) as run:
        run.start_all()
        run.wait_for_rounds(10)
        run.processes[N2].kill()
        assert run.statuses() == {COORDINATOR: 1, N0: 0, N1: 0, N2: -signal.SIGKILL}
    for name in (N0, N1):
        changes = [(e["peer"], e["change"]) for e in some.of(name, "peer")]
        assert (N2, "lost") in changes
        assert some.of(name, "finish")[0]["round"] == 200
    (finish,) = some.of_coordinator("finish")
    assert finish["error"] == "n-2: not heard from for 2s"
    assert some.of(N2, "round"), "what it wrote until then can be read"


def test_a_node_that_returns_is_connected_by_its_neighbours(tmp_path: Path) -> None:
    """Its peers take the new life's stream; how it joins the run again is in test_rounds."""
    some = setting(tmp_path, stop=LONG, deadlines=QUICK, step_ns=3 * MILLISECOND)
    with fleet(some, tmp_path) as run:
        run.start_all()
        run.wait_for_rounds(5)
        run.processes[N2].kill()
        run.processes[N2].communicate()
        run.wait(
            lambda: some.of(N0, "peer")[-1]["change"] == "lost", what="n-0 sees that n-2 is gone"
        )
        first = some.of(N2, "process")[0]["incarnation"]
        run.start(N2)
        run.wait(lambda: len(some.of(N2, "process")) == 2, what="n-2 is back")
        assert some.of(N2, "process")[1]["incarnation"] > first
        run.wait(
            lambda: (
                some.of(N0, "peer")[-1] | {"t": 0, "wall": 0}
                == {
                    "t": 0,
                    "wall": 0,
                    "node": N0,
                    "kind": "peer",
                    "peer": N2,
                    "change": "connected",
                }
            ),
            what="n-0 is connected to the new n-2",
        )


@pytest.mark.parametrize("member", [N1, COORDINATOR])
def test_whoever_is_asked_to_stop_does_within_five_seconds(tmp_path: Path, member: str) -> None:
    some = setting(tmp_path, stop=LONG, deadlines=QUICK)
    with fleet(some, tmp_path) as run:
        run.start_all()
        run.wait_for_rounds(5)
        begin = time.monotonic()
        run.processes[member].send_signal(signal.SIGTERM)
        assert run.processes[member].wait(10) == 1
        assert time.monotonic() - begin < 5
        if member == COORDINATOR:
            # It takes the whole run with it, in good order: members stop as they are told.
            assert run.statuses() == {COORDINATOR: 1, N0: 0, N1: 0, N2: 0}
            assert {some.of(name, "finish")[0]["reason"] for name in some.nodes} == {"SIGTERM"}
        else:
            assert "stopped from outside: SIGTERM" in some.of(N1, "finish")[0]["error"]
            assert (tmp_path / "nodes" / "n-1.f32").exists()


def test_a_coordinator_that_is_killed_for_good_ends_the_run_in_time(tmp_path: Path) -> None:
    some = setting(tmp_path, stop=LONG, deadlines=QUICK)
    with fleet(some, tmp_path) as run:
        run.start_all()
        run.wait_for_rounds(5)
        run.processes[COORDINATOR].kill()
        statuses = run.statuses()
    assert statuses == {COORDINATOR: -signal.SIGKILL, N0: 1, N1: 1, N2: 1}
    for name in some.nodes:
        error = some.of(name, "finish")[0]["error"]
        assert error == "the coordinator was out of reach for 3s"


def test_a_killed_coordinator_is_started_again_and_the_run_goes_on(tmp_path: Path) -> None:
    stop = StopConfig(time_ns=60 * SECOND, rounds=400)
    some = setting(tmp_path, stop=stop, deadlines=QUICK, step_ns=3 * MILLISECOND)
    with fleet(some, tmp_path) as run:
        run.start_all()
        run.wait_for_rounds(10)
        run.processes[COORDINATOR].kill()
        run.processes[COORDINATOR].communicate()
        run.wait_for_rounds(len(some.of(N0, "round")) + 20)  # without a coordinator
        run.start(COORDINATOR)
        assert run.statuses(limit_s=50) == {COORDINATOR: 0, N0: 0, N1: 0, N2: 0}
    phases = [event["phase"] for event in some.of_coordinator("phase")]
    assert phases[-3:] == ["recovering", "running", "stopping"]
    assert len(some.of_coordinator("process")) == 2
    assert len(some.of_coordinator("start")) == 1
    for name in some.nodes:
        assert [e["round"] for e in some.of(name, "round")] == list(range(400))
        assert some.of(name, "finish")[0]["error"] is None


def test_a_full_disk_ends_a_node_and_says_so(tmp_path: Path) -> None:
    """A limit on file size stands for it: the kernel cuts writes off in the same way."""
    some = setting(tmp_path, stop=LONG, deadlines=QUICK)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with fleet(some, tmp_path) as run:
        run.start_all({N1: {"preexec_fn": small_files}})
        process = run.processes[N1]
        assert process.wait(30) == 1
        assert process.stderr is not None
        said = process.stderr.read()
        assert "n-1.jsonl: the disk is full" in said
        assert "Free some space" in said
        run.wait(
            lambda: [e for e in some.of_coordinator("error") if "disk is full" in e["message"]],
            what="the coordinator knows why",
        )
        run.processes[COORDINATOR].send_signal(signal.SIGTERM)
        run.statuses()
    assert some.log(N1), "which checks that no line is broken"


# --- the entry point


def entry(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )


def test_no_configuration() -> None:
    done = entry("peer")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no configuration")
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_none() -> None:
    done = entry("coordinator", PEERBED_CONFIG='{"sesion": 1}')
    assert done.returncode == 2
    assert "unknown key 'sesion'" in done.stderr


def test_an_error_is_recorded_where_people_look(tmp_path: Path) -> None:
    some = setting(tmp_path)
    elsewhere = dataclasses.replace(some.nodes[N1], host="203.0.113.9")
    done = entry("peer", PEERBED_CONFIG=to_json(elsewhere))
    assert done.returncode == 3
    assert "cannot listen on 203.0.113.9" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot listen" in some.of(N1, "error")[0]["message"]


def test_an_unknown_algorithm_is_said_to_all(tmp_path: Path) -> None:
    some = setting(tmp_path, count=2, deadlines=QUICK)
    some.nodes[N0] = dataclasses.replace(
        some.nodes[N0], algorithm=dataclasses.replace(some.nodes[N0].algorithm, name="divshar")
    )
    with fleet(some, tmp_path) as run:
        run.start_all()
        assert run.statuses()[N0] == 1
    assert "did you mean 'divshare'?" in some.of_coordinator("finish")[0]["error"]


def test_the_agent_stays_small() -> None:
    """What it imports is what it holds in memory for the whole run."""
    code = (
        "import sys, node.__main__, node.links.agent;"
        "print(*{'numpy', 'grpc', 'asyncio', 'torch', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_communicating_process_imports_no_torch() -> None:
    code = (
        "import sys, node.runtime.node_runner, node.runtime.coordinator_runner;"
        "print(*{'torch', 'torchvision', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
