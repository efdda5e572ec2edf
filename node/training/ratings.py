"""MovieLens: who gave which film how many stars (numpy only).

`ratings.csv` as GroupLens publishes it (userId,movieId,rating,timestamp; F. M. Harper, J. A.
Konstan, ACM TiiS 5(4) 2015). `ml-latest-small` has 100,836 ratings of 9,724 films by 610 users.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from node.core.rng import stream
from node.errors import EnvironmentFault
from node.training.dataset import Dataset, Problem, Task, read_only

_FILE: Final = "ratings.csv"
_FOLDERS: Final = (".", "ml-latest-small", "ml-latest", "ml-25m", "ml-32m")
_TRAINING_SHARE: Final = 0.7
_REMEDY: Final = (
    "Get ml-latest-small.zip from https://grouplens.org/datasets/movielens/, unpack it, and name"
    " its folder, or the one above it, as `training.data_dir`."
)

_Table = npt.NDArray[np.float64]


def load(folder: Path | None) -> Dataset:
    """Users and films are numbered in the order of their ids. Of each user's ratings 70 % are for
    training, at least one, drawn once and for all: the split does not depend on the run's seed.

    Raises:
        EnvironmentFault: the data is missing or damaged; says where it was looked for.
    """
    table = _read(_find(folder))
    users, who = np.unique(table[:, 0], return_inverse=True)
    films, what = np.unique(table[:, 1], return_inverse=True)
    pairs = np.stack([who, what], axis=1).astype(np.int64)
    stars = table[:, 2].astype(np.float32)
    trained = _training(pairs[:, 0])
    return Dataset(
        problem=Problem(
            task=Task.RATING, shape=(2,), classes=1, sizes=(int(users.size), int(films.size))
        ),
        inputs=read_only(pairs[trained]),
        labels=read_only(stars[trained]),
        test_inputs=read_only(pairs[~trained]),
        test_labels=read_only(stars[~trained]),
        groups=read_only((stars[trained] * 2).astype(np.int64) - 1),
        group_count=10,
        users=read_only(pairs[trained, 0]),
        test_users=read_only(pairs[~trained, 0]),
    )


def _training(who: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which ratings are for training."""
    rng = stream(0, "data", "movielens")
    trained = np.zeros(who.size, dtype=bool)
    order = np.argsort(who, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(who[order])) + 1):
        number = max(1, round(_TRAINING_SHARE * mine.size))
        trained[rng.permutation(mine)[:number]] = True
    return trained


def _find(folder: Path | None) -> Path:
    if folder is None:
        raise EnvironmentFault("the data set movielens needs `training.data_dir`", remedy=_REMEDY)
    if folder.is_file():
        return folder
    for place in _FOLDERS:
        if (folder / place / _FILE).is_file():
            return folder / place / _FILE
    raise EnvironmentFault(
        f"{_FILE} is not in {folder} nor in its folders {', '.join(_FOLDERS[1:])}", remedy=_REMEDY
    )


def _read(path: Path) -> _Table:
    """Rows of user, film, stars."""
    try:
        with warnings.catch_warnings():  # of a file without rows, which is an error below
            warnings.simplefilter("ignore", UserWarning)
            table: _Table = np.loadtxt(
                path, delimiter=",", skiprows=1, usecols=(0, 1, 2), ndmin=2, encoding="utf-8"
            )
    except (OSError, ValueError, IndexError) as error:
        raise EnvironmentFault(
            f"{path} cannot be read as MovieLens ratings: {error}", remedy=_REMEDY
        ) from error
    stars = table[:, 2]
    if not table.size or not np.array_equal(stars * 2, np.clip(np.round(stars * 2), 1, 10)):
        raise EnvironmentFault(
            f"{path} has no ratings, or some that are not half a star to five stars",
            remedy=_REMEDY,
        )
    return table
