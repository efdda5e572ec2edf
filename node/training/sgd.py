"""Training and evaluating one model: the numerics, without processes or clocks. Imports torch.

Own SGD instead of `torch.optim.SGD`: on flat tensors a step is one operation whatever the number of
layers, and torch's optimizers import its compiler at the first step (measured with torch 2.13:
0.9 s of CPU and 72 MiB for each node of a run).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from node.config import TrainingConfig
from node.training.models import FlatModel
from node.training.partition import Indices

_CHUNK = 256
"""Samples evaluated at once: bounds the memory, and how long the thread keeps the interpreter."""


class Diverged(Exception):
    """A loss or a parameter is not finite."""


class Minibatches:
    """An endless stream of minibatches: the node's samples, shuffled anew for every epoch.

    A batch that an epoch's end cuts is filled up from the next epoch, so that every batch is full
    and the stream goes on over jobs; it does not depend on how steps are grouped into jobs.

    Args:
        samples: indices of the node's training samples, at least one.
        rng: the node's stream `data`.
    """

    def __init__(self, samples: Indices, *, batch_size: int, rng: np.random.Generator) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._rng = rng
        self._left = np.empty(0, dtype=np.int64)

    def take(self) -> Tensor:
        """The next batch: int64, (batch_size,)."""
        while self._left.size < self._batch_size:
            self._left = np.concatenate([self._left, self._rng.permutation(self._samples)])
        batch, self._left = np.split(self._left, [self._batch_size])
        return torch.from_numpy(batch)


def train(
    model: FlatModel,
    *,
    config: TrainingConfig,
    inputs: Tensor,
    labels: Tensor,
    batches: Minibatches,
    steps: int,
    tick: Callable[[], None],
) -> float:
    """Run `steps` steps of minibatch SGD on the cross-entropy, from what `model` holds, in place.

    As `torch.optim.SGD` without dampening: g += weight_decay * x; v = momentum * v + g;
    x -= learning_rate * v. The velocity v starts from 0 in every job: a model that was averaged
    with others is not the one it was gathered for (DivShare's artifact resets its optimizer in
    every round, too).

    Args:
        tick: called after every step.

    Returns:
        The mean of the steps' losses, each before its update.

    Raises:
        Diverged: a loss or parameter is NaN or infinite.
    """
    vector, gradient = model.vector, model.gradient
    velocity = torch.zeros_like(vector) if config.momentum else gradient
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(steps):
        batch = batches.take()
        logits = model.module(inputs.index_select(0, batch))
        loss = functional.cross_entropy(logits, labels.index_select(0, batch))
        gradient.zero_()
        loss.backward()
        if config.weight_decay:
            gradient.add_(vector, alpha=config.weight_decay)
        if config.momentum:
            velocity.mul_(config.momentum).add_(gradient)
        vector.add_(velocity, alpha=-config.learning_rate)
        total.add_(loss.detach())
        tick()
    mean = total.item() / steps
    if not math.isfinite(mean):
        raise Diverged(f"the training loss is {mean}")
    if not bool(torch.isfinite(vector).all()):
        raise Diverged("a parameter is not finite")
    return mean


def evaluate(
    model: FlatModel, *, inputs: Tensor, labels: Tensor, tick: Callable[[], None]
) -> tuple[float, float]:
    """Accuracy (share of right answers) and mean cross-entropy of what `model` holds.

    Args:
        tick: called after every chunk of samples.

    Raises:
        Diverged: the loss is not finite.
    """
    right, total = 0, 0.0
    with torch.inference_mode():
        for part, wanted in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True):
            logits = model.module(part)
            total += functional.cross_entropy(logits, wanted, reduction="sum").item()
            right += int((logits.argmax(dim=1) == wanted).sum())
            tick()
    loss = total / len(labels)
    if not math.isfinite(loss):
        raise Diverged(f"the test loss is {loss}")
    return right / len(labels), loss
