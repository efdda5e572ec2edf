"""Synchronous exchange: what is aggregated is of the round and attempt that was opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Mode, StopConfig
from node.core.algorithm import Algorithm, Context, Share
from node.core.effects import (
    CancelTimer,
    DropQueued,
    Effect,
    Finish,
    Offer,
    Record,
    Send,
    SetTimer,
    ShareOver,
)
from node.core.effects import Train as TrainEffect
from node.core.events import (
    Evaluated,
    Event,
    ModelAdopted,
    PeerDropped,
    Received,
    SendFailed,
    ShareOpened,
    ShareSkipped,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.exchange import DEADLINE, RESEND, RESEND_NS, Inbox
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Part, Vector, Whole
from node.core.peer import Peer, PeerSetting, Phase
from node.units import SECOND

A, B, C, ME = (NodeId(name) for name in ("a", "b", "c", "me"))
LAYOUT = Layout.of({"w": (2,)})
SHARE_NS = 5 * SECOND


class Collect(Algorithm):
    """Shares a constant and writes down what comes of it."""

    MODES = (Mode.SYNC,)

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.got: list[tuple[int, dict[NodeId, tuple[int, int]], tuple[NodeId, ...]]] = []
        self.heard: list[str] = []
        self.starts = 0

    def on_start(self, ctx: Context) -> None:
        self.starts += 1
        ctx.train(steps=1)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.exchange()

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        self.heard.append(message.kind)

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage:
        part = Part(where=Whole(), values=np.full(2, ctx.round, dtype=np.float32))
        return PeerMessage(kind="model", round=99, part=part)

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        stamps = {peer: (m.round, m.attempt) for peer, m in received.items()}
        self.got.append((ctx.round, stamps, peers))
        ctx.set_parameters(np.full(2, ctx.round + 1, dtype=np.float32))
        ctx.end_round()
        ctx.train(steps=1)


@dataclass
class World:
    """One peer machine, and what it has wanted."""

    peer: Peer
    algorithm: Collect
    now: int = 0
    jobs: int = 0
    effects: list[Effect] = field(default_factory=list)

    def feed(self, event: Event) -> list[Effect]:
        self.now += 1
        self.effects = self.peer.step(event, now=self.now)
        self.jobs = max([e.job for e in self.of(TrainEffect)], default=self.jobs)
        return self.effects

    def of(self, kind: type) -> list:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def trained(self) -> list[Effect]:
        values = np.full(2, 0.5, dtype=np.float32)
        return self.feed(Trained(job=self.jobs, parameters=values, loss=1.0, steps=1))

    def come(self, sender: NodeId, round_: int, attempt: int) -> list[Effect]:
        part = Part(where=Whole(), values=np.zeros(2, dtype=np.float32))
        message = PeerMessage(kind="model", round=round_, attempt=attempt, part=part)
        return self.feed(Received(sender=sender, message=message))

    def open(self, round_: int, attempt: int, *peers: NodeId) -> list[Effect]:
        return self.feed(ShareOpened(round=round_, attempt=attempt, peers=peers))

    def share_record(self) -> dict:
        (record,) = [r for r in self.of(Record) if r.kind == "share"]
        return dict(record.fields)


def world(*, rounds: int | None = None, offered: bool = True) -> World:
    algorithm = Collect()
    setting = PeerSetting(
        me=ME,
        peers=(A, B, C),
        members=4,
        seed=1,
        layout=LAYOUT,
        stop=StopConfig(time_ns=1000 * SECOND, rounds=rounds),
        mode=Mode.SYNC,
        share_ns=SHARE_NS,
    )
    made = World(
        Peer(setting=setting, algorithm=algorithm, initial=np.zeros(2, dtype=np.float32)), algorithm
    )
    made.feed(Started())
    if offered:
        made.trained()
    return made


def test_a_round_from_the_offer_to_the_next_training() -> None:
    it = world(offered=False)
    it.trained()
    assert it.of(Offer) == [Offer(round=0)]
    it.open(0, 2, A, B)
    sent = it.of(Send)
    assert [(s.target, s.message.round, s.message.attempt, s.key) for s in sent] == [
        (A, 0, 2, "round/0"),
        (B, 0, 2, "round/0"),
    ]
    assert it.of(SetTimer) == [SetTimer(key=DEADLINE, at=it.now + SHARE_NS)]
    it.come(A, 0, 2)
    assert not it.of(ShareOver)
    it.come(B, 0, 2)
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=2, missing=())]
    assert CancelTimer(key=DEADLINE) in it.effects
    assert it.share_record() == {
        "round": 0,
        "attempt": 2,
        "received": ["a", "b"],
        "missing": [],
        "stale": 0,
        "unexpected": 0,
    }
    assert it.algorithm.got == [(0, {A: (0, 2), B: (0, 2)}, (A, B))]
    assert it.of(TrainEffect)
    assert it.peer.aggregated[0] == 1
    assert it.peer.aggregated[1].tolist() == [1.0, 1.0]


def test_what_comes_before_the_start_is_kept_for_its_round_and_attempt() -> None:
    """T1: a payload before the listener."""
    it = world(offered=False)
    it.come(A, 0, 2)  # while this node still trains
    it.come(B, 0, 1)  # of an attempt that never opens
    it.trained()
    it.open(0, 2, A, B)
    assert not it.of(ShareOver)
    it.come(B, 0, 2)
    assert it.share_record()["stale"] == 1
    assert it.algorithm.got[0][1] == {A: (0, 2), B: (0, 2)}


def test_messages_of_the_next_round_wait_for_it() -> None:
    it = world()
    it.open(0, 1, A)
    it.come(A, 1, 1)
    assert not it.of(ShareOver)
    it.come(A, 0, 1)
    it.trained()
    it.open(1, 1, A)
    assert it.of(ShareOver) == [ShareOver(round=1, attempt=1)]


def test_the_deadline_ends_the_wait_once_and_names_who_is_missing() -> None:
    """D8: no second wait for the same promise."""
    it = world()
    it.open(0, 1, A, B)
    it.come(B, 0, 1)
    it.feed(TimerFired(key=DEADLINE))
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=1, missing=(A,))]
    assert it.share_record()["missing"] == ["a"]
    assert it.algorithm.got == [(0, {B: (0, 1)}, (A, B))]
    it.feed(TimerFired(key=DEADLINE))
    assert not it.of(ShareOver)
    assert it.come(A, 0, 1) == []
    it.trained()
    it.open(1, 1, B)
    it.come(B, 1, 1)
    assert it.share_record()["stale"] == 1


def test_a_peer_that_is_gone_is_not_waited_for_but_its_message_counts() -> None:
    it = world()
    it.open(0, 1, A, B, C)
    it.come(A, 0, 1)
    it.feed(PeerDropped(round=0, peer=A))
    it.feed(PeerDropped(round=1, peer=B))  # of another round
    it.feed(PeerDropped(round=0, peer=B))
    assert not it.of(ShareOver)
    it.come(C, 0, 1)
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=1, missing=(B,))]
    assert set(it.algorithm.got[0][1]) == {A, C}


def test_a_node_without_peers_in_a_round_goes_on_alone() -> None:
    it = world()
    it.open(0, 1)
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=1)]
    assert not it.of(Send)


def test_a_round_that_goes_on_without_this_node_ends_with_nothing() -> None:
    it = world()
    it.feed(ShareSkipped(round=1))
    assert not it.of(ShareOver)
    it.feed(ShareSkipped(round=0))
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=0)]
    assert it.algorithm.got == [(0, {}, ())]
    assert it.open(0, 1, A) == []


def test_nothing_opens_before_the_offer_and_nothing_opens_twice() -> None:
    it = world(offered=False)
    assert it.open(0, 1, A) == []
    it.trained()
    it.open(0, 2, A)
    assert it.open(0, 2, A) == []
    assert it.open(0, 1, A) == []


def test_a_newer_attempt_begins_anew_and_drops_what_came_in_the_old() -> None:
    it = world()
    it.open(0, 1, A, B)
    it.come(A, 0, 1)
    it.come(B, 0, 2)  # B has heard of the new attempt before this node
    it.open(0, 2, A, B)
    assert [(s.target, s.message.attempt) for s in it.of(Send)] == [(A, 2), (B, 2)]
    it.come(A, 0, 2)
    assert it.algorithm.got == [(0, {A: (0, 2), B: (0, 2)}, (A, B))]
    assert it.share_record()["stale"] == 1


def test_a_broken_stream_makes_it_send_again_until_nobody_waits() -> None:
    it = world()
    it.open(0, 1, A, B)
    failed = SendFailed(target=A, key="round/0", reason="broken")
    it.feed(failed)
    assert it.of(SetTimer) == [SetTimer(key=RESEND, at=it.now + RESEND_NS)]
    it.feed(TimerFired(key=RESEND))
    assert [(s.target, s.message.round, s.message.attempt) for s in it.of(Send)] == [(A, 0, 1)]
    it.come(A, 0, 1)
    it.come(B, 0, 1)  # over here, but A may still lack ours
    it.feed(failed)
    assert it.of(SetTimer)
    it.feed(PeerDropped(round=0, peer=A))
    it.feed(TimerFired(key=RESEND))
    assert not it.of(Send)
    it.feed(SendFailed(target=B, key="round/7", reason="of another round"))
    assert not it.of(SetTimer)
    it.now += SHARE_NS
    it.feed(SendFailed(target=B, key="round/0", reason="too late for anybody"))
    assert not it.of(SetTimer)


def test_what_is_left_of_the_round_before_is_not_in_the_way_of_the_next() -> None:
    it = world()
    it.open(0, 1, A, B)
    assert not it.of(DropQueued)
    it.feed(TimerFired(key=DEADLINE))  # B may be out of reach, with our message in the queue
    it.trained()
    it.open(1, 1, A)
    order = [e for e in it.effects if isinstance(e, DropQueued | Send)]
    assert order[0] == DropQueued(key_prefix="round/0")
    assert [type(e) for e in order[1:]] == [Send]


def test_the_last_message_is_sent_again_by_one_that_has_finished() -> None:
    it = world(rounds=1)
    it.feed(Evaluated(round=0, accuracy=0.5, loss=1.0))
    it.open(0, 1, A)
    it.come(A, 0, 1)
    assert [type(e) for e in it.effects if isinstance(e, ShareOver | Finish)] == [ShareOver]
    it.feed(Evaluated(round=1, accuracy=0.5, loss=1.0))
    assert it.peer.phase is Phase.FINISHED
    it.feed(SendFailed(target=A, key="round/0", reason="broken"))
    it.feed(TimerFired(key=RESEND))
    assert [s.target for s in it.of(Send)] == [A]


def test_a_stop_in_the_middle_of_sharing_aggregates_nothing() -> None:
    it = world()
    it.open(0, 1, A)
    it.feed(StopRequested(reason="time"))
    assert CancelTimer(key=DEADLINE) in it.effects
    it.come(A, 0, 1)
    it.feed(TimerFired(key=DEADLINE))
    assert it.algorithm.got == []
    assert it.peer.aggregated[0] == 0


def test_only_messages_with_an_attempt_are_the_exchange_s() -> None:
    it = world()
    it.come(A, 0, 0)
    assert it.algorithm.heard == ["model"]


def test_who_is_no_neighbour_is_neither_heard_nor_sent_to() -> None:
    it = world()
    stranger = NodeId("stranger")
    it.come(stranger, 0, 1)
    (record,) = it.of(Record)
    assert record.kind == "refused"
    it.open(0, 1, A, stranger)
    assert [s.target for s in it.of(Send)] == [A]
    it.come(A, 0, 1)
    assert it.algorithm.got == [(0, {A: (0, 1)}, (A,))]


# --- who gets what, and who is expected


class Chosen(Collect):
    """Shares as it is told."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> Share:  # type: ignore[override]
        return self.share


