"""A member that gets the model, or gives it: scripts of its part in the rounds."""

from __future__ import annotations

import pytest

from node.config import Mode
from node.core.effects import (
    AdoptModel,
    BeginRun,
    EndRun,
    Finish,
    KeepConnected,
    SitOut,
    TakeSnapshot,
)
from node.core.events import (
    ModelSnapshot,
    Offered,
    PeerChange,
    PeerChanged,
    RunEnded,
)
from node.core.messages import PeerMessage
from node.core.model_sync import REQUEST
from node.core.newcomer import MAX_FAILED_SYNCS
from node.core.signals import (
    JoinRound,
    ModelSyncRequest,
    PeerIsReady,
    PeersForRound,
    SignalModelProvider,
    SignalNewPeer,
    Stale,
    StartWeightSharing,
    SyncDecline,
    SyncDone,
)
from node.units import SECOND
from tests.unit.member_rig import (
    AT,
    SIZE,
    A,
    B,
    C,
    Rig,
    Script,
    a_model,
    fail_by_a_wrong_hash,
    into,
    sharing,
    transfer,
)

SYNC, ASYNC = Mode.SYNC, Mode.ASYNC
SCRIPTS: list[Script] = []
script = into(SCRIPTS)


ENDED = RunEnded(reason="rounds", round=1)


@script
def a_latecomer_gets_the_model_and_joins_the_round_it_is_told() -> Rig:
    rig = Rig().syncing()
    assert rig.of(SitOut) == [SitOut(at_wall_ns=AT)]
    assert rig.said == [ModelSyncRequest()]
    assert rig.beat() == [ModelSyncRequest()]
    assert rig.said[0].phase == "syncing"
    rig.hear(SignalModelProvider(sync=1, provider=B))
    assert rig.of(KeepConnected) == [KeepConnected(peer=B)]
    transfer(rig, 1)
    assert rig.said == [SyncDone(sync=1, held=6)]
    assert rig.beat() == [SyncDone(sync=1, held=6)]
    rig.hear(Rig.welcome(3, need_sync=True))  # the answer to an old Hello
    assert rig.effects == []
    rig.hear(Rig.welcome(7))
    (adopt,) = rig.of(AdoptModel)
    assert adopt.round == 7
    assert adopt.parameters is not None
    assert adopt.parameters.tobytes() == a_model().tobytes()
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    order = [type(e) for e in rig.effects if isinstance(e, AdoptModel | BeginRun)]
    assert order == [AdoptModel, BeginRun]
    assert rig.said == [JoinRound(round=7)]
    rig.hear(Rig.welcome(9))
    assert rig.effects == []
    rig.feed(Offered(round=7))
    assert rig.said == [PeerIsReady(round=7)]
    return rig


@script
def one_that_fell_behind_adopts_without_beginning_again() -> Rig:
    rig = Rig().run()
    rig.hear(Stale(round=5))
    rig.hear(SignalModelProvider(sync=1, provider=B))
    transfer(rig, 1)
    rig.hear(Rig.welcome(6))
    assert [adopt.round for adopt in rig.of(AdoptModel)] == [6]
    assert not rig.of(BeginRun)
    assert rig.said == [JoinRound(round=6)]
    return rig


@script
def without_a_provider_the_initial_model_is_it() -> Rig:
    rig = Rig().syncing()
    rig.hear(SignalModelProvider(sync=3, provider=""))
    assert rig.said == [SyncDone(sync=0, held=0)]
    rig.hear(Rig.welcome(1))
    (adopt,) = rig.of(AdoptModel)
    assert (adopt.round, adopt.parameters) == (1, None)
    return rig


@script
def a_silent_provider_is_reported_and_the_next_one_taken() -> Rig:
    """D9: the death of a provider is no end of it."""
    rig = Rig().syncing()
    rig.hear(SignalModelProvider(sync=1, provider=B))
    rig.fire("sync/stall", after=3 * SECOND)
    assert len(rig.sent) == 3
    rig.feed(PeerChanged(peer=B, change=PeerChange.LOST))
    assert rig.effects == []
    rig.feed(PeerChanged(peer=B, change=PeerChange.CONNECTED))
    assert len(rig.sent) == 3
    rig.fire("sync/stall", after=10 * SECOND)
    failed = ModelSyncRequest(failed=1, reason="nothing came from b for 10s")
    assert rig.said == [failed]
    assert rig.beat() == [failed]
    rig.hear(SignalModelProvider(sync=1, provider=B))  # said before, on its way
    assert rig.effects == []
    rig.hear(SignalModelProvider(sync=2, provider=C))
    assert rig.of(KeepConnected) == [KeepConnected(peer=C)]
    return rig


