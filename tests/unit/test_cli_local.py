"""The local backend from the outside: real processes on loopback, without an engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.support import Deploy, end, readable

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    command = Deploy(tmp_path, backend="local")
    yield command
    command.run("down", "--all")
    assert command.leftovers() == []


def pid_of(deploy: Deploy, name: str, member: str) -> int:
    """The process that carries a member's label, and whose parent is `deploy`."""
    path = f"PEERBED_RUN={deploy.path(name)}".encode()
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        label = f"PEERBED_MEMBER={member}".encode()
        if path in environment and label in environment and b"--config" in command:
            return int(entry.name)
    raise AssertionError(f"no process of {member}")


def test_without_an_engine_local_is_the_default_and_says_so(deploy: Deploy) -> None:
    done = deploy.run(
        "up", str(deploy.small), "--name", "r", "--set", "stop.rounds=3", "--links", "warn",
        "--json",
    )  # fmt: skip
    assert "using the local backend" in done.err
    assert done.json["manifest"]["backend"] == "local"
    assert done.json["summary"]["emulator"] == "application"
    assert done.json["summary"]["rounds"] == 3
    assert {pair["from"] for pair in done.json["links"]["pairs"]} == {"n-0", "n-1"}
    # A busy host may miss a link's tolerance; then that, and only that, is the reason.
    assert all(reason.startswith("link ") for reason in done.json["reasons"])
    assert done.status == (1 if done.json["reasons"] else 0)
    readable(deploy.path("r"))


def test_a_killed_node_is_named(deploy: Deploy) -> None:
    with deploy.training("--set", "stop.time=5s", name="killed") as process:
        os.kill(pid_of(deploy, "killed", "n-1"), signal.SIGKILL)
        done = end(process)
    assert done.status == 1
    assert "n-1: killed by signal 9" in done.out
    readable(deploy.path("killed"))


def test_ctrl_c_ends_in_order(deploy: Deploy) -> None:
    with deploy.training(name="ctrl-c") as process:
        process.send_signal(signal.SIGINT)
        done = end(process)
    assert done.status == 1
    assert deploy.verdict("ctrl-c")["reasons"][0] == "interrupted (Ctrl-C)"
    assert deploy.leftovers() == []
    readable(deploy.path("ctrl-c"))


def test_what_a_killed_deploy_leaves_is_swept(deploy: Deploy) -> None:
    with deploy.training(name="orphan") as process:
        process.kill()
        process.communicate(timeout=30)
    assert len(deploy.leftovers()) >= 3
    done = deploy.run("down")
    assert done.status == 0
    assert "sweeping small/orphan" in done.err
    assert deploy.verdict("orphan")["verdict"] == "invalid"
    assert deploy.leftovers() == []
    readable(deploy.path("orphan"))
