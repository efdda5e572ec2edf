"""What goes wrong in practice. Each time: a clear message, the right exit status, the logs so far
kept and readable, nothing of ours left behind, nothing of others touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound
from docker.models.containers import Container

from deploy.__main__ import main
from tests.docker.support import Deploy, end, readable, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def check_kept(deploy: Deploy, name: str, *, full_disk: bool = False) -> None:
    """Records and logs are there and readable, and nothing else is."""
    path = deploy.path(name)
    readable(path, full_disk=full_disk)
    for member in ("coordinator", "n-0", "n-1"):
        assert (path / "logs" / f"{member}.log").exists(), member
    assert (path / "summary.json").exists()
    assert deploy.leftovers() == []


# Before anything is started ---------------------------------------------------------------------


def test_a_wrong_file(deploy: Deploy) -> None:
    deploy.small.write_text("name: small\nnodes: 2\nnetwork: {shape: rong}\n")
    done = deploy.run("up", str(deploy.small))
    assert done.status == 2
    assert "small.yaml:3" in done.err
    assert "ring" in done.err
    assert not deploy.results.exists()


def test_no_engine(deploy: Deploy) -> None:
    dead = deploy.folder / "dead.sock"
    done = deploy.run("up", str(deploy.small), "--backend", "docker", DOCKER_HOST=f"unix://{dead}")
    assert done.status == 3
    assert f"no Docker engine answers at unix://{dead}" in done.err
    assert not deploy.results.exists()


def test_no_image(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.experiment.version", lambda: "0.0.0-none")
    arguments = ["--backend", "docker", "--no-build", "--results", str(deploy.results)]
    assert main(["up", str(deploy.small), *arguments]) == 3
    error = capsys.readouterr().err
    assert "there is no node image peerbed-node:0.0.0-none" in error
    assert "deploy build" in error
    assert not deploy.results.exists()


def test_what_an_emulator_cannot_do_is_refused_before_an_image_is_wanted(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.experiment.version", lambda: "0.0.0-none")
    arguments = ["--backend", "docker", "--no-build", "--results", str(deploy.results)]
    arguments += ["--emulator", "nfqueue", "--set", "network.link.duplicate=1%"]
    assert main(["up", str(deploy.small), *arguments]) == 2
    error = capsys.readouterr().err
    assert "duplicate" in error
    assert "image" not in error
    assert not deploy.results.exists()


def test_a_taken_name(deploy: Deploy, tmp_path: Path) -> None:
    with deploy.training(name="taken"):
        done = deploy.run("up", str(deploy.small), "--name", "taken")
        assert done.status == 2
        assert "a run named 'taken' already" in done.err
        elsewhere = Deploy(tmp_path, results=tmp_path / "other")
        done = elsewhere.run("up", str(deploy.small), "--name", "taken")
        assert done.status == 2
        assert "the engine has containers of a run named 'taken'" in done.err
        assert not elsewhere.results.exists()
        assert len(deploy.leftovers()) >= 4, "the run that has the name goes on"


# While it runs -----------------------------------------------------------------------------------


def test_a_node_is_killed(deploy: Deploy) -> None:
    with deploy.training("--set", "stop.time=5s", name="killed") as process:
        deploy.container("killed", "n-1").kill()
        done = end(process)
    assert done.status == 1
    assert "n-1: killed by signal 9" in done.out
    assert deploy.verdict("killed")["verdict"] == "invalid"
    check_kept(deploy, "killed")


def test_a_node_hangs(deploy: Deploy) -> None:
    with deploy.training("--set", "stop.time=5s", name="hung") as process:
        deploy.container("hung", "n-0").pause()
        done = end(process)
    assert done.status == 1
    assert "n-0" in done.out
    assert any("n-0" in reason for reason in deploy.verdict("hung")["reasons"])
    check_kept(deploy, "hung")


def test_the_coordinator_is_removed(deploy: Deploy) -> None:
    """One that is only killed is started again: tests/docker/test_signaling.py."""
    with deploy.training(name="headless") as process:
        # Removing is killing first: who looks in between sees one that was only killed.
        process.send_signal(signal.SIGSTOP)
        deploy.container("headless", "coordinator").remove(force=True)
        process.send_signal(signal.SIGCONT)
        done = end(process)
    assert done.status == 1
    assert "the coordinator ended unexpectedly (it is gone)" in done.out
    path = deploy.path("headless")
    readable(path)
    assert (path / "summary.json").exists()
    assert deploy.leftovers() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "peerbed-test", str(path)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_the_disk_fills_up(image: str, tmp_path: Path, small_disk: Path) -> None:
    deploy = Deploy(tmp_path, results=small_disk / "results")
    with deploy.training(name="full") as process:
        with pytest.raises(OSError, match="space"):
            (small_disk / "ballast").write_bytes(bytes(96 << 20))
        done = end(process)
    assert done.status == 1
    assert "the disk is full" in done.out
    assert deploy.verdict("full")["verdict"] == "invalid"
    check_kept(deploy, "full", full_disk=True)


def test_too_little_disk_is_told_before(image: str, tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(64 << 20))
    deploy = Deploy(tmp_path, results=small_disk / "results")
    done = deploy.run("up", str(deploy.small))
    assert done.status == 3
    assert "MiB free on the disk" in done.err
    assert deploy.leftovers() == []


def test_ctrl_c(deploy: Deploy) -> None:
    with deploy.training(name="ctrl-c") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # the second one must not cut the end short
        done = end(process)
    assert done.status == 1
    assert "interrupted (Ctrl-C)" in done.err
    assert deploy.verdict("ctrl-c")["reasons"][0] == "interrupted (Ctrl-C)"
    check_kept(deploy, "ctrl-c")


def test_ctrl_c_while_containers_start(deploy: Deploy) -> None:
    process = deploy.up("--name", "early")
    until(lambda: deploy.path("early").exists(), what="the run folder")
    process.send_signal(signal.SIGINT)
    done = end(process)
    assert done.status == 1
    assert deploy.verdict("early")["reasons"][0] == "interrupted (Ctrl-C)"
    assert deploy.leftovers() == []


# After deploy itself was killed -------------------------------------------------------------------


@pytest.fixture
def foreign(engine: docker.DockerClient, image: str, tmp_path: Path) -> Iterator[list[Container]]:
    """Containers that are not ours to touch: one without label, one of a run elsewhere."""
    labels = ({}, {"peerbed.run": "x", "peerbed.results": "/nonexistent/results/small/x"})
    made = [
        engine.containers.run(
            image, entrypoint=["sleep", "600"], labels=label, detach=True, network_mode="none"
        )
        for label in labels
    ]
    yield made
    for container in made:
        container.remove(force=True)


@pytest.mark.parametrize("sweeper", ["up", "down"])
def test_deploy_is_killed(deploy: Deploy, foreign: list[Container], sweeper: str) -> None:
    process = deploy.up("--name", "orphan")
    until(lambda: deploy.trains("orphan"), what="training")
    process.kill()
    process.communicate(timeout=30)
    assert len(deploy.leftovers()) >= 4
    done = deploy.run("status", "orphan", "--json")
    assert done.json["state"] == "abandoned"
    if sweeper == "up":
        done = deploy.run("up", str(deploy.small), "--name", "next", "--set", "stop.rounds=2")
        assert deploy.path("next").exists()
    else:
        done = deploy.run("down")
        assert done.status == 0
    assert "sweeping small/orphan" in done.err
    assert deploy.verdict("orphan")["verdict"] == "invalid"
    check_kept(deploy, "orphan")
    for container in foreign:
        container.reload()
        assert container.status == "running"


def test_deploy_is_killed_while_containers_start(deploy: Deploy) -> None:
    process = deploy.up("--name", "early")
    until(lambda: (deploy.path("early") / "logs" / "compose.log").exists(), what="Compose")
    process.kill()
    process.communicate(timeout=30)
    assert deploy.run("down").status == 0
    assert deploy.verdict("early")["verdict"] == "invalid"
    assert deploy.leftovers() == []


def test_down_twice(deploy: Deploy) -> None:
    assert deploy.run("up", str(deploy.small), "--name", "twice", "-d").status == 0
    until(lambda: deploy.trains("twice"), what="training")
    first = deploy.run("down", "twice", "--json")
    assert (first.status, [run["run"] for run in first.json["ended"]]) == (0, ["twice"])
    assert deploy.verdict("twice")["reasons"][0] == "interrupted (SIGTERM)"
    check_kept(deploy, "twice")
    second = deploy.run("down", "twice")
    assert second.status == 0
    assert "nothing to end" in second.err


# In the background, and side by side --------------------------------------------------------------


def test_two_runs_side_by_side(deploy: Deploy) -> None:
    stop = ("--set", "stop.rounds=20")
    for name in ("left", "right"):
        assert deploy.run("up", str(deploy.small), "--name", name, "-d", *stop).status == 0
    for name in ("left", "right"):
        done = deploy.run("wait", name, "--timeout", "100", "--json")
        # Links were not measured, so that is all that can be said.
        assert done.json["reasons"] == ["the links were not measured (links: off)"]
        assert done.json["summary"]["rounds"] == 20
        assert done.status == 1
    for name in ("left", "right"):
        check_kept(deploy, name)


def test_a_node_that_somebody_removes(deploy: Deploy) -> None:
    with deploy.training("--set", "stop.time=5s", name="removed") as process:
        container = deploy.container("removed", "n-1")
        container.remove(force=True)
        with pytest.raises(NotFound):
            container.reload()
        done = end(process)
    assert done.status == 1
    assert "n-1: it was never started, or was removed by somebody else" in done.out
    assert deploy.leftovers() == []


def test_logs_follow_a_run(deploy: Deploy) -> None:
    with deploy.training("--set", "stop.time=6s", name="logged") as process:
        following = deploy.start("logs", "-f", "logged")
        end(process)
        assert end(following, timeout_s=30).status == 0
