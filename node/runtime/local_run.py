"""The run on this node: the peer machine, between its peers and its trainer.

    mesh    --Received, Sent, SendFailed, PeerChanged--> Peer --Send, DropQueued--> mesh
    trainer --Trained, Evaluated----------------------->      --Train, Evaluate---> trainer
    member  --ShareOpened, ModelAdopted, ...----------->      --Offer, ShareOver--> member

What the member machine has to know (Prepared, Progress, Failed, RunEnded, which peers are there,
and the messages of model sync, which are its own) is told to `tell`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from node.algorithms import CODE, make
from node.config import NodeConfig, RoundsConfig
from node.core.effects import (
    DropQueued,
    Effect,
    Evaluate,
    Finish,
    Offer,
    Record,
    Send,
    ShareOver,
    TakeSnapshot,
    Train,
)
from node.core.events import (
    Evaluated,
    Event,
    Failed,
    ModelSnapshot,
    PeerChange,
    PeerChanged,
    Prepared,
    Progress,
    Received,
    RunEnded,
    SendFailed,
    Sent,
    Started,
    StopRequested,
    Trained,
)
from node.core.handover import ForPeer, to_member, to_peer
from node.core.messages import PeerMessage
from node.core.model_sync import KINDS
from node.core.outbox import Priority
from node.core.parts import Vector
from node.core.peer import Peer, PeerSetting
from node.errors import EnvironmentFault, PeerbedError
from node.runtime.clock import RunClock
from node.runtime.drive import Driver
from node.runtime.mesh import Mesh
from node.runtime.process import Process, store
from node.runtime.trace_file import TraceFile
from node.runtime.wire_count import WireCount
from node.sim.trace import SUFFIX, Life, Traced
from node.training.protocol import Trainer
from node.units import SECOND
from node.wire.codec import MAX_HEADER

StartTrainer = Callable[[NodeConfig, float], Awaitable[Trainer]]
"""Starts the trainer of a node, which has so many seconds to be ready."""
_DEADLINE_SHARE: Final = 0.9
"""Of the coordinator's deadlines: better to say what is missing than to be given up."""
_SYNC: Final = "\0sync"
"""Begins the keys of model sync in the send queue; no algorithm's begin like that."""


