"""The pool's end of one worker process. No torch, no asyncio, never waits.

A worker is at work on what it was given first; what it was given next waits in its pipe.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

import numpy as np

from node.core.parts import Layout, Vector, frozen
from node.errors import ConfigError, EnvironmentFault, PeerbedError
from node.training import spawn
from node.training.bank import Bank
from node.training.client import TrainerDied
from node.training.partition import Indices
from node.training.protocol import (
    Device,
    Enlisted,
    Enlistment,
    EvaluateWork,
    Fault,
    FaultKind,
    Measure,
    Measured,
    Outcome,
    TrainWork,
    Work,
    WorkDone,
    Working,
    decode,
    encode,
)
from node.units import Nanos

_CHUNK: Final = 2**16
_STDERR_TAIL: Final = 4096


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """A model to train or to evaluate.

    Args:
        node: its place among the nodes; None: evaluate with everybody's test samples.
        parameters: never changes, so that the job can be done again.
        batches: (steps, batch_size) to train on; None: evaluate.
        deaths: workers that died over it.
        outcome: None until it is done.
        result: the trained model.
        failure: it is not going to be done.
        unwanted: nobody will ask for it.
    """

    ticket: int
    due: Nanos
    node: int | None
    parameters: Vector
    batches: Indices | None
    deaths: int = 0
    outcome: Outcome | None = None
    result: Vector | None = None
    failure: PeerbedError | None = None
    unwanted: bool = False

    @property
    def steps(self) -> int:
        """0: evaluate."""
        return 0 if self.batches is None else len(self.batches)

    @property
    def settled(self) -> bool:
        return self.outcome is not None or self.failure is not None


class Worker:
    """A worker process; made by `start`.

    Attributes:
        enlisted: what it said of itself, once it is up.
        initial: the model that all nodes start from, then.
        refusal: why it cannot work at all.
        ended: it says nothing any more: read `obituary`.
        heard: when it last gave a sign of life, or was expected to begin (monotonic).
        step_ns: what it measured.
        cpu_s: CPU time of the jobs that it has done.
        done: how many.
    """

    def __init__(self, process: subprocess.Popen[bytes], memory: int) -> None:
        self._process = process
        self._memory = memory
        self._bank: Bank | None = None
        self._free: list[int] = []
        self._given: deque[tuple[list[Job], list[int]]] = deque()
        self._said = b""
        self._stderr = b""
        self._reason: str | None = None
        self._measuring = False
        self.enlisted: Enlisted | None = None
        self.initial: Vector = frozen(np.empty(0, dtype=np.float32))
        self.layout = Layout(())
        self.refusal: PeerbedError | None = None
        self.ended = False
        self.heard = time.monotonic()
        self.step_ns: Nanos | None = None
        self.cpu_s = 0.0
        self.done = 0

    @classmethod
    def start(cls, enlistment: Enlistment) -> Worker:
        """Spawn it; it is up some seconds later."""
        memory = os.memfd_create("peerbed-worker")
        process = subprocess.Popen(
            spawn.command(memory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(memory,),
            env=spawn.environment(),
            bufsize=0,
        )
        self = cls(process, memory)
        for pipe in (self.stdout, self.stderr):
            os.set_blocking(pipe.fileno(), False)
        self._say(enlistment)
        return self

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def idle(self) -> bool:
        """Up, and nothing is asked of it."""
        return self.enlisted is not None and not self._given and not self._measuring

    @property
    def room(self) -> int:
        """Jobs that it can be given now."""
        return len(self._free)

    def give(self, jobs: Sequence[Job], *, batch_size: int) -> None:
        """Let it do some jobs of the same number of steps, together if it can."""
        assert self._bank is not None
        slots = [self._free.pop() for _ in jobs]
        for job, slot in zip(jobs, slots, strict=True):
            self._bank.models[slot][:] = job.parameters
            if job.batches is not None:
                place = self._bank.batches(slot, steps=job.steps, batch_size=batch_size)
                place[:] = job.batches
        if self.idle:
            self.heard = time.monotonic()
        self._given.append((list(jobs), slots))
        if jobs[0].steps:
            self._say(TrainWork(slots=tuple(slots), steps=jobs[0].steps))
        else:
            self._say(EvaluateWork(slots=tuple(slots), nodes=tuple(job.node for job in jobs)))

    def measure(self) -> None:
        """Let it find out how long a step takes: `step_ns`."""
        self._measuring = True
        self.heard = time.monotonic()
        self._say(Measure())

    def read(self) -> None:
        """Take in what it has said."""
        for chunk in _available(self.stdout):
            if not chunk:
                self.ended = True
            *lines, self._said = (self._said + chunk).split(b"\n")
            for line in lines:
                self._take(line)

    def read_stderr(self) -> bool:
        """Keep its last words; False: there will be no more."""
        for chunk in _available(self.stderr):
            if not chunk:
                return False
            self._stderr = (self._stderr + chunk)[-_STDERR_TAIL:]
        return True

    def kill(self, reason: str) -> None:
        """End it at once; it has nothing to tidy up."""
        self._reason = self._reason or reason
        self._process.kill()

    def bury(self) -> list[Job]:
        """Wait for the end of a process that has ended or was killed, and close its pipes; the jobs
        that it leaves undone, those first that it was at."""
        self._process.wait()
        self.read_stderr()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if self._bank is None:
            os.close(self._memory)
        undone = [job for jobs, _ in self._given for job in jobs]
        for job in self._given[0][0] if self._given else ():
            job.deaths += 1
        self._given.clear()
        return undone

    def obituary(self, job: str) -> TrainerDied:
        """What to raise when it has died over a job."""
        message, remedy = spawn.obituary(
            "the worker process",
            reason=self._reason,
            status=self._process.wait(),
            stderr=self._stderr,
        )
        return TrainerDied(message, where=job, remedy=remedy)

    def _say(self, message: Enlistment | Work) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the end of its output says so, too
            self._process.stdin.write(encode(message))

    def _take(self, line: bytes) -> None:
        self.heard = time.monotonic()
        match decode(line):
            case Working():
                pass
            case WorkDone() as done if self._given:
                self._done(done)
            case Enlisted() as enlisted if self.enlisted is None:
                self._get_ready(enlisted)
            case Measured(step_ns=step_ns):
                self.step_ns, self._measuring = step_ns, False
            case Fault() as fault:
                kind = ConfigError if fault.kind is FaultKind.CONFIG else EnvironmentFault
                self.refusal = kind(fault.message, where=fault.where, remedy=fault.remedy)
            case other:
                raise ValueError(f"nobody asked for {other}")

    def _get_ready(self, enlisted: Enlisted) -> None:
        self.enlisted, self.layout = enlisted, enlisted.layout
        self._bank = Bank(self._memory, slots=enlisted.slots, size=self.layout.size)
        os.close(self._memory)
        self.initial = frozen(self._bank.models[0].copy())
        self._free = list(reversed(range(enlisted.slots)))

    def _done(self, done: WorkDone) -> None:
        assert self._bank is not None
        jobs, slots = self._given.popleft()
        self.cpu_s += done.cpu_s
        self.done += len(jobs)
        for job, slot, outcome in zip(jobs, slots, done.outcomes, strict=True):
            if job.steps and outcome.fault is None and not job.unwanted:
                job.result = frozen(self._bank.models[slot].copy())
            job.outcome = outcome
        self._free += reversed(slots)


def is_alone(device: Device) -> bool:
    """Whether one worker does all the work, many models at a time."""
    return device in (Device.CUDA, Device.BATCHED)


def _available(pipe: IO[bytes]) -> Iterator[bytes]:
    """What can be read without waiting; at its end nothing (b"")."""
    while (chunk := pipe.read(_CHUNK)) is not None:
        yield chunk
        if not chunk:
            return
