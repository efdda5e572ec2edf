"""What has become of nodes and links so far, and what can become of them next (pure).

A node's life; what is not in the table is an error of the file:

    state     join     pause    resume   leave   crash    restart  return
    waiting   running
    running            paused            gone    crashed  running
    paused                      running  gone    crashed  running
    gone                                                  running  running
    crashed                              gone             running  running

A node waits if the file has it on `standby`, or if the first thing that happens to it is that it
joins; all others run from the start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from deploy.topology.expand import members
from deploy.topology.model import Event, TopologyFile
from deploy.topology.names import EventError, Names
from deploy.topology.network import natural
from deploy.topology.timeline import (
    Action,
    Heal,
    LinkDown,
    LinkUp,
    NodeAction,
    Partition,
    Step,
)
from deploy.topology.words import link_text
from node.core.ids import NodeId
from node.core.rng import stream
from node.units import Nanos, format_duration

NEXT: Final = {
    ("waiting", "join"): "running",
    ("running", "pause"): "paused",
    ("running", "leave"): "gone",
    ("running", "crash"): "crashed",
    ("running", "restart"): "running",
    ("paused", "resume"): "running",
    ("paused", "leave"): "gone",
    ("paused", "crash"): "crashed",
    ("paused", "restart"): "running",
    ("gone", "restart"): "running",
    ("gone", "return"): "running",
    ("crashed", "leave"): "gone",
    ("crashed", "restart"): "running",
    ("crashed", "return"): "running",
}
NOW: Final = {
    "waiting": "has not joined yet",
    "running": "is running",
    "paused": "is paused",
    "gone": "has left",
    "crashed": "has crashed",
}


def on_standby(file: TopologyFile) -> tuple[NodeId, ...]:
    """The nodes of the groups that the file has on standby."""
    return tuple(
        node for name, group in file.nodes.items() if group.standby for node in members(name, group)
    )


class Lives:
    """The state of every node, and who holds which link down; told what happens in order."""

    def __init__(self, names: Names, file: TopologyFile) -> None:
        self._names = names
        self._seed = file.seed
        self._state: dict[NodeId, str] = dict.fromkeys(names.network.nodes, "running")
        self._held: set[tuple[str, str, str]] = set()
        self._parted = False
        self._drawn: Counter[tuple[str, str, Nanos]] = Counter()
        for node in (*on_standby(file), *self._latecomers(file.events)):
            self._state[node] = "waiting"

    def _latecomers(self, events: Iterable[Event]) -> Iterator[NodeId]:
        """The nodes that join at some time; of groups of which a number joins, so many, drawn."""
        some: Counter[str] = Counter()
        for event in events:
            if event.join is None or not self._names.has_nodes(event.join):
                continue
            if event.count is None:
                yield from self._names.nodes(event.join)
            else:
                some[event.join] += event.count
        for group, count in some.items():
            every = self._names.nodes(group)
            draws = stream(self._seed, "faults", "join", group)
            size = min(count, len(every))
            yield from (every[int(i)] for i in draws.choice(len(every), size=size, replace=False))

    def links(self, event: Event, actions: Iterable[Action], *, at_ns: Nanos) -> None:
        """What happens to links. Raises EventError where nothing would: up without down."""
        at = f"at {format_duration(at_ns)}"
        changed = False
        named = event.down is not None or event.up is not None
        for action in actions:
            match action:
                case LinkDown(source=source, target=target, by=by):
                    changed |= (source, target, by) not in self._held
                    self._held.add((source, target, by))
                case LinkUp(source=source, target=target, by=by):
                    held = (source, target, by or "")
                    changed |= held in self._held
                    self._held.discard(held)
                case Partition():
                    self._parted = changed = True
                case Heal():
                    changed, self._parted = self._parted, False
                    if not changed:
                        raise EventError(f"there is no partition to heal {at}")
        if named and not changed:
            verb = "down" if event.down is not None else "up"
            text = link_text(event.down or event.up or "", oneway=event.oneway)
            if verb == "down":
                raise EventError(f"{text} is down already {at}")
            hint = "`up` brings back what a `down` of the same name took away before"
            raise EventError(f"{text} is not down {at}", hint)

    def nodes(self, event: Event, verb: str, *, at_ns: Nanos) -> tuple[tuple[NodeId, ...], str]:
        """The nodes to which a verb happens, drawn where the event says how many, and the words."""
        name = event.of(verb)
        every = self._names.nodes(name)
        can = [node for node in every if (self._state[node], verb) in NEXT]
        at = f"at {format_duration(at_ns)}"
        if not can:
            raise EventError(f"{self._why(every[0])} {at}", _hint(self._state[every[0]]))
        chosen, words = can, f"{verb} {name}"
        if event.count is not None:
            if len(can) < event.count:
                raise EventError(f"only {len(can)} of {name} can {verb} {at}, not {event.count}")
            seed = self._seed if event.seed is None else event.seed
            alike = (verb, name, at_ns)
            draws = stream(seed, "faults", *alike, self._drawn[alike])
            self._drawn[alike] += 1
            places = draws.choice(len(can), size=event.count, replace=False)
            chosen = sorted((can[int(i)] for i in places), key=natural)
            words = f"{verb} {', '.join(chosen)} ({event.count} of {name})"
        for node in chosen:
            self._state[node] = NEXT[self._state[node], verb]
        return tuple(chosen), words

    def _why(self, node: NodeId) -> str:
        return f"{node} {NOW[self._state[node]]}"


def _hint(state: str) -> str:
    possible = [name for (now, name) in NEXT if now == state]
    return f"then it can only {' or '.join(possible)}"


def latecomers(file: TopologyFile, timeline: Iterable[Step]) -> tuple[NodeId, ...]:
    """The nodes that are not there at the start: on standby, or joining first of all.

    One that joins at 0 is there; and where nobody else would be, so are those that join first.
    """
    first: dict[NodeId, tuple[str, Nanos]] = {}
    for step in timeline:
        for action in step.actions:
            if isinstance(action, NodeAction):
                first.setdefault(action.node, (action.verb, step.at_ns))
    joining = {node: at for node, (verb, at) in first.items() if verb == "join" and at > 0}
    waiting = {node for node in on_standby(file) if node not in first}
    late = waiting | joining.keys()
    if len(late) == sum(group.replicas or 1 for group in file.nodes.values()):
        begin = min(joining.values(), default=0)
        late -= {node for node, at in joining.items() if at == begin}
    return tuple(sorted(late, key=natural))
