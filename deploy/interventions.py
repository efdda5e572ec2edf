"""What was done to a run on purpose, by plan and by hand, and what the verdict makes of it (pure).

A node that was stopped on purpose is no failure: the checks pass over what follows from it, and the
verdict names it among its remarks. A change of links is held against what each node has recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.history import Event, History, as_float, last, of_kind, started_at
from deploy.membership import PRESENT, parts
from deploy.orders import BY_HAND, Order
from deploy.plan import BackendKind, Plan
from node.config import Emulator, LinkChange, LinkPolicy, Replan, from_json, to_json
from node.core.ids import COORDINATOR
from node.links.pending import Pending
from node.units import SECOND, Nanos

LATE_S: Final = 0.25
"""From the time of a change to its being in force, on a machine that is not overloaded."""
_COMING_S: Final = 30.0
"""From a node's start to its taking part, on a busy machine."""
_TOO_LATE: Final = "still on its way in when the run ended"
_SAME_NS: Final = 1_000
_ENDS: Final = ("leave", "crash", "restart")
_COMES: Final = ("join", "restart", "return")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that was done to a node.

    Args:
        what: in words, such as `killed by plan at 10 s`.
        at_s: when it was done, on the run clock.
        late_s: by how much later than asked it was begun.
        error: why it could not be done.
    """

    number: int
    node: str
    verb: str
    by: str
    what: str
    at_s: float | None
    late_s: float
    error: str | None


def deeds(actions: Sequence[Event]) -> list[Deed]:
    """What was done to nodes, in order."""
    found = []
    for event in of_kind(actions, "control"):
        asked, begun = as_float(event.get("asked")), as_float(event.get("begun"))
        found.append(
            Deed(
                number=int(event.get("number") or 0),
                node=str(event.get("member")),
                verb=str(event.get("verb")),
                by=str(event.get("by")),
                what="; ".join(map(str, event.get("what") or ())),
                at_s=as_float(event.get("t")),
                late_s=0.0 if asked is None or begun is None else max(0.0, begun - asked),
                error=None if event.get("error") is None else str(event["error"]),
            )
        )
    return sorted(found, key=lambda deed: deed.number)


def stopped(history: History) -> dict[str, Deed]:
    """The nodes that do not run as they were meant to, because of what was done to them last.

    One that was started again takes part again, unless the run has no rounds.
    """
    fates: dict[str, Deed] = {}
    rounds = history.plan.coordinator.rounds is not None
    for deed in deeds(history.actions):
        if deed.error is not None or deed.node == COORDINATOR:
            continue
        if deed.verb == "resume" or (rounds and deed.verb in _COMES):
            fates.pop(deed.node, None)
        elif deed.verb == "pause" or deed.verb in _ENDS:
            fates[deed.node] = deed
    return fates


def excused(history: History) -> dict[str, str]:
    """The nodes that are not there at the end, or not in order, without a fault: and why."""
    standby = map(str, history.plan.coordinator.standby)
    came = {deed.node for deed in deeds(history.actions) if deed.error is None}
    waiting = {node: "on standby, and never started" for node in standby if node not in came}
    fates = {node: deed.what for node, deed in stopped(history).items()}
    return {**waiting, **dict.fromkeys(on_their_way(history), _TOO_LATE), **fates}


def on_their_way(history: History) -> list[str]:
    """The nodes that were started so shortly before the end that they could not yet take part."""
    plan, until_s = history.plan, _ended_s(history)
    found = parts(history.coordinator, nodes=history.nodes, standby=plan.coordinator.standby)
    return [
        deed.node
        for deed in deeds(history.actions)
        if deed.verb in _COMES
        and deed.error is None
        and deed.node in found
        and found[deed.node].state != PRESENT
        and (deed.at_s or 0.0) > until_s - _COMING_S
    ]


def asked_to_go(history: History) -> set[str]:
    """The nodes that were told to leave at some time: they say that they were stopped."""
    return {d.node for d in deeds(history.actions) if d.verb == "leave" and d.error is None}


def unbroken(history: History) -> bool:
    """Whether every node's records are those of one life: no process of it was ended on purpose."""
    return not any(d.error is None and d.verb in _ENDS for d in deeds(history.actions))


def absences(history: History, node: str) -> list[tuple[float, float]]:
    """When a node had no process that could have changed its links: from, until, on the run clock.

    One that is started comes back with the first thing that it records on the run clock.
    """
    times = [t for e in history.nodes.get(node, ()) if (t := as_float(e.get("t"))) is not None]
    late = node in history.plan.coordinator.standby
    since: float | None = 0.0 if late else None
    found = []
    for deed in deeds(history.actions):
        if deed.node != node or deed.error is not None or deed.at_s is None:
            continue
        if deed.verb in _ENDS and since is None:
            since = deed.at_s - deed.late_s
        if deed.verb in _COMES and since is not None:
            back = min((t for t in times if t > deed.at_s), default=math.inf)
            found.append((since, back))
            since = None
    return found if since is None else [*found, (since, math.inf)]


