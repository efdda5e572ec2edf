"""The verb that measures a network without training on it: verify."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from deploy.commands.options import (
    AS_JSON,
    BACKEND,
    DURATION,
    EMULATOR,
    RESULTS,
    SEED,
    SET,
    topology_argument,
)


@click.command()
@topology_argument
@BACKEND
@SEED
@click.option("--name", metavar="RUN", help="The run's name. Default: its time of day.")
@SET
@EMULATOR
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    default=240,
    show_default=True,
    metavar="N",
    help="Measure at most so many ordered pairs, spread evenly over the nodes.",
)
@click.option(
    "--until",
    type=DURATION,
    metavar="TIME",
    help="Replay the timeline up to there, such as 30s. Default: up to the file's stop.time.",
)
@click.option("--no-build", is_flag=True, help="Do not build the node image if it is missing.")
@RESULTS
@AS_JSON
def verify(
    *,
    file: Path,
    backend: str | None,
    seed: int | None,
    name: str | None,
    sets: tuple[str, ...],
    emulator: str | None,
    pairs: int,
    until: int | None,
    no_build: bool,
    results: Path,
    as_json: bool,
) -> int:
    """Measure whether the network of a topology FILE is what it says, without training.

    Starts every node, measures each pair alone, then lets all send at once while the file's events
    fire, and holds what arrives against what the network should give. Writes links.json,
    verify.json and two pictures into the run's folder; exit status 1 if something is off.

    \b
      deploy verify topologies/ring.yaml
      deploy verify cities.yaml --pairs 60 --until 30s
    """
    from deploy.experiment import Request
    from deploy.verify.run import verify

    request = Request(
        file=file,
        results=results,
        backend=backend,
        seed=seed,
        name=name,
        sets=sets,
        links="warn",
        emulator=emulator,
        build=not no_build,
        command=shlex.join(["deploy", *sys.argv[1:]]),
    )
    return verify(request, pairs=pairs, until_ns=until, as_json=as_json)


COMMANDS = (verify,)
