"""AD-PSGD and SWIFT as DivShare's artifact runs them: what is sent, averaged and queued."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.config import Pacing
from node.core.effects import DropQueued, InFlight, Send
from node.core.events import PeerChange, PeerChanged, Received, Trained
from node.core.messages import PeerMessage
from node.core.outbox import Outbox, Outgoing, Priority
from node.core.parts import Part, Span, Whole
from node.errors import ConfigError
from tests.algorithms.rig import Order, Quadratic, Rig, complete, name

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


# --- queue policies


@pytest.mark.parametrize("algorithm", ARTIFACTS)
@pytest.mark.parametrize(("queue", "longest"), [("bounded", 6), ("unbounded", 40 * 6)])
def test_what_a_node_queues_that_can_send_nothing(algorithm: str, queue: str, longest: int) -> None:
    """Into the runtime's real send queue, whose link is dead; another node pings now and then."""
    rig = sender(algorithm, degree=6, queue=queue)
    outbox = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda peer: 1 << 20)
    lengths = []
    for turn in range(40):
        values = np.ones(SIZE, dtype=np.float32)
        values.flags.writeable = False
        events = [Trained(job=turn + 1, parameters=values, loss=1.0, steps=1)]
        effects = [effect for event in events for effect in rig.feed(0, event)]
        if algorithm == "adpsgd-artifact":
            for j in (1, 2, 3):
                ping = whole(1.0, round_=turn, kind="ping")
                effects += rig.feed(0, Received(sender=name(j), message=ping))
        for effect in effects:
            if isinstance(effect, DropQueued):
                outbox.drop(key_prefix=effect.key_prefix, in_flight=InFlight.FINISH)
            elif isinstance(effect, Send):
                outbox.push(_item(effect), supersedes=effect.supersedes)
        lengths.append(len(outbox))
    assert max(lengths) == lengths[-1] == longest
    if queue == "unbounded":
        assert lengths == [6 * (turn + 1) for turn in range(40)]  # FIFO, nothing taken back
        assert [item.number for item in outbox.queued()] == list(range(1, 241))


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
