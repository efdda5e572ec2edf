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
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
import torch

from node.config import ComputeConfig
from node.core.parts import Vector
from node.core.rng import stream
from node.errors import ConfigError, PeerbedError
from node.training import data, models, sgd
from node.training.partition import partition
from node.training.protocol import (
    Answer,
    Assignment,
    EvaluateAnswer,
    EvaluateRequest,
    Fault,
    FaultKind,
    Ready,
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

    def send(self, answer: Answer) -> None:
        line = encode(answer)
        with self._lock:
            self._last = time.monotonic()
            while line:
                line = line[os.write(self._descriptor, line) :]

    def tick(self) -> None:
        """Say `Working` if nothing has been said for a while. Cheap: called after every step."""
        if time.monotonic() - self._last > _SIGN_OF_LIFE_S:
            self.send(Working())


class Bench:
    """What the trainer has on its bench: data, partition, two modules, the shared vectors."""

    def __init__(self, assignment: Assignment, *, memory: int) -> None:
        config = assignment.training
        dataset = data.load(config.dataset, data_dir=config.data_dir)
        self.config = config
        self.compute = assignment.compute
        self.inputs, self.labels = _tensor(dataset.inputs), _tensor(dataset.labels)
        self.test_inputs, self.test_labels = (
            _tensor(dataset.test_inputs),
            _tensor(dataset.test_labels),
        )
        self.model, self.test_model = (
            models.FlatModel(
                models.build(config.model, shape=dataset.shape, classes=dataset.classes)
            )
            for _ in range(2)
        )
        self.slots = map_slots(memory, size=self.model.layout.size)
        self.slots[Slot.OUT][:] = models.initial(self.model, seed=assignment.seed)
        self.batches: sgd.Minibatches | None = None
        mine = np.empty(0, dtype=np.int64)
        if assignment.node is not None:
            mine = partition(
                dataset.labels,
                config=config.partition,
                nodes=assignment.nodes,
                batch_size=config.batch_size,
                seed=assignment.seed,
            )[assignment.index]
            self.batches = sgd.Minibatches(
                mine,
                batch_size=config.batch_size,
                rng=stream(assignment.seed, "data", assignment.node),
            )
        counts = np.bincount(dataset.labels[mine], minlength=dataset.classes)
        self.ready = Ready(
            tensors=tuple(
                TensorShape(name=slot.name, shape=slot.shape) for slot in self.model.layout.slots
            ),
            samples=int(mine.size),
            label_counts=tuple(int(count) for count in counts),
            test_samples=int(dataset.test_labels.size),
        )


def map_slots(memory: int, *, size: int) -> list[Vector]:
    """Give the shared memory its size, three vectors of `size` float32, and map them."""
    os.ftruncate(memory, len(Slot) * size * 4)
    shared = mmap.mmap(memory, len(Slot) * size * 4)
    return list(np.frombuffer(shared, dtype=np.float32).reshape(len(Slot), size))


def serve(
    assignment: Assignment, *, requests: Iterable[bytes], answers: int, memory: int
) -> NoReturn:
    """Load everything, say `Ready`, and answer requests until their stream ends; then exit.

    Args:
        requests: lines of the protocol after the assignment.
        answers: descriptor to write answers to.
        memory: descriptor of the shared memory, still without a size.
    """
    torch.set_num_threads(1)
    # The public call that does not import torch's compiler, as use_deterministic_algorithms does.
    torch.set_deterministic_debug_mode("error")
    out = Answers(answers)
    try:
        bench = Bench(assignment, memory=memory)
    except PeerbedError as error:
        out.send(_fault(Stage.SETUP, error))
        raise SystemExit(error.exit_status) from None
    jobs: queue.SimpleQueue[TrainRequest] = queue.SimpleQueue()
    snapshots: queue.SimpleQueue[EvaluateRequest] = queue.SimpleQueue()
    _spawn("train", jobs, lambda request: _train(request, bench, out))
    _spawn("evaluate", snapshots, lambda request: _evaluate(request, bench, out))
    gc.freeze()  # what the imports left behind need not be traversed again and again
    out.send(bench.ready)
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


def _train(request: TrainRequest, bench: Bench, out: Answers) -> None:
    started = time.monotonic()
    if bench.batches is None:
        raise TypeError("this trainer only evaluates")
    bench.model.load(bench.slots[Slot.IN])
    try:
        loss = sgd.train(
            bench.model,
            config=bench.config,
            inputs=bench.inputs,
            labels=bench.labels,
            batches=bench.batches,
            steps=request.steps,
            tick=out.tick,
        )
    except sgd.Diverged as error:
        out.send(_diverged(Stage.TRAIN, f"training diverged in job {request.job}: {error}", bench))
        return
    bench.model.store(bench.slots[Slot.OUT])
    computed = time.monotonic()
    lasts = modelled_s(bench.compute, steps=request.steps, compute_s=computed - started)
    ended = _wait_until(started + lasts, now=computed, tick=out.tick)
    out.send(
        TrainAnswer(
            job=request.job,
            steps=request.steps,
            loss=loss,
            compute_s=computed - started,
            padded_s=ended - computed,
            late_s=max(0.0, ended - started - lasts),
        )
    )


def modelled_s(compute: ComputeConfig, *, steps: int, compute_s: float) -> float:
    """Seconds that a job of `steps` steps is to last, if computing it took `compute_s`."""
    measured = compute_s if compute.step_ns is None else steps * compute.step_ns / SECOND
    return measured / compute.speed


def _wait_until(deadline: float, *, now: float, tick: Callable[[], None]) -> float:
    """Wait, unless it is too late already; the time when the waiting ended."""
    while now < deadline:
        time.sleep(min(deadline - now, _SIGN_OF_LIFE_S))
        tick()
        now = time.monotonic()
    return now


def _evaluate(request: EvaluateRequest, bench: Bench, out: Answers) -> None:
    started = time.monotonic()
    bench.test_model.load(bench.slots[Slot.EVAL])
    try:
        accuracy, loss = sgd.evaluate(
            bench.test_model, inputs=bench.test_inputs, labels=bench.test_labels, tick=out.tick
        )
    except sgd.Diverged as error:
        text = f"the model of round {request.round} has diverged: {error}"
        out.send(_diverged(Stage.EVALUATE, text, bench))
        return
    seconds = time.monotonic() - started
    out.send(EvaluateAnswer(round=request.round, accuracy=accuracy, loss=loss, seconds=seconds))


def _diverged(stage: Stage, message: str, bench: Bench) -> Fault:
    return Fault(
        stage=stage,
        kind=FaultKind.DIVERGED,
        message=message,
        remedy=f"Lower training.learning_rate, which is {bench.config.learning_rate}.",
    )


def _fault(stage: Stage, error: PeerbedError) -> Fault:
    kind = FaultKind.CONFIG if isinstance(error, ConfigError) else FaultKind.ENVIRONMENT
    return Fault(
        stage=stage, kind=kind, message=error.message, where=error.where, remedy=error.remedy
    )


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array.copy())  # torch has no read-only tensors
