"""Averaging rules as pure functions on flat vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from node.core.ids import NodeId
from node.core.parts import Indices, Vector


def metropolis_weights(degree: int, degrees: Mapping[NodeId, int]) -> dict[NodeId, float]:
    """Metropolis-Hastings weights of a node's neighbours: ``1 / (1 + max(d_i, d_j))``.

    Xiao, Boyd and Kim (2007). The node's own weight is what is left to 1. Where both ends of each
    edge use the same two degrees the matrix is symmetric and doubly stochastic: the mean over all
    nodes does not change. A node needs to know no more than its neighbours' degrees for it.

    Args:
        degree: the node's own number of neighbours.
        degrees: the neighbours' numbers of neighbours; those left out leave their weight to the
            node itself.
    """
    return {peer: 1.0 / (1 + max(degree, other)) for peer, other in degrees.items()}


def weighted_mix(own: Vector, others: Iterable[tuple[float, Vector]]) -> Vector:
    """``(1 - sum w_j) own + sum w_j x_j``, summed in float64.

    Args:
        own: shape (d,).
        others: weights, which sum to at most 1, and vectors of shape (d,).

    Returns:
        A new float32 vector of shape (d,).
    """
    total = own.astype(np.float64)
    base = total.copy()
    for weight, values in others:
        total += weight * (values - base)
    return total.astype(np.float32)


def partial_mix(own: Vector, others: Iterable[tuple[float, Indices, Vector]]) -> Vector:
    """``x + sum_j w_j m_j (x_j - x)``, summed in float64: gaps are filled with the own values.

    Unlike DivShare's mean: a neighbour's weight does not depend on how many sent a parameter.

    Args:
        own: shape (d,).
        others: weights, which sum to at most 1, index sets without repeats, and their values.

    Returns:
        A new float32 vector of shape (d,).
    """
    total = own.astype(np.float64)
    for weight, indices, values in others:
        total[indices] += weight * (values.astype(np.float64) - own[indices])
    return total.astype(np.float32)


def largest(values: Vector, count: int) -> Indices:
    """The indices of the `count` values of the largest magnitude, ascending: top-k."""
    if count >= values.size:
        return np.arange(values.size, dtype=np.int64)
    chosen = np.argpartition(np.abs(values), values.size - count)[values.size - count :]
    return np.sort(chosen).astype(np.int64)
