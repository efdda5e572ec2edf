"""An algorithm's view of its node as the peer machine gives it (pure): it collects effects."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.config import Mode, StopConfig
from node.core.effects import (
    CancelTimer,
    DropQueued,
    Effect,
    InFlight,
    Record,
    Send,
    SetTimer,
    Train,
    Value,
)
from node.core.events import PeerChange
from node.core.exchange import Exchange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Vector, frozen
from node.core.rng import stream
from node.units import SECOND, Nanos

ALGORITHM: Final = "algorithm/"
"""Begins the keys of an algorithm's timers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSetting:
    """What does not change while a peer runs.

    Args:
        peers: neighbours in the overlay, in natural order.
        members: number of nodes in the run.
        evaluate_every: rounds between two evaluations.
        samples: this node's training samples.
        batch_size: samples in a mini-batch step.
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
    batch_size: int = 1


class PeerContext:
    """The `Context` of a peer: it collects effects, and holds the model and the round."""

    def __init__(self, *, setting: PeerSetting, parameters: Vector, exchange: Exchange) -> None:
        self._setting = setting
        self._near = tuple(sorted(setting.peers))
        """To look a neighbour up; a set would be four times as large."""
        self._lost: set[NodeId] = set()
        """Neighbours out of reach."""
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
        self.free_since: Nanos | None = None
        """Since when the trainer has had nothing to do; None: it has, or the run is not on."""
        self._idle: Nanos = 0
        self._rngs: dict[str, np.random.Generator] = {}

    @property
    def me(self) -> NodeId:
        return self._setting.me

    @property
    def peers(self) -> tuple[NodeId, ...]:
        return self._setting.peers

    @property
    def reached(self) -> tuple[NodeId, ...]:
        if not self._lost:
            return self.peers
        return tuple(peer for peer in self.peers if peer not in self._lost)

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
    def batch_size(self) -> int:
        return self._setting.batch_size

    @property
    def layout(self) -> Layout:
        return self._setting.layout

    def want(self, effect: Effect) -> None:
        self.effects.append(effect)

    def note(self, peer: NodeId, change: PeerChange) -> None:
        """A neighbour is in reach from now on, or no longer."""
        if change is PeerChange.LOST:
            self._lost.add(peer)
        else:
            self._lost.discard(peer)

    def give_up_training(self) -> None:
        """Ignore the job that runs, and take back one that has not begun."""
        self.job = None
        self._next = None
        if any(isinstance(effect, Train) for effect in self.effects):
            self._running = None
            self.free_since = self.now
        self.effects = [effect for effect in self.effects if not isinstance(effect, Train)]

    def trainer_is_free(self, job: int) -> None:
        """The trainer has done `job`: it may have the next, if one waits."""
        if job == self._running:
            self._running = None
        if self._running is None and self._next is not None:
            self._running = self._next.job
            self.want(self._next)
            self._next = None
        if self._running is None:
            self.free_since = self.now

    def tell_idle(self) -> None:
        """The run ends here: record for how long the trainer had nothing to do."""
        self._count_idle()
        self.record("idle", {"seconds": self._idle / SECOND})

    def _count_idle(self) -> None:
        if self.free_since is not None:
            self._idle += self.now - self.free_since
            self.free_since = None

    def rng(self, purpose: str) -> np.random.Generator:
        if purpose not in self._rngs:
            self._rngs[purpose] = stream(self._setting.seed, purpose, self._setting.me)
        return self._rngs[purpose]

    def send(
        self, target: NodeId, message: PeerMessage, *, key: str, supersedes: bool = False
    ) -> None:
        place = bisect_left(self._near, target)
        if place == len(self._near) or self._near[place] != target:
            raise ValueError(f"{target!r} is not a neighbour of {self.me!r}")
        self.effects.append(Send(target=target, message=message, key=key, supersedes=supersedes))

    def drop_queued(self, *, key_prefix: str, in_flight: InFlight = InFlight.FINISH) -> None:
        self.want(DropQueued(key_prefix=key_prefix, in_flight=in_flight))

    def set_timer(self, key: str, *, after: Nanos) -> None:
        self.want(SetTimer(key=ALGORITHM + key, at=self.now + after))

    def cancel_timer(self, key: str) -> None:
        self.want(CancelTimer(key=ALGORITHM + key))

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
            self._count_idle()
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
