"""Many models trained in one call, against one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from node.config import TrainingConfig
from node.core.parts import Vector
from node.core.rng import stream
from node.training import sgd
from node.training.batched import Stack
from node.training.bench import Bench
from node.training.partition import Indices
from node.training.protocol import Outcome

JOBS, STEPS = 5, 6


def bench(config: TrainingConfig) -> Bench:
    return Bench(config, nodes=JOBS, seed=1)


def stack(config: TrainingConfig) -> Stack:
    return Stack(config, bench=bench(config), device=torch.device("cpu"), tick=lambda: None)


def jobs(config: TrainingConfig) -> tuple[list[Vector], list[Indices]]:
    """Models that differ, each with batches of its own."""
    rng = stream(1, "test")
    initial = bench(config).initial()
    models = [
        initial + np.float32(0.01) * rng.standard_normal(initial.size, dtype=np.float32)
        for _ in range(JOBS)
    ]
    shape = (STEPS, config.batch_size)
    return models, [rng.integers(0, 1000, shape, dtype=np.int64) for _ in range(JOBS)]


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(),
        TrainingConfig(momentum=0.9, learning_rate=0.02),
        TrainingConfig(model="cnn", momentum=0.5, weight_decay=0.01, learning_rate=0.05),
        TrainingConfig(model="gn-lenet", batch_size=8),
    ],
    ids=["mlp", "momentum", "cnn", "gn-lenet"],
)
def test_a_stack_comes_close_to_a_loop(config: TrainingConfig) -> None:
    models, batches = jobs(config)
    expected, losses = [], []
    loop, model = bench(config), bench(config).model()
    for vector, chosen in zip(models, batches, strict=True):
        model.load(vector)
        losses.append(loop.train(model, batches=chosen, tick=lambda: None))
        expected.append(model.vector.numpy().copy())
    together = stack(config)
    outcomes = together.train(models, batches)
    for found, wanted in zip(models, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert [outcome.loss for outcome in outcomes] == pytest.approx(losses, rel=1e-4)
    model.load(models[1])
    accuracy, loss = loop.evaluate(model, node=1, tick=lambda: None)
    assert together.evaluate(models[1], node=1) == pytest.approx((accuracy, loss), rel=1e-4)


def test_one_that_diverges_does_not_hurt_the_others() -> None:
    models, batches = jobs(TrainingConfig())
    alone = [vector.copy() for vector in models]
    models[2][:] = 1e30
    outcomes = stack(TrainingConfig()).train(models, batches)
    assert [number for number, outcome in enumerate(outcomes) if outcome.fault] == [2]
    stack(TrainingConfig()).train(alone[:2], batches[:2])
    np.testing.assert_allclose(models[1], alone[1], rtol=1e-4, atol=1e-6)


def test_a_model_that_is_not_finite_has_no_test_result() -> None:
    with pytest.raises(sgd.Diverged):
        stack(TrainingConfig()).evaluate(
            np.full_like(bench(TrainingConfig()).initial(), np.nan), node=None
        )


def test_what_does_not_fit_into_memory_together_is_done_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models, batches = jobs(TrainingConfig())
    whole = [vector.copy() for vector in models]
    expected = stack(TrainingConfig()).train(whole, batches)
    sizes: list[int] = []
    train = Stack._train

    def small(self: Stack, models: list[Vector], batches: Indices) -> list[Outcome]:
        sizes.append(len(models))
        if len(models) > 2:
            raise torch.cuda.OutOfMemoryError("not so many")
        return train(self, models, batches)

    monkeypatch.setattr(Stack, "_train", small)
    found = stack(TrainingConfig()).train(models, batches)
    assert sizes == [5, 3, 2, 2, 1]
    assert [each.loss for each in found] == pytest.approx([each.loss for each in expected])
    np.testing.assert_allclose(np.stack(models), np.stack(whole), rtol=1e-4, atol=1e-6)
