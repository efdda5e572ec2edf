"""How far the models of a network are apart, and what their mean is (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.core.parts import Vector, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """The uniform mean of some models.

    Args:
        distance: sqrt(mean_i ||x_i - mean x||^2), the consensus distance (Kong et al. 2021).
    """

    parameters: Vector
    distance: float


def merge(models: Sequence[Vector]) -> Merged:
    """Average models of one size, in float64; ValueError where there is none, or sizes differ.

    One model at a time: a thousand are not copied.
    """
    if len({model.size for model in models}) != 1:
        raise ValueError("no models" if not models else "the models differ in size")
    mean = np.zeros(models[0].shape, dtype=np.float64)
    for model in models:
        mean += model
    mean /= len(models)
    squared = 0.0
    for model in models:
        away = model - mean
        squared += float(np.square(away, out=away).sum())
    return Merged(
        parameters=frozen(mean.astype(np.float32)), distance=math.sqrt(squared / len(models))
    )