def remarks(history: History) -> list[str]:
    """What was done on purpose, for the verdict, in order: it does not speak against a run."""
    found: list[tuple[int, str]] = []
    for deed in deeds(history.actions):
        late = f", {deed.late_s:.2f} s late" if deed.late_s > LATE_S else ""
        if deed.error is None:
            found.append((deed.number, f"{deed.node}: {deed.what}{late}"))
        elif deed.by == BY_HAND:
            found.append((deed.number, f"{deed.node}: not {deed.what}: {deed.error}"))
    for order in history.orders:
        if order.kind == "links" and order.plans:
            text = "; ".join(what.removesuffix(" (by hand)") for what in order.what)
            when = f"{order.at_ns / SECOND:.6g} s"
            found.append((order.number, f"links changed by hand at {when}: {text}"))
    missed = [f"{node}: {_TOO_LATE}" for node in dict.fromkeys(on_their_way(history))]
    return [*modelled(history.plan), *(text for _, text in sorted(found)), *missed]


def modelled(plan: Plan) -> Iterator[str]:
    """What the links of a run are not, or not known to be, though the file has it."""
    told = plan.coordinator
    if plan.backend is BackendKind.SIM:
        yield "virtual time: links are computed as the file has them, not emulated or measured"
        if told.training.message_bytes is not None:
            yield f"a whole model counts as {told.training.message_bytes:,} bytes on the links"
        return
    if told.policy is not LinkPolicy.OFF and len(told.pairs) < told.candidates:
        yield (
            f"{len(told.pairs)} of {told.candidates} links are measured, spread over the nodes:"
            " `deadlines: {links: ...}` leaves no time for more"
        )
    links = plan.nodes[0].config.links
    if links.shared and links.emulator is Emulator.APPLICATION:
        names = ", ".join(link.name for link in links.shared[:4])
        more = f" and {len(links.shared) - 4} more" if len(links.shared) > 4 else ""
        yield (f"the local backend does not share out {names}{more}: each path has the whole rate")


def failures(history: History) -> Iterator[tuple[str, str]]:
    """What was planned for a node and could not be done: its name, and why."""
    for deed in deeds(history.actions):
        if deed.error is not None and deed.by != BY_HAND:
            yield deed.node, f"not {deed.what}: {deed.error}"


# Links -------------------------------------------------------------------------------------------


def expected_changes(history: History, node: str) -> list[LinkChange]:
    """What should have become of a node's links, in order of time, over the whole run."""
    config = next(n.config for n in history.plan.nodes if n.name == node)
    pending, done = Pending(config.links.changes), []
    for order in history.orders:
        if node in order.plans:
            plan = _replan(order, node)
            done += pending.due(plan.at_ns - 1)
            pending.replan(plan)
    return [*done, *pending.due(2**63)]


def unapplied(history: History) -> Iterator[tuple[str, str]]:
    """Changes of links that a node has not made, not in time or not right: its name, and what."""
    until_s = _ended_s(history)
    disturbed = {deed.node for deed in deeds(history.actions) if deed.error is None}
    for node, events in history.nodes.items():
        records = of_kind(events, "link")
        for record in records:
            if record.get("error"):
                yield node, f"links not as planned at {record.get('at')} s: {record['error']}"
        away = [*absences(history, node), *_paused(history, node), (until_s, math.inf)]
        for change in expected_changes(history, node):
            at_s = change.at_ns / SECOND
            if any(since - 2 * LATE_S < at_s <= back for since, back in away):
                continue
            when = f"{change.at_ns / SECOND:.6g} s"
            if (late := _lateness(records, change.at_ns)) is None:
                yield node, f"links were not changed at {when}: {'; '.join(change.what)}"
            elif late > LATE_S and node not in disturbed:
                yield node, f"what changes at {when} was in force {late:.2f} s later"


def _paused(history: History, node: str) -> Iterator[tuple[float, float]]:
    """From when on a node stands still that was paused last of all."""
    deed = stopped(history).get(node)
    if deed is not None and deed.verb == "pause":
        yield deed.at_s or 0.0, math.inf


def _lateness(records: Sequence[Event], at_ns: Nanos) -> float | None:
    """How late the first record of a change is, in seconds; None without one."""
    for record in records:
        at = as_float(record.get("at"))
        if at is not None and abs(at * SECOND - at_ns) < _SAME_NS:
            return (as_float(record.get("late_ms")) or 0.0) / 1000
    return None


def _replan(order: Order, node: str) -> Replan:
    return from_json(Replan, json.dumps(order.plans[node]))


def _ended_s(history: History) -> float:
    """When the run was told to end, on the run clock."""
    began = started_at(history.coordinator)
    ended = as_float(last(history.coordinator, "stop").get("wall"))
    return 0.0 if began is None or ended is None else ended - began


def plan_json(plan: Replan) -> Mapping[str, Any]:
    """A node's part of an order file."""
    content: Mapping[str, Any] = json.loads(to_json(plan))
    return content


# What is in force --------------------------------------------------------------------------------


def summary(history: History) -> list[dict[str, Any]]:
    """All that was done on purpose, for `summary.json`, in order of time."""
    done: list[dict[str, Any]] = [
        {
            "at_s": deed.at_s,
            "node": deed.node,
            "verb": deed.verb,
            "by": deed.by,
            "what": deed.what,
            "error": deed.error,
        }
        for deed in deeds(history.actions)
    ]
    done += [
        {
            "at_s": order.at_ns / SECOND,
            "node": None,
            "verb": "links",
            "by": order.by,
            "what": "; ".join(order.what),
            "error": None,
        }
        for order in history.orders
        if order.kind == "links"
    ]
    return sorted(done, key=lambda entry: entry["at_s"] if entry["at_s"] is not None else -1.0)
