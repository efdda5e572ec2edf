"""The setting that the small reproductions share: a data set, a model, nodes around a switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from study import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt, and how far.

    Args:
        nodes: how many.
        rounds: of the run.
        local_steps: mini-batch steps a round.
        evaluate_every: rounds.
        training: of the topology file.
    """

    nodes: int
    rounds: int
    local_steps: int
    evaluate_every: int
    training: Mapping[str, Any]


DIGITS: Final[Mapping[str, Any]] = {
    "dataset": "digits",
    "model": "mlp",
    "batch_size": 8,
    "learning_rate": 0.05,
}
CIFAR10: Final[Mapping[str, Any]] = {
    "dataset": "cifar10",
    "model": "gn-lenet",
    "batch_size": 8,
    "learning_rate": 0.05,
}
STEP: Final = "10ms"
LINK: Final[Mapping[str, Any]] = {"rate": "50mbit", "delay": "1ms"}


def topology(
    *,
    scope: Scope,
    seed: int,
    task: Task,
    partition: Mapping[str, Any],
    algorithm: Mapping[str, Any],
    overlay: Any,
    **others: Any,
) -> dict[str, Any]:
    """A topology file of nodes alike around a switch, all with the same line.

    Args:
        others: keys of the file, which count more than these.
    """
    data = {} if task.training["dataset"] == "digits" else {"data_dir": str(scope.data)}
    return {
        "seed": seed,
        "nodes": {"n": {"replicas": task.nodes, "compute": {"step": STEP}}},
        "network": {"shape": "star", "link": dict(LINK)},
        "overlay": overlay,
        "algorithm": {**algorithm, "local_steps": task.local_steps},
        "training": {
            **task.training,
            **data,
            "partition": dict(partition),
            "evaluate_every": task.evaluate_every,
        },
        "stop": {"rounds": task.rounds, "time": "24h"},
        **others,
    }
