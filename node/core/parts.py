"""A model as one flat float32 vector, and named parts of it.

A `Layout` says where each tensor lies in the vector. A `Part` is a set of its indices with their
values. Both ends derive the index set from a few integers (a fragment number and a shared seed, a
range, a mask seed), so that index lists travel only where they must (top-k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from node.core.rng import stream

Vector: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where one tensor lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of a model in the order in which they lie in its flat vector."""

    slots: tuple[TensorSlot, ...]
    size: int = field(init=False, repr=False, compare=False)
    """Number of parameters."""

    def __post_init__(self) -> None:
        last = self.slots[-1] if self.slots else None
        object.__setattr__(self, "size", last.offset + last.size if last else 0)

    def __hash__(self) -> int:
        """Cheap: index sets are looked up by layout, again and again."""
        return self.size

    @staticmethod
    def of(shapes: dict[str, tuple[int, ...]]) -> Layout:
        """Lay the tensors out one behind the other, in the order given."""
        slots, offset = [], 0
        for name, shape in shapes.items():
            slots.append(TensorSlot(name, tuple(shape), offset))
            offset += math.prod(shape)
        return Layout(tuple(slots))


@dataclass(frozen=True, slots=True)
class Whole:
    """Every parameter."""


@dataclass(frozen=True, slots=True)
class Span:
    """Parameters `start` to `stop` (exclusive): a shard."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """Fragment `number` of `count` of a partition drawn from `seed`.

    As in DivShare's artifact (`sharing/DivShareSharing.py`): the indices of each tensor are
    permuted and cut into `count` slices of `size // count`, the last taking the rest; a fragment
    is the union of one slice of every tensor.
    """

    number: int
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class RandomMask:
    """Each parameter with probability `share`, drawn from `seed`: random subsampling."""

    share: float
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """An explicit list of indices, ascending and without repeats: top-k."""

    indices: Indices


IndexSet: TypeAlias = Whole | Span | Fragment | RandomMask | Listed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some of a model's parameters: which, and their values in the order of `resolve`."""

    where: IndexSet
    values: Vector
    nbytes: int = field(init=False, repr=False)
    """Bytes that it costs on the wire: 4 for each value, and 4 for each index where the indices
    cannot be derived."""
    _fits: Layout | None = field(default=None, init=False, repr=False)
    """The layout that it was last found to fit: in one process a part goes to many."""

    def __post_init__(self) -> None:
        each = 8 if isinstance(self.where, Listed) else 4
        object.__setattr__(self, "nbytes", self.values.size * each)

    def fault(self, layout: Layout) -> str | None:
        """What keeps it from being a part of a model of this layout; None: nothing."""
        if self._fits is layout:
            return None
        try:
            size = resolve(self.where, layout).size
        except ValueError as error:
            return str(error)
        if size != self.values.size:
            return f"{self.values.size} values for {size} indices"
        if not np.isfinite(self.values).all():
            return "values that are not finite"
        object.__setattr__(self, "_fits", layout)
        return None


def resolve(where: IndexSet, layout: Layout) -> Indices:
    """The indices that `where` names in a model of this layout, ascending within a tensor's slice
    only where the set says so; the array is shared and read-only.

    Raises:
        ValueError: the set does not fit the layout.
    """
    size = layout.size
    match where:
        case Whole():
            return _span(0, size)
        case Span(start, stop):
            if not 0 <= start <= stop <= size:
                raise ValueError(f"span {start}:{stop} of a model with {size} parameters")
            return _span(start, stop)
        case Fragment(number, count, seed):
            if not 0 <= number < count:
                raise ValueError(f"fragment {number} of {count}")
            if count > size:
                raise ValueError(f"{count} fragments of a model with {size} parameters")
            return _fragments(layout, count, seed)[number]
        case RandomMask(share, seed):
            if not 0 <= share <= 1:
                raise ValueError(f"mask share {share}")
            return _mask(size, share, seed)
        case Listed(indices):
            if indices.size and not (indices[0] >= 0 and indices[-1] < size):
                raise ValueError(f"index {indices[-1]} of a model with {size} parameters")
            if np.any(np.diff(indices) <= 0):
                raise ValueError("listed indices must ascend without repeats")
            return indices


def take(parameters: Vector, where: IndexSet, layout: Layout) -> Part:
    """Copy the part of `parameters` that `where` names."""
    values = parameters[resolve(where, layout)]
    values.flags.writeable = False
    return Part(where=where, values=values)


def frozen(array: Vector) -> Vector:
    """The same array, marked read-only: what crosses a boundary is never changed afterwards."""
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def _span(start: int, stop: int) -> Indices:
    indices = np.arange(start, stop, dtype=np.int64)
    indices.flags.writeable = False
    return indices


# A partition costs 8 bytes a parameter; a few are alive at a time (fixed, or one for each sender
# and round), so the cache stays small while the common case never permutes twice.
@lru_cache(maxsize=32)
def _fragments(layout: Layout, count: int, seed: int) -> tuple[Indices, ...]:
    rng = stream(seed, "fragment")
    pieces: list[list[Indices]] = [[] for _ in range(count)]
    for slot in layout.slots:
        order = slot.offset + rng.permutation(slot.size).astype(np.int64)
        each = slot.size // count
        for number in range(count):
            stop = (number + 1) * each if number < count - 1 else slot.size
            pieces[number].append(order[number * each : stop])
    fragments = tuple(np.concatenate(piece) for piece in pieces)
    for indices in fragments:
        indices.flags.writeable = False
    return fragments


@lru_cache(maxsize=32)
def _mask(size: int, share: float, seed: int) -> Indices:
    indices = np.flatnonzero(stream(seed, "mask").random(size) < share).astype(np.int64)
    indices.flags.writeable = False
    return indices
