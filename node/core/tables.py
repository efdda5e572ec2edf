"""The coordinator's side of signaling as tables (docs/signaling.md is made from them).

The machines were written after the tables, and a simulation holds them to them: a transition that
is in no row fails it, and so does a row that no seed ever takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a machine does with an event in a state.

    Args:
        event: class name of an event or a signal, or `timer <name>`; several with ` | ` between.
            `any` stands for all that have no row of their own: they do not change the state.
        does: in words.
        to: the states that it may be in afterwards.
    """

    state: str
    event: str
    does: str
    to: tuple[str, ...]


def _row(state: str, event: str, does: str, *to: str) -> Row:
    return Row(state=state, event=event, does=does, to=to or (state,))


_GONE: Final = "Leave | PeerChanged | NodeOrdered | timer lease | timer away"
"""What may take a member out of its round."""
_STOPS: Final = "StopRequested | Failed | Done | Heartbeat | timer phase"

COORDINATOR: Final[tuple[Row, ...]] = (
    _row(
        "gathering",
        "Hello",
        "Welcome, lease. The last of those awaited: MeasureLinks, or with `links: off` Prepare. "
        "One whose run has begun: there was a coordinator before",
        "gathering",
        "measuring",
        "preparing",
        "recovering",
    ),
    _row("gathering", "Resumed", "the records tell of a run under way", "recovering"),
    _row("gathering", f"{_GONE} | {_STOPS}", "name who is missing, Stop", "gathering", "stopping"),
    _row(
        "measuring",
        "LinksMeasured | timer slot | timer phase",
        "next slot; misses again, three times; then store, and Prepare",
        "measuring",
        "preparing",
        "stopping",
    ),
    _row("measuring", f"{_GONE} | {_STOPS}", "none may be missing: Stop", "measuring", "stopping"),
    _row(
        "preparing",
        "Ready",
        "the last: sync: Start; async: the barrier of round 0",
        "preparing",
        "connecting",
        "running",
    ),
    _row("preparing", f"{_GONE} | {_STOPS}", "none may be missing: Stop", "preparing", "stopping"),
    _row(
        "connecting",
        f"ConnectionsReady | JoinRound | Hello | {_GONE} | timer connect",
        "the barrier is open: Start",
        "connecting",
        "running",
        "stopping",
        "ended",
    ),
    _row("connecting", _STOPS, "Stop", "connecting", "stopping"),
    _row(
        "recovering",
        f"Hello | {_GONE} | timer phase",
        "all who were there are back, or a lease is over: go on at the highest round heard",
        "recovering",
        "running",
        "stopping",
        "ended",
    ),
    _row("recovering", _STOPS, "go on, or Stop", "recovering", "running", "stopping", "ended"),
    _row(
        "running",
        f"{_GONE} | {_STOPS}",
        "record it, and go on without; all are done, time or accuracy reached, nobody left: Stop",
        "running",
        "stopping",
        "ended",
    ),
    _row(
        "running",
        "Hello",
        "one that was not there: Welcome(need_sync), Prepare; one that is back: Welcome",
        "running",
        "stopping",
        "ended",
    ),
    _row("running", "Ready", "a latecomer: Start, with the time at which it was"),
    _row("stopping", f"{_GONE} | {_STOPS} | Hello", "the last: the end", "stopping", "ended"),
)
"""The life of a run."""

ROUNDS: Final[tuple[Row, ...]] = (
    _row(
        "closed",
        "begin",
        "the run begins, or goes on after a restart of the coordinator",
        "lobby",
        "gather",
        "connect",
        "share",
    ),
    _row(
        "lobby",
        "join | PeerIsReady | ConnectionsReady",
        "enough members: Enough to all",
        "lobby",
        "gather",
        "connect",
        "share",
    ),
    _row(
        "lobby",
        "leave | finish",
        "fewer still: Waiting to all; who is at the end is not missing",
        "lobby",
        "gather",
    ),
    _row(
        "gather",
        "join | PeerIsReady | ConnectionsReady | leave | finish",
        "all who are expected are ready (async: an edge is to be set up): PeersForRound with "
        "attempt 1; fewer than min_participants: Waiting to all",
        "gather",
        "connect",
        "share",
        "lobby",
    ),
    _row(
        "gather",
        "timer gather",
        "a quorum is ready: PeersForRound to them; else wait as long again",
        "gather",
        "connect",
        "share",
    ),
    _row(
        "connect",
        "ConnectionsReady",
        "the last report: none failed: StartWeightSharing; else RetryPeerConnections with the "
        "failed edges; no attempt left: ConnectionFail to the smallest cover, or drop the edges, "
        "then StartWeightSharing. Of an older attempt: the present order again, or Stale",
        "connect",
        "share",
        "gather",
        "lobby",
    ),
    _row(
        "connect",
        "timer connect",
        "as if those who are silent had no connection; without an attempt left they are left out",
        "connect",
        "share",
        "gather",
        "lobby",
    ),
    _row(
        "connect",
        "leave | finish",
        "PeerGone to its peers; perhaps it was the last that was waited for; too few: Waiting",
        "connect",
        "share",
        "gather",
        "lobby",
    ),
    _row(
        "connect",
        "join | PeerIsReady | RoundDone",
        "a participant: PeersForRound again; else Stale. One that has gone on alone: without it",
        "connect",
        "share",
        "gather",
        "lobby",
    ),
    _row(
        "share",
        "RoundDone | join | PeerIsReady | leave | finish | timer share",
        "the last of the round, or the deadline: the next round",
        "share",
        "gather",
        "connect",
        "lobby",
    ),
    _row("share", "ConnectionsReady", "it missed the start: StartWeightSharing again"),
    _row("any", "close", "the run ends", "closed"),
)
"""The rounds of a run. `join` and `leave` are calls of the coordinator: a member takes part from
now on (JoinRound, Hello), or no longer does (gone, away, syncing, done)."""
