"""`deploy doctor`: everything that a run needs of this machine, each with its remedy."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy import host
from deploy.live import size
from deploy.plan import BackendKind
from node.errors import EnvironmentFault

if TYPE_CHECKING:
    from docker import DockerClient

PYTHON_MIN: Final = (3, 11)
_DEPLOY_PACKAGES: Final = (
    "click", "defusedxml", "docker", "Jinja2", "matplotlib", "networkx", "numpy", "pydantic",
    "PyYAML", "rich", "grpcio", "protobuf",
)  # fmt: skip
_TRAIN_PACKAGES: Final = ("torch", "torchvision")
_LACKING: Final = 3

PROBE: Final = r"""
try() { name=$1; shift; if out=$("$@" 2>&1); then echo "$name ok"; else echo "$name no $out"; fi; }
ip link set lo up
try htb tc qdisc add dev lo root handle 1: htb
tc qdisc del dev lo root 2>/dev/null
try netem tc qdisc add dev lo root netem delay 1ms
tc qdisc del dev lo root 2>/dev/null
try ingress tc qdisc add dev lo ingress
try ifb ip link add peerbed-probe type ifb
try nfqueue iptables -t mangle -A INPUT -p tcp --dport 9 -j NFQUEUE --queue-num 9
"""
"""Run in a network namespace of its own, by a container of the node image with NET_ADMIN."""


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    """A run of the backend asked about would not start, or not be what was asked for."""
    NOTE = "note"
    """Worth knowing; needed by some runs only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def doctor(*, results: Path, backend: str, as_json: bool) -> int:
    """Print all items; returns 3 where something that a run needs is missing."""
    items = examine(results=results, backend=BackendKind(backend))
    missing = [item for item in items if item.state is State.MISSING]
    if as_json:
        listed = [asdict(item) for item in items]
        sys.stdout.write(json.dumps({"ready": not missing, "items": listed}, indent=2) + "\n")
    else:
        _print(items)
    return _LACKING if missing else 0


def examine(*, results: Path, backend: BackendKind) -> list[Item]:
    """Look at everything that the backend needs."""
    docker = backend is BackendKind.DOCKER
    items = [_python(), *_packages(_DEPLOY_PACKAGES, needed=True, extra="deploy")]
    items += _packages(_TRAIN_PACKAGES, needed=not docker, extra="train")
    items += [_cores(), _memory(), _disk(results)]
    if docker:
        items += _engine()
    return items


# This Python and this machine --------------------------------------------------------------------


def _python() -> Item:
    found = platform.python_version()
    if sys.version_info >= PYTHON_MIN:
        return Item(name="python", state=State.OK, detail=found)
    wanted = ".".join(map(str, PYTHON_MIN))
    return Item(
        name="python",
        state=State.MISSING,
        detail=f"{found}; {wanted} or newer is needed",
        remedy=f"install Python {wanted} (Debian 12 and Ubuntu 24.04 have it)",
    )


def _packages(names: tuple[str, ...], *, needed: bool, extra: str) -> Iterator[Item]:
    """One item for all packages of an extra that are there, one for those that are not."""
    there, lacking = [], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lacking.append(name)
    what = f"packages [{extra}]"
    if not lacking:
        yield Item(name=what, state=State.OK, detail=", ".join(there))
        return
    yield Item(
        name=what,
        state=State.MISSING if needed else State.NOTE,
        detail=f"not installed: {', '.join(lacking)}"
        + ("" if needed else " (needed by the local backend only)"),
        remedy=f"pip install -e '.[{extra}]' in the checkout",
    )


def _cores() -> Item:
    cores = host.cpu_count()
    if cores >= 2:
        return Item(name="cores", state=State.OK, detail=str(cores))
    return Item(
        name="cores",
        state=State.NOTE,
        detail="1: nodes compute by turns, and links may look slower than they are",
        remedy="give the machine a second core, or set compute: {step: ...}",
    )


def _memory() -> Item:
    memory = host.memory_bytes()
    return Item(name="memory", state=State.OK, detail=size(memory))


def _disk(results: Path) -> Item:
    problems = host.check_folder(results)
    if problems:
        fault = problems[0]
        return Item(
            name="results",
            state=State.MISSING,
            detail=f"{fault.where}: {fault.message}",
            remedy=fault.remedy or "",
        )
    free = size(host.free_bytes(results.absolute()))
    return Item(name="results", state=State.OK, detail=f"{results}: {free} free")


# The engine --------------------------------------------------------------------------------------


def _engine() -> Iterator[Item]:
    """The engine, and what can be asked of it."""
    try:
        client = host.docker_client()
    except EnvironmentFault as fault:
        yield _fault("engine", fault)
        yield from _compose()
        return
    info, engine = client.info(), str(client.version().get("Version"))
    kernel = f"Linux {info.get('KernelVersion')}"
    yield Item(name="engine", state=State.OK, detail=f"Docker {engine} on {kernel}")
    yield from _compose()
    yield _limits(info)
    yield from _image(client)


