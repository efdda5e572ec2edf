"""Invariants about quorums: nothing begins before those have spoken who have to."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from node.config import Mode
from node.core.effects import Effect, Send
from node.core.events import Event, Received
from node.core.ids import NodeId
from node.core.signals import (
    ConnectionsReady,
    Heartbeat,
    Hello,
    PeerIsReady,
    PeersForRound,
    RetryPeerConnections,
    StartWeightSharing,
)
from node.units import Nanos
from tests.simulation.invariants import Invariant, Watch

Stamp = tuple[int, int]
_READY = ("ready", "connecting", "armed")
"""Stages of one that has trained and waits."""


class Reported(Invariant):
    name = "start-quorum"
    says = (
        "No StartWeightSharing before its quorum: every participant of the round and attempt has "
        "reported its connections, or the last attempt is over and the quorum has."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self.new_coordinator()

    def new_coordinator(self) -> None:
        self._asked: defaultdict[Stamp, set[NodeId]] = defaultdict(set)
        self._since: dict[Stamp, Nanos] = {}
        self._reported: defaultdict[Stamp, dict[NodeId, ConnectionsReady]] = defaultdict(dict)
        self._started: set[Stamp] = set()

    def coordinator(self, event: Event, effects: list[Effect], before: Any) -> None:
        rounds = self.world.coordinator.machine.learning.rounds
        asked = self._asked.get(rounds.stamp)
        if asked is not None:
            asked.intersection_update(rounds.members)  # who has gone and comes back is asked anew
        if isinstance(event, Received) and isinstance(event.message, ConnectionsReady):
            report = event.message
            self._reported[(report.round, report.attempt)][event.sender] = report
        starts: defaultdict[Stamp, list[NodeId]] = defaultdict(list)
        for effect in effects:
            if not isinstance(effect, Send):
                continue
            match effect.message:
                case PeersForRound() | RetryPeerConnections():
                    self._ask(effect.target, effect.message)
                case StartWeightSharing(round=round_, attempt=attempt):
                    starts[(round_, attempt)].append(effect.target)
        for stamp, targets in starts.items():
            self._start(stamp, targets)

    def _ask(self, member: NodeId, order: PeersForRound | RetryPeerConnections) -> None:
        stamp = (order.round, order.attempt)
        self._since.setdefault(stamp, self.world.now)
        self._asked[stamp].add(member)

    def _start(self, stamp: Stamp, targets: list[NodeId]) -> None:
        reported, rounds = self._reported[stamp], self.world.plan.rounds
        for name in targets:
            if name not in reported:
                self.fail(f"{name} is to share in {stamp}, but has not reported its connections")
        if stamp in self._started:
            return  # again, to one that missed it
        self._started.add(stamp)
        members = self.world.coordinator.machine.learning.rounds.members
        expected = {n for n in self._asked[stamp] if n in members and self._within(n, stamp[0])}
        silent = expected - reported.keys()
        if not silent:
            return
        if stamp[1] <= rounds.max_connection_retry:
            self.fail(f"{stamp} starts without {sorted(silent)}, who may be asked again")
        since = self._since.get(stamp)
        if since is None or self.world.now < since + rounds.connection_timeout_ns:
            self.fail(f"{stamp} starts without {sorted(silent)}, before its deadline")
        enough = max(rounds.min_participants, math.ceil(rounds.quorum * len(expected)))
        if self.world.plan.mode is Mode.SYNC and len(reported.keys() & expected) < enough:
            self.fail(f"{stamp} starts with {len(reported)} of {len(expected)}, {enough} needed")

    def _within(self, name: NodeId, round_: int) -> bool:
        """It has not gone on to a later round by itself."""
        standing = self.world.coordinator.machine.learning.rounds.members[name]
        return self.world.plan.mode is Mode.ASYNC or standing.round <= round_


class Gathered(Invariant):
    name = "gather-quorum"
    says = (
        "No connecting of a synchronous round before its quorum: whoever is asked has trained for "
        "the round, and all others who are in it have, or the gathering's deadline is over and a "
        "quorum has."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self.new_coordinator()

    def new_coordinator(self) -> None:
        self._ready: defaultdict[int, set[NodeId]] = defaultdict(set)
        self._first: dict[int, Nanos] = {}
        """When somebody was heard to be ready in a round for the first time."""
        self._begun: set[int] = set()

    def coordinator(self, event: Event, effects: list[Effect], before: Any) -> None:
        if self.world.plan.mode is not Mode.SYNC:
            return
        if isinstance(event, Received):
            self._hear(event.sender, event.message)
        orders = [
            (effect.target, effect.message)
            for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message, PeersForRound)
        ]
        for member, order in orders:
            if member not in self._ready[order.round]:
                self.fail(f"{member} is to connect in round {order.round}, but has not trained")
        if orders and orders[0][1].attempt == 1 and orders[0][1].round not in self._begun:
            self._begun.add(orders[0][1].round)
            self._opened(orders[0][1].round, {member for member, _ in orders})

    def _hear(self, member: NodeId, message: Any) -> None:
        match message:
            case PeerIsReady(round=round_) | ConnectionsReady(round=round_):
                pass
            case Heartbeat(round=round_, phase=phase) if phase in _READY:
                pass
            case Hello(round=round_, stage=stage) if stage in _READY:
                pass
            case _:
                return
        self._ready[round_].add(member)
        self._first.setdefault(round_, self.world.now)

    def _opened(self, round_: int, asked: set[NodeId]) -> None:
        rounds = self.world.plan.rounds
        members = self.world.coordinator.machine.learning.rounds.members
        here = {name for name, standing in members.items() if standing.round == round_}
        late = here - asked
        if not late:
            return
        if self.world.now < self._first[round_] + rounds.gather_ns:
            self.fail(f"round {round_} connects without {sorted(late)}, before its deadline")
        enough = max(rounds.min_participants, math.ceil(rounds.quorum * len(here)))
        if len(asked) < enough:
            self.fail(f"round {round_} connects with {sorted(asked)} of {sorted(here)}")
