"""What the keys of `events:` mean together, and whether what they do can happen (pure).

`check_events` needs only the entries and the names of the file; `check_timeline` the network, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from deploy.topology import expand
from deploy.topology.events import ACTIONS, unroll
from deploy.topology.model import NODE_ACTIONS, Event, TopologyFile
from deploy.topology.network import Network, natural
from deploy.topology.problems import Loc, nearest
from deploy.topology.reader import Document
from deploy.topology.timeline import Step

_AT: Final = ("at",)
_BETWEEN: Final = ("from", "until", "every", "for")
_NEEDS: Final = {
    **dict.fromkeys(("link", "down", "up", "partition", "heal", *NODE_ACTIONS), _AT),
    "flap": _BETWEEN,
    "churn": (*_BETWEEN, "share"),
}
_TAKES: Final = {
    "link": ("set", "back", "oneway"),
    "down": ("oneway",),
    "up": ("oneway",),
    "partition": (),
    "heal": (),
    **dict.fromkeys(NODE_ACTIONS, ("count", "seed")),
    "flap": ("random", "seed", "oneway"),
    "churn": ("seed",),
}
"""Which keys an action needs, and which it takes besides."""


def check_events(document: Document, file: TopologyFile) -> None:
    """Each entry has one action, with the keys that belong to it and values that fit together."""
    known = expand.references(file.nodes)
    bridges = set(expand.bridges(file))
    for index, event in enumerate(file.events):
        loc: Loc = ("events", index)
        verbs = [name for name in ACTIONS if name in event.given()]
        if len(verbs) != 1:
            message = "an event has one action"
            if verbs:
                message += f", and here are {len(verbs)}: {', '.join(verbs)}"
                loc = (*loc, verbs[1])
            hint = f"actions: {', '.join(ACTIONS)}; simultaneous events are several with one `at`"
            document.report(loc, message, hint, key=True)
            continue
        _keys(document, loc, event, verbs[0])
        _values(document, loc, event)
        _names(document, loc, event, verbs[0], nodes=known, bridges=bridges)
        _counted(document, loc, event, verbs[0], file)


def _keys(document: Document, loc: Loc, event: Event, verb: str) -> None:
    given = event.given()
    needs, takes = _NEEDS[verb], _TAKES[verb]
    for key in needs:
        if key not in given:
            document.report((*loc, key), "this key is missing", f"{verb} needs it", key=True)
    for key in sorted(given - {verb, *needs, *takes}):
        hint = f"keys here: {', '.join((*needs, verb, *takes))}"
        document.report((*loc, key), f"means nothing for `{verb}`", hint, key=True)


def _values(document: Document, loc: Loc, event: Event) -> None:
    if event.since is not None and event.until is not None and event.since >= event.until:
        document.report((*loc, "until"), "must be after `from`")
    if event.every is not None and event.lasting is not None and event.lasting > event.every:
        document.report((*loc, "for"), "must not be longer than `every`")
    if event.share == 0.0:
        document.report((*loc, "share"), "nobody at all: must be above 0%")
    if event.link is not None and not event.set.given() and not event.back.given():
        hint = "such as set: {rate: 5mbit}"
        document.report((*loc, "set"), "says nothing that is to change", hint, key=True)
    if event.oneway and event.back.given():
        document.report((*loc, "back"), "an event that is `oneway` has no way back", key=True)
    if event.oneway and any(isinstance(name, str) for name in (event.down, event.up, event.flap)):
        message = "means something only for a link, such as [a, b]"
        document.report((*loc, "oneway"), message, key=True)
    for i, part in enumerate(event.partition or ()):
        if not part:
            document.report((*loc, "partition", i), "a part without nodes")
    if event.partition == ():
        document.report((*loc, "partition"), "names no parts, such as [[a, b], [c]]")


def _names(
    document: Document,
    loc: Loc,
    event: Event,
    verb: str,
    *,
    nodes: Collection[str],
    bridges: Collection[str],
) -> None:
    """Every name is one of the file's."""
    places = verb in ("link", "down", "up", "flap")
    known = {*nodes, *bridges} if places else {*nodes}
    for at, name in _mentioned(event.of(verb)):
        if name in known:
            continue
        listed = sorted(known, key=natural)
        what = "nodes and bridges" if places else "nodes and groups"
        message = f"there is no {'node, group or bridge' if places else 'node or group'} {name!r}"
        if name in bridges:
            message = f"{name!r} is a bridge; {verb} is for nodes and groups"
        document.report((*loc, verb, *at), message, nearest(name, listed, what=what))


def _mentioned(value: object) -> Iterator[tuple[Loc, str]]:
    """The names in an action's value, with their places in it."""
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from (((i, *at), name) for at, name in _mentioned(item))


def _counted(document: Document, loc: Loc, event: Event, verb: str, file: TopologyFile) -> None:
    """`count` is of a group, and not of more than it has."""
    if event.count is None or verb not in NODE_ACTIONS:
        return
    name = event.of(verb)
    group = file.nodes.get(name)
    if group is None or group.replicas is None:
        document.report((*loc, "count"), f"{name!r} is one node; a count is of a group", key=True)
    elif event.count > group.replicas:
        document.report((*loc, "count"), f"the group {name!r} has {group.replicas} nodes")


def check_timeline(document: Document, file: TopologyFile, network: Network) -> tuple[Step, ...]:
    """The steps of the timeline; whatever an entry asks for that cannot be is reported."""
    unrolled = unroll(file, network)
    for wrong in unrolled.wrong:
        document.report(wrong.loc, wrong.message, wrong.hint)
    return unrolled.steps
