"""DivShare against its definition, and whole runs of it (its parts: test_fragments.py)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.core.effects import DropQueued, Effect, Send, Train
from node.core.events import ModelAdopted, PeerChange, PeerChanged, Received, Trained
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Layout, Vector, resolve, take
from node.core.rng import derive_seed
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, complete, name

LAYOUT = Layout.of({"w": (7, 11), "b": (13,)})
D = LAYOUT.size
SEED = derive_seed(1, "fragments")
"""Of the partition, in a run of seed 1."""
GN_LENET = Layout.of(
    {
        "conv1.weight": (32, 3, 5, 5), "conv1.bias": (32,),
        "norm1.weight": (32,), "norm1.bias": (32,),
        "conv2.weight": (32, 32, 5, 5), "conv2.bias": (32,),
        "norm2.weight": (32,), "norm2.bias": (32,),
        "conv3.weight": (64, 32, 5, 5), "conv3.bias": (64,),
        "norm3.weight": (64,), "norm3.bias": (64,),
        "fc.weight": (10, 1024), "fc.bias": (10,),
    }
)  # fmt: skip


def node(**options: Any) -> Rig:
    """Node 0 of nine that know each other; it gets its events from the test."""
    chosen = {"omega": 0.2, "degree": 3, **options}
    return Rig(
        "divshare", near=complete(9), initial=np.zeros((9, D)), layout=LAYOUT, options=chosen
    )


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def train(rig: Rig, model: Vector, *, at: int = 0) -> list[Effect]:
    """What a node does with a training result."""
    job = rig.round(at) + 1
    return rig.feed(at, Trained(job=job, parameters=model, loss=1.0, steps=8))


def ones() -> Vector:
    return np.ones(D, dtype=np.float32)


def fragment(sender: int, number: int, round_: int, value: float) -> Received:
    part = take(value * ones(), Fragment(number, 5, SEED), LAYOUT)
    message = PeerMessage(kind="fragment", round=round_, part=part)
    return Received(sender=name(sender), message=message)


def random_models(nodes: int, d: int = 12) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(nodes, d))


# --- what a node sends


def test_a_round_sends_each_fragment_to_degree_distinct_peers() -> None:
    model = np.arange(D, dtype=np.float32)
    sent = sends(train(node(), model))
    assert len(sent) == 5 * 3
    recipients = Counter((effect.message.part.where.number, effect.target) for effect in sent)
    assert set(recipients.values()) == {1}
    # J * S bytes a round, as for J whole models (algorithms' notes, section 1).
    assert sum(effect.message.model_bytes for effect in sent) == 3 * D * 4
    for effect in sent:
        part = effect.message.part
        assert part.values.tolist() == model[resolve(part.where, LAYOUT)].tolist()


def test_recipients_and_order_are_drawn_anew_each_round_and_from_the_seed() -> None:
    def orders() -> list[list[tuple[str, int]]]:
        rig = node()
        rounds = [sends(train(rig, ones())) for _ in range(2)]
        return [[(s.target, s.message.part.where.number) for s in sent] for sent in rounds]

    first, again = orders(), orders()
    assert first == again
    assert first[0] != first[1]


def test_the_default_degree_is_the_paper_s() -> None:
    assert len(sends(train(node(degree=None), ones()))) == 5 * 4  # ceil(log2 9)


def test_the_old_round_is_cancelled_before_the_new_one_is_queued() -> None:
    effects = train(node(), ones())
    kinds = [type(effect) for effect in effects if isinstance(effect, DropQueued | Send | Train)]
    assert kinds == [DropQueued] + [Send] * 15 + [Train]


def test_a_lost_peer_gets_nothing_until_it_is_back() -> None:
    rig, gone = node(), name(3)
    rig.feed(0, PeerChanged(peer=gone, change=PeerChange.LOST))
    for _ in range(5):
        assert gone not in {send.target for send in sends(train(rig, ones()))}
    rig.feed(0, PeerChanged(peer=gone, change=PeerChange.CONNECTED))
    assert gone in [send.target for _ in range(6) for send in sends(train(rig, ones()))]


@pytest.mark.parametrize(
    ("layout", "omega"), [(LAYOUT, 1.0), (LAYOUT, 0.3), (LAYOUT, 0.1), (GN_LENET, 0.1)]
)
def test_a_node_queues_degree_models_a_round_to_the_byte(layout: Layout, omega: float) -> None:
    """Sent, cancelled and still queued together, whatever the fragments are."""
    rig = Rig(
        "divshare",
        near=complete(8),
        initial=random_models(8, layout.size),
        layout=layout,
        options={"omega": omega, "degree": 3},
        order=Order.SHUFFLED,
    )
    rig.run(rounds=4)
    queued = Counter[tuple[int, int]]()
    for sender, _, message in (*rig.sends, *rig.cancelled, *rig.waiting):
        queued[sender, message.round] += message.model_bytes
    assert rig.sends
    assert rig.cancelled
    assert set(queued) == {(i, r) for i in range(8) for r in range(rig.round(i))}
    assert set(queued.values()) == {3 * layout.size * 4}


def test_fragments_of_the_paper_s_model_are_those_of_the_artifact() -> None:
    """89,834 parameters: nine fragments of 8,981, and the last takes all remainders."""
    assert GN_LENET.size == 89_834
    sizes = [resolve(Fragment(number, 10, SEED), GN_LENET).size for number in range(10)]
    assert sizes == [8_981] * 9 + [9_005]


# --- what a node averages


def test_what_is_sent_is_the_trained_model_before_aggregation() -> None:
    rig = node()
    rig.feed(0, fragment(1, 0, 0, 100.0))
    effects = train(rig, 0 * ones())
    assert all(not effect.message.part.values.any() for effect in sends(effects))
    expected = np.zeros(D)
    expected[resolve(Fragment(0, 5, SEED), LAYOUT)] = 50.0
    assert rig.peers[0].parameters.tolist() == expected.tolist()


def test_a_newer_fragment_replaces_and_an_older_one_does_not() -> None:
    rig = node()
    for round_, value in ((4, 10.0), (6, 30.0), (5, 20.0)):
        rig.feed(0, fragment(1, 2, round_, value))
    train(rig, 0 * ones())
    covered = resolve(Fragment(2, 5, SEED), LAYOUT)
    assert set(rig.peers[0].parameters[covered].tolist()) == {15.0}
    counts = rig.of(0, "aggregate")[-1]
    assert (counts["fragments"], counts["replaced"], counts["stale"]) == (1, 1, 1)
    rig.feed(0, fragment(1, 2, 6, 99.0))  # a repeat of what was used already is stale too
    train(rig, 0 * ones())
    assert not rig.peers[0].parameters.any()


def test_the_fragments_of_a_peer_that_was_started_again_are_new() -> None:
    rig = node()
    rig.feed(0, fragment(1, 2, 40, 10.0))
    train(rig, 0 * ones())
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.LOST))
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.CONNECTED))
    rig.feed(0, fragment(1, 2, 7, 30.0))
    train(rig, 0 * ones())
    counts = rig.of(0, "aggregate")[-1]
    assert (counts["fragments"], counts["stale"]) == (1, 0)


def test_what_belongs_to_a_model_that_was_given_up_is_void() -> None:
    rig = node()
    train(rig, ones())
    rig.feed(0, fragment(1, 2, 3, 10.0))
    assert {sender for sender, _, _ in rig.waiting} == {0}
    rig.feed(0, ModelAdopted(round=7, parameters=0 * ones()))
    assert not rig.waiting  # the old model is not sent any more
    rig.feed(0, Trained(job=3, parameters=0 * ones(), loss=1.0, steps=8))
    assert rig.of(0, "aggregate")[-1]["fragments"] == 0
    assert not rig.peers[0].parameters.any()


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.FAILS])
def test_without_a_lost_fragment_its_parameters_are_the_mean_of_the_rest(fate: Fate) -> None:
    """Nobody counts it, nobody sends it again; all other parameters are as if it had come."""

    def lost(sender: int, target: int, message: PeerMessage) -> Fate:
        assert message.part is not None
        assert isinstance(message.part.where, Fragment)
        hit = (sender, target, message.round, message.part.where.number) == (1, 0, 0, 2)
        return fate if hit else Fate.ARRIVES

    models = random_models(3, D)
    options = {"omega": 0.2, "degree": 2}
    rig = Rig(
        "divshare", near=complete(3), initial=models, layout=LAYOUT, options=options, fates=lost
    )
    for i in range(3):
        train(rig, rig.initial[i], at=i)
    rig.deliver()
    of_sender = [send for send in rig.sends if (send[0], send[1]) == (1, 0)]
    assert len(of_sender) == 5  # each fragment once
    assert not rig.waiting
    models = rig.initial.astype(np.float64)
    train(rig, rig.initial[0])
    expected = models.mean(axis=0)
    without = resolve(Fragment(2, 5, SEED), LAYOUT)
    expected[without] = models[[0, 2]].mean(axis=0)[without]
    np.testing.assert_allclose(rig.peers[0].parameters, expected, rtol=1e-6)
    counts = rig.of(0, "aggregate")[-1]
    assert (counts["fragments"], counts["coverage"]) == (9, 1.0)
    assert (counts["replaced"], counts["stale"]) == (0, 0)


# --- runs


def test_nodes_come_together_though_messages_are_lost_doubled_and_out_of_order() -> None:
    draw = np.random.default_rng(1)
    fates = (Fate.ARRIVES, Fate.ARRIVES, Fate.LOST, Fate.TWICE)
    centres = random_models(8)
    rig = Rig(
        "divshare",
        near=complete(8),
        initial=np.zeros((8, 12)),
        options={"omega": 0.25, "degree": 3, "local_steps": 1},
        train=Quadratic(centres=centres, rate=0.05),
        order=Order.SHUFFLED,
        fates=lambda sender, target, message: fates[draw.integers(4)],
    )
    rig.run(rounds=150)
    assert np.abs(rig.models.mean(axis=0) - centres.mean(axis=0)).max() < 0.25
    alone = Rig(
        "divshare",
        near=complete(8),
        initial=np.zeros((8, 12)),
        options={"omega": 0.25, "degree": 3, "local_steps": 1},
        train=Quadratic(centres=centres, rate=0.05),
        fates=lambda sender, target, message: Fate.LOST,
    )
    alone.run(rounds=150)
    assert rig.distance < 0.2 * alone.distance
    assert all(isinstance(f["stale"], int) for f in rig.of(0, "aggregate"))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    def run(seed: int) -> bytes:
        rig = Rig(
            "divshare",
            near=complete(6),
            initial=random_models(6),
            options={"omega": 0.25, "degree": 2},
            order=Order.SHUFFLED,
            seed=seed,
        )
        rig.run(rounds=12)
        return rig.models.tobytes()

    assert run(1) == run(1)
    assert run(1) != run(2)


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omgea": 0.1}, "did you mean 'omega'"),
        ({"omega": "much"}, "expected float"),
        ({"omega": 0.0}, "omega must be above 0"),
        ({"degree": 0}, "degree must be at least 1"),
        ({"local_steps": True}, "expected int"),
        ({"permutation": "never"}, "fixed, per_round, per_node_round"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make("divshare", options)


def test_an_unknown_algorithm_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'devshare'; did you mean 'divshare'"):
        algorithms.find("devshare")
