"""The invariants themselves (issue 4, section 8); see `tests.simulation.invariants`.

Each has a mutation of the machines in `tests.simulation.mutations` that it, and it alone, catches.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from node.config import Mode
from node.core.effects import ConnectEdges, Effect, OpenShare, Record, Send, ShareOver
from node.core.events import Event, Received
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.signals import (
    ConnectionFail,
    ConnectionsReady,
    Stage,
)
from node.units import SECOND, Nanos
from tests.simulation.hosts import Node
from tests.simulation.invariants import SAYS, Invariant, Watch
from tests.simulation.quorums import Gathered, Reported, Stamp
from tests.simulation.tables import Tables
from tests.simulation.transitions import RowId

Life = tuple[NodeId, int]
"""A member's name and incarnation."""


def _life(node: Node) -> Life:
    return node.name, node.incarnation


class RightRound(Invariant):
    name = "right-round"
    says = "No payload is aggregated in another round or attempt than the one it was shared in."

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._opened: defaultdict[Life, dict[int, int]] = defaultdict(dict)
        """Newest attempt of each round that a life was told to share in."""
        self._sent: set[tuple[NodeId, Stamp]] = set()
        self._sync = self.world.plan.mode is Mode.SYNC

    def member(self, node: Node, event: Event, effects: list[Effect], before: Any) -> None:
        for effect in effects:
            if isinstance(effect, OpenShare):
                opened = self._opened[_life(node)]
                opened[effect.round] = max(effect.attempt, opened.get(effect.round, 0))

    def peer(self, node: Node, event: Event, effects: list[Effect]) -> None:
        if not self._sync:
            return
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, PeerMessage):
                stamp = (effect.message.round, effect.message.attempt)
                if self._opened[_life(node)].get(stamp[0], 0) < stamp[1]:
                    self.fail(f"{node.name} sends in {stamp}, which was not opened for it")
                self._sent.add((node.name, stamp))

    def exchanged(
        self,
        node: Node,
        round_: int,
        received: Mapping[NodeId, PeerMessage],
        peers: tuple[NodeId, ...],
    ) -> None:
        attempt = self._opened[_life(node)].get(round_, 0)
        for sender, message in received.items():
            stamp = (message.round, message.attempt)
            if stamp != (round_, attempt):
                self.fail(
                    f"{node.name} aggregates what {sender} sent in round {stamp[0]}, attempt "
                    f"{stamp[1]}, in round {round_}, attempt {attempt}"
                )
            if (sender, stamp) not in self._sent:
                self.fail(f"{node.name} aggregates what {sender} never sent in {stamp}")
            if sender not in peers:
                self.fail(f"{node.name} aggregates what {sender} sent, with whom it did not share")


