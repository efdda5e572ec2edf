"""AD-PSGD and SWIFT as DivShare's artifact runs them: what is sent, averaged and queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.algorithms.adpsgd_artifact import ADPSGDArtifact
from node.config import Pacing
from node.core.effects import DropQueued, Send
from node.core.events import ModelAdopted, PeerChange, PeerChanged, Received, Trained
from node.core.messages import PeerMessage
from node.core.outbox import Outbox, Outgoing, Priority
from node.core.parts import Part, Span, Whole
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, complete, name

SIZE = 6
ARTIFACTS = ("adpsgd-artifact", "swift-artifact")


def models(nodes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(nodes, SIZE))


def whole(value: float, *, round_: int, kind: str = "pong") -> PeerMessage:
    part = Part(where=Whole(), values=np.full(SIZE, value, dtype=np.float32))
    return PeerMessage(kind=kind, round=round_, part=part)


def trained(rig: Rig, node: int, value: float) -> list[Send]:
    """Give a node a training result; returns what it sends."""
    values = np.full(SIZE, value, dtype=np.float32)
    values.flags.writeable = False
    job = rig.round(node) + 1
    event = Trained(job=job, parameters=values, loss=1.0, steps=1)
    return [effect for effect in rig.feed(node, event) if isinstance(effect, Send)]


def sender(algorithm: str, **options: Any) -> Rig:
    return Rig(algorithm, near=complete(8), initial=np.zeros((8, SIZE)), options=options)


# --- adpsgd-artifact


def test_a_round_pings_half_the_degree_drawn_with_replacement() -> None:
    rig = sender("adpsgd-artifact", degree=7)
    drawn, twice = Counter[str](), 0
    for _ in range(400):
        sent = trained(rig, 0, 1.0)
        assert [send.message.kind for send in sent] == ["ping"] * 3
        drawn.update(send.target for send in sent)
        twice += len({send.target for send in sent}) < 3
    assert set(drawn) == {name(j) for j in range(1, 8)}
    expected = 400 * 3 / 7
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in drawn.values())
    share = 1 - (6 / 7) * (5 / 7)
    assert abs(twice - 400 * share) < 5 * np.sqrt(400 * share * (1 - share))


def test_a_ping_is_answered_with_the_last_trained_model_before_averaging() -> None:
    rig = sender("adpsgd-artifact", degree=2)

    def pong() -> PeerMessage:
        (answer,) = rig.feed(0, Received(sender=name(1), message=whole(6.0, round_=0, kind="ping")))
        assert isinstance(answer, Send)
        assert isinstance(answer.message, PeerMessage)
        assert (answer.target, answer.message.kind) == (name(1), "pong")
        return answer.message

    assert pong().part.values.tolist() == [0.0] * SIZE  # the initial
    trained(rig, 0, 2.0)
    assert rig.peers[0].parameters.tolist() == [4.0] * SIZE
    answer = pong()
    assert answer.part is not None
    assert (answer.part.values.tolist(), answer.round) == ([2.0] * SIZE, 0)
    assert not rig.feed(0, Received(sender=name(1), message=whole(6.0, round_=0)))  # to a pong


def test_one_model_of_each_sender_counts_the_newest() -> None:
    rig = sender("adpsgd-artifact", degree=2)
    for who, value, round_ in ((1, 9.0, 3), (1, 4.0, 5), (1, 8.0, 4), (2, 6.0, 0)):
        rig.feed(0, Received(sender=name(who), message=whole(value, round_=round_)))
    trained(rig, 0, 2.0)
    assert rig.peers[0].parameters.tolist() == [4.0] * SIZE  # (2 + 4 + 6) / 3
    record = rig.of(0, "aggregate")[-1]
    assert (record["models"], record["replaced"], record["stale"]) == (2, 1, 1)
    assert record["age_mean"] == pytest.approx((-5 + 0) / 2)
    trained(rig, 0, 3.0)  # mail is used once
    assert rig.peers[0].parameters.tolist() == [3.0] * SIZE


def test_all_pings_are_answered_so_that_degree_models_a_node_and_round_travel() -> None:
    rig = Rig("adpsgd-artifact", near=complete(8), initial=models(8), options={"degree": 6})
    rig.run(rounds=10)
    while rig.pool:  # no further rounds: what is under way arrives
        pending = rig.pool.pop(0)
        if pending.send is not None:
            rig._take(pending)
    rounds = sum(rig.round(i) for i in range(8))
    sent = rig.bytes_by_kind()
    assert sent["ping"] == sent["pong"] == rounds * 3 * SIZE * 4
    assert rig.cancelled == []


def test_what_is_no_ping_or_pong_is_refused_and_the_gone_get_nothing() -> None:
    rig = sender("adpsgd-artifact", degree=6)
    part = Part(where=Span(0, 2), values=np.ones(2, dtype=np.float32))
    rig.feed(0, Received(sender=name(1), message=PeerMessage(kind="ping", round=0, part=part)))
    rig.feed(0, Received(sender=name(1), message=whole(1.0, round_=0, kind="model")))
    assert len(rig.of(0, "refused")) == 2
    for j in range(2, 8):
        rig.feed(0, PeerChanged(peer=name(j), change=PeerChange.LOST))
    assert {send.target for send in trained(rig, 0, 1.0)} == {name(1)}
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.LOST))
    assert trained(rig, 0, 1.0) == []


# --- swift-artifact


def test_bounded_is_divshare_with_whole_models_message_by_message() -> None:
    def run(algorithm: str, **options: Any) -> tuple[Any, ...]:
        rig = Rig(
            algorithm,
            near=complete(6),
            initial=models(6),
            options={"degree": 3, **options},
            train=Quadratic(centres=models(6), rate=0.1),
            order=Order.SHUFFLED,
        )
        rig.run(rounds=15)
        sent = [(i, j, message.round) for i, j, message in rig.sends]
        return rig.models.tobytes(), sent, len(rig.cancelled)

    bounded = run("swift-artifact", queue="bounded")
    assert bounded == run("divshare", omega=1.0)
    assert bounded[2] > 0
    assert run("swift-artifact", queue="unbounded")[2] == 0


def test_a_round_sends_the_whole_model_to_degree_different_peers() -> None:
    rig = sender("swift-artifact", degree=5)
    for _ in range(20):
        sent = trained(rig, 0, 1.0)
        assert len({send.target for send in sent}) == len(sent) == 5
        assert sum(send.message.model_bytes for send in sent) == 5 * SIZE * 4


# --- messages that are lost, exactly


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.FAILS])
@pytest.mark.parametrize(
    ("lost", "travelled", "asked", "asking"),
    [
        (None, ["ping", "pong"], 4.0, 4.0),
        ("ping", ["ping"], 6.0, 2.0),
        ("pong", ["ping", "pong"], 4.0, 2.0),
    ],
)
def test_a_lost_ping_is_not_answered_and_who_misses_a_pong_does_without(
    fate: Fate, lost: str | None, travelled: list[str], asked: float, asking: float
) -> None:
    """Node 0 with the model 2 asks node 1 with the model 6."""
    rig = Rig(
        "adpsgd-artifact",
        near=complete(2),
        initial=np.array([[0.0] * SIZE, [6.0] * SIZE]),
        options={"degree": 2},
        fates=lambda source, target, message: fate if message.kind == lost else Fate.ARRIVES,
    )
    trained(rig, 0, 2.0)
    rig.deliver()
    assert [message.kind for _, _, message in rig.sends] == travelled
    trained(rig, 1, 6.0)
    trained(rig, 0, 2.0)
    assert rig.peers[1].parameters.tolist() == [asked] * SIZE
    assert rig.peers[0].parameters.tolist() == [asking] * SIZE


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.FAILS])
def test_a_lost_model_is_not_averaged_and_not_sent_again(fate: Fate) -> None:
    rig = Rig(
        "swift-artifact",
        near=complete(3),
        initial=np.zeros((3, SIZE)),
        options={"degree": 2},
        fates=lambda source, target, message: (
            fate if (source, target, message.round) == (1, 0, 0) else Fate.ARRIVES
        ),
    )
    for i, value in enumerate((1.0, 5.0, 9.0)):
        trained(rig, i, value)
    rig.deliver()
    assert len(rig.sends) == 6
    for i in range(3):
        trained(rig, i, 0.0)
    assert [rig.peers[i].parameters[0] for i in range(3)] == [4.5, 10 / np.float32(3), 2.0]


# --- a node that ends, and one that begins anew


def test_who_has_ended_its_rounds_still_answers_with_its_last_snapshot() -> None:
    rig = Rig(
        "adpsgd-artifact",
        near=complete(3),
        initial=np.zeros((3, SIZE)),
        options={"degree": 2},
        stop=1,
    )
    trained(rig, 0, 2.0)
    assert rig.round(0) == 1
    before = rig.peers[0].parameters.tolist()
    ping = whole(6.0, round_=5, kind="ping")
    answers = [e for j in (1, 1, 2) for e in rig.feed(0, Received(sender=name(j), message=ping))]
    kinds = [(send.target, send.message.kind) for send in answers if isinstance(send, Send)]
    assert kinds == [(name(1), "pong"), (name(1), "pong"), (name(2), "pong")]
    pongs = [(target, message) for source, target, message in rig.waiting if message.kind == "pong"]
    assert [target for target, _ in pongs] == [1, 2]  # the second to node 1 in place of the first
    for _, message in pongs:
        assert message.part is not None
        assert (message.part.values.tolist(), message.round) == ([2.0] * SIZE, 0)
    rig.drain()
    assert rig.peers[0].parameters.tolist() == before
    assert not rig.feed(0, Received(sender=name(1), message=whole(6.0, round_=5)))  # a pong


@pytest.mark.parametrize("algorithm", ARTIFACTS)
@pytest.mark.parametrize("queue", ["bounded", "unbounded"])
def test_what_belongs_to_a_model_that_was_given_up_is_void(algorithm: str, queue: str) -> None:
    rig = sender(algorithm, degree=6, queue=queue)
    trained(rig, 0, 1.0)
    mail = trained(rig, 1, 8.0)
    rig.feed(0, Received(sender=name(1), message=mail[0].message))
    queued = [target for source, target, _ in rig.waiting if source == 0]
    assert queued
    adopted = np.full(SIZE, 3.0, dtype=np.float32)
    adopted.flags.writeable = False
    rig.feed(0, ModelAdopted(round=7, parameters=adopted))
    assert not [target for source, target, _ in rig.waiting if source == 0]
    rig.feed(0, Trained(job=3, parameters=adopted, loss=1.0, steps=1))
    assert rig.of(0, "aggregate")[-1]["models" if algorithm[0] == "a" else "fragments"] == 0
    assert rig.peers[0].parameters.tolist() == [3.0] * SIZE


# --- queue policies


def test_an_unbounded_queue_sends_every_model_to_the_byte() -> None:
    rig = Rig(
        "swift-artifact",
        near=complete(8),
        initial=models(8),
        options={"degree": 3},
        order=Order.SHUFFLED,
    )
    rig.run(rounds=10)
    queued = Counter[tuple[int, int]]()
    for source, _, message in (*rig.sends, *rig.waiting):
        queued[source, message.round] += message.model_bytes
    assert rig.cancelled == []
    assert rig.waiting
    assert set(queued) == {(i, r) for i in range(8) for r in range(rig.round(i))}
    assert set(queued.values()) == {3 * SIZE * 4}


def rounds_with_questions(rig: Rig, outbox: Outbox, *, rounds: int) -> Iterator[int]:
    """Node 0 trains, and three others ping it; all into the runtime's real send queue."""
    for turn in range(rounds):
        values = np.ones(SIZE, dtype=np.float32)
        values.flags.writeable = False
        effects = rig.feed(0, Trained(job=turn + 1, parameters=values, loss=1.0, steps=1))
        if isinstance(rig.algorithms[0], ADPSGDArtifact):
            for j in (1, 2, 3):
                ping = whole(1.0, round_=turn, kind="ping")
                effects += rig.feed(0, Received(sender=name(j), message=ping))
        for effect in effects:
            if isinstance(effect, DropQueued):
                outbox.drop(key_prefix=effect.key_prefix, in_flight=effect.in_flight)
            elif isinstance(effect, Send):
                outbox.push(_item(effect), supersedes=effect.supersedes)
        yield turn


