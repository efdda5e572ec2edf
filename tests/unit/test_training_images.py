"""Image folders, zips of them, CIFAR-10, and what is kept of them: small pictures made here."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from node.config import TrainingConfig
from node.errors import ConfigError, EnvironmentFault
from node.training import cache, images, material, shares
from node.training.vision import import_torchvision
from tests.unit.training_data import load, picture, pictures, write_folder, write_zip

REAL = Path("/work/shared/data")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERBED_CACHE", str(tmp_path / "kept"))


def test_cifar10_comes_from_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "cifar10.zip", pictures())
    dataset = load("cifar10", tmp_path)
    assert dataset.problem.shape == (3, 32, 32)
    assert dataset.inputs.dtype == np.uint8
    assert dataset.inputs.shape == (30, 32, 32, 3)
    assert dataset.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert dataset.test_inputs.shape == (20, 32, 32, 3)
    for part, labels, first in (
        (dataset.inputs, dataset.labels, 1),
        (dataset.test_inputs, dataset.test_labels, 4),
    ):
        assert part[:, 0, 0].max() == 0
        shades = part[:, 5, 5, 0].tolist()
        position = [0] * 10
        for shade, label in zip(shades, labels.tolist(), strict=True):
            assert shade == 20 * label + first + position[label]
            position[label] += 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.inputs[0] = 0


@pytest.mark.parametrize("where", [".", "cifar10"])
def test_a_folder_gives_what_a_zip_gives(where: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "zipped.zip", pictures())
    write_folder(tmp_path / "plain" / where, pictures())
    one, other = load("cifar10", tmp_path / "zipped.zip"), load("cifar10", tmp_path / "plain")
    assert np.array_equal(one.inputs, other.inputs)
    assert np.array_equal(one.test_labels, other.test_labels)


def test_the_pickled_batches_are_read_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files as they are published, with two images in each."""
    cifar10 = import_torchvision().datasets.CIFAR10
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        pixels = np.zeros((2, 3, 32, 32), dtype=np.uint8)
        pixels[:, 0, 3, 4] = (number * 2, number * 2 + 1)
        batch = {"data": pixels.reshape(2, -1), "labels": [(number * 2) % 10, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"label_names": [str(label) for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(cifar10, "train_list", [(name, None) for name in names[:5]])
    monkeypatch.setattr(cifar10, "test_list", [(names[5], None)])
    monkeypatch.setattr(cifar10, "meta", {**cifar10.meta, "md5": None})
    dataset = load("cifar10", tmp_path)
    assert dataset.inputs.shape == (10, 32, 32, 3)
    assert dataset.inputs[:, 3, 4, 0].tolist() == list(range(10))
    assert dataset.labels.tolist() == [0, 9, 2, 9, 4, 9, 6, 9, 8, 9]
    assert dataset.test_inputs[:, 3, 4].tolist() == [[10, 0, 0], [11, 0, 0]]


def test_damaged_batches_are_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut short")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("files", [pictures(classes=9), pictures(size=16)])
def test_other_images_are_not_cifar10(files: dict[str, bytes], tmp_path: Path) -> None:
    write_zip(tmp_path / "cifar10.zip", files)
    with pytest.raises(EnvironmentFault, match="not CIFAR-10"):
        load("cifar10", tmp_path)


def test_pixels_become_numbers_from_minus_1_to_1(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{c}/{n}.png": picture(255) for c in "ab" for n in range(5)})
    made = material.of(load("images", tmp_path))
    batch = made.objective.decode(made.inputs[:2])
    assert batch.shape == (2, 3, 32, 32)
    assert batch[:, :, 0, 0].tolist() == [[-1.0] * 3] * 2
    assert batch[:, :, 7, 9].flatten().tolist() == pytest.approx([1.0] * 6)
    assert made.inputs[0, 7, 9].tolist() == [255] * 3  # decoding leaves what is stored alone


def test_without_a_split_every_fifth_of_a_class_is_for_tests(tmp_path: Path) -> None:
    files = {f"dogs/{n}.jpg": picture(100, kind="JPEG", size=8) for n in range(10)}
    files |= {f"cats/{n}.bmp": picture(100, kind="BMP", size=8) for n in range(5)}
    files |= {"cats/.hidden.png": b"", "__MACOSX/cats/0.png": b"", "readme.md": b"", "top.png": b""}
    dataset = load("images", write_folder(tmp_path, files))
    assert dataset.problem.shape == (3, 8, 8)
    assert dataset.labels.tolist() == [0] * 4 + [1] * 8
    assert dataset.test_labels.tolist() == [0, 1, 1]


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    files = {f"{c}/{n}.png": picture(9, mode="L", size=8) for c in "ab" for n in range(5)}
    assert load("images", write_folder(tmp_path, files)).problem.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("files", "kind", "says"),
    [
        ({"a/0.png": picture(1)}, ConfigError, "images of 1 classes"),
        ({"0.png": picture(1)}, ConfigError, "no images in folders of classes"),
        ({"a/0.png": picture(1), "b/0.png": picture(1, size=8)}, ConfigError, "8x8x3 and 32x32x3"),
        (pictures() | {"train/class3/x.png": picture(1, size=8)}, ConfigError, "32x32x3 and 8x8x3"),
        (pictures() | {"train/class3/x.png": b"GIF8"}, EnvironmentFault, "x.png cannot be read"),
        ({name: b for name, b in pictures().items() if "test/" not in name}, ConfigError, "0 to"),
    ],
)
def test_what_is_wrong_with_images_is_said(
    files: dict[str, bytes], kind: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        load("images", write_folder(tmp_path / "set", files))
    assert not list((tmp_path / "kept").glob("images-*/"))  # nothing half made is kept


def test_what_is_no_folder_and_no_zip_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(EnvironmentFault, match="is not a zip"):
        load("images", tmp_path / "file")
    with pytest.raises(EnvironmentFault, match="there is no"):
        load("images", tmp_path / "nothing")


def test_images_are_decoded_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = images._decode
    monkeypatch.setattr(
        images, "_decode", lambda *given: decoded.append(given[0].where) or decode(*given)
    )
    write_zip(tmp_path / "cifar10.zip", pictures())
    load("cifar10", tmp_path)
    load("cifar10", tmp_path)
    assert len(decoded) == 2  # for training and for tests
    (tmp_path / "moved").mkdir()
    (tmp_path / "cifar10.zip").rename(tmp_path / "moved" / "cifar10.zip")
    load("cifar10", tmp_path / "moved")
    assert len(decoded) == 2
    write_zip(tmp_path / "moved" / "cifar10.zip", pictures(train=4))
    assert load("cifar10", tmp_path / "moved").labels.size == 40
    assert len(decoded) == 4


def test_many_at_once_make_the_arrays_once(tmp_path: Path) -> None:
    made = []

    def make(draft: Path) -> None:
        made.append(draft)
        np.save(draft / "numbers.npy", np.arange(5))

    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: cache.arrays("key", make)["numbers"], range(8)))
    assert len(made) == 1
    assert all(numbers.tolist() == [0, 1, 2, 3, 4] for numbers in kept)


def test_processes_share_one_decoding(tmp_path: Path) -> None:
    write_zip(tmp_path / "cifar10.zip", pictures())
    code = (
        "import sys; from pathlib import Path; from tests.unit.training_data import load; "
        "print(load('cifar10', Path(sys.argv[1])).labels.size)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in running] == ["30\n"] * 3
    assert len(list((tmp_path / "kept").glob("images-*/"))) == 1
    assert not list((tmp_path / "kept").glob(".draft-*"))


def test_arrays_that_cannot_be_made_leave_nothing_behind(tmp_path: Path) -> None:
    def make(draft: Path) -> None:
        (draft / "half.npy").write_bytes(b"")
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentFault, match="No space left") as caught:
        cache.arrays("key", make)
    assert "PEERBED_CACHE" in str(caught.value.remedy)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["key.lock"]


def test_a_folder_that_cannot_be_written_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEERBED_CACHE", str(tmp_path / "file" / "kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.arrays("key", lambda draft: np.save(draft / "numbers.npy", np.arange(5)))
    assert (tmp_path / "cache" / "peerbed" / "key" / "numbers.npy").is_file()


@pytest.mark.skipif(
    not (REAL / "cifar10.zip").is_file(), reason=f"CIFAR-10 is not in {REAL}: set not tested whole"
)
def test_the_real_cifar10_has_50000_images_and_deals_as_the_artifact_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PEERBED_CACHE")
    dataset = load("cifar10", REAL)
    assert np.bincount(dataset.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert isinstance(dataset.inputs, np.memmap)
    config = TrainingConfig(dataset="cifar10", batch_size=8)
    dealt = shares.deal(dataset, config=config, nodes=60, seed=1)
    assert {len(samples) for samples in dealt.train} == {833, 834}
