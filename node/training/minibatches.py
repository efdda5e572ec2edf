"""Which of a node's samples make up which minibatch. Pure; numpy only."""

from __future__ import annotations

import numpy as np

from node.training.partition import Indices


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

    def take(self, steps: int) -> Indices:
        """The batches of the next steps: (steps, batch_size)."""
        wanted = steps * self._batch_size
        epochs = max(0, -((self._left.size - wanted) // self._samples.size))
        shuffled = self._rng.permuted(np.tile(self._samples, (epochs, 1)), axis=1)
        stock = np.concatenate([self._left, shuffled.ravel()])
        taken, self._left = np.split(stock, [wanted])
        return taken.reshape(steps, self._batch_size)
