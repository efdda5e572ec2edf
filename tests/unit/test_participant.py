"""A member's part in the rounds: every row of its table, and the defects that are the member's.

Each script is a test; together with those of getting and giving the model and of asynchronous runs
they take every row of the table.
"""

from __future__ import annotations

import pytest

from node.config import Mode
from node.core.effects import (
    BeginRun,
    CancelTimer,
    ConnectEdges,
    DropFromShare,
    OpenShare,
    Record,
    SetTimer,
    SkipShare,
)
from node.core.events import (
    EdgeSettled,
    Event,
    Exchanged,
    Failed,
    Offered,
    Received,
    RunEnded,
    StopRequested,
    TimerFired,
)
from node.core.ids import COORDINATOR
from node.core.signals import (
    ConnectionFail,
    ConnectionsReady,
    Enough,
    JoinRound,
    ModelSyncRequest,
    PeerGone,
    PeerIsReady,
    PeersForRound,
    RetryPeerConnections,
    RoundDone,
    Stale,
    Start,
    StartWeightSharing,
    Stop,
    Waiting,
)
from node.core.tables_member import PARTICIPANT
from node.units import SECOND
from tests.unit import test_participant_async, test_participant_sync
from tests.unit.member_rig import (
    AT,
    A,
    B,
    C,
    Rig,
    Script,
    armed,
    barrier,
    connecting,
    into,
    sharing,
    states,
    synced,
    untaken,
)

SYNC, ASYNC = Mode.SYNC, Mode.ASYNC
SCRIPTS: list[Script] = []
script = into(SCRIPTS)


ENDED = RunEnded(reason="rounds", round=1)


@script
def a_round_from_training_to_training() -> Rig:
    rig = Rig().run()
    assert rig.said == [JoinRound(round=0)]
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    rig.feed(Offered(round=0))
    assert rig.said == [PeerIsReady(round=0)]
    assert rig.beat() == [PeerIsReady(round=0)]
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A, B), spare=(C,)))
    assert rig.of(ConnectEdges) == [ConnectEdges(round=0, attempt=1, peers=(A, B), spare=(C,))]
    assert rig.timer("participant/edges") == rig.now + round(4.5 * SECOND)
    assert rig.beat() == []
    rig.settle(A, attempt=1)
    assert rig.said == []
    rig.settle(B, attempt=1, error="no answer")
    report = ConnectionsReady(round=0, attempt=1, connected=(A,), failed=(B,))
    assert rig.said == [report]
    assert CancelTimer(key="participant/edges") in rig.effects
    assert rig.beat() == [report]
    rig.settle(C, attempt=1)
    assert rig.said == [ConnectionsReady(round=0, attempt=1, connected=(A, C), failed=(B,))]
    rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A, C)))
    assert rig.of(OpenShare) == [OpenShare(round=0, attempt=1, peers=(A, C))]
    assert rig.beat() == []
    rig.exchanged(attempt=1, missing=(C,))
    assert rig.said == [RoundDone(round=0, attempt=1, missing=(C,)), JoinRound(round=1)]
    assert (rig.member.round, rig.member.attempt) == (1, 0)
    assert rig.beat() == []
    return rig


def test_every_stage_is_recorded() -> None:
    rig = Rig().join()
    seen = []

    def then(*_: object) -> None:
        seen.extend(states(rig))

    then(rig.hear(Start(at_wall_ns=AT)))
    then(rig.feed(Offered(round=0)))
    then(rig.hear(PeersForRound(round=0, attempt=1, peers=(A,))))
    then(rig.settle(A, attempt=1))
    then(rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A,))))
    then(rig.exchanged(attempt=1))
    assert seen == ["running", "training", "ready", "connecting", "armed", "sharing", "training"]


@script
def the_heartbeat_names_the_stage_and_carries_round_and_attempt() -> Rig:
    rig = armed()
    rig.beat()
    (beat, _) = rig.said
    assert (beat.phase, beat.round, beat.attempt) == ("armed", 0, 1)
    return rig


@script
def a_member_without_edges_is_armed_at_once() -> Rig:
    rig = Rig().run().offered()
    rig.hear(PeersForRound(round=0, attempt=1))
    assert rig.member.stage == "armed"
    assert rig.said == [ConnectionsReady(round=0, attempt=1)]
    return rig


