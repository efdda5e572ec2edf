"""What a trainer has on its bench: data, models, and which samples are whose. Imports torch.

The trainer process of a node and the simulator's workers both work on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from node.config import TrainingConfig
from node.core.parts import Vector
from node.training import data, material, models, sgd, shares
from node.training.partition import Indices


class Bench:
    """Everything that the numerics of a run need.

    Args:
        config, nodes, seed: decide all of it.

    Raises:
        ConfigError, EnvironmentFault: see `data.load`, `shares.deal`, `models.build`.
    """

    def __init__(self, config: TrainingConfig, *, nodes: int, seed: int) -> None:
        self._config = config
        self._seed = seed
        dataset = data.load(config)
        self.problem = dataset.problem
        self._groups, self._group_count = dataset.groups, dataset.group_count
        self.material = material.of(dataset)
        self.shares = shares.deal(dataset, config=config, nodes=nodes, seed=seed)

    def model(self) -> models.FlatModel:
        """A model of its own, without values."""
        return models.FlatModel(models.build(self._config, self.problem))

    def initial(self) -> Vector:
        """What every node of the run starts from."""
        return models.initial(self._config, self.problem, seed=self._seed)

    def label_counts(self, samples: Indices) -> tuple[int, ...]:
        """How many of some training samples have each label (of a text: lie in each tenth)."""
        counts = np.bincount(self._groups[samples], minlength=self._group_count)
        return tuple(int(count) for count in counts)

    def train(
        self, model: models.FlatModel, *, batches: Indices, tick: Callable[[], None]
    ) -> float:
        """See `sgd.train`."""
        return sgd.train(
            model, config=self._config, material=self.material, batches=batches, tick=tick
        )

    def warm_up(self, model: models.FlatModel, vector: Vector) -> None:
        """Do once what takes longer the first time, from `vector`; the model has no meaning
        afterwards."""
        model.load(vector)
        batches = np.zeros((1, self._config.batch_size), dtype=np.int64)
        with contextlib.suppress(sgd.Diverged):  # to be told of the job that it is true of
            self.train(model, batches=batches, tick=lambda: None)

    def evaluate(
        self, model: models.FlatModel, *, node: int | None, tick: Callable[[], None]
    ) -> tuple[float, float]:
        """Accuracy and loss on what a node is tested with; None: with what all of them are."""
        return sgd.evaluate(
            model, material=self.material, samples=self.shares.tests(node), tick=tick
        )
