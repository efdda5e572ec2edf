"""Verbs that read topology files and start nothing: validate, render, paths, timeline, schema."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import AS_JSON, BACKEND, EMULATOR, LINKS, SEED, SET, topology_argument


@click.command()
@topology_argument
@SET
@AS_JSON
def validate(*, file: Path, sets: tuple[str, ...], as_json: bool) -> int:
    """Check a topology FILE and say what it describes; exit status 2 if it is wrong.

    All errors are shown at once, each with its line, the nearest valid key and what is allowed.
    """
    from deploy.inspect_file import validate

    return validate(file, sets=sets, as_json=as_json)


@click.command()
@topology_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the files there; default: print them.",
)
@BACKEND
@SEED
@SET
@LINKS
@EMULATOR
def render(
    *,
    file: Path,
    output: Path | None,
    backend: str | None,
    seed: int | None,
    sets: tuple[str, ...],
    links: str | None,
    emulator: str | None,
) -> int:
    """Show what `up` would set: the Compose file and every tc and iptables command.

    \b
      deploy render topologies/ring.yaml | less
      deploy render topologies/ring.yaml -o /tmp/ring && docker compose -f /tmp/ring/compose.yaml up
    """
    from deploy.inspect_file import render

    return render(
        file,
        output=output,
        backend=backend,
        seed=seed,
        sets=sets,
        links=links,
        emulator=emulator,
    )


@click.command()
def schema() -> int:
    """Print the JSON Schema of topology files, by which editors complete and check keys."""
    from deploy.inspect_file import schema

    return schema()


@click.command()
@topology_argument
@click.argument("source", metavar="[FROM", required=False)
@click.argument("target", metavar="TO]", required=False)
@click.option("--at", metavar="TIME", help="At this time of the timeline, such as 12s.")
@SET
@AS_JSON
def paths(
    *,
    file: Path,
    source: str | None,
    target: str | None,
    at: str | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show the path from node to node: route, latency, jitter, loss, rate.

    FROM and TO are nodes or groups; `-`, or nothing, is every node. Pairs without a path are left
    out.

    \b
      deploy paths topologies/line.yaml
      deploy paths topologies/line.yaml west-0 east --json
      deploy paths topologies/line.yaml - east-1
    """
    from deploy.inspect_network import paths

    return paths(file, source, target, at=at, sets=sets, as_json=as_json)


@click.command()
@topology_argument
@SET
@AS_JSON
def timeline(*, file: Path, sets: tuple[str, ...], as_json: bool) -> int:
    """Show what the events of a file come to: each with its time, and which paths change how."""
    from deploy.inspect_network import timeline

    return timeline(file, sets=sets, as_json=as_json)


COMMANDS = (validate, render, paths, timeline, schema)
