"""`deploy link`, `partition`, `heal`, `kill`, `pause`, `resume`, `restart`: orders to a run that is
under way, given as files in its folder, and confirmed from what its members record.

Nothing here touches a node: the coordinator passes on what concerns links (`deploy/orders.py` works
out what), the process that owns the run does what concerns nodes (`deploy/actions.py`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.follow import Tail
from deploy.history import Event, as_float, of_kind, started_at
from deploy.interventions import plan_json
from deploy.membership import ENDS
from deploy.order_files import one_at_a_time, write_order
from deploy.orders import (
    BY_HAND,
    Change,
    Order,
    known_node,
    link_step,
    replan,
    steps_of,
    what_text,
)
from deploy.plan import BackendKind, Plan, plan_from_json
from deploy.records import followed, read_events
from deploy.results import Results, RunFolder, RunState
from deploy.topology import Topology, parse_topology
from deploy.topology.lives import NEXT, NOW
from deploy.topology.model import LinkOptions
from deploy.topology.timeline import NodeAction, Step
from deploy.topology.words import link_text, parts_text
from node.config import Emulator, SharedLink
from node.core.ids import NodeId
from node.errors import ConfigError, RunFailed
from node.links.impair import refusals
from node.units import SECOND, format_duration

_LEAD_S: Final = 0.3
"""From an order to its time: for the coordinator to see it, and for all nodes to have it."""
_MARGIN_S: Final = 0.2
"""Of that, what must be left when it is written."""
_TRIES: Final = 5
_COORDINATOR_S: Final = 3.0
"""For the coordinator to say that it follows."""
_CONFIRM_S: Final = 3.0
"""For a node to have recorded a change, after its time."""
_ACTION_S: Final = 30.0
"""For what is done to a node."""
LOOK_S: Final = 0.02
_GONE: Final = ENDS | {"paused at the end"}
"""States in which a member follows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """A run that goes on.

    Args:
        topology: of its file, as it was given, overrides included.
        zero: Unix time at which its clock stood at 0.
    """

    folder: RunFolder
    plan: Plan
    topology: Topology
    zero: float

    def now_s(self) -> float:
        """On the run clock."""
        return time.time() - self.zero

    def at_s(self, event: Event) -> float:
        """When something was recorded, on the run clock."""
        return (as_float(event.get("wall")) or self.zero) - self.zero

    def coordinator(self) -> list[Event]:
        """The coordinator's records so far."""
        return read_events(self.folder.coordinator_file)[0]


def find(reference: str | None, *, results: Path) -> Underway:
    """The run that is meant. Raises RunFailed where it is not under way."""
    folder = Results(results).find(reference)
    state = folder.state()
    if state not in (RunState.RUNNING, RunState.ELSEWHERE):
        raise RunFailed(
            f"run {folder.run_id} is not under way: it is {state.value}",
            remedy="name one that is (deploy results), or start one: deploy up FILE",
        )
    plan = plan_from_json(folder.plan_file.read_text())
    if plan.backend is BackendKind.SIM:
        raise ConfigError(
            f"run {folder.run_id} is a simulation, which follows its file alone",
            remedy="write what is to happen under `events:` (docs/topology.md)",
        )
    records = read_events(folder.coordinator_file)[0]
    zero, phases = started_at(records), of_kind(records, "phase")
    phase = str(phases[-1].get("phase")) if phases else "starting"
    if zero is None or phase != "running":
        raise RunFailed(
            f"run {folder.run_id} is not training: it is {phase}",
            remedy="a run can be changed from the start of the training to its end",
        )
    return Underway(
        folder=folder,
        plan=plan,
        topology=topology_of(folder),
        zero=zero,
    )


def topology_of(folder: RunFolder) -> Topology:
    """Of the run's own copy, which is YAML whatever was given."""
    overrides = [str(o) for o in folder.manifest.get("overrides") or ()]
    ours = [o for o in overrides if not o.startswith("format.")]
    path = folder.topology_file
    return parse_topology(path.read_bytes(), path=path, overrides=ours)


# Links -------------------------------------------------------------------------------------------


