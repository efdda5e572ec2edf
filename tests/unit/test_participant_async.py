"""Asynchronous runs: one barrier before the start, then only for edges that a change touches."""

from __future__ import annotations

import pytest

from node.config import Mode
from node.core.effects import (
    AdoptModel,
    BeginRun,
    ConnectEdges,
)
from node.core.signals import (
    ConnectionsReady,
    JoinRound,
    PeerGone,
    PeersForRound,
    Ready,
    RetryPeerConnections,
    Stale,
    Start,
    StartWeightSharing,
)
from tests.unit.member_rig import (
    AT,
    A,
    B,
    C,
    Rig,
    Script,
    barrier,
    into,
    states,
    synced,
    waiting,
)

SYNC, ASYNC = Mode.SYNC, Mode.ASYNC
SCRIPTS: list[Script] = []
script = into(SCRIPTS)


@script
def the_barrier_comes_before_the_start() -> Rig:
    rig = waiting()
    assert (rig.member.state.value, rig.member.stage) == ("ready", "ready")
    assert rig.beat() == [Ready()]
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A, B)))
    assert rig.of(ConnectEdges) == [ConnectEdges(round=0, attempt=1, peers=(A, B))]
    rig.settle(A, attempt=1)
    rig.settle(B, attempt=1)
    report = ConnectionsReady(round=0, attempt=1, connected=(A, B))
    assert rig.said == [report]
    assert rig.beat() == [Ready(round=0, attempt=1), report]
    rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A, B)))
    assert not rig.of(BeginRun)
    rig.hear(Start(at_wall_ns=AT))
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    assert states(rig) == ["running", "training"]
    assert rig.beat() == []
    return rig


@script
def start_passes_the_barrier_whose_own_start_is_lost() -> Rig:
    rig = Rig(ASYNC)
    for made in (waiting(), barrier("connecting"), barrier("armed")):
        made.hear(Start(at_wall_ns=AT))
        assert made.of(BeginRun)
        assert made.member.stage == "training"
        rig.taken |= made.taken
    return rig


@script
def a_start_of_the_barrier_is_believed_in_each_state() -> Rig:
    rig = Rig(ASYNC)
    for made in (waiting(), barrier("connecting"), barrier("armed")):
        made.hear(StartWeightSharing(round=0, attempt=1, peers=(A,)))
        assert made.member.stage == "training"
        rig.taken |= made.taken
    return rig


@script
def the_run_may_have_begun_without_one_that_waited() -> Rig:
    """Its stream was broken: the coordinator has welcomed it anew."""
    rig = Rig(ASYNC)
    passed = barrier("armed")
    passed.hear(StartWeightSharing(round=0, attempt=1, peers=(A,)))
    for made in (waiting(), barrier("connecting"), barrier("armed"), passed):
        made.hear(Rig.welcome(0, need_sync=True))
        made.hear(Rig.welcome(0))  # to a Hello that was said twice: it needs the model all the same
        made.hear(Start(at_wall_ns=AT))
        assert made.member.stage == "syncing"
        rig.taken |= made.taken
    return rig


@script
def a_change_of_membership_does_not_touch_the_training() -> Rig:
    rig = barrier("armed")
    rig.hear(Start(at_wall_ns=AT))
    rig.hear(PeersForRound(round=1, attempt=1, peers=(C,)))
    assert rig.of(ConnectEdges) == [ConnectEdges(round=1, attempt=1, peers=(C,))]
    assert rig.member.stage == "training"
    assert rig.beat() == []
    rig.hear(RetryPeerConnections(round=1, attempt=2, failed=(C,)))
    rig.fire("participant/edges")
    report = ConnectionsReady(round=1, attempt=2, failed=(C,))
    assert rig.said == [report]
    assert rig.beat() == [report]
    rig.hear(PeerGone(round=1, attempt=2, peer=C))
    assert rig.beat() == [ConnectionsReady(round=1, attempt=2)]
    rig.hear(StartWeightSharing(round=1, attempt=2))
    assert rig.beat() == []
    rig.hear(StartWeightSharing(round=1, attempt=2))
    assert states(rig) == []
    rig.hear(PeersForRound(round=2, attempt=1, peers=(C,)))
    rig.settle(C, attempt=1)
    assert rig.said == [ConnectionsReady(round=2, attempt=1, connected=(C,))]
    rig.hear(Stale(round=3))  # that barrier is over
    assert rig.beat() == []
    return rig


@script
def an_async_latecomer_waits_for_the_barrier_of_its_edges() -> Rig:
    rig = synced(ASYNC)
    rig.hear(Rig.welcome(4))
    (adopt,) = rig.of(AdoptModel)
    assert adopt.round == 6  # its model's rounds; 4 is the barrier's number
    assert rig.said == [JoinRound(round=4)]
    assert not rig.of(BeginRun)
    assert rig.beat() == [JoinRound(round=4)]
    rig.hear(PeersForRound(round=4, attempt=1, peers=(A,)))
    rig.settle(A, attempt=1)
    assert rig.said == [ConnectionsReady(round=4, attempt=1, connected=(A,))]
    rig.hear(StartWeightSharing(round=4, attempt=1, peers=(A,)))
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    assert rig.member.stage == "training"
    return rig


@script
def a_latecomer_whose_barrier_is_over_joins_the_present_one() -> Rig:
    rig = Rig(ASYNC)
    for reached in ("ready", "connecting", "armed"):
        made = synced(ASYNC)
        made.hear(Rig.welcome(4))
        if reached != "ready":
            made.hear(PeersForRound(round=4, attempt=1, peers=(A,)))
        if reached == "armed":
            made.settle(A, attempt=1)
        assert made.member.stage == reached
        made.hear(Stale(round=6))
        assert made.said == [JoinRound(round=6)]
        assert made.member.stage == "ready"
        rig.taken |= made.taken
    return rig


@pytest.mark.parametrize("run", SCRIPTS, ids=lambda run: run.__name__)
def test_script(run: Script) -> None:
    run()
