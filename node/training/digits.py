"""The embedded data set of handwritten digits (numpy only).

`digits.npz`: "Optical Recognition of Handwritten Digits", E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository 1998, doi 10.24432/C50P49, licence CC BY 4.0. It is the
data set's test part (1,797 images of 8x8 pixels from 0 to 16, 13 writers) as scikit-learn 1.9.1
ships it in `sklearn/datasets/data/digits.csv.gz`
(SHA-256 09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22), stored without loss as
two uint8 arrays: `images` (1797, 8, 8) and `labels` (1797,).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from node.errors import EnvironmentFault
from node.training.dataset import Dataset, Problem, Task, read_only

_EMBEDDED: Final = Path(__file__).parent

# Of the training samples, on the pixel scale 0 to 1; `test_training_data.py` recomputes them.
_DIGITS_MEAN: Final = 0.30575
_DIGITS_STD: Final = 0.37622


def load(folder: Path | None) -> Dataset:
    """Test samples are every fifth of all samples sorted by label (stable: file order within a
    label), beginning with the first: 360 of 1,797, 35 to 37 of each class. The writers are the
    same in both parts. Pixels have about zero mean and unit variance.

    Args:
        folder: looked into first; None or without the data: what is embedded in the package.

    Raises:
        EnvironmentFault: the data is missing or damaged; says where it was looked for.
    """
    images, labels = _read_digits(_find("digits.npz", folder))
    is_test = np.zeros(labels.size, dtype=bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    inputs = ((images / np.float32(16) - _DIGITS_MEAN) / _DIGITS_STD).astype(np.float32)
    targets = labels.astype(np.int64)
    return Dataset(
        problem=Problem(task=Task.CLASS, shape=(8, 8), classes=10),
        inputs=read_only(inputs[~is_test]),
        labels=read_only(targets[~is_test]),
        test_inputs=read_only(inputs[is_test]),
        test_labels=read_only(targets[is_test]),
        groups=read_only(targets[~is_test]),
        group_count=10,
    )


def _find(file: str, folder: Path | None) -> Path:
    places = [_EMBEDDED] if folder is None else [folder, _EMBEDDED]
    for place in places:
        if (place / file).is_file():
            return place / file
    raise EnvironmentFault(
        f"{file} is not in {' nor in '.join(str(place) for place in places)}",
        remedy="It belongs to the package: reinstall peerbed, or copy node/training/"
        f"{file} of the source tree into a folder and name that as `data_dir`.",
    )


def _read_digits(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise EnvironmentFault(
            f"{path} cannot be read as the digits data set: {error}",
            remedy="Delete it if it is your copy; else reinstall peerbed.",
        ) from error
    if images.shape != (1797, 8, 8) or labels.shape != (1797,):
        raise EnvironmentFault(
            f"{path} holds arrays of shape {images.shape} and {labels.shape}, not 1,797 digits",
            remedy="Delete it if it is your copy; else reinstall peerbed.",
        )
    return images, labels