@pytest.mark.parametrize("algorithm", ARTIFACTS)
@pytest.mark.parametrize(("queue", "longest"), [("bounded", 6), ("unbounded", 40 * 6)])
def test_what_a_node_queues_that_can_send_nothing(algorithm: str, queue: str, longest: int) -> None:
    rig = sender(algorithm, degree=6, queue=queue)
    outbox = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda peer: 1 << 20)
    lengths = [len(outbox) for _ in rounds_with_questions(rig, outbox, rounds=40)]
    assert max(lengths) == lengths[-1] == longest
    if queue == "unbounded":
        assert lengths == [6 * (turn + 1) for turn in range(40)]  # FIFO, nothing taken back
        assert [item.number for item in outbox.queued()] == list(range(1, 241))


@pytest.mark.parametrize(("queue", "pings", "pongs"), [("bounded", 24, 0), ("unbounded", 12, 12)])
def test_a_node_too_slow_for_its_own_pings_answers_nobody_where_the_queue_is_bounded(
    queue: str, pings: int, pongs: int
) -> None:
    """Its link takes two of the six models that a round asks it for."""
    rig = sender("adpsgd-artifact", degree=6, queue=queue)
    outbox = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda peer: 1 << 20)
    sent: Counter[str] = Counter()
    for _ in rounds_with_questions(rig, outbox, rounds=12):
        for _ in range(2):
            chunk = outbox.next_chunk({name(j) for j in range(8)})
            assert chunk is not None
            assert chunk.last
            sent[chunk.item.key.rpartition("/")[2]] += 1
    assert (sent["ping"], sent["pong"]) == (pings, pongs)


