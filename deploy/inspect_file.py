"""`deploy validate`, `render` and `schema`: what a topology file says, with nothing started."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.addresses import free_subnet
from deploy.host import host_routes
from deploy.loading import load_and_warn, warn
from deploy.places import addresses_needed
from deploy.plan import BackendKind, Plan, make_plan
from deploy.render import render as rendered_files
from deploy.results import writing
from deploy.topology import Problem, Topology, TopologyErrors, load_topology
from deploy.topology.schema import schema_text
from deploy.version import version
from node.config import Emulator
from node.core.ids import COORDINATOR, NodeId
from node.units import format_duration


def validate(file: Path, *, sets: Sequence[str], as_json: bool) -> int:
    """Say what a file describes, or everything that is wrong with it."""
    try:
        topology = load_topology(file, overrides=sets)
    except TopologyErrors as errors:
        if not as_json:
            raise
        found = {"problems": _as_json(errors.problems), "warnings": _as_json(errors.warnings)}
        sys.stdout.write(json.dumps({"valid": False, **found}, indent=2) + "\n")
        return errors.exit_status
    facts = _facts(topology)
    if as_json:
        found = {"problems": [], "warnings": _as_json(topology.warnings)}
        sys.stdout.write(json.dumps({"valid": True, **found, **facts}, indent=2) + "\n")
    else:
        warn(topology.warnings)
        events = f" events at {facts['events']} times;" if facts["events"] else ""
        stop = ", ".join(f"{key} {value}" for key, value in facts["stop"].items())
        sys.stdout.write(
            f"{file}: {facts['name']}: {facts['nodes']} nodes, {facts['links']} directed links,"
            f" {facts['exchanging_pairs']} exchanging pairs;{events} {facts['algorithm']} on"
            f" {facts['dataset']}; ends at {stop}\n"
        )
    return 0


def _as_json(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [
        {"file": p.file, "line": p.line, "column": p.column, "key": p.key}
        | {"message": p.message, "hint": p.hint}
        for p in problems
    ]


def _facts(topology: Topology) -> dict[str, Any]:
    stop: dict[str, Any] = {"time": format_duration(topology.file.stop.time)}
    if topology.file.stop.rounds is not None:
        stop["rounds"] = topology.file.stop.rounds
    if topology.file.stop.accuracy is not None:
        stop["accuracy"] = topology.file.stop.accuracy
    return {
        "name": topology.name,
        "seed": topology.seed,
        "nodes": len(topology.nodes),
        "links": len(topology.network.links),
        "exchanging_pairs": sum(map(len, topology.overlay.values())) // 2,
        "events": len(topology.timeline),
        "algorithm": topology.file.algorithm.name,
        "dataset": topology.file.training.dataset,
        "stop": stop,
    }


def render(
    file: Path,
    *,
    output: Path | None,
    backend: str | None,
    seed: int | None,
    sets: Sequence[str],
    links: str | None,
    emulator: str | None,
) -> int:
    """Print all that `up` would set, or write it to a folder."""
    overrides = (*sets, f"links={links}") if links else tuple(sets)
    topology = load_and_warn(file, overrides=overrides)
    kind = BackendKind(backend or "docker")
    plan = _plan(topology, kind=kind, seed=seed, emulator=emulator)
    files = rendered_files(plan, image=f"peerbed-node:{version().replace('+', '-')}")
    if output is None:
        for name in _for_reading(files):
            sys.stdout.write(f"# ==> {name}\n{files[name].rstrip()}\n\n")
        return 0
    with writing(output):
        for name, text in files.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in files:
        sys.stdout.write(f"{output / name}\n")
    return 0


def _plan(topology: Topology, *, kind: BackendKind, seed: int | None, emulator: str | None) -> Plan:
    """A plan that depends on the file and this host's routes alone: the same each time."""
    hosts = addresses_needed(topology)
    names = [*(node.name for node in topology.nodes), COORDINATOR]
    ports: Mapping[NodeId, int] = {name: 7000 + index for index, name in enumerate(names)}
    docker = kind is BackendKind.DOCKER
    return make_plan(
        topology,
        run_id=topology.name,
        backend=kind,
        subnet=free_subnet(host_routes(), hosts=hosts, salt=topology.name) if docker else None,
        ports=None if docker else ports,
        seed=seed,
        emulator=Emulator(emulator or "auto"),
    )


def _for_reading(files: Mapping[PurePosixPath, str]) -> list[PurePosixPath]:
    """What is worth printing: the Compose file, then the links' commands; else the plan.

    The plan and each member's configuration are in the Compose file already.
    """
    compose = PurePosixPath("compose.yaml")
    if compose not in files:
        return [PurePosixPath("plan.json")]
    return [compose, *(name for name in files if name.parts[0] == "links")]


def schema() -> int:
    """Print the JSON Schema of topology files."""
    sys.stdout.write(schema_text())
    return 0
