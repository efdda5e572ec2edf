"""What all algorithms in synchronous rounds promise: whatever the network does to messages, and
whoever comes and goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from node.core.messages import PeerMessage
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, always, complete, name

NODES, SIZE = 6, 40
CASES: list[tuple[str, dict[str, Any]]] = [
    ("dpsgd", {}),
    ("dpsgd", {"order": "paper"}),
    ("epidemic", {"variant": "local", "degree": 2}),
    ("epidemic", {"variant": "oracle", "degree": 2}),
    ("subsampling", {"share": 0.3}),
    ("topk", {"share": 0.3}),
    ("choco", {"share": 0.3}),
    ("choco", {"share": 0.3, "compression": "random"}),
]
algorithm = pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=["-".join([k, *map(str, o.values())]) for k, o in CASES]
)


def off(made: Rig) -> float:
    """How far the mean model is from the optimum, of what it was at the start."""
    assert isinstance(made.train, Quadratic)
    optimum = made.train.optimum
    start = np.linalg.norm(made.initial[0] - optimum)
    return float(np.linalg.norm(made.models.mean(axis=0) - optimum) / start)


def rig(kind: str, options: dict[str, Any], **more: Any) -> Rig:
    rng = np.random.default_rng(3)
    initial = np.tile(rng.normal(size=SIZE), (NODES, 1))
    task = Quadratic(rng.normal(size=(NODES, SIZE)), rate=0.1)
    given = {"local_steps": 2, **options}
    return Rig(kind, near=complete(NODES), initial=initial, train=task, options=given, **more)


@algorithm
def test_the_same_seed_gives_the_same_models_whatever_the_order(
    kind: str, options: dict[str, Any]
) -> None:
    """Bit for bit: also when messages overtake each other, come before the barrier, or twice."""

    def twice(sender: int, target: int, message: PeerMessage) -> Fate:
        return Fate.TWICE

    results = []
    for order in Order:
        for fates in (always, twice):
            made = rig(kind, options, order=order, fates=fates)
            made.run(rounds=8)
            results.append(made.models)
    for result in results[1:]:
        assert np.array_equal(result, results[0])


@algorithm
def test_a_message_whose_stream_broke_is_sent_again_and_nothing_is_lost(
    kind: str, options: dict[str, Any]
) -> None:
    good, broken = rig(kind, options), rig(kind, options)
    failed: set[int] = set()

    def fates(sender: int, target: int, message: PeerMessage) -> Fate:
        if message.round % 2 and (sender, target) == (1, 4) and message.round not in failed:
            failed.add(message.round)
            return Fate.FAILS
        return Fate.ARRIVES

    broken.fates = fates
    good.run(rounds=6)
    broken.run(rounds=6)
    if kind != "epidemic":  # where 1 may have nothing to send to 4
        assert failed == {1, 3, 5}
    assert np.array_equal(good.models, broken.models)
    assert all(not share["missing"] for i in range(NODES) for share in broken.of(i, "share"))


@algorithm
def test_lost_messages_stop_nobody_and_leave_finite_models_near_the_optimum(
    kind: str, options: dict[str, Any]
) -> None:
    made = rig(kind, options)
    draw = np.random.default_rng(8)
    made.fates = lambda *_: Fate.LOST if draw.random() < 0.2 else Fate.ARRIVES
    made.run(rounds=60)
    lost = sum(len(share["missing"]) for i in range(NODES) for share in made.of(i, "share"))
    assert lost > 50
    assert off(made) < 0.25


@algorithm
def test_who_leaves_is_not_waited_for_and_who_comes_back_takes_part(
    kind: str, options: dict[str, Any]
) -> None:
    made = rig(kind, options)
    made.run(rounds=3)
    made.kill(2)
    now = made.now
    made.run(rounds=7)
    assert made.now == now  # nobody waited for a deadline
    assert all(name(2) not in share["received"] for share in made.of(0, "share")[5:])
    while made._offered or not made.pool:  # between two rounds, as the coordinator lets it in
        made.step()
    made.revive(2, model_of=0)
    made.run(rounds=12)
    assert any(name(2) in share["received"] for share in made.of(0, "share")[8:])
    assert np.isfinite(made.models).all()


@algorithm
def test_training_brings_all_near_the_optimum_of_the_sum(
    kind: str, options: dict[str, Any]
) -> None:
    made = rig(kind, options)
    made.run(rounds=150)
    assert off(made) < 0.25
