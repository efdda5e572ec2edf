"""What a run was asked to be (pure): names and texts, from its plan and its network.

Only what describes the experiment: no addresses, folders or names of runs. A plan is read as it is
stored, so that runs of other versions can be compared, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from deploy.topology import Topology
from node.config import PathSpec
from node.units import format_duration, format_rate, format_share

SEED: Final = "seed"
DATASET: Final = "training.dataset"
_OUR_MACHINE: Final = frozenset({"data_dir"})
"""Keys that say where something lies, not what is done."""
_KINDS_MAX: Final = 4

Settings = Mapping[str, Any]
"""Values by dotted name. Comparable with `==`; `text` says them for people."""


def plan_settings(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the content of a `plan.json`."""
    nodes = [node for node in plan.get("nodes") or () if isinstance(node, Mapping)]
    configs = [node.get("config") or {} for node in nodes]
    first: Mapping[str, Any] = configs[0] if configs else {}
    coordinator = plan.get("coordinator") or {}
    algorithm = first.get("algorithm") or {}
    found: dict[str, Any] = {
        "backend": plan.get("backend"),
        SEED: plan.get("seed"),
        "nodes": len(nodes),
        "algorithm": algorithm.get("name"),
        "pacing": algorithm.get("pacing"),
    }
    found |= _options([config.get("algorithm") or {} for config in configs])
    found |= _flat("training", first.get("training") or {})
    found |= _flat("stop", first.get("stop") or {})
    found["compute"] = _by_kind(_compute(config.get("compute") or {}) for config in configs)
    found["resources"] = _by_kind(
        ", ".join(f"{k} {v}" for k, v in (node.get("resources") or {}).items() if v is not None)
        for node in nodes
    )
    found["overlay"] = sorted(map(sorted, coordinator.get("overlay") or ()))
    found["standby"] = sorted(coordinator.get("standby") or ())
    found |= _flat("signaling", first.get("rounds") or {})
    found |= _flat("deadlines", first.get("deadlines") or {})
    return found


def network_settings(topology: Topology) -> dict[str, Any]:
    """The links, and what is planned to happen to them and to nodes."""
    return {
        "links": {link.name: _link(link.spec) for link in topology.network.links},
        "events": [
            f"{format_duration(step.at_ns)} {'; '.join(step.what)}" for step in topology.timeline
        ],
    }


def differences(every: Sequence[Settings]) -> dict[str, list[str]]:
    """The names under which not all have the same, with the text of each."""
    names = dict.fromkeys(name for settings in every for name in settings)
    found = {}
    for name in names:
        values = [settings.get(name) for settings in every]
        if any(value != values[0] for value in values):
            found[name] = _told_apart(values)
    return found


def text(value: object) -> str:
    """A setting for people, in one line."""
    match value:
        case None:
            return "-"
        case dict():
            return _counted(Counter(map(str, value.values())))
        case list() if value and isinstance(value[0], list):
            return f"{len(value)} pairs"
        case list():
            more = f" and {len(value) - _KINDS_MAX} more" if len(value) > _KINDS_MAX else ""
            return "; ".join(map(str, value[:_KINDS_MAX])) + more or "none"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _told_apart(values: Sequence[object]) -> list[str]:
    """Texts that are equal only where the values are."""
    seen: dict[str, list[str]] = {}
    texts = []
    for value in values:
        told, exact = text(value), json.dumps(value, sort_keys=True, default=str)
        variants = seen.setdefault(told, [])
        if exact not in variants:
            variants.append(exact)
        number = variants.index(exact)
        texts.append(told if number == 0 else f"{told}, otherwise placed ({number + 1})")
    return texts


def _options(algorithms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The algorithm's options; one that differs from node to node is told as a count."""
    every = [algorithm.get("options") or {} for algorithm in algorithms]
    found = {}
    for name in dict.fromkeys(name for options in every for name in options):
        values = [options.get(name) for options in every]
        same = all(value == values[0] for value in values)
        found[f"algorithm.{name}"] = values[0] if same else _by_kind(map(text, values))
    return found


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(f"{prefix}.{key}", value)
        elif key.endswith("_ns") and isinstance(value, int):
            found[f"{prefix}.{key.removesuffix('_ns')}"] = format_duration(value)
        elif key not in _OUR_MACHINE:
            found[f"{prefix}.{key}"] = value
    return found


def _compute(compute: Mapping[str, Any]) -> str:
    step, speed, trace = compute.get("step_ns"), compute.get("speed"), compute.get("trace_ns")
    told = "as long as it takes" if step is None else format_duration(step)
    if trace:
        told = f"a trace of {len(trace)}, {format_duration(sum(trace) // len(trace))} on average"
    return told if speed in (None, 1.0) else f"{told} at speed {speed:g}"


def _link(spec: PathSpec) -> str:
    """`20mbit 10ms`, and what else it has."""
    rate = "unlimited" if spec.rate_bps is None else format_rate(spec.rate_bps)
    told = [rate, format_duration(spec.delay_ns)]
    if spec.jitter_ns:
        told.append(f"jitter {format_duration(spec.jitter_ns)}")
    if spec.loss_rate:
        told.append(f"loss {format_share(round(spec.loss_rate, 6))}")
    plain = PathSpec(
        rate_bps=spec.rate_bps, delay_ns=spec.delay_ns, jitter_ns=spec.jitter_ns, loss=spec.loss
    )
    if spec != plain:
        told.append("and more")
    return " ".join(told)


def _by_kind(values: Iterable[str]) -> str:
    return _counted(Counter(values))


def _counted(kinds: Counter[str]) -> str:
    """`30 x 50ms, 30 x 100ms`; of one kind without a number."""
    if len(kinds) <= 1:
        return next(iter(kinds), "") or "-"
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))[:_KINDS_MAX]
    rest = kinds.total() - sum(count for _, count in most)
    told = ", ".join(f"{count} x {kind or '-'}" for kind, count in most)
    return f"{told}, {rest} others" if rest else told
