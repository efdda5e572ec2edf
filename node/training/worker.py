"""A worker of the simulator's pool: trains and evaluates whatever it is given. Imports torch.

It keeps nothing between two jobs, so that a result hangs on its job alone: the pool says which
samples to train on. Started as the trainer of a node is (`__main__`), and gives the same bits.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NoReturn, Protocol

import numpy as np
import torch

from node.core.parts import Vector
from node.errors import EnvironmentFault, PeerbedError
from node.training import bank, sgd
from node.training.bench import Bench
from node.training.partition import Indices
from node.training.protocol import (
    Device,
    Enlisted,
    Enlistment,
    EvaluateWork,
    Measure,
    Measured,
    Outcome,
    Report,
    Stage,
    TensorShape,
    TrainWork,
    WorkDone,
    decode,
)
from node.training.server import Answers, fault, settle
from node.units import SECOND

_AHEAD: Final = 4
"""Jobs on hand: one that runs, and the next ones, so that a worker need not wait for the pool while
that has something else to do."""
_MOST_STACKED: Final = 256
_STACK_BYTES: Final = 2**30
"""Of parameters in shared memory, for models that are trained together."""
_MEASURED_S: Final = 2.0


class _Engine(Protocol):
    def train(self, models: Sequence[Vector], batches: Sequence[Indices]) -> list[Outcome]:
        """Train each model, in place, on its batches."""

    def evaluate(self, vector: Vector, *, node: int | None) -> tuple[float, float]:
        """Accuracy and loss; raises Diverged."""


class _Loop:
    """One model after the other, as the trainer of a node does it."""

    def __init__(self, bench: Bench, *, tick: Callable[[], None]) -> None:
        self._bench = bench
        self._model = bench.model()
        self._tick = tick

    def train(self, models: Sequence[Vector], batches: Sequence[Indices]) -> list[Outcome]:
        return [self._train(*job) for job in zip(models, batches, strict=True)]

    def evaluate(self, vector: Vector, *, node: int | None) -> tuple[float, float]:
        self._model.load(vector)
        return self._bench.evaluate(self._model, node=node, tick=self._tick)

    def _train(self, vector: Vector, batches: Indices) -> Outcome:
        self._model.load(vector)
        try:
            loss = self._bench.train(self._model, batches=batches, tick=self._tick)
        except sgd.Diverged as error:
            return Outcome(fault=str(error))
        self._model.store(vector)
        return Outcome(loss=loss)


class _Workplace:
    """What a worker works with.

    Raises:
        ConfigError, EnvironmentFault: the training that was asked for cannot be.
    """

    def __init__(self, enlistment: Enlistment, *, memory: int, tick: Callable[[], None]) -> None:
        device = _device(enlistment.device)
        self._tick = tick
        self._config = enlistment.training
        self._bench = Bench(enlistment.training, nodes=enlistment.nodes, seed=enlistment.seed)
        initial = self._bench.initial()
        self._engine = self._engine_on(device)
        slots = _AHEAD
        if device is not Device.CPU:
            slots = max(1, min(enlistment.nodes, _MOST_STACKED, _STACK_BYTES // initial.nbytes))
        self._bank = bank.prepare(memory, slots=slots, size=initial.size)
        self._bank.models[0][:] = initial
        self._initial = initial
        tensors = tuple(
            TensorShape(name=slot.name, shape=slot.shape)
            for slot in self._bench.model().layout.slots
        )
        self.enlisted = Enlisted(tensors=tensors, device=device, slots=slots)

    def perform(self, line: bytes) -> Report:
        """Do what a line asks for."""
        started = time.thread_time()
        match decode(line):
            case TrainWork(slots=slots, steps=steps):
                outcomes = self._engine.train(
                    [self._bank.models[slot] for slot in slots],
                    [self._batches(slot, steps) for slot in slots],
                )
            case EvaluateWork(slots=slots, nodes=nodes):
                outcomes = [self._evaluate(*job) for job in zip(slots, nodes, strict=True)]
            case Measure():
                return Measured(step_ns=self._step_ns())
            case other:
                raise TypeError(f"not a request: {other}")
        return WorkDone(outcomes=tuple(outcomes), cpu_s=time.thread_time() - started)

    def _engine_on(self, device: Device) -> _Engine:
        if device is Device.CPU:
            return _Loop(self._bench, tick=self._tick)
        from node.training.batched import Stack  # torch.func is slow to import

        torch.set_deterministic_debug_mode("warn")  # not all that a GPU can do has such a kernel
        torch.backends.cudnn.allow_tf32 = False  # ten bits of a factor are too few to be close
        where = torch.device("cuda" if device is Device.CUDA else "cpu")
        return Stack(self._config, bench=self._bench, device=where, tick=self._tick)

    def _batches(self, slot: int, steps: int) -> Indices:
        return self._bank.batches(slot, steps=steps, batch_size=self._config.batch_size)

    def _evaluate(self, slot: int, node: int | None) -> Outcome:
        try:
            accuracy, loss = self._engine.evaluate(self._bank.models[slot], node=node)
        except sgd.Diverged as error:
            return Outcome(fault=str(error))
        return Outcome(loss=loss, accuracy=accuracy)

    def _step_ns(self) -> int:
        """The first steps are not counted; then for about `_MEASURED_S`, 5 to 200 steps."""
        slowest = max(self._time_steps(3)[-1], 1)
        steps = round(_MEASURED_S * SECOND / slowest)
        return round(median(self._time_steps(min(200, max(5, steps)))))

    def _time_steps(self, steps: int) -> list[int]:
        """Train from the initial model as a node's trainer does; what each step takes, in ns."""
        model, size = self._bench.model(), self._config.batch_size
        model.load(self._initial)
        samples = np.resize(self._bench.shares.train[0], (steps, size))
        ticks = [time.perf_counter_ns()]
        self._bench.train(model, batches=samples, tick=lambda: ticks.append(time.perf_counter_ns()))
        return [after - before for before, after in pairwise(ticks)]


def _device(wanted: Device) -> Device:
    if wanted is Device.AUTO:
        return Device.CUDA if torch.cuda.is_available() else Device.CPU
    if wanted is Device.CUDA and not torch.cuda.is_available():
        raise EnvironmentFault(
            "torch finds no GPU that it can use",
            remedy="Train on the CPU, or install a driver and a torch that fit the GPU.",
        )
    return wanted


def serve(
    enlistment: Enlistment, *, requests: Iterable[bytes], answers: int, memory: int
) -> NoReturn:
    """Load everything, say `Enlisted`, and work until the stream of requests ends; then exit.

    Args:
        requests: lines of the protocol after the enlistment.
        answers: descriptor to write answers to.
        memory: descriptor of the shared memory, still without a size.
    """
    settle()
    out = Answers(answers)
    try:
        place = _Workplace(enlistment, memory=memory, tick=out.tick)
    except PeerbedError as error:
        out.send(fault(Stage.SETUP, error))
        raise SystemExit(error.exit_status) from None
    gc.freeze()  # what the imports left behind need not be traversed again and again
    out.send(place.enlisted)
    for line in requests:
        out.send(place.perform(line))
    os._exit(0)  # nothing to tidy up
