"""All that is known of a run when it has ended (pure): what summary and verdict are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.orders import Order
from deploy.plan import Plan

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """One member (node or coordinator) as its container or process shows it.

    Args:
        status: `running`, `paused`, `exited`, `missing`, ...: for people.
        alive: it may still write records.
        exit_status: None while it is alive, and where nobody saw it end.
        oom_killed: the kernel ended it for want of memory.
        error: what the engine says went wrong with it.
    """

    member: str
    status: str
    alive: bool
    exit_status: int | None = None
    oom_killed: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, as `deploy` saw it.

    Args:
        members: state of each at the end, before it was removed.
        stopped: who had not ended by itself when the run was over, and its status then.
        killed: who did not stop when asked to.
        last_words: the last line that each member printed.
        interrupted: what ended it early (`Ctrl-C`, ...), None if nothing did.
        problems: what went wrong in `deploy` itself: hangs, logs lost, things not removed.
    """

    members: Mapping[str, MemberState] = field(default_factory=dict)
    stopped: Mapping[str, str] = field(default_factory=dict)
    killed: Sequence[str] = ()
    last_words: Mapping[str, str] = field(default_factory=dict)
    interrupted: str | None = None
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A run's plan, records and end.

    Args:
        nodes: events of each node, in the order of its file.
        coordinator: events of the coordinator.
        garbled: lines that are no event, for each member that has any.
        links: content of `links.json`; None if there is none.
        actions: what `deploy` did to nodes (`control.jsonl`).
        orders: what was ordered by plan and by hand, and the coordinator followed.
    """

    plan: Plan
    nodes: Mapping[str, Sequence[Event]]
    coordinator: Sequence[Event]
    garbled: Mapping[str, int]
    links: Mapping[str, Any] | None
    ending: Ending
    actions: Sequence[Event] = ()
    orders: Sequence[Order] = ()


def describe_exit(state: MemberState | None) -> str:
    """How a member ended, for people."""
    if state is None:
        return "it is gone"
    if state.oom_killed:
        return "killed: out of memory"
    if state.exit_status is None:
        return state.error or state.status
    if state.exit_status > 128:
        return f"killed by signal {state.exit_status - 128}"
    return f"exit status {state.exit_status}"


def of_kind(events: Sequence[Event], kind: str) -> list[Event]:
    """The events of one kind."""
    return [event for event in events if event.get("kind") == kind]


def last(events: Sequence[Event], kind: str) -> Event:
    """The last event of a kind, or an empty one."""
    found = of_kind(events, kind)
    return found[-1] if found else {}


def started_at(coordinator: Sequence[Event]) -> float | None:
    """Unix time at which the run clocks stood at zero; None where the run never started."""
    return as_float(last(coordinator, "start").get("at_wall"))


def as_float(value: object) -> float | None:
    """A finite number, or None: records are read as they are, whoever wrote them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def as_int(value: object, otherwise: int) -> int:
    """A whole number, or `otherwise`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
