"""The trainer process behind its pipes: reads requests, trains and evaluates, answers.

Three threads. The main one only reads requests, so that the end of its input ends the process at
once. One trains. One evaluates, at the lowest priority, on a module and a snapshot of its own: it
shares nothing with the training that could change a bit of its result. Imports torch.

One torch thread for each of the two, and only deterministic operations: the same seed gives the
same bits on the same kind of CPU.
"""

from __future__ import annotations

import gc
import mmap
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Final, NoReturn, TypeVar

import numpy as np
import torch

from node.core.parts import Vector
from node.core.rng import stream
from node.errors import ConfigError, PeerbedError
from node.training import sgd
from node.training.bench import Bench
from node.training.minibatches import Minibatches
from node.training.partition import Indices
from node.training.protocol import (
    Answer,
    Assignment,
    EvaluateAnswer,
    EvaluateRequest,
    Fault,
    FaultKind,
    Ready,
    Report,
    Slot,
    Stage,
    TensorShape,
    TrainAnswer,
    TrainRequest,
    Working,
    decode,
    encode,
)
from node.units import SECOND

_LOWEST_PRIORITY: Final = 19
_SIGN_OF_LIFE_S: Final = 1.0
_DEFECT: Final = 70
"""Exit status of a defect of ours (EX_SOFTWARE); the traceback stands on standard error."""

_R = TypeVar("_R", TrainRequest, EvaluateRequest)


class Answers:
    """Standard output, written by several threads: whole lines, one `write` each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def send(self, answer: Answer | Report) -> None:
        line = encode(answer)
        with self._lock:
            self._last = time.monotonic()
            while line:
                line = line[os.write(self._descriptor, line) :]

    def tick(self) -> None:
        """Say `Working` if nothing has been said for a while. Cheap: called after every step."""
        if time.monotonic() - self._last > _SIGN_OF_LIFE_S:
            self.send(Working())


class Workplace:
    """What this trainer works with: the bench, two modules, the node's share, shared vectors."""

    def __init__(self, assignment: Assignment, *, memory: int) -> None:
        config = assignment.training
        self.config = config
        self.compute = assignment.compute
        self.bench = Bench(config, nodes=assignment.nodes, seed=assignment.seed)
        self.model, self.test_model = self.bench.model(), self.bench.model()
        self.slots = map_slots(memory, size=self.model.layout.size)
        self.slots[Slot.OUT][:] = self.bench.initial()
        self.node = None if assignment.node is None else assignment.index
        self.batches: Minibatches | None = None
        mine: Indices = np.empty(0, dtype=np.int64)
        if assignment.node is not None:
            mine = self.bench.shares.train[assignment.index]
            self.batches = Minibatches(
                mine,
                batch_size=config.batch_size,
                rng=stream(assignment.seed, "data", assignment.node),
            )
        self.ready = Ready(
            tensors=tuple(
                TensorShape(name=slot.name, shape=slot.shape) for slot in self.model.layout.slots
            ),
            samples=int(mine.size),
            label_counts=self.bench.label_counts(mine),
            test_samples=int(self.bench.shares.tests(self.node).size),
        )


def map_slots(memory: int, *, size: int) -> list[Vector]:
    """Give the shared memory its size, three vectors of `size` float32, and map them."""
    os.ftruncate(memory, len(Slot) * size * 4)
    shared = mmap.mmap(memory, len(Slot) * size * 4)
    return list(np.frombuffer(shared, dtype=np.float32).reshape(len(Slot), size))


def settle() -> None:
    """One compute thread, and only deterministic operations."""
    torch.set_num_threads(1)
    # The public call that does not import torch's compiler, as use_deterministic_algorithms does.
    torch.set_deterministic_debug_mode("error")
    # Else it fills all new memory with NaN, to show who reads it unwritten: a third of the time of
    # a small convolutional network.
    torch.utils.deterministic.fill_uninitialized_memory = False


