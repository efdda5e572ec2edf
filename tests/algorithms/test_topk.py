"""Top-k against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from node import algorithms
from node.algorithms.averaging import largest
from node.core.messages import PeerMessage
from node.core.parts import Listed, Vector, take
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Quadratic, Rig, ring

SIZE = 50


def some(nodes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(nodes, SIZE)).astype(np.float32)


def indices(message: PeerMessage) -> list[int]:
    assert message.part is not None
    assert isinstance(message.part.where, Listed)
    return [int(i) for i in message.part.where.indices]


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-5, 5, width=32)),
    st.integers(1, 70),
)
def test_the_largest_are_at_least_as_large_as_the_others(values: Vector, count: int) -> None:
    chosen = largest(values, count)
    assert chosen.size == min(count, values.size)
    assert np.all(np.diff(chosen) > 0)
    rest = np.delete(np.abs(values), chosen)
    assert not rest.size or np.abs(values)[chosen].min() >= rest.max()


def test_what_changed_most_since_it_was_sent_last_is_sent() -> None:
    """By hand, for a lone pair whose training adds a fixed vector."""
    steps = np.linspace(0.01, 0.5, SIZE).astype(np.float32)

    def train(node: int, parameters: Vector, _: int) -> Vector:
        return parameters + (steps if node == 0 else 0 * steps)

    rig = Rig(
        "topk", near=[[1], [0]], initial=np.zeros((2, SIZE)), train=train, options={"share": 0.1}
    )
    last = np.zeros(SIZE, dtype=np.float32)
    for round_ in range(12):
        trained = rig.peers[0].parameters + steps
        rig.run(rounds=round_ + 1)
        (message,) = (m for s, _, m in rig.sends if s == 0 and m.round == round_)
        change = np.abs(trained - last)
        assert sorted(change[indices(message)]) == sorted(np.sort(change)[-5:])
        assert message.part is not None
        assert np.array_equal(message.part.values, trained[indices(message)])
        last[indices(message)] = trained[indices(message)]
    # Error feedback: what changes little is sent too, in the end.
    sent = {i for s, _, m in rig.sends if s == 0 for i in indices(m)}
    assert len(sent) > 15


def test_since_the_average_what_is_left_out_is_forgotten() -> None:
    """As `PartialModel` ranks: by what this round's training changed, and nothing before it."""
    steps = np.linspace(0.01, 0.5, SIZE).astype(np.float32)

    def train(node: int, parameters: Vector, _: int) -> Vector:
        return parameters + (steps if node == 0 else 0 * steps)

    options = {"share": 0.1, "since": "average"}
    rig = Rig("topk", near=[[1], [0]], initial=np.zeros((2, SIZE)), train=train, options=options)
    rig.run(rounds=12)
    sent = [indices(m) for s, _, m in rig.sends if s == 0]
    assert sent == [[45, 46, 47, 48, 49]] * 12


def test_another_number_of_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig("topk", near=ring(5), initial=some(5), options={"share": 0.2})
    odd = take(some(1)[0], Listed(np.arange(9)), rig.layout)
    monkeypatch.setattr(rig.algorithms[1], "part", lambda ctx: odd)
    rig.run(rounds=1)
    assert [len(rig.of(i, "refused")) for i in range(5)] == [1, 0, 1, 0, 0]


def test_a_round_costs_eight_bytes_a_parameter_that_is_sent() -> None:
    rig = Rig("topk", near=ring(6), initial=some(6), options={"share": 0.13})
    rig.run(rounds=3)
    count = 7  # ceil(0.13 * 50)
    assert rig.bytes_by_kind() == {"model": 3 * 12 * count * 8}


def test_gaps_are_filled_with_own_values_and_weights_are_kept() -> None:
    models = some(5)
    rig = Rig("topk", near=ring(5), initial=models, options={"share": 0.2})
    rig.run(rounds=1)
    for i in range(5):
        expected = models[i].astype(np.float64)
        for sender, target, message in rig.sends:
            if target == i:
                where = indices(message)
                expected[where] += (models[sender] - models[i])[where] / 3
        assert np.allclose(rig.models[i], expected, atol=1e-6)


def test_with_all_parameters_it_is_dpsgd() -> None:
    task = Quadratic(some(5, 4), 0.1)
    made = [
        Rig(kind, near=ring(5), initial=some(5), train=task, options=options)
        for kind, options in (("topk", {"share": 1.0}), ("dpsgd", {}))
    ]
    for rig in made:
        rig.run(rounds=10)
    assert np.array_equal(made[0].models, made[1].models)


def test_the_mean_is_not_kept() -> None:
    task = Quadratic(some(5, 4), 0.1)
    rig = Rig("topk", near=ring(5), initial=some(5), train=task, options={"share": 0.2})
    dense = Rig("dpsgd", near=ring(5), initial=some(5), train=task)
    rig.run(rounds=3)
    dense.run(rounds=3)
    assert not np.allclose(rig.models.mean(axis=0), dense.models.mean(axis=0), atol=1e-2)


def test_what_was_lost_is_sent_when_it_changes_again() -> None:
    """A lost message counts as sent; its parameters come once they have moved."""

    def train(node: int, parameters: Vector, _: int) -> Vector:
        moved = parameters.copy()
        if node == 0:
            moved[7] += 1
        return moved

    zeros = np.zeros((2, SIZE))
    rig = Rig("topk", near=[[1], [0]], initial=zeros, train=train, options={"share": 0.02})
    rig.fates = lambda s, _, m: Fate.LOST if s == 0 and m.round == 0 else Fate.ARRIVES
    rig.run(rounds=1)
    assert rig.models[1][7] == 0
    rig.run(rounds=2)
    assert rig.models[1][7] > 0
    assert [indices(m) for s, _, m in rig.sends if s == 0] == [[7], [7]]


@pytest.mark.parametrize("share", [0, 1.5, "much"])
def test_the_share_is_checked(share: Any) -> None:
    with pytest.raises(ConfigError):
        algorithms.make("topk", {"share": share})
