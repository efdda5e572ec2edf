"""What is ordered while a run goes on, and what it makes of every node's links (pure).

    file's timeline + orders so far --states--> the network now --the new order--> the network then
                                                       \\-> each node: what changes, and a new plan

An order by hand is one more step of the timeline. What was planned for later still happens at its
time, on top of it, so that every node whose plan comes out otherwise gets a new one (`Replan`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from deploy.plan_links import LinkPlan
from deploy.topology import Topology
from deploy.topology.events import actions
from deploy.topology.model import Event
from deploy.topology.problems import nearest
from deploy.topology.state import NetworkState, later
from deploy.topology.timeline import LinkUp, NodeAction, Step
from node.config import AccessLink, LinkChange, Replan, SharedLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.units import Nanos

DONE: Final = {
    "join": "joined",
    "leave": "told to leave",
    "crash": "killed",
    "pause": "paused",
    "resume": "resumed",
    "restart": "restarted",
    "return": "brought back",
}
"""What was done to a node, for people."""
BY_PLAN: Final = "plan"
BY_HAND: Final = "hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A file `control/<number>.json`, as `deploy` sees it (`node.runtime.control_folder`).

    Args:
        kind: `links` or `node`.
        by: `BY_PLAN` or `BY_HAND`.
        at_ns: when, on the run clock.
        event: of the links, as in the topology file.
        node, verb: what is done to whom.
        shared: the shared links from then on.
        plans: for each node that it concerns.
    """

    number: int
    kind: str
    by: str
    at_ns: Nanos
    what: tuple[str, ...] = ()
    event: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""
    verb: str = ""
    shared: tuple[Mapping[str, Any], ...] = ()
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def order_from_json(content: Mapping[str, Any]) -> Order:
    """Raises ValueError where that is no order."""
    known = {field.name for field in dataclasses.fields(Order)}
    try:
        order = Order(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise ValueError(f"not an order: {error}") from error
    return dataclasses.replace(order, what=tuple(order.what), shared=tuple(order.shared))


# The network at a time ---------------------------------------------------------------------------


def link_step(topology: Topology, event: Mapping[str, Any]) -> Step:
    """One entry of `events:` about links, made by hand, as a step.

    `up` brings a link back whoever holds it down.

    Raises:
        ConfigError: a value or a name in it is wrong.
    """
    try:
        entry = Event.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(_complaint(first), where=_option(first["loc"])) from error
    assert entry.at is not None
    try:
        made = actions(entry, topology.file, topology.network)
    except ValueError as error:
        message, _, hint = str(error).partition("\n")
        raise ConfigError(message, remedy=hint.strip() or None) from error
    done = tuple(dataclasses.replace(a, by=None) if isinstance(a, LinkUp) else a for a in made)
    return Step(at_ns=entry.at, actions=done, what=())


def _option(loc: Sequence[int | str]) -> str:
    """The option of the command line that a key of an entry comes from."""
    names = [str(step) for step in loc if isinstance(step, str) and step not in ("set", "[key]")]
    return f"--{names[0]}" if names else "the command"


def _complaint(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] in ("literal_error", "enum"):
        return f"{error['input']!r} is not allowed: {context['expected']}"
    return f"{error['msg']}, not {error['input']!r}"


def steps_of(topology: Topology, orders: Iterable[Order]) -> list[Step]:
    """What was ordered by hand so far, as steps; planned actions are in the timeline already."""
    steps = []
    for order in orders:
        if order.by != BY_HAND:
            continue
        if order.kind == "links":
            steps.append(link_step(topology, order.event))
        else:
            action = NodeAction(node=NodeId(order.node), verb=order.verb)
            steps.append(Step(at_ns=order.at_ns, actions=(action,), what=order.what))
    return steps


def merged(*timelines: Iterable[Step]) -> list[Step]:
    """Several timelines as one; what is simultaneous stands in the order of the arguments."""
    every = sorted((step for line in timelines for step in line), key=lambda step: step.at_ns)
    joined: list[Step] = []
    for step in every:
        if joined and joined[-1].at_ns == step.at_ns:
            last = joined.pop()
            step = dataclasses.replace(
                step, actions=last.actions + step.actions, what=last.what + step.what
            )
        joined.append(step)
    return joined


def state_before(topology: Topology, steps: Sequence[Step], at_ns: Nanos) -> NetworkState:
    """The network just before a time."""
    state = NetworkState.initial(topology.network, topology.standby)
    for step in steps:
        if step.at_ns < at_ns:
            state = state.after(step.actions)
    return state


def known_node(topology: Topology, name: str) -> NodeId:
    """A node of that name. Raises ConfigError naming the nearest."""
    names = [str(node.name) for node in topology.nodes]
    if name in names:
        return NodeId(name)
    raise ConfigError(f"there is no node {name!r}", remedy=nearest(name, names, what="nodes"))


# What the nodes are told -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an order makes of the network.

    Args:
        plans: for each node of which the links, or what is planned for them, come out otherwise.
        shared: the shared links from then on.
        touched: the nodes of which links change at that time.
    """

    plans: Mapping[NodeId, Replan]
    shared: tuple[SharedLink, ...]
    touched: tuple[NodeId, ...]


def replan(
    topology: Topology, *, earlier: Sequence[Step], order: Step, shared: Sequence[SharedLink]
) -> Change:
    """The plans that follow from an order.

    A node's first change names every path that is different or that its former plan would have
    changed later: a node that learns of the order late, and has gone on with the former plan in
    the meantime, ends in the right state all the same.

    Args:
        earlier: what was ordered by hand before.
        shared: the shared links that the nodes know, in their order.
    """
    at = order.at_ns
    every = merged(topology.timeline, earlier)
    before = state_before(topology, every, at)
    simultaneous = [step for step in every if step.at_ns == at]
    ahead = [step for step in every if step.at_ns > at]
    after = before
    for step in (*simultaneous, order):
        after = after.after(step.actions)
    new = LinkPlan([(at, order.what, after), *later(after, ahead)], shared=shared)
    known = tuple(_as_in(after, link) for link in new.shared)
    old = LinkPlan(
        [(at, (), before), *later(before, [*simultaneous, *ahead])],
        shared=[_as_in(before, link) for link in new.shared],
    )
    rates = {link.name: link.rate_bps for link in old.shared}
    news = {link.name for link in known if rates[link.name] != link.rate_bps}
    added = {link.name for link in known[len(shared) :]}
    plans: dict[NodeId, Replan] = {}
    touched = []
    for node in topology.network.nodes:
        first, differs = _first_change(
            node, order, topology, old=old, new=new, shared=known, news=news, added=added
        )
        rest = new.changes(node)
        if differs:
            touched.append(node)
        if differs or rest != old.changes(node) or added:
            changes = (first, *rest) if first.peers or first.access or first.shared else rest
            plans[node] = Replan(
                at_ns=at, changes=changes, shared=known, partners=new.partners(node)
            )
    return Change(plans=plans, shared=known, touched=tuple(touched))


def _first_change(
    node: NodeId,
    order: Step,
    topology: Topology,
    *,
    old: LinkPlan,
    new: LinkPlan,
    shared: tuple[SharedLink, ...],
    news: set[str],
    added: set[str],
) -> tuple[LinkChange, bool]:
    """What a node does at the time of the order, and whether its links are different then.

    Args:
        shared: all shared links as they are then.
        news: names of those whose rate is different.
        added: names of shared links that the nodes do not know yet.
    """
    planned = old.changes(node)
    paths = {path.name for change in planned for path in change.peers}
    links = {link.name for change in planned for link in change.access}
    different = [
        other
        for other in topology.network.nodes
        if other != node
        and (
            old.path(node, other) != (now := new.path(node, other))
            or not added.isdisjoint(now.shared)
        )
    ]
    was = {link.name: link for link in (*old.up(node), *old.down(node))}
    access: list[AccessLink] = []
    for link in (*new.up(node), *new.down(node)):
        if was[link.name] != link or link.name in links:
            access.append(link)
    again = {link.name for change in planned for link in change.shared}
    changed = bool(different or news or any(was[link.name] != link for link in access))
    peers = [o for o in topology.network.nodes if o in paths or o in different]
    first = LinkChange(
        at_ns=order.at_ns,
        what=order.what,
        peers=tuple(new.path(node, other) for other in peers),
        access=tuple(access),
        shared=tuple(link for link in shared if link.name in news | again),
    )
    return first, changed


def _as_in(state: NetworkState, link: SharedLink) -> SharedLink:
    """A shared link with the rate that it has in this state."""
    source, _, target = link.name.partition(">")
    spec = dict(state.altered).get((source, target)) or state.base.spec(source, target)
    assert spec is not None
    return SharedLink(name=link.name, rate_bps=spec.rate_bps)


# What has become of the nodes --------------------------------------------------------------------


def what_text(verb: str, *, by: str, at_ns: Nanos) -> str:
    """`killed by plan at 10 s`."""
    return f"{DONE[verb]} by {by} at {at_ns / 1e9:.6g} s"