@script
def what_is_not_settled_in_time_has_failed() -> Rig:
    """D2: the wait of exactly the stuck member ends, too."""
    rig = connecting()
    rig.settle(A, attempt=1)
    rig.fire("participant/edges")
    assert rig.said == [ConnectionsReady(round=0, attempt=1, connected=(A,), failed=(B,))]
    rig.settle(B, attempt=1)  # too late: what was said was said
    assert rig.said == []
    return rig


@script
def a_retry_while_connecting_sets_up_only_what_it_names() -> Rig:
    """D2: retries are heard by those who are stuck. D4: the old deadline is replaced."""
    rig = connecting()
    rig.settle(A, attempt=1)
    rig.hear(RetryPeerConnections(round=0, attempt=2, failed=(B,)))
    assert rig.of(ConnectEdges) == [ConnectEdges(round=0, attempt=2, peers=(B,), anew=(B,))]
    assert [timer.key for timer in rig.of(SetTimer)] == ["participant/edges"]
    rig.settle(B, attempt=1)  # D1: an answer to the old attempt
    assert rig.said == []
    rig.settle(B, attempt=2)
    assert rig.said == [ConnectionsReady(round=0, attempt=2, connected=(A, B))]
    return rig


@script
def a_retry_after_the_report_sets_up_again_what_others_could_not() -> Rig:
    rig = armed()
    rig.hear(RetryPeerConnections(round=0, attempt=2, failed=(A,)))
    assert rig.member.stage == "connecting"
    assert rig.beat() == []
    rig.settle(A, attempt=2, error="refused")
    assert rig.said == [ConnectionsReady(round=0, attempt=2, connected=(B,), failed=(A,))]
    return rig


@script
def a_retry_that_does_not_concern_it_is_answered_at_once() -> Rig:
    rig = armed()
    rig.hear(RetryPeerConnections(round=0, attempt=2))
    assert rig.said == [ConnectionsReady(round=0, attempt=2, connected=(A, B))]
    rig = connecting()
    rig.settle(A, attempt=1)
    rig.hear(RetryPeerConnections(round=0, attempt=2))
    assert rig.member.stage == "connecting"  # B is still asked for, in the old attempt
    rig.settle(B, attempt=1)
    assert rig.said == [ConnectionsReady(round=0, attempt=2, connected=(A, B))]
    return rig


@script
def a_retry_without_the_first_order_names_what_there_is_to_do() -> Rig:
    rig = Rig().run().offered()
    rig.hear(RetryPeerConnections(round=0, attempt=2, failed=(A,)))
    assert rig.member.stage == "connecting"
    rig.settle(A, attempt=2)
    assert rig.said == [ConnectionsReady(round=0, attempt=2, connected=(A,))]
    other = Rig().run().offered()
    other.hear(RetryPeerConnections(round=2, attempt=1, failed=(A,)))
    assert other.member.stage == "ready"
    other.hear(RetryPeerConnections(round=0, attempt=3))
    assert other.said == [ConnectionsReady(round=0, attempt=3)]
    rig.taken |= other.taken
    return rig


@script
def a_retry_of_a_later_barrier_forgets_the_edges_of_the_old_one() -> Rig:
    rig = barrier("connecting")
    rig.hear(RetryPeerConnections(round=1, attempt=2))
    assert rig.said == [ConnectionsReady(round=1, attempt=2)]
    return rig


@script
def a_new_order_in_the_same_round_forgets_the_old_one() -> Rig:
    rig = armed()
    rig.hear(PeersForRound(round=0, attempt=2, peers=(C,)))
    assert rig.member.stage == "connecting"
    rig.hear(PeersForRound(round=0, attempt=3))
    assert rig.said == [ConnectionsReady(round=0, attempt=3)]
    rig.hear(PeersForRound(round=0, attempt=4))
    assert rig.said == [ConnectionsReady(round=0, attempt=4)]
    return rig