def chosen(messages: dict[NodeId, str], *expected: NodeId) -> World:
    """A node that has offered, and sends these kinds of messages."""
    made = {peer: PeerMessage(kind=kind, round=99) for peer, kind in messages.items()}
    it = world()
    chooses = Chosen(Share(messages=made, expected=frozenset(expected)))
    peer = Peer(setting=it.peer._setting, algorithm=chooses, initial=np.zeros(2, np.float32))
    it = World(peer, chooses)
    it.feed(Started())
    it.trained()
    return it


def test_each_peer_gets_its_own_message_and_only_the_expected_are_waited_for() -> None:
    it = chosen({C: "to c", A: "to a"}, B)
    it.open(0, 1, A, B, C)
    sent = [(s.target, s.message.kind, s.message.round, s.message.attempt) for s in it.of(Send)]
    assert sent == [(A, "to a", 0, 1), (C, "to c", 0, 1)]
    it.come(B, 0, 1)
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=1)]
    assert it.algorithm.got == [(0, {B: (0, 1)}, (A, B, C))]


def test_one_message_to_several_is_one_object() -> None:
    """It is encoded once."""
    same = PeerMessage(kind="same", round=0)
    it = chosen({})
    it.algorithm.share = Share(messages={A: same, B: same}, expected=frozenset())
    it.open(0, 1, A, B)
    one, other = (send.message for send in it.of(Send))
    assert one is other


