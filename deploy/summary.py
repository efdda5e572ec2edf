"""What a run came to (pure): `summary.json` from its plan and records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from deploy import interventions, signaling
from deploy.history import Event, History, as_float, as_int, last, of_kind, started_at
from deploy.membership import STANDBY, Part, Spell, parts, took_part

TARGETS: Final = (0.5, 0.8, 0.9, 0.95)
"""Mean accuracies whose time is told, besides the run's own target."""
BYTES: Final = {
    "model": "model_sent",
    "control": "control_sent",
    "cancelled": "cancelled",
    "wire": "wire_tx",
    "delivered": "model_delivered",
    "received": "model_received",
    "sync": "sync_sent",
}
"""Fields of the summary, and of the nodes' `bytes` records that they come from."""

Points = list[tuple[float, float]]


def summarise(history: History) -> dict[str, Any]:
    """The content of `summary.json`."""
    plan = history.plan
    found = parts(history.coordinator, nodes=history.nodes, standby=plan.coordinator.standby)
    excused = interventions.excused(history)
    nodes = {
        name: _node(history, name, part=part, on_purpose=excused.get(name))
        for name, part in found.items()
    }
    there = [nodes[name] for name in took_part(found)]
    target = plan.coordinator.stop.accuracy
    targets = sorted({*TARGETS, *([target] if target is not None else [])})
    mean = mean_over_time(history.nodes, {name: part.spells for name, part in found.items()})
    return {
        "topology": plan.topology,
        "run": plan.run_id,
        "backend": plan.backend.value,
        "emulator": (history.links or {}).get("emulator"),
        "algorithm": plan.nodes[0].config.algorithm.name,
        "seed": plan.seed,
        "stop": last(history.coordinator, "stop").get("reason"),
        "duration_s": duration_s(history),
        # Of those that were there at the end; each node's own is under `nodes`.
        "rounds": min((node["rounds"] for node in there), default=0),
        "accuracy": spread(node["accuracy"] for node in there)
        | {"merged": as_float(last(history.coordinator, "merged").get("accuracy"))},
        "loss": spread(node["loss"] for node in there)
        | {"merged": as_float(last(history.coordinator, "merged").get("loss"))},
        "bytes": {
            key: _sum(node["bytes"][key] for node in nodes.values() if node["state"] != STANDBY)
            for key in BYTES
        },
        "time_to_accuracy": {f"{target:g}": first_time(mean, target) for target in targets},
        "staleness": spread(node["staleness"]["mean"] for node in nodes.values()),
        "signaling": signaling.summary(history),
        "interventions": interventions.summary(history),
        "nodes": nodes,
    }


def _node(history: History, name: str, *, part: Part, on_purpose: str | None) -> dict[str, Any]:
    """One node's part of the summary."""
    events = history.nodes[name]
    rounds, evaluation = of_kind(events, "round"), last(events, "evaluation")
    counts = last(events, "bytes")
    ages = [
        a for e in of_kind(events, "aggregate") if (a := as_float(e.get("age_mean"))) is not None
    ]
    done = [e for e in of_kind(history.coordinator, "member") if e.get("member") == name]
    ended = last([e for e in done if e.get("state") == "done"], "member")
    state = history.ending.members.get(name)
    return {
        "state": part.state,
        "reason": part.reason,
        "rounds": ended_rounds(events),
        "accuracy": as_float(evaluation.get("accuracy")),
        "loss": as_float(evaluation.get("loss")),
        "train_loss": as_float(rounds[-1].get("loss")) if rounds else None,
        "bytes": {key: _count(counts, field) for key, field in BYTES.items()},
        "staleness": {"mean": _mean(ages), "max": max(ages, default=None)},
        "compute_s": _sum_float(event.get("compute_s") for event in rounds),
        "late_s": _sum_float(event.get("late_s") for event in rounds),
        "stop": ended.get("reason") or last(events, "stop").get("reason"),
        "exit_status": state.exit_status if state is not None else None,
        "on_purpose": on_purpose,
    }


def ended_rounds(events: Sequence[Event]) -> int:
    """Rounds that a node ended: each round's record comes as it ends, counted from 0."""
    numbers = [as_int(event.get("round"), -1) for event in of_kind(events, "round")]
    return max(numbers, default=-1) + 1


def _count(counts: Event, key: str) -> int | None:
    """A counter of the last `bytes` record; None where the node never told."""
    value = counts.get(key)
    return value if isinstance(value, int) else None


def duration_s(history: History) -> float | None:
    """Seconds on the run clock until the run was told to end; None where it never started.

    The coordinator has no run clock, so its records are placed by their wall time.
    """
    began = started_at(history.coordinator)
    ended = as_float(last(history.coordinator, "stop").get("wall"))
    if began is None:
        return None
    if ended is not None:
        return round(max(0.0, ended - began), 6)
    times = [t for events in history.nodes.values() for e in events if (t := as_float(e.get("t")))]
    return max(times, default=None)


# Accuracy over time ------------------------------------------------------------------------------


def accuracy_over_time(events: Sequence[Event]) -> Points:
    """When each evaluation of a node was known, and what it said."""
    points = []
    for event in of_kind(events, "evaluation"):
        t, accuracy = as_float(event.get("t")), as_float(event.get("accuracy"))
        if t is not None and accuracy is not None:
            points.append((t, accuracy))
    return points


def mean_over_time(
    nodes: Mapping[str, Sequence[Event]], spells: Mapping[str, Sequence[Spell]] | None = None
) -> Points:
    """The mean of the newest accuracies of those that take part, from when each has one.

    One that comes later counts from its first evaluation on; what it knew in an earlier life does
    not.

    Args:
        spells: when each took part; None: all did, all the time.
    """
    always = (Spell(since_s=0.0, until_s=math.inf),)
    took = {name: always if spells is None else tuple(spells.get(name, ())) for name in nodes}
    merged = sorted(
        (t, name, accuracy)
        for name, events in nodes.items()
        for t, accuracy in accuracy_over_time(events)
    )
    newest: dict[str, tuple[float, float]] = {}
    points = []
    for t, name, accuracy in merged:
        newest[name] = (t, accuracy)
        now = {n: spell for n, each in took.items() for spell in each if t in spell}
        known = [newest[n][1] for n, spell in now.items() if n in newest and newest[n][0] in spell]
        waiting = any(
            spell.since_s == 0.0 and (n not in newest or newest[n][0] not in spell)
            for n, spell in now.items()
        )
        if known and not waiting:
            points.append((t, fmean(known)))
    return points


def first_time(points: Points, target: float) -> float | None:
    """When a curve first reached the target; None if it never did."""
    return next((t for t, value in points if value >= target), None)


# Numbers that may be missing ---------------------------------------------------------------------


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean, minimum and maximum of what is known."""
    known = [value for value in values if value is not None]
    return {
        "mean": _mean(known),
        "min": min(known, default=None),
        "max": max(known, default=None),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one is missing, rather than a sum that is too small."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _sum_float(values: Iterable[object]) -> float:
    return sum(number for value in values if (number := as_float(value)) is not None)
