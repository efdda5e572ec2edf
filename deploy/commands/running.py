"""Verbs that start and end runs: up, down, wait."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from deploy.commands.options import (
    AS_JSON,
    BACKEND,
    EMULATOR,
    LINKS,
    RESULTS,
    SEED,
    SET,
    run_argument,
    topology_argument,
)


@click.command()
@topology_argument
@BACKEND
@SEED
@click.option("--name", metavar="RUN", help="The run's name. Default: its time of day.")
@SET
@LINKS
@EMULATOR
@click.option("-d", "--detach", is_flag=True, help="Run in the background; see status and wait.")
@click.option("--no-build", is_flag=True, help="Do not build the node image if it is missing.")
@RESULTS
@AS_JSON
def up(
    *,
    file: Path,
    backend: str | None,
    seed: int | None,
    name: str | None,
    sets: tuple[str, ...],
    links: str | None,
    emulator: str | None,
    detach: bool,
    no_build: bool,
    results: Path,
    as_json: bool,
) -> int:
    """Run the experiment of a topology FILE from start to verdict.

    Builds the node image if need be, starts every node, measures the links, trains, stops, stores
    everything under results/ and removes what it started. Ctrl-C ends the run in order.

    \b
      deploy up topologies/ring.yaml
      deploy up ring.yaml --backend local --set stop.time=30s --seed 7
    """
    from deploy.experiment import Request, up

    request = Request(
        file=file,
        results=results,
        backend=backend,
        seed=seed,
        name=name,
        sets=sets,
        links=links,
        emulator=emulator,
        build=not no_build,
        command=shlex.join(["deploy", *sys.argv[1:]]),
    )
    return up(request, detach=detach, as_json=as_json)


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def supervise(*, folder: Path) -> int:
    """Conduct a prepared run: what `up -d` leaves behind."""
    from deploy.experiment import supervise

    return supervise(folder)


@click.command()
@run_argument
@click.option("--all", "everything", is_flag=True, help="Every run in the results folder.")
@RESULTS
@AS_JSON
def down(*, run: str | None, everything: bool, results: Path, as_json: bool) -> int:
    """End a RUN (or every run of a topology), and sweep what killed runs left behind.

    Without RUN: the run that is under way. The run's records and a verdict are kept.

    \b
      deploy down
      deploy down ring
      deploy down --all
    """
    from deploy.sweep import down

    return down(run, everything=everything, results=results, as_json=as_json)


@click.command()
@run_argument
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up then.")
@RESULTS
@AS_JSON
def wait(*, run: str | None, timeout: float | None, results: Path, as_json: bool) -> int:
    """Wait until a RUN has ended; the exit status is its verdict's.

    \b
      deploy up ring.yaml -d && deploy wait --timeout 300
    """
    from deploy.look import wait

    return wait(run, timeout_s=timeout, results=results, as_json=as_json)


COMMANDS = (up, down, wait, supervise)