class LocalRun:
    """See the module. Make it on a running event loop."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        process: Process,
        clock: RunClock,
        wire: WireCount,
        start_trainer: StartTrainer,
        tell: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._process = process
        self._clock = clock
        self._wire = wire
        self._start_trainer = start_trainer
        self._tell = tell
        self._mesh: Mesh | None = None
        self._trainer: Trainer | None = None
        self._peer: Peer | None = None
        self._driver: Driver | None = None
        self._trace: TraceFile | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._evaluation_s: dict[int, float] = {}
        self._newest: tuple[int, float | None, float | None] = (-1, None, None)
        """Round, accuracy and loss of the newest evaluation."""
        self._progress: Progress | None = None
        self._load_error: str | None = None
        self._over = False
        self._counting = False
        """Bytes count from the beginning of the run, or of taking part in it."""
        self._outside = False
        """The run is under way without this node, which may take part later."""
        self._since: float | None = None
        """When what the peer machine hears now happened as modelled; None: just now. A job that
        comes of it begins then: its time holds what the node does in between."""
        self._begun = False

    @property
    def round(self) -> int:
        return self._peer.round if self._peer is not None else 0

    async def load(self, mesh: Mesh) -> None:
        """Start the trainer and make the peer machine; `prepare` says what went wrong.

        Importing torch costs a CPU second: done while the other nodes start, not after the links
        have been measured, and never meanwhile.
        """
        self._mesh = mesh
        try:
            await self._make_peer(self._config.deadlines.join_ns * _DEADLINE_SHARE / SECOND)
        except PeerbedError as error:
            self._load_error = error.said_by(self._config.name)

    async def prepare(self) -> None:
        """Trainer ready, neighbours being dialled; or the reason why not."""
        if self._load_error is not None or self._trainer is None or self._mesh is None:
            self._tell(Prepared(error=self._load_error or "there is no trainer"))
            return
        self._mesh.connect(self._config.neighbours)
        self._tell(Prepared(size=self._trainer.layout.size))

    async def _make_peer(self, deadline_s: float) -> None:
        config = self._config
        code = Path(config.results) / CODE
        if code.is_file():  # in a container, where nothing but peerbed is installed
            sys.path.append(str(code))
        algorithm = make(config.algorithm.name, config.algorithm.options)
        trainer = self._trainer = await self._start_trainer(config, deadline_s)
        fields = {
            "parameters": trainer.layout.size,
            "samples": trainer.samples,
            "label_counts": list(trainer.label_counts),
        }
        self._process.record("trainer", fields)
        rounds = config.rounds or RoundsConfig()
        setting = PeerSetting(
            me=config.name,
            peers=config.neighbours,
            members=len(config.members),
            seed=config.seed,
            layout=trainer.layout,
            stop=config.stop,
            evaluate_every=config.training.evaluate_every,
            mode=rounds.mode,
            share_ns=rounds.share_ns,
            samples=trainer.samples,
            batch_size=config.training.batch_size,
        )
        self._peer = Peer(setting=setting, algorithm=algorithm, initial=trainer.initial)
        self._driver = Driver(
            self._traced(self._peer, setting, trainer.initial) if config.trace else self._peer,
            clock=self._clock,
            perform=self._perform,
            on_defect=self._process.defect,
        )
        assert self._mesh is not None
        # Values and, for top-k, as many indices.
        self._mesh.limit_messages(8 * trainer.layout.size + 2 * MAX_HEADER)

    def _traced(self, peer: Peer, setting: PeerSetting, initial: Vector) -> Traced:
        """The machine with everything that it does written down. Raises EnvironmentFault."""
        algorithm = self._config.algorithm
        life = Life(
            setting=setting, algorithm=algorithm.name, options=algorithm.options, initial=initial
        )
        path = Path(self._config.results) / "nodes" / f"{self._config.name}{SUFFIX}"
        self._trace = TraceFile(path)
        return Traced(peer, life=life, write=self._store_frame)

    def _store_frame(self, frame: bytes) -> None:
        assert self._trace is not None
        try:
            self._trace.append(frame)
        except EnvironmentFault as fault:
            self._process.fail(str(fault))

    def begin(self, at_wall_ns: int) -> None:
        """Start the peer machine at this Unix time, when the run clock stands at 0, or now."""
        self._set_clock(at_wall_ns)
        self._outside = False
        self._later(max(0, self._clock.until_begin()), self._started, at_wall_ns)

    def sit_out(self, at_wall_ns: int) -> None:
        """The run began at this Unix time: answer peers, and take no part until `begin`."""
        self._set_clock(at_wall_ns)
        self._outside = True

    def _set_clock(self, at_wall_ns: int) -> None:
        self._clock.begin(at_wall_ns)
        if not self._counting and self._mesh is not None:
            # What measuring the links and connecting cost is not the run's.
            self._counting = True
            self._mesh.traffic.reset()
            self._wire.begin()

    def _started(self, at_wall_ns: int) -> None:
        if not self._over and not self._begun:
            self._begun = True
            self._process.record("start", {"at_wall": at_wall_ns / SECOND})
            for name in self._config.neighbours:
                if self._mesh is not None and self._mesh.stream(name) is None:
                    # Never connected, as far as this life knows: nothing is queued for it.
                    self._feed(PeerChanged(peer=name, change=PeerChange.LOST))
            self._feed(Started())

    def order(self, effect: ForPeer | TakeSnapshot) -> None:
        """Do what the member machine wants of the peer machine."""
        match effect:
            case TakeSnapshot(sync=sync):
                held, model = self._peer.aggregated if self._peer is not None else (0, None)
                self._tell(ModelSnapshot(sync=sync, held=held, parameters=model))
            case _:
                self._feed(to_peer(effect))

    def send(self, effect: Send) -> None:
        """Send a message of model sync, behind those of the algorithm."""
        assert self._mesh is not None
        self._mesh.send(replace(effect, key=_SYNC + effect.key), priority=Priority.BACKGROUND)

    def end(self, reason: str) -> None:
        """End the run here; RunEnded is told when it has ended and is stored."""
        self._process.record("stop", {"reason": reason})
        if self._over or self._driver is None:
            self._tell(RunEnded(reason=reason, round=self.round))
            return
        limit = self._config.deadlines.stop_ns
        late = f"the run did not end within {limit / SECOND:g} s"
        self._later(limit, self._process.fail, late)
        self._feed(StopRequested(reason=reason))

    def fail(self, reason: str) -> None:
        """Something broke for good: the run here is over, with what there is of it."""
        self._feed(Failed(reason=reason))
        self._ended("failed", reason)

    def from_mesh(self, event: Event) -> None:
        """Events of all peers. The peer machine knows only neighbours; the member machine hears who
        is there, and has model sync with anybody."""
        match event:
            case PeerChanged(peer=about, change=change):
                self._process.record("peer", {"peer": about, "change": change.value})
                self._tell(event)
            case Received(message=PeerMessage(kind=kind)) if kind in KINDS:
                self._tell(event)
                return
            case Received(sender=about):
                if about not in self._config.neighbours and self._mesh is not None:
                    self._mesh.refused(about, "a message from one who is no neighbour")
                if self._outside:
                    return  # of a run in which this node has no part yet
            case Sent(key=key) | SendFailed(key=key) if key.startswith(_SYNC):
                return  # who misses it asks again
            case Sent(target=about) | SendFailed(target=about):
                pass
            case _:
                raise TypeError(f"the mesh says {event}")
        if about in self._config.neighbours:
            self._feed(event)

    def tick(self) -> None:
        """To be called each second."""
        if self._clock.run_seconds() is not None and not self._over:
            self.record_bytes()
        self._report()

    def record_bytes(self) -> None:
        """Cumulative counts as a record, once there is something to count."""
        if self._mesh is None:
            return
        queued, wire = self._mesh.queued_model_bytes(), self._wire.since_begin()
        fields = self._mesh.traffic.record(queued=queued, wire=wire)
        self._process.record("bytes", fields)

    async def close(self) -> None:
        """No more events; the trainer ends."""
        for timer in self._timers:
            timer.cancel()
        if self._driver is not None:
            self._driver.close()
        if self._trainer is not None:
            await self._trainer.close()
        if self._trace is not None:
            self._trace.close()

    def _later(self, after_ns: int, call: Callable[..., None], argument: object) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(after_ns / SECOND, call, argument))

    def _feed(self, event: Event, *, since: float | None = None) -> None:
        """
        Args:
            since: when it happened as modelled, monotonic s; None: now.
        """
        if self._driver is not None:
            before, self._since = self._since, since
            self._driver.feed(event)
            self._since = before
            self._report()

    def _perform(self, effect: Effect) -> None:
        assert self._mesh is not None
        match effect:
            case Send():
                self._mesh.send(effect)
            case DropQueued():
                self._mesh.drop(effect)
            case Train():
                since = time.monotonic() if self._since is None else self._since
                self._process.tasks.spawn(self._train(effect, since))
            case Evaluate():
                self._process.tasks.spawn(self._evaluate(effect))
            case Record(kind="evaluation", fields=fields):
                took = self._evaluation_s.pop(int(str(fields["round"])), None)
                self._process.record("evaluation", {**fields, "seconds": took})
            case Record(kind="refused", fields=fields):
                self._mesh.refused(str(fields["sender"]), str(fields["reason"]))
            case Record(kind=kind, fields=fields):
                self._process.record(kind, fields)
            case Offer() | ShareOver():
                self._tell(to_member(effect))
            case Finish():
                self._finished(effect)
            case _:
                raise TypeError(f"the peer machine wants {effect}")

    async def _train(self, job: Train, since: float) -> None:
        assert self._trainer is not None
        try:
            done = await self._trainer.train(
                job=job.job, steps=job.steps, parameters=job.parameters, since=since
            )
        except PeerbedError as error:
            self._process.fail(error.said_by(self._config.name))
            return
        trained = Trained(
            job=done.job,
            parameters=done.parameters,
            loss=done.loss,
            steps=done.steps,
            compute_s=done.compute_s,
            padded_s=done.padded_s,
            late_s=done.late_s,
        )
        self._feed(trained, since=done.ended)

    async def _evaluate(self, wanted: Evaluate) -> None:
        assert self._trainer is not None
        try:
            done = await self._trainer.evaluate(round=wanted.round, parameters=wanted.parameters)
        except PeerbedError as error:
            self._process.fail(error.said_by(self._config.name))
            return
        if done is None:
            return  # given up for newer ones, which the machine waits for
        self._evaluation_s[done.round] = done.seconds
        if done.round >= self._newest[0]:
            self._newest = (done.round, done.accuracy, done.loss)
        self._feed(Evaluated(round=done.round, accuracy=done.accuracy, loss=done.loss))

    def _finished(self, finish: Finish) -> None:
        """The machine is done: store the model, unless it is the initial one, then tell."""
        assert finish.parameters is not None
        if not self._begun:
            self._ended(finish.reason, finish.error)
            return
        path = Path(self._config.results) / "nodes" / f"{self._config.name}.f32"
        error = finish.error
        try:
            store(path, finish.parameters.astype("<f4", copy=False).tobytes())
        except EnvironmentFault as fault:
            error = error or str(fault)
        self.record_bytes()
        self._ended(finish.reason, error)

    def _ended(self, reason: str, error: str | None) -> None:
        if self._over:
            return
        self._over = True
        if error is not None:
            self._tell(Failed(reason=error))
        self._tell(RunEnded(reason=reason, round=self.round))

    def _report(self) -> None:
        """Tell how far the run is, where that is news."""
        if self._peer is None or self._mesh is None or self._outside:
            return
        progress = Progress(
            phase=self._peer.phase.value,
            round=self._peer.round,
            accuracy=self._newest[1],
            loss=self._newest[2],
            model_bytes=self._mesh.traffic.model_sent,
        )
        if progress != self._progress:
            self._progress = progress
            self._tell(progress)