def test_who_sends_without_being_expected_is_dropped_and_counted() -> None:
    it = chosen({A: "m"}, B)
    it.come(A, 0, 1)  # before the barrier opened here
    it.open(0, 1, A, B, C)
    it.come(C, 0, 1)
    assert not it.of(ShareOver)
    it.come(B, 0, 1)
    assert it.algorithm.got == [(0, {B: (0, 1)}, (A, B, C))]
    record = it.share_record()
    assert (record["unexpected"], record["stale"]) == (2, 0)


def test_who_expects_nobody_is_done_at_once() -> None:
    it = chosen({A: "m"})
    it.open(0, 1, A, B)
    assert [type(e) for e in it.effects if isinstance(e, Send | ShareOver)] == [Send, ShareOver]
    it.feed(SendFailed(target=A, key="round/0", reason="broken"))
    it.feed(TimerFired(key=RESEND))
    assert [s.target for s in it.of(Send)] == [A]


def test_missing_are_those_that_were_expected() -> None:
    it = chosen({}, A, C)
    it.open(0, 1, A, B, C)
    it.come(A, 0, 1)
    it.feed(TimerFired(key=DEADLINE))
    assert it.of(ShareOver) == [ShareOver(round=0, attempt=1, missing=(C,))]
    it.feed(SendFailed(target=A, key="round/0", reason="nothing was sent to it"))
    assert not it.of(SetTimer)


