"""A member machine under test, held to its tables at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from node.config import Deadlines, Mode, RoundsConfig
from node.core.effects import Effect, Record, Send, SetTimer
from node.core.events import (
    EdgeSettled,
    Event,
    Exchanged,
    ModelSnapshot,
    Offered,
    PeerChange,
    PeerChanged,
    Prepared,
    Received,
    Started,
    TimerFired,
)
from node.core.ids import COORDINATOR, NodeId
from node.core.member import Member
from node.core.messages import PeerMessage
from node.core.model_sync import CHUNK, Serve
from node.core.newcomer import MAX_FAILED_SYNCS
from node.core.parts import Vector
from node.core.signals import (
    Hello,
    PeersForRound,
    Prepare,
    Signal,
    SignalModelProvider,
    Start,
    StartWeightSharing,
    Welcome,
)
from node.core.tables import Row
from node.core.tables_member import MEMBER, PARTICIPANT
from node.units import MILLISECOND, SECOND

A, B, C = (NodeId(name) for name in ("a", "b", "c"))
SIZE = 2 * CHUNK + 1
AT = 1_700_000_000 * SECOND
DEADLINES = Deadlines()
BEAT = TimerFired(key="member/heartbeat")

Taken = tuple[str, str, str, str]
"""Table, state, event, and the state afterwards."""
_E = TypeVar("_E")


def rounds(mode: Mode) -> RoundsConfig:
    return RoundsConfig(
        mode=mode,
        connection_timeout_ns=5 * SECOND,
        share_ns=60 * SECOND,
        sync_ns=10 * SECOND,
    )


def event_name(event: Event) -> str:
    """As the tables call it."""
    if isinstance(event, Received):
        message = event.message
        return message.kind if isinstance(message, PeerMessage) else type(message).__name__
    if isinstance(event, TimerFired):
        return "timer " + event.key.split("/")[1]
    return type(event).__name__


def matching(table: Sequence[Row], state: str, event: str) -> list[Row]:
    named = [row for row in table if event in row.event.split(" | ")]
    return [row for row in named if row.state in (state, "any")]


def breach(table: Sequence[Row], state: str, event: str, to: str) -> str | None:
    """What the table has against this transition."""
    rows = matching(table, state, event)
    allowed = {to for row in rows for to in row.to if to != "any"}
    if not rows or any(row.state == "any" for row in rows):
        allowed.add(state)
    return None if to in allowed else f"{state} --{event}--> {to}, not in {sorted(allowed)}"


def untaken(table: Sequence[Row], taken: set[Taken], which: str) -> list[str]:
    """Transitions that the table has and nobody took."""
    mine = {(state, event, to) for name, state, event, to in taken if name == which}
    left = []
    for row in table:
        for event in row.event.split(" | "):
            for to in row.to:
                fits = any(
                    event == done
                    and row.state in (state, "any")
                    and (after == to or (to == "any" and after == state))
                    for state, done, after in mine
                )
                if not fits:
                    left.append(f"{row.state} --{event}--> {to}")
    return left


Script = Callable[[], "Rig"]


def into(scripts: list[Script]) -> Callable[[Script], Script]:
    """A decorator that puts a script where a module keeps its own."""

    def keep(script: Script) -> Script:
        scripts.append(script)
        return script

    return keep


class Rig:
    """One member, the time, and what it has just wanted."""

    def __init__(self, mode: Mode | None = Mode.SYNC) -> None:
        settings = rounds(mode) if mode is not None else None
        hello = Hello(emulator="model", applied="{}")
        self.member = Member(hello=hello, deadlines=DEADLINES, rounds=settings)
        self.mode = mode
        self.now = 0
        self.effects: list[Effect] = []
        self.taken: set[Taken] = set()

    def feed(self, event: Event, *, after: int = MILLISECOND) -> list[Effect]:
        self.now += after
        before = (self.member.state.value, self.member.stage)
        self.effects = self.member.step(event, now=self.now)
        later = (self.member.state.value, self.member.stage)
        name = event_name(event)
        tables = (("member", MEMBER), ("participant", PARTICIPANT))
        for (which, table), old, new in zip(tables, before, later, strict=True):
            wrong = breach(table, old, name, new)
            assert wrong is None or self.mode is None, f"{which}: {wrong}"
            self.taken.add((which, old, name, new))
        return self.effects

    def hear(self, signal: Signal) -> list[Effect]:
        return self.feed(Received(sender=COORDINATOR, message=signal))

    def receive(self, sender: NodeId, message: PeerMessage) -> list[Effect]:
        return self.feed(Received(sender=sender, message=message))

    def fire(self, key: str, *, after: int = MILLISECOND) -> list[Effect]:
        return self.feed(TimerFired(key=key), after=after)

    def beat(self) -> list[Signal]:
        """A heartbeat; what is said besides."""
        self.feed(BEAT)
        return self.said[1:]

    @property
    def said(self) -> list[Any]:
        return [e.message for e in self.effects if isinstance(e, Send) and e.target == COORDINATOR]

    @property
    def sent(self) -> list[PeerMessage]:
        """To peers."""
        return [e.message for e in self.effects if isinstance(e, Send) and e.target != COORDINATOR]  # type: ignore[misc]

    def of(self, kind: type[_E]) -> list[_E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def timer(self, key: str) -> int:
        """When the timer that was just set fires."""
        (timer,) = [e for e in self.of(SetTimer) if e.key == key]
        return timer.at

    def refused(self) -> list[str]:
        return [str(r.fields["reason"]) for r in self.of(Record) if r.kind == "refused"]

    # --- scripts

    def join(self, *, need_sync: bool = False, size: int = SIZE) -> Rig:
        """From Hello to Ready."""
        self.feed(Started())
        self.hear(self.welcome(need_sync=need_sync))
        self.hear(Prepare())
        self.feed(Prepared(size=size))
        return self

    @staticmethod
    def welcome(round_: int = 0, *, need_sync: bool = False) -> Welcome:
        return Welcome(
            heartbeat_ns=500 * MILLISECOND, lease_ns=10 * SECOND, need_sync=need_sync, round=round_
        )

    def run(self) -> Rig:
        """Until it trains for round 0."""
        self.join()
        self.hear(Start(at_wall_ns=AT))
        return self

    def offered(self) -> Rig:
        """Until it has trained for its round."""
        self.feed(Offered(round=self.member.round))
        return self

    def settle(self, peer: NodeId, *, attempt: int, error: str | None = None) -> list[Effect]:
        event = EdgeSettled(peer=peer, round=self.member.round, attempt=attempt, error=error)
        return self.feed(event)

    def exchanged(self, *, attempt: int, missing: tuple[NodeId, ...] = ()) -> list[Effect]:
        return self.feed(Exchanged(round=self.member.round, attempt=attempt, missing=missing))

    def syncing(self, *, size: int = SIZE) -> Rig:
        """A latecomer that asks for the model."""
        self.join(need_sync=True, size=size)
        self.hear(Start(at_wall_ns=AT))
        return self

    def coordinator(self, change: PeerChange) -> list[Effect]:
        return self.feed(PeerChanged(peer=COORDINATOR, change=change))


def a_model(seed: int = 0) -> Vector:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def provider_of(sync: int) -> Serve:
    serve = Serve(idle_ns=SECOND)
    serve.expect(sync, A, now=0)
    serve.snapshots()
    serve.snapshot(ModelSnapshot(sync=sync, held=6, parameters=a_model()), now=0)
    return serve


def fail_by_a_wrong_hash(rig: Rig) -> None:
    """The last of a newcomer's tries ends with a model that is not what its hash says."""
    for sync in range(1, MAX_FAILED_SYNCS):
        rig.hear(SignalModelProvider(sync=sync, provider=B))
        rig.fire("sync/stall", after=10 * SECOND)
    rig.hear(SignalModelProvider(sync=MAX_FAILED_SYNCS, provider=B))
    serve = provider_of(MAX_FAILED_SYNCS)
    for request in rig.sent:
        (answer,) = (effect.message for effect in serve.take(A, request, now=0))  # type: ignore[union-attr]
        rig.receive(B, replace(answer, fields={**answer.fields, "sha256": "0" * 64}))


