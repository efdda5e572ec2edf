"""The node process's end of a trainer process. Imports no torch: numpy and asyncio only.

`TrainerProcess.start` spawns `python -m node.training`; parameters go through shared memory, all
else through its pipes as `protocol` says. Every wait ends: with an answer, with what the trainer
says went wrong, or with `TrainerDied` when it dies or falls silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from node.config import NodeConfig, TrainingConfig
from node.core.parts import Layout, Vector, frozen
from node.errors import ConfigError, EnvironmentFault, PeerbedError, RunFailed
from node.training import spawn
from node.training.protocol import (
    Assignment,
    EvalResult,
    EvaluateAnswer,
    EvaluateRequest,
    Fault,
    FaultKind,
    Ready,
    Request,
    Slot,
    Stage,
    TrainAnswer,
    TrainRequest,
    TrainResult,
    Working,
    decode,
    encode,
)

MAX_WAITING: Final = 8
"""Evaluations that wait for one that runs; the oldest is given up for one more."""

_LINE_LIMIT: Final = 2**20
_STDERR_TAIL: Final = 4096
_CLOSE_S: Final = 2.0


class TrainerDied(RunFailed):
    """The trainer process ended, or fell silent and was killed; says how, and its last words."""


class TrainingDiverged(RunFailed):
    """A loss or parameter became NaN or infinite."""


@dataclass(slots=True, eq=False)
class _Evaluation:
    round: int
    parameters: Vector
    answer: asyncio.Future[EvalResult | None]


class TrainerProcess:
    """A running trainer; made by `start` or `evaluator`.

    Attributes:
        layout: of the model's flat vector.
        initial: the vector that every node of the run starts from; read-only.
        samples, label_counts: this node's training samples, and how many of each label.
        test_samples: size of the test set.
        pid: of the trainer process.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, silence_s: float) -> None:
        self._name = name
        self._process = process
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._setup: asyncio.Future[Ready] = self._loop.create_future()
        self._job: asyncio.Future[TrainResult] | None = None
        self._evaluation: _Evaluation | None = None
        self._waiting: deque[_Evaluation] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._dead: TrainerDied | None = None
        self._reason: str | None = None
        self._stderr = b""
        self._slots: list[Vector] = []
        self._tasks = [self._loop.create_task(self._listen())]
        self.pid = process.pid
        self.layout = Layout(())
        self.initial: Vector = frozen(np.empty(0, dtype=np.float32))
        self.samples = self.test_samples = 0
        self.label_counts: tuple[int, ...] = ()

    @classmethod
    async def start(
        cls, config: NodeConfig, *, deadline_s: float, silence_s: float = 30.0
    ) -> TrainerProcess:
        """Start the trainer of a node.

        Args:
            deadline_s: until it is ready: importing torch takes about a CPU second.
            silence_s: kill it when it works on a request and says nothing for so long; a trainer
                at work gives a sign of life every second, or after a step that takes longer.

        Raises:
            ConfigError, EnvironmentFault: the training that was asked for cannot be.
            TrainerDied: it ended or did not get ready in time.
        """
        assignment = Assignment(
            node=config.name,
            index=config.index,
            nodes=len(config.members),
            seed=config.seed,
            parent=os.getpid(),
            training=config.training,
            compute=config.compute,
        )
        return await cls._start(assignment, deadline_s=deadline_s, silence_s=silence_s)

    @classmethod
    async def evaluator(
        cls, *, training: TrainingConfig, seed: int, deadline_s: float, silence_s: float = 30.0
    ) -> TrainerProcess:
        """Start a trainer that has no training samples and only evaluates; raises as `start`."""
        assignment = Assignment(
            node=None, index=0, nodes=1, seed=seed, parent=os.getpid(), training=training
        )
        return await cls._start(assignment, deadline_s=deadline_s, silence_s=silence_s)

    @classmethod
    async def _start(
        cls, assignment: Assignment, *, deadline_s: float, silence_s: float
    ) -> TrainerProcess:
        memory = os.memfd_create("peerbed-trainer")
        try:
            process = await _spawn(memory)
            self = cls(assignment.node or "evaluator", process, silence_s)
            try:
                self._say(assignment)
                await self._get_ready(memory, deadline_s)
            except BaseException:
                self._kill("was given up before it was ready")
                await self.close()
                raise
            return self
        finally:
            os.close(memory)

    async def train(
        self, *, job: int, steps: int, parameters: Vector, since: float | None = None
    ) -> TrainResult:
        """See `protocol.Trainer`; one job at a time.

        If the caller is cancelled the job goes on, and the next may start only after it.

        Raises:
            TrainingDiverged: a loss or parameter is not finite; the trainer lives on.
            TrainerDied: it died or fell silent.
        """
        self._check(parameters)
        if not self.samples:
            raise RuntimeError("this trainer only evaluates")
        if self._job is not None:
            raise RuntimeError(f"job {job} while another one runs")
        if steps < 1:
            raise ValueError(f"job {job} has {steps} steps")
        self._slots[Slot.IN][:] = parameters
        answer: asyncio.Future[TrainResult] = self._loop.create_future()
        self._job = answer
        self._say(TrainRequest(job=job, steps=steps, since=since))
        return await answer

    async def evaluate(self, *, round: int, parameters: Vector) -> EvalResult | None:  # noqa: A002
        """Evaluate a model on the test set, beside a running job.

        `parameters` must not change until this returns. Evaluations run one at a time in the order
        of the calls; when more than `MAX_WAITING` wait, the oldest of them is given up.

        Returns:
            None if this one was given up.

        Raises:
            TrainingDiverged: the loss is not finite; the trainer lives on.
            TrainerDied: it died or fell silent.
        """
        self._check(parameters)
        mine = _Evaluation(round, parameters, self._loop.create_future())
        self._waiting.append(mine)
        if len(self._waiting) > MAX_WAITING:
            _answer(self._waiting.popleft().answer, None)
        self._next_evaluation()
        return await mine.answer

    async def close(self) -> None:
        """End the trainer and wait for its end; whoever waits for it gets `TrainerDied`."""
        self._reason = self._reason or "was closed"
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _CLOSE_S)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.gather(*self._tasks)

    async def _get_ready(self, memory: int, deadline_s: float) -> None:
        try:
            ready = await asyncio.wait_for(asyncio.shield(self._setup), deadline_s)
        except TimeoutError:
            self._kill(f"was not ready after {deadline_s:g} s")
            ready = await self._setup
        self.layout = ready.layout
        self.samples, self.test_samples = ready.samples, ready.test_samples
        self.label_counts = ready.label_counts
        shared = mmap.mmap(memory, len(Slot) * self.layout.size * 4)
        vectors = np.frombuffer(shared, dtype=np.float32).reshape(len(Slot), -1)
        self._slots = list(vectors)
        self.initial = frozen(self._slots[Slot.OUT].copy())

    def _check(self, parameters: Vector) -> None:
        if self._dead is not None:
            raise self._dead
        if parameters.shape != (self.layout.size,) or parameters.dtype != np.float32:
            raise ValueError(
                f"expected {self.layout.size} float32, "
                f"not {parameters.dtype} of shape {parameters.shape}"
            )

    def _say(self, message: Assignment | Request) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(encode(message))
        self._heard()

    def _heard(self) -> None:
        """Put the alarm off; no alarm while nothing is asked of the trainer."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._job is not None or self._evaluation is not None:
            text = f"has been silent for {self._silence_s:g} s over a request"
            self._alarm = self._loop.call_later(self._silence_s, self._kill, text)

    def _kill(self, reason: str) -> None:
        self._reason = self._reason or reason
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _next_evaluation(self) -> None:
        if self._evaluation is None and self._waiting:
            self._evaluation = self._waiting.popleft()
            self._slots[Slot.EVAL][:] = self._evaluation.parameters
            self._say(EvaluateRequest(round=self._evaluation.round))

    async def _listen(self) -> None:
        """Read answers until the trainer ends, then tell whoever waits."""
        stderr = self._loop.create_task(self._keep_stderr())
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._take(line)
        except (ValueError, PeerbedError) as error:
            self._kill(f"said something that is not of the protocol: {error}")
        status = await self._process.wait()
        await stderr
        if self._alarm is not None:
            self._alarm.cancel()
        self._dead = self._obituary(status)
        waiting = [self._setup, self._job, *(e.answer for e in self._waiting)]
        if self._evaluation is not None:
            waiting.append(self._evaluation.answer)
        for future in waiting:
            if future is not None:
                _fail(future, self._dead)

    def _take(self, line: bytes) -> None:
        """Give an answer to whoever waits for it."""
        match decode(line):
            case Working():
                pass
            case Ready() as ready:
                _answer(self._setup, ready)
            case TrainAnswer() as done if self._job is not None:
                _answer(self._job, self._trained(done))
                self._job = None
            case EvaluateAnswer() as done if self._evaluation is not None:
                _answer(self._evaluation.answer, _evaluated(done))
                self._evaluation = None
                self._next_evaluation()
            case Fault() as fault:
                self._take_fault(fault)
            case other:
                raise ValueError(f"nobody asked for {other}")
        self._heard()

    def _trained(self, done: TrainAnswer) -> TrainResult:
        return TrainResult(
            job=done.job,
            parameters=frozen(self._slots[Slot.OUT].copy()),
            loss=done.loss,
            steps=done.steps,
            compute_s=done.compute_s,
            padded_s=done.padded_s,
            late_s=done.late_s,
            ended=done.ended,
        )

    def _take_fault(self, fault: Fault) -> None:
        kinds: dict[FaultKind, type[PeerbedError]] = {
            FaultKind.CONFIG: ConfigError,
            FaultKind.ENVIRONMENT: EnvironmentFault,
            FaultKind.DIVERGED: TrainingDiverged,
        }
        error = kinds[fault.kind](
            fault.message, where=fault.where or self._name, remedy=fault.remedy
        )
        match fault.stage:
            case Stage.SETUP:
                _fail(self._setup, error)
            case Stage.TRAIN if self._job is not None:
                _fail(self._job, error)
                self._job = None
            case Stage.EVALUATE if self._evaluation is not None:
                _fail(self._evaluation.answer, error)
                self._evaluation = None
                self._next_evaluation()
            case _:
                raise ValueError(f"nobody asked for {fault}")

    async def _keep_stderr(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(_STDERR_TAIL):
            self._stderr = (self._stderr + chunk)[-_STDERR_TAIL:]

    def _obituary(self, status: int) -> TrainerDied:
        message, remedy = spawn.obituary(
            "the trainer", reason=self._reason, status=status, stderr=self._stderr
        )
        return TrainerDied(message, where=self._name, remedy=remedy)


def _evaluated(done: EvaluateAnswer) -> EvalResult:
    return EvalResult(
        round=done.round, accuracy=done.accuracy, loss=done.loss, seconds=done.seconds
    )


def _answer(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():  # done: its caller was cancelled
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: PeerbedError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # counts as retrieved, also if its caller is gone by now


async def _spawn(memory: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *spawn.command(memory),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(memory,),
        limit=_LINE_LIMIT,
        env=spawn.environment(),
    )