@pytest.mark.parametrize("share", [({C: "m"}, ()), ({}, (C,))])
def test_a_share_with_others_than_the_round_s_peers_is_an_error(
    share: tuple[dict[NodeId, str], tuple[NodeId, ...]],
) -> None:
    messages, expected = share
    it = chosen(messages, *expected)
    with pytest.raises(ValueError, match="on_share names c, of whom the round's peers are not"):
        it.open(0, 1, A, B)


# --- adopting a model


def test_a_model_adopted_before_the_start_is_where_the_run_begins() -> None:
    algorithm = Collect()
    setting = PeerSetting(
        me=ME,
        peers=(A,),
        members=2,
        seed=1,
        layout=LAYOUT,
        stop=StopConfig(time_ns=SECOND),
        mode=Mode.SYNC,
    )
    initial = np.zeros(2, dtype=np.float32)
    it = World(Peer(setting=setting, algorithm=algorithm, initial=initial), algorithm)
    model = np.full(2, 7, dtype=np.float32)
    it.feed(ModelAdopted(round=12, parameters=model))
    assert it.effects == []
    assert it.peer.aggregated == (12, model)
    it.feed(Started())
    assert it.peer.round == 12
    (train,) = it.of(TrainEffect)
    assert train.parameters.tolist() == [7.0, 7.0]
    it.trained()
    assert it.of(Offer) == [Offer(round=12)]


def test_a_model_adopted_in_the_middle_gives_up_what_is_under_way() -> None:
    it = world()
    it.open(0, 1, A)
    it.come(A, 5, 1)  # nobody can be so far ahead of one that takes part: dropped
    model = np.full(2, 7, dtype=np.float32)
    it.feed(ModelAdopted(round=5, parameters=model))
    assert CancelTimer(key=DEADLINE) in it.effects
    assert it.algorithm.starts == 2
    assert it.come(A, 0, 1) == []
    it.trained()
    assert it.of(Offer) == [Offer(round=5)]
    it.open(5, 1, A)
    assert not it.of(ShareOver)
    it.come(A, 5, 1)
    assert it.algorithm.got == [(5, {A: (5, 1)}, (A,))]


def test_the_trainer_gets_one_job_at_a_time_also_when_one_was_given_up() -> None:
    it = world(offered=False)
    it.feed(ModelAdopted(round=3, parameters=None))
    assert not it.of(TrainEffect)
    it.feed(ModelAdopted(round=4, parameters=None))
    assert not it.of(TrainEffect)
    values = np.full(2, 9, dtype=np.float32)
    it.feed(Trained(job=1, parameters=values, loss=1.0, steps=1))
    (train,) = it.of(TrainEffect)
    assert train.job == 3
    assert not it.of(Offer)
    it.trained()
    assert it.of(Offer) == [Offer(round=4)]
    assert it.peer.aggregated[0] == 0


# --- misuse by an algorithm


class Careless(Collect):
    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        pass


