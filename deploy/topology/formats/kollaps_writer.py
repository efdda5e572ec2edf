"""A topology as Kollaps XML, with what Kollaps cannot say by name (pure; docs/kollaps.md).

First by groups, as the file has them; where that does not read back to the same network, overlay
and timeline, node by node, from what the file comes to. What does neither is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

from deploy.topology import expand
from deploy.topology.formats import kollaps_sheet as sheet
from deploy.topology.formats.kollaps_sheet import CannotSay, EventRow, LinkRow, ServiceRow, Sheet
from deploy.topology.load import Topology, parse_topology
from deploy.topology.model import Event, LinkOptions
from deploy.topology.network import Link, Network
from deploy.topology.problems import TopologyErrors
from deploy.topology.timeline import (
    Action,
    Heal,
    LinkDown,
    LinkUp,
    NodeAction,
    Partition,
    SetLink,
    Step,
)
from node.config import PathSpec
from node.core.ids import NodeId
from node.errors import ConfigError

_SAID: Final = {"name", "nodes", "network", "overlay", "events"}
_SAID_OF_GROUPS: Final = {"replicas", "link", "share", "forwards"}
_NOT_THERE: Final = ("pause", "resume")
_STATES: Final = {"leave": "leave", "crash": "crash", "join": "join"}


def to_kollaps(topology: Topology, *, image: str, source: str) -> tuple[str, list[str]]:
    """The file's text, and warnings about what of it Kollaps does not have.

    Args:
        image: of all services; Kollaps needs one.
        source: what it was made from, for the comment at the head.

    Raises:
        ConfigError: Kollaps cannot say what the network depends on.
    """
    why = ""
    for build in (_by_groups, _by_nodes):
        try:
            text = build(topology).text(image=image, comment=f"From {source}, by deploy convert")
            why = _difference(topology, text)
        except CannotSay as reason:
            why = f"Kollaps cannot say {reason}"
        if not why:
            return text, list(_left_out(topology, image))
    raise ConfigError(f"cannot be written as Kollaps XML: {why}", where=str(topology.path))


def _left_out(topology: Topology, image: str) -> Iterator[str]:
    file = topology.file
    keys = [key for key in type(file).model_fields if key in file.model_fields_set - _SAID]
    for group in file.nodes.values():
        more = group.model_fields_set - _SAID_OF_GROUPS
        keys += [f"nodes.{key}" for key in sorted(more) if f"nodes.{key}" not in keys]
    if keys:
        yield f"Kollaps has nothing like these, which are left out: {', '.join(keys)}"
    if any(link.spec.rate_bps is None for link in topology.network.links):
        yield "Kollaps has no unlimited rates: 400Gbps is written"
    verbs = {
        action.verb
        for step in topology.timeline
        for action in step.actions
        if isinstance(action, NodeAction) and action.verb in _NOT_THERE
    }
    if verbs:
        yield f"Kollaps has no such actions, which are left out: {', '.join(sorted(verbs))}"
    yield f"every service has the image {image}: --image, or write what yours are"


# Does it read back? -------------------------------------------------------------------------------


def _difference(topology: Topology, text: str) -> str:
    """What is not the same when Kollaps' file is read again; empty if nothing is."""
    try:
        again = parse_topology(text.encode(), path=topology.path.with_suffix(".xml"))
    except TopologyErrors as error:
        return f"it would not be right: {error.problems[0].message}"
    one, other = topology.network, again.network
    for what in ("nodes", "bridges", "metric"):
        if getattr(one, what) != getattr(other, what):
            return f"the {what} of the network would not be the same"
    if _limited(one) != _limited(other):
        return "the links would not be the same"
    if one.forwards != other.forwards and (pair := _other_path(one, other)):
        extra = ", ".join(sorted(other.forwards - one.forwards)[:4])
        return (
            f"Kollaps leads paths of others through nodes with several links ({extra}), so the "
            f"path {pair} would not be the same; put bridges between the nodes"
        )
    if topology.overlay != again.overlay:
        return "who exchanges with whom would not be the same"
    return "" if _happening(topology) == _happening(again) else "the events would not be the same"


def _limited(network: Network) -> dict[tuple[str, str], PathSpec]:
    return {(k.source, k.target): _limit(k.spec) for k in network.links}


def _limit(spec: PathSpec) -> PathSpec:
    return spec if spec.rate_bps else dataclasses.replace(spec, rate_bps=sheet.MOST_BPS)


def _other_path(one: Network, other: Network) -> str:
    for node in one.nodes:
        before, after = one.routes(node), other.routes(node)
        for target in {**before, **after}:
            ways = [
                routes[target].vertices if target in routes else () for routes in (before, after)
            ]
            if ways[0] != ways[1]:
                return f"{node} -> {target}"
    return ""


