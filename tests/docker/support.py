"""Runs `deploy` as a user does, and looks at what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.models.containers import Container

ROOT = Path(__file__).parents[2]
RING = ROOT / "topologies" / "ring.yaml"
UP_S = 120
"""For a whole short run, image included."""

_T = TypeVar("_T")

SMALL = """
name: small
nodes: {n: {replicas: 2, compute: {step: 10ms}}}
network: {shape: line, link: {rate: 50mbit, delay: 2ms}}
algorithm: {name: divshare, local_steps: 4}
stop: {time: 90s}
links: "off"
deadlines: {lease: 3s, stop: 5s, peer: 3s}
"""
"""Long unless told otherwise, light on the processor, and quick to notice a loss."""


def until(condition: Callable[[], _T | None], *, what: str, deadline_s: float = 60) -> _T:
    """What the condition returns once it is true; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.05)
    return found


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Deploy:
    """The command, with a results folder and a topology file of its own.

    Args:
        folder: an empty one.
        backend: of the runs that `up` and `training` start.
    """

    def __init__(
        self, folder: Path, *, results: Path | None = None, backend: str = "docker"
    ) -> None:
        self.folder = folder
        self.backend = ("--backend", backend)
        self.results = results or folder / "results"
        self.small = folder / "small.yaml"
        self.small.write_text(SMALL)

    @cached_property
    def client(self) -> docker.DockerClient:
        return docker.from_env()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it; collect its end with `end`."""
        return subprocess.Popen(
            [sys.executable, "-m", "deploy", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PEERBED_RESULTS": str(self.results),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, timeout_s: float = UP_S, **environment: str) -> Done:
        """Run it to its end; a traceback fails the test."""
        return end(self.start(*arguments, **environment), timeout_s=timeout_s)

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a run of the small topology."""
        return self.start("up", str(self.small), *self.backend, *arguments)

    @contextmanager
    def training(self, *arguments: str, name: str) -> Iterator[subprocess.Popen[str]]:
        """A run of the small topology that trains."""
        process = self.up("--name", name, *arguments)
        try:
            until(lambda: self.trains(name) or process.poll() is not None, what="training")
            assert self.trains(name), end(process).err
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=UP_S)

    def path(self, name: str, *, topology: str = "small") -> Path:
        return self.results / topology / name

    def trains(self, name: str) -> bool:
        """Whether every node of the small run has ended a round."""
        files = [self.path(name) / "nodes" / f"n-{i}.jsonl" for i in (0, 1)]
        return all(file.exists() and '"kind":"round"' in file.read_text() for file in files)

    def verdict(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.path(name) / "verdict.json").read_text()))

    def container(self, run: str, node: str) -> Container:
        labels = [f"peerbed.run={run}", f"peerbed.node={node}"]
        (found,) = self.client.containers.list(filters={"label": labels})
        return found

    def leftovers(self) -> list[str]:
        """Containers, networks and processes of runs in this results folder."""
        mine = f"{self.results}/"
        left = [] if "local" in self.backend else self._on_engine(mine)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                left += _ours(entry, mine)
        return left

    def _on_engine(self, mine: str) -> list[str]:
        containers = self.client.containers.list(
            all=True, filters={"label": "peerbed.results"}, ignore_removed=True
        )
        networks = self.client.networks.list(filters={"label": "peerbed.results"})
        left = [c.name or "?" for c in containers if c.labels["peerbed.results"].startswith(mine)]
        for network in networks:
            if network.attrs["Labels"]["peerbed.results"].startswith(mine):
                left.append(str(network.name))
        return left


def _ours(entry: Path, mine: str) -> list[str]:
    try:
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        environment = (entry / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return [command] if mine in command or f"PEERBED_RUN={mine}" in environment else []


def end(process: subprocess.Popen[str], *, timeout_s: float = UP_S) -> Done:
    """Wait for a command's end."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"not over within {timeout_s:g} s:\n{out}\n{err}") from None
    assert "Traceback" not in err, err
    return Done(process.returncode, out, err)


def readable(path: Path, *, full_disk: bool = False) -> None:
    """Every record file is whole lines of JSON; on a full disk the last may be cut off."""
    files = [*path.glob("nodes/*.jsonl"), *path.glob("coordinator.jsonl")]
    assert files
    for file in files:
        *lines, last = file.read_bytes().split(b"\n")
        assert last == b"" or full_disk, f"{file} ends in half a line: {last!r}"
        for line in lines:
            assert "kind" in json.loads(line)
