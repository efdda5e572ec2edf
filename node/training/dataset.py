"""What every data set is made of, and what a model has to know of it (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Labels: TypeAlias = npt.NDArray[np.int64]


class Task(StrEnum):
    """What is predicted; decides loss and metric (`tasks`)."""

    CLASS = "class"
    """Which of several classes a sample belongs to."""
    RATING = "rating"
    """What a user gives to an item: half a star to five stars."""
    NEXT_TOKEN = "next token"
    """For each position of a text, what comes next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a model has to fit: models are built from this alone.

    Args:
        shape: of one sample as the model gets it, without the batch: (channels, height, width) or
            (height, width) of an image; (2,) for a rating: numbers of user and item; (context,)
            for text.
        classes: outputs of the model: logits of the classes or of the alphabet; 1 for ratings.
        sizes: of what whole numbers in a sample count: (users, items) or (alphabet,); () for
            images.
    """

    task: Task
    shape: tuple[int, ...]
    classes: int
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Pixels are stored as bytes and become (byte / 255 - mean) / deviation batch by batch."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """One data set, split. All arrays are read-only; large ones are mapped, not loaded.

    Args:
        inputs: (samples, ...), as stored: images in colour as bytes (samples, height, width,
            channels) with a `scale`; else as the model gets them.
        labels: int64 (samples,): classes; float32 (samples,): ratings; (samples, context): text.
        test_inputs, test_labels: the same, for what no node trains on.
        groups: int64 (samples,), what a skewed partition skews: the class, the rating in half
            stars (0: half a star), or the tenth of the text.
        group_count: how many there are.
        users, test_users: int64, whose sample it is; None where samples belong to nobody.
    """

    problem: Problem
    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array
    groups: Labels
    group_count: int
    scale: Scale | None = None
    users: Labels | None = None
    test_users: Labels | None = None


def read_only(array: Array) -> Array:
    """The array itself, made read-only."""
    array.flags.writeable = False
    return array
