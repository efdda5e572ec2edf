"""Image folders and CIFAR-10: pictures by class, decoded once and kept as bytes (numpy; Pillow).

An image folder, or a zip of one, has `train/<class>/<file>` and `test/<class>/<file>`, or only
`<class>/<file>`: then every fifth image, in the order of classes and names, is for tests.
Pixels have mean 0.5 and deviation 0.5 taken off (from -1 to 1); there is no augmentation.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

import numpy as np

from node.errors import ConfigError, EnvironmentFault
from node.training import cache
from node.training.dataset import Array, Dataset, Problem, Scale, Task, read_only

_KINDS: Final = (".jpg", ".jpeg", ".png", ".bmp")
_TEST_STEP: Final = 5
_PARTS: Final = ("train", "test")
_SCALE: Final = Scale(mean=0.5, deviation=0.5)
_BATCHES: Final = "cifar-10-batches-py"
_CIFAR_REMEDY: Final = (
    "Get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it in"
    " the folder that `training.data_dir` names; or put the images there as cifar10.zip with"
    " train/<class>/ and test/<class>/ in it."
)
_FOLDER_REMEDY: Final = (
    "Name a folder, or a zip of one, as `training.data_dir`, with train/<class>/ and test/<class>/"
    " or only <class>/ in it, and JPEG, PNG or BMP files in these."
)


def load_cifar10(folder: Path | None) -> Dataset:
    """CIFAR-10 (A. Krizhevsky 2009): 50,000 images for training and 10,000 for tests in 10 classes,
    32x32 pixels in three colours.

    Raises:
        EnvironmentFault: the data is missing or damaged; says where it was looked for.
    """
    if folder is None:
        raise EnvironmentFault(
            "the data set cifar10 needs `training.data_dir`", remedy=_CIFAR_REMEDY
        )
    if (folder / _BATCHES).is_dir():
        kept = cache.arrays(f"cifar10-{_Folder(folder / _BATCHES).stamp()}", _batches(folder))
    else:
        kept = _decoded(_cifar_images(folder), remedy=_CIFAR_REMEDY)
    dataset = _dataset(kept)
    if dataset.problem.shape != (3, 32, 32) or dataset.problem.classes != 10:
        raise EnvironmentFault(
            f"{folder} has images of shape {dataset.problem.shape} in {dataset.problem.classes}"
            " classes, not CIFAR-10",
            remedy=_CIFAR_REMEDY,
        )
    return dataset


def load_folder(folder: Path | None) -> Dataset:
    """The image folder, or a zip of one, at `folder`; all images of the same size.

    Raises:
        ConfigError: images of several sizes, or fewer than two classes.
        EnvironmentFault: there is none, or it is damaged.
    """
    if folder is None:
        raise EnvironmentFault(
            "the data set images needs `training.data_dir`", remedy=_FOLDER_REMEDY
        )
    return _dataset(_decoded(_source(folder, _FOLDER_REMEDY), remedy=_FOLDER_REMEDY))


def _dataset(kept: dict[str, Array]) -> Dataset:
    labels = kept["labels"]
    _, height, width, channels = kept["inputs"].shape
    classes = 1 + int(max(labels.max(), kept["test_labels"].max()))
    return Dataset(
        problem=Problem(task=Task.CLASS, shape=(channels, height, width), classes=classes),
        inputs=read_only(kept["inputs"]),
        labels=read_only(labels),
        test_inputs=read_only(kept["test_inputs"]),
        test_labels=read_only(kept["test_labels"]),
        groups=read_only(labels),
        group_count=classes,
        scale=_SCALE,
    )


# Where the images are ----------------------------------------------------------------------------


class _Source(Protocol):
    """Files with names as in a folder."""

    where: Path

    def stamp(self) -> str:
        """Changes when a file does; not when the folder is mounted elsewhere. Cheap: every trainer
        asks."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


class _Folder:
    def __init__(self, where: Path) -> None:
        self.where = where

    def stamp(self) -> str:
        status = {name: (self.where / name).stat() for name in self.names()}
        return _digest([(name, its.st_size, its.st_mtime_ns) for name, its in status.items()])

    def names(self) -> list[str]:
        files = (path for path in self.where.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.where).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        return (self.where / name).read_bytes()


class _Zip:
    def __init__(self, where: Path) -> None:
        self.where = where

    def stamp(self) -> str:
        status = self.where.stat()
        return _digest([("", status.st_size, status.st_mtime_ns)])

    def names(self) -> list[str]:
        return sorted(self._archive.namelist())

    def read(self, name: str) -> bytes:
        return self._archive.read(name)

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.where)


def _digest(files: list[tuple[str, int, int]]) -> str:
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _source(path: Path, remedy: str) -> _Source:
    if path.is_dir():
        return _Folder(path)
    if zipfile.is_zipfile(path):
        return _Zip(path)
    if path.is_file():
        raise EnvironmentFault(f"{path} is not a zip", remedy=remedy)
    raise EnvironmentFault(f"there is no {path}", remedy=remedy)


