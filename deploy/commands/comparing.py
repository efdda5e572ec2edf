"""Verbs that hold things against each other: compare."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import AS_JSON, RESULTS, complete_runs


@click.command()
@click.argument("runs", nargs=-1, required=True, shell_complete=complete_runs)
@click.option(
    "--accuracy",
    "accuracies",
    type=click.FloatRange(0, 1),
    multiple=True,
    metavar="SHARE",
    help="When this mean accuracy was reached, such as 0.85. Repeatable.",
)
@click.option(
    "--loss",
    "losses",
    type=float,
    multiple=True,
    metavar="LOSS",
    help="When the mean loss (of ratings: the RMSE) came down to this. Repeatable.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw accuracy over time, time to accuracy, bytes and latency.",
)
@RESULTS
@AS_JSON
def compare(
    *,
    runs: tuple[str, ...],
    accuracies: tuple[float, ...],
    losses: tuple[float, ...],
    plot: Path | None,
    results: Path,
    as_json: bool,
) -> int:
    """Put two or more RUNS side by side: what differs between them, and what they came to.

    Names or folders, of any backends. Runs that differ in the seed alone are averaged, with their
    spread. Ratios are to the first.

    \b
      deploy compare ring/one ring/two
      deploy compare results/ring/a* results/ring/b* --plot comparison.png
      deploy compare one two --accuracy 0.85 --json
    """
    from deploy.compare.run import compare

    return compare(
        runs,
        accuracies=accuracies,
        losses=losses,
        plot=plot,
        results=results,
        as_json=as_json,
    )


COMMANDS = (compare,)
