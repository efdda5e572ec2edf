"""Who learns with whom, as the coordinator keeps it: the rounds and the model syncs together.

Where `CoordinatorConfig.rounds` is None nobody learns (load runs), and nothing here does anything.

It decides for each member whether it takes part in rounds at present: from the time that it holds
the model, unless it is away, done, expelled or gone. The seats are the coordinator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from node.config import CoordinatorConfig, Mode, RoundsConfig
from node.core.effects import Effect, Send
from node.core.ids import NodeId
from node.core.roster import Roster, noted
from node.core.rounds import Rounds
from node.core.seats import Seat
from node.core.signals import (
    ConnectionFail,
    ConnectionsReady,
    Heartbeat,
    Hello,
    JoinRound,
    ModelSyncRequest,
    PeerIsReady,
    RoundDone,
    Signal,
    Stage,
    Stale,
    SyncDecline,
    SyncDone,
)
from node.core.standings import Overlay, Told
from node.core.syncs import Sources, Syncs
from node.units import MILLISECOND, Nanos

LearningSignal: TypeAlias = (
    JoinRound
    | PeerIsReady
    | ConnectionsReady
    | RoundDone
    | ModelSyncRequest
    | SyncDone
    | SyncDecline
)
_FROM_ROUNDS: Final = (JoinRound, PeerIsReady, ConnectionsReady, RoundDone)


class Learning:
    """See the module.

    Args:
        roster: of the coordinator; seats are read and kept up here.
    """

    def __init__(
        self,
        *,
        config: CoordinatorConfig,
        roster: Roster,
    ) -> None:
        self._config = config
        self._roster = roster
        self._seats: Mapping[NodeId, Seat] = roster.seats
        settings = config.rounds
        self._on = settings is not None
        self._settings = settings or RoundsConfig()
        self._overlay = Overlay(config.overlay)
        self._rounds = Rounds(config=self._settings, overlay=self._overlay)
        self._syncs = Syncs(overlay=self._overlay)

    @property
    def on(self) -> bool:
        return self._on

    @property
    def sync(self) -> bool:
        """Whether there is a barrier before each round."""
        return self._settings.mode is Mode.SYNC

    @property
    def rounds(self) -> Rounds:
        return self._rounds

    def stamped(self, signal: Signal) -> Signal:
        """With the present round and attempt in its envelope."""
        round_, attempt = self._rounds.stamp
        return replace(signal, round=round_, attempt=attempt)

    # --- the run

    def begin(self, now: Nanos) -> list[Effect]:
        """The first round may begin for all who are present."""
        stage = Stage.TRAINING if self.sync else Stage.READY
        told = {}
        for name, seat in self._seats.items():
            if seat.present and seat.ready:
                seat.learning = True
                told[name] = Told(round=0, stage=stage)
        return self._led(self._rounds.begin(told, now=now), now)

    def resume(self, now: Nanos, *, began: Nanos) -> list[Effect]:
        """Go on from what the members have said in their Hello to a new coordinator."""
        # Numbers of syncs go on above those that the coordinator before us can have given.
        self._syncs = Syncs(overlay=self._overlay, first=(now - began) // MILLISECOND + 1)
        told = {}
        for name, seat in self._seats.items():
            said = seat.told(seat.hello) if seat.present and seat.hello is not None else None
            if said is not None:
                seat.learning = True
                told[name] = said
        return self._led(self._rounds.resume(told, now=now), now)

    def close(self) -> list[Effect]:
        """The run ends."""
        return self._rounds.close()

    # --- members

    def hear(self, member: NodeId, seat: Seat, signal: LearningSignal, now: Nanos) -> list[Effect]:
        """A signal about rounds or the model."""
        if isinstance(signal, JoinRound):
            self._not_syncing(member, seat)
        match signal:
            case ModelSyncRequest():
                return self._request(member, seat, signal, now)
            case SyncDone():
                return self._synced(member, seat, signal)
            case SyncDecline():
                return self._stamp(self._syncs.decline(member, signal, sources=self._sources()))
            case _ if seat.takes_part:
                return self._led(self._rounds.hear(member, signal, now=now), now)
            case _ if seat.working and not seat.learning and self.sync:
                # It takes itself for a participant, without our model: far behind it gets it.
                far = max(self._rounds.stamp[0], signal.round) + 2
                return [Send(target=member, message=Stale(round=far))]
            case _:
                return []

    def heartbeat(
        self, member: NodeId, seat: Seat, signal: Heartbeat | Hello, now: Nanos
    ) -> list[Effect]:
        """What a member says of itself again and again: make good what was lost of it."""
        told = seat.told(signal)
        if not self._on or told is None:
            return []
        self._not_syncing(member, seat)
        if not seat.takes_part:
            return []
        if member not in self._rounds.members:
            return self._led(self._rounds.join(member, told, now=now), now)
        return self._led(self._rounds.progress(member, told.round, now=now), now)

    def _not_syncing(self, member: NodeId, seat: Seat) -> None:
        """It speaks of a round: what it has asked for before was an old request that came late."""
        if member in self._syncs.newcomers and not seat.learning:
            self._syncs.forget(member)
            seat.learning = True

    def out(self, member: NodeId, now: Nanos) -> list[Effect]:
        """A member is gone or away."""
        if not self._on:
            return []
        gone = self._syncs.gone(member, sources=self._sources())
        return [*self._led(self._rounds.leave(member, now=now), now), *self._stamp(gone)]

    def finish(self, member: NodeId, round_: int, now: Nanos) -> list[Effect]:
        """A member has learnt all that it is to learn."""
        if not self._on:
            return []
        told = self._rounds.progress(member, round_, now=now)
        return self._led([*told, *self._rounds.finish(member, now=now)], now)

    def timer(self, key: str, now: Nanos) -> list[Effect]:
        return self._led(self._rounds.timer(key, now=now), now)

    # --- model sync

    def _request(
        self, member: NodeId, seat: Seat, signal: ModelSyncRequest, now: Nanos
    ) -> list[Effect]:
        effects: list[Effect] = []
        if seat.learning:  # it has fallen behind by more than it can catch up
            seat.learning = False
            effects += self._led(self._rounds.leave(member, now=now), now)
        if member not in self._syncs.newcomers:
            effects.append(noted(member, "syncing"))
        asked = self._syncs.request(member, signal, sources=self._sources())
        return [*effects, *self._stamp(asked)]

    def _synced(self, member: NodeId, seat: Seat, signal: SyncDone) -> list[Effect]:
        """The newcomer has the model: it joins the next round."""
        effects = self._syncs.done(member, signal.sync, held=signal.held)
        if not seat.learning:
            seat.learning = True
            effects.append(noted(member, "synced", held=signal.held))
        return [*effects, self._roster.welcome_to(member, self._rounds.next_round)]

    def _sources(self) -> Sources:
        return Sources(providers=self._providers(), hopeless=self._hopeless())

    def _providers(self) -> dict[NodeId, int]:
        """Who holds a model of the last completed round, and how many rounds it has behind it."""
        held = {}
        for name, seat in self._seats.items():
            if not seat.working or not seat.learning or seat.away:
                continue
            standing = self._rounds.members.get(name)
            if not self.sync:
                held[name] = seat.ended
            elif standing is not None and standing.round >= self._rounds.stamp[0]:
                held[name] = standing.round
            elif seat.done is not None:
                held[name] = seat.done.ended
        return {name: rounds for name, rounds in held.items() if rounds > 0}

    def _hopeless(self) -> bool:
        """Nobody has learnt anything, or nobody who has is there any more."""
        there = [seat for seat in self._seats.values() if seat.working and seat.learning]
        if self.sync:
            return self._rounds.stamp[0] == 0 or not there
        return not any(seat.ended for seat in there)

    # --- small things

    def _stamp(self, effects: list[Effect]) -> list[Effect]:
        stamped: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Signal):
                effect = replace(effect, message=self.stamped(effect.message))
            stamped.append(effect)
        return stamped

    def _led(self, effects: list[Effect], now: Nanos) -> list[Effect]:
        """What the rounds want, and what follows where they expelled somebody."""
        for name, reason in self._rounds.expelled():
            seat = self._seats[name]
            seat.expelled, seat.learning = reason, False
            self._roster.blame(name, reason)
            effects.append(noted(name, "expelled", error=reason))
            effects += self._stamp(self._syncs.gone(name, sources=self._sources()))
        return effects

    def fail_again(self, member: NodeId, reason: str) -> Effect:
        """It has been told to go, and has not heard that."""
        return self._roster.say(member, ConnectionFail(reason=reason))
