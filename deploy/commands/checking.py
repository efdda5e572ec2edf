"""The verb about algorithms: check-algorithm."""

from __future__ import annotations

import click

from deploy.commands.options import AS_JSON


@click.command(name="check-algorithm")
@click.argument("name")
@click.option("--mode", type=click.Choice(["sync", "async"]), help="Default: all that it has.")
@click.option("--nodes", type=click.IntRange(min=3, max=64), default=6, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Draw so many times what goes wrong.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="OPTION=VALUE",
    help="An option of the algorithm, as in a topology file. Repeatable.",
)
@AS_JSON
def check_algorithm(
    *, name: str, mode: str | None, nodes: int, seeds: int, sets: tuple[str, ...], as_json: bool
) -> int:
    """Check whether an algorithm does what every algorithm must: NAME, or MODULE:CLASS.

    Runs it on a small virtual network with a toy problem, through loss, broken connections,
    reordering, duplicates, nonsense, nodes that leave, return, come late or are slow; and checks
    determinism, checkpoints and options. Exit status 1 if a check fails; each says what to do.

    \b
      deploy check-algorithm divshare
      deploy check-algorithm my_package.gossip:Gossip --set local_steps=4
    """
    from deploy.check_algorithm.run import check_algorithm

    return check_algorithm(name, mode=mode, nodes=nodes, seeds=seeds, sets=sets, as_json=as_json)


COMMANDS = (check_algorithm,)
