"""The shared memory between the simulator's pool and one worker. numpy only; mapped by both."""

from __future__ import annotations

import mmap
import os
from typing import Final

import numpy as np

from node.core.parts import Vector
from node.training.partition import Indices

MAX_SAMPLES: Final = 2**22
"""Of one job, steps * batch size. Address space is set aside for so many, memory is not."""


class Bank:
    """For each job that a worker may have at a time a slot: a model, and the batches to train it
    on.

    Args:
        memory: descriptor of a memfd; the worker sizes it (`prepare`) before the pool maps it.
        slots: how many.
        size: parameters of the model.
    """

    def __init__(self, memory: int, *, slots: int, size: int) -> None:
        shared = mmap.mmap(memory, _length(slots, size))
        offset = _models_length(slots, size)
        self.models: list[Vector] = list(
            np.frombuffer(shared, dtype=np.float32, count=slots * size).reshape(slots, size)
        )
        self._samples: Indices = np.frombuffer(
            shared, dtype=np.int64, count=slots * MAX_SAMPLES, offset=offset
        ).reshape(slots, MAX_SAMPLES)

    def batches(self, slot: int, *, steps: int, batch_size: int) -> Indices:
        """The batches of a slot's job: (steps, batch_size), to be written by the pool."""
        return self._samples[slot, : steps * batch_size].reshape(steps, batch_size)


def prepare(memory: int, *, slots: int, size: int) -> Bank:
    """Give the empty memory its length, and map it."""
    os.ftruncate(memory, _length(slots, size))
    return Bank(memory, slots=slots, size=size)


def _models_length(slots: int, size: int) -> int:
    return -(-slots * size * 4 // 8) * 8


def _length(slots: int, size: int) -> int:
    return _models_length(slots, size) + slots * MAX_SAMPLES * 8
