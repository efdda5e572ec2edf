"""Fragments of a model, as DivShare and its kin share them: who gets which, what has come, and the
mean over it.

Fast because a simulated run moves a hundred thousand of them a second: what belongs to one round is
done in a few array operations, and a message that comes costs no more than a look into a dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np

from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Indices, Layout, Part, Vector, frozen, resolve
from node.core.rng import derive_seed

Arrived = tuple[int, Fragment, Vector]
"""A fragment that came: the sender's round, which one, its values."""


class Permutation(StrEnum):
    """When the partition into fragments is drawn anew. The artifact draws it once for all."""

    FIXED = "fixed"
    PER_ROUND = "per_round"
    PER_NODE_ROUND = "per_node_round"

    def seed(self, run: int, *, node: NodeId, round_: int) -> int:
        """The seed of a node's partition in a round, from the run's seed."""
        match self:
            case Permutation.FIXED:
                return derive_seed(run, "fragments")
            case Permutation.PER_ROUND:
                return derive_seed(run, "fragments", round_)
            case Permutation.PER_NODE_ROUND:
                return derive_seed(run, "fragments", node, round_)


def cut(parameters: Vector, *, count: int, seed: int, layout: Layout) -> list[Part]:
    """All `count` fragments of a model, in order of their numbers.

    Raises:
        ValueError: more fragments than parameters.
    """
    order, bounds = _partition(layout, count, seed)
    values = frozen(parameters[order])
    return [
        Part(where=Fragment(number, count, seed), values=values[start:stop])
        for number, (start, stop) in enumerate(pairwise(bounds))
    ]


def deal(
    rng: np.random.Generator, *, fragments: int, peers: int, degree: int
) -> list[tuple[int, int]]:
    """Pairs of fragment and recipient, in random order.

    Each fragment goes to `degree` different peers (all of them if there are fewer), drawn uniformly
    and independently of the other fragments.
    """
    each = min(degree, peers)
    if not each:
        return []
    # The smallest of uniform numbers stand at a random set of places: one draw for all fragments.
    chosen = (
        rng.random((fragments, peers)).argpartition(each - 1, axis=1)[:, :each].ravel().tolist()
    )
    return [(i // each, chosen[i]) for i in rng.permutation(fragments * each).tolist()]


def fragment_mean(own: Vector, arrived: Iterable[Arrived], layout: Layout) -> tuple[Vector, float]:
    """`averaging.counted_mean` over fragments, and the share of parameters that any of them covers.

    In the order of its partition a fragment is one slice, so that adding it needs no index list.

    Args:
        arrived: in the order in which they are summed.

    Returns:
        A new float32 vector of the shape of `own`, and the coverage from 0 to 1.
    """
    partitions: dict[tuple[int, int], list[list[Vector]]] = {}
    for _, where, values in arrived:
        key = (where.count, where.seed)
        if (pieces := partitions.get(key)) is None:
            pieces = partitions[key] = [[] for _ in range(where.count)]
        pieces[where.number].append(values)
    total = own.astype(np.float64)
    count = np.ones(own.shape, dtype=np.int64)
    for (number, seed), pieces in partitions.items():
        order, bounds = _partition(layout, number, seed)
        sums = np.zeros(own.shape)
        for piece, (start, stop) in zip(pieces, pairwise(bounds), strict=True):
            if piece:
                sums[start:stop] = np.add.reduce(piece, axis=0, dtype=np.float64)
        total[order] += sums
        count[order] += np.repeat([len(piece) for piece in pieces], np.diff(bounds))
    return (total / count).astype(np.float32), float(np.count_nonzero(count > 1) / count.size)


class Inbox:
    """Fragments that wait to be averaged.

    A newer one takes the place of the one with the same sender and number. Stale is what came
    before, and what is older than the newest round heard of its sender: the sender has cancelled
    that round itself.

    Args:
        count: fragments of a model.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._replaced = self._stale = 0
        self._heard: dict[NodeId, int] = {}
        """By sender, the newest round and which of its fragments came: round << count | bits. One
        number, because there is one for each of a thousand senders on each of a thousand nodes."""
        self._waiting: dict[tuple[NodeId, int], Arrived] = {}

    def put(self, sender: NodeId, message: PeerMessage) -> str | None:
        """Take a fragment in; returns what is wrong with a message that is none."""
        part = message.part
        if part is None or not isinstance(part.where, Fragment) or part.where.count != self._count:
            return f"{message.kind}: not one of {self._count} fragments"
        number, age = part.where.number, message.round
        heard = self._heard.get(sender, -1)
        newest = heard >> self._count
        if age < newest or (age == newest and heard >> number & 1):
            self._stale += 1
            return None
        self._heard[sender] = (heard if age == newest else age << self._count) | 1 << number
        key = (sender, number)
        self._replaced += key in self._waiting
        self._waiting[key] = (age, part.where, part.values)
        return None

    def forget(self, sender: NodeId) -> None:
        """It may have been started again, and be at an earlier round: its fragments are new."""
        self._heard.pop(sender, None)

    def mean(
        self, own: Vector, *, round_: int, layout: Layout
    ) -> tuple[Vector, Mapping[str, Value]]:
        """Consume what waits: `fragment_mean` with it, and an `aggregate` record of this round."""
        # By sender and number: the order of arrival must not change a sum.
        arrived = [self._waiting[key] for key in sorted(self._waiting)]
        model, coverage = fragment_mean(own, arrived, layout)
        counts: dict[str, Value] = {
            "round": round_,
            "fragments": len(arrived),
            "coverage": coverage,
            "age_mean": round_ - sum(each[0] for each in arrived) / len(arrived)
            if arrived
            else None,
            "replaced": self._replaced,
            "stale": self._stale,
        }
        self._waiting.clear()
        self._replaced = self._stale = 0
        return model, counts


# 8 bytes a parameter; a few are alive at a time: one, or one for each sender and round.
@lru_cache(maxsize=32)
def _partition(layout: Layout, count: int, seed: int) -> tuple[Indices, tuple[int, ...]]:
    """The indices of all fragments one behind the other; where each begins, and the last ends."""
    pieces = [resolve(Fragment(number, count, seed), layout) for number in range(count)]
    bounds = (0, *np.cumsum([piece.size for piece in pieces]).tolist())
    return np.concatenate(pieces), bounds
