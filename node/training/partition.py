"""Deals the training samples out to the nodes: disjoint, complete, decided by the seed alone.

Every node computes the whole partition from (seed, number of nodes) and takes its own share, so
no sample list travels. Pure; numpy only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from node.config import PartitionConfig
from node.core.rng import stream
from node.errors import ConfigError
from node.training.catalog import PARTITIONS

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer]


def partition(
    labels: Labels,
    *,
    config: PartitionConfig,
    nodes: int,
    batch_size: int,
    seed: int,
    users: Labels | None = None,
) -> tuple[Indices, ...]:
    """Deal out all samples.

    Args:
        labels: (samples,), the label of each training sample.
        nodes: number of nodes.
        batch_size: a node gets at least this many samples where there are enough for all
            (else an equal part, samples // nodes); by users it gets what its users have.
        seed: the run's seed; its stream `data` decides.
        users: (samples,), whose sample each is, from 0; None: samples belong to nobody.

    Returns:
        For each node in order the ascending indices of its samples.

    Raises:
        ConfigError: an unknown kind, a value out of range, fewer samples than nodes or shards, or
            fewer users than nodes.
    """
    if labels.size < nodes:
        raise ConfigError(
            f"{labels.size} training samples cannot be dealt to {nodes} nodes",
            where="training.partition",
        )
    rng = stream(seed, "data")
    match config.kind:
        case "iid":
            shares = np.array_split(rng.permutation(labels.size), nodes)
        case "shards":
            shares = _shards(labels, each=config.shards, nodes=nodes, rng=rng)
        case "dirichlet":
            shares = _dirichlet(labels, alpha=config.alpha, nodes=nodes, rng=rng)
        case "user":
            return by_user(_owners(users), nodes=nodes)
        case _:
            raise ConfigError(
                f"unknown partition {config.kind!r}",
                where="training.partition",
                remedy=f"Known: {', '.join(PARTITIONS)}.",
            )
    shares = _level(shares, least=min(batch_size, labels.size // nodes), rng=rng)
    return tuple(_share(indices) for indices in shares)


def _owners(users: Labels | None) -> Labels:
    if users is None:
        raise ConfigError(
            "the samples of this data set belong to no users",
            where="training.partition.kind",
            remedy="Known for it: iid, shards, dirichlet.",
        )
    return users


def by_user(users: Labels, *, nodes: int, count: int | None = None) -> tuple[Indices, ...]:
    """Users in their order, cut into `nodes` pieces of nearly equal size, the larger ones first;
    a node has all samples of its users (DivShare's artifact: 610 users on 60 nodes are 11 each on
    the first ten, 10 on the others).

    Args:
        count: number of users; None: up to the last who has a sample.
    """
    total = int(users.max()) + 1 if count is None else count
    if total < nodes:
        raise ConfigError(
            f"{total} users cannot be dealt to {nodes} nodes", where="training.partition"
        )
    ends = np.cumsum([piece.size for piece in np.array_split(np.arange(total), nodes)])
    owner = np.searchsorted(ends, users, side="right")
    return tuple(_share(np.flatnonzero(owner == node)) for node in range(nodes))


def _shards(labels: Labels, *, each: int, nodes: int, rng: np.random.Generator) -> list[Indices]:
    """Sort by label, cut into nodes * each shards of nearly equal size, deal `each` to a node
    (McMahan et al. 2017, section 3; decentralizepy `KShardDataPartitioner`)."""
    count = nodes * each
    if not 1 <= count <= labels.size:
        raise ConfigError(
            f"{labels.size} training samples cannot be cut into {nodes} x {each} shards",
            where="training.partition.shards",
        )
    shards = np.array_split(np.argsort(labels, kind="stable"), count)
    dealt = rng.permutation(count).reshape(nodes, each)
    return [np.concatenate([shards[number] for number in row]) for row in dealt]


def _dirichlet(
    labels: Labels, *, alpha: float, nodes: int, rng: np.random.Generator
) -> list[Indices]:
    """For each label draw the nodes' shares of it from Dirichlet(alpha, ..., alpha) and cut its
    shuffled samples accordingly (Yurochkin et al. 2019; Li et al. 2022, "NIID-Bench"). Small alpha:
    few labels a node, and unequal numbers of samples."""
    if not (np.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha is {alpha}, not above 0", where="training.partition.alpha")
    pieces: list[list[Indices]] = [[] for _ in range(nodes)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(nodes, alpha))
        cuts = np.round(np.cumsum(shares[:-1]) * members.size).astype(np.int64)
        for node, piece in enumerate(np.split(members, cuts)):
            pieces[node].append(piece)
    return [np.concatenate(piece) for piece in pieces]


def _level(shares: list[Indices], *, least: int, rng: np.random.Generator) -> list[Indices]:
    """Give every node at least `least` samples: each that has fewer takes random samples of the
    node that has most at that moment, which keeps at least `least` itself. With
    least <= samples // nodes somebody always has more than `least` while somebody has fewer."""
    shares = list(shares)
    sizes = np.array([share.size for share in shares])
    while sizes.min() < least:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        number = min(least - sizes[poor], sizes[rich] - least)
        shuffled = rng.permutation(shares[rich])
        shares[poor] = np.concatenate([shares[poor], shuffled[:number]])
        shares[rich] = shuffled[number:]
        sizes[poor] += number
        sizes[rich] -= number
    return shares


def _share(indices: Indices) -> Indices:
    ordered = np.sort(indices).astype(np.int64)
    ordered.flags.writeable = False
    return ordered
