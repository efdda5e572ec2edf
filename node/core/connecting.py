"""One round's connections as the coordinator sees them: who has to be connected to whom before
sharing begins, and who is (pure).

Attempts are counted for as long as the round lasts and never go back; `tries` counts those of them
that were made since the barrier was set up, of the ones that may be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from node.config import RoundsConfig
from node.core.cover import smallest_cover
from node.core.effects import Effect, Record, Value
from node.core.ids import NodeId
from node.core.signals import (
    ConnectionsReady,
    PeersForRound,
    RetryPeerConnections,
    Signal,
    StartWeightSharing,
)
from node.core.standings import Edge, Overlay, within


@dataclass(slots=True, kw_only=True)
class Connecting:
    """The connections of a round.

    Args:
        overlay: all edges that there may be.
        round, attempt: the present ones.
        tries: attempts made since the barrier was set up.
        participants: who takes part in it.
        edges: what has to be set up.
        dropped: given up in an earlier round: nobody waits for them any more.
        failing: what the present attempt sets up again.
        anew: participants that are told all of their edges in the present attempt.
        reports: what participants have said in the present attempt.
        known: newest round and attempt that a coordinator before us has given.
    """

    config: RoundsConfig
    overlay: Overlay
    round: int = 0
    attempt: int = 0
    tries: int = 0
    participants: set[NodeId] = field(default_factory=set)
    edges: set[Edge] = field(default_factory=set)
    dropped: set[Edge] = field(default_factory=set)
    failing: set[Edge] = field(default_factory=set)
    anew: set[NodeId] = field(default_factory=set)
    reports: dict[NodeId, ConnectionsReady] = field(default_factory=dict)
    known: tuple[int, int] = (0, 0)

    def set_up(self, who: set[NodeId], edges: Iterable[Edge]) -> None:
        """Participants and edges of a new barrier; the first attempt is still to come."""
        self.participants = who
        self.edges = within(edges, who) - self.dropped
        self.tries = 0

    def next_attempt(self, failing: set[Edge], anew: set[NodeId]) -> None:
        """All have to report again, after setting up what failed, those of `anew` everything."""
        self.attempt += 1
        self.tries += 1
        self.failing, self.anew = failing, anew
        self.reports = {}

    def next_round(self, number: int) -> None:
        """A new round, with no barrier yet."""
        known_round, known_attempt = self.known
        self.round, self.tries = number, 0
        self.attempt = known_attempt if number == known_round else 0
        self.clear()

    def clear(self) -> None:
        """Nobody takes part."""
        self.participants, self.edges, self.reports = set(), set(), {}

    @property
    def more(self) -> bool:
        """Whether there may be another attempt."""
        return self.tries <= self.config.max_connection_retry

    @property
    def complete(self) -> bool:
        """Whether all have reported: only participants' reports are kept."""
        return len(self.reports) == len(self.participants)

    @property
    def silent(self) -> set[NodeId]:
        """Who has not reported yet."""
        return self.participants - self.reports.keys()

    def order(self, member: NodeId) -> Signal:
        """What a participant has to do in the present attempt."""
        if member not in self.anew:
            return RetryPeerConnections(
                failed=self.overlay.others(self.failing, member),
                round=self.round,
                attempt=self.attempt,
            )
        return PeersForRound(
            peers=self.overlay.others(self.edges, member),
            spare=self.overlay.others(within(self.dropped, self.participants), member),
            round=self.round,
            attempt=self.attempt,
        )

    def start(self, member: NodeId) -> StartWeightSharing:
        """With whom a participant shares."""
        peers = self.overlay.others(self.edges, member)
        return StartWeightSharing(peers=peers, round=self.round, attempt=self.attempt)

    def failed(self) -> set[Edge]:
        """Edges that an end has reported as failed, or has not reported as connected."""
        return self.edges - self._up(self.edges)

    def restore(self) -> set[Edge]:
        """Take back what was dropped before and both ends report as connected; returns it."""
        up = self._up(within(self.dropped, self.reports))
        self.dropped -= up
        self.edges |= up
        return up

    def give_up(self, silent: set[NodeId]) -> set[Edge]:
        """No more attempts: go on without those that are silent; returns what else has failed."""
        self.participants -= silent
        failing = within(self.failed(), self.participants)
        self.edges = within(self.edges, self.participants) - failing
        return failing

    def cover(self) -> dict[NodeId, str]:
        """The fewest peers that explain all that has failed, and why each of them has to go.

        To be asked before `give_up`: who is silent may be the reason of what others report.
        """
        failing = self.failed()
        times = f"{self.tries} attempts" if self.tries > 1 else "the only attempt"
        reasons = {}
        for name in sorted(smallest_cover((min(edge), max(edge)) for edge in failing)):
            unreached = ", ".join(self.overlay.others(failing, name))
            reasons[name] = f"no connection to {unreached} in {times} of round {self.round}"
        return reasons

    def leave(self, member: NodeId) -> None:
        """A participant takes no part any more."""
        self.participants.discard(member)
        self.reports.pop(member, None)
        self.edges.difference_update(self.overlay.of(member))

    def forget(self, member: NodeId) -> None:
        """A member is gone: what it was blamed for is forgotten with it."""
        self.leave(member)
        self.dropped.difference_update(self.overlay.of(member))

    def records(self, edges: Iterable[Edge], state: str) -> list[Effect]:
        """What became of edges, one record each."""
        ends: list[list[Value]] = [list(pair) for pair in sorted(map(sorted, edges))]
        fields: dict[str, Value] = {"state": state, "round": self.round, "attempt": self.attempt}
        return [Record(kind="edge", fields={"peers": pair, **fields}) for pair in ends]

    def _up(self, edges: Iterable[Edge]) -> set[Edge]:
        """Those of which both ends say so; one that has said nothing yet does not deny it."""
        said = {name: frozenset(report.connected) for name, report in self.reports.items()}
        return {e for e in edges if all(n not in said or e - {n} <= said[n] for n in e)}