def change_links(
    event: Mapping[str, Any],
    words: str,
    *,
    run: str | None,
    results: Path,
    as_json: bool,
) -> int:
    """Change links of the run that is under way, and wait until every node has; the exit status.

    Args:
        event: an entry of `events:` without its time.
        words: the same for people.
    Raises:
        ConfigError: a name or a value means nothing.
        RunFailed: the run is not under way, or does not follow.
    """
    underway = find(run, results=results)
    folder = underway.folder
    with one_at_a_time(folder):
        order, change = write_change(underway, event, words)
        tails = {node: Tail.from_here(folder.node_file(str(node))) for node in change.touched}
        await_coordinator(underway, order)
    at_s = order.at_ns / SECOND
    gone = _gone(underway)
    asked = [node for node in change.touched if node not in gone]
    records = _confirmed(underway, order, {node: tails[node] for node in asked})
    missing = [node for node in asked if node not in records]
    wrong = {n: str(r["error"]) for n, r in records.items() if r.get("error")}
    late = [as_float(record.get("late_ms")) or 0.0 for record in records.values()]
    told = {
        "run": folder.run_id,
        "number": order.number,
        "at_s": at_s,
        "what": words,
        "nodes": [str(node) for node in records],
        "late_ms": max(late, default=None),
        "missing": [str(node) for node in missing],
        "gone": {str(node): gone[node] for node in change.touched if node in gone},
        "errors": wrong,
    }
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write(_said(told) + "\n")
    if missing or wrong:
        lines = [f"{node}: {why}" for node, why in wrong.items()]
        lines += [f"{node} has not confirmed within {_CONFIRM_S:g} s" for node in missing]
        raise RunFailed("\n".join(lines), remedy=f"see deploy logs {folder.run_id} NODE")
    return 0


def _said(told: Mapping[str, Any]) -> str:
    """One line: what is in force since when, and where."""
    head = f"{told['at_s']:.3f} s: {told['what']}"
    nodes, gone = told["nodes"], told["gone"]
    if not nodes and not gone and not told["missing"]:
        return f"{head}: no path is different from what it was"
    where = f"in force on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if told["late_ms"] is not None:
        where += f" within {told['late_ms']:.0f} ms"
    without = "; ".join(f"{node} is {state}" for node, state in gone.items())
    return f"{head}: {where}" + (f" ({without})" if without else "")