def _happening(topology: Topology) -> list[tuple[int, list[str]]]:
    """The timeline as far as Kollaps has such actions, in an order that says nothing."""
    found = []
    for at_ns, actions in effective(topology.timeline):
        restarted = {a.node for a in actions if isinstance(a, NodeAction) and a.verb == "restart"}
        kept = [
            repr(_unlimited(action))
            for action in actions
            if not isinstance(action, NodeAction)
            or not (
                action.verb in _NOT_THERE or (action.verb == "crash" and action.node in restarted)
            )
        ]
        if kept:
            found.append((at_ns, sorted(kept)))
    return found


def effective(timeline: tuple[Step, ...]) -> Iterator[tuple[int, list[Action]]]:
    """The steps with links that go and come, whoever holds them down and lets them up."""
    held: dict[tuple[str, str], set[str]] = {}
    down: set[tuple[str, str]] = set()
    for step in timeline:
        actions: list[Action] = []
        for action in step.actions:
            match action:
                case LinkDown(source=a, target=b, by=by):
                    held.setdefault((a, b), set()).add(by)
                case LinkUp(source=a, target=b, by=None):
                    held.pop((a, b), None)
                case LinkUp(source=a, target=b, by=str(by)):
                    held.setdefault((a, b), set()).discard(by)
                case _:
                    actions.append(action)
        now = {ends for ends, holders in held.items() if holders}
        actions += [LinkDown(source=a, target=b) for a, b in sorted(now - down)]
        actions += [LinkUp(source=a, target=b) for a, b in sorted(down - now)]
        down = now
        yield step.at_ns, actions


def _unlimited(action: Action) -> Action:
    if isinstance(action, SetLink) and action.options.given().get("rate", 0) is None:
        options = LinkOptions.model_construct(**{**action.options.given(), "rate": sheet.MOST_BPS})
        return dataclasses.replace(action, options=options)
    return action


# By groups ----------------------------------------------------------------------------------------


def _by_groups(topology: Topology) -> Sheet:
    """As the file has it. Raises CannotSay where it uses what only single nodes can express."""
    file = topology.file
    if file.network.shape or any(group.link.model_fields_set for group in file.nodes.values()):
        raise CannotSay("shapes, and links that depend on groups")
    made = Sheet(metric=file.network.metric, bridges=list(file.network.bridges))
    of = {node: name for name, group in file.nodes.items() for node in expand.members(name, group)}
    listed = bool(file.overlay.model_fields_set) and file.overlay.shape != "network"
    for name, group in file.nodes.items():
        replicas = group.replicas or 1
        near = dict.fromkeys(
            of[b] for a in expand.members(name, group) for b in topology.overlay[a]
        )
        made.services.append(
            ServiceRow(
                name=name,
                replicas=replicas,
                share=group.share,
                paths=tuple(near) if listed else (),
            )
        )
    for entry in file.network.links:
        there = entry.over(file.network.link)
        back = None if entry.oneway else entry.back.over(there)
        row = LinkRow(
            origin=entry.source,
            dest=entry.target,
            there=expand.altered(PathSpec(), there),
            back=None if back is None else expand.altered(PathSpec(), back),
        )
        made.links.append(row)
    rows = _Rows(of=of, groups={name: group.replicas or 1 for name, group in file.nodes.items()})
    for event in sorted(file.events, key=lambda event: event.at or 0):
        rows.add(event)
    made.events = rows.all(topology.timeline)
    return made


class _Rows:
    """The rows of <dynamic> from events of the file."""

    def __init__(self, *, of: dict[NodeId, str], groups: dict[str, int]) -> None:
        self._of = of
        self._groups = groups
        self._rows: list[EventRow] = []

    def add(self, event: Event) -> None:
        """Append what one event comes to; raises CannotSay where it is not so simple."""
        given = event.model_fields_set
        if event.at is None or event.count is not None or given & {"partition", "heal"}:
            raise CannotSay("random events and partitions")
        if event.link is not None:
            self._change(event)
        for key, action, of_a_node in (
            ("down", "leave", "disconnect"),
            ("up", "join", "reconnect"),
        ):
            affected = getattr(event, key)
            if isinstance(affected, tuple):
                self._link(event.at, affected, {"action": action})
                if not event.oneway:
                    self._link(event.at, affected[::-1], {"action": action})
            elif affected is not None and affected not in (*self._groups, *self._of):
                self._put(event.at, {"name": affected, "action": action})
            elif affected is not None:
                self._nodes(event.at, affected, of_a_node)
        for verb, action in (*_STATES.items(), ("restart", "join")):
            if (name := getattr(event, verb)) is not None:
                self._nodes(event.at, name, action)

    def _change(self, event: Event) -> None:
        assert event.link is not None
        assert event.at is not None
        there, back = changes(event.set), changes(event.back.over(event.set))
        if event.oneway:
            self._link(event.at, event.link, there)
        elif "upload" in there and there | {"upload": ""} == back | {"upload": ""}:
            self._link(event.at, event.link, there | {"download": back["upload"]})
        else:
            self._link(event.at, event.link, there)
            self._link(event.at, event.link[::-1], back)

    def _link(self, at: int, ends: tuple[str, ...], attributes: dict[str, str]) -> None:
        self._put(at, {"origin": ends[0], "dest": ends[1]} | attributes)

    def _nodes(self, at: int, name: str, action: str) -> None:
        """One row for the replicas of a service that do the same at the same time."""
        group = name if name in self._groups else self._of[NodeId(name)]
        amount = self._groups.get(name, 1)
        for row in self._rows if self._groups[group] > 1 else ():
            same = {"name": group, "action": action}.items() <= row.attributes.items()
            if same and row.at_ns == at:
                row.attributes["amount"] = str(int(row.attributes.get("amount", "1")) + amount)
                return
        self._put(at, {"name": group, "action": action, **_amount(amount)})

    def _put(self, at: int, attributes: dict[str, str]) -> None:
        self._rows.append(EventRow(at_ns=at, attributes=attributes))

    def all(self, timeline: tuple[Step, ...]) -> list[EventRow]:
        """The rows, after a join of all that is there from the start (without one, nothing is)."""
        if not self._rows:
            return []
        late = latecomers(timeline)
        here = dict.fromkeys(self._groups, 0)
        for node, group in self._of.items():
            here[group] += node not in late
        joins = [
            EventRow(at_ns=0, attributes={"name": name, "action": "join", **_amount(number)})
            for name, number in here.items()
            if number
        ]
        return joins + self._rows


