"""The coordinator machine, one event at a time: members that come late, and its own restart."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from node.config import (
    CoordinatorConfig,
    LinkPolicy,
    Mode,
    RoundsConfig,
    StopConfig,
    TrainingConfig,
)
from node.core.coordinator import Coordinator, Phase
from node.core.effects import Effect, Finish, Record, Send, SetTimer
from node.core.events import (
    NodeOrdered,
    PeerChange,
    PeerChanged,
    Received,
    Resumed,
    Started,
    TimerFired,
)
from node.core.ids import NodeId
from node.core.measuring import Probing
from node.core.rounds import RoundState
from node.core.signals import (
    ConnectionsReady,
    Done,
    Heartbeat,
    Hello,
    JoinRound,
    Leave,
    ModelSyncRequest,
    PeersForRound,
    Prepare,
    Ready,
    Refuse,
    RoundDone,
    Signal,
    SignalModelProvider,
    Stage,
    Start,
    StartWeightSharing,
    Stop,
    SyncDone,
    Welcome,
)
from node.units import SECOND

A, B, C, D = (NodeId(name) for name in "abcd")
S = TypeVar("S")
NOW = 1_000 * SECOND
HELLO = Hello(emulator="model", applied="{}")


class Room:
    """A coordinator, with what it wants."""

    def __init__(self, *, mode: Mode = Mode.SYNC, standby: str = "", load: bool = False) -> None:
        self.names = (A, B, C, D)
        config = CoordinatorConfig(
            session="s",
            members=self.names,
            seed=1,
            host="-",
            port=1,
            policy=LinkPolicy.OFF,
            pairs=(),
            candidates=0,
            training=TrainingConfig(),
            stop=StopConfig(time_ns=100 * SECOND),
            rounds=None if load else RoundsConfig(mode=mode),
            overlay=((A, B), (B, C), (C, D), (D, A)),
            standby=tuple(NodeId(name) for name in standby),
        )
        probing = Probing(schedule=lambda _pairs, _try: (), judge=lambda _pair, _reading: True)
        self.machine = Coordinator(config=config, probing=probing)
        self.effects: list[Effect] = []
        self.log: list[Record] = []

    def feed(self, event: Any) -> Room:
        self.effects = self.machine.step(event, now=NOW)
        self.log += [effect for effect in self.effects if isinstance(effect, Record)]
        return self

    def hear(self, member: NodeId, signal: Signal) -> Room:
        return self.feed(Received(sender=member, message=signal))

    def said(self, kind: type[S]) -> dict[NodeId, S]:
        sent = [effect for effect in self.effects if isinstance(effect, Send)]
        return {s.target: s.message for s in sent if isinstance(s.message, kind)}

    def states(self, member: NodeId) -> list[Any]:
        records = [r.fields for r in self.log if r.kind == "member"]
        return [fields["state"] for fields in records if fields["member"] == member]

    def running(self, members: str = "abcd") -> Room:
        names = [NodeId(name) for name in members]
        self.feed(Started())
        for name in names:
            self.hear(name, HELLO)
        for name in names:
            self.hear(name, Ready())
        for name in names if self.machine.phase is Phase.CONNECTING else ():
            self.hear(name, ConnectionsReady(round=0, attempt=1, connected=self.names))
        assert self.machine.phase is Phase.RUNNING
        return self

    def round_ended(self) -> Room:
        for name in self.machine.learning.rounds.members:
            self.hear(name, JoinRound(round=1))
        return self


def reborn(room: Room, member: NodeId) -> Room:
    room.feed(PeerChanged(peer=member, change=PeerChange.RESTARTED))
    return room.hear(member, HELLO)


def test_standby_members_are_not_waited_for() -> None:
    room = Room(standby="d").running("abc")
    assert set(room.machine.learning.rounds.members) == {A, B, C}
    assert set(room.said(Start)) == {A, B, C}


def test_a_standby_member_that_comes_gets_the_model_and_joins_the_next_round() -> None:
    room = Room(standby="d").running("abc")
    for name in (A, B, C):
        room.hear(name, JoinRound(round=0))
    room.feed(TimerFired(key="rounds/gather"))
    rounds = room.machine.learning.rounds
    room.hear(D, HELLO)
    assert room.said(Welcome)[D].need_sync
    assert D in room.said(Prepare)
    room.hear(D, Ready())
    assert room.said(Start)[D].at_wall_ns == NOW + SECOND // 5
    room.hear(D, ModelSyncRequest())
    assert room.said(SignalModelProvider)[D].provider == "", "nobody has learnt anything yet"
    room.hear(D, SyncDone(sync=1, held=0))
    welcome = room.said(Welcome)[D]
    assert (welcome.need_sync, welcome.round) == (False, rounds.next_round)
    room.hear(D, JoinRound(round=welcome.round))
    assert D in rounds.members
    assert room.states(D) == ["joined", "syncing", "synced"]


def test_async_the_edges_of_a_newcomer_get_a_barrier_of_their_own() -> None:
    room = Room(mode=Mode.ASYNC, standby="d").running("abc")
    for name in (A, B, C):
        room.hear(name, Heartbeat(phase="training", ended=3, round=1))
    room.hear(D, HELLO).hear(D, Ready()).hear(D, ModelSyncRequest())
    assert room.said(SignalModelProvider)[D].provider == A, "its neighbour"
    room.hear(D, SyncDone(sync=1, held=3)).hear(D, JoinRound(round=1))
    orders = room.said(PeersForRound)
    assert {name: order.peers for name, order in orders.items()} == {A: (D,), C: (D,), D: (A, C)}
    for name in (A, C, D):
        room.hear(name, ConnectionsReady(round=1, attempt=1, connected=(A, C, D)))
    assert room.said(StartWeightSharing)[D].peers == (A, C)


def test_a_member_that_is_started_again_loses_its_place_at_once_and_gets_the_model() -> None:
    room = Room().running()
    room.feed(NodeOrdered(number=1, node=B, verb="restart", what="restarted by hand"))
    room.feed(PeerChanged(peer=B, change=PeerChange.RESTARTED))
    assert B not in room.machine.learning.rounds.members
    room.hear(B, HELLO)
    assert room.said(Welcome)[B].need_sync
    assert room.states(B)[-2:] == ["restarting", "returned"]


def test_started_again_by_somebody_else_is_said_but_stops_nobody() -> None:
    room = reborn(Room().running(), B)
    assert "returned" in room.states(B)
    room.feed(TimerFired(key="coordinator/phase"))
    for name in room.names:
        room.hear(name, Leave())
    finish = next(effect for effect in room.effects if isinstance(effect, Finish))
    assert finish.error == "b: started again by somebody else"


def test_a_member_that_was_given_up_and_is_alive_after_all_is_forgiven() -> None:
    room = Room().running()
    room.feed(TimerFired(key="coordinator/lease/b"))
    assert B not in room.machine.learning.rounds.members
    room.hear(B, Hello(emulator="model", applied="{}", stage="ready", held=0, began_wall_ns=NOW))
    assert not room.said(Welcome)[B].need_sync
    assert B in room.machine.learning.rounds.members
    room.feed(TimerFired(key="coordinator/phase"))
    for name in room.names:
        room.hear(name, Leave())
    finish = next(effect for effect in room.effects if isinstance(effect, Finish))
    assert finish.error is None


def test_a_stream_that_stays_closed_takes_its_member_out_of_the_round_until_it_is_back() -> None:
    room = Room().running()
    room.feed(PeerChanged(peer=B, change=PeerChange.LOST))
    timers = [effect for effect in room.effects if isinstance(effect, SetTimer)]
    assert [(t.key, t.at - NOW) for t in timers] == [("coordinator/away/b", SECOND)]
    room.feed(TimerFired(key="coordinator/away/b"))
    assert B not in room.machine.learning.rounds.members
    room.feed(PeerChanged(peer=B, change=PeerChange.CONNECTED))
    room.hear(B, Hello(emulator="model", applied="{}", stage="training", began_wall_ns=NOW))
    assert B in room.machine.learning.rounds.members
    assert room.states(B)[-4:] == ["away", "stream up", "present", "rejoined"]


def test_what_was_lost_is_said_again() -> None:
    room = Room().feed(Started())
    for name in room.names:
        room.hear(name, HELLO)
    room.hear(A, Heartbeat(phase="joined", ended=0))
    assert set(room.said(Prepare)) == {A}
    for name in room.names:
        room.hear(name, Ready())
    room.hear(B, Ready())
    assert set(room.said(Start)) == {B}
    room.feed(TimerFired(key="coordinator/phase"))
    room.hear(C, Heartbeat(phase="training", ended=0))
    assert set(room.said(Stop)) == {C}


def at(stage: Stage, *, number: int = 7, attempt: int = 0) -> Hello:
    return Hello(
        emulator="model",
        applied="{}",
        stage=stage,
        held=number,
        began_wall_ns=NOW - SECOND,
        round=number,
        attempt=attempt,
    )


def test_a_coordinator_in_the_place_of_a_dead_one_waits_for_all_who_were_there() -> None:
    room = Room(standby="d")
    room.feed(Resumed(began_wall_ns=NOW - 5 * SECOND, absent={D: "standby"}))
    assert room.machine.phase is Phase.RECOVERING
    room.hear(A, at(Stage.READY)).hear(B, at(Stage.ARMED, attempt=2))
    assert room.machine.phase is Phase.RECOVERING
    room.hear(C, at(Stage.TRAINING))
    assert room.machine.phase is Phase.RUNNING
    assert room.machine.learning.rounds.stamp == (7, 2)
    timers = {e.key: e for e in room.effects if isinstance(e, SetTimer)}
    deadline = timers["coordinator/phase"]
    assert deadline.at == NOW - 5 * SECOND + 100 * SECOND + 2 * SECOND


def test_who_does_not_come_back_within_a_lease_is_lost() -> None:
    room = Room()
    room.feed(Resumed(began_wall_ns=NOW, absent={}))
    for name in (A, B, C):
        room.hear(name, at(Stage.READY))
    room.feed(TimerFired(key="coordinator/phase"))
    assert room.machine.phase is Phase.RUNNING
    assert room.states(D) == ["lost"]
    assert room.machine.learning.rounds.state is RoundState.CONNECT


def test_without_any_record_a_hello_tells_that_a_run_is_under_way() -> None:
    room = Room(mode=Mode.ASYNC).feed(Started())
    room.hear(A, at(Stage.TRAINING, number=1))
    assert room.machine.phase is Phase.RECOVERING
    for name in (B, C, D):
        room.hear(name, at(Stage.TRAINING, number=1))
    assert room.machine.phase is Phase.RUNNING
    assert room.said(PeersForRound) == {}, "their connections have never been away"


def test_a_member_that_learns_nothing_more_is_still_a_provider() -> None:
    room = Room().running().round_ended()
    room.hear(A, RoundDone(round=0)).hear(A, Done(reason="rounds", ended=1, round=1))
    reborn(room, D).hear(D, Ready())
    for name in (B, C):
        room.feed(TimerFired(key=f"coordinator/away/{name}"))
    room.hear(D, ModelSyncRequest())
    assert room.said(SignalModelProvider)[D].provider == A


def test_strangers_are_refused() -> None:
    room = Room().running()
    room.hear(NodeId("z"), HELLO)
    assert room.said(Refuse)[NodeId("z")].reason == "z is not in this run"


@pytest.mark.parametrize(
    "signal", [JoinRound(round=3), ModelSyncRequest(), SyncDone(sync=9, held=2)]
)
def test_signals_of_rounds_before_the_start_are_refused_and_change_nothing(signal: Signal) -> None:
    room = Room().feed(Started()).hear(A, HELLO)
    room.hear(A, signal)
    assert any(record.kind == "refused" for record in room.log)
    assert room.machine.learning.rounds.state is RoundState.CLOSED


def test_under_load_there_are_no_rounds() -> None:
    room = Room(load=True).running()
    room.hear(A, JoinRound(round=0))
    assert room.machine.learning.rounds.state is RoundState.CLOSED
