"""SWIFT against its paper: weights, mailbox, communication set, broadcast."""

from __future__ import annotations

from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import algorithms
from node.core.effects import Send
from node.core.events import PeerChange, PeerChanged, Received, Trained
from node.core.messages import PeerMessage
from node.core.parts import Part, Span, Whole
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, complete, name, ring, star

SIZE = 4


def letter(value: float, *, round_: int, degree: int = 2) -> PeerMessage:
    part = Part(where=Whole(), values=np.full(SIZE, value, dtype=np.float32))
    return PeerMessage(kind="model", round=round_, part=part, fields={"degree": degree})


def train(rig: Rig, node: int, values: Any) -> list[Send]:
    """Give a node a training result; returns what it sends."""
    model = np.array(values, dtype=np.float32)
    model.flags.writeable = False
    event = Trained(job=rig.round(node) + 1, parameters=model, loss=1.0, steps=1)
    return [effect for effect in rig.feed(node, event) if isinstance(effect, Send)]


def on_ring(**options: Any) -> Rig:
    """Node 0 has the neighbours 1 and 4; all start from 0."""
    return Rig("swift", near=ring(5), initial=np.zeros((5, SIZE)), options=options)


def hear(rig: Rig, node: int, sender: int, message: PeerMessage) -> None:
    rig.feed(node, Received(sender=name(sender), message=message))


def value(rig: Rig) -> float:
    (one,) = set(rig.peers[0].parameters.tolist())
    return float(one)


# --- weights


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.floats(0.3, 1.0), st.integers(0, 10**6))
def test_the_matrix_of_all_nodes_holds_the_paper_s_conditions(n: int, p: float, seed: int) -> None:
    """Node i trains to e_i and has heard e_j of each neighbour: its average is row i of W."""
    graph = nx.gnp_random_graph(n, p, seed=seed)
    graph.add_edges_from((i, i + 1) for i in range(n - 1))
    near = [sorted(graph[i]) for i in range(n)]
    rig = Rig("swift", near=near, initial=np.zeros((n, n)))
    unit = np.eye(n, dtype=np.float32)
    rows = []
    for i in range(n):
        for j in near[i]:
            part = Part(where=Whole(), values=unit[j])
            fields = {"degree": len(near[j])}
            hear(rig, i, j, PeerMessage(kind="model", round=0, part=part, fields=fields))
        train(rig, i, unit[i])
        rows.append(rig.peers[i].parameters.astype(np.float64))
        own = rig.of(i, "aggregate")[0]["own_weight"]
        assert own == pytest.approx(rows[i][i], abs=1e-6)
    matrix = np.array(rows)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)  # symmetric
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)  # with that: doubly stochastic
    assert (matrix >= 0).all()
    assert (np.diag(matrix) > 0).all()
    assert ((matrix > 0) == (nx.to_numpy_array(graph, nodelist=range(n)) + np.eye(n) > 0)).all()


@pytest.mark.parametrize("near", [ring(6), complete(5)])
def test_on_a_regular_graph_all_of_a_neighbourhood_weigh_the_same(near: list[list[int]]) -> None:
    """What the repository's selection gives there: 1 / (degree + 1)."""
    d = len(near[0])
    rig = Rig("swift", near=near, initial=np.zeros((len(near), SIZE)))
    for j in near[0]:
        hear(rig, 0, j, letter(d + 1.0, round_=0, degree=d))
    train(rig, 0, [0.0] * SIZE)
    assert value(rig) == pytest.approx(d)


# --- mailbox


def test_a_stored_model_counts_until_a_newer_one_comes() -> None:
    rig = on_ring()
    hear(rig, 0, 1, letter(3.0, round_=0))
    hear(rig, 0, 4, letter(6.0, round_=0))
    for _ in range(3):
        train(rig, 0, [0.0] * SIZE)
        assert value(rig) == pytest.approx(3.0)
    hear(rig, 0, 1, letter(9.0, round_=2))
    hear(rig, 0, 1, letter(99.0, round_=1))  # overtaken: the newer one stays
    train(rig, 0, [0.0] * SIZE)
    assert value(rig) == pytest.approx(5.0)
    assert [f["age_mean"] for f in rig.of(0, "aggregate")] == [0.0, 1.0, 2.0, (1 + 3) / 2]