def _amount(number: int) -> dict[str, str]:
    return {"amount": str(number)} if number > 1 else {}


def latecomers(timeline: tuple[Step, ...]) -> frozenset[NodeId]:
    """The nodes that are not there from the start."""
    first: dict[NodeId, str] = {}
    for step in timeline:
        for action in step.actions:
            if isinstance(action, NodeAction):
                first.setdefault(action.node, action.verb)
    return frozenset(node for node, verb in first.items() if verb == "join")


def changes(options: LinkOptions) -> dict[str, str]:
    """The attributes of a change of one direction. Raises CannotSay."""
    write: dict[str, Callable[..., tuple[str, str]]] = {
        "rate": lambda value: ("upload", sheet.rate(value)),
        "delay": lambda value: ("latency", sheet.milliseconds(value)),
        "jitter": lambda value: ("jitter", sheet.milliseconds(value)),
        "loss": lambda value: ("drop", sheet.share(value)),
    }
    given = options.given()
    if cannot := [key for key in given if key not in write]:
        raise CannotSay(", ".join(cannot))
    return dict(write[key](value) for key, value in given.items())


# Node by node -------------------------------------------------------------------------------------


def _by_nodes(topology: Topology) -> Sheet:
    """Every node a service, every link by itself, the explicit timeline."""
    file, network = topology.file, topology.network
    made = Sheet(metric=network.metric, bridges=list(network.bridges))
    listed = bool(file.overlay.model_fields_set) and file.overlay.shape != "network"
    for node in network.nodes:
        paths = topology.overlay[node] if listed else ()
        made.services.append(ServiceRow(name=node, paths=paths))
    specs = {(link.source, link.target): link.spec for link in network.links}
    for link in network.links:
        made.links += _pair(link, specs)
    late = latecomers(topology.timeline)
    gone: set[NodeId] = set()
    for at_ns, actions in effective(topology.timeline):
        for action in actions:
            for attributes in _row(action, gone):
                made.events.append(EventRow(at_ns=at_ns, attributes=attributes))
    if made.events:
        made.events[:0] = [
            EventRow(at_ns=0, attributes={"name": node, "action": "join"})
            for node in network.nodes
            if node not in late
        ]
    return made


def _pair(link: Link, specs: dict[tuple[str, str], PathSpec]) -> Iterator[LinkRow]:
    """A link with its way back, once."""
    back = specs.get((link.target, link.source))
    if back is None or link.source < link.target:
        yield LinkRow(origin=link.source, dest=link.target, there=link.spec, back=back)


def _row(action: Action, gone: set[NodeId]) -> Iterator[dict[str, str]]:
    match action:
        case SetLink(source=a, target=b, options=options):
            yield {"origin": a, "dest": b} | changes(options)
        case LinkDown(source=a, target=b):
            yield {"origin": a, "dest": b, "action": "leave"}
        case LinkUp(source=a, target=b):
            yield {"origin": a, "dest": b, "action": "join"}
        case Partition() | Heal():
            raise CannotSay("partitions")
        case NodeAction(node=node, verb="restart"):
            if node not in gone:
                yield {"name": node, "action": "crash"}
            yield {"name": node, "action": "join"}
            gone.discard(node)
        case NodeAction(node=node, verb=verb) if verb in _STATES:
            yield {"name": node, "action": verb}
            gone |= {node} if verb != "join" else set()
