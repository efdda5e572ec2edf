"""`deploy add` and `remove`: a node comes into a run that is under way, or goes.

Each is two orders (`deploy/control.py`): one for the links, since paths come and go with the node,
and one for the node, which the process that owns the run starts or stops.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from deploy.control import (
    LOOK_S,
    Underway,
    await_action,
    await_coordinator,
    find,
    life_of,
    write_change,
)
from deploy.history import Event, as_int, last, of_kind
from deploy.order_files import one_at_a_time, write_order
from deploy.orders import BY_HAND, Order, known_node, what_text
from deploy.topology.lives import NEXT, NOW
from node.core.ids import NodeId
from node.errors import ConfigError, RunFailed
from node.units import SECOND

_COMES: Final = {"waiting": "join", "gone": "return", "crashed": "return"}
"""How a node is brought in, by what it has been through."""
_LOST: Final = ("failed", "lost", "expelled", "killed", "left")
_MARGIN_S: Final = 5.0


def add(node: str, *, run: str | None, results: Path, as_json: bool) -> int:
    """Start a node that is on standby, has left or has crashed, and wait until it takes part.

    Raises:
        ConfigError: there is no such node, or it is there.
        RunFailed: the run is not under way, or the node does not come to take part.
    """
    underway, name = _found(node, run=run, results=results)
    with one_at_a_time(underway.folder):
        life = life_of(underway, name)
        if life not in _COMES:
            raise ConfigError(f"{name} {NOW[life]}", remedy="there is nothing to add")
        ordered = _order(underway, name, _COMES[life])
    came = _await_part(underway, name, ordered)
    at_s = underway.at_s(came.event)
    told = {
        "run": underway.folder.run_id,
        "number": ordered.order.number,
        "member": str(name),
        "verb": ordered.order.verb,
        "asked": ordered.asked_s,
        "t": round(at_s, 6),
        "took_s": round(at_s - ordered.asked_s, 6),
        "provider": came.provider,
        "held": came.held,
    }
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    source = "from the initial model"
    if came.provider is not None:
        source = f"with the model of {came.provider}, {came.held} rounds old"
    sys.stdout.write(f"{at_s:.3f} s: {name} takes part after {told['took_s']:.1f} s, {source}\n")
    return 0


def remove(node: str, *, run: str | None, results: Path, as_json: bool) -> int:
    """Let a node leave in order, and wait until it has.

    Raises:
        ConfigError: there is no such node, or it is not there.
        RunFailed: the run is not under way, or the node does not go.
    """
    underway, name = _found(node, run=run, results=results)
    with one_at_a_time(underway.folder):
        life = life_of(underway, name)
        if life == "crashed" or (life, "leave") not in NEXT:
            raise ConfigError(f"{name} {NOW[life]}", remedy="there is nothing to remove")
        ordered = _order(underway, name, "leave")
    left = _await_left(underway, name, ordered)
    at_s = underway.at_s(left)
    told = {
        "run": underway.folder.run_id,
        "number": ordered.order.number,
        "member": str(name),
        "verb": "leave",
        "asked": ordered.asked_s,
        "t": round(at_s, 6),
        "took_s": round(at_s - ordered.asked_s, 6),
        "state": left.get("state"),
    }
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write(f"{at_s:.3f} s: {name} has left after {told['took_s']:.1f} s\n")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ordered:
    """What was ordered, and done.

    Args:
        asked_s: on the run clock.
        known: how many records the coordinator had by then.
    """

    order: Order
    asked_s: float
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Came:
    """A node takes part: the record of it, whose model it began with, and its age in rounds."""

    event: Event
    provider: str | None
    held: int


def _found(node: str, *, run: str | None, results: Path) -> tuple[Underway, NodeId]:
    underway = find(run, results=results)
    if underway.plan.coordinator.rounds is None:
        raise ConfigError(
            f"run {underway.folder.run_id} verifies a network: its nodes are the instruments",
            remedy="add and remove are for runs that train",
        )
    return underway, known_node(underway.topology, node)


def _order(underway: Underway, name: NodeId, verb: str) -> _Ordered:
    """Order the paths and the node, and wait until it was started or told to go."""
    folder, asked_s = underway.folder, underway.now_s()
    known = len(underway.coordinator())
    links, _ = write_change(underway, {verb: str(name)}, f"{verb} {name}")
    await_coordinator(underway, links)
    order = Order(
        number=0,
        kind="node",
        by=BY_HAND,
        at_ns=links.at_ns,
        what=(what_text(verb, by=BY_HAND, at_ns=links.at_ns),),
        node=name,
        verb=verb,
    )
    order = write_order(folder, order)
    await_coordinator(underway, order)
    done = await_action(underway, order)
    if done.get("error"):
        raise RunFailed(str(done["error"]))
    return _Ordered(order=order, asked_s=asked_s, known=known)


def _await_part(underway: Underway, name: NodeId, ordered: _Ordered) -> _Came:
    """Until the coordinator lets the node into the next round."""
    waits, rounds = underway.plan.coordinator.deadlines, underway.plan.coordinator.rounds
    assert rounds is not None
    limit_s = (waits.join_ns + waits.ready_ns + rounds.sync_ns) / SECOND + _MARGIN_S
    deadline = time.monotonic() + limit_s
    state = "started"
    while time.monotonic() < deadline:
        records = underway.coordinator()[ordered.known :]
        for event in of_kind(records, "member"):
            if event.get("member") != name:
                continue
            state = str(event.get("state"))
            if state == "synced":
                return _came(event, records, name)
            if state in _LOST:
                _fail(f"{name} does not take part: {event.get('error') or state}", underway)
        if last(records, "finish") or last(records, "stop"):
            _fail(f"the run ended before {name} took part: it was {state}", underway)
        time.sleep(LOOK_S)
    return _fail(f"{name} does not take part after {limit_s:g} s: it is {state}", underway)


def _came(event: Event, records: list[Event], name: NodeId) -> _Came:
    got = [
        sync
        for sync in of_kind(records, "sync")
        if sync.get("member") == name and sync.get("state") == "done" and sync.get("provider")
    ]
    provider = str(got[-1]["provider"]) if got else None
    return _Came(event=event, provider=provider, held=as_int(event.get("held"), 0))


def _await_left(underway: Underway, name: NodeId, ordered: _Ordered) -> Event:
    """Until the coordinator knows that the node has gone."""
    waits = underway.plan.coordinator.deadlines
    limit_s = (waits.stop_ns + waits.lease_ns) / SECOND + _MARGIN_S
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for event in of_kind(underway.coordinator()[ordered.known :], "member"):
            if event.get("member") == name and event.get("state") in _LOST:
                return event
        time.sleep(LOOK_S)
    return _fail(f"{name} has not left after {limit_s:g} s", underway)


def _fail(message: str, underway: Underway) -> NoReturn:
    raise RunFailed(message, remedy=f"see deploy status {underway.folder.run_id}")
