"""Verbs that change a run while it goes on: links that change, nodes that stop, go and come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deploy.commands.options import AS_JSON, RESULTS

_F = TypeVar("_F", bound=Callable[..., Any])

RUN = click.option("--run", metavar="RUN", help="Which run; default: the newest that is under way.")
ONE_WAY = click.option("--oneway", is_flag=True, help="Only from A to B.")
_KEYS = ("rate", "delay", "jitter", "loss", "duplicate", "corrupt", "reorder", "queue", "order")
_HELP = {
    "rate": "How fast, such as 5mbit, or unlimited.",
    "delay": "One-way delay, such as 80ms.",
    "jitter": "Standard deviation of the delay.",
    "loss": "Packets lost at random, such as 1%.",
    "duplicate": "Packets that arrive twice.",
    "corrupt": "Packets in which a bit is flipped.",
    "reorder": "Packets that skip the delay.",
    "queue": "What the link buffers, such as 64KiB.",
    "order": "keep, or free: packets overtake each other where the jitter has it so.",
}


def _options(function: _F) -> _F:
    """The options of a link, each as in the topology file."""
    for key in reversed(_KEYS):
        function = click.option(f"--{key}", metavar="VALUE", help=_HELP[key])(function)
    return function


@click.group()
def link() -> None:
    """Change a link of a run while it goes on: set, down, up.

    \b
      deploy link set n-0 n-1 --rate 5mbit --delay 80ms
      deploy link down n-0 n-1
      deploy link up n-0 n-1
    """


@link.command(name="set")
@click.argument("a")
@click.argument("b")
@_options
@ONE_WAY
@RUN
@RESULTS
@AS_JSON
def set_link(
    *, a: str, b: str, oneway: bool, run: str | None, results: Path, as_json: bool, **values: Any
) -> int:
    """Make the link between A and B different in what the options say.

    Names, units and meaning are those of the topology file: nodes, groups or bridges; both ways
    unless --oneway. It holds from a moment on at all nodes, about 0.3 s from now; what the file
    plans for later still happens, on top of it.

    \b
      deploy link set n-0 n-1 --rate 5mbit --delay 80ms
      deploy link set n-0 switch --loss 2% --oneway --run 1121-040606-3fa9
    """
    from deploy.control import set_link

    return set_link((a, b), values, oneway=oneway, run=run, results=results, as_json=as_json)


@link.command()
@click.argument("a")
@click.argument("b", required=False)
@ONE_WAY
@RUN
@RESULTS
@AS_JSON
def down(
    *, a: str, b: str | None, oneway: bool, run: str | None, results: Path, as_json: bool
) -> int:
    """Take the link between A and B away, or everything that hangs on A.

    Traffic takes another way if there is one; otherwise nothing passes.
    """
    from deploy.control import switch_link

    ends = (a,) if b is None else (a, b)
    return switch_link(ends, "down", oneway=oneway, run=run, results=results, as_json=as_json)


@link.command()
@click.argument("a")
@click.argument("b", required=False)
@ONE_WAY
@RUN
@RESULTS
@AS_JSON
def up(
    *, a: str, b: str | None, oneway: bool, run: str | None, results: Path, as_json: bool
) -> int:
    """Bring the link between A and B back, or everything that hangs on A, whoever took it away."""
    from deploy.control import switch_link

    ends = (a,) if b is None else (a, b)
    return switch_link(ends, "up", oneway=oneway, run=run, results=results, as_json=as_json)


@click.command()
@click.argument("parts", nargs=-1, required=True)
@RUN
@RESULTS
@AS_JSON
def partition(*, parts: tuple[str, ...], run: str | None, results: Path, as_json: bool) -> int:
    """Cut the network of a run into PARTS: no path leads from one to another, until `deploy heal`.

    Each part is names of nodes or groups with commas between. Nodes that are not named form a part
    of their own.

    \b
      deploy partition n-0,n-1 n-2
    """
    from deploy.control import partition

    return partition(parts, run=run, results=results, as_json=as_json)


@click.command()
@RUN
@RESULTS
@AS_JSON
def heal(*, run: str | None, results: Path, as_json: bool) -> int:
    """End the partition of a run's network.

    \b
      deploy heal
    """
    from deploy.control import heal

    return heal(run=run, results=results, as_json=as_json)


def _node_verb(name: str, verb: str, text: str) -> click.Command:
    """A verb that does something to a node."""

    @click.command(name=name, help=text)
    @click.argument("node")
    @RUN
    @RESULTS
    @AS_JSON
    def command(*, node: str, run: str | None, results: Path, as_json: bool) -> int:
        from deploy.control import act

        return act(node, verb, run=run, results=results, as_json=as_json)

    return command


kill = _node_verb(
    "kill",
    "crash",
    """Kill a NODE of a run, as a crash would: all its processes at once.

    The others go on without it; the run stays valid if all else is, and its verdict names it.

    \b
      deploy kill n-1
      deploy kill n-1 --run ring
    """,
)
pause = _node_verb(
    "pause",
    "pause",
    """Let all processes of a NODE stand still, until `deploy resume`.

    Its peers miss it after `deadlines.peer`, the coordinator after `deadlines.lease`.

    \b
      deploy pause n-1
    """,
)
resume = _node_verb(
    "resume",
    "resume",
    """Let a NODE go on that was paused.

    \b
      deploy resume n-1
    """,
)
restart = _node_verb(
    "restart",
    "restart",
    """Kill a NODE and start it again, or start it where it has ended.

    Its links are set up again as they are by then. It gets the model from another node, and takes
    part again from the next round on.

    \b
      deploy restart n-1
    """,
)


@click.command()
@click.argument("node")
@RUN
@RESULTS
@AS_JSON
def add(*, node: str, run: str | None, results: Path, as_json: bool) -> int:
    """Start a NODE that is on standby, and wait until it takes part.

    Or one that has left or was killed. It gets the model from one of the others, and takes part
    from the next round on.

    \b
      deploy add n-4
    """
    from deploy.control_members import add

    return add(node, run=run, results=results, as_json=as_json)


@click.command()
@click.argument("node")
@RUN
@RESULTS
@AS_JSON
def remove(*, node: str, run: str | None, results: Path, as_json: bool) -> int:
    """Let a NODE leave a run in order, and wait until it has.

    Its paths go; it stores its model. `deploy add` brings it back.

    \b
      deploy remove n-1
    """
    from deploy.control_members import remove

    return remove(node, run=run, results=results, as_json=as_json)


COMMANDS = (link, partition, heal, kill, pause, resume, restart, add, remove)
