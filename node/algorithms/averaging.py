"""Averaging rules as pure functions on flat vectors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from node.core.parts import Indices, Vector


def counted_mean(own: Vector, contributions: Iterable[tuple[Indices, Vector]]) -> Vector:
    """Mean per parameter over the own value and all contributions that cover it.

    DivShare's aggregation: ``x[p] = (x[p] + sum v_m[p]) / (1 + #{m : p in m})``; a parameter that
    nobody sent keeps its value. Float64 sums, so that the order of many contributions does not
    show in the float32 result.

    Args:
        own: shape (d,).
        contributions: index sets without repeats, and their values.

    Returns:
        A new float32 vector of shape (d,).
    """
    total = own.astype(np.float64)
    count = np.ones(own.shape, dtype=np.int32)
    for indices, values in contributions:
        total[indices] += values
        count[indices] += 1
    return (total / count).astype(np.float32)
