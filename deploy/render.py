"""A plan as the files that a run is started from (pure): path -> text, same plan same bytes.

    plan.json                     the plan itself
    config/<member>.json          what each member is told
    compose.yaml                  one container for each member (docker backend)
    links/<node>.<emulator>.txt   the commands that set the node's links up, for both emulators

The Compose file is within what docker-compose 1.29 and Compose v2 both read. It has no `version`,
which v2 calls obsolete and 1.29 takes as the Compose Specification: the only format in which both
enforce `cpus` and `mem_limit` on single hosts.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.plan import CACHE, DATA, RESULTS, BackendKind, Plan, PlannedNode, Resources, plan_json
from node.config import Config, Emulator, to_json
from node.core.ids import COORDINATOR
from node.errors import ConfigError
from node.links.impair import check as check_paths
from node.links.tc_plan import plan_commands
from node.packing import pack
from node.units import format_size

RUN_LABEL: Final = "peerbed.run"
TOPOLOGY_LABEL: Final = "peerbed.topology"
NODE_LABEL: Final = "peerbed.node"
RESULTS_LABEL: Final = "peerbed.results"

STANDBY_PROFILE: Final = "standby"
"""Compose's profile of nodes that are not there at the start."""

EMULATORS: Final = (Emulator.NETEM, Emulator.NFQUEUE)
ENVIRONMENT_MAX: Final = 128 * 1024 - len("PEERBED_CONFIG=") - 1
"""Linux takes no longer string into a process's environment."""

Files = dict[PurePosixPath, str]


def render(
    plan: Plan,
    *,
    image: str,
    build: bool = False,
    results: Path | None = None,
    arrays: Path | None = None,
    header: tuple[str, ...] | None = None,
) -> Files:
    """All files of a plan.

    Args:
        image: the node image's name.
        build: let Compose build the image from the folder of the Compose file; otherwise it must
            be there, and is never pulled.
        results: the run folder, absolute. None: `$PEERBED_RESULTS`, else
            `results/<topology>/compose` beside the Compose file.
        arrays: the host's folder of a data set's decoded arrays, absolute. None: there is none,
            and every container decodes what is to be decoded by itself.
        header: comment lines for the head of the Compose file; None: which run it is.
    Raises:
        ConfigError: a node's configuration is too long for a container's environment.
    """
    files = {PurePosixPath("plan.json"): plan_json(plan)}
    if plan.backend is BackendKind.SIM:
        return files
    for name, config in _configs(plan).items():
        files[PurePosixPath("config", f"{name}.json")] = to_json(config) + "\n"
    if plan.backend is BackendKind.DOCKER:
        head = (f"Run {plan.run_id} of {plan.topology}.",) if header is None else header
        text = _compose(plan, image=image, build=build, results=results, arrays=arrays, header=head)
        files[PurePosixPath("compose.yaml")] = text
        for node in plan.nodes:
            for emulator in EMULATORS:
                path = PurePosixPath("links", f"{node.name}.{emulator}.txt")
                files[path] = links_text(node, emulator=emulator)
    return files


def links_text(node: PlannedNode, *, emulator: Emulator) -> str:
    """The commands that set up one node's links, one a line, as a shell would take them.

    A comment where the emulator cannot do what is asked for.
    """
    try:
        check_paths(node.config.links, emulator, me=node.name)
    except ConfigError as error:
        return "".join(f"# {line}\n" for line in str(error).splitlines())
    made = plan_commands(
        node.config.links, coordinator_host=node.config.coordinator_host, emulator=emulator
    )
    return "".join(shlex.join(command) + "\n" for command in made.commands)


def _configs(plan: Plan) -> dict[str, Config]:
    nodes: dict[str, Config] = {node.name: node.config for node in plan.nodes}
    return {COORDINATOR: plan.coordinator, **nodes}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One service; `capability` is all that it gets beyond Docker's defaults.

    Args:
        standby: it is not there at the start, so that a plain `up` leaves it out.
    """

    name: str
    command: str
    capability: str
    resources: Resources
    labels: dict[str, str]
    address: str
    config: str
    standby: bool = False


def _members(plan: Plan, labels: dict[str, str]) -> Iterator[_Member]:
    yield _Member(
        name=COORDINATOR,
        command="coordinator",
        capability="",
        resources=Resources(),
        labels=labels | {NODE_LABEL: COORDINATOR},
        address=str(plan.coordinator_address),
        config=pack(to_json(plan.coordinator)),
    )
    for node in plan.nodes:
        yield _Member(
            name=node.name,
            command="agent",
            capability="NET_ADMIN",
            resources=node.resources,
            labels=labels | {NODE_LABEL: node.name},
            address=str(node.address),
            config=pack(to_json(node.config)),
            standby=node.name in plan.coordinator.standby,
        )


def _compose(
    plan: Plan,
    *,
    image: str,
    build: bool,
    results: Path | None,
    arrays: Path | None,
    header: tuple[str, ...],
) -> str:
    labels = {RUN_LABEL: plan.run_id, TOPOLOGY_LABEL: plan.topology}
    if results is not None:
        labels[RESULTS_LABEL] = str(results)
    members = tuple(_members(plan, labels))
    for member in members:
        _check_length(member)
    return (
        _environment()
        .get_template("compose.yaml.j2")
        .render(
            plan=plan,
            image=image,
            build=build,
            results=None if results is None else str(results),
            arrays=arrays,
            header=header,
            labels=labels,
            members=members,
            gateway=plan.subnet[1],
        )
    )


def _check_length(member: _Member) -> None:
    if (length := len(member.config.encode())) > ENVIRONMENT_MAX:
        raise ConfigError(
            f"its configuration is {format_size(length)} long, compressed, and does not fit into"
            " a container's environment",
            where=member.name,
            remedy="fewer nodes or events, or a network in which fewer nodes have a path to each"
            " other",
        )


def _environment() -> Environment:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"quoted": _quoted, "literal": _literal}
    environment.globals |= {
        "RESULTS": RESULTS,
        "DATA": DATA,
        "CACHE": CACHE,
        "STANDBY_PROFILE": STANDBY_PROFILE,
    }
    return environment


def _quoted(text: str) -> str:
    """A YAML scalar in single quotes."""
    if "\n" in text:
        raise ConfigError(f"a line break in {text!r}")
    return "'" + text.replace("'", "''") + "'"


def _literal(text: str) -> str:
    """Quoted, and without the meaning that `$` has for Compose."""
    return _quoted(text.replace("$", "$$"))
