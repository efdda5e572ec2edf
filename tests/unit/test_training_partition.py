"""Partitions: disjoint, complete, non-empty, decided by the seed; and what they are meant to do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import PartitionConfig
from node.errors import ConfigError
from node.training.partition import partition

KINDS = st.one_of(
    st.just(PartitionConfig(kind="iid")),
    st.builds(
        PartitionConfig, kind=st.just("shards"), shards=st.integers(min_value=1, max_value=6)
    ),
    st.builds(
        PartitionConfig,
        kind=st.just("dirichlet"),
        alpha=st.floats(min_value=1e-3, max_value=1e3),
    ),
)
DIGITS = np.repeat(np.arange(10), 144)


@given(
    config=KINDS,
    nodes=st.integers(min_value=1, max_value=20),
    labels=st.lists(st.integers(min_value=0, max_value=9), min_size=120, max_size=400),
    batch_size=st.integers(min_value=1, max_value=32),
    seed=st.integers(min_value=0),
)
def test_every_sample_goes_to_exactly_one_node_and_every_node_has_enough(
    config: PartitionConfig, nodes: int, labels: list[int], batch_size: int, seed: int
) -> None:
    targets = np.array(labels)
    shares = partition(targets, config=config, nodes=nodes, batch_size=batch_size, seed=seed)
    assert len(shares) == nodes
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(targets.size))
    assert min(share.size for share in shares) >= min(batch_size, targets.size // nodes)
    again = partition(targets, config=config, nodes=nodes, batch_size=batch_size, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet"])
def test_another_seed_deals_otherwise(kind: str) -> None:
    config = PartitionConfig(kind=kind)
    one, other = (
        partition(DIGITS, config=config, nodes=5, batch_size=8, seed=seed) for seed in (1, 2)
    )
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_iid_shares_are_equal_in_size_and_alike_in_labels() -> None:
    shares = partition(DIGITS, config=PartitionConfig(kind="iid"), nodes=4, batch_size=16, seed=3)
    assert [share.size for share in shares] == [360] * 4
    counts = np.array([np.bincount(DIGITS[share], minlength=10) for share in shares])
    assert counts.min() >= 20
    assert counts.max() <= 55


def test_shards_bound_the_labels_of_a_node() -> None:
    config = PartitionConfig(kind="shards", shards=2)
    shares = partition(DIGITS, config=config, nodes=10, batch_size=16, seed=3)
    assert all(np.unique(DIGITS[share]).size <= 4 for share in shares)
    assert [share.size for share in shares] == [144] * 10


def test_small_alpha_concentrates_labels_and_large_alpha_spreads_them() -> None:
    def most_common(alpha: float) -> float:
        config = PartitionConfig(kind="dirichlet", alpha=alpha)
        shares = partition(DIGITS, config=config, nodes=8, batch_size=16, seed=3)
        return float(np.mean([np.bincount(DIGITS[s]).max() / s.size for s in shares]))

    assert most_common(0.05) > 0.4
    assert most_common(100.0) < 0.15


def test_more_nodes_than_batches_still_get_equal_parts() -> None:
    shares = partition(
        DIGITS, config=PartitionConfig(kind="dirichlet"), nodes=1000, batch_size=16, seed=3
    )
    assert min(share.size for share in shares) == 1


@pytest.mark.parametrize(
    ("config", "nodes", "says"),
    [
        (PartitionConfig(kind="fair"), 3, "unknown partition 'fair'"),
        (PartitionConfig(kind="shards", shards=0), 3, "cannot be cut"),
        (PartitionConfig(kind="shards", shards=500), 3, "cannot be cut"),
        (PartitionConfig(kind="dirichlet", alpha=0.0), 3, "alpha is 0.0"),
        (PartitionConfig(kind="dirichlet", alpha=float("nan")), 3, "alpha is nan"),
        (PartitionConfig(), 1441, "cannot be dealt to 1441 nodes"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_input(
    config: PartitionConfig, nodes: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        partition(DIGITS, config=config, nodes=nodes, batch_size=16, seed=3)
