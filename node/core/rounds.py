"""Rounds among peers, as the coordinator leads them (table: `node.core.tables.ROUNDS`).

    closed --begin--> lobby --enough members--> gather --all ready--> connect
    connect --all connected--> share --all done--> gather, next round

A barrier before the sharing: who shares is connected to all with whom it shares, and knows that
they are. With `Mode.ASYNC` there is one for the start, then one for the edges of each member that
comes (back); sharing is then over at once, and nobody waits in gather.

All conditions are on what is known of members (`Standing`, reports), so that signals that come
twice, late or in another order change nothing. Every signal repeated by a member that waits is
answered by the present order again: nothing that is lost stays lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Final

from node.config import Mode, RoundsConfig, Unreachable
from node.core.connecting import Connecting
from node.core.effects import CancelTimer, Effect, Record, Send, SetTimer, Value
from node.core.ids import NodeId
from node.core.signals import (
    ConnectionFail,
    ConnectionsReady,
    Enough,
    JoinRound,
    PeerGone,
    PeerIsReady,
    RoundDone,
    Signal,
    Stage,
    Stale,
    StartWeightSharing,
    Waiting,
)
from node.core.standings import Edge, Overlay, Standing, Standings, Told, within
from node.units import Nanos

GATHER: Final = "rounds/gather"
CONNECT: Final = "rounds/connect"
SHARE: Final = "rounds/share"


class RoundState(Enum):
    CLOSED = "closed"
    LOBBY = "lobby"
    GATHER = "gather"
    CONNECT = "connect"
    SHARE = "share"


class Rounds:
    """The machine of the rounds; its owner, the coordinator, tells it who takes part.

    Args:
        overlay: who exchanges with whom.
    """

    def __init__(self, *, config: RoundsConfig, overlay: Overlay) -> None:
        self._config = config
        self._overlay = overlay
        self._sync = config.mode is Mode.SYNC
        self._state = RoundState.CLOSED
        self._connecting = Connecting(config=config, overlay=overlay)
        self._members = Standings()
        self._pending: set[Edge] = set()
        """Async: what a change of membership touches."""
        self._starts: dict[NodeId, StartWeightSharing] = {}
        self._expelled: list[tuple[NodeId, str]] = []
        self._finished: set[NodeId] = set()
        self._opened = False
        self._gathering = False
        """Whether the timer of the gathering runs."""

    @property
    def state(self) -> RoundState:
        return self._state

    @property
    def stamp(self) -> tuple[int, int]:
        """The present round and attempt."""
        return self._connecting.round, self._connecting.attempt

    @property
    def opened(self) -> bool:
        """Whether any round has been started."""
        return self._opened

    @property
    def participants(self) -> frozenset[NodeId]:
        """Of the present attempt, or those who share."""
        return frozenset(self._connecting.participants)

    @property
    def members(self) -> Mapping[NodeId, Standing]:
        """Who takes part, and how far they are."""
        return self._members

    @property
    def next_round(self) -> int:
        """Which round somebody who comes now is to join: never one that is under way."""
        under_way = self._state in (RoundState.GATHER, RoundState.CONNECT, RoundState.SHARE)
        return self._connecting.round + (self._sync and self._opened and under_way)

    def expelled(self) -> list[tuple[NodeId, str]]:
        """Who was expelled since this was asked last, and why."""
        gone, self._expelled = self._expelled, []
        return gone

    # --- what the coordinator calls

    def begin(self, told: Mapping[NodeId, Told], *, now: Nanos) -> list[Effect]:
        """The first round may begin, for these members."""
        for name, said in told.items():
            self._members[name] = Standing(round=said.round, ready=said.ready)
        if not self._sync:
            self._pending = set(self._overlay.edges)
        return [*self._enter(RoundState.LOBBY, "the run begins"), *self._evaluate(now)]

    def resume(self, told: Mapping[NodeId, Told], *, now: Nanos) -> list[Effect]:
        """Go on from what the members of a run under way say of themselves."""
        for name, said in told.items():
            self._members[name] = Standing(
                round=said.round, ready=said.ready, begun=self._sync or not said.ready
            )
        self._opened = True
        known = max(((said.round, said.attempt) for said in told.values()), default=(0, 0))
        self._connecting.known = known
        self._connecting.next_round(known[0])
        shares = [(s.round, s.attempt) for s in told.values() if s.stage is Stage.SHARING]
        if self._sync and shares:
            # A start was given. Who has not heard of it reports its connections again.
            self._connecting.next_round(max(shares)[0])
            self._connecting.attempt = max(shares)[1]
            here = {name for name, s in told.items() if (s.round, s.attempt) == self.stamp}
            self._connecting.participants = here
            return self._enter_share(now, why="the coordinator is back")
        if not self._sync:  # some were waiting for the start of a barrier
            ready = [name for name, said in told.items() if said.ready]
            self._pending = {edge for name in ready for edge in self._overlay.of(name)}
        return [*self._enter(RoundState.LOBBY, "the coordinator is back"), *self._evaluate(now)]

    def join(self, member: NodeId, said: Told, *, now: Nanos) -> list[Effect]:
        """A member takes part from now on, or is further than it was."""
        if self._state is RoundState.CLOSED:
            return []
        self._finished.discard(member)
        standing = self._members.get(member)
        if standing is None:
            self._members[member] = Standing(round=said.round, ready=said.ready)
            if not self._sync:
                self._pending.update(self._overlay.of(member))
        elif said.round > standing.round:
            self._move(member, said.round, ready=said.ready)
        return self._evaluate(now)

    def leave(self, member: NodeId, *, now: Nanos) -> list[Effect]:
        """A member no longer takes part: gone, away, at its end, or it gets the model anew."""
        if member in self._finished:
            self._finished.remove(member)
            return self._evaluate(now)
        if self._members.pop(member, None) is None:
            return []
        peers = set(self._overlay.others(self._connecting.edges, member))
        if self._state is RoundState.SHARE and member in self._starts:
            peers |= set(self._starts[member].peers)
        told = sorted(peers & self._connecting.participants & self._members.keys())
        self._forget(member)
        round_, attempt = self.stamp
        gone = PeerGone(peer=member, round=round_, attempt=attempt)
        busy = self._state in (RoundState.CONNECT, RoundState.SHARE)
        effects: list[Effect] = [Send(target=name, message=gone) for name in told if busy]
        return [*effects, *self._evaluate(now)]

    def finish(self, member: NodeId, *, now: Nanos) -> list[Effect]:
        """A member has learnt all that it is to learn; what it has sent still comes."""
        self._members.pop(member, None)
        self._finished.add(member)
        self._forget(member)
        return self._evaluate(now)

    def hear(self, member: NodeId, signal: Signal, *, now: Nanos) -> list[Effect]:
        if self._state is RoundState.CLOSED:
            return []
        match signal:
            case JoinRound():
                return self.join(member, Told(round=signal.round), now=now)
            case PeerIsReady() if self._sync:
                return self._ready(member, signal, now)
            case ConnectionsReady():
                return self._report(member, signal, now)
            case RoundDone():
                return self.progress(member, signal.round + 1, now=now)
            case _:
                return []

    def progress(self, member: NodeId, round_: int, *, now: Nanos) -> list[Effect]:
        """A member is in this round: it has ended those before, whatever else was lost."""
        standing = self._members.get(member)
        if not self._sync or standing is None or round_ <= standing.round:
            return []
        return self.join(member, Told(round=round_), now=now)

    def timer(self, key: str, *, now: Nanos) -> list[Effect]:
        match key, self._state:
            case "rounds/gather", RoundState.GATHER:
                return self._gather_over(now)
            case "rounds/connect", RoundState.CONNECT:
                return self._again(self._connecting.failed(), self._connecting.silent, now)
            case "rounds/share", RoundState.SHARE:
                late = sorted(n for n in self._connecting.participants if self._behind(n))
                return self._next(now, why=f"without {', '.join(late)}, not done in time")
            case _:
                return []

    def close(self) -> list[Effect]:
        """The run ends."""
        if self._state is RoundState.CLOSED:
            return []
        closed = self._enter(RoundState.CLOSED, "the run ends")
        return [*closed, *(CancelTimer(key=key) for key in (GATHER, CONNECT, SHARE))]

    # --- signals

    def _ready(self, member: NodeId, signal: PeerIsReady, now: Nanos) -> list[Effect]:
        standing = self._members.setdefault(member, Standing(round=signal.round))
        if signal.round < standing.round:
            return []  # said before something that is known already
        self._move(member, signal.round, ready=True)
        if signal.round < self._connecting.round:
            return [self._stale(member)]
        if signal.round > self._connecting.round:
            return self._evaluate(now)
        if self._state in (RoundState.LOBBY, RoundState.GATHER):
            return self._evaluate(now)
        if member not in self._connecting.participants:  # this round is under way without it
            return [Send(target=member, message=Stale(round=self._connecting.round + 1))]
        if self._state is RoundState.CONNECT:
            return [Send(target=member, message=self._connecting.order(member))]
        start = self._starts.get(member)
        return [] if start is None else [Send(target=member, message=start)]

    def _report(self, member: NodeId, signal: ConnectionsReady, now: Nanos) -> list[Effect]:
        said, start = (signal.round, signal.attempt), self._starts.get(member)
        if start is not None and said == (start.round, start.attempt):
            return [Send(target=member, message=start)]
        if member not in self._members:
            return []
        if signal.round != self._connecting.round or said > self.stamp:
            return [self._stale(member)]
        if member not in self._connecting.participants:
            return self._waits(member, signal, now)
        if self._state is RoundState.SHARE and said == self.stamp:
            # The start was given by a coordinator before us, and got lost.
            peers = tuple(p for p in signal.connected if p in self._connecting.participants)
            return [
                self._give(member, StartWeightSharing(peers=peers, round=said[0], attempt=said[1]))
            ]
        if self._state is not RoundState.CONNECT:
            return [self._stale(member)]
        if said != self.stamp:
            return [Send(target=member, message=self._connecting.order(member))]
        self._connecting.reports[member] = signal
        return self._evaluate(now)

    def _waits(self, member: NodeId, signal: ConnectionsReady, now: Nanos) -> list[Effect]:
        """It waits in this round for a start that will not come: the attempt was broken off, or
        given by a coordinator before us."""
        if self._sync:
            return self._ready(member, PeerIsReady(round=signal.round), now)
        self._members[member] = replace(self._members[member], begun=False)
        self._pending.update(self._overlay.of(member))
        return self._evaluate(now)

    # --- gathering

    def _evaluate(self, now: Nanos) -> list[Effect]:
        """Go on where nothing is waited for any more."""
        match self._state:
            case RoundState.LOBBY | RoundState.GATHER:
                return self._gather(now)
            case RoundState.CONNECT:
                return self._check_connected(now)
            case RoundState.SHARE if not any(map(self._behind, self._connecting.participants)):
                return self._next(now, why="all are done")
            case _:
                return []

    def _gather(self, now: Nanos) -> list[Effect]:
        present, needed = len(self._members), self._needed
        if present < needed:
            return self._wait(present, needed) if present else []
        effects: list[Effect] = []
        if self._state is RoundState.LOBBY:
            enough = Enough(round=self._connecting.round, attempt=self._connecting.attempt)
            effects += [Send(target=name, message=enough) for name in sorted(self._members)]
            effects += self._enter(RoundState.GATHER, f"{present} members")
        if not self._sync:
            return [*effects, *self._gather_touched(now)]
        effects += self._catch_up(needed)
        here, ready = self._members.count(self._connecting.round)
        if ready == here >= needed:
            who = set(self._here())
            return [*effects, *self._connect(who, self._overlay.edges, now, why="all are ready")]
        if ready and not self._gathering:
            self._gathering = True
            effects.append(SetTimer(key=GATHER, at=now + self._config.gather_ns))
        return effects

    def _here(self) -> list[NodeId]:
        """The members that are in the present round."""
        return [name for name, s in self._members.items() if s.round == self._connecting.round]

    def _wait(self, present: int, needed: int) -> list[Effect]:
        """Too few: say so to those who are there."""
        effects: list[Effect] = []
        if self._state is not RoundState.LOBBY:
            effects += [self._cancel_gather(), *self._enter(RoundState.LOBBY, "too few members")]
        effects.append(Record(kind="waiting", fields={"present": present, "needed": needed}))
        round_, attempt = self.stamp
        waiting = Waiting(present=present, needed=needed, round=round_, attempt=attempt)
        return [*effects, *(Send(target=name, message=waiting) for name in sorted(self._members))]

    def _catch_up(self, needed: int) -> list[Effect]:
        """With too few in this round and others ahead, go on with theirs: nobody comes back."""
        newest, (here, _) = self._members.newest, self._members.count(self._connecting.round)
        if here >= needed or newest <= self._connecting.round:
            return []
        self._connecting.next_round(newest)
        behind = [name for name, s in self._members.items() if s.round < newest]
        moved = self._enter(RoundState.GATHER, "others are ahead")
        return [self._cancel_gather(), *moved, *(self._stale(name) for name in behind)]

    def _gather_touched(self, now: Nanos) -> list[Effect]:
        """Async: a barrier for the edges that a change of membership touches, if there are any."""
        touched = within(self._pending, self._members)
        new = {name for name, standing in self._members.items() if not standing.begun}
        if not touched and not new:
            return []
        self._pending -= touched
        who = {name for edge in touched for name in edge} | new
        return self._connect(who, touched, now, why="to be connected")

    def _gather_over(self, now: Nanos) -> list[Effect]:
        """Those who are ready have waited long enough, if they are a quorum."""
        self._gathering = False
        here = self._here()
        ready = {name for name in here if self._members[name].ready}
        late = sorted(set(here) - ready)
        if len(ready) >= self._quorum(len(here)):
            why = f"the quorum, without {', '.join(late)}"
            return self._connect(ready, self._overlay.edges, now, why=why)
        self._gathering = True
        names: list[Value] = list(late)
        note = Record(kind="waiting", fields={"round": self._connecting.round, "for": names})
        return [note, SetTimer(key=GATHER, at=now + self._config.gather_ns)]

    def _quorum(self, expected: int) -> int:
        return max(self._needed, math.ceil(self._config.quorum * expected))

    @property
    def _needed(self) -> int:
        """How many a round must have; who has learnt all that it was to learn is not missing."""
        return max(1, self._config.min_participants - len(self._finished))

    def _cancel_gather(self) -> Effect:
        self._gathering = False
        return CancelTimer(key=GATHER)

    # --- connecting

    def _connect(
        self, who: set[NodeId], edges: Iterable[Edge], now: Nanos, *, why: str
    ) -> list[Effect]:
        self._connecting.set_up(who, edges)
        return [self._cancel_gather(), *self._attempt(set(), set(who), now, why=why)]

    def _attempt(
        self, failing: set[Edge], anew: set[NodeId], now: Nanos, *, why: str
    ) -> list[Effect]:
        connecting = self._connecting
        connecting.next_attempt(failing, anew)
        limit = SetTimer(key=CONNECT, at=now + self._config.connection_timeout_ns)
        tell = [
            Send(target=m, message=connecting.order(m)) for m in sorted(connecting.participants)
        ]
        return [*self._enter(RoundState.CONNECT, why), limit, *tell]

    def _check_connected(self, now: Nanos) -> list[Effect]:
        """Somebody has reported, or takes no part any more."""
        connecting = self._connecting
        if len(connecting.participants) < (self._needed if self._sync else 1):
            return self._abort(now, why="too few are left")
        if not connecting.complete:
            return []
        failing = connecting.failed()
        if not failing:
            return self._start(now, why="all are connected")
        return self._again(failing, set(), now)

    def _again(self, failing: set[Edge], silent: set[NodeId], now: Nanos) -> list[Effect]:
        """Another attempt, or none if there have been as many as there may."""
        pairs = [" - ".join(sorted(edge)) for edge in failing]
        why = ", ".join(sorted([*pairs, *(f"{name} silent" for name in silent)]))
        if self._connecting.more:
            return self._attempt(failing, silent, now, why=why)
        needed = self._quorum(len(self._connecting.participants)) if silent else 1
        guilty = self._connecting.cover()
        failing = self._connecting.give_up(silent)
        effects: list[Effect] = []
        if self._config.unreachable is Unreachable.PEERS:
            effects += self._expel(
                {name: why for name, why in guilty.items() if name not in silent}
            )
        else:
            self._connecting.dropped |= failing
            effects += self._connecting.records(failing, "dropped")
        needed = max(needed, self._needed) if self._sync else 1
        if len(self._connecting.participants) < needed:
            return [*effects, *self._abort(now, why=f"too few connections: {why}")]
        return [*effects, *self._start(now, why=f"given up: {why}")]

    def _expel(self, guilty: Mapping[NodeId, str]) -> list[Effect]:
        effects: list[Effect] = []
        round_, attempt = self.stamp
        for name, reason in guilty.items():
            fail = ConnectionFail(reason=reason, round=round_, attempt=attempt)
            effects.append(Send(target=name, message=fail))
            del self._members[name]
            self._forget(name)
            self._expelled.append((name, reason))
        return effects

    def _abort(self, now: Nanos, *, why: str) -> list[Effect]:
        """No start; those who are left gather again for the same round."""
        self._connecting.clear()
        effects = [CancelTimer(key=CONNECT), *self._enter(RoundState.GATHER, why)]
        return [*effects, *self._evaluate(now)]

    # --- sharing

    def _start(self, now: Nanos, *, why: str) -> list[Effect]:
        """All with whom somebody shares are connected to it."""
        self._opened = True
        effects: list[Effect] = [CancelTimer(key=CONNECT)]
        effects += self._connecting.records(self._connecting.restore(), "restored")
        for name in sorted(self._connecting.participants):
            effects.append(self._give(name, self._connecting.start(name)))
        return [*effects, *self._enter_share(now, why=why)]

    def _give(self, member: NodeId, start: StartWeightSharing) -> Effect:
        self._starts[member] = start
        self._members[member] = replace(self._members[member], begun=True)
        return Send(target=member, message=start)

    def _enter_share(self, now: Nanos, *, why: str) -> list[Effect]:
        effects = self._enter(RoundState.SHARE, why)
        if not self._sync:
            return [*effects, *self._next(now, why="the barrier is open")]
        # Members give up by themselves at `share_ns`; one that does not even say so is left behind.
        at = now + self._config.share_ns + self._config.connection_timeout_ns
        return [*effects, SetTimer(key=SHARE, at=at)]

    def _behind(self, member: NodeId) -> bool:
        """It has not ended the present round."""
        return self._members[member].round <= self._connecting.round

    def _next(self, now: Nanos, *, why: str) -> list[Effect]:
        self._connecting.next_round(self._connecting.round + 1)
        effects = [CancelTimer(key=SHARE), *self._enter(RoundState.GATHER, why)]
        return [*effects, *self._evaluate(now)]

    # --- small things

    def _move(self, member: NodeId, round_: int, *, ready: bool) -> None:
        """A member is in this round, and has trained for it or not."""
        self._members[member] = replace(self._members[member], round=round_, ready=ready)
        if self._sync and self._state is RoundState.CONNECT and round_ > self._connecting.round:
            self._connecting.leave(member)  # it has gone on by itself

    def _forget(self, member: NodeId) -> None:
        self._connecting.forget(member)
        self._starts.pop(member, None)
        self._pending.difference_update(self._overlay.of(member))

    def _stale(self, member: NodeId) -> Effect:
        round_, attempt = self.stamp
        return Send(target=member, message=Stale(round=round_, attempt=attempt))

    def _enter(self, state: RoundState, why: str) -> list[Effect]:
        self._state, (round_, attempt) = state, self.stamp
        stamp: dict[str, Value] = {"round": round_, "attempt": attempt}
        return [Record(kind="rounds", fields={"state": state.value, **stamp, "why": why})]
