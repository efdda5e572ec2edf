"""`deploy up`: from a topology file to a verdict.

    check the file and the machine -> run folder -> conduct (start ... judge) -> exit status

Nothing is written before everything that can be checked was checked; from the moment the run
folder exists, every end of the run leaves a verdict in it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from deploy import datasets, foreign, host
from deploy.addresses import free_subnet
from deploy.backends import make_backend
from deploy.backends.base import Backend, Say
from deploy.backends.local import free_ports
from deploy.checks import Verdict
from deploy.conduct import conduct
from deploy.interrupt import Interruption
from deploy.live import PlainScreen, screen
from deploy.loading import load_and_warn
from deploy.places import addresses_needed
from deploy.plan import (
    RESULTS,
    BackendKind,
    Plan,
    make_plan,
    plan_from_json,
)
from deploy.render import render
from deploy.report import print_run, run_json
from deploy.results import Results, RunFolder, RunState, check_name, new_run_id
from deploy.sweep import sweep
from deploy.topology import Topology
from deploy.version import ROOT, commit, version
from node.config import Emulator
from node.core.ids import COORDINATOR
from node.errors import ConfigError, EnvironmentFault, PeerbedError, RunFailed

_DETACH_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; None is not said.

    Args:
        sets: overrides `KEY=VALUE` of the file.
        build: build the node image if it is missing.
        command: the command line, for the manifest.
    """

    file: Path
    results: Path
    backend: str | None = None
    name: str | None = None
    seed: int | None = None
    sets: tuple[str, ...] = ()
    links: str | None = None
    emulator: str | None = None
    build: bool = True
    command: str = ""

    @property
    def overrides(self) -> tuple[str, ...]:
        """All overrides of the file."""
        return self.sets if self.links is None else (*self.sets, f"links={self.links}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A request that this machine can fulfil."""

    request: Request
    topology: Topology
    backend: Backend
    results: Results
    run_id: str
    image: str
    place: dict[str, Any]
    """What the manifest says about the machine."""


def up(request: Request, *, detach: bool, as_json: bool) -> int:
    """Do all of it; returns the exit status."""
    say = PlainScreen().say
    checked = check(request, say=say)
    with Interruption() as interruption:
        folder, plan = store(checked)
        if detach:
            return _detach(folder, as_json=as_json)
        with screen(title=f"{folder.topology}/{folder.run_id}") as shown:
            verdict = conduct(
                folder=folder,
                plan=plan,
                backend=checked.backend,
                screen=shown,
                interruption=interruption,
            )
    return tell(folder, verdict, as_json=as_json)


def supervise(path: Path) -> int:
    """Conduct a run that another process has prepared."""
    folder = RunFolder(path.resolve())
    plan = plan_from_json(folder.plan_file.read_text())
    if folder.state() is RunState.ENDED:
        raise ConfigError("that run has ended already", where=str(path))
    with Interruption() as interruption, PlainScreen() as shown:
        folder.take_ownership()
        verdict = conduct(
            folder=folder,
            plan=plan,
            backend=make_backend(plan.backend),
            screen=shown,
            interruption=interruption,
        )
    return tell(folder, verdict, as_json=False)


def tell(folder: RunFolder, verdict: Verdict, *, as_json: bool) -> int:
    """Show how a run has ended; its exit status."""
    if as_json:
        sys.stdout.write(json.dumps(run_json(folder, verdict=verdict.to_json()), indent=2) + "\n")
    else:
        print_run(folder, verdict=verdict.to_json())
    return verdict.exit_status


# Before anything is touched ---------------------------------------------------------------------


def check(request: Request, *, say: Say) -> Checked:
    """Everything that can be known to fail fails here, with nothing written or started.

    What dead runs left behind is swept first, and the node image is built if it is missing.
    """
    run_id = new_run_id() if request.name is None else check_name(request.name)
    topology = load_and_warn(request.file, overrides=request.overrides)
    results = Results(request.results)
    backend = choose_backend(request.backend, say=say)
    sweep(results, say=say)
    results.check_free(run_id)
    raise_all(backend.check(results=results.path, run_id=run_id))
    image = ""
    place: dict[str, Any] = {}
    if backend.kind is BackendKind.DOCKER:
        if request.emulator is not None:
            _plan_for_nothing(topology, Emulator(request.emulator))
        image, place = node_image(backend, build=request.build, say=say)
    return Checked(
        request=request,
        topology=topology,
        backend=backend,
        results=results,
        run_id=run_id,
        image=image,
        place=place | backend.describe(),
    )


def _plan_for_nothing(topology: Topology, emulator: Emulator) -> None:
    """Refuse what the emulator that is asked for cannot do before an image is built for it."""
    make_plan(
        topology,
        run_id="none",
        backend=BackendKind.DOCKER,
        subnet=IPv4Network("10.0.0.0/8"),
        emulator=emulator,
    )


def choose_backend(asked: str | None, *, say: Say) -> Backend:
    """The one asked for; else docker where an engine answers; else local, and say so."""
    if asked is not None:
        return make_backend(BackendKind(asked))
    try:
        host.docker_client().close()
    except EnvironmentFault as fault:
        say(f"{fault.message}: using the local backend (processes on loopback, modelled links)")
        return make_backend(BackendKind.LOCAL)
    return make_backend(BackendKind.DOCKER)


def raise_all(problems: Iterable[PeerbedError]) -> None:
    """Raise all problems as one; the worst kind decides the exit status."""
    found = list(problems)
    if not found:
        return
    if len(found) == 1:
        raise found[0]
    kind = ConfigError if any(isinstance(p, ConfigError) for p in found) else EnvironmentFault
    raise kind("\n".join(str(problem) for problem in found))


def node_image(backend: Backend, *, build: bool, say: Say) -> tuple[str, dict[str, Any]]:
    """The image to run, and what the manifest says about it."""
    from docker.errors import ImageNotFound

    from deploy import image as images

    client = host.docker_client()
    if build:
        made = images.ensure_image(client, root=ROOT, report=say)
        return made.tag, {"image": made.tag, "image_digest": made.image_id}
    tag = f"{images.REPOSITORY}:{version().replace('+', '-')}"
    try:
        found = client.images.get(tag)
    except ImageNotFound:
        raise EnvironmentFault(
            f"there is no node image {tag}", remedy="deploy build, or leave out --no-build"
        ) from None
    return tag, {"image": tag, "image_digest": str(found.id)}


# The run folder ---------------------------------------------------------------------------------


def store(
    checked: Checked, *, adapt: Callable[[Plan], Plan] | None = None
) -> tuple[RunFolder, Plan]:
    """Make the run folder with all that describes the run; without it where that fails.

    Args:
        adapt: makes something else of the plan than a run that trains.
    """
    docker = checked.backend.kind is BackendKind.DOCKER
    arrays = datasets.kept(checked.topology) if docker and adapt is None else None
    with checked.results.lock():
        folder = checked.results.create(topology=checked.topology.name, run_id=checked.run_id)
        try:
            plan = _plan(checked, folder)
            plan = plan if adapt is None else adapt(plan)
            _write(checked, folder, plan, arrays)
        except BaseException:
            checked.results.discard(folder)
            raise
    return folder, plan


def _plan(checked: Checked, folder: RunFolder) -> Plan:
    topology, request = checked.topology, checked.request
    kind = checked.backend.kind
    docker, local = kind is BackendKind.DOCKER, kind is BackendKind.LOCAL
    names = [*(node.name for node in topology.nodes), COORDINATOR]
    # Runs that are about to start have no network yet, but a plan.
    taken = [*checked.backend.taken_networks(), *_planned_networks(checked.results)]
    hosts = addresses_needed(topology)
    return make_plan(
        topology,
        run_id=checked.run_id,
        backend=kind,
        subnet=free_subnet(taken, hosts=hosts, salt=checked.run_id) if docker else None,
        ports=dict(zip(names, free_ports(len(names)), strict=True)) if local else None,
        results=RESULTS if docker else str(folder.path),
        owner=folder.member_owner(local=not docker),
        seed=request.seed,
        emulator=Emulator(request.emulator or "auto"),
    )


def _planned_networks(results: Results) -> list[IPv4Network]:
    found = []
    for run in results.runs():
        if run.state() is RunState.RUNNING and (plan := run.read_json(run.plan_file)):
            found.append(IPv4Network(plan["subnet"]))
    return found


def _write(checked: Checked, folder: RunFolder, plan: Plan, arrays: Path | None) -> None:
    folder.write_text(folder.topology_file, checked.topology.yaml)
    files = render(plan, image=checked.image, results=folder.path, arrays=arrays)
    for name, text in files.items():
        folder.write_text(folder.path / name, text)
    folder.write_json(folder.manifest_file, _manifest(checked, plan))
    code = foreign.packed(checked.topology.file.algorithm.name)
    if code is not None:
        folder.write_bytes(folder.algorithm_file, code)
    folder.reserve()
    folder.give_to_members(plan.coordinator.owner)


def _manifest(checked: Checked, plan: Plan) -> dict[str, Any]:
    started = time.time()
    asked = plan.nodes[0].config.links.emulator.value
    trains = plan.nodes[0].config.load is None
    return {
        "peerbed": version(),
        "command": checked.request.command,
        "topology": plan.topology,
        "run": plan.run_id,
        "file": str(checked.topology.path),
        "overrides": list(checked.request.overrides),
        "backend": plan.backend.value,
        "links": "application-level, on loopback" if asked == "application" else "kernel",
        "emulator": asked,
        "policy": plan.coordinator.policy.value,
        "purpose": "train" if trains else "verify",
        "algorithm": plan.nodes[0].config.algorithm.name if trains else None,
        "nodes": len(plan.nodes),
        "seed": plan.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "started_unix": started,
        "host": platform.node(),
        "kernel": platform.release(),
        "cpus": host.cpu_count(),
        "memory_bytes": host.memory_bytes(),
        "python": platform.python_version(),
        "git": commit(),
        **checked.place,
    }


# In the background -------------------------------------------------------------------------------


def _detach(folder: RunFolder, *, as_json: bool) -> int:
    """Hand the prepared run to a process of its own, which outlives this one and its terminal."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with folder.deploy_log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", "supervise", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACH_TIMEOUT_S
    while not _taken_over(folder, process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RunFailed(
                "the process in the background did not start", where=str(folder.deploy_log)
            )
        time.sleep(0.02)
    if as_json:
        run = {"run": folder.run_id, "topology": folder.topology, "path": str(folder.path)}
        sys.stdout.write(json.dumps(run) + "\n")
    else:
        sys.stdout.write(
            f"{folder.run_id} runs in the background: deploy status {folder.run_id}, "
            f"deploy logs -f {folder.run_id}, deploy wait {folder.run_id}, "
            f"deploy down {folder.run_id}\n"
        )
    return 0


def _taken_over(folder: RunFolder, pid: int) -> bool:
    owner = folder.owner()
    return folder.state() is RunState.ENDED or (owner is not None and owner.pid == pid)