def test_fresh_uses_mail_once_and_keeps_the_weight_of_the_silent() -> None:
    rig = on_ring(memory="fresh")
    train(rig, 0, [6.0] * SIZE)
    assert value(rig) == 6.0  # nobody has been heard: all weight is its own
    hear(rig, 0, 1, letter(3.0, round_=0))
    train(rig, 0, [6.0] * SIZE)
    assert value(rig) == pytest.approx(6 - 3 / 3)
    train(rig, 0, [6.0] * SIZE)
    assert value(rig) == 6.0
    hear(rig, 0, 1, letter(3.0, round_=0))  # the same again
    train(rig, 0, [6.0] * SIZE)
    assert value(rig) == 6.0
    own = [f["own_weight"] for f in rig.of(0, "aggregate")]
    assert own == pytest.approx([1, 2 / 3, 1, 1])


def test_who_has_not_been_heard_counts_with_the_model_all_started_from() -> None:
    rig = Rig("swift", near=ring(5), initial=np.full((5, SIZE), 3.0))
    train(rig, 0, [9.0] * SIZE)
    assert value(rig) == pytest.approx(5.0)  # (9 + 3 + 3) / 3


def test_a_lost_neighbour_has_no_weight_until_it_is_heard_again() -> None:
    rig = on_ring()
    hear(rig, 0, 1, letter(3.0, round_=7))
    hear(rig, 0, 4, letter(6.0, round_=7))
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.LOST))
    assert {send.target for send in train(rig, 0, [0.0] * SIZE)} == {name(4)}
    assert value(rig) == pytest.approx(2.0)
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.CONNECTED))
    assert len(train(rig, 0, [0.0] * SIZE)) == 2
    assert value(rig) == pytest.approx(2.0)
    hear(rig, 0, 1, letter(3.0, round_=0))  # a new process begins at an earlier round
    train(rig, 0, [0.0] * SIZE)
    assert value(rig) == pytest.approx(3.0)


IRREGULAR = [[1, 2, 3, 4], [0, 2], [0, 1], [0], [0, 5], [4]]


def sweep(rig: Rig) -> None:
    """All end a round at the same time, having trained nothing; then all messages arrive."""
    for i in range(len(rig.near)):
        train(rig, i, rig.peers[i].parameters)
    rig.deliver()


def test_a_synchronous_sweep_on_an_irregular_graph_is_x_to_w_x_and_keeps_the_mean() -> None:
    """Broadcast, and average in the next round what has come of all."""
    initial = np.random.default_rng(5).normal(size=(6, SIZE))
    rig = Rig("swift", near=IRREGULAR, initial=initial, options={"average_every": 2})
    w = np.zeros((6, 6))
    for i, others in enumerate(IRREGULAR):
        for j in others:
            w[i, j] = 1 / (1 + max(len(others), len(IRREGULAR[j])))
    w += np.diag(1 - w.sum(axis=1))
    for _ in range(3):
        before = rig.models
        sweep(rig)
        sweep(rig)
        np.testing.assert_allclose(rig.models, w @ before, atol=1e-6)
        np.testing.assert_allclose(rig.models.mean(axis=0), initial.mean(axis=0), atol=1e-6)


def test_before_a_neighbour_is_heard_it_counts_with_the_own_start_and_degree() -> None:
    """Exactly as the module says: not symmetric where degrees differ, until both have heard."""
    initial = np.array([[1.0] * SIZE, [2.0] * SIZE, [4.0] * SIZE, [8.0] * SIZE])
    rig = Rig("swift", near=star(4), initial=initial)
    for i in range(4):
        train(rig, i, [10.0 * (i + 1)] * SIZE)
    hub = 10 / 4 + 3 * 1 / 4
    leaves = [(20 + 2) / 2, (30 + 4) / 2, (40 + 8) / 2]
    np.testing.assert_allclose(rig.models[:, 0], [hub, *leaves], rtol=1e-6)
    rig.deliver()
    for i in range(4):
        train(rig, i, [0.0] * SIZE)
    # 1/4 in both directions, with what was heard: the trained models of the first round.
    np.testing.assert_allclose(rig.models[:, 0], [90 / 4, 10 / 4, 10 / 4, 10 / 4], rtol=1e-6)


