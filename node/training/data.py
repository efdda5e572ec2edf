"""Loads data sets and splits them into training and test samples, the same way for every run.

Imports numpy only: the virtual-time simulator and the plan can ask for labels without torch. The
data sets themselves are in `digits`, `images`, `ratings` and `text`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.config import TrainingConfig
from node.errors import ConfigError
from node.training import digits, images, ratings, text
from node.training.catalog import DATASETS
from node.training.dataset import Dataset


def load(config: TrainingConfig) -> Dataset:
    """Load the data set that a run trains with.

    Raises:
        ConfigError: no such data set, or it does not fit the configuration.
        EnvironmentFault: the data is missing or damaged; says where it was looked for.
    """
    if config.dataset not in _LOADERS:
        raise ConfigError(
            f"unknown data set {config.dataset!r}", remedy=f"Known: {', '.join(DATASETS)}."
        )
    folder = None if config.data_dir is None else Path(config.data_dir)
    return _LOADERS[config.dataset](folder, config)


_Loader = Callable[[Path | None, TrainingConfig], Dataset]
_LOADERS: Final[dict[str, _Loader]] = {
    "digits": lambda folder, _: digits.load(folder),
    "cifar10": lambda folder, _: images.load_cifar10(folder),
    "images": lambda folder, _: images.load_folder(folder),
    "movielens": lambda folder, _: ratings.load(folder),
    "text": lambda folder, config: text.load(folder, context=config.context),
}
