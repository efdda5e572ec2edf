"""`TrainerPool`: trains and evaluates for all nodes of a simulation. No torch, no asyncio.

What is handed in is done at once if a worker is free, else in the order in which it is due; whoever
asks for a result waits for it, and meanwhile all workers go on. Which worker does what, when, and
how many there are changes no bit of a result: workers keep nothing, and which samples a job trains
on is decided here, where it is handed in.

Where one worker trains many models in one call (`Device.CUDA`, `Device.BATCHED`), jobs are gathered
instead, and done together when the first result is asked for.
"""

from __future__ import annotations

import heapq
import os
import selectors
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import numpy as np

from node.config import TrainingConfig
from node.core.ids import NodeId
from node.core.parts import Layout, Vector
from node.core.rng import stream
from node.errors import RunFailed
from node.training import data, shares
from node.training.bank import MAX_SAMPLES
from node.training.client import TrainingDiverged
from node.training.crew import Job, Worker, is_alone
from node.training.minibatches import Minibatches
from node.training.partition import Indices
from node.training.protocol import Device, Enlistment
from node.units import Nanos

MOST_DEATHS: Final = 3
"""Workers that a job may cost: it is done again twice."""

_SKIPPED_AT_A_TIME: Final = 1024


@dataclass(slots=True, eq=False)
class _Life:
    """One life of a node: its minibatches, and how many steps of them were handed out."""

    batches: Minibatches
    steps: int = 0