def test_fresh_keeps_the_mean_where_both_ends_of_an_edge_have_heard_or_neither() -> None:
    initial = np.random.default_rng(5).normal(size=(6, SIZE))
    options = {"memory": "fresh", "average_every": 2}
    rig = Rig("swift", near=IRREGULAR, initial=initial, options=options)
    heard = {(0, 1), (1, 0), (4, 5), (5, 4)}
    rig.fates = lambda i, j, m: Fate.ARRIVES if (i, j) in heard else Fate.LOST
    sweep(rig)
    sweep(rig)
    assert not np.allclose(rig.models, initial)
    np.testing.assert_allclose(rig.models.mean(axis=0), initial.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("memory", ["stored", "fresh"])
def test_of_a_lost_broadcast_the_letter_before_stays_or_its_weight_stays_here(memory: str) -> None:
    """Node 0 hears 4 and 1 in round 0, and 4 alone in round 1."""
    rig = on_ring(memory=memory)
    rig.fates = lambda i, j, m: Fate.LOST if (i, j, m.round) == (1, 0, 1) else Fate.ARRIVES
    means = []
    for of_1, of_4 in ((3.0, 6.0), (30.0, 12.0)):
        train(rig, 1, [of_1] * SIZE)
        train(rig, 4, [of_4] * SIZE)
        rig.deliver()
        train(rig, 0, [9.0] * SIZE)
        means.append(value(rig))
    stored = memory == "stored"
    last = (9 + 3 + 12) / 3 if stored else (2 * 9 + 12) / 3
    assert means == pytest.approx([(9 + 3 + 6) / 3, last])
    aggregate = rig.of(0, "aggregate")[-1]
    assert aggregate["models"] == (2 if stored else 1)
    assert aggregate["own_weight"] == pytest.approx(1 / 3 if stored else 2 / 3)
    assert aggregate["age_mean"] == (0.5 if stored else 0.0)


# --- order


def test_the_paper_s_order_averages_what_training_began_with_and_adds_the_update() -> None:
    rig = on_ring(order="paper")
    first = [message for sender, _, message in rig.waiting if sender == 0]
    assert [message.round for message in first] == [0, 0]  # broadcast when the round begins
    hear(rig, 0, 1, letter(3.0, round_=0))
    hear(rig, 0, 4, letter(6.0, round_=0))
    sent = train(rig, 0, [5.0] * SIZE)  # from 0
    assert rig.evaluated[0][1].tolist() == [3.0] * SIZE  # (0 + 3 + 6) / 3
    assert value(rig) == 8.0
    for send in sent:
        assert isinstance(send.message, PeerMessage)
        assert send.message.round == 1
        assert send.message.part is not None
        assert send.message.part.values.tolist() == [8.0] * SIZE
    train(rig, 0, [8.5] * SIZE)
    assert value(rig) == pytest.approx((8 + 3 + 6) / 3 + 0.5)


def test_the_paper_s_order_keeps_the_mean_but_for_the_updates() -> None:
    """X <- X W - gamma G: all rounds at once, each of which adds 1 to every model."""
    initial = np.random.default_rng(5).normal(size=(6, SIZE))
    rig = Rig("swift", near=IRREGULAR, initial=initial, options={"order": "paper"})
    start = rig.distance
    for k in range(1, 9):
        rig.deliver()
        for i in range(6):
            train(rig, i, rig.peers[i].parameters + np.float32(1))
        np.testing.assert_allclose(rig.models.mean(axis=0), initial.mean(axis=0) + k, atol=1e-5)
    assert rig.distance < 0.5 * start


# --- communication set, broadcast


def test_it_averages_in_every_sth_round_and_broadcasts_in_each() -> None:
    rig = on_ring(average_every=3)
    hear(rig, 0, 1, letter(3.0, round_=0))
    hear(rig, 0, 4, letter(6.0, round_=0))
    seen = []
    for _ in range(6):
        sent = train(rig, 0, [0.0] * SIZE)
        assert sorted(send.target for send in sent) == [name(1), name(4)]
        seen.append(value(rig))
    assert seen == pytest.approx([0, 0, 3, 0, 0, 3])
    assert [f["round"] for f in rig.of(0, "aggregate")] == [2, 5]


def test_what_is_broadcast_is_the_trained_model_with_the_degree() -> None:
    rig = Rig("swift", near=star(5), initial=np.zeros((5, SIZE)))
    hear(rig, 0, 1, letter(50.0, round_=0, degree=1))
    sent = train(rig, 0, [2.0] * SIZE)
    assert value(rig) != 2.0
    for send in sent:
        assert isinstance(send.message, PeerMessage)
        assert send.message.part is not None
        assert send.message.part.values.tolist() == [2.0] * SIZE
        assert dict(send.message.fields) == {"degree": 4}
    assert sum(send.message.model_bytes for send in sent) == 4 * SIZE * 4


def test_a_newer_broadcast_replaces_one_that_is_still_queued() -> None:
    rig = on_ring()
    for _ in range(20):
        train(rig, 0, [1.0] * SIZE)
    queued = [p.send.message for p in rig.pool if p.send is not None and p.sender == 0]
    assert [message.round for message in queued] == [19, 19]


def test_on_a_link_too_slow_for_all_each_neighbour_gets_its_share() -> None:
    """One message of a broadcast of seven leaves before the next one replaces the others."""
    rig = Rig("swift", near=complete(8), initial=np.zeros((8, SIZE)))
    rig.pool.clear()
    served = Counter(train(rig, 0, [1.0] * SIZE)[0].target for _ in range(700))
    assert all(abs(served[name(j)] - 100) < 5 * np.sqrt(100) for j in range(1, 8))


def test_what_is_no_model_is_refused() -> None:
    rig = on_ring()
    part = Part(where=Span(0, 2), values=np.ones(2, dtype=np.float32))
    hear(rig, 0, 1, PeerMessage(kind="model", round=0, part=part, fields={"degree": 2}))
    hear(rig, 0, 1, letter(1.0, round_=0, degree=9))
    hear(rig, 0, 1, PeerMessage(kind="model", round=0))
    assert len(rig.of(0, "refused")) == 3
    train(rig, 0, [6.0] * SIZE)
    assert value(rig) == pytest.approx(2.0)


@pytest.mark.parametrize("order", ["train_first", "paper"])
def test_a_run_costs_rounds_times_degrees_models_less_those_that_were_replaced(order: str) -> None:
    """To the byte: sent, replaced in the queue, and still in it."""
    options = {"order": order}
    initial = np.zeros((6, SIZE))
    rig = Rig("swift", near=IRREGULAR, initial=initial, options=options, order=Order.SHUFFLED)
    rig.run(rounds=40)
    broadcasts = [rig.round(i) + (order == "paper") for i in range(6)]  # there as a round begins
    models = sum(k * len(others) for k, others in zip(broadcasts, IRREGULAR, strict=True))
    found = [message for _, _, message in (*rig.sends, *rig.cancelled, *rig.waiting)]
    assert sum(message.model_bytes for message in found) == models * SIZE * 4
    assert len(rig.cancelled) > 10


# --- runs


@pytest.mark.parametrize("memory", ["stored", "fresh"])
def test_it_learns_together_wait_free_in_any_order(memory: str) -> None:
    draw = np.random.default_rng(1)
    centres = np.random.default_rng(2).normal(size=(6, SIZE))

    def run(seed: int, fates: Any) -> Rig:
        rig = Rig(
            "swift",
            near=ring(6),
            initial=np.zeros((6, SIZE)),
            options={"memory": memory, "local_steps": 1},
            train=Quadratic(centres=centres, rate=0.05),
            order=Order.SHUFFLED,
            fates=fates,
            seed=seed,
        )
        rig.run(rounds=200)
        return rig

    lossy = run(1, lambda i, j, m: Fate.LOST if draw.random() < 0.2 else Fate.TWICE)
    assert np.abs(lossy.models.mean(axis=0) - centres.mean(axis=0)).max() < 0.25
    apart = centres - centres.mean(axis=0)  # where training alone would leave them
    assert lossy.distance < 0.3 * np.sqrt((apart**2).sum(axis=1).mean())

    def arrives(sender: int, target: int, message: PeerMessage) -> Fate:
        return Fate.ARRIVES

    assert run(3, arrives).models.tobytes() == run(3, arrives).models.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average_every": 0}, "average_every must be at least 1"),
        ({"local_steps": 0}, "local_steps must be at least 1"),
        ({"memory": "none"}, "stored, fresh"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make("swift", options)
