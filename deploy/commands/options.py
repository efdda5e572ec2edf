"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from node.units import parse_duration

_F = TypeVar("_F", bound=Callable[..., Any])

RESULTS = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    envvar="PEERBED_RESULTS",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="Where runs are stored.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
SET = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file, checked like the file: --set stop.rounds=20. Repeatable.",
)
SEED = click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Override the seed.")
LINKS = click.option(
    "--links",
    type=click.Choice(["strict", "warn", "off"]),
    help="What a link that is measured wrong does: end the run, make it invalid, or is not"
    " measured at all (the verdict is then at best unknown).",
)
EMULATOR = click.option(
    "--emulator",
    type=click.Choice(["auto", "netem", "nfqueue", "application"]),
    help="Who delays the packets; auto takes the most faithful that the kernel has.",
)


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Duration()
"""A time with its unit, such as 30s; ns."""


class _Backend(click.Choice[str]):
    """Where containers or processes are started; who asks for a simulation is told of `sim`."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "sim":
            self.fail("virtual time has a verb of its own: deploy sim FILE", param, ctx)
        return super().convert(value, param, ctx)


BACKEND = click.option(
    "--backend",
    type=_Backend(["docker", "local"]),
    help="Containers, or processes on loopback. Default: docker where an engine answers.",
)


def topology_argument(function: _F) -> _F:
    """The topology file of a verb."""
    argument = click.argument(
        "file", type=click.Path(path_type=Path), shell_complete=_topology_files
    )
    return argument(function)


def optional_topology_argument(function: _F) -> _F:
    """The topology file of a verb that may do without."""
    argument = click.argument(
        "file", required=False, type=click.Path(path_type=Path), shell_complete=_topology_files
    )
    return argument(function)


def run_argument(function: _F) -> _F:
    """The run that a verb is about."""
    return click.argument("run", required=False, shell_complete=complete_runs)(function)


def _topology_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    del context, parameter, incomplete
    return [click.shell_completion.CompletionItem("", type="file")]


def complete_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of runs that begin as typed, newest first."""
    del parameter
    from deploy.results import Results

    results = context.params.get("results") or Path("results")
    names = [run.run_id for run in Results(results).runs()]
    return [name for name in reversed(names) if name.startswith(incomplete)]
