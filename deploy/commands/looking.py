"""Verbs that look at runs: status, logs, results, replay."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import AS_JSON, RESULTS, run_argument


@click.command()
@run_argument
@RESULTS
@AS_JSON
def status(*, run: str | None, results: Path, as_json: bool) -> int:
    """How far a RUN is: its nodes with state, round, accuracy and bytes.

    Without RUN: the one that is under way, else the newest.
    """
    from deploy.look import status

    return status(run, results=results, as_json=as_json)


@click.command()
@run_argument
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@RESULTS
def logs(*, run: str | None, node: str | None, follow: bool, results: Path) -> int:
    """Print what the members of a RUN printed, or one NODE alone.

    One argument is a node of the newest run if there is one of that name, else a run.

    \b
      deploy logs
      deploy logs -f n2
      deploy logs 1121-040606-3fa9 coordinator
    """
    from deploy.look import logs

    return logs(run, node=node, follow=follow, results=results)


@click.command()
@run_argument
@click.option("--topology", metavar="NAME", help="Only runs of this topology.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw a run's accuracy over time and its bytes.",
)
@RESULTS
@AS_JSON
def results(
    *, run: str | None, topology: str | None, plot: Path | None, results: Path, as_json: bool
) -> int:
    """List all runs, or show one RUN: what was learnt, how long it took, what it cost, the links.

    \b
      deploy results
      deploy results latest
      deploy results ring --plot ring.png
    """
    from deploy.look import results as show

    return show(run, topology=topology, plot=plot, results=results, as_json=as_json)


@click.command()
@run_argument
@click.option("--node", metavar="NAME", help="Only this node; default: all that were traced.")
@RESULTS
@AS_JSON
def replay(*, run: str | None, node: str | None, results: Path, as_json: bool) -> int:
    """Feed the events of a RUN's traced nodes to today's code, and show the first difference.

    Exit status 0: every effect came again as it was recorded; 1: something is different.

    \b
      deploy sim ring.yaml --set trace=[n-0] && deploy replay
      deploy replay 1121-040606-3fa9 --node n-0
    """
    from deploy.replay import replay_run

    return replay_run(run, node=node, results=results, as_json=as_json)


COMMANDS = (status, logs, results, replay)
