"""What one path cannot have twice: loss in bursts, and batches (pure).

Two chains of two states in a row are no chain of two states, and nothing that can be set imitates
them. So of the links on a path one at most may have a `burst`, and one a `slot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deploy.topology.lives import latecomers
from deploy.topology.model import TopologyFile
from deploy.topology.network import Network, Route
from deploy.topology.problems import Loc
from deploy.topology.reader import Document
from deploy.topology.state import Ends, NetworkState, later
from deploy.topology.timeline import NodeAction, SetLink, Step
from deploy.topology.words import link_text
from node.core.ids import NodeId
from node.units import format_duration

ONCE: Final = ("burst", "slot")
MAX_LOOKS: Final = 20_000_000
"""Vertices looked at; a network that needs more is checked when it is planned."""


def check_compositions(
    document: Document, file: TopologyFile, network: Network, steps: Sequence[Step]
) -> None:
    """Report the first path that has one of these twice, at any time."""
    for key in ONCE:
        if _may_meet(key, network, steps):
            _check(document, file, network, steps, key)


def _may_meet(key: str, network: Network, steps: Sequence[Step]) -> bool:
    """Whether two such links may be on one path, as far as can be told without the paths."""
    ends = {(k.source, k.target) for k in network.links if getattr(k.spec, key) is not None}
    for step in steps:
        for action in step.actions:
            if isinstance(action, SetLink) and key in action.options.given():
                ends.add((action.source, action.target))
    only = {*network.nodes} - network.forwards  # a path leaves one of these, and enters one
    together = {frozenset(pair) for pair in ends}
    if len(together) < 2:
        return False
    return not (all(a in only for a, _ in ends) or all(b in only for _, b in ends))


def _check(
    document: Document, file: TopologyFile, network: Network, steps: Sequence[Step], key: str
) -> None:
    joining = {a.node for s in steps for a in s.actions if isinstance(a, NodeAction)}
    # One that only `deploy add` brings counts as there: no order may make a path that cannot be.
    absent = joining.intersection(latecomers(file, steps))
    state, left = NetworkState.initial(network, absent), MAX_LOOKS
    for at_ns, what, now in ((0, (), state), *later(state, steps)):
        for source in network.nodes:
            left -= len(network.nodes) + len(network.bridges)
            if left < 0:
                return
            if found := _twice(key, now.routes(source)):
                route, first, second = found
                way = " > ".join(route.vertices)
                when = f" at {format_duration(at_ns)} ({'; '.join(what)})" if what else ""
                message = (
                    f"two links with a `{key}` on one path{when}: {link_text(first, oneway=True)} "
                    f"and {link_text(second, oneway=True)} on {way}"
                )
                hint = f"a path can have one `{key}`: give it to fewer links"
                document.report(_place(file, key, second), message, hint)
                return


def _twice(key: str, routes: dict[NodeId, Route]) -> tuple[Route, Ends, Ends] | None:
    for route in routes.values():
        found = [(k.source, k.target) for k in route.links if getattr(k.spec, key) is not None]
        if len(found) > 1:
            return route, found[0], found[1]
    return None


def _place(file: TopologyFile, key: str, ends: Ends) -> Loc:
    """Where the file gives a link this key: the most special place that is about it."""
    known = {
        name: {name, *(f"{name}-{i}" for i in range(group.replicas or 0))}
        for name, group in file.nodes.items()
    }

    def about(name: str, end: str) -> bool:
        return end in known.get(name, {name}) or end.startswith(f"{name}-share")

    for i, event in enumerate(file.events):
        if event.link is not None and {key} & {*event.set.given(), *event.back.given()}:
            (a, b), (x, y) = event.link, ends
            if (about(a, x) and about(b, y)) or (about(a, y) and about(b, x)):
                return ("events", i, "set" if key in event.set.given() else "back", key)
    for i, entry in enumerate(file.network.links):
        (a, b), (x, y) = (entry.source, entry.target), ends
        if (about(a, x) and about(b, y)) or (about(a, y) and about(b, x)):
            if key in entry.given():
                return ("network", "links", i, key)
            if key in entry.back.given():
                return ("network", "links", i, "back", key)
    for name, group in file.nodes.items():
        for end, side in ((ends[0], "up"), (ends[1], "down")):
            if end in known[name] and key in getattr(group.link, side).given():
                return ("nodes", name, "link", side, key)
            if end in known[name] and key in group.link.given():
                return ("nodes", name, "link", key)
    return ("network", "link", key)
