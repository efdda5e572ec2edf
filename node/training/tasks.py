"""What a model is trained to do: input, loss and metric of each kind of data. Imports torch.

The trainer process and the simulator's workers share it. `loss` and `decode` are made of operations
that `torch.func` can map over stacked models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor
from torch.nn import functional

from node.training.dataset import Dataset, Scale, Task

HALF_STAR: Final = 0.5
LEAST_STARS: Final = 0.5
MOST_STARS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What part of a test set adds up to.

    Args:
        right: predictions that count as right.
        predictions: all of them: one for each sample, or for each position of a text.
        loss: summed over predictions.
    """

    right: int
    predictions: int
    loss: float


class Objective(Protocol):
    """Loss and metric of one task; outputs are what a model gives for a batch of inputs."""

    def decode(self, batch: Tensor) -> Tensor:
        """What the model gets, of what is stored."""

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Mean over a batch: what SGD minimises."""

    def score(self, outputs: Tensor, wanted: Tensor) -> Score:
        """How good the predictions for a batch are."""

    def total(self, mean: float) -> float:
        """The loss to report for a test set, of the mean over its predictions."""


def objective(dataset: Dataset) -> Objective:
    """What to do with the samples of a data set."""
    match dataset.problem.task:
        case Task.CLASS:
            return _Classes(scale=dataset.scale)
        case Task.RATING:
            return _Ratings()
        case Task.NEXT_TOKEN:
            return _NextToken()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Classes:
    """Cross-entropy in nats; accuracy is the share of samples whose largest logit is right."""

    scale: Scale | None

    def decode(self, batch: Tensor) -> Tensor:
        """Bytes (samples, height, width, channels) to float32 (samples, channels, height, width);
        without a scale as it is."""
        if self.scale is None:
            return batch
        pixels = batch.permute(0, 3, 1, 2) - 255 * self.scale.mean
        return pixels.mul_(1 / (255 * self.scale.deviation))

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, wanted)

    def score(self, outputs: Tensor, wanted: Tensor) -> Score:
        return _cross_entropy(outputs, wanted)

    def total(self, mean: float) -> float:
        return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ratings:
    """Mean squared error in training. In tests predictions are clipped to the range of ratings;
    the loss is the root of the mean square, accuracy the share within half a star."""

    def decode(self, batch: Tensor) -> Tensor:
        return batch

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return functional.mse_loss(outputs, wanted)

    def score(self, outputs: Tensor, wanted: Tensor) -> Score:
        errors = outputs.clamp(LEAST_STARS, MOST_STARS) - wanted
        return Score(
            right=int((errors.abs() <= HALF_STAR).sum()),
            predictions=wanted.numel(),
            loss=errors.square().sum().item(),
        )

    def total(self, mean: float) -> float:
        return math.sqrt(mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NextToken:
    """Cross-entropy in nats over all positions; accuracy is the share of characters foretold."""

    def decode(self, batch: Tensor) -> Tensor:
        return batch.int()

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), wanted.flatten().long())

    def score(self, outputs: Tensor, wanted: Tensor) -> Score:
        return _cross_entropy(outputs.flatten(0, 1), wanted.flatten().long())

    def total(self, mean: float) -> float:
        return mean


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Score:
    return Score(
        right=int((logits.argmax(dim=1) == wanted).sum()),
        predictions=wanted.numel(),
        loss=functional.cross_entropy(logits, wanted, reduction="sum").item(),
    )
