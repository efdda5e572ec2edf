"""The machine around an algorithm: it checks what comes in, gives the algorithm its context, counts
rounds, has the model evaluated, and ends the run.

    waiting --Started--> running --stop condition--> finishing --Evaluated--> finished

Messages that come before the run has begun here are kept for it. A finished peer goes on answering
(the runtime acknowledges and its queue drains) but its model no longer changes. Synchronous rounds
are the work of `node.core.exchange`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from node.config import Mode, StopConfig
from node.core.algorithm import Algorithm
from node.core.effects import (
    CancelTimer,
    DropQueued,
    Effect,
    Evaluate,
    Finish,
    InFlight,
    Record,
    Send,
    SetTimer,
    Train,
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
from node.core.parts import Layout, Vector, frozen, resolve
from node.core.rng import stream
from node.units import SECOND, Nanos

_EARLY_MAX: Final = 1024
"""Messages kept from peers whose run began a moment before ours."""
_TIME_LIMIT: Final = "peer/time-limit"
_ALGORITHM: Final = "algorithm/"


class Phase(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHING = "finishing"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSetting:
    """What does not change while a peer runs.

    Args:
        peers: neighbours in the overlay.
        members: number of nodes in the run.
        evaluate_every: rounds between two evaluations.
        samples: this node's training samples.
        share_ns: with `Mode.SYNC`, from the start of sharing to aggregating what has come.
    """

    me: NodeId
    peers: tuple[NodeId, ...]
    members: int
    seed: int
    layout: Layout
    stop: StopConfig
    evaluate_every: int = 1
    mode: Mode = Mode.ASYNC
    share_ns: Nanos = 60 * SECOND
    samples: int = 1


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
        self._ctx = _Context(setting=setting, parameters=frozen(initial), exchange=exchange)
        self._phase = Phase.WAITING
        self._early: list[Received] = []
        self._reason = ""
        self._evaluated = -1
        """Round of the newest evaluation that was asked for."""
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

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        self._ctx.begin(now)
        if isinstance(event, Failed):
            return self._fail(event.reason)
        if isinstance(event, Trained):
            self._ctx.trainer_is_free(event.job)
        match self._phase:
            case Phase.WAITING:
                self._while_waiting(event)
            case Phase.RUNNING:
                self._while_running(event)
            case Phase.FINISHING:
                self._while_finishing(event)
            case Phase.FINISHED:
                self._send_again(event)
        return self._ctx.effects

    def _while_waiting(self, event: Event) -> None:
        match event:
            case Started():
                self._phase = Phase.RUNNING
                self._ctx.want(SetTimer(key=_TIME_LIMIT, at=self._setting.stop.time_ns))
                self._evaluate()
                self._algorithm.on_start(self._ctx)
                for early in self._early:
                    self._receive(early)
                self._early.clear()
                self._after_handler()
            case Received() if len(self._early) < _EARLY_MAX:
                self._early.append(event)
            case Received():
                self._refuse(event.sender, "too many messages before the run began here")
            case StopRequested(reason=reason):
                self._begin_finish(reason)
            case PeerChanged(peer=peer, change=change):
                self._algorithm.on_peer(self._ctx, peer, change)
            case ModelAdopted(round=round_, parameters=parameters):
                self._ctx.adopt(round_, parameters)
            case _:
                pass

    def _while_running(self, event: Event) -> None:
        match event:
            case Received():
                self._receive(event)
            case Trained():
                self._trained(event)
            case Evaluated():
                self._take_evaluation(event)
            case TimerFired(key=key) if key == _TIME_LIMIT:
                self._begin_finish("time")
            case TimerFired(key=key) if key in (DEADLINE, RESEND):
                self._exchange.timer(self._ctx, key)
            case TimerFired(key=key):
                self._algorithm.on_timer(self._ctx, key.removeprefix(_ALGORITHM))
            case Sent(target=target, key=key):
                self._algorithm.on_sent(self._ctx, target, key)
            case SendFailed(target=target, key=key, reason=reason):
                self._exchange.send_failed(self._ctx, target, key)
                self._algorithm.on_send_failed(self._ctx, target, key, reason)
            case PeerChanged(peer=peer, change=change):
                self._algorithm.on_peer(self._ctx, peer, change)
            case StopRequested(reason=reason):
                self._begin_finish(reason)
            case ShareOpened():
                self._exchange.opened(self._ctx, event)
            case ShareSkipped(round=round_):
                self._exchange.skipped(self._ctx, round_)
            case PeerDropped(round=round_, peer=peer):
                self._exchange.dropped(self._ctx, round_, peer)
            case ModelAdopted(round=round_, parameters=parameters):
                self._adopt(round_, parameters)
            case _:
                pass
        self._after_handler()

    def _adopt(self, round_: int, parameters: Vector | None) -> None:
        """Begin anew from somebody else's model: what was under way is given up."""
        self._ctx.give_up_training()
        self._exchange.reset(self._ctx, round_)
        self._ctx.adopt(round_, parameters)
        self._algorithm.on_start(self._ctx)

    def _while_finishing(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self._take_evaluation(event)
            if self._answered == self._evaluated:
                self._finish()
        else:
            self._send_again(event)

    def _send_again(self, event: Event) -> None:
        """Peers may still wait for the last message of one that has ended."""
        match event:
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
        if message.part is not None:
            try:
                size = resolve(message.part.where, self._setting.layout).size
            except ValueError as error:
                self._refuse(event.sender, str(error))
                return
            if size != message.part.values.size:
                self._refuse(event.sender, f"{message.part.values.size} values for {size} indices")
                return
            if not np.isfinite(message.part.values).all():
                self._refuse(event.sender, "values that are not finite")
                return
        if self._setting.mode is Mode.SYNC and message.attempt > 0:
            self._exchange.take(self._ctx, event.sender, message)
        else:
            self._algorithm.on_message(self._ctx, event.sender, message)

    def _refuse(self, sender: NodeId, reason: str) -> None:
        self._ctx.record("refused", {"sender": sender, "reason": reason})

    def _trained(self, event: Trained) -> None:
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

    def _after_handler(self) -> None:
        """Evaluate and stop where the algorithm ended a round."""
        if self._phase is not Phase.RUNNING:
            return
        rounds = self._setting.stop.rounds
        if rounds is not None and self._ctx.round >= rounds:
            self._begin_finish("rounds")
        elif self._ctx.round >= self._evaluated + self._setting.evaluate_every:
            self._evaluate()

    def _evaluate(self) -> None:
        self._evaluated = self._ctx.round
        self._ctx.want(Evaluate(round=self._ctx.round, parameters=self._ctx.parameters))

    def _take_evaluation(self, event: Evaluated) -> None:
        self._answered = max(self._answered, event.round)
        self._ctx.record(
            "evaluation", {"round": event.round, "accuracy": event.accuracy, "loss": event.loss}
        )

    def _begin_finish(self, reason: str) -> None:
        """End the run here: no further training; the final model is evaluated first."""
        started = self._phase is Phase.RUNNING
        self._reason = reason
        self._phase = Phase.FINISHING
        self._ctx.give_up_training()
        self._exchange.stop(self._ctx)
        self._ctx.want(CancelTimer(key=_TIME_LIMIT))
        if started and self._evaluated != self._ctx.round:
            self._evaluate()
        if self._answered == self._evaluated:
            self._finish()

    def _finish(self) -> None:
        self._phase = Phase.FINISHED
        self._ctx.want(Finish(reason=self._reason, parameters=self._ctx.parameters))

    def _fail(self, reason: str) -> list[Effect]:
        if self._phase is not Phase.FINISHED:
            self._phase = Phase.FINISHED
            self._ctx.give_up_training()
            self._exchange.stop(self._ctx)
            self._ctx.want(Finish(reason="failed", error=reason, parameters=self._ctx.parameters))
        return self._ctx.effects


class _Context:
    """The `Context` of a peer: it collects effects, and holds the model and the round."""

    def __init__(self, *, setting: PeerSetting, parameters: Vector, exchange: Exchange) -> None:
        self._setting = setting
        self._exchange = exchange
        self.parameters = parameters
        self.aggregated: tuple[int, Vector] = (0, parameters)
        self.round = 0
        self.now: Nanos = 0
        self.job: int | None = None
        """The training job whose result is waited for, if any."""
        self.effects: list[Effect] = []
        self._jobs = 0
        self._running: int | None = None
        """The job that the trainer works at; it may have been given up."""
        self._next: Train | None = None
        """The job that waits for the trainer."""
        self._rngs: dict[str, np.random.Generator] = {}

    @property
    def me(self) -> NodeId:
        return self._setting.me

    @property
    def peers(self) -> tuple[NodeId, ...]:
        return self._setting.peers

    @property
    def members(self) -> int:
        return self._setting.members

    @property
    def seed(self) -> int:
        return self._setting.seed

    @property
    def samples(self) -> int:
        return self._setting.samples

    @property
    def layout(self) -> Layout:
        return self._setting.layout

    def begin(self, now: Nanos) -> None:
        """A new step: forget the effects of the last."""
        self.now = now
        self.effects = []

    def want(self, effect: Effect) -> None:
        self.effects.append(effect)

    def give_up_training(self) -> None:
        """Ignore the job that runs, and take back one that has not begun."""
        self.job = None
        self._next = None
        if any(isinstance(effect, Train) for effect in self.effects):
            self._running = None
        self.effects = [effect for effect in self.effects if not isinstance(effect, Train)]

    def trainer_is_free(self, job: int) -> None:
        """The trainer has done `job`: it may have the next, if one waits."""
        if job == self._running:
            self._running = None
        if self._running is None and self._next is not None:
            self._running = self._next.job
            self.want(self._next)
            self._next = None

    def rng(self, purpose: str) -> np.random.Generator:
        if purpose not in self._rngs:
            self._rngs[purpose] = stream(self._setting.seed, purpose, self._setting.me)
        return self._rngs[purpose]

    def send(
        self, target: NodeId, message: PeerMessage, *, key: str, supersedes: bool = False
    ) -> None:
        if target not in self._setting.peers:
            raise ValueError(f"{target!r} is not a neighbour of {self.me!r}")
        self.want(Send(target=target, message=message, key=key, supersedes=supersedes))

    def drop_queued(self, *, key_prefix: str, in_flight: InFlight = InFlight.FINISH) -> None:
        self.want(DropQueued(key_prefix=key_prefix, in_flight=in_flight))

    def set_timer(self, key: str, *, after: Nanos) -> None:
        self.want(SetTimer(key=_ALGORITHM + key, at=self.now + after))

    def cancel_timer(self, key: str) -> None:
        self.want(CancelTimer(key=_ALGORITHM + key))

    def train(self, *, steps: int) -> None:
        if self.job is not None:
            raise ValueError("a training job runs already")
        if steps < 1:
            raise ValueError(f"{steps} training steps")
        self._jobs += 1
        self.job = self._jobs
        train = Train(job=self._jobs, steps=steps, parameters=self.parameters)
        if self._running is None:
            self._running = self._jobs
            self.want(train)
        else:  # a job that was given up, which the trainer finishes
            self._next = train

    def set_parameters(self, parameters: Vector) -> None:
        if parameters.shape != self.parameters.shape or parameters.dtype != np.float32:
            raise ValueError(
                f"a model {parameters.dtype}{parameters.shape} does not fit the layout"
            )
        self.parameters = frozen(parameters)

    def adopt(self, round_: int, parameters: Vector | None) -> None:
        """Go on at this round, with this model if there is one."""
        self.round = round_
        if parameters is not None:
            self.set_parameters(parameters)
            self.aggregated = (round_, self.parameters)

    def exchange(self) -> None:
        if self._setting.mode is not Mode.SYNC:
            raise ValueError("exchange() is for `mode: sync`")
        if self.job is not None:
            raise ValueError("exchange() while a training job runs")
        self._exchange.offer(self)

    def end_round(self) -> None:
        self.round += 1
        self.aggregated = (self.round, self.parameters)

    def record(self, kind: str, fields: Mapping[str, Value]) -> None:
        self.want(Record(kind=kind, fields=fields))