@script
def orders_that_come_twice_late_or_too_early_change_nothing() -> Rig:
    """D1, T3, T16: no attempt of the past counts."""
    rig = armed()
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A, B)))
    rig.hear(RetryPeerConnections(round=0, attempt=1, failed=(A,)))
    rig.hear(PeersForRound(round=1, attempt=5, peers=(C,)))
    rig.hear(StartWeightSharing(round=1, attempt=1, peers=(A,)))
    assert (rig.member.stage, rig.member.attempt, rig.effects) == ("armed", 1, [])
    rig.hear(RetryPeerConnections(round=0, attempt=4))
    rig.hear(StartWeightSharing(round=0, attempt=3, peers=(A, B)))
    assert (rig.member.stage, rig.effects) == ("armed", [])
    early = Rig()
    early.hear(Start(at_wall_ns=AT))
    assert early.refused() == ["Start while joining"]
    trains = Rig().run()
    trains.hear(PeersForRound(round=0, attempt=1, peers=(A,)))
    trains.hear(StartWeightSharing(round=0, attempt=1, peers=(A,)))
    assert (trains.member.stage, trains.effects) == ("training", [])
    rig.taken |= trains.taken | early.taken
    return rig


@script
def a_start_of_the_run_that_comes_again_changes_nothing() -> Rig:
    rig = Rig()
    for made in (Rig().run().offered(), connecting(), armed()):
        made.hear(Start(at_wall_ns=AT))
        assert made.effects == []
        rig.taken |= made.taken
    return rig


@script
def orders_of_another_round_do_not_move_it() -> Rig:
    rig = Rig().run().offered()
    rig.hear(PeersForRound(round=3, attempt=1, peers=(A,)))
    rig.hear(StartWeightSharing(round=3, attempt=1, peers=(A,)))
    rig.hear(Stale(round=0, attempt=1))
    assert (rig.member.stage, rig.effects) == ("ready", [])
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A,)))
    rig.hear(StartWeightSharing(round=3, attempt=1, peers=(A,)))
    rig.hear(Stale(round=0, attempt=1))
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A,)))
    assert (rig.member.stage, rig.effects) == ("connecting", [])
    rig.settle(A, attempt=1)
    rig.hear(Stale(round=0, attempt=1))
    assert (rig.member.stage, rig.effects) == ("armed", [])
    return rig


@script
def the_start_is_believed_also_by_one_that_is_not_connected() -> Rig:
    """T2: the start comes before the last of its own edges is up."""
    rig = connecting()
    rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A, B)))
    assert rig.of(OpenShare) == [OpenShare(round=0, attempt=1, peers=(A, B))]
    assert CancelTimer(key="participant/edges") in rig.effects
    rig.settle(B, attempt=1)
    assert rig.effects == []
    ready = Rig().run().offered()  # its PeersForRound is lost
    ready.hear(StartWeightSharing(round=0, attempt=2, peers=(A,)))
    assert ready.of(OpenShare) == [OpenShare(round=0, attempt=2, peers=(A,))]
    rig.taken |= ready.taken
    return rig


@script
def a_start_that_comes_again_opens_nothing_but_a_newer_attempt_does() -> Rig:
    rig = sharing()
    rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A, B)))
    assert rig.effects == []
    rig.hear(StartWeightSharing(round=0, attempt=3, peers=(A,)))
    assert rig.of(OpenShare) == [OpenShare(round=0, attempt=3, peers=(A,))]
    rig.exchanged(attempt=3)
    assert rig.said[0] == RoundDone(round=0, attempt=3)
    rig.hear(StartWeightSharing(round=0, attempt=4, peers=(A,)))
    assert rig.effects == []
    return rig


@script
def a_peer_that_is_gone_is_not_waited_for() -> Rig:
    """D6: no wait for the timeout when somebody leaves while connecting."""
    rig = Rig().run().offered()
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A, B, C)))
    rig.settle(A, attempt=1)
    rig.hear(PeerGone(round=0, attempt=1, peer=C))
    assert rig.said == []
    rig.hear(PeerGone(round=0, attempt=1, peer=B))
    assert rig.said == [ConnectionsReady(round=0, attempt=1, connected=(A,))]
    rig.hear(PeerGone(round=0, attempt=1, peer=A))
    assert rig.beat() == [ConnectionsReady(round=0, attempt=1)]
    shares = sharing()
    shares.hear(PeerGone(round=1, attempt=1, peer=A))
    assert shares.effects == []
    shares.hear(PeerGone(round=0, attempt=1, peer=A))
    assert shares.of(DropFromShare) == [DropFromShare(round=0, peer=A)]
    rig.taken |= shares.taken
    return rig


@script
def what_the_peer_says_of_another_round_is_ignored() -> Rig:
    rig = Rig().run()
    rig.feed(Offered(round=4))
    assert rig.effects == []
    shares = sharing()
    shares.feed(Exchanged(round=7, attempt=1))
    assert shares.effects == []
    rig.taken |= shares.taken
    return rig