@script
def after_five_failed_syncs_it_leaves_with_an_error() -> Rig:
    rig = Rig().syncing()
    for sync in range(1, MAX_FAILED_SYNCS + 1):
        rig.hear(SignalModelProvider(sync=sync, provider=B))
        rig.fire("sync/stall", after=10 * SECOND)
    assert rig.of(EndRun) == [EndRun(reason="failed")]
    rig.feed(RunEnded(reason="failed", round=0))
    (finish,) = rig.of(Finish)
    assert finish.error == "no model after 5 tries; the last: nothing came from b for 10s"
    return rig


@script
def the_fifth_may_fail_in_any_way() -> Rig:
    rig = Rig().syncing()
    fail_by_a_wrong_hash(rig)
    assert rig.member.state.value == "stopping"
    unknown = Rig().syncing(size=0)
    for sync in range(1, MAX_FAILED_SYNCS + 1):
        unknown.hear(SignalModelProvider(sync=sync, provider=B))
    assert unknown.member.state.value == "stopping"
    rig.taken |= unknown.taken
    return rig


@script
def a_new_coordinator_may_count_syncs_from_one() -> Rig:
    rig = Rig().syncing()
    rig.hear(SignalModelProvider(sync=8, provider=B))
    rig.hear(SignalModelProvider(sync=2, provider=C))
    assert rig.effects == []
    rig.coordinator(PeerChange.LOST)
    rig.coordinator(PeerChange.CONNECTED)
    rig.hear(SignalModelProvider(sync=1, provider=C))
    assert rig.of(KeepConnected) == [KeepConnected(peer=C)]
    rig.hear(SignalModelProvider(sync=1, provider=C))
    assert rig.effects == []
    return rig


# --- giving the model


@script
def the_provider_gives_its_last_aggregated_model() -> Rig:
    rig = Rig().run()
    rig.hear(SignalNewPeer(sync=4, newcomer=C))
    assert rig.of(KeepConnected) == [KeepConnected(peer=C)]
    assert rig.of(TakeSnapshot) == [TakeSnapshot(sync=4)]
    rig.hear(SignalNewPeer(sync=4, newcomer=C))
    assert not rig.of(TakeSnapshot)
    rig.feed(ModelSnapshot(sync=4, held=2, parameters=a_model()))
    fields = {"sync": 4, "offset": 0, "count": 1}
    rig.receive(C, PeerMessage(kind=REQUEST, round=0, fields=fields))
    (answer,) = rig.sent
    assert answer.fields["held"] == 2
    assert answer.fields["total"] == SIZE
    rig.fire("sync/idle", after=40 * SECOND)
    rig.receive(C, PeerMessage(kind=REQUEST, round=0, fields=fields))
    assert rig.sent == []
    return rig


@script
def one_that_shares_ends_its_round_first() -> Rig:
    """T12: the provider's round ends during the sync."""
    rig = sharing()
    rig.hear(SignalNewPeer(sync=1, newcomer=C))
    assert not rig.of(TakeSnapshot)
    rig.exchanged(attempt=1)
    assert rig.of(TakeSnapshot) == [TakeSnapshot(sync=1)]
    return rig


@script
def one_that_is_at_its_end_gives_it_still() -> Rig:
    rig = sharing()
    rig.hear(SignalNewPeer(sync=1, newcomer=B))
    rig.feed(ENDED)
    assert rig.of(TakeSnapshot) == [TakeSnapshot(sync=1)]
    rig.hear(SignalNewPeer(sync=2, newcomer=C))
    assert rig.of(TakeSnapshot) == [TakeSnapshot(sync=2)]
    rig.hear(PeersForRound(round=0, attempt=9, peers=(A,)))
    rig.hear(StartWeightSharing(round=0, attempt=9, peers=(A,)))
    rig.hear(Stale(round=9))
    assert (rig.member.stage, rig.effects) == ("over", [])
    return rig


@script
def who_has_no_model_declines() -> Rig:
    rig = Rig().syncing()
    rig.hear(SignalNewPeer(sync=3, newcomer=C))
    assert rig.said == [SyncDecline(sync=3, reason="this node has no model of the run")]
    other = Rig().run()
    other.hear(SignalNewPeer(sync=5, newcomer=C))
    other.feed(ModelSnapshot(sync=5, held=0, parameters=None))
    assert other.said == [SyncDecline(sync=5, reason="there is no aggregated model here")]
    rig.taken |= other.taken
    return rig


def test_other_messages_between_peers_are_not_the_member_s() -> None:
    rig = Rig().run()
    rig.receive(A, PeerMessage(kind="model", round=0))
    assert rig.refused() == ["a message 'model', which is not of model sync"]


@pytest.mark.parametrize("run", SCRIPTS, ids=lambda run: run.__name__)
def test_script(run: Script) -> None:
    run()
