"""Random subsampling against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.core.events import Received
from node.core.messages import PeerMessage
from node.core.parts import Part, RandomMask, resolve
from node.core.rng import derive_seed
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Quadratic, Rig, ring, star

SIZE = 400


def some(nodes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(nodes, SIZE)).astype(np.float32)


def mask(seed: int, sender: int, round_: int, share: float, rig: Rig) -> np.ndarray[Any, Any]:
    where = RandomMask(share, derive_seed(seed, "mask", f"n-{sender:03d}", round_))
    chosen = np.zeros(SIZE)
    chosen[resolve(where, rig.layout)] = 1
    return chosen


def test_a_round_fills_gaps_with_own_values_and_keeps_the_weights() -> None:
    near, share = star(4), 0.3
    rig = Rig("subsampling", near=near, initial=some(4), options={"share": share}, seed=9)
    for round_ in range(3):
        before = rig.models
        rig.run(rounds=round_ + 1)
        for i in range(4):
            expected = before[i].copy()
            for j in near[i]:
                sent = mask(9, j, round_, share, rig)
                expected += 1 / 4 * sent * (before[j] - before[i])
            assert np.allclose(rig.models[i], expected, atol=1e-5)


def test_with_all_parameters_it_is_dpsgd() -> None:
    task = Quadratic(some(5, 4), 0.1)
    made = [
        Rig(kind, near=ring(5), initial=some(5), train=task, options=options)
        for kind, options in (("subsampling", {"share": 1.0}), ("dpsgd", {}))
    ]
    for rig in made:
        rig.run(rounds=10)
    assert np.array_equal(made[0].models, made[1].models)


def test_a_round_costs_the_mask_s_bytes_and_no_indices() -> None:
    share = 0.25
    rig = Rig("subsampling", near=ring(6), initial=some(6), options={"share": share})
    rig.run(rounds=4)
    masks = [mask(1, j, r, share, rig).sum() for j in range(6) for r in range(4)]
    assert rig.bytes_by_kind() == {"model": int(sum(masks)) * 2 * 4}
    # Bernoulli: the mean is share d, the variance share (1 - share) d.
    assert np.mean(masks) == pytest.approx(share * SIZE, rel=0.05)
    assert len({masks[i] for i in range(24)}) > 5


def test_the_mean_is_kept_in_expectation_over_masks_only() -> None:
    models = some(6)
    drift = []
    for seed in range(300):
        rig = Rig("subsampling", near=ring(6), initial=models, options={"share": 0.2}, seed=seed)
        rig.run(rounds=1)
        drift.append(rig.models.mean(axis=0) - models.mean(axis=0))
    each = np.array(drift)
    assert np.abs(each).max() > 0.1
    error = each.std(axis=0) / np.sqrt(len(each))
    assert np.mean(np.abs(each.mean(axis=0)) < 3 * error) > 0.98


def test_the_distance_shrinks_by_share_of_the_dense_step_at_least() -> None:
    """E x_i' = (1 - share) x_i + share (W x)_i: the expected model contracts by
    1 - share (1 - lambda)."""
    share, rounds = 0.5, 40
    rig = Rig("subsampling", near=ring(8), initial=some(8), options={"share": share})
    start = rig.distance
    rig.run(rounds=rounds)
    slowest = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 8)
    expected = (1 - share * (1 - slowest)) ** rounds
    assert 0.2 * expected < rig.distance / start < 5 * expected


def test_a_mask_that_is_not_due_is_refused() -> None:
    rig = Rig("subsampling", near=star(3), initial=some(3), options={"share": 0.5})
    rig.fates = lambda _, target, __: Fate.LOST if target == 0 else Fate.ARRIVES
    rig.drain()
    other = RandomMask(0.5, 77)
    values = np.zeros(resolve(other, rig.layout).size, dtype=np.float32)
    part = Part(where=other, values=values)
    message = PeerMessage(kind="model", round=0, attempt=1, part=part, fields={"degree": 1})
    rig.feed(0, Received(sender=rig.peers[1]._setting.me, message=message))
    rig.run(rounds=1)
    (refused,) = rig.of(0, "refused")
    assert refused["reason"] == "model: not the parameters that are due"
    assert np.array_equal(rig.models[0], some(3)[0])


@pytest.mark.parametrize("share", [0, 1.5, "much"])
def test_the_share_is_checked(share: Any) -> None:
    with pytest.raises(ConfigError):
        algorithms.make("subsampling", {"share": share})