class Twice(Collect):
    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.exchange()
        ctx.exchange()


class Hasty(Collect):
    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=1)
        ctx.exchange()


@pytest.mark.parametrize(
    ("kind", "mode", "text"),
    [
        (Careless, Mode.SYNC, "must call end_round once"),
        (Twice, Mode.SYNC, "called already in this round"),
        (Hasty, Mode.SYNC, "while a training job runs"),
        (Collect, Mode.ASYNC, "is for `mode: sync`"),
    ],
)
def test_what_an_algorithm_does_wrong_is_named(kind: type[Collect], mode: Mode, text: str) -> None:
    algorithm = kind()
    setting = PeerSetting(
        me=ME,
        peers=(A,),
        members=2,
        seed=1,
        layout=LAYOUT,
        stop=StopConfig(time_ns=SECOND),
        mode=mode,
    )
    initial = np.zeros(2, dtype=np.float32)
    it = World(Peer(setting=setting, algorithm=algorithm, initial=initial), algorithm)

    def a_round() -> None:
        it.feed(Started())
        it.trained()
        it.open(0, 1)

    with pytest.raises(ValueError, match=text):
        a_round()


# --- any order, duplication and loss

PEERS = (A, B, C)
STEPS = st.one_of(
    st.tuples(st.just("come"), st.sampled_from(PEERS), st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.just("open"), st.sampled_from(PEERS), st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.just("gone"), st.sampled_from(PEERS), st.integers(0, 4), st.just(1)),
    st.tuples(st.just("trained"), st.just(A), st.just(0), st.just(1)),
    st.tuples(st.just("deadline"), st.just(A), st.just(0), st.just(1)),
    st.tuples(st.just("skip"), st.just(A), st.integers(0, 4), st.just(1)),
    st.tuples(st.just("adopt"), st.just(A), st.integers(0, 4), st.just(1)),
)


@given(st.lists(STEPS, max_size=60))
def test_nothing_of_another_round_or_attempt_is_ever_aggregated(
    steps: list[tuple[str, NodeId, int, int]],
) -> None:
    it = world(offered=False)
    opened: dict[int, set[int]] = {}
    for what, peer, round_, attempt in steps:
        before = len(it.algorithm.got)
        match what:
            case "come":
                it.come(peer, round_, attempt)
            case "open":
                it.open(round_, attempt, *(p for p in PEERS if p != peer))
                if it.of(Send):
                    opened.setdefault(round_, set()).add(attempt)
            case "gone":
                it.feed(PeerDropped(round=round_, peer=peer))
            case "trained":
                it.trained()
            case "deadline":
                it.feed(TimerFired(key=DEADLINE))
            case "skip":
                it.feed(ShareSkipped(round=round_))
            case "adopt":
                it.feed(ModelAdopted(round=round_, parameters=None))
                opened.clear()
        assert len(it.algorithm.got) - before <= 1
        if len(it.algorithm.got) > before:
            ended, stamps, peers = it.algorithm.got[-1]
            (over,) = it.of(ShareOver)
            assert over.round == ended
            assert set(stamps.values()) <= {(ended, over.attempt)}
            assert set(stamps) <= set(peers)
            assert over.missing == tuple(p for p in peers if p not in stamps)
            assert over.attempt == max(opened.get(ended, {0}), default=0)


@given(
    st.lists(
        st.tuples(st.sampled_from(PEERS), st.integers(0, 50), st.integers(1, 9)), max_size=200
    ),
    st.integers(0, 3),
)
def test_what_is_kept_is_bounded_whatever_comes(
    messages: list[tuple[NodeId, int, int]], own: int
) -> None:
    inbox = Inbox()
    for sender, round_, attempt in messages:
        inbox.take(sender, PeerMessage(kind="m", round=round_, attempt=attempt), own_round=own)
    assert len(inbox._early) <= 2 * len(PEERS)
    shared = inbox.close(own)
    in_reach = {(s, r) for s, r, _ in messages if r == own + 1}
    assert len(messages) - shared.stale == len(in_reach)


@given(st.permutations(list(PEERS) * 2))
def test_the_result_does_not_depend_on_the_order_of_arrival(order: list[NodeId]) -> None:
    it = world()
    it.open(0, 1, *PEERS)
    for peer in order:
        it.come(peer, 0, 1)
    assert it.algorithm.got == [(0, dict.fromkeys(PEERS, (0, 1)), PEERS)]
    assert list(it.algorithm.got[0][1]) == list(PEERS)