def write_change(underway: Underway, event: Mapping[str, Any], words: str) -> tuple[Order, Change]:
    """Work out what follows from an order a little ahead of its time, and store it."""
    folder, topology = underway.folder, underway.topology
    orders = followed(folder, underway.coordinator())
    earlier, shared = steps_of(topology, orders), _shared(underway, orders)
    lead = _LEAD_S
    for _ in range(_TRIES):
        begun = time.monotonic()
        at_ns = round((underway.now_s() + lead) * 1000) * (SECOND // 1000)
        entry = {"at": format_duration(at_ns), **event}
        step = _named(link_step(topology, entry), words)
        change = replan(topology, earlier=earlier, order=step, shared=shared)
        _check_emulator(underway, change)
        order = Order(
            number=0,
            kind="links",
            by=BY_HAND,
            at_ns=at_ns,
            what=step.what,
            event=entry,
            shared=tuple({"name": s.name, "rate_bps": s.rate_bps} for s in change.shared),
            plans={str(node): plan_json(plan) for node, plan in change.plans.items()},
        )
        if underway.now_s() < at_ns / SECOND - _MARGIN_S:
            return write_order(folder, order), change
        lead = _LEAD_S + 1.5 * (time.monotonic() - begun)
    raise RunFailed(
        "this machine is too busy to work out the change in time", remedy="try again later"
    )


def _named(step: Step, words: str) -> Step:
    return Step(at_ns=step.at_ns, actions=step.actions, what=(f"{words} (by hand)",))


def _shared(underway: Underway, orders: Sequence[Order]) -> tuple[SharedLink, ...]:
    """The shared links that the nodes know now, in their order."""
    for order in reversed(orders):
        if order.kind == "links":
            return tuple(
                SharedLink(name=str(s["name"]), rate_bps=s["rate_bps"]) for s in order.shared
            )
    return underway.plan.nodes[0].config.links.shared


def _check_emulator(underway: Underway, change: Change) -> None:
    """Raise ConfigError where a path would be beyond what emulates it."""
    joined = {
        NodeId(str(event.get("member"))): str(event.get("emulator"))
        for event in of_kind(underway.coordinator(), "member")
        if event.get("state") == "joined"
    }
    for node, plan in change.plans.items():
        try:
            emulator = Emulator(joined.get(node, ""))
        except ValueError:
            continue
        for path in plan.changes[0].peers if plan.changes else ():
            if path.out is not None and (cannot := refusals(path.out, emulator)):
                raise ConfigError(
                    f"the {emulator.value} emulator cannot do this: {', '.join(cannot)}",
                    where=f"{node} to {path.name}",
                )


def await_coordinator(underway: Underway, order: Order) -> None:
    """Until the coordinator follows. Raises RunFailed where it does not."""
    deadline = time.monotonic() + _COORDINATOR_S
    while time.monotonic() < deadline:
        for event in of_kind(underway.coordinator(), "control"):
            if event.get("number") != order.number or (order.kind == "links" and "member" in event):
                continue  # of another order, or one node's refusal
            if event.get("state") == "ordered":
                return
            raise RunFailed(f"the coordinator refuses: {event.get('reason')}")
        time.sleep(LOOK_S)
    raise RunFailed(
        f"the coordinator has not answered within {_COORDINATOR_S:g} s",
        where=str(underway.folder.coordinator_file),
        remedy=f"see deploy status {underway.folder.run_id}",
    )


def _gone(underway: Underway) -> dict[NodeId, str]:
    """The members that follow nothing now, and what became of them."""
    states: dict[NodeId, str] = {}
    joined: set[NodeId] = set()
    for event in of_kind(underway.coordinator(), "member"):
        state, member = str(event.get("state")), NodeId(str(event.get("member")))
        if state in _GONE:
            states[member] = state
        elif state in ("back", "idle", "joined", "rejoined", "returned"):
            states.pop(member, None)
            joined.add(member)
    done: dict[NodeId, str] = {}
    for event in read_events(underway.folder.control_log)[0]:
        if not event.get("error"):
            done[NodeId(str(event.get("member")))] = str(event.get("verb"))
    paused = {node: "paused" for node, verb in done.items() if verb == "pause"}
    standby = underway.plan.coordinator.standby
    waiting = {node: "on standby" for node in standby if node not in joined}
    return waiting | states | paused


def _confirmed(
    underway: Underway, order: Order, tails: Mapping[NodeId, Tail]
) -> dict[NodeId, Event]:
    """The record of the change of every node that has made it before the deadline."""
    found: dict[NodeId, Event] = {}
    until = order.at_ns / SECOND + _CONFIRM_S
    while len(found) < len(tails):
        for node, tail in tails.items():
            for event in tail.events():
                at = as_float(event.get("at")) if event.get("kind") == "link" else None
                if at is not None and abs(at * SECOND - order.at_ns) < 1000:
                    found.setdefault(node, event)
        if underway.now_s() > until:
            break
        time.sleep(LOOK_S)
    return {node: found[node] for node in tails if node in found}


# Nodes -------------------------------------------------------------------------------------------


def act(node: str, verb: str, *, run: str | None, results: Path, as_json: bool) -> int:
    """Do something to a node of the run that is under way; the exit status.

    Args:
        verb: crash, leave, pause, resume or restart.
    Raises:
        ConfigError: there is no such node, or it is not in a state for that.
        RunFailed: the run is not under way, or it could not be done.
    """
    underway = find(run, results=results)
    folder, name = underway.folder, known_node(underway.topology, node)
    with one_at_a_time(folder):
        check_life(underway, name, verb)
        at_ns = round(underway.now_s() * 1000) * (SECOND // 1000)
        order = Order(
            number=0,
            kind="node",
            by=BY_HAND,
            at_ns=at_ns,
            what=(what_text(verb, by=BY_HAND, at_ns=at_ns),),
            node=name,
            verb=verb,
        )
        order = write_order(folder, order)
        await_coordinator(underway, order)
        done = await_action(underway, order)
    if as_json:
        keys = ("number", "member", "verb", "asked", "t", "error")
        sys.stdout.write(json.dumps({"run": folder.run_id} | {k: done.get(k) for k in keys}) + "\n")
    if done.get("error"):
        raise RunFailed(str(done["error"]))
    if not as_json:
        at_s = as_float(done.get("t")) or 0.0
        took = at_s - (as_float(done.get("begun")) or at_s)
        text = order.what[0].partition(" by ")[0]
        sys.stdout.write(f"{at_s:.3f} s: {name} {text} (took {took * 1000:.0f} ms)\n")
    return 0


def life_of(underway: Underway, node: NodeId) -> str:
    """What a node has been through, by plan and by hand: a state of `deploy.topology.lives`."""
    life = "waiting" if node in underway.topology.standby else "running"
    now_ns = round(underway.now_s() * SECOND)
    done = [step for step in underway.topology.timeline if step.at_ns <= now_ns]
    hand = steps_of(underway.topology, followed(underway.folder, underway.coordinator()))
    for step in sorted((*done, *hand), key=lambda step: step.at_ns):
        for action in step.actions:
            if isinstance(action, NodeAction) and action.node == node:
                life = NEXT.get((life, action.verb), life)
    return life


def check_life(underway: Underway, node: NodeId, verb: str) -> None:
    """Raise ConfigError where that cannot be done to a node as it is."""
    life = life_of(underway, node)
    if (life, verb) not in NEXT or (life, verb) == ("gone", "restart"):
        possible = " or ".join(v for (state, v) in NEXT if state == life and v != "return")
        if life in ("waiting", "gone"):
            possible = f"be started: deploy add {node}"
        raise ConfigError(f"{node} {NOW[life]}", remedy=f"it can only {possible}")


def await_action(underway: Underway, order: Order) -> Event:
    """The record of what was done. Raises RunFailed where nobody does it."""
    deadline = time.monotonic() + _ACTION_S
    while time.monotonic() < deadline:
        for event in read_events(underway.folder.control_log)[0]:
            if event.get("number") == order.number:
                return event
        time.sleep(LOOK_S)
    owner = underway.folder.owner()
    raise RunFailed(
        f"not done within {_ACTION_S:g} s by the process that owns the run",
        where=f"process {owner.pid} on {owner.host}" if owner else str(underway.folder.owner_file),
        remedy=f"see deploy status {underway.folder.run_id}",
    )


# What the command line asks for ------------------------------------------------------------------


def set_link(
    ends: tuple[str, str],
    values: Mapping[str, str | None],
    *,
    oneway: bool,
    run: str | None,
    results: Path,
    as_json: bool,
) -> int:
    """`deploy link set`: what is given of `values` is different from now on."""
    keys = LinkOptions.model_fields
    given = {key: values[key] for key in keys if values.get(key) is not None}
    if not given:
        raise ConfigError("nothing to set", remedy="say what: --rate 5mbit, --delay 80ms, ...")
    event: dict[str, Any] = {"link": list(ends), "set": given}
    if oneway:
        event["oneway"] = True
    options = ", ".join(f"{key} {value}" for key, value in given.items())
    words = f"{link_text(ends, oneway=oneway)}: {options}"
    return change_links(event, words, run=run, results=results, as_json=as_json)


def switch_link(
    ends: tuple[str, ...],
    verb: str,
    *,
    oneway: bool,
    run: str | None,
    results: Path,
    as_json: bool,
) -> int:
    """`deploy link down` and `up`: one link, or all that hang on one name."""
    affected = ends[0] if len(ends) == 1 else (ends[0], ends[1])
    event: dict[str, Any] = {verb: ends[0] if len(ends) == 1 else list(ends)}
    if oneway:
        event["oneway"] = True
    words = f"{link_text(affected, oneway=oneway)} {verb}"
    return change_links(event, words, run=run, results=results, as_json=as_json)


def partition(parts: Sequence[str], *, run: str | None, results: Path, as_json: bool) -> int:
    """`deploy partition`: each part is names with commas between."""
    named = [[name for name in part.split(",") if name] for part in parts]
    event = {"partition": named}
    return change_links(event, parts_text(named), run=run, results=results, as_json=as_json)


def heal(*, run: str | None, results: Path, as_json: bool) -> int:
    """`deploy heal`."""
    return change_links({"heal": True}, "heal", run=run, results=results, as_json=as_json)
