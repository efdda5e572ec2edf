"""What each node trains on and is tested with; partitions by user; subsets of the test set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.config import PartitionConfig, TrainingConfig
from node.errors import ConfigError
from node.training import data
from node.training.partition import by_user
from node.training.shares import Shares, deal
from tests.unit.training_data import write_ratings

BY_USER = TrainingConfig(
    dataset="movielens", partition=PartitionConfig(kind="user"), model="matrix-factorisation"
)


def digits(config: TrainingConfig, *, seed: int = 1) -> Shares:
    return deal(data.load(config), config=config, nodes=5, seed=seed)


def test_the_artifacts_610_users_are_11_on_ten_nodes_and_10_on_the_others() -> None:
    pieces = by_user(np.arange(610), nodes=60)
    assert [piece.size for piece in pieces] == [11] * 10 + [10] * 50
    assert np.array_equal(np.concatenate(pieces), np.arange(610))


def test_a_node_trains_with_and_is_tested_on_its_own_users_alone(tmp_path: Path) -> None:
    config = replace(BY_USER, data_dir=str(write_ratings(tmp_path / "ratings.csv", users=12)))
    dataset = data.load(config)
    assert dataset.users is not None
    assert dataset.test_users is not None
    dealt = deal(dataset, config=config, nodes=5, seed=1)
    for node, users in enumerate(([0, 1, 2], [3, 4, 5], [6, 7], [8, 9], [10, 11])):
        assert np.unique(dataset.users[dealt.train[node]]).tolist() == users
        assert np.unique(dataset.test_users[dealt.tests(node)]).tolist() == users
    assert np.array_equal(np.sort(np.concatenate(dealt.train)), np.arange(12 * 7))
    assert np.array_equal(np.sort(np.concatenate(dealt.own_tests or ())), dealt.tests(None))


def test_with_fewer_test_samples_each_node_has_so_many_of_its_own(tmp_path: Path) -> None:
    path = write_ratings(tmp_path / "ratings.csv", users=12)
    config = replace(BY_USER, data_dir=str(path), test_samples=4)
    dataset = data.load(config)
    dealt = deal(dataset, config=config, nodes=5, seed=1)
    whole = deal(dataset, config=replace(config, test_samples=None), nodes=5, seed=1)
    assert dealt.test.size == 4
    for node in range(5):
        assert dealt.tests(node).size == 4
        assert set(dealt.tests(node)) <= set(whole.tests(node))


def test_more_nodes_than_users_and_data_without_users_are_refused(tmp_path: Path) -> None:
    config = replace(BY_USER, data_dir=str(write_ratings(tmp_path / "ratings.csv", users=3)))
    with pytest.raises(ConfigError, match="3 users cannot be dealt to 5 nodes"):
        deal(data.load(config), config=config, nodes=5, seed=1)
    with pytest.raises(ConfigError, match="belong to no users"):
        digits(TrainingConfig(partition=PartitionConfig(kind="user")))


def test_all_nodes_are_tested_with_the_same_samples_drawn_by_the_seed() -> None:
    config = TrainingConfig(test_samples=50)
    dealt = digits(config)
    assert dealt.tests(0) is dealt.tests(4) is dealt.tests(None)
    assert dealt.test.size == np.unique(dealt.test).size == 50
    assert np.array_equal(dealt.test, digits(config).test)
    assert not np.array_equal(dealt.test, digits(config, seed=2).test)


@pytest.mark.parametrize("number", [None, 360, 10_000])
def test_no_less_than_all_is_the_whole_test_set(number: int | None) -> None:
    assert np.array_equal(digits(TrainingConfig(test_samples=number)).test, np.arange(360))