def _item(effect: Send) -> Outgoing:
    assert isinstance(effect.message, PeerMessage)
    size = effect.message.model_bytes
    return Outgoing(
        target=effect.target,
        key=effect.key,
        size=size,
        body=None,
        priority=Priority.MODEL,
        model_bytes=size,
    )


@pytest.mark.parametrize("algorithm", ARTIFACTS)
def test_the_default_is_the_artifact_s(algorithm: str) -> None:
    kind = algorithms.find(algorithm)
    assert algorithms.configure(kind, {}).queue == "unbounded"


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("adpsgd-artifact", {"degree": 1}, "degree must be at least 2"),
        ("adpsgd-artifact", {"local_steps": 0}, "local_steps must be at least 1"),
        ("swift-artifact", {"degree": 0}, "degree must be at least 1"),
        ("swift-artifact", {"omega": 0.5}, "unknown option"),
        ("swift-artifact", {"queue": "short"}, "bounded, unbounded"),
    ],
)
def test_wrong_options_are_named(algorithm: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make(algorithm, options)


@pytest.mark.parametrize("algorithm", ARTIFACTS)
@pytest.mark.parametrize("queue", ["bounded", "unbounded"])
def test_they_learn_together_and_the_same_seed_gives_the_same_bytes(
    algorithm: str, queue: str
) -> None:
    centres = models(6)

    def run(seed: int) -> Rig:
        rig = Rig(
            algorithm,
            near=complete(6),
            initial=np.zeros((6, SIZE)),
            options={"degree": 4, "local_steps": 1, "queue": queue},
            train=Quadratic(centres=centres, rate=0.05),
            order=Order.SHUFFLED,
            seed=seed,
        )
        rig.run(rounds=80)
        return rig

    one = run(1)
    assert np.abs(one.models.mean(axis=0) - centres.mean(axis=0)).max() < 0.35
    assert one.models.tobytes() == run(1).models.tobytes()
    assert one.models.tobytes() != run(2).models.tobytes()
