"""Verbs about this machine: build, doctor."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import AS_JSON, RESULTS


@click.command()
@click.option("--force", is_flag=True, help="Build from the first step on.")
@AS_JSON
def build(*, force: bool, as_json: bool) -> int:
    """Build the image that every node runs from, unless it is there already."""
    from deploy.machine import build

    return build(force=force, as_json=as_json)


@click.command()
@click.option(
    "--backend",
    type=click.Choice(["docker", "local"]),
    default="docker",
    show_default=True,
    help="What runs of this backend need.",
)
@RESULTS
@AS_JSON
def doctor(*, backend: str, results: Path, as_json: bool) -> int:
    """Say what this machine has and lacks, each with its remedy; exit status 3 if a need is unmet.

    The kernel's abilities are those that a container of the node image sees.
    """
    from deploy.doctor import doctor

    return doctor(results=results, backend=backend, as_json=as_json)


COMMANDS = (build, doctor)