class OneRound(Invariant):
    name = "one-round"
    says = (
        "No member is in two rounds at once: it shares in the round that its algorithm is in, its "
        "aggregated rounds strictly increase, its attempts never go back within a round, and those "
        "who aggregate a round together do so in the same attempt."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._last: dict[Life, int] = {}
        self._asked: dict[Life, Stamp] = {}
        self._attempts: defaultdict[int, dict[NodeId, int]] = defaultdict(dict)
        self._partners: defaultdict[int, dict[NodeId, set[NodeId]]] = defaultdict(dict)

    def member(self, node: Node, event: Event, effects: list[Effect], before: Any) -> None:
        for effect in effects:
            if isinstance(effect, OpenShare) and effect.round != node.machine.round:
                self.fail(
                    f"{node.name} shares in round {effect.round} while its algorithm is in round "
                    f"{node.machine.round}"
                )
            if isinstance(effect, ConnectEdges):
                stamp, before_ = (effect.round, effect.attempt), self._asked.get(_life(node))
                if before_ is not None and stamp < before_:
                    self.fail(f"{node.name} goes back from {before_} to {stamp}")
                self._asked[_life(node)] = stamp

    def exchanged(
        self,
        node: Node,
        round_: int,
        received: Mapping[NodeId, PeerMessage],
        peers: tuple[NodeId, ...],
    ) -> None:
        self._partners[round_][node.name] = set(received)

    def peer(self, node: Node, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ShareOver):
                self._aggregated(node, effect)

    def _aggregated(self, node: Node, over: ShareOver) -> None:
        last = self._last.get(_life(node), -1)
        if over.round <= last:
            self.fail(f"{node.name} aggregates round {over.round} after round {last}")
        self._last[_life(node)] = over.round
        attempts, partners = self._attempts[over.round], self._partners[over.round]
        attempts[node.name] = over.attempt
        for other, attempt in attempts.items():
            together = other in partners.get(node.name, ()) or node.name in partners.get(other, ())
            if together and attempt != over.attempt:
                self.fail(
                    f"{node.name} aggregates round {over.round} in attempt {over.attempt}, {other} "
                    f"in attempt {attempt}"
                )


class WaitsEnd(Invariant):
    name = "every-wait-ends"
    says = "No member and no coordinator is in any state for longer than that state may last."

    SLACK: Nanos = SECOND
    """Two ticks of the watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._since: dict[str, tuple[Any, Nanos]] = {}
        plan = self.world.plan
        waits, rounds = plan.deadlines, plan.rounds
        tries = (rounds.max_connection_retry + 1) * rounds.connection_timeout_ns
        self._phases = {
            "gathering": waits.join_ns,
            "measuring": waits.links_ns,
            "preparing": waits.ready_ns,
            "connecting": waits.ready_ns + tries,
            "recovering": waits.lease_ns,
            "stopping": waits.stop_ns,
        }
        self._states = {
            "gather": rounds.gather_ns,
            "connect": rounds.connection_timeout_ns,
            "share": rounds.share_ns + rounds.connection_timeout_ns,
        }
        self._before_start = waits.join_ns
        alone = waits.coordinator_ns + waits.lease_ns
        self._stages = {
            "joining": waits.join_ns,
            "stopping": waits.stop_ns,
            Stage.CONNECTING.value: rounds.connection_timeout_ns,
            Stage.ARMED.value: alone + tries,
            Stage.SHARING.value: rounds.share_ns,
            "syncing": alone + 6 * (rounds.sync_ns + rounds.share_ns),
        }

    def tick(self) -> None:
        world = self.world
        rounds_state = world.coordinator.machine.learning.rounds.state.value
        if world.coordinator.alive:
            machine = world.coordinator.machine
            rounds = machine.learning.rounds
            phase = machine.phase.value
            self._hold("the coordinator", (phase, id(machine)), self._phases.get(phase))
            state = rounds.state.value
            bound = self._states.get(state)
            if state == "gather" and not self._enough_wait(rounds):
                bound = None
            self._hold("its rounds", (state, rounds.stamp, id(machine)), bound)
        for node in world.nodes.values():
            member: Any = node.member.machine
            if node.gone or node.asleep is not None:
                self._since.pop(node.name, None)
                continue
            state, stage = member.state.value, str(member.stage)
            bound = self._stages.get(state, self._stages.get(stage))
            if world.coordinator.alive and rounds_state == "lobby" and state == "running":
                bound = None  # too few members: it waits, and says so
            if state == "ready" and bound is not None:
                bound += self._before_start  # a new coordinator gathers again
            shown = (state, stage, member.round, member.attempt)
            self._hold(node.name, (shown, node.incarnation), bound)

    def _enough_wait(self, rounds: Any) -> bool:
        """A quorum is ready, and the others are not."""
        plan = self.world.plan.rounds
        here = [s for s in rounds.members.values() if s.round == rounds.stamp[0]]
        ready: int = sum(standing.ready for standing in here)
        return ready >= max(plan.min_participants, math.ceil(plan.quorum * len(here)), 1)

    def _hold(self, who: str, what: Any, bound: Nanos | None) -> None:
        now = self.world.now
        old = self._since.get(who)
        if old is None or old[0] != what or bound is None:
            self._since[who] = (what, now)
        elif now > old[1] + bound + self.SLACK:
            lasted = (now - old[1]) / SECOND
            self.fail(f"{who} is at {what} for {lasted:.1f} s, of {bound / SECOND:g} s")


class Spared(Invariant):
    name = "healthy-spared"
    says = (
        "A healthy member (no edge cut, not crashed, not paused, its streams not broken, no signal "
        "of it lost) is never expelled or given up, and no edge between two of them is dropped; "
        "nobody is before all attempts were made."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._stamp: Stamp = (0, 0)
        self._lacks: dict[NodeId, tuple[NodeId, ...]] = {}
        """Which edges have failed, as reported in the present attempt."""
        self._expelled: set[NodeId] = set()

    def coordinator(self, event: Event, effects: list[Effect], before: Any) -> None:
        if isinstance(event, Received) and isinstance(event.message, ConnectionsReady):
            report = event.message
            stamp = (report.round, report.attempt)
            if stamp > self._stamp:
                self._stamp, self._lacks = stamp, {}
            if stamp == self._stamp:
                self._lacks[event.sender] = report.failed
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, ConnectionFail):
                if not self._ill(effect.target) and not self._either_end(effect.target):
                    self.fail(f"{effect.target} is expelled: {effect.message.reason}")
                again = effect.target in self._expelled
                self._expelled.add(effect.target)
                if not again and self._early(effect.message.attempt):
                    self.fail(f"{effect.target} is expelled, and might be tried again")
            elif isinstance(effect, Record) and effect.kind == "edge":
                ends = [NodeId(str(end)) for end in self._list(effect)]
                if effect.fields["state"] != "dropped":
                    continue
                if not any(map(self._ill, ends)):
                    self.fail(f"the edge {ends} is dropped")
                if self._early(effect.fields["attempt"]):
                    self.fail(f"the edge {ends} is dropped, and might be tried again")
            elif isinstance(effect, Record) and effect.kind == "member":
                name = NodeId(str(effect.fields["member"]))
                gone = effect.fields["state"] in ("lost", "failed", "expelled", "silent")
                well = not self._ill(name) and not self._off_line(name)
                if gone and well and not self._either_end(name):
                    self.fail(f"{name} is {effect.fields['state']}")

    def _early(self, attempt: Any) -> bool:
        """Before all attempts were made."""
        return int(attempt) <= self.world.plan.rounds.max_connection_retry

    def _list(self, effect: Record) -> list[Any]:
        peers = effect.fields["peers"]
        assert isinstance(peers, list)
        return peers

    def _either_end(self, name: NodeId) -> bool:
        """Of one failed edge between two, either end explains it, the healthy one as well."""
        edges = {frozenset((end, far)) for end, lacks in self._lacks.items() for far in lacks}
        mine = [edge for edge in edges if name in edge]
        (far,) = mine[0] - {name} if len(mine) == 1 else (None,)
        either = far is not None and self._ill(far) and sum(far in edge for edge in edges) == 1
        if either:
            self.world.excused.add(name)
        return either

    def _ill(self, name: NodeId) -> bool:
        return self.world.ill.get(name, 0) > self.world.now

    def _off_line(self, name: NodeId) -> bool:
        return self.world.off_line.get(name, 0) > self.world.now

    def ended(self) -> None:
        for node in self.world.lives:
            if node.finish is None or node.finish.error is None:
                continue
            world = self.world
            touched = world.ill.keys() | world.off_line.keys() | world.excused
            if node.name not in touched:
                self.fail(f"{node.name} ended with an error: {node.finish.error}")


class Progress(Invariant):
    name = "rounds-complete"
    says = (
        "Once faults have stopped, rounds complete within a bound, those who came back take part "
        "again, and the run ends well."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        plan = self.world.plan
        rounds, waits = plan.rounds, plan.deadlines
        tries = (rounds.max_connection_retry + 1) * rounds.connection_timeout_ns
        slow = max([0.0, *(f.for_s for f in plan.faults if f.kind == "slow")])
        train = round((plan.train_most_s + slow) * SECOND)
        settle = waits.lease_ns + waits.peer_ns + tries + rounds.gather_ns + rounds.share_ns
        sync = 2 * rounds.sync_ns + rounds.share_ns + SECOND
        self._from = self.world.quiet_at + settle + sync + train
        """By then nothing of any fault is left."""
        self._each = round(plan.train_most_s * SECOND) + 3 * SECOND
        """A round without faults: the training, a dial, and messages there and back."""
        self._marks: dict[NodeId, tuple[int, Nanos]] = {}

    def tick(self) -> None:
        world = self.world
        if world.now < self._from or not self._enough():
            self._marks.clear()
            return
        for node in world.nodes.values():
            member: Any = node.member.machine
            if node.gone or member.state.value in ("done", "stopping", "joining"):
                self._marks.pop(node.name, None)
                continue
            mark = self._marks.get(node.name)
            if mark is None or node.machine.round > mark[0]:
                self._marks[node.name] = (node.machine.round, world.now)
            elif world.now > mark[1] + self._each:
                self.fail(
                    f"{node.name} is {member.state.value}/{member.stage} in round {mark[0]} for "
                    f"{(world.now - mark[1]) / SECOND:.1f} s"
                )

    def _enough(self) -> bool:
        """Enough members for a round are there; those who are done count, too."""
        states = [n.member.machine.state.value for n in self.world.nodes.values() if not n.gone]  # type: ignore[attr-defined]
        learning = sum(state in ("running", "done") for state in states)
        return learning >= self.world.plan.rounds.min_participants

    def ended(self) -> None:
        finish = self.world.coordinator.finish
        assert finish is not None
        world = self.world
        touched = world.ill.keys() | world.off_line.keys() | world.excused
        for text in (finish.error or "").split("; "):
            if text and not any(name in text for name in touched):
                self.fail(f"the run ends with an error that no fault explains: {text}")


class InTables(Invariant):
    name = "in-the-tables"
    says = (
        "Every transition is a row of the tables (`node.core.tables`, `node.core.tables_member`)."
    )

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._tables = Tables(self)
        self.new_coordinator()

    def new_coordinator(self) -> None:
        self._tables.instrument(self.world.coordinator.machine)

    def rows(self) -> Counter[RowId]:
        return self._tables.rows()

    def coordinator(self, event: Event, effects: list[Effect], before: Any) -> None:
        self._tables.coordinator(event, before, self.world.phase.value)

    def member(self, node: Node, event: Event, effects: list[Effect], before: Any) -> None:
        self._tables.member(node, event, before)


ALL: tuple[type[Invariant], ...] = (
    RightRound,
    OneRound,
    Gathered,
    Reported,
    WaitsEnd,
    Spared,
    Progress,
    InTables,
)
SAYS.update({invariant.name: invariant.says for invariant in ALL})