# --- members that have come so far


def connecting() -> Rig:
    rig = Rig().run().offered()
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A, B)))
    return rig


def armed() -> Rig:
    rig = connecting()
    rig.settle(A, attempt=1)
    rig.settle(B, attempt=1)
    return rig


def sharing() -> Rig:
    rig = armed()
    rig.hear(StartWeightSharing(round=0, attempt=1, peers=(A, B)))
    return rig


def states(rig: Rig) -> list[str]:
    return [str(r.fields["state"]) for r in rig.of(Record) if r.kind == "state"]


def transfer(rig: Rig, sync: int) -> None:
    """Carry the model from B to the member."""
    wire = rig.sent
    serve = provider_of(sync)
    while wire:
        for effect in serve.take(A, wire.pop(0), now=0):
            rig.receive(B, effect.message)  # type: ignore[union-attr,arg-type]
            if rig.said:
                return
            wire += rig.sent


def synced(mode: Mode = Mode.SYNC) -> Rig:
    rig = Rig(mode).syncing()
    rig.hear(SignalModelProvider(sync=1, provider=B))
    transfer(rig, 1)
    return rig


def waiting() -> Rig:
    """Ready, before the start."""
    return Rig(Mode.ASYNC).join()


def barrier(stage: str) -> Rig:
    rig = waiting()
    rig.hear(PeersForRound(round=0, attempt=1, peers=(A,)))
    if stage == "armed":
        rig.settle(A, attempt=1)
    return rig