# --- falling behind


@script
def one_round_behind_it_ends_its_round_alone() -> Rig:
    rig = Rig()
    for made in (Rig().run().offered(), connecting(), armed()):
        made.hear(Stale(round=1))
        assert made.of(SkipShare) == [SkipShare(round=0)]
        made.hear(Stale(round=1))
        assert made.effects == []
        made.feed(Exchanged(round=0, attempt=0))
        assert made.said == [JoinRound(round=1)]
        rig.taken |= made.taken
    return rig


@script
def one_round_behind_it_finishes_what_it_does() -> Rig:
    rig = Rig().run()
    rig.hear(Stale(round=1, attempt=2))
    assert rig.effects == []
    shares = sharing()
    shares.hear(Stale(round=1, attempt=2))
    assert shares.effects == []
    rig.taken |= shares.taken
    return rig


@script
def two_rounds_behind_it_gets_the_model_anew() -> Rig:
    rig = Rig()
    for made in (Rig().run(), Rig().run().offered(), connecting(), armed(), sharing()):
        made.hear(Stale(round=2, attempt=1))
        assert made.member.stage == "syncing"
        assert [type(signal) for signal in made.said] == [ModelSyncRequest]
        made.feed(Offered(round=0))
        made.feed(Exchanged(round=0, attempt=1))
        assert made.effects == []
        rig.taken |= made.taken
    return rig


# --- the end


@script
def the_local_end_takes_it_out_of_rounds_wherever_it_is() -> Rig:
    """D10: one that is at its end says so, and nobody waits for it."""
    rig = Rig()
    made: list[Rig] = [
        Rig().run(),
        Rig().run().offered(),
        connecting(),
        armed(),
        sharing(),
        Rig().syncing(),
        synced(),
    ]
    for each in made:
        each.feed(ENDED)
        assert each.member.state.value == "done"
        assert [type(signal).__name__ for signal in each.said] == ["Done"]
        assert [type(signal).__name__ for signal in each.beat()] == ["Done"]
        rig.taken |= each.taken
    return rig


@script
def what_ends_the_member_ends_its_part() -> Rig:
    rig = Rig()
    ends: list[Event] = [
        Received(sender=COORDINATOR, message=Stop(reason="time")),
        Received(sender=COORDINATOR, message=ConnectionFail(reason="a cannot reach it")),
        StopRequested(reason="SIGTERM"),
        Failed(reason="disk full"),
        TimerFired(key="member/orphan"),
    ]
    for end in ends:
        made = connecting()
        made.feed(end)
        assert (made.member.state.value, made.member.stage) == ("stopping", "over")
        assert CancelTimer(key="participant/edges") in made.effects
        made.settle(A, attempt=1)
        made.hear(StartWeightSharing(round=0, attempt=1, peers=(A, B)))
        assert made.effects == []
        rig.taken |= made.taken
    return rig


@script
def waiting_for_others_is_noted() -> Rig:
    rig = Rig().run()
    rig.hear(Waiting(present=1, needed=2))
    assert [dict(r.fields) for r in rig.of(Record)] == [{"present": 1, "needed": 2}]
    rig.hear(Enough())
    assert rig.effects == []
    return rig


def test_an_answer_from_a_mesh_that_was_not_asked_is_ignored() -> None:
    rig = connecting()
    rig.feed(EdgeSettled(peer=C, round=0, attempt=1))
    rig.feed(EdgeSettled(peer=A, round=1, attempt=1))
    rig.feed(EdgeSettled(peer=A, round=0, attempt=0))
    assert rig.member.stage == "connecting"
    rig.settle(A, attempt=1)
    rig.settle(A, attempt=1, error="twice")
    rig.settle(B, attempt=1)
    assert rig.said == [ConnectionsReady(round=0, attempt=1, connected=(A, B))]


@pytest.mark.parametrize("run", SCRIPTS, ids=lambda run: run.__name__)
def test_script(run: Script) -> None:
    run()


def test_the_scripts_take_every_row_of_the_table() -> None:
    runs = [*SCRIPTS, *test_participant_sync.SCRIPTS, *test_participant_async.SCRIPTS]
    taken = set().union(*(run().taken for run in runs))
    assert not untaken(PARTICIPANT, taken, "participant")