def _fault(name: str, fault: EnvironmentFault) -> Item:
    return Item(
        name=name, state=State.MISSING, detail=fault.message, remedy=fault.remedy or "see above"
    )


def _compose() -> Iterator[Item]:
    try:
        found = host.find_compose()
    except EnvironmentFault as fault:
        yield _fault("compose", fault)
        return
    detail = f"{' '.join(found.command)} {found.version}"
    yield Item(name="compose", state=State.OK, detail=detail)


def _limits(info: Mapping[str, Any]) -> Item:
    """Whether `cpus:` and `memory:` of a node can be enforced."""
    lacking = [
        what
        for key, what in (("CpuCfsQuota", "cpus"), ("MemoryLimit", "memory"))
        if not info.get(key)
    ]
    group = f"cgroup {info.get('CgroupVersion', '?')}"
    if not lacking:
        return Item(name="limits", state=State.OK, detail=f"{group}: cpus and memory")
    return Item(
        name="limits",
        state=State.NOTE,
        detail=f"{group}: no limit on {' and '.join(lacking)}; files that ask for it cannot run",
        remedy="enable the kernel's cpu and memory cgroup controllers",
    )


def _image(client: DockerClient) -> Iterator[Item]:
    """The node image, and the kernel as a container of it sees it."""
    from docker.errors import ImageNotFound

    from deploy.image import REPOSITORY
    from deploy.version import version as peerbed_version

    tag = f"{REPOSITORY}:{peerbed_version().replace('+', '-')}"
    try:
        client.images.get(tag)
    except ImageNotFound:
        yield Item(
            name="node image",
            state=State.NOTE,
            detail=f"{tag} is not built yet, so the kernel was not looked at",
            remedy="deploy build (the first deploy up does it too)",
        )
        return
    yield Item(name="node image", state=State.OK, detail=tag)
    try:
        yield from judge_kernel(_probe(client, tag))
    except EnvironmentFault as fault:
        yield _fault("kernel", fault)


def _probe(client: DockerClient, tag: str) -> str:
    from docker.errors import DockerException

    try:
        output = client.containers.run(
            tag,
            entrypoint=["sh", "-c", PROBE],
            cap_add=["NET_ADMIN"],
            network_mode="none",
            labels={"peerbed.doctor": "probe"},
            remove=True,
            stderr=True,
        )
    except DockerException as error:
        raise EnvironmentFault(
            f"a container with NET_ADMIN cannot be run: {error}",
            remedy="allow --cap-add NET_ADMIN on this engine",
        ) from error
    return bytes(output).decode(errors="replace")


def judge_kernel(output: str) -> Iterator[Item]:
    """What the lines of `PROBE` say about the kernel (pure)."""
    able: dict[str, bool] = {}
    why: dict[str, str] = {}
    for line in output.splitlines():
        name, _, rest = line.partition(" ")
        if rest.startswith(("ok", "no")):
            able[name], why[name] = rest == "ok", rest[3:]
    wanted: tuple[tuple[str, str, Callable[[], bool]], ...] = (
        ("htb", "rates", lambda: True),
        ("ifb", "a receiver's own rate", lambda: True),
        ("ingress", "a receiver's own rate", lambda: True),
        ("netem", "delay, jitter and loss", lambda: not able.get("nfqueue")),
        ("nfqueue", "delays without netem", lambda: not able.get("netem")),
    )
    for name, use, needed in wanted:
        if able.get(name):
            yield Item(name=f"kernel: {name}", state=State.OK, detail=f"there, for {use}")
            continue
        state = State.MISSING if needed() else State.NOTE
        instead = {"netem": "; nfqueue stands in", "nfqueue": "; netem does it"}.get(name, "")
        yield Item(
            name=f"kernel: {name}",
            state=state,
            detail=f"not there{instead if state is State.NOTE else ', for ' + use}"
            + (f" ({why[name].strip()})" if state is State.MISSING and why.get(name) else ""),
            remedy=_KERNEL_REMEDY if state is State.MISSING else "",
        )


_KERNEL_REMEDY: Final = (
    "load the module on the host (modprobe sch_htb sch_ingress ifb sch_netem nfnetlink_queue); "
    "Ubuntu: linux-modules-extra-$(uname -r), Fedora: kernel-modules-extra"
)


def _print(items: list[Item]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if os.isatty(1) else 160, highlight=False)
    styles = {State.OK: "green", State.MISSING: "bold red", State.NOTE: "yellow"}
    width = max(len(item.name) for item in items)
    for item in items:
        line = Text(f"{item.state.value:8}", style=styles[item.state])
        line.append(f"{item.name:{width}}  {item.detail}", style="default")
        console.print(line)
        if item.remedy:
            console.print(Text(f"{'':8}{'':{width}}  -> {item.remedy}", style="dim"))
    missing = sum(item.state is State.MISSING for item in items)
    console.print("all that a run needs is there" if not missing else f"{missing} missing")
