"""The embedded data set: its split, its scale, and what is said when it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.config import TrainingConfig
from node.errors import ConfigError, EnvironmentFault, PeerbedError
from node.training import data, digits
from node.training.catalog import DATASETS
from node.training.dataset import Dataset


def load(folder: Path | None = None, *, name: str = "digits") -> Dataset:
    config = TrainingConfig(dataset=name, data_dir=None if folder is None else str(folder))
    return data.load(config)


def test_digits_load() -> None:
    dataset = load()
    shape = dataset.problem.shape
    assert dataset.inputs.dtype == np.float32
    assert dataset.inputs.shape == (dataset.labels.size, *shape)
    assert dataset.test_inputs.shape == (dataset.test_labels.size, *shape)
    assert set(np.unique(dataset.labels)) == set(range(dataset.problem.classes))
    with pytest.raises(ValueError, match="read-only"):
        dataset.inputs[0] = 0


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_what_is_not_embedded_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=f"data set {name} needs `training.data_dir`"):
        load(name=name)
    with pytest.raises(PeerbedError) as caught:
        load(tmp_path, name=name)
    assert str(tmp_path) in caught.value.message
    assert "data_dir" in str(caught.value.remedy)


def test_digits_are_split_by_label_and_scaled_by_the_training_part() -> None:
    dataset = load()
    assert (dataset.labels.size, dataset.test_labels.size) == (1437, 360)
    assert np.bincount(dataset.test_labels).tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]
    assert dataset.inputs.mean() == pytest.approx(0, abs=1e-4)
    assert dataset.inputs.std() == pytest.approx(1, abs=1e-4)


def test_digits_are_the_file_that_scikit_learn_ships() -> None:
    with np.load(Path(data.__file__).with_name("digits.npz")) as archive:
        images, labels = archive["images"], archive["labels"]
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert int(images.sum()) == 561718
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_an_unknown_data_set_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Known: digits"):
        load(name="fingers")


def test_missing_data_says_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded, own = tmp_path / "embedded", tmp_path / "own"
    monkeypatch.setattr(digits, "_EMBEDDED", embedded)
    with pytest.raises(EnvironmentFault) as caught:
        load(own)
    assert str(own) in caught.value.message
    assert str(embedded) in caught.value.message
    assert "reinstall" in str(caught.value.remedy)


def test_a_folder_without_the_data_falls_back_to_the_embedded_file(tmp_path: Path) -> None:
    assert load(tmp_path).labels.size == 1437


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not an archive"])
def test_a_damaged_file_is_a_fault_of_the_environment(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        load(tmp_path)


def test_another_archive_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=np.zeros((2, 8, 8)), labels=np.zeros(2))
    with pytest.raises(EnvironmentFault, match="not 1,797 digits"):
        load(tmp_path)
