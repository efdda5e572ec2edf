"""Ratings and texts: how they are read and split, and what is said when they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.errors import ConfigError, EnvironmentFault
from tests.unit.training_data import load, write_ratings

REAL = Path("/work/shared/data")


@pytest.mark.parametrize("place", ["ratings.csv", "ml-latest-small/ratings.csv"])
def test_ratings_are_split_for_each_user_and_numbered(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    write_ratings(tmp_path / place, users=12, films=9, each=10)
    dataset = load("movielens", tmp_path)
    assert dataset.problem.sizes == (12, 9)
    assert dataset.users is not None
    assert dataset.test_users is not None
    assert np.bincount(dataset.users).tolist() == [7] * 12
    assert np.bincount(dataset.test_users).tolist() == [3] * 12
    assert np.array_equal(dataset.inputs[:, 0], dataset.users)
    assert np.array_equal(dataset.groups, dataset.labels * 2 - 1)


def test_the_split_keeps_every_rating_once_and_is_always_the_same(tmp_path: Path) -> None:
    path = write_ratings(tmp_path / "ratings.csv")
    one, again = load("movielens", tmp_path), load("movielens", path)
    assert np.array_equal(one.inputs, again.inputs)
    rows = np.loadtxt(path, delimiter=",", skiprows=1)[:, :3]
    rows[:, 0] = (rows[:, 0] - 1) / 3
    rows[:, 1] = np.unique(rows[:, 1], return_inverse=True)[1]
    found = np.concatenate(
        [
            np.column_stack([one.inputs, one.labels]),
            np.column_stack([one.test_inputs, one.test_labels]),
        ]
    )
    assert sorted(map(tuple, found)) == sorted(map(tuple, rows))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "userId,movieId,rating\n",
        "userId,movieId,rating\n1,2\n",
        "a,b,c\n1,x,3\n",
        "h\n1,2,7.3\n",
    ],
)
def test_damaged_ratings_are_a_fault_of_the_environment(content: str, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(EnvironmentFault, match="ratings") as caught:
        load("movielens", tmp_path)
    assert "grouplens.org" in str(caught.value.remedy)


@pytest.mark.skipif(
    not (REAL / "ml-latest-small").is_dir(), reason=f"MovieLens is not in {REAL}: not tested whole"
)
def test_the_real_movielens_has_610_users_and_9724_films() -> None:
    dataset = load("movielens", REAL)
    assert dataset.problem.sizes == (610, 9_724)
    assert len(dataset.labels) + len(dataset.test_labels) == 100_836
    assert len(dataset.labels) / 100_836 == pytest.approx(0.7, abs=0.001)


def test_a_text_is_cut_into_pieces_and_what_is_wanted_is_one_character_on(tmp_path: Path) -> None:
    text = "abcde" * 40
    (tmp_path / "song.txt").write_text(text)
    dataset = load("text", tmp_path, context=8)
    assert dataset.problem.shape == (8,)
    assert dataset.problem.classes == 5
    assert dataset.inputs.dtype == np.uint8
    read, foretold = (
        "".join("abcde"[token] for token in part.ravel())
        for part in (dataset.inputs, dataset.labels)
    )
    assert read == text[: len(read)]
    assert foretold == text[1 : len(read) + 1]
    assert len(dataset.inputs) == 22  # of 180 characters, the last of which is only wanted
    assert len(dataset.test_inputs) == 2
    assert dataset.groups.tolist() == sorted(dataset.groups.tolist())
    assert set(dataset.groups.tolist()) == set(range(10))


def test_a_text_may_have_any_alphabet(tmp_path: Path) -> None:
    alphabet = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 300))
    path = tmp_path / "text"
    path.write_text(alphabet * 10, encoding="utf-8")
    dataset = load("text", path, context=10)
    assert dataset.problem.classes == 300
    assert dataset.inputs.max() == 299


@pytest.mark.parametrize(
    ("files", "kind", "says"),
    [
        ({}, EnvironmentFault, "no text file"),
        ({"a.txt": b"a", "b.txt": b"b"}, EnvironmentFault, r"several text files \(a.txt, b.txt\)"),
        ({"a.txt": b"\xff\xfe\xff"}, EnvironmentFault, "cannot be read as a text"),
        ({"a.txt": b"far too short"}, ConfigError, "too few for a context of 64"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(
    files: dict[str, bytes], kind: type[Exception], says: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=says):
        load("text", tmp_path)
