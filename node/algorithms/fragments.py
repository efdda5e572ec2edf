"""Fragments of a model, as DivShare and its kin share them: who gets which, what has come, and the
mean over it.

Fast because a simulated run moves a hundred thousand of them a second: what belongs to one round is
done in a few array operations, and a message that comes costs little more than a look into a dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np

from node.algorithms.common import LocalSteps
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Indices, Layout, Part, Vector, frozen, resolve
from node.core.rng import derive_seed

Arrived = tuple[int, Fragment, Vector]
"""A fragment that came: the sender's round, which one, its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipients(LocalSteps):
    """Base of the options of an algorithm that sends a model or its fragments to random neighbours.

    Args:
        local_steps: mini-batch steps a round.
        degree: recipients of each fragment (J); default ceil(log2(nodes)).
    """

    degree: int | None = None

    def __post_init__(self) -> None:
        LocalSteps.__post_init__(self)
        if self.degree is not None and self.degree < 1:
            raise ValueError(f"degree must be at least 1, not {self.degree}")


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
    first = peers - each
    # Floyd's sampling: the i-th draw is among the first + i + 1 peers, and where that one is taken
    # already it stands for the last of them. It costs the same among sixty and among a thousand.
    draws = rng.random((fragments, each)) * np.arange(first + 1, peers + 1)
    chosen: list[int] = []
    for places in draws.astype(np.int64).tolist():
        taken: set[int] = set()
        for last, place in enumerate(places, start=first):
            peer = last if place in taken else place
            taken.add(peer)
            chosen.append(peer)
    return [(i // each, chosen[i]) for i in rng.permutation(len(chosen)).tolist()]


def fragment_mean(own: Vector, arrived: Iterable[Arrived], layout: Layout) -> tuple[Vector, float]:
    """x[p] <- (x[p] + sum of v[p]) / (1 + how many cover p), and the share of p that any covers.

    In the order of its partition a fragment is one slice, so that adding it needs no index list.

    Args:
        arrived: in the order in which they are summed.

    Returns:
        A new float32 vector of the shape of `own`, and the coverage from 0 to 1.
    """
    partitions: dict[tuple[int, int], list[tuple[int, Vector]]] = {}
    for _, where, values in arrived:
        partitions.setdefault((where.count, where.seed), []).append((where.number, values))
    total, count = own.astype(np.float64), np.ones(own.shape, dtype=np.int32)
    for (pieces, seed), came in partitions.items():
        order, bounds = _partition(layout, pieces, seed)
        sums, covers = total[order], [0] * pieces
        parts = [sums[start:stop] for start, stop in pairwise(bounds)]
        for number, values in came:
            np.add(parts[number], values, out=parts[number])
            covers[number] += 1
        total[order] = sums
        count[order] += np.repeat(covers, np.diff(bounds))
    return (total / count).astype(np.float32), float(np.count_nonzero(count > 1) / count.size)


class Inbox:
    """Fragments that wait to be averaged.

    A newer one takes the place of the one with the same sender and number. Stale is what came
    before, and what is of an older round than the newest heard of its sender, whether or not
    something of its number waits: streams keep the order, so that only what is sent again after a
    broken one comes so late.

    What was heard of a sender stands at its place among all, not under its name: a thousand nodes
    each hear of a thousand, and share one index of them.

    Args:
        count: fragments of a model.
        senders: of whom something may come.
    """

    def __init__(self, count: int, senders: Iterable[NodeId]) -> None:
        self._count = count
        self._places = _places(tuple(sorted(senders)))
        self._replaced = self._stale = 0
        self._newest = [-1] * len(self._places)
        """The newest round heard of each."""
        self._width = (count + 7) // 8
        self._came = bytearray(len(self._places) * self._width)
        """Which fragments of that round came: so many bytes each, one bit a fragment."""
        self._waiting: dict[tuple[int, int], Arrived] = {}
        """By the sender's place, and number."""

    def put(self, sender: NodeId, message: PeerMessage) -> str | None:
        """Take a fragment in; returns what is wrong with a message that is none."""
        part = message.part
        if part is None or not isinstance(part.where, Fragment) or part.where.count != self._count:
            return f"{message.kind}: not one of {self._count} fragments"
        if (place := self._places.get(sender)) is None:
            return f"{message.kind}: of one who is no neighbour"
        number, age = part.where.number, message.round
        newest, first = self._newest[place], place * self._width
        if age > newest:
            self._newest[place] = age
            self._came[first : first + self._width] = bytes(self._width)
        at, bit = first + (number >> 3), 1 << (number & 7)
        if age < newest or self._came[at] & bit:
            self._stale += 1
            return None
        self._came[at] |= bit
        key = (place, number)
        self._replaced += key in self._waiting
        self._waiting[key] = (age, part.where, part.values)
        return None

    def forget(self, sender: NodeId) -> None:
        """It may have been started again, and be at an earlier round: its fragments are new."""
        if (place := self._places.get(sender)) is not None:
            self._newest[place] = -1

    def mean(
        self, own: Vector, *, round_: int, layout: Layout
    ) -> tuple[Vector, Mapping[str, Value]]:
        """Consume what waits: `fragment_mean` with it, and an `aggregate` record of this round."""
        # By sender in name order, and number: the order of arrival must not change a sum.
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


# One for all nodes of a complete overlay, where each node would have 50 KiB of its own.
@lru_cache(maxsize=8)
def _places(names: tuple[NodeId, ...]) -> Mapping[NodeId, int]:
    return {name: place for place, name in enumerate(names)}


# 8 bytes a parameter; a few are alive at a time: one, or one for each sender and round.
@lru_cache(maxsize=32)
def _partition(layout: Layout, count: int, seed: int) -> tuple[Indices, tuple[int, ...]]:
    """The indices of all fragments one behind the other; where each begins, and the last ends."""
    pieces = [resolve(Fragment(number, count, seed), layout) for number in range(count)]
    bounds = (0, *np.cumsum([piece.size for piece in pieces]).tolist())
    return np.concatenate(pieces), bounds
