"""Training and evaluating one model: the numerics, without processes or clocks. Imports torch.

Own SGD instead of `torch.optim.SGD`: on flat tensors a step is one operation whatever the number of
layers, and torch's optimizers import its compiler at the first step (measured with torch 2.13:
0.9 s of CPU and 72 MiB for each node of a run).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from node.config import TrainingConfig
from node.training.material import Material
from node.training.models import FlatModel
from node.training.partition import Indices

_CHUNK = 256
"""Samples evaluated at once: bounds the memory, and how long the thread keeps the interpreter."""


class Diverged(Exception):
    """A loss or a parameter is not finite."""


def train(
    model: FlatModel,
    *,
    config: TrainingConfig,
    material: Material,
    batches: Indices,
    tick: Callable[[], None],
) -> float:
    """Run minibatch SGD on the task's loss, from what `model` holds, in place.

    As `torch.optim.SGD` without dampening: g += weight_decay * x; v = momentum * v + g;
    x -= learning_rate * v. The velocity v starts from 0 in every job: a model that was averaged
    with others is not the one it was gathered for (DivShare's artifact resets its optimizer in
    every round, too).

    Args:
        batches: (steps, batch_size), the samples of each step.
        tick: called after every step.

    Returns:
        The mean of the steps' losses, each before its update.

    Raises:
        Diverged: a loss or parameter is NaN or infinite.
    """
    vector, gradient, goal = model.vector, model.gradient, material.objective
    velocity = torch.zeros_like(vector) if config.momentum else gradient
    total = torch.zeros((), dtype=torch.float64)
    for batch in torch.from_numpy(batches):
        inputs = goal.decode(material.inputs.index_select(0, batch))
        loss = goal.loss(model.module(inputs), material.labels.index_select(0, batch))
        gradient.zero_()
        loss.backward()
        if config.weight_decay:
            gradient.add_(vector, alpha=config.weight_decay)
        if config.momentum:
            velocity.mul_(config.momentum).add_(gradient)
        vector.add_(velocity, alpha=-config.learning_rate)
        total.add_(loss.detach())
        tick()
    mean = total.item() / len(batches)
    if fault := divergence(mean, finite=bool(torch.isfinite(vector).all())):
        raise Diverged(fault)
    return mean


def divergence(mean: float, *, finite: bool) -> str | None:
    """What is wrong with a job's mean loss, or with its parameters unless they are finite."""
    if not math.isfinite(mean):
        return f"the training loss is {mean}"
    return None if finite else "a parameter is not finite"


def evaluate(
    model: FlatModel, *, material: Material, samples: Indices, tick: Callable[[], None]
) -> tuple[float, float]:
    """Accuracy and loss of what `model` holds, as the task defines them.

    Args:
        samples: indices of test samples, at least one.
        tick: called after every chunk of samples.

    Raises:
        Diverged: the loss is not finite.
    """
    goal, right, predictions, total = material.objective, 0, 0, 0.0
    with torch.inference_mode():
        for chunk in torch.tensor(samples).split(_CHUNK):
            outputs = model.module(goal.decode(material.test_inputs.index_select(0, chunk)))
            score = goal.score(outputs, material.test_labels.index_select(0, chunk))
            right += score.right
            predictions += score.predictions
            total += score.loss
            tick()
    if not math.isfinite(total):
        raise Diverged(f"the test loss is {total}")
    return right / predictions, goal.total(total / predictions)
