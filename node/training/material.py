"""What a model learns from, as tensors. Imports torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from node.training.dataset import Array, Dataset, Problem
from node.training.tasks import Objective, objective


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """The samples of a data set as they are stored, and what to do with them. Nobody writes to the
    tensors: they share the memory of the data set's arrays, which may be a mapped file."""

    problem: Problem
    objective: Objective
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def of(dataset: Dataset) -> Material:
    """A loaded data set as tensors, without a copy."""
    return Material(
        problem=dataset.problem,
        objective=objective(dataset),
        inputs=_tensor(dataset.inputs),
        labels=_tensor(dataset.labels),
        test_inputs=_tensor(dataset.test_inputs),
        test_labels=_tensor(dataset.test_labels),
    )


def _tensor(array: Array) -> Tensor:
    with warnings.catch_warnings():  # torch has no read-only tensors, and says so
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
