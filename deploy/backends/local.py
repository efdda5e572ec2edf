"""The local backend: one process for each member, on loopback, without Docker and without root.

Links are impaired by the members themselves. Processes of a run carry its folder in their
environment and are found by it, those that a member started too, also after their owner is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from deploy import host
from deploy.backends.base import COORDINATOR, STOP_GRACE_S, Interrupted
from deploy.history import MemberState
from deploy.plan import BackendKind, Plan
from deploy.processes import labelled, labels, signal_all
from deploy.results import RunFolder, writing
from node.errors import PeerbedError, RunFailed

_SIGNALS: Final = {
    "crash": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "resume": signal.SIGCONT,
}
"""What does something to all processes of a node at once."""


class LocalBackend:
    """See `deploy.backends.base.Backend`. The process that called `start` learns exit statuses."""

    kind = BackendKind.LOCAL

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def check(self, *, results: Path, run_id: str) -> list[PeerbedError]:
        needed = ("torch", "grpc", "numpy")
        missing = host.check_packages(needed, who="the local backend", instead="--backend docker")
        return [*missing, *host.check_folder(results)]

    def taken_networks(self) -> list[IPv4Network]:
        return []

    def describe(self) -> dict[str, Any]:
        return {"python": sys.executable}

    def start(self, plan: Plan, folder: RunFolder, *, interrupted: Interrupted) -> None:
        names = [str(n.name) for n in plan.nodes if n.name not in plan.coordinator.standby]
        for member in (COORDINATOR, *names):
            if interrupted():
                return
            self._launch(folder, member)

    def _launch(self, folder: RunFolder, member: str) -> None:
        role = "coordinator" if member == COORDINATOR else "peer"
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "node", role, "--config", str(folder.config_file(member))]
        with writing(folder.path), folder.log_file(member).open("ab") as output:
            try:
                self._children[member] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **labels(folder, member=member), "PYTHONPATH": path},
                    cwd=folder.path,
                    start_new_session=True,
                )
            except OSError as error:
                raise RunFailed(f"cannot start a process: {error}", where=member) from error

    def poll(self, folder: RunFolder) -> Mapping[str, MemberState]:
        states = {}
        for member, child in self._children.items():
            status = child.poll()
            states[member] = MemberState(
                member=member,
                status="exited" if status is not None else _status(child.pid),
                alive=status is None,
                # As a shell and a container say it: 128 + the signal that ended it.
                exit_status=128 - status if status is not None and status < 0 else status,
            )
        if not self._children:
            for _, member in labelled(folder):
                states[member] = MemberState(member=member, status="running", alive=True)
        return states

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        child = self._children.get(node)
        if verb == "join" and (child is None or child.poll() is not None):
            self._launch(folder, node)
        elif child is None:
            raise RunFailed("it has no process of ours", where=node)
        elif verb == "restart":
            signal_all(folder, signal.SIGKILL, member=node)
            self._again(folder, node, child)
        elif verb == "return":
            self._again(folder, node, child)
        elif child.poll() is not None:
            raise RunFailed(f"cannot {verb}: its process has ended", where=node)
        elif verb == "leave":
            signal_all(folder, signal.SIGCONT, member=node)
            child.send_signal(signal.SIGTERM)
        elif verb in _SIGNALS:
            signal_all(folder, _SIGNALS[verb], member=node)
        else:
            raise RunFailed(f"cannot {verb}: it runs", where=node)

    def _again(self, folder: RunFolder, member: str, child: subprocess.Popen[bytes]) -> None:
        """Start it once its former process has ended."""
        try:
            child.wait(timeout=STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            raise RunFailed(
                "cannot start it again: its process does not end", where=member
            ) from None
        self._launch(folder, member)

    def stop(self, folder: RunFolder, *, grace_s: float = STOP_GRACE_S) -> list[str]:
        alive = {s.member for s in self.poll(folder).values() if s.alive}
        signal_all(folder, signal.SIGCONT)  # a stopped process would not see the next one
        for member in alive & self._children.keys():
            self._children[member].send_signal(signal.SIGTERM)
        if not self._children:
            signal_all(folder, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = {s.member for s in self.poll(folder).values() if s.alive}
        signal_all(folder, signal.SIGKILL)
        for child in self._children.values():
            child.wait()
        return sorted(alive)

    def collect(self, folder: RunFolder) -> list[str]:
        return []  # processes write into the run's logs themselves

    def destroy(self, folder: RunFolder) -> None:
        deadline = time.monotonic() + STOP_GRACE_S
        while left := list(labelled(folder)):
            signal_all(folder, signal.SIGKILL)
            if time.monotonic() > deadline:
                pids = ", ".join(str(pid) for pid, _ in left)
                raise RunFailed(f"processes {pids} of run {folder.run_id} could not be ended")
            for child in self._children.values():
                child.poll()
            time.sleep(0.02)

    def has_rest(self, folder: RunFolder) -> bool:
        return any(True for _ in labelled(folder))


def _status(pid: int) -> str:
    """`paused` for a process that was stopped by a signal."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "running"
    return "paused" if stat.rpartition(")")[2].split()[0] == "T" else "running"


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now; held open together so that all differ."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return ports