def serve(
    assignment: Assignment, *, requests: Iterable[bytes], answers: int, memory: int
) -> NoReturn:
    """Load everything, say `Ready`, and answer requests until their stream ends; then exit.

    Args:
        requests: lines of the protocol after the assignment.
        answers: descriptor to write answers to.
        memory: descriptor of the shared memory, still without a size.
    """
    settle()
    out = Answers(answers)
    try:
        place = Workplace(assignment, memory=memory)
        if place.batches is not None:
            place.bench.warm_up(place.test_model, place.slots[Slot.OUT])
    except PeerbedError as error:
        out.send(fault(Stage.SETUP, error))
        raise SystemExit(error.exit_status) from None
    jobs: queue.SimpleQueue[TrainRequest] = queue.SimpleQueue()
    snapshots: queue.SimpleQueue[EvaluateRequest] = queue.SimpleQueue()
    _spawn("train", jobs, lambda request: _train(request, place, out))
    _spawn("evaluate", snapshots, lambda request: _evaluate(request, place, out))
    gc.freeze()  # what the imports left behind need not be traversed again and again
    out.send(place.ready)
    for line in requests:
        match decode(line):
            case TrainRequest() as request:
                jobs.put(request)
            case EvaluateRequest() as request:
                snapshots.put(request)
            case other:
                raise TypeError(f"not a request: {other}")
    os._exit(0)  # a thread may be deep in a computation whose result nobody wants


def _spawn(name: str, requests: queue.SimpleQueue[_R], perform: Callable[[_R], None]) -> None:
    """A thread that performs requests in order; a defect in it ends the process."""

    def run() -> None:
        try:
            if name == "evaluate":
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
            while True:
                perform(requests.get())
        except BaseException:
            traceback.print_exc()
            os._exit(_DEFECT)

    threading.Thread(target=run, name=name, daemon=True).start()


def _train(request: TrainRequest, place: Workplace, out: Answers) -> None:
    started = since = time.monotonic()
    if request.since is not None and not place.compute.measured:
        since = request.since
    if place.batches is None:
        raise TypeError("this trainer only evaluates")
    place.model.load(place.slots[Slot.IN])
    try:
        batches = place.batches.take(request.steps)
        loss = place.bench.train(place.model, batches=batches, tick=out.tick)
    except sgd.Diverged as error:
        out.send(_diverged(Stage.TRAIN, f"training diverged in job {request.job}: {error}", place))
        return
    place.model.store(place.slots[Slot.OUT])
    computed = time.monotonic()
    measured_ns = round((computed - started) * SECOND)
    lasts = place.compute.job_ns(job=request.job, steps=request.steps, measured_ns=measured_ns)
    due = since + lasts / SECOND
    ended = _wait_until(due, now=computed, tick=out.tick)
    out.send(
        TrainAnswer(
            job=request.job,
            steps=request.steps,
            loss=loss,
            compute_s=computed - started,
            padded_s=ended - computed,
            late_s=max(0.0, ended - due),
            ended=max(due, computed),
        )
    )


def _wait_until(deadline: float, *, now: float, tick: Callable[[], None]) -> float:
    """Wait, unless it is too late already; the time when the waiting ended."""
    while now < deadline:
        time.sleep(min(deadline - now, _SIGN_OF_LIFE_S))
        tick()
        now = time.monotonic()
    return now


def _evaluate(request: EvaluateRequest, place: Workplace, out: Answers) -> None:
    started = time.monotonic()
    place.test_model.load(place.slots[Slot.EVAL])
    try:
        accuracy, loss = place.bench.evaluate(place.test_model, node=place.node, tick=out.tick)
    except sgd.Diverged as error:
        text = f"the model of round {request.round} has diverged: {error}"
        out.send(_diverged(Stage.EVALUATE, text, place))
        return
    seconds = time.monotonic() - started
    out.send(EvaluateAnswer(round=request.round, accuracy=accuracy, loss=loss, seconds=seconds))


def _diverged(stage: Stage, message: str, place: Workplace) -> Fault:
    return Fault(
        stage=stage,
        kind=FaultKind.DIVERGED,
        message=message,
        remedy=f"Lower training.learning_rate, which is {place.config.learning_rate}.",
    )


def fault(stage: Stage, error: PeerbedError) -> Fault:
    kind = FaultKind.CONFIG if isinstance(error, ConfigError) else FaultKind.ENVIRONMENT
    return Fault(
        stage=stage, kind=kind, message=error.message, where=error.where, remedy=error.remedy
    )
