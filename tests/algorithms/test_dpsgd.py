"""D-PSGD against its definition, and the maths of its averaging."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.averaging import metropolis_weights, partial_mix, weighted_mix
from node.config import Mode
from node.core.effects import Train
from node.core.events import ModelAdopted, Received, ShareSkipped
from node.core.ids import NodeId
from node.core.messages import PeerMessage, Scalar
from node.core.parts import IndexSet, Part, Span, Vector, Whole
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, always, name, ring, star

SIZE = 6
Matrix = np.ndarray[Any, Any]


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """Neighbours in a graph of 2 to 9 nodes with any edges, connected or not."""
    count = draw(st.integers(2, 9))
    pairs = [frozenset((i, j)) for i in range(count) for j in range(i)]
    edges = set(draw(st.lists(st.sampled_from(pairs), max_size=len(pairs))))
    return [[j for j in range(count) if frozenset((i, j)) in edges] for i in range(count)]


def mixing(near: list[list[int]]) -> Matrix:
    """W of the paper, from the rule alone."""
    count = len(near)
    matrix = np.zeros((count, count))
    for i in range(count):
        for j in near[i]:
            matrix[i, j] = 1 / (1 + max(len(near[i]), len(near[j])))
        matrix[i, i] = 1 - matrix[i].sum()
    return matrix


def some(nodes: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=(nodes, SIZE)).astype(np.float32)


# --- the maths


@given(graphs())
def test_weights_are_symmetric_and_doubly_stochastic(near: list[list[int]]) -> None:
    count = len(near)
    matrix = np.zeros((count, count))
    for i in range(count):
        degrees = {NodeId(str(j)): len(near[j]) for j in near[i]}
        for peer, weight in metropolis_weights(len(near[i]), degrees).items():
            matrix[i, int(peer)] = weight
        matrix[i, i] = 1 - matrix[i].sum()
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(matrix.sum(axis=0), 1)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert matrix.min() >= 0
    assert matrix.diagonal().min() > 0  # so that it mixes on every connected graph


@given(st.lists(st.floats(0, 0.2), max_size=5), st.integers(0, 2**32 - 1))
def test_a_mix_is_the_weighted_sum(weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=SIZE).astype(np.float32)
    models = [rng.normal(size=SIZE).astype(np.float32) for _ in weights]
    expected = (1 - sum(weights)) * own.astype(np.float64)
    for weight, model in zip(weights, models, strict=True):
        expected += weight * model
    mixed = weighted_mix(own, zip(weights, models, strict=True))
    assert mixed.dtype == np.float32
    assert np.allclose(mixed, expected, atol=1e-6)
    whole = np.arange(SIZE)
    parts = [(weight, whole, model) for weight, model in zip(weights, models, strict=True)]
    assert np.allclose(partial_mix(own, parts), expected, atol=1e-6)


# --- rounds of all


@settings(max_examples=50)
@given(graphs(), st.integers(0, 2**32 - 1), st.sampled_from(Order))
def test_a_round_is_one_multiplication_by_w_and_keeps_the_mean(
    near: list[list[int]], seed: int, order: Order
) -> None:
    models = some(len(near), seed)
    rig = Rig("dpsgd", near=near, initial=models, order=order)
    rig.run(rounds=1)
    assert np.allclose(rig.models, mixing(near) @ models, atol=1e-5)
    assert np.allclose(rig.models.mean(axis=0), models.mean(axis=0), atol=1e-5)


def test_the_distance_shrinks_by_the_second_eigenvalue() -> None:
    """The known rate: |X_k - mean| <= lambda^k |X_0 - mean|, and lambda in the end."""
    near = ring(8)
    values = np.sort(np.abs(np.linalg.eigvalsh(mixing(near))))
    rate = values[-2]
    assert rate == pytest.approx(1 / 3 + 2 / 3 * np.cos(2 * np.pi / 8))
    rig = Rig("dpsgd", near=near, initial=some(8))
    distances = [rig.distance]
    for k in range(1, 21):
        rig.run(rounds=k)
        distances.append(rig.distance)
        assert distances[k] <= rate**k * distances[0] * (1 + 1e-4)
    assert distances[20] / distances[19] == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("order", ["train_first", "paper"])
def test_training_is_the_recursion_of_each_order(order: str) -> None:
    """paper: X <- W X - g(X), with one step Algorithm 1; train_first: X <- W (X - g(X))."""
    near, rate = star(5), 0.25
    task = Quadratic(some(5, 1) * 3, rate)
    options = {"order": order, "local_steps": 1}
    rig = Rig("dpsgd", near=near, initial=some(5, 2), train=task, options=options)
    expected, matrix = rig.initial.astype(np.float64), mixing(near)
    for k in range(1, 31):
        gradient = rate * (expected - task.centres)
        if order == "paper":
            expected = matrix @ expected - gradient
        else:
            expected = matrix @ (expected - gradient)
        rig.run(rounds=k)
        assert np.allclose(rig.models, expected, atol=1e-4)
    # The mean takes part in no averaging: it is gradient descent on the sum.
    start = rig.initial.mean(axis=0) - task.optimum
    assert np.allclose(rig.models.mean(axis=0) - task.optimum, start * (1 - rate) ** 30, atol=1e-4)


def test_a_round_costs_a_model_for_each_direction_of_each_edge() -> None:
    rig = Rig("dpsgd", near=ring(6), initial=some(6))
    rig.run(rounds=5)
    assert rig.bytes_by_kind() == {"model": 5 * 12 * SIZE * 4}


def test_a_star_mixes_by_the_larger_degree() -> None:
    values = np.repeat([[0.0], [4.0], [8.0], [12.0]], SIZE, axis=1)
    rig = Rig("dpsgd", near=star(4), initial=values)
    rig.run(rounds=1)
    # Every edge has the weight 1 / (1 + 3): the hub keeps a quarter of itself.
    assert rig.models[:, 0].tolist() == [6.0, 3.0, 6.0, 9.0]


def test_a_lost_message_leaves_its_weight_with_the_own_model_in_that_round_only() -> None:
    models = some(6)
    rig = Rig("dpsgd", near=ring(6), initial=models)
    rig.fates = lambda sender, target, _: Fate.LOST if (sender, target) == (1, 2) else Fate.ARRIVES
    rig.run(rounds=1)
    matrix = mixing(ring(6))
    matrix[2, 2] += matrix[2, 1]
    matrix[2, 1] = 0
    assert np.allclose(rig.models, matrix @ models, atol=1e-5)
    (share,) = rig.of(2, "share")
    assert share["missing"] == [name(1)]
    assert not np.allclose(rig.models.mean(axis=0), models.mean(axis=0), atol=1e-3)
    rig.fates = always
    before = rig.models
    rig.run(rounds=2)
    assert np.allclose(rig.models, mixing(ring(6)) @ before, atol=1e-5)


# --- one node


A, B = name(1), name(2)


def model(value: float, *, where: IndexSet | None = None, **fields: Scalar) -> PeerMessage:
    size = SIZE if where is None else where.stop - where.start  # type: ignore[union-attr]
    part = Part(where=where or Whole(), values=np.full(size, value, dtype=np.float32))
    return PeerMessage(kind="model", round=0, attempt=1, part=part, fields=fields or {"degree": 1})


def nine(node: int, parameters: Vector, steps: int) -> Vector:
    return np.full(SIZE, 9, dtype=np.float32)


def hub(*messages: tuple[NodeId, PeerMessage]) -> Rig:
    """A round of a hub with two leaves, which train to 9; in the place of what the leaves say come
    these messages, to the deadline."""
    zeros = np.zeros((3, SIZE))
    rig = Rig("dpsgd", near=star(3), initial=zeros, train=nine, options={"local_steps": 2})
    rig.fates = lambda sender, target, _: Fate.LOST if target == 0 else Fate.ARRIVES
    while not rig.sends:
        rig.step()
    for sender, message in messages:
        rig.feed(0, Received(sender=sender, message=message))
    rig.run(rounds=1)
    return rig


def test_the_weight_of_a_missing_peer_goes_to_the_own_model() -> None:
    # Own degree 2, so each edge weighs 1/3: a third of A, the rest of the own model.
    assert hub((A, model(0.0))).models[0].tolist() == [6.0] * SIZE


def test_a_skipped_round_keeps_what_was_trained() -> None:
    rig = Rig("dpsgd", near=star(3), initial=np.zeros((3, SIZE)), train=nine)
    while 0 not in rig._offered:
        rig.step()
    effects = rig.feed(0, ShareSkipped(round=0))
    assert rig.models[0].tolist() == [9.0] * SIZE
    assert rig.round(0) == 1
    assert [effect.steps for effect in effects if isinstance(effect, Train)] == [8]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (model(0.0, degree=0), "degree 0 among 3 members"),
        (model(0.0, degree=3), "degree 3 among 3 members"),
        (model(0.0, degree="2"), "degree '2'"),
        (model(0.0, other=1), "degree None"),
        (model(0.0, where=Span(0, SIZE)), "not the parameters that are due"),
        (
            PeerMessage(kind="model", round=0, attempt=1, fields={"degree": 1}),
            "not the parameters that are due",
        ),
        (PeerMessage(kind="else", round=0, attempt=1, fields={"degree": 1}), "a message 'else'"),
    ],
)
def test_what_is_no_model_of_this_round_is_refused_and_its_weight_kept(
    message: PeerMessage, reason: str
) -> None:
    rig = hub((A, message), (B, model(9.0)))
    assert rig.models[0].tolist() == [9.0] * SIZE
    (refused,) = rig.of(0, "refused")
    assert reason in refused["reason"]


def test_the_message_is_the_trained_model_with_this_round_s_degree() -> None:
    rig = Rig("dpsgd", near=star(3), initial=np.zeros((3, SIZE)), train=nine)
    rig.run(rounds=1)
    for sender, _, message in rig.sends:
        assert message.fields == {"degree": 2 if sender == 0 else 1}
        assert message.part is not None
        assert message.part.values.tolist() == [9.0] * SIZE


def test_between_two_averages_the_node_s_model_is_the_last_average() -> None:
    rig = Rig("dpsgd", near=star(3), initial=np.zeros((3, SIZE)), train=nine)
    while 0 not in rig._offered:
        rig.step()
    assert not rig.models[0].any()
    held, snapshot = rig.peers[0].aggregated
    assert held == 0
    assert not snapshot.any()


def test_an_adopted_model_is_trained_from() -> None:
    rig = Rig("dpsgd", near=star(3), initial=np.zeros((3, SIZE)), train=nine)
    while 0 not in rig._offered:
        rig.step()
    adopted = ModelAdopted(round=8, parameters=np.full(SIZE, 5, dtype=np.float32))
    (train,) = [e for e in rig.feed(0, adopted) if isinstance(e, Train)]
    assert train.parameters.tolist() == [5.0] * SIZE
    assert rig.round(0) == 8


def test_it_runs_in_synchronous_rounds_only_and_divshare_in_none() -> None:
    assert algorithms.find("dpsgd").MODES == (Mode.SYNC,)
    assert algorithms.find("divshare").MODES == (Mode.ASYNC,)


def test_a_round_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="local_steps must be at least 1"):
        algorithms.make("dpsgd", {"local_steps": 0})
