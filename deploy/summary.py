"""What a run came to (pure): `summary.json` from its plan and records; every field is explained in
docs/compare.md. The same in containers, on loopback and in virtual time. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from deploy import interventions, signaling
from deploy.curves import Points, first_time, mean_over_time, merged_over_time
from deploy.history import Event, History, as_float, as_int, last, of_kind, started_at
from deploy.membership import STANDBY, Part, parts, took_part
from node.core.histogram import Histogram

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
FATES: Final = ("sent", "delivered", "cancelled", "lost")
"""What became of a kind of message, in bytes."""


def summarise(history: History) -> dict[str, Any]:
    """The content of `summary.json`."""
    plan = history.plan
    found = parts(history.coordinator, nodes=history.nodes, standby=plan.coordinator.standby)
    excused = interventions.excused(history)
    told = of_kind(history.coordinator, "member")
    done = {str(event.get("member")): event for event in told if event.get("state") == "done"}
    nodes = {
        name: _node(history, name, part=part, on_purpose=excused.get(name), done=done.get(name, {}))
        for name, part in found.items()
    }
    there = [nodes[name] for name in took_part(found)]
    target = plan.coordinator.stop.accuracy
    targets = sorted({*TARGETS, *([target] if target is not None else [])})
    mean = mean_over_time(history.nodes, {name: part.spells for name, part in found.items()})
    merged = last(history.coordinator, "merged")
    began = [node for node in nodes.values() if node["state"] != STANDBY]
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
        | {"merged": as_float(merged.get("accuracy"))},
        "loss": spread(node["loss"] for node in there) | {"merged": as_float(merged.get("loss"))},
        "consensus": {"distance": as_float(merged.get("distance"))},
        "bytes": {key: _sum(node["bytes"][key] for node in began) for key in (*BYTES, "lost")}
        | {"kinds": _sum_kinds([node["bytes"]["kinds"] for node in began])},
        "latency": _latency(history),
        "idle_s": spread(node["idle_s"] for node in nodes.values()),
        "time_to_accuracy": _times(mean, targets),
        "time_to_accuracy_merged": _times(merged_over_time(history.coordinator), targets),
        "staleness": spread(node["staleness"]["mean"] for node in nodes.values())
        | {"max": spread(node["staleness"]["max"] for node in nodes.values())["max"]},
        "coverage": spread(node["coverage"] for node in nodes.values()),
        "signaling": signaling.summary(history),
        "interventions": interventions.summary(history),
        "nodes": nodes,
    }


def _node(
    history: History, name: str, *, part: Part, on_purpose: str | None, done: Event
) -> dict[str, Any]:
    """One node's part of the summary.

    Args:
        done: what the coordinator wrote when it had learnt all; empty: it never said so.
    """
    events = history.nodes[name]
    rounds, evaluation = of_kind(events, "round"), last(events, "evaluation")
    counts, aggregates = last(events, "bytes"), of_kind(events, "aggregate")
    kinds = _kinds(counts.get("kinds"))
    ages = _known(aggregates, "age_mean")
    state = history.ending.members.get(name)
    return {
        "state": part.state,
        "reason": part.reason,
        "rounds": ended_rounds(events),
        "accuracy": as_float(evaluation.get("accuracy")),
        "loss": as_float(evaluation.get("loss")),
        "train_loss": as_float(rounds[-1].get("loss")) if rounds else None,
        "bytes": {key: _count(counts, field) for key, field in BYTES.items()}
        | {"lost": None if kinds is None else sum(kind["lost"] for kind in kinds.values())}
        | {"kinds": kinds},
        "staleness": {
            "mean": _mean(ages),
            "max": max(_known(aggregates, "age_max") or ages, default=None),
        },
        "coverage": _mean(_known(aggregates, "coverage")),
        "compute_s": _sum_float(event.get("compute_s") for event in rounds),
        "late_s": _sum_float(event.get("late_s") for event in rounds),
        "idle_s": _idle_s(events),
        "stop": done.get("reason") or last(events, "stop").get("reason"),
        "exit_status": state.exit_status if state is not None else None,
        "on_purpose": on_purpose,
    }


def ended_rounds(events: Sequence[Event]) -> int:
    """Rounds that a node ended: each round's record comes as it ends, counted from 0.

    A node that does not train in every round (a server, a client that is not drawn) says how many
    it has ended by its evaluations.
    """
    trained = [as_int(event.get("round"), -1) + 1 for event in of_kind(events, "round")]
    evaluated = [as_int(event.get("round"), 0) for event in of_kind(events, "evaluation")]
    return max([*trained, *evaluated], default=0)


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


# What nodes counted -------------------------------------------------------------------------------


def _idle_s(events: Sequence[Event]) -> float | None:
    """How long the node's trainer had nothing to do, in all its lives; None where one did not come
    to its end and could not tell."""
    told = _known(of_kind(events, "idle"), "seconds")
    return sum(told) if told and len(told) >= len(of_kind(events, "start")) else None


def _kinds(told: object) -> dict[str, dict[str, int]] | None:
    """Field `kinds` of a `bytes` record; None where it is not what a node writes."""
    if not isinstance(told, Mapping):
        return None
    kinds = {}
    for kind, counts in told.items():
        if not isinstance(counts, Mapping):
            return None
        kinds[str(kind)] = {fate: as_int(counts.get(fate), 0) for fate in FATES}
    return kinds


def _sum_kinds(
    told: Sequence[dict[str, dict[str, int]] | None],
) -> dict[str, dict[str, int]] | None:
    """Over all nodes, in order of the names; None where one did not tell."""
    known = [kinds for kinds in told if kinds is not None]
    if len(known) < len(told):
        return None
    none = dict.fromkeys(FATES, 0)
    return {
        kind: {fate: sum(kinds.get(kind, none)[fate] for kinds in known) for fate in FATES}
        for kind in sorted({kind for kinds in known for kind in kinds})
    }


def _latency(history: History) -> dict[str, dict[str, Any]]:
    """Of all nodes that have told, by kind of message."""
    total: dict[str, tuple[Histogram, Histogram]] = {}
    for events in history.nodes.values():
        for event in of_kind(events, "latency"):
            try:
                whole, queued = Histogram.of(event), Histogram.of(event.get("queued") or {})
            except ValueError:
                continue  # of another version
            sums = total.setdefault(str(event.get("message")), (Histogram(), Histogram()))
            sums[0].merge(whole)
            sums[1].merge(queued)
    return {
        kind: {**whole.record(), "queued": queued.record()}
        for kind, (whole, queued) in sorted(total.items())
    }


def _times(points: Points, targets: Iterable[float]) -> dict[str, float | None]:
    return {f"{target:g}": first_time(points, target) for target in targets}


# Numbers that may be missing ---------------------------------------------------------------------


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean, minimum and maximum of what is known."""
    known = [value for value in values if value is not None]
    return {
        "mean": _mean(known),
        "min": min(known, default=None),
        "max": max(known, default=None),
    }


def _known(events: Iterable[Event], field: str) -> list[float]:
    return [number for event in events if (number := as_float(event.get(field))) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one is missing, rather than a sum that is too small."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _sum_float(values: Iterable[object]) -> float:
    return sum(number for value in values if (number := as_float(value)) is not None)
