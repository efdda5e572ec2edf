"""Which samples each node trains on and is tested on: the partition applied to a data set (numpy).

Every node computes this for itself from the run's seed, as the simulator does for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.config import TrainingConfig
from node.core.rng import stream
from node.training.dataset import Dataset, read_only
from node.training.partition import Indices, by_user, partition


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """Ascending indices of samples.

    Args:
        train: for each node those that it trains on.
        test: what is tested with for all nodes together.
        own_tests: where samples belong to users, those of each node's users; None: all nodes are
            tested with the same.
    """

    train: tuple[Indices, ...]
    test: Indices
    own_tests: tuple[Indices, ...] | None

    def tests(self, node: int | None) -> Indices:
        """What a node is tested with; None: a model of all of them."""
        return self.test if node is None or self.own_tests is None else self.own_tests[node]


def deal(dataset: Dataset, *, config: TrainingConfig, nodes: int, seed: int) -> Shares:
    """Deal a data set out.

    Raises:
        ConfigError: see `partition`.
    """
    train = partition(
        dataset.groups,
        config=config.partition,
        nodes=nodes,
        batch_size=config.batch_size,
        seed=seed,
        users=dataset.users,
    )
    size = len(dataset.test_labels)
    order = np.arange(size)
    if config.test_samples is not None and config.test_samples < size:
        order = stream(seed, "data", "test").permutation(size)
    own = None
    if config.partition.kind == "user" and dataset.test_users is not None:
        users, count = dataset.test_users, dataset.problem.sizes[0]
        pieces = by_user(users[order], nodes=nodes, count=count)
        own = tuple(_first(order[piece], config.test_samples) for piece in pieces)
    return Shares(train=train, test=_first(order, config.test_samples), own_tests=own)


def _first(order: Indices, limit: int | None) -> Indices:
    chosen: Indices = np.sort(order[:limit])
    read_only(chosen)
    return chosen
