"""The member's side of signaling as tables (docs/signaling.md is made from them): its life, and its
part in the rounds. As in `node.core.tables`: an event without a row in a state does not change it.
"""

from __future__ import annotations

from typing import Final

from node.core.tables import Row


def _row(state: str, event: str, does: str, *to: str) -> Row:
    return Row(state=state, event=event, does=does, to=to or (state,))


_ENDS: Final = "Stop | StopRequested | Failed | timer orphan"
"""What ends a member from any state on, besides ConnectionFail."""
_LEAVES: Final = "there is no run here to end: Leave"

MEMBER: Final[tuple[Row, ...]] = (
    _row("joining", "Started | timer hello", "Hello, each second until it is answered"),
    _row("joining", "Welcome", "the first heartbeat; the lease is the coordinator's", "joined"),
    _row("joining", f"Refuse | timer join | {_ENDS}", f"say why; {_LEAVES}", "left"),
    _row("joined", "Welcome", "perhaps the run is under way: the model will be needed"),
    _row("joined", "MeasureLinks", "measure the paths to those named"),
    _row("joined", "LinksProbed", "LinksMeasured"),
    _row("joined", "Prepare", "wait for the trainer", "preparing"),
    _row("joined", "Underway", "set the clock and the links, take no part", "idle"),
    _row("joined", _ENDS, _LEAVES, "left"),
    _row("preparing", "Prepared", "Ready; or what is missing, and Leave", "ready", "left"),
    _row("preparing", "Welcome", "perhaps the run is under way: the model will be needed"),
    _row("preparing", _ENDS, _LEAVES, "left"),
    _row("ready", "timer heartbeat | Prepare", "Ready again: the Start may be lost"),
    _row("ready", "Welcome", "perhaps the run is under way: the model will be needed"),
    _row("ready", "Start", "set the clock; begin, or get the model first", "running"),
    _row("ready", f"ConnectionFail | {_ENDS}", _LEAVES, "left"),
    _row("running", "RunEnded", "Done; the model is still given to newcomers", "done"),
    _row("running", f"ConnectionFail | {_ENDS}", "end the run here, and store it", "stopping"),
    _row(
        "running",
        "timer stall | SharedModel | SignalModelProvider",
        "no model after five tries: end",
        "running",
        "stopping",
    ),
    _row("done", "timer heartbeat", "Done again"),
    _row("done", f"ConnectionFail | {_ENDS}", "everything is stored: Leave", "left"),
    _row("idle", _ENDS, _LEAVES, "left"),
    _row("stopping", "RunEnded", "everything is stored: Leave", "left"),
    _row("any", "timer heartbeat", "Heartbeat, and what was said last (participant: repeat)"),
    _row("any", "ChangeLinks", "a new order: do it; in any case LinksChanged"),
    _row(
        "any",
        "PeerChanged | timer hello",
        "the coordinator is out of reach: for coordinator_ns at most; it is back: Hello with all "
        "that a new one has to know, each second until it is answered",
    ),
)
"""The life of a member (`node.core.member.State`)."""

_WAITS: Final = ("ready", "connecting", "armed")
"""Waits for the barrier to open."""
_SETTLED: Final = "all are settled: ConnectionsReady; else wait"
_GIVEN: Final = "sync: share with those named; async: train"
_LATE: Final = (
    "sync: one round behind: end the round alone; more: get the model anew. async: join the "
    "present barrier"
)


def _barrier_rows() -> tuple[Row, ...]:
    """Rows of all states that wait for the barrier."""
    rows: list[Row] = []
    for state in _WAITS:
        rows += (
            _row(
                state,
                "PeersForRound | RetryPeerConnections",
                "of this round (async: a later one too) and a newer attempt: set up those edges; "
                f"{_SETTLED}",
                state,
                "connecting",
                "armed",
            ),
            _row(state, "StartWeightSharing", _GIVEN, state, "sharing", "training"),
            _row(state, "Stale", _LATE, state, "sharing", "syncing", "ready"),
            _row(
                state,
                "Start",
                "async, the barrier's start is lost: train; a latecomer: get the model; again: "
                "nothing",
                state,
                "training",
                "syncing",
            ),
            _row(state, "RunEnded", "the time is over, or the run was stopped", "over"),
        )
    return tuple(rows)


