"""The verb that runs an experiment in virtual time: sim."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from deploy.commands.options import (
    AS_JSON,
    DURATION,
    RESULTS,
    SEED,
    SET,
    optional_topology_argument,
)
from node.units import SECOND


@click.command()
@optional_topology_argument
@SEED
@click.option("--name", metavar="RUN", help="The run's name. Default: its time of day.")
@SET
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that train; they change how long it takes, and nothing else. Default: one for"
    " each core.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "batched"]),
    default="auto",
    show_default=True,
    help="What trains. auto: a GPU if there is one; batched: as on a GPU, on the CPU.",
)
@click.option(
    "--sharing",
    type=click.Choice(["fair", "none"]),
    default="fair",
    show_default=True,
    help="What transfers that meet on a link do: share its rate, or have it each for itself.",
)
@click.option(
    "--no-training", is_flag=True, help="Leave all models as they are: messages and bytes alone."
)
@click.option(
    "--checkpoint-every",
    type=DURATION,
    default="60s",
    show_default=True,
    metavar="TIME",
    help="Real time between two checkpoints; 0s: none.",
)
@click.option("--resume", metavar="RUN", help="Go on with this run from its newest checkpoint.")
@RESULTS
@AS_JSON
def sim(
    *,
    file: Path | None,
    seed: int | None,
    name: str | None,
    sets: tuple[str, ...],
    workers: int | None,
    device: str,
    sharing: str,
    no_training: bool,
    checkpoint_every: int,
    resume: str | None,
    results: Path,
    as_json: bool,
) -> int:
    """Run the experiment of a topology FILE in virtual time, from start to verdict.

    The same plan, protocol and algorithm as `deploy up`, real training on real data; the network
    and the time that training takes are modelled (docs/simulation.md). Needs no Docker. The same
    seed gives the same records, on any number of workers. Ctrl-C ends the run in order.

    \b
      deploy sim topologies/ring.yaml
      deploy sim ring.yaml --set nodes.n.replicas=200 --seed 7
      deploy sim topologies/sim-1000.yaml --workers 8
      deploy sim --resume 1121-040606-3fa9
    """
    from deploy import simulate
    from deploy.experiment import Request
    from node.sim.interfaces import Sharing
    from node.training.protocol import Device

    engine = simulate.Engine(
        workers=workers,
        device=Device(device),
        sharing=Sharing(sharing),
        learning=simulate.Learning.NONE if no_training else simulate.Learning.REAL,
        checkpoint_s=checkpoint_every / SECOND,
    )
    if resume is not None:
        if file is not None:
            raise click.UsageError("FILE and --resume: a run goes on with its own file.")
        return simulate.resume(resume, engine, results=results, as_json=as_json)
    if file is None:
        raise click.UsageError("Missing argument 'FILE', or --resume RUN.")
    request = Request(
        file=file,
        results=results,
        backend="sim",
        seed=seed,
        name=name,
        sets=sets,
        command=shlex.join(["deploy", *sys.argv[1:]]),
    )
    return simulate.simulate(request, engine, as_json=as_json)


COMMANDS = (sim,)
