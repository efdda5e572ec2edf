"""A member's part in the rounds (table: `node.core.tables_member.PARTICIPANT`).

    outside --start--> training --Offered--> ready --PeersForRound--> connecting --all settled-->
    armed --StartWeightSharing--> sharing --Exchanged--> training, next round

With `Mode.ASYNC` there is one barrier before the start, from `ready`; later ones, for the edges
that a change of membership touches, go on beside the training. A latecomer gets the model first:

    outside --sync--> syncing --model here--> synced --Welcome--> training (async: ready)

The member machine (`node.core.member`) owns it and passes on what concerns it. What was said last
is said again with every heartbeat (`repeat`), so that nothing that is lost stays lost; orders of
another round or an older attempt change nothing.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from node.config import Mode, RoundsConfig
from node.core import model_sync
from node.core.barrier import Barrier
from node.core.effects import (
    AdoptModel,
    BeginRun,
    CancelTimer,
    DropFromShare,
    Effect,
    OpenShare,
    Record,
    Send,
    SetTimer,
    SitOut,
    SkipShare,
)
from node.core.events import EdgeSettled, Exchanged, ModelSnapshot, PeerChange, PeerChanged
from node.core.ids import COORDINATOR, NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import Serve
from node.core.newcomer import Newcomer
from node.core.signals import (
    Enough,
    JoinRound,
    PeerGone,
    PeerIsReady,
    PeersForRound,
    RetryPeerConnections,
    RoundDone,
    Signal,
    SignalModelProvider,
    SignalNewPeer,
    Stage,
    Stale,
    StartWeightSharing,
    SyncDecline,
    SyncDone,
    Waiting,
    Welcome,
)
from node.units import Nanos

EDGES: Final = "participant/edges"
TIMERS: Final = frozenset({EDGES, model_sync.STALL, model_sync.IDLE})
_SETTLE_SHARE: Final = 0.9
"""Of the connection timeout; the runtime answers by 0.8 of it, unless something is wrong there."""
_IDLE_STALLS: Final = 3
"""Stall times after which a provider forgets a newcomer that asks for nothing."""


class Standing(StrEnum):
    """Where a member stands in the run: the stages of a round, and what is outside of it."""

    OUTSIDE = "outside"
    TRAINING = Stage.TRAINING.value
    READY = Stage.READY.value
    CONNECTING = Stage.CONNECTING.value
    ARMED = Stage.ARMED.value
    SHARING = Stage.SHARING.value
    SYNCING = "syncing"
    SYNCED = "synced"
    OVER = "over"


_WAITING: Final = (Standing.READY, Standing.CONNECTING, Standing.ARMED)
"""Waits for the barrier to open."""
_IN_ROUNDS: Final = (*_WAITING, Standing.TRAINING, Standing.SHARING)
_UNRECORDED: Final = (Standing.OUTSIDE, Standing.SYNCED, Standing.OVER)

RoundSignal: TypeAlias = (
    PeersForRound
    | RetryPeerConnections
    | StartWeightSharing
    | PeerGone
    | Stale
    | Waiting
    | Enough
    | SignalModelProvider
    | SignalNewPeer
)
"""What the coordinator says to a participant."""


class Participant:
    """See the module. Every method returns effects; `failure` is set when it cannot go on."""

    def __init__(self, *, rounds: RoundsConfig) -> None:
        self._rounds = rounds
        self._sync_mode = rounds.mode is Mode.SYNC
        self._standing = Standing.OUTSIDE
        self._round = 0
        self._attempt = 0
        self._barrier = Barrier()
        self._beside: Stage | None = None
        """How far a barrier is that goes on beside the training (`connecting`, `armed`)."""
        self._at_wall: int | None = None
        """When the run clock stood at 0; None: not known yet."""
        self._begun = False
        """Whether the run has begun on this node."""
        self._newcomer = Newcomer(rounds=rounds)
        self._serve = Serve(idle_ns=_IDLE_STALLS * rounds.sync_ns)

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def stage(self) -> str:
        """As in `signals.Stage`, empty where it takes no part in a round."""
        return str(self._standing) if self._standing in _IN_ROUNDS else ""

    @property
    def round(self) -> int:
        return self._round

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def failure(self) -> str | None:
        """Why it cannot go on."""
        return self._newcomer.failure

    def held(self, ended: int) -> int:
        """Rounds behind the last aggregated model, of a peer that has ended `ended`; -1: none."""
        if self._standing is Standing.SYNCED:
            return self._newcomer.done.held
        return ended if self._begun else -1

    # --- what the member machine calls

    def prepared(self, size: int) -> None:
        """The trainer is up; its model has `size` parameters."""
        self._newcomer.prepared(size)

    def await_start(self) -> None:
        """The member is there from the start: with `Mode.ASYNC` a barrier comes before it."""
        if not self._sync_mode:
            self._standing = Standing.READY

    def start(self, at_wall_ns: int) -> list[Effect]:
        """The run begins for all at this time."""
        self._at_wall = at_wall_ns
        effects = self._begin()
        if self._sync_mode:
            return [*effects, *self._train()]
        self._standing = Standing.TRAINING  # perhaps it was already, and waited for the time only
        return [*effects, _state(Standing.TRAINING)]

    def sync(self, at_wall_ns: int) -> list[Effect]:
        """The run began at this time without us: get the model."""
        self._at_wall = at_wall_ns
        return [SitOut(at_wall_ns=at_wall_ns), *self._ask_for_model()]

    def reconnected(self) -> None:
        """Who answers may be a new coordinator."""
        self._newcomer.reconnected()

    def close(self) -> list[Effect]:
        """The local run is over: no part in rounds any more; the model is still given."""
        served = self._serve.snapshots() if self._standing is Standing.SHARING else []
        return [*self.leave(), *served]

    def leave(self) -> list[Effect]:
        """No part in anything any more."""
        self._beside = None
        return [*self._stand(Standing.OVER), CancelTimer(key=EDGES), *self._newcomer.stop()]

    def repeat(self) -> list[Effect]:
        """Say again what was said last, if something is waited for."""
        match self._standing:
            case Standing.READY if self._sync_mode:
                return [self._say(PeerIsReady())]
            case Standing.READY if self._at_wall is not None:
                return [self._say(JoinRound())]
            case Standing.ARMED:
                return [_send(self._barrier.report())]
            case Standing.TRAINING if self._beside is Stage.ARMED:
                return [_send(self._barrier.report())]
            case Standing.SYNCING:
                return [self._say(self._newcomer.request)]
            case Standing.SYNCED:
                return [self._say(self._newcomer.done)]
            case _:
                return []

    def hear(self, signal: RoundSignal, *, now: Nanos) -> list[Effect]:
        """A signal of the coordinator about rounds or model sync."""
        match signal:
            case PeersForRound() | RetryPeerConnections():
                return self._connect(signal, now)
            case StartWeightSharing():
                return self._opened(signal)
            case PeerGone():
                return self._peer_gone(signal)
            case Stale():
                return self._stale(signal)
            case Waiting(present=present, needed=needed):
                return [Record(kind="waiting", fields={"present": present, "needed": needed})]
            case Enough():
                return []
            case SignalModelProvider():
                return self._provider(signal, now)
            case SignalNewPeer():
                return self._new_peer(signal, now)

    def welcome(self, signal: Welcome) -> list[Effect]:
        """After SyncDone: the round to join. At other times it says nothing about rounds."""
        if self._standing is not Standing.SYNCED or signal.need_sync:
            return []
        held, parameters = self._newcomer.take()
        self._round, self._attempt = signal.round, 0
        if self._sync_mode:
            adopt = AdoptModel(round=signal.round, parameters=parameters)
            return [adopt, *self._begin(), *self._train()]
        # The rounds of the algorithm are each node's own; those of the barrier are others.
        adopt = AdoptModel(round=held, parameters=parameters)
        return [adopt, *self._stand(Standing.READY), self._say(JoinRound())]

    def offered(self, round_: int) -> list[Effect]:
        """The algorithm has trained for this round."""
        if self._standing is not Standing.TRAINING or round_ != self._round:
            return []
        return [*self._stand(Standing.READY), self._say(PeerIsReady())]

    def exchanged(self, event: Exchanged) -> list[Effect]:
        """The algorithm has aggregated this round."""
        if self._standing is not Standing.SHARING or event.round != self._round:
            return []
        effects: list[Effect] = []
        if event.attempt:  # else the round was skipped
            effects.append(self._say(RoundDone(missing=event.missing)))
        self._round, self._attempt = self._round + 1, 0
        return [*effects, *self._train(), *self._serve.snapshots()]

    def settled(self, event: EdgeSettled) -> list[Effect]:
        """A connection answers, or does not."""
        if not self._barrier.take(event):
            return []
        if self._armed:  # a spare one: nobody waited for it, but it is there
            return [_send(self._barrier.report())]
        return self._arm_if_settled()

    def snapshot(self, event: ModelSnapshot, *, now: Nanos) -> list[Effect]:
        """The model for newcomers."""
        effects = self._serve.snapshot(event, now=now)
        if event.parameters is not None:
            return effects
        decline = SyncDecline(sync=event.sync, reason="there is no aggregated model here")
        return [*effects, self._say(decline)]

    def receive(self, sender: NodeId, message: PeerMessage, *, now: Nanos) -> list[Effect]:
        """A message of model sync."""
        match message.kind:
            case model_sync.REQUEST:
                return self._serve.take(sender, message, now=now)
            case model_sync.ANSWER:
                return self._got(self._newcomer.receive(sender, message, now=now))
            case _:
                reason = f"a message {message.kind!r}, which is not of model sync"
                return [Record(kind="refused", fields={"sender": sender, "reason": reason})]

    def peer_changed(self, event: PeerChanged, *, now: Nanos) -> list[Effect]:
        if event.change is PeerChange.LOST:
            return []
        return self._newcomer.connected(event.peer, now=now)

    def timer(self, key: str, *, now: Nanos) -> list[Effect]:
        match key:
            case _ if key == EDGES and self._connecting:
                self._barrier.give_up()
                return self._arm_if_settled()
            case model_sync.STALL:
                return self._got(self._newcomer.timer(now=now))
            case model_sync.IDLE:
                return self._serve.timer(now=now)
            case _:
                return []

    # --- the barrier

    @property
    def _connecting(self) -> bool:
        return Standing.CONNECTING is self._standing or self._beside is Stage.CONNECTING

    @property
    def _armed(self) -> bool:
        return self._standing is Standing.ARMED or self._beside is Stage.ARMED

    def _connect(self, signal: PeersForRound | RetryPeerConnections, now: Nanos) -> list[Effect]:
        """Set up connections, if this is the newest order of this round."""
        said = (signal.round, signal.attempt)
        if not self._concerns(signal.round) or said <= (self._round, self._attempt):
            return []
        self._round, self._attempt = said
        if isinstance(signal, PeersForRound):
            edges = self._barrier.order(signal)
        else:
            edges = self._barrier.retry(signal)
        wait = round(self._rounds.connection_timeout_ns * _SETTLE_SHARE)
        effects = self._reach(Stage.CONNECTING)
        return [*effects, edges, SetTimer(key=EDGES, at=now + wait), *self._arm_if_settled()]

    def _concerns(self, round_: int) -> bool:
        """Whether an order for this round is for what this member waits for."""
        if self._sync_mode:
            return self._standing in _WAITING and round_ == self._round
        return self._standing in (*_WAITING, Standing.TRAINING)

    def _reach(self, stage: Stage) -> list[Effect]:
        """The barrier is so far."""
        if self._standing is Standing.TRAINING:
            self._beside = stage
            return []
        return self._stand(Standing(stage.value))

    def _arm_if_settled(self) -> list[Effect]:
        if not self._connecting or not self._barrier.settled:
            return []
        report = _send(self._barrier.report())
        return [CancelTimer(key=EDGES), *self._reach(Stage.ARMED), report]

    def _opened(self, signal: StartWeightSharing) -> list[Effect]:
        """The coordinator knows best: also for one that is not connected to all."""
        said, here = (signal.round, signal.attempt), (self._round, self._attempt)
        if self._sync_mode:
            again = self._standing is Standing.SHARING and signal.round == self._round
            newer = said > here if again else said >= here
            if not (again or self._concerns(signal.round)) or not newer:
                return []
            self._attempt = signal.attempt
            share = OpenShare(round=signal.round, attempt=signal.attempt, peers=signal.peers)
            return [CancelTimer(key=EDGES), *self._stand(Standing.SHARING), share]
        waits = self._standing in _WAITING or self._beside is not None
        if not waits or said < here:
            return []
        self._round, self._attempt = said
        self._beside = None
        cancel = CancelTimer(key=EDGES)
        if self._standing is Standing.TRAINING:
            return [cancel]
        if self._at_wall is None:  # Start comes next
            self._standing = Standing.TRAINING
            return [cancel]
        return [cancel, *self._begin(), *self._stand(Standing.TRAINING)]

    def _peer_gone(self, signal: PeerGone) -> list[Effect]:
        if signal.round != self._round:
            return []
        if self._standing is Standing.SHARING:
            return [DropFromShare(round=signal.round, peer=signal.peer)]
        self._barrier.gone(signal.peer)
        return self._arm_if_settled()

    def _stale(self, signal: Stale) -> list[Effect]:
        """What we said belongs to the past.

        Of the same round: the present order comes after it, and what we said is repeated anyway.
        """
        behind = signal.round - self._round
        if behind <= 0:
            return []
        if not self._sync_mode:
            return self._stale_barrier(signal)
        if behind > 1 and self._standing in _IN_ROUNDS:
            return [CancelTimer(key=EDGES), *self._ask_for_model()]
        if self._standing in _WAITING:
            skip = SkipShare(round=self._round)
            return [CancelTimer(key=EDGES), *self._stand(Standing.SHARING), skip]
        return []  # it ends its round first

    def _stale_barrier(self, signal: Stale) -> list[Effect]:
        """That barrier is over; one that waits to begin takes part in the present one."""
        cancel = CancelTimer(key=EDGES)
        if self._beside is not None:
            self._beside = None
            return [cancel]
        if self._standing not in _WAITING:
            return []
        self._round, self._attempt = signal.round, 0
        return [cancel, *self._stand(Standing.READY), *self.repeat()]

    def _train(self) -> list[Effect]:
        """The next round: train for it."""
        return [*self._stand(Standing.TRAINING), self._say(JoinRound())]

    def _begin(self) -> list[Effect]:
        if self._begun:
            return []
        assert self._at_wall is not None
        self._begun = True
        return [BeginRun(at_wall_ns=self._at_wall)]

    # --- model sync

    def _ask_for_model(self) -> list[Effect]:
        self._beside = None
        request = self._newcomer.begin()
        return [*self._stand(Standing.SYNCING), self._say(request)]

    def _provider(self, signal: SignalModelProvider, now: Nanos) -> list[Effect]:
        if self._standing is not Standing.SYNCING:
            return []
        return self._got(self._newcomer.assigned(signal, now=now))

    def _got(self, effects: list[Effect]) -> list[Effect]:
        """What the way to the model has come to, and what to say of it."""
        news = self._newcomer.news()
        if news is None or self._standing is not Standing.SYNCING:
            return effects
        if isinstance(news, SyncDone):
            effects = [*effects, *self._stand(Standing.SYNCED)]
        return [*effects, self._say(news)]

    def _new_peer(self, signal: SignalNewPeer, now: Nanos) -> list[Effect]:
        has_model = self._standing in (*_IN_ROUNDS, Standing.OVER)
        if not self._begun or not has_model:
            decline = SyncDecline(sync=signal.sync, reason="this node has no model of the run")
            return [self._say(decline)]
        effects = self._serve.expect(signal.sync, signal.newcomer, now=now)
        if self._standing is Standing.SHARING:
            return effects  # the round is ended first
        return [*effects, *self._serve.snapshots()]

    # --- helpers

    def _stand(self, standing: Standing) -> list[Effect]:
        if standing is self._standing:
            return []
        self._standing = standing
        return [] if standing in _UNRECORDED else [_state(standing)]

    def _say(self, signal: Any) -> Effect:
        return _send(replace(signal, round=self._round, attempt=self._attempt))


def _state(standing: Standing) -> Effect:
    return Record(kind="state", fields={"state": str(standing)})


def _send(signal: Signal) -> Effect:
    return Send(target=COORDINATOR, message=signal)