PARTICIPANT: Final[tuple[Row, ...]] = (
    _row(
        "outside",
        "Prepared",
        "async, there from the start: wait for the barrier",
        "outside",
        "ready",
    ),
    _row(
        "outside",
        "Start",
        "there from the start: JoinRound, train; a latecomer: ModelSyncRequest; before it has said "
        "Ready: refused",
        "outside",
        "training",
        "syncing",
    ),
    *_barrier_rows(),
    _row("ready", "timer heartbeat", "PeerIsReady again; async, a latecomer: JoinRound again"),
    _row("connecting", "EdgeSettled", _SETTLED, "connecting", "armed"),
    _row("connecting", "PeerGone", f"without it; {_SETTLED}", "connecting", "armed"),
    _row("connecting", "timer edges", "who has not answered has failed: ConnectionsReady", "armed"),
    _row("armed", "timer heartbeat", "ConnectionsReady again"),
    _row("armed", "EdgeSettled", "a spare edge is up: ConnectionsReady again"),
    _row("armed", "PeerGone", "its edge is of no interest any more"),
    _row("training", "Offered", "trained for this round: PeerIsReady", "training", "ready"),
    _row("training", "Stale", "two rounds behind: get the model anew", "training", "syncing"),
    _row("training", "Start", "async, after the barrier: train", "training", "syncing"),
    _row(
        "training",
        "PeersForRound | RetryPeerConnections | EdgeSettled | PeerGone | timer edges",
        "async, a change of membership: the barrier goes on beside the training",
    ),
    _row("training", "StartWeightSharing", "async: the edges of that change are in use"),
    _row("training", "RunEnded", "the last round, or the time is over", "over"),
    _row("sharing", "Exchanged", "RoundDone, JoinRound; train", "sharing", "training"),
    _row("sharing", "PeerGone", "do not wait for it"),
    _row("sharing", "StartWeightSharing", "a newer attempt: share anew"),
    _row("sharing", "Stale", "two rounds behind: get the model anew", "sharing", "syncing"),
    _row("sharing", "RunEnded", "the time is over", "over"),
    _row(
        "syncing",
        "SignalModelProvider",
        "ask the provider; without one the initial model is it: SyncDone",
        "syncing",
        "synced",
        "over",
    ),
    _row(
        "syncing",
        "SharedModel",
        "ask for more; all is here, as its hash says: SyncDone; else ask for another provider, "
        "five times at most",
        "syncing",
        "synced",
        "over",
    ),
    _row(
        "syncing",
        "timer stall",
        "ask again; after sync_ns ask for another provider, five times at most",
        "syncing",
        "over",
    ),
    _row("syncing", "timer heartbeat", "ModelSyncRequest again"),
    _row("syncing", "PeerChanged", "the stream to the provider is back: ask on from there"),
    _row("syncing", "RunEnded", "the time is over, or the run was stopped", "over"),
    _row("synced", "timer heartbeat", "SyncDone again"),
    _row(
        "synced",
        "Welcome",
        "without need_sync: adopt the model; sync: JoinRound, train; async: JoinRound, wait for "
        "the barrier",
        "synced",
        "training",
        "ready",
    ),
    _row("synced", "RunEnded", "the time is over, or the run was stopped", "over"),
    _row("any", "SignalNewPeer", "expect the newcomer; without a model of the run: SyncDecline"),
    _row("any", "ModelSnapshot", "give it to the newcomers that wait; none: SyncDecline"),
    _row("any", "ModelRequest", "answer with that part of the snapshot"),
    _row("any", "timer idle", "forget newcomers that ask for nothing any more"),
    _row("any", "Waiting | Enough", "for people"),
    _row("any", f"ConnectionFail | {_ENDS}", "no part in anything any more", "over"),
)
"""The part of a member in the rounds (`node.core.participant.Standing`). What the member machine
does not pass on (before `ready`, after the end) changes nothing."""
