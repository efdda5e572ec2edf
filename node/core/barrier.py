"""A member's connections in one round, attempt by attempt (pure).

What is asked for is settled edge by edge; a new attempt sets up only what it names again. An answer
counts if it is to the newest question about that peer.
"""

from __future__ import annotations

from enum import Enum

from node.core.effects import ConnectEdges
from node.core.events import EdgeSettled
from node.core.ids import NodeId
from node.core.signals import ConnectionsReady, PeersForRound, RetryPeerConnections


class _Edge(Enum):
    ASKED = "asked"
    UP = "up"
    FAILED = "failed"


class Barrier:
    """The edges of this member in the round of the newest order."""

    def __init__(self) -> None:
        self._round = -1
        self._attempt = 0
        self._edges: dict[NodeId, _Edge] = {}
        self._spare: dict[NodeId, _Edge] = {}
        self._asked_in: dict[NodeId, int] = {}
        """The attempt in which each peer was asked for last."""

    @property
    def settled(self) -> bool:
        """Whether it is known of each edge if it is up; spare ones do not matter."""
        return _Edge.ASKED not in self._edges.values()

    def order(self, signal: PeersForRound) -> ConnectEdges:
        """All edges of a new round or attempt."""
        self._round, self._attempt = signal.round, signal.attempt
        self._edges = dict.fromkeys(signal.peers, _Edge.ASKED)
        self._spare = {p: _Edge.ASKED for p in signal.spare if p not in self._edges}
        self._asked_in = dict.fromkeys([*self._edges, *self._spare], signal.attempt)
        return ConnectEdges(
            round=signal.round,
            attempt=signal.attempt,
            peers=signal.peers,
            spare=tuple(self._spare),
        )

    def retry(self, signal: RetryPeerConnections) -> ConnectEdges:
        """A new attempt for some edges; what is known of the others stands."""
        if signal.round != self._round:  # the order of this round is lost: what is named is known
            self._edges, self._spare, self._asked_in = {}, {}, {}
        self._round, self._attempt = signal.round, signal.attempt
        for peer in signal.failed:
            self._edges[peer] = _Edge.ASKED
            self._spare.pop(peer, None)
            self._asked_in[peer] = signal.attempt
        return ConnectEdges(
            round=signal.round, attempt=signal.attempt, peers=signal.failed, anew=signal.failed
        )

    def take(self, event: EdgeSettled) -> bool:
        """An answer; whether it is news."""
        current = event.round == self._round and self._asked_in.get(event.peer) == event.attempt
        edges = self._edges if event.peer in self._edges else self._spare
        if not current or edges.get(event.peer) is not _Edge.ASKED:
            return False
        edges[event.peer] = _Edge.UP if event.error is None else _Edge.FAILED
        return True

    def gone(self, peer: NodeId) -> None:
        """The peer is not waited for any more."""
        self._edges.pop(peer, None)
        self._spare.pop(peer, None)

    def give_up(self) -> None:
        """The time for this attempt is over: what is not settled has failed."""
        for peer, edge in self._edges.items():
            if edge is _Edge.ASKED:
                self._edges[peer] = _Edge.FAILED

    def report(self) -> ConnectionsReady:
        """What to say once all is settled."""
        up = {p for p, edge in (self._edges | self._spare).items() if edge is _Edge.UP}
        failed = {p for p, edge in self._edges.items() if edge is _Edge.FAILED}
        return ConnectionsReady(
            round=self._round,
            attempt=self._attempt,
            connected=tuple(sorted(up)),
            failed=tuple(sorted(failed)),
        )
