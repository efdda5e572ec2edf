"""The coordinator's rounds, one event at a time: what each defect of its model would break."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

from node.config import Mode, RoundsConfig, Unreachable
from node.core.effects import CancelTimer, Effect, Record, Send, SetTimer
from node.core.ids import NodeId
from node.core.rounds import CONNECT, GATHER, SHARE, Rounds, RoundState
from node.core.signals import (
    ConnectionFail,
    ConnectionsReady,
    Enough,
    JoinRound,
    PeerGone,
    PeerIsReady,
    PeersForRound,
    RetryPeerConnections,
    RoundDone,
    Stage,
    Stale,
    StartWeightSharing,
    Waiting,
)
from node.core.standings import Overlay, Told
from node.units import SECOND

A, B, C, D, E = (NodeId(name) for name in "abcde")
S = TypeVar("S")
NOW = 100 * SECOND


class Led:
    """Rounds with the latest of what they want."""

    def __init__(self, names: str = "abcd", **settings: Any) -> None:
        self.names = [NodeId(name) for name in names]
        self.config = RoundsConfig(**{"mode": Mode.SYNC, "min_participants": 2, **settings})
        overlay = list(itertools.combinations(self.names, 2))
        self.rounds = Rounds(config=self.config, overlay=Overlay(overlay))
        self.effects: list[Effect] = []
        self.timers: dict[str, int] = {}

    def begin(self) -> Led:
        stage = Stage.TRAINING if self.config.mode is Mode.SYNC else Stage.READY
        told = {name: Told(round=0, stage=stage) for name in self.names}
        return self.took(self.rounds.begin(told, now=NOW))

    def took(self, effects: list[Effect]) -> Led:
        self.effects = effects
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.key] = effect.at
            elif isinstance(effect, CancelTimer):
                self.timers.pop(effect.key, None)
        return self

    def hear(self, member: NodeId, signal: Any) -> Led:
        return self.took(self.rounds.hear(member, signal, now=NOW))

    def ready(self, *names: NodeId, number: int = 0) -> Led:
        for name in names or self.names:
            self.hear(name, PeerIsReady(round=number))
        return self

    def report(self, name: NodeId, *, failed: str = "", attempt: int | None = None) -> Led:
        round_, present = self.rounds.stamp
        bad = tuple(NodeId(each) for each in failed)
        good = tuple(n for n in self.names if n not in (name, *bad))
        signal = ConnectionsReady(
            round=round_, attempt=attempt or present, connected=good, failed=bad
        )
        return self.hear(name, signal)

    def all_report(self) -> Led:
        for name in self.names:
            self.report(name)
        return self

    def fire(self, key: str) -> Led:
        del self.timers[key]
        return self.took(self.rounds.timer(key, now=NOW))

    def said(self, kind: type[S]) -> dict[NodeId, S]:
        return {
            effect.target: effect.message
            for effect in self.effects
            if isinstance(effect, Send) and isinstance(effect.message, kind)
        }

    def records(self, kind: str) -> list[dict[str, Any]]:
        found = [e for e in self.effects if isinstance(e, Record) and e.kind == kind]
        return [dict(record.fields) for record in found]

    def shared(self, number: int = 0) -> Led:
        """Through a whole round to the next."""
        self.ready(number=number).all_report()
        for name in self.names:
            self.hear(name, RoundDone(round=number))
        return self


def test_the_last_that_is_ready_opens_the_connecting_and_the_last_report_the_sharing() -> None:
    led = Led().begin().ready(A, B, C)
    assert led.rounds.state is RoundState.GATHER
    led.ready(D)
    orders = led.said(PeersForRound)
    assert orders[A].peers == (B, C, D)
    assert {(o.round, o.attempt) for o in orders.values()} == {(0, 1)}
    led.report(A).report(B).report(C)
    assert led.said(StartWeightSharing) == {}
    led.report(D)
    starts = led.said(StartWeightSharing)
    assert starts[B].peers == (A, C, D)
    assert led.rounds.state is RoundState.SHARE
    assert CONNECT not in led.timers, "no timer of the connecting is left"


def test_all_done_is_the_next_round_whoever_says_so_and_how() -> None:
    led = Led().begin().ready().all_report()
    led.hear(A, RoundDone(round=0)).hear(B, JoinRound(round=1)).hear(C, PeerIsReady(round=1))
    assert led.rounds.stamp == (0, 1)
    led.took(led.rounds.progress(D, 1, now=NOW))
    assert (led.rounds.state, led.rounds.stamp) == (RoundState.GATHER, (1, 0))
    led.ready(A, B, D, number=1)
    assert led.rounds.state is RoundState.CONNECT, "what C said early counts"


def test_a_report_of_an_older_attempt_does_not_count() -> None:
    led = Led().begin().ready()
    for name in (A, C, D):
        led.report(name)
    led.report(B, failed="a")
    assert led.rounds.stamp == (0, 2)
    again = led.said(RetryPeerConnections)
    assert (again[A].failed, again[B].failed, again[C].failed) == ((B,), (A,), ())
    for name in (A, B, C):
        led.report(name)
    led.report(D, attempt=1)
    assert led.rounds.state is RoundState.CONNECT
    assert led.said(RetryPeerConnections)[D].attempt == 2, "it is told the present one again"
    led.report(D)
    assert led.rounds.state is RoundState.SHARE


def test_the_budget_is_the_rounds_own() -> None:
    led = Led(max_connection_retry=1).begin()
    for number in range(3):
        led.ready(number=number)
        led.fire(CONNECT)
        assert led.rounds.state is RoundState.CONNECT, "one more attempt in every round"
        led.all_report()
        for name in led.names:
            led.hear(name, RoundDone(round=number))


def test_there_is_one_timer_and_each_attempt_begins_it_anew() -> None:
    led = Led().begin().ready()
    assert led.timers == {CONNECT: NOW + led.config.connection_timeout_ns}
    led.fire(CONNECT)
    assert led.timers == {CONNECT: NOW + led.config.connection_timeout_ns}
    led.all_report()
    assert set(led.timers) == {SHARE}
    assert led.took(led.rounds.timer(CONNECT, now=NOW)).effects == [], "a late one does nothing"


def test_a_stray_report_starts_nothing() -> None:
    led = Led().begin()
    led.hear(A, ConnectionsReady(round=0, attempt=1))
    assert led.rounds.state is RoundState.GATHER
    assert led.said(Stale)[A].round == 0
    led.hear(E, ConnectionsReady(round=0, attempt=1))
    assert led.effects == []


def cut(led: Led, lost: NodeId) -> Led:
    """Everybody reports that one does not answer, until no attempt is left."""
    for _ in range(led.config.max_connection_retry + 1):
        for name in led.names:
            others = "".join(n for n in led.names if n != name)
            led.report(name, failed=others if name == lost else lost)
    return led


def test_among_peers_the_one_that_explains_the_failures_has_to_go() -> None:
    led = cut(Led(unreachable=Unreachable.PEERS).begin().ready(), C)
    assert list(led.said(ConnectionFail)) == [C]
    assert "no connection to a, b, d in 4 attempts" in led.said(ConnectionFail)[C].reason
    assert led.said(StartWeightSharing)[A].peers == (B, D)
    assert led.rounds.expelled() == [(C, led.said(ConnectionFail)[C].reason)]
    assert C not in led.rounds.members


def test_in_a_graph_only_the_edges_go_and_nobody_waits_for_them_again() -> None:
    led = cut(Led(unreachable=Unreachable.EDGES, min_participants=1).begin().ready(), C)
    assert led.said(ConnectionFail) == {}
    starts = led.said(StartWeightSharing)
    assert (starts[A].peers, starts[C].peers) == ((B, D), ())
    assert [r["peers"] for r in led.records("edge")] == [["a", "c"], ["b", "c"], ["c", "d"]]
    for name in led.names:
        led.hear(name, RoundDone(round=0))
    led.ready(number=1)
    order = led.said(PeersForRound)[A]
    assert (order.peers, order.spare) == ((B, D), (C,))
    for name in (A, B, D):
        led.report(name, failed="c")
    led.report(C, failed="abd")
    assert led.rounds.state is RoundState.SHARE, "at the first attempt"


def test_an_edge_that_answers_again_is_taken_back() -> None:
    led = cut(Led(min_participants=1).begin().ready(), C)
    for name in led.names:
        led.hear(name, RoundDone(round=0))
    led.ready(number=1).all_report()
    assert led.said(StartWeightSharing)[C].peers == (A, B, D)
    assert {record["state"] for record in led.records("edge")} == {"restored"}


def test_an_edge_that_one_end_denies_is_not_up() -> None:
    led = Led(names="abc", max_connection_retry=0).begin().ready()
    led.report(A).report(B, failed="a").report(C)
    assert led.said(StartWeightSharing)[A].peers == (C,)


def test_who_is_silent_is_left_out_of_the_round_and_not_expelled() -> None:
    led = Led(unreachable=Unreachable.PEERS, max_connection_retry=1).begin().ready()
    for _ in range(2):
        led.report(A).report(B).report(C)
        led.fire(CONNECT)
    assert led.said(ConnectionFail) == {}
    starts = led.said(StartWeightSharing)
    assert set(starts) == {A, B, C}
    assert starts[A].peers == (B, C)
    assert D in led.rounds.members
    led.hear(D, PeerIsReady(round=0))
    assert led.said(Stale)[D].round == 1, "it goes on with the next round"


def test_who_leaves_while_connecting_is_not_waited_for() -> None:
    led = Led().begin().ready()
    led.report(A).report(B).report(C)
    led.took(led.rounds.leave(D, now=NOW))
    assert set(led.said(PeerGone)) == {A, B, C}
    assert led.said(StartWeightSharing)[A].peers == (B, C)


def test_who_leaves_while_sharing_is_not_waited_for() -> None:
    led = Led().begin().ready().all_report()
    for name in (A, B, C):
        led.hear(name, RoundDone(round=0))
    led.took(led.rounds.leave(D, now=NOW))
    assert led.rounds.stamp == (1, 0)


def test_who_finished_for_good_is_not_called_gone() -> None:
    led = Led().begin().ready().all_report()
    led.hear(A, RoundDone(round=0))
    led.took(led.rounds.finish(A, now=NOW))
    assert led.said(PeerGone) == {}
    for name in (B, C, D):
        led.hear(name, RoundDone(round=0))
    assert led.rounds.state is RoundState.GATHER


def test_too_few_wait_and_say_so_until_there_are_enough() -> None:
    led = Led(names="abc", min_participants=3).begin().ready(A, B)
    led.took(led.rounds.leave(C, now=NOW))
    assert led.rounds.state is RoundState.LOBBY
    assert {(w.present, w.needed) for w in led.said(Waiting).values()} == {(2, 3)}
    assert led.records("waiting") == [{"present": 2, "needed": 3}]
    led.hear(C, JoinRound(round=0))
    assert set(led.said(Enough)) == {A, B, C}
    assert led.rounds.state is RoundState.GATHER
    led.ready(C)
    assert led.rounds.state is RoundState.CONNECT


def test_an_attempt_that_is_broken_off_does_not_come_back_under_its_number() -> None:
    led = Led(names="abc", min_participants=3).begin().ready()
    assert led.rounds.stamp == (0, 1)
    led.took(led.rounds.leave(C, now=NOW))
    led.hear(C, JoinRound(round=0))
    led.ready(C)
    assert led.rounds.stamp == (0, 2)
    led.report(A, attempt=1)
    assert led.said(PeersForRound)[A].attempt == 2


def test_the_deadline_of_the_gathering_needs_a_quorum() -> None:
    led = Led(quorum=0.75).begin().ready(A, B)
    led.fire(GATHER)
    assert led.rounds.state is RoundState.GATHER
    assert led.records("waiting") == [{"round": 0, "for": ["c", "d"]}]
    led.ready(C)
    led.fire(GATHER)
    assert set(led.said(PeersForRound)) == {A, B, C}
    led.hear(D, PeerIsReady(round=0))
    assert led.said(Stale)[D].round == 1


def test_a_newcomer_joins_the_next_round_and_delays_none() -> None:
    led = Led(names="abcd").begin().shared()
    assert led.rounds.next_round == 2
    led.took(led.rounds.leave(D, now=NOW))
    led.hear(D, JoinRound(round=2))
    led.ready(A, B, C, number=1)
    assert set(led.said(PeersForRound)) == {A, B, C}
    for name in (A, B, C):
        led.report(name, failed="d")
    for name in (A, B, C):
        led.hear(name, RoundDone(round=1))
    led.ready(A, B, C, number=2)
    assert led.rounds.state is RoundState.GATHER, "now it is one of them"
    led.ready(D, number=2)
    assert set(led.said(PeersForRound)) == {A, B, C, D}


def test_with_too_few_left_in_a_round_it_goes_on_with_that_of_the_others() -> None:
    led = Led(names="abc").begin()
    led.hear(B, JoinRound(round=1)).hear(C, JoinRound(round=1))
    assert led.rounds.stamp == (1, 0)
    assert led.said(Stale)[A].round == 1


def test_a_start_that_was_lost_is_given_again() -> None:
    led = Led().begin().ready().all_report()
    led.report(B)
    assert led.said(StartWeightSharing)[B].peers == (A, C, D)


def test_a_coordinator_that_comes_back_goes_on_above_all_that_was_said() -> None:
    led = Led()
    told = {
        A: Told(round=5, attempt=2, stage=Stage.ARMED),
        B: Told(round=5, attempt=1, stage=Stage.CONNECTING),
        C: Told(round=5, stage=Stage.READY),
        D: Told(round=4, attempt=1, stage=Stage.SHARING),
    }
    led.took(led.rounds.resume(told, now=NOW))
    assert led.rounds.state is RoundState.SHARE, "one of them is not done with round 4"
    led.hear(D, RoundDone(round=4))
    assert led.rounds.stamp == (5, 2)
    led.ready(D, number=5)
    assert led.rounds.stamp == (5, 3)
    assert set(led.said(PeersForRound)) == {A, B, C, D}


def test_a_coordinator_that_comes_back_while_they_share_lets_them() -> None:
    led = Led()
    told = {
        A: Told(round=5, attempt=2, stage=Stage.SHARING),
        B: Told(round=5, attempt=2, stage=Stage.ARMED),
        C: Told(round=6, stage=Stage.TRAINING),
    }
    led.took(led.rounds.resume({**told, C: Told(round=5, attempt=2, stage=Stage.SHARING)}, now=NOW))
    assert led.rounds.state is RoundState.SHARE
    led.hear(B, ConnectionsReady(round=5, attempt=2, connected=(A, C)))
    assert led.said(StartWeightSharing)[B].peers == (A, C)


def test_async_there_is_one_barrier_for_all_and_then_for_what_changes() -> None:
    led = Led(mode=Mode.ASYNC).begin()
    assert led.said(PeersForRound)[A].peers == (B, C, D)
    led.all_report()
    assert led.said(StartWeightSharing)[A].peers == (B, C, D)
    assert (led.rounds.state, led.rounds.stamp) == (RoundState.GATHER, (1, 0))
    led.took(led.rounds.leave(C, now=NOW))
    assert led.said(PeersForRound) == {}, "who goes needs no barrier"
    led.hear(C, JoinRound(round=1))
    orders = led.said(PeersForRound)
    assert {name: order.peers for name, order in orders.items()} == {
        A: (C,),
        B: (C,),
        C: (A, B, D),
        D: (C,),
    }


def test_async_who_comes_while_there_is_a_barrier_gets_the_next() -> None:
    led = Led(mode=Mode.ASYNC).begin().all_report()
    for name in (C, D):
        led.took(led.rounds.leave(name, now=NOW))
    led.hear(C, JoinRound(round=1))
    led.hear(D, JoinRound(round=1))
    assert led.said(PeersForRound) == {}
    for name in (A, B, C):
        led.report(name, failed="d")
    assert led.said(PeersForRound)[D].peers == (A, B, C)
    assert led.rounds.stamp == (2, 1)


def test_nothing_is_heard_before_the_beginning_and_after_the_end() -> None:
    led = Led()
    assert led.hear(A, PeerIsReady(round=0)).effects == []
    led.begin().took(led.rounds.close())
    assert led.hear(A, PeerIsReady(round=0)).effects == []
    assert led.timers == {}
