"""The machine around an algorithm: it checks what comes in, gives the algorithm its context, counts
rounds, has the model evaluated, and ends the run.

    waiting --Started--> running --stop condition--> finishing --Evaluated--> finished

Messages that come before the run has begun here are kept for it. A finished peer goes on answering
(the runtime acknowledges, its queue drains, `Algorithm.on_late_message` has a word for those who
wait) but its model no longer changes: it is that of the last round ended, as it was evaluated.
Synchronous rounds are the work of `node.core.exchange`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import numpy as np

from node.config import Mode
from node.core.algorithm import Algorithm
from node.core.context import ALGORITHM, PeerContext, PeerSetting
from node.core.effects import (
    CancelTimer,
    Effect,
    Evaluate,
    Finish,
    SetTimer,
    Value,
)
from node.core.events import (
    Evaluated,
    Event,
    Failed,
    ModelAdopted,
    PeerChanged,
    PeerDropped,
    Received,
    SendFailed,
    Sent,
    ShareOpened,
    ShareSkipped,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.exchange import DEADLINE, RESEND, Exchange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector, frozen
from node.units import Nanos

__all__ = ["Peer", "PeerSetting", "Phase"]

_EARLY_MAX: Final = 1024
"""Messages kept from peers whose run began a moment before ours."""
_TIME_LIMIT: Final = "peer/time-limit"


class Phase(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHING = "finishing"
    FINISHED = "finished"


class Peer:
    """A node's algorithm as a `Machine`; `now` is the run clock.

    Args:
        initial: the first model, float32 of shape (layout.size,).
    """

    def __init__(self, *, setting: PeerSetting, algorithm: Algorithm, initial: Vector) -> None:
        if initial.shape != (setting.layout.size,) or initial.dtype != np.float32:
            raise ValueError(
                f"initial model {initial.dtype}{initial.shape} does not fit the layout"
            )
        self._setting = setting
        self._algorithm = algorithm
        exchange = Exchange(algorithm=algorithm, share_ns=setting.share_ns)
        self._exchange = exchange
        self._ctx = PeerContext(setting=setting, parameters=frozen(initial), exchange=exchange)
        self._layout = setting.layout
        self._phase = Phase.WAITING
        self._running = False
        self._answers_late = type(algorithm).on_late_message is not Algorithm.on_late_message
        self._early: list[Received] = []
        self._reason = ""
        self._evaluated = -1
        """Round of the newest evaluation that was asked for."""
        self._due = 0
        """Round at which there is something to do besides."""
        self._answered = -1
        """Round of the newest evaluation that came back; older ones may have been given up."""

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def round(self) -> int:
        return self._ctx.round

    @property
    def parameters(self) -> Vector:
        return self._ctx.parameters

    @property
    def aggregated(self) -> tuple[int, Vector]:
        """The last aggregated model and how many rounds it has behind it; never one that was only
        trained here. 0 rounds: the initial model."""
        return self._ctx.aggregated

    @property
    def unheard(self) -> frozenset[type]:
        """Kinds of event that change nothing here, which a runtime need not make."""
        heard = type(self._algorithm).on_sent is not Algorithm.on_sent
        return frozenset() if heard else frozenset({Sent})

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        ctx = self._ctx
        ctx.now = now
        ctx.effects = []
        if self._running:
            if (handler := _WHILE_RUNNING.get(type(event))) is not None:
                handler(self, event)
                if ctx.round >= self._due:
                    self._after_round()
            return ctx.effects
        if isinstance(event, Failed):
            self._fail(event)
            return ctx.effects
        if isinstance(event, Trained):
            ctx.trainer_is_free(event.job)
        if self._phase is Phase.WAITING:
            self._while_waiting(event)
        elif self._phase is Phase.FINISHING:
            self._while_finishing(event)
        else:
            self._send_again(event)
        return ctx.effects

    def _while_waiting(self, event: Event) -> None:
        match event:
            case Started():
                self._enter(Phase.RUNNING)
                self._ctx.want(SetTimer(key=_TIME_LIMIT, at=self._setting.stop.time_ns))
                self._ctx.free_since = self._ctx.now
                self._evaluate()
                self._algorithm.on_start(self._ctx)
                for early in self._early:
                    self._receive(early)
                self._early.clear()
                if self._ctx.round >= self._due:
                    self._after_round()
            case Received() if len(self._early) < _EARLY_MAX:
                self._early.append(event)
            case Received():
                self._refuse(event.sender, "too many messages before the run began here")
            case StopRequested(reason=reason):
                self._begin_finish(reason)
            case PeerChanged():
                self._peer_changed(event)
            case ModelAdopted(round=round_, parameters=parameters):
                self._ctx.adopt(round_, parameters)
            case _:
                pass

    # --- while running: one method for each kind of event

    def _timer(self, event: TimerFired) -> None:
        if event.key == _TIME_LIMIT:
            self._begin_finish("time")
        elif event.key in (DEADLINE, RESEND):
            self._exchange.timer(self._ctx, event.key)
        else:
            self._algorithm.on_timer(self._ctx, event.key.removeprefix(ALGORITHM))

    def _sent(self, event: Sent) -> None:
        self._algorithm.on_sent(self._ctx, event.target, event.key)

    def _send_failed(self, event: SendFailed) -> None:
        self._exchange.send_failed(self._ctx, event.target, event.key)
        self._algorithm.on_send_failed(self._ctx, event.target, event.key, event.reason)

    def _peer_changed(self, event: PeerChanged) -> None:
        self._ctx.note(event.peer, event.change)
        self._algorithm.on_peer(self._ctx, event.peer, event.change)

    def _stop_requested(self, event: StopRequested) -> None:
        self._begin_finish(event.reason)

    def _opened(self, event: ShareOpened) -> None:
        self._exchange.opened(self._ctx, event)

    def _skipped(self, event: ShareSkipped) -> None:
        self._exchange.skipped(self._ctx, event.round)

    def _dropped(self, event: PeerDropped) -> None:
        self._exchange.dropped(self._ctx, event.round, event.peer)

    def _adopt(self, event: ModelAdopted) -> None:
        """Begin anew from somebody else's model: what was under way is given up."""
        self._ctx.give_up_training()
        self._exchange.reset(self._ctx, event.round)
        self._ctx.adopt(event.round, event.parameters)
        self._algorithm.on_start(self._ctx)

    def _while_finishing(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self._take_evaluation(event)
            if self._answered == self._evaluated:
                self._finish()
        else:
            self._send_again(event)

    def _send_again(self, event: Event) -> None:
        """Peers may still wait for the last message of one that has ended, or for an answer."""
        match event:
            case Received() if self._answers_late:
                self._receive(event)
            case SendFailed(target=target, key=key):
                self._exchange.send_failed(self._ctx, target, key)
            case TimerFired(key=key) if key == RESEND:
                self._exchange.timer(self._ctx, key)
            case PeerDropped(round=round_, peer=peer):
                self._exchange.dropped(self._ctx, round_, peer)
            case _:
                pass

    def _receive(self, event: Received) -> None:
        """Hand a message to the algorithm if its part fits the model."""
        message = event.message
        if not isinstance(message, PeerMessage):
            self._refuse(event.sender, f"a {type(message).__name__} from a peer")
            return
        if message.part is not None and (fault := message.part.fault(self._layout)) is not None:
            self._refuse(event.sender, fault)
            return
        if message.attempt > 0 and self._setting.mode is Mode.SYNC:
            self._exchange.take(self._ctx, event.sender, message)
        elif self._running:
            self._algorithm.on_message(self._ctx, event.sender, message)
        else:
            self._algorithm.on_late_message(self._ctx, event.sender, message)

    def _refuse(self, sender: NodeId, reason: str) -> None:
        self._ctx.record("refused", {"sender": sender, "reason": reason})

    def _trained(self, event: Trained) -> None:
        self._ctx.trainer_is_free(event.job)
        if event.job != self._ctx.job:
            return  # of a job that was given up
        self._ctx.job = None
        timing: dict[str, Value] = {
            "compute_s": event.compute_s,
            "padded_s": event.padded_s,
            "late_s": event.late_s,
        }
        self._ctx.record(
            "round",
            {"round": self._ctx.round, "loss": event.loss, "steps": event.steps, **timing},
        )
        self._algorithm.on_trained(self._ctx, event.parameters, event.loss)

    def _after_round(self) -> None:
        """Evaluate and stop where the algorithm ended a round."""
        if not self._running:
            return
        rounds = self._setting.stop.rounds
        if rounds is not None and self._ctx.round >= rounds:
            self._begin_finish("rounds")
        else:
            self._evaluate()

    def _evaluate(self) -> None:
        self._evaluated = self._ctx.round
        self._due = self._evaluated + self._setting.evaluate_every
        if self._setting.stop.rounds is not None:
            self._due = min(self._due, self._setting.stop.rounds)
        _, model = self.aggregated
        self._ctx.want(Evaluate(round=self._ctx.round, parameters=model))

    def _take_evaluation(self, event: Evaluated) -> None:
        self._answered = max(self._answered, event.round)
        self._ctx.record(
            "evaluation", {"round": event.round, "accuracy": event.accuracy, "loss": event.loss}
        )

    def _begin_finish(self, reason: str) -> None:
        """End the run here: no further training; the final model is evaluated first."""
        started = self._running
        self._reason = reason
        self._enter(Phase.FINISHING)
        self._ctx.give_up_training()
        _, self._ctx.parameters = self.aggregated
        self._exchange.stop(self._ctx)
        self._ctx.want(CancelTimer(key=_TIME_LIMIT))
        if started:
            self._ctx.tell_idle()
        if started and self._evaluated != self._ctx.round:
            self._evaluate()
        if self._answered == self._evaluated:
            self._finish()

    def _finish(self) -> None:
        self._enter(Phase.FINISHED)
        self._ctx.want(Finish(reason=self._reason, parameters=self._ctx.parameters))

    def _fail(self, event: Failed) -> None:
        if self._phase is not Phase.FINISHED:
            started = self._running
            self._enter(Phase.FINISHED)
            self._ctx.give_up_training()
            if started:
                self._ctx.tell_idle()
            self._exchange.stop(self._ctx)
            reason, (_, model) = event.reason, self.aggregated
            self._ctx.want(Finish(reason="failed", error=reason, parameters=model))

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._running = phase is Phase.RUNNING


_WHILE_RUNNING: Final[dict[type[Any], Callable[[Peer, Any], None]]] = {
    Received: Peer._receive,
    Trained: Peer._trained,
    Evaluated: Peer._take_evaluation,
    TimerFired: Peer._timer,
    Sent: Peer._sent,
    SendFailed: Peer._send_failed,
    PeerChanged: Peer._peer_changed,
    StopRequested: Peer._stop_requested,
    ShareOpened: Peer._opened,
    ShareSkipped: Peer._skipped,
    PeerDropped: Peer._dropped,
    ModelAdopted: Peer._adopt,
    Failed: Peer._fail,
}