class TrainerPool:
    """`sim.interfaces.Trainers`; made by `start`, to be closed. For one thread, which must not end
    before: the kernel ends the workers with it.

    Attributes:
        device: what it trains on; never AUTO.
    """

    def __init__(
        self,
        enlistment: Enlistment,
        *,
        nodes: Sequence[NodeId],
        workers: int,
        deadline_s: float,
        silence_s: float,
    ) -> None:
        training = enlistment.training
        dataset = data.load(training)
        dealt = shares.deal(dataset, config=training, nodes=len(nodes), seed=enlistment.seed)
        self._shares: tuple[Indices, ...] = dealt.train
        self._groups, self._group_count = dataset.groups, dataset.group_count
        self._enlistment = enlistment
        self._nodes = {node: place for place, node in enumerate(nodes)}
        self._names = tuple(nodes)
        self._deadline_s, self._silence_s = deadline_s, silence_s
        self._wanted = workers
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._tickets = 0
        self._jobs: dict[int, Job] = {}
        self._queue: list[tuple[Nanos, int, Job]] = []
        self._lives: dict[NodeId, _Life] = {}
        self._life_of: dict[int, _Life] = {}
        self._buried_cpu_s = 0.0
        self._buried_done = 0
        self._step_ns: Nanos | None = None
        self.device = enlistment.device
        self.layout = Layout(())
        self.initial: Vector = np.empty(0, dtype=np.float32)

    @classmethod
    def start(
        cls,
        *,
        training: TrainingConfig,
        seed: int,
        nodes: Sequence[NodeId],
        workers: int | None = None,
        device: Device = Device.AUTO,
        deadline_s: float = 120.0,
        silence_s: float = 60.0,
    ) -> TrainerPool:
        """Start the workers, and wait until they are up.

        Args:
            nodes: all of the run, in the order in which samples are dealt to them.
            workers: processes on the CPU; None: one for each core that this process may use.
            deadline_s: until a worker is up.
            silence_s: a worker that is at work and gives no sign of life for so long is killed.

        Raises:
            ConfigError, EnvironmentFault: the training that was asked for cannot be.
            RunFailed: a worker ended, or was not up in time.
        """
        enlistment = Enlistment(
            nodes=len(nodes), seed=seed, parent=os.getpid(), training=training, device=device
        )
        if workers is None:
            workers = len(os.sched_getaffinity(0))
        if is_alone(device):
            workers = 1
        self = cls(
            enlistment, nodes=nodes, workers=workers, deadline_s=deadline_s, silence_s=silence_s
        )
        try:
            self._start_workers()
        except BaseException:
            self.close()
            raise
        return self

    def __enter__(self) -> TrainerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the worker processes."""
        return tuple(worker.pid for worker in self._workers)

    @property
    def cpu_s(self) -> float:
        """CPU time that workers have spent on jobs which are done."""
        return self._buried_cpu_s + sum(worker.cpu_s for worker in self._workers)

    @property
    def done(self) -> int:
        """Jobs that are done."""
        return self._buried_done + sum(worker.done for worker in self._workers)

    def samples(self, node: NodeId) -> int:
        """Number of training samples of a node."""
        return int(self._shares[self._nodes[node]].size)

    def label_counts(self, node: NodeId) -> tuple[int, ...]:
        """How many of them have each label."""
        mine = self._groups[self._shares[self._nodes[node]]]
        return tuple(int(count) for count in np.bincount(mine, minlength=self._group_count))

    def measured_step_ns(self) -> Nanos:
        """What a step takes on one core of this machine, with the run's model and batch size: the
        median of some, measured by one worker when it is asked for the first time. Ask while no
        work is under way.

        Raises:
            RunFailed: the worker died.
        """
        while self._step_ns is None:
            worker = self._workers[0]
            if worker.idle:
                worker.measure()
            self._wait()
            self._step_ns = self._workers[0].step_ns
        return self._step_ns

    def restarted(self, node: NodeId) -> None:
        """A new life of the node begins: its stream of minibatches begins anew."""
        self._lives.pop(node, None)

    def train(self, node: NodeId, *, steps: int, parameters: Vector, due: Nanos) -> int:
        """See `Trainers.train`; `parameters` is not copied if it is read-only.

        Raises:
            RunFailed: more samples in a job than there is room for.
        """
        size = self._enlistment.training.batch_size
        if not 1 <= steps * size <= MAX_SAMPLES:
            raise RunFailed(
                f"a job of {steps} steps with {size} samples: the most is {MAX_SAMPLES} samples",
                where=node,
                remedy="Have fewer steps a round.",
            )
        life = self._life(node)
        life.steps += steps
        ticket = self._take_in(
            node, parameters=parameters, due=due, batches=life.batches.take(steps)
        )
        self._life_of[ticket] = life
        return ticket

    def evaluate(self, node: NodeId | None, *, parameters: Vector, due: Nanos) -> int:
        """See `Trainers.evaluate`."""
        return self._take_in(node, parameters=parameters, due=due, batches=None)

    def trained(self, ticket: int) -> tuple[Vector, float]:
        """See `Trainers.trained`."""
        job = self._settled(ticket)
        assert job.outcome is not None
        assert job.result is not None
        return job.result, job.outcome.loss

    def evaluated(self, ticket: int) -> tuple[float, float]:
        """See `Trainers.evaluated`."""
        job = self._settled(ticket)
        assert job.outcome is not None
        return job.outcome.accuracy, job.outcome.loss

    def give_up(self, ticket: int) -> None:
        """See `Trainers.give_up`."""
        self._jobs.pop(ticket).unwanted = True
        self._life_of.pop(ticket, None)

    def state(self) -> Mapping[str, object]:
        """How many steps each node has trained in its present life, without work under way."""
        steps = {life: life.steps for life in self._lives.values()}
        for ticket, life in self._life_of.items():
            if life in steps:
                steps[life] -= self._jobs[ticket].steps
        return {"steps": {node: steps[self._lives[node]] for node in sorted(self._lives)}}

    def restore(self, state: Mapping[str, object]) -> None:
        """See `Trainers.restore`."""
        for ticket in list(self._jobs):
            self.give_up(ticket)
        self._lives.clear()
        steps: Any = state["steps"]
        for node, done in steps.items():
            life = self._life(node)
            life.steps = done
            for begin in range(0, done, _SKIPPED_AT_A_TIME):
                life.batches.take(min(_SKIPPED_AT_A_TIME, done - begin))

    def close(self) -> None:
        """End all workers, and wait for their end."""
        for worker in self._workers:
            worker.kill("was ended with the pool")
        for worker in self._workers:
            self._part_with(worker)
        self._workers.clear()
        self._selector.close()

    # Jobs ---------------------------------------------------------------------------------------

    def _life(self, node: NodeId) -> _Life:
        if node not in self._lives:
            batches = Minibatches(
                self._shares[self._nodes[node]],
                batch_size=self._enlistment.training.batch_size,
                rng=stream(self._enlistment.seed, "data", node),
            )
            self._lives[node] = _Life(batches)
        return self._lives[node]

    def _take_in(
        self, node: NodeId | None, *, parameters: Vector, due: Nanos, batches: Indices | None
    ) -> int:
        if parameters.shape != self.initial.shape or parameters.dtype != np.float32:
            raise ValueError(f"not a model of {self.layout.size} float32: {parameters.shape}")
        self._tickets += 1
        job = Job(
            ticket=self._tickets,
            due=due,
            node=None if node is None else self._nodes[node],
            parameters=parameters.copy() if parameters.flags.writeable else parameters,
            batches=batches,
        )
        self._jobs[job.ticket] = job
        heapq.heappush(self._queue, (due, job.ticket, job))
        if not is_alone(self.device):
            self._hear(timeout_s=0)
            self._hand_out()
        return job.ticket

    def _settled(self, ticket: int) -> Job:
        """Wait for a job.

        Raises:
            RunFailed: it has no result.
        """
        job = self._jobs[ticket]
        while not job.settled:
            self._wait()
        del self._jobs[ticket]
        self._life_of.pop(ticket, None)
        if job.failure is not None:
            raise job.failure
        if job.outcome is not None and job.outcome.fault is not None:
            rate = self._enlistment.training.learning_rate
            raise TrainingDiverged(
                f"{self._what(job)} diverged: {job.outcome.fault}",
                where=self._who(job),
                remedy=f"Lower training.learning_rate, which is {rate}.",
            )
        return job

    def _hand_out(self) -> None:
        """Give jobs to workers that have room, those with the least to do first."""
        while self._queue:
            free = [worker for worker in self._workers if worker.room]
            if is_alone(self.device):
                free = [worker for worker in free if worker.idle]
            if not free:
                return
            worker = max(free, key=lambda worker: worker.room)
            jobs = self._next(worker.room if is_alone(self.device) else 1)
            if jobs:
                worker.give(jobs, batch_size=self._enlistment.training.batch_size)

    def _next(self, most: int) -> list[Job]:
        """The job that is due first, with others of as many steps as are to be done together."""
        chosen: list[Job] = []
        others = []
        while self._queue and len(chosen) < most:
            entry = heapq.heappop(self._queue)
            job = entry[2]
            if job.unwanted:
                continue
            if chosen and job.steps != chosen[0].steps:
                others.append(entry)
            else:
                chosen.append(job)
        for entry in others:
            heapq.heappush(self._queue, entry)
        return chosen

    def _who(self, job: Job) -> str:
        return "the merged model" if job.node is None else self._names[job.node]

    def _what(self, job: Job) -> str:
        return f"training of {job.steps} steps" if job.steps else "evaluation"

    # Workers ------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        for _ in range(self._wanted):
            self._start_worker()
        while not all(worker.enlisted for worker in self._workers):
            self._wait()
        first = self._workers[0]
        assert first.enlisted is not None
        self.device = first.enlisted.device
        self.layout, self.initial = first.layout, first.initial
        for worker in self._workers[1:] if is_alone(self.device) else ():
            worker.kill("is one too many")
            self._part_with(worker)
            self._workers.remove(worker)

    def _start_worker(self) -> None:
        worker = Worker.start(self._enlistment)
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        self._selector.register(worker.stderr, selectors.EVENT_READ, worker)

    def _part_with(self, worker: Worker) -> list[Job]:
        for pipe in (worker.stdout, worker.stderr):
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        self._buried_cpu_s += worker.cpu_s
        self._buried_done += worker.done
        return worker.bury()

    def _wait(self) -> None:
        """Hand out work, and wait until a worker says something, or has been silent for too long.

        Raises:
            PeerbedError: a worker cannot work.
        """
        self._hear(timeout_s=0)
        self._hand_out()
        now = time.monotonic()
        alarms = [self._alarm(worker, since=now) for worker in self._workers if not worker.idle]
        if not alarms:
            return  # all has been said
        self._hear(timeout_s=max(0.0, min(alarms) - now))
        for worker in self._workers:
            if not worker.idle and time.monotonic() > self._alarm(worker, since=now):
                what = "over its work" if worker.enlisted else "before it was up"
                worker.kill(f"was silent for {self._patience_s(worker):g} s {what}")

    def _alarm(self, worker: Worker, *, since: float) -> float:
        """When to give a worker up. While nobody waited, nobody listened: that does not count."""
        heard = max(worker.heard, since) if worker.enlisted else worker.heard
        return heard + self._patience_s(worker)

    def _patience_s(self, worker: Worker) -> float:
        return self._silence_s if worker.enlisted else self._deadline_s

    def _hear(self, *, timeout_s: float) -> None:
        """Take in what workers say; have others do what those leave undone that have died."""
        for key, _ in self._selector.select(timeout_s):
            worker: Worker = key.data
            if key.fileobj is worker.stdout:
                worker.read()
            elif not worker.read_stderr():
                self._selector.unregister(worker.stderr)
        for worker in [worker for worker in self._workers if worker.ended]:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        undone = self._part_with(worker)
        if worker.refusal is not None:
            raise worker.refusal
        if worker.enlisted is None:
            raise worker.obituary("pool")
        for job in undone:
            if job.deaths < MOST_DEATHS:
                heapq.heappush(self._queue, (job.due, job.ticket, job))
            else:
                job.failure = worker.obituary(f"{self._who(job)}, {self._what(job)}")
        self._start_worker()
