"""Which model of a node is evaluated and stored: of every algorithm the last average, so that their
curves compare. A model that was only trained is at its worst on others' data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.core.parts import Vector
from tests.algorithms.rig import Rig, complete, star

NODES, ROUNDS = 6, 10
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adpsgd", {}),
    ("adpsgd", {"pace": "continuous"}),
    ("adpsgd-artifact", {"degree": 6}),
    ("choco", {"share": 1.0, "gamma": 1.0}),
    ("divshare", {"degree": 5}),
    ("dpsgd", {}),
    ("dpsgd", {"order": "paper"}),
    ("epidemic", {"variant": "local", "degree": 5}),
    ("epidemic", {"variant": "oracle", "degree": 4}),
    ("fedavg", {}),
    ("single-merge", {"rounds": ROUNDS, "schedule": "fixed", "r_start": 4.0}),
    ("subsampling", {"share": 1.0}),
    ("swift", {}),
    ("swift", {"order": "paper"}),
    ("swift-artifact", {"degree": 5}),
    ("topk", {"share": 1.0}),
    ("topk", {"share": 1.0, "since": "average"}),
]
algorithm = pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=["-".join([k, *map(str, o.values())]) for k, o in CASES]
)


def test_every_algorithm_is_looked_at() -> None:
    assert {kind for kind, _ in CASES} == set(algorithms.names())


class Marks:
    """Job k of node i adds 1 to a parameter of its own: what an average has made of it shows."""

    def __init__(self) -> None:
        self.jobs = [0] * NODES

    def __call__(self, node: int, parameters: Vector, steps: int) -> Vector:
        trained = parameters.copy()
        trained[self.mark(node, self.jobs[node])] += 1
        self.jobs[node] += 1
        return trained

    @staticmethod
    def mark(node: int, job: int) -> int:
        return node * (ROUNDS + 1) + job


def ran(kind: str, options: dict[str, Any]) -> tuple[Rig, Marks]:
    """A run in which all are equally fast, to its end."""
    train = Marks()
    near = star(NODES) if kind == "fedavg" else complete(NODES)
    initial = np.zeros((NODES, NODES * (ROUNDS + 1)))
    made = Rig(kind, near=near, initial=initial, options=options, train=train, stop=ROUNDS)
    made.drain()
    assert set(made.finished) == set(range(NODES))
    return made, train


@algorithm
def test_the_model_that_is_evaluated_is_an_average(kind: str, options: dict[str, Any]) -> None:
    """What a node's last job has changed is shared in it with others, or not in it yet."""
    made, train = ran(kind, options)
    seen = 0
    for node in range(NODES):
        for round_ in range(3, ROUNDS + 1):
            model = made.evaluated[node][round_]
            last, before = (float(model[train.mark(node, round_ - k)]) for k in (1, 2))
            assert last < 0.8, f"node {node} after round {round_}: as it was trained"
            seen += before > 0
    assert seen > 0.5 * NODES * (ROUNDS - 2)  # and the jobs before it are in it


@algorithm
def test_the_model_that_is_stored_is_the_one_that_was_evaluated_last(
    kind: str, options: dict[str, Any]
) -> None:
    made, _ = ran(kind, options)
    for node, stored in made.finished.items():
        assert np.array_equal(stored, made.evaluated[node][ROUNDS])
        assert np.array_equal(stored, made.peers[node].parameters)
