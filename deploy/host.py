"""This machine as the tool sees it: Docker engine, Compose, routes, cores, memory.

It only finds out; what is missing is raised as `EnvironmentFault` with its remedy by those who need
it, and listed by `deploy doctor`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import EnvironmentFault, PeerbedError

if TYPE_CHECKING:
    from docker import DockerClient

ENGINE_TIMEOUT_S = 60
_PROBE_TIMEOUT_S = 15
DISK_MIN_BYTES = 64 << 20
"""Free space without which no run starts: records of a short run, and room to fail in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """The Compose of this machine: the `docker compose` plugin or `docker-compose`."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a command ended; `output` holds both its streams."""

    returncode: int
    output: str


def foreign_environment() -> dict[str, str]:
    """Our environment for a program that may be written in Python, but is not of this Python."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def run_quietly(argv: list[str], *, timeout_s: float) -> Completed:
    """Run a probe; a missing program or a timeout is a non-zero return code, not an exception."""
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=foreign_environment(),
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        return Completed(returncode=127, output=str(error))
    except subprocess.TimeoutExpired:
        return Completed(returncode=124, output=f"no answer within {timeout_s:g} s")
    return Completed(returncode=done.returncode, output=done.stdout.decode(errors="replace"))


def engine_address() -> str | None:
    """Where the engine is, as DOCKER_HOST or the docker client's context says; None: default."""
    if address := os.environ.get("DOCKER_HOST"):
        return address
    if not (Path.home() / ".docker" / "config.json").is_file():
        return None
    from docker.context import ContextAPI

    try:
        context = ContextAPI.get_current_context()
        return str(context.Host) if context is not None and context.name != "default" else None
    except Exception:  # a broken client configuration is not ours to judge
        return None


def docker_client() -> DockerClient:
    """A client of an engine that answers; raises EnvironmentFault otherwise."""
    try:
        import docker
    except ImportError as error:
        raise EnvironmentFault(
            "Python's docker package is missing", remedy="pip install 'peerbed[deploy]'"
        ) from error
    address = engine_address()
    try:
        if address is None or os.environ.get("DOCKER_HOST"):
            return docker.from_env(timeout=ENGINE_TIMEOUT_S)
        return docker.DockerClient(base_url=address, version="auto", timeout=ENGINE_TIMEOUT_S)
    except Exception as error:
        raise engine_fault(error) from error


def engine_fault(error: Exception) -> EnvironmentFault:
    """What to tell a user when the engine does not answer."""
    address = engine_address() or "unix:///var/run/docker.sock"
    if "Permission denied" in str(error) or "PermissionError" in str(error):
        return EnvironmentFault(
            f"this user may not talk to the Docker engine ({address})",
            remedy="sudo usermod -aG docker $USER, then log in again; or use --backend local",
        )
    remedy = "start that engine or unset DOCKER_HOST" if os.environ.get("DOCKER_HOST") else ""
    return EnvironmentFault(
        f"no Docker engine answers at {address}",
        remedy=f"{remedy or 'start it (as root: scripts/docker-engine ensure)'};"
        " or use --backend local, which needs none",
    )


def engine_answers() -> bool:
    """Whether a Docker engine can be used from here."""
    try:
        docker_client().close()
    except EnvironmentFault:
        return False
    return True


def find_compose() -> Compose:
    """`docker compose` (v2) or `docker-compose` (1.29), whichever answers first."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) is None:
            continue
        done = run_quietly([*command, "version", "--short"], timeout_s=_PROBE_TIMEOUT_S)
        if done.returncode == 0:
            return Compose(command=command, version=done.output.strip().splitlines()[-1])
    raise EnvironmentFault(
        "Docker Compose is missing",
        remedy="apt-get install docker-compose-v2 (Ubuntu), docker-compose-plugin (Docker's own"
        " packages) or docker-compose (Debian 12)",
    )


def parse_routes(text: str) -> list[IPv4Network]:
    """Networks of `/proc/net/route`, the default route left out."""
    networks = []
    for line in text.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 8:
            continue
        address, mask = (int.from_bytes(bytes.fromhex(columns[i]), "little") for i in (1, 7))
        if mask:
            networks.append(IPv4Network((address & mask, mask.bit_count())))
    return networks


def host_routes() -> list[IPv4Network]:
    """Networks that this host has a route to, the default route left out."""
    try:
        return parse_routes(Path("/proc/net/route").read_text())
    except OSError:
        return []


def engine_networks(client: DockerClient) -> list[IPv4Network]:
    """Subnets of the engine's networks."""
    found = []
    for network in client.networks.list():
        for pool in (network.attrs.get("IPAM") or {}).get("Config") or []:
            subnet = str(pool.get("Subnet") or "")
            if subnet and ":" not in subnet:
                found.append(IPv4Network(subnet, strict=False))
    return found


def taken_networks(client: DockerClient | None) -> list[IPv4Network]:
    """Every network that a run's subnet must not overlap."""
    return host_routes() + (engine_networks(client) if client is not None else [])


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The machine's memory; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def free_bytes(path: Path) -> int:
    """Free disk space where `path` is or will be."""
    return shutil.disk_usage(_existing(path)).free


def check_packages(
    packages: Iterable[str], *, who: str, instead: str | None = None
) -> list[PeerbedError]:
    """Whether this Python has what is not needed for every verb.

    Args:
        who: needs them.
        instead: options that do without.
    """
    remedy = "pip install 'peerbed[deploy,train]'" + (f", or use {instead}" if instead else "")
    return [
        EnvironmentFault(f"{who} needs {package} in this Python ({sys.executable})", remedy=remedy)
        for package in packages
        if importlib.util.find_spec(package) is None
    ]


def check_folder(results: Path) -> list[PeerbedError]:
    """Whether runs can be stored in a folder that need not exist yet: writable, and with room."""
    there = _existing(results.absolute())
    if not os.access(there, os.W_OK | os.X_OK):
        return [
            EnvironmentFault(
                "cannot be written by this user",
                where=str(there),
                remedy="make it writable, or use another folder: --results DIR",
            )
        ]
    if (free := free_bytes(there)) < DISK_MIN_BYTES:
        return [
            EnvironmentFault(
                f"{free >> 20} MiB free on the disk, a run needs {DISK_MIN_BYTES >> 20} MiB",
                where=str(results),
                remedy="make room, or use another disk: --results DIR",
            )
        ]
    return []


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
