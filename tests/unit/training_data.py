"""Small data sets that tests make: image folders and zips, ratings, and problems."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from node.config import TrainingConfig
from node.training import data
from node.training.dataset import Array, Dataset


def load(name: str, folder: Path, *, context: int = 64) -> Dataset:
    return data.load(TrainingConfig(dataset=name, data_dir=str(folder), context=context))


def picture(shade: int, *, size: int = 32, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """One of a single shade but for its first pixel, which is black."""
    pixels: Array = np.full((size, size), shade, dtype=np.uint8)
    pixels[0, 0] = 0
    image = Image.fromarray(pixels).convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def pictures(
    *, classes: int = 10, train: int = 3, test: int = 2, size: int = 32
) -> dict[str, bytes]:
    """A folder by name: class c has the shades 20 * c + 1, + 2, ... in `train`, then `test`."""
    files = {}
    for label in range(classes):
        for part, numbers in (("train", range(train)), ("test", range(train, train + test))):
            for number in numbers:
                name = f"{part}/class{label}/{number:04}.png"
                files[name] = picture(20 * label + 1 + number, size=size)
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_ratings(path: Path, *, users: int = 12, films: int = 9, each: int = 10) -> Path:
    """`each` ratings of every user; ids are neither dense nor in order."""
    rng = np.random.default_rng(3)
    lines = ["userId,movieId,rating,timestamp"]
    for user in reversed(range(users)):
        for film in rng.integers(0, films, each):
            stars = rng.integers(1, 11) / 2
            lines.append(f"{user * 3 + 1},{film * 100 + 7},{stars},0")
    path.write_text("\n".join(lines) + "\n")
    return path
