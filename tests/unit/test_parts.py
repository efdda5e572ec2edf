"""Index sets: what both ends of a link derive must be the same, disjoint and complete."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.parts import (
    Fragment,
    Layout,
    Listed,
    Part,
    RandomMask,
    Span,
    Whole,
    resolve,
    take,
)

shapes = st.lists(
    st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple), min_size=1, max_size=6
)


def layout_of(sizes: list[tuple[int, ...]]) -> Layout:
    return Layout.of({f"t{i}": shape for i, shape in enumerate(sizes)})


@given(shapes, st.integers(1, 20), st.integers(0, 2**63))
def test_fragments_partition_the_model(sizes: list[tuple[int, ...]], count: int, seed: int) -> None:
    layout = layout_of(sizes)
    count = min(count, layout.size)
    pieces = [resolve(Fragment(i, count, seed), layout) for i in range(count)]
    assert sorted(np.concatenate(pieces).tolist()) == list(range(layout.size))


def test_fragment_sizes_are_those_of_the_artifact() -> None:
    """GN-LeNet has 89,834 parameters; K=10 gives nine fragments of 8,981 and one of 9,005."""
    layout = Layout.of(
        {
            "conv1": (32, 3, 5, 5), "b1": (32,), "g1": (32,), "h1": (32,),
            "conv2": (32, 32, 5, 5), "b2": (32,), "g2": (32,), "h2": (32,),
            "conv3": (64, 32, 5, 5), "b3": (64,), "g3": (64,), "h3": (64,),
            "fc": (10, 1024), "bf": (10,),
        }
    )  # fmt: skip
    assert layout.size == 89_834
    sizes = [resolve(Fragment(i, 10, 1), layout).size for i in range(10)]
    assert sizes == [8_981] * 9 + [9_005]


def test_fragments_depend_on_the_seed_alone() -> None:
    layout = layout_of([(50,)])
    first = resolve(Fragment(0, 5, 3), layout)
    assert first.tolist() == resolve(Fragment(0, 5, 3), layout_of([(50,)])).tolist()
    assert first.tolist() != resolve(Fragment(0, 5, 4), layout).tolist()


@given(shapes, st.floats(0, 1), st.integers(0, 2**63))
def test_mask_is_ascending_within_the_model(
    sizes: list[tuple[int, ...]], share: float, seed: int
) -> None:
    layout = layout_of(sizes)
    indices = resolve(RandomMask(share, seed), layout)
    assert np.all(np.diff(indices) > 0)
    assert np.all((indices >= 0) & (indices < layout.size))


@pytest.mark.parametrize(
    "where",
    [
        Span(3, 11),
        Span(-1, 2),
        Span(5, 4),
        Fragment(5, 5, 0),
        Fragment(0, 11, 0),
        RandomMask(1.5, 0),
        Listed(np.array([1, 10])),
        Listed(np.array([-1, 3])),
        Listed(np.array([4, 4])),
    ],
)
def test_what_does_not_fit_is_refused(where: Span | Fragment | RandomMask | Listed) -> None:
    with pytest.raises(ValueError, match=r"\d|ascend"):
        resolve(where, layout_of([(10,)]))


def test_take_copies_the_values_it_names() -> None:
    layout = layout_of([(4,), (6,)])
    model = np.arange(10, dtype=np.float32)
    part = take(model, Span(2, 5), layout)
    assert part.values.tolist() == [2, 3, 4]
    assert part.nbytes == 12
    model[3] = -1
    assert part.values.tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        part.values[0] = 1
    assert isinstance(part, Part)
    assert resolve(Whole(), layout).size == 10
