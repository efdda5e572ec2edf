"""Network namespaces joined by a bridge, as Docker joins containers: for tests and benchmarks.

The bridge lives in a namespace of its own, so that the machine's firewall (Docker's FORWARD policy
is DROP) neither sees these frames nor has to be changed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.213.7"
_numbers = itertools.count()


def why_not() -> str | None:
    """Why namespaces cannot be used here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("ip", "tc", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (apt-get install iproute2 iptables)"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "no network namespaces" if done.returncode else None


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0, what: str = "") -> None:
    """Wait for a condition, looking every 10 ms. Raises TimeoutError with `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what or "condition did not come true")
        time.sleep(0.01)


@dataclass(slots=True, kw_only=True)
class Host:
    """One namespace with an eth0."""

    name: str
    netns: str
    address: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, argv: Sequence[str]) -> list[str]:
        # nsenter, not `ip netns exec`: that one remounts /sys.
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 60.0) -> str:
        """Run to the end in this namespace and return what it printed."""
        done = subprocess.run(
            self.command(argv),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=ROOT,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)} in {self.name}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start in this namespace; ended with the network."""
        process = subprocess.Popen(
            self.command(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def set(self, name: str, value: str, *, check: bool = True) -> None:
        """Set a kernel parameter of this namespace."""
        self.run("sh", "-c", f'echo "{value}" 2>/dev/null >"/proc/sys/{name}"', check=check)

    def interpreter(self, module: str, *argv: str) -> list[str]:
        return [sys.executable, "-m", module, *argv]

    def python(self, module: str, *argv: str) -> subprocess.Popen[str]:
        """Start one of our modules in this namespace."""
        return self.start(*self.interpreter(module, *argv))


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """`count` hosts n0, n1, ... on one bridge; everything is removed afterwards."""
    label = f"pb{os.getpid()}x{next(_numbers)}"
    switch = f"{label}s"
    hosts = [
        Host(name=f"n{i}", netns=f"{label}n{i}", address=f"{NETWORK}.{i + 2}") for i in range(count)
    ]
    try:
        _ip(f"netns add {switch}")
        _ip(f"-n {switch} link add br0 type bridge")
        _ip(f"-n {switch} link set br0 up")
        for i, host in enumerate(hosts):
            _ip(f"netns add {host.netns}")
            _ip(f"-n {switch} link add p{i} type veth peer name eth0 netns {host.netns}")
            _ip(f"-n {switch} link set p{i} master br0 up")
            _ip(f"-n {host.netns} addr add {host.address}/24 dev eth0")
            # Docker lets everybody ping in containers; looking for duplicate addresses would hold
            # IPv6 back for a second.
            host.set("net/ipv4/ping_group_range", "0 2147483647")
            host.set("net/ipv6/conf/eth0/accept_dad", "0", check=False)
            _ip(f"-n {host.netns} link set eth0 up")
            _ip(f"-n {host.netns} link set lo up")
        yield hosts
    finally:
        for process in (p for host in hosts for p in host.processes):
            _end(process)
        for name in [switch, *(host.netns for host in hosts)]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _end(process: subprocess.Popen[str]) -> None:
    """End it with its children, which hold its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)


def statistics(host: Host, device: str) -> list[dict[str, object]]:
    """What `tc -s qdisc show` says about a device."""
    found: list[dict[str, object]] = json.loads(
        host.run("tc", "-s", "-j", "qdisc", "show", "dev", device)
    )
    return found