def _cifar_images(folder: Path) -> _Source:
    if folder.is_file():
        return _source(folder, _CIFAR_REMEDY)
    if (folder / "cifar10.zip").is_file():
        return _source(folder / "cifar10.zip", _CIFAR_REMEDY)
    for place in (folder / "cifar10", folder):
        if all((place / part).is_dir() for part in _PARTS):
            return _Folder(place)
    raise EnvironmentFault(
        f"{folder} has none of {_BATCHES}/, cifar10.zip, cifar10/train/ and train/",
        remedy=_CIFAR_REMEDY,
    )


# Decoding ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    name: str
    label: int


def _decoded(source: _Source, *, remedy: str) -> dict[str, Array]:
    """The images of a source as arrays; decoded at the first time, which takes about 0.2 ms each.

    Raises:
        ConfigError, EnvironmentFault: see `load_folder`.
    """

    def make(draft: Path) -> None:
        parts = [_decode(source, images, remedy) for images in _split(source, remedy)]
        _alike(source, parts[0][0].shape[1:], parts[1][0].shape[1:], what="for tests")
        for prefix, (pixels, labels) in zip(("", "test_"), parts, strict=True):
            np.save(draft / f"{prefix}inputs.npy", pixels)
            np.save(draft / f"{prefix}labels.npy", labels)

    return cache.arrays(f"images-{source.stamp()}", make)


def _split(source: _Source, remedy: str) -> tuple[list[_Image], list[_Image]]:
    """Training and test images, by class and name."""
    paths = [PurePosixPath(name) for name in source.names()]
    paths = [path for path in paths if _is_image(path)]
    classes = sorted({path.parent.name for path in paths})
    if len(classes) < 2:
        found = f"images of {len(classes)} classes" if paths else "no images in folders of classes"
        raise ConfigError(f"{source.where} has {found}", remedy=remedy)
    every = [_Image(name=str(path), label=classes.index(path.parent.name)) for path in paths]
    if all(path.parent.parent.name in _PARTS for path in paths):
        parts = [path.parent.parent.name for path in paths]
        train, test = (
            [image for image, its in zip(every, parts, strict=True) if its == part]
            for part in _PARTS
        )
    else:
        every.sort(key=lambda image: image.label)
        test = every[::_TEST_STEP]
        train = [image for number, image in enumerate(every) if number % _TEST_STEP]
    if not train or not test:
        raise ConfigError(
            f"{source.where} has {len(train)} images to train and {len(test)} to test with",
            remedy=remedy,
        )
    return train, test


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return len(path.parts) > 1 and not hidden and path.suffix.lower() in _KINDS


def _decode(source: _Source, images: Sequence[_Image], remedy: str) -> tuple[Array, Array]:
    """(images, height, width, channels) bytes, grey or colour as the first one, and labels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentFault(
            f"images cannot be decoded: {error}", remedy="Install it: pip install pillow."
        ) from error
    mode, pixels = "", np.empty(0, dtype=np.uint8)
    for number, image in enumerate(images):
        try:
            with Image.open(io.BytesIO(source.read(image.name))) as opened:
                mode = mode or ("L" if opened.mode in ("1", "L") else "RGB")
                one = np.asarray(opened.convert(mode))
        except (OSError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            raise EnvironmentFault(
                f"{source.where}: {image.name} cannot be read as an image: {error}", remedy=remedy
            ) from error
        one = one.reshape(*one.shape[:2], -1)
        if number == 0:
            pixels = np.empty((len(images), *one.shape), dtype=np.uint8)
        _alike(source, pixels.shape[1:], one.shape, what=image.name)
        pixels[number] = one
    return pixels, np.array([image.label for image in images], dtype=np.int64)


def _alike(source: _Source, one: tuple[int, ...], other: tuple[int, ...], *, what: str) -> None:
    """Height, width and channels are the same."""
    if one != other:
        sizes = " and ".join(f"{width}x{height}x{depth}" for height, width, depth in (one, other))
        raise ConfigError(
            f"{source.where}: images of {sizes} (the latter {what})",
            remedy="Give all of them one size, and all or none of them colours, first.",
        )


def _batches(folder: Path) -> Callable[[Path], None]:
    """Writes what torchvision's `CIFAR10` reads, which checks the files' digests."""

    def make(draft: Path) -> None:
        from node.training.vision import import_torchvision

        cifar10 = import_torchvision().datasets.CIFAR10
        for prefix, train in (("", True), ("test_", False)):
            try:
                part = cifar10(root=str(folder), train=train, download=False)
            except (RuntimeError, OSError) as error:
                raise EnvironmentFault(
                    f"{folder / _BATCHES} cannot be read: {error}", remedy=_CIFAR_REMEDY
                ) from error
            np.save(draft / f"{prefix}inputs.npy", part.data)
            np.save(draft / f"{prefix}labels.npy", np.array(part.targets, dtype=np.int64))

    return make
