"""A trainer without torch or a process: a toy problem with the interface of `protocol.Trainer`.

For contract tests of runtimes and algorithms, not for experiments. Node i minimises
|x - t_i|^2 / 2, where t_i is drawn from its stream `data`; a step is
x <- x - learning_rate * (x - t_i), so that k steps from x end, exactly but for rounding, at
t_i + (1 - learning_rate)^k * (x - t_i). What all nodes together should reach is the mean of the
t_i; "accuracy" is 1 / (1 + mean squared distance to it): 1 there, falling with the distance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from node.config import NodeConfig
from node.core.parts import Layout, Vector, frozen
from node.core.rng import stream
from node.training.protocol import EvalResult, TrainResult
from node.units import SECOND

Pause = Callable[[float], Awaitable[None]]


class SyntheticTrainer:
    """The toy problem of one node.

    Args:
        config: uses members, name, seed, learning_rate, compute.
        size: parameters; laid out as two tensors, (size // 2,) and the rest.
        pause: awaited for as long (seconds) as a job lasts by `config.compute`; tests pass the
            sleep of a virtual clock.
    """

    def __init__(self, config: NodeConfig, *, size: int = 64, pause: Pause = asyncio.sleep) -> None:
        members: Sequence[str] = config.members
        targets = {name: _normal(size, config.seed, "data", name) for name in members}
        self._target = targets[config.name]
        self._optimum = np.mean(list(targets.values()), axis=0, dtype=np.float64)
        self._rate = config.training.learning_rate
        self._compute = config.compute
        self._pause = pause
        self._busy = False
        self.layout = Layout.of({"first": (size // 2,), "second": (size - size // 2,)})
        self.initial: Vector = frozen(_normal(size, config.seed, "init"))
        self.samples = 1
        self.label_counts = (1,)

    async def train(
        self, *, job: int, steps: int, parameters: Vector, since: float | None = None
    ) -> TrainResult:
        """Take `steps` exact gradient steps; the loss is their mean, each before its update.

        It computes in no time, and begins in fact.
        """
        if self._busy:
            raise RuntimeError(f"job {job} while another one runs")
        self._busy = True
        lasts_s = self._compute.job_ns(job=job, steps=steps, measured_ns=0) / SECOND
        try:
            await self._pause(lasts_s)
        finally:
            self._busy = False
        kept = 1 - self._rate
        offset = parameters - self._target
        powers = sum(kept ** (2 * step) for step in range(steps)) / steps
        result = self._target + np.float32(kept**steps) * offset
        return TrainResult(
            job=job,
            parameters=frozen(result.astype(np.float32)),
            loss=powers * float(np.dot(offset, offset)) / 2,
            steps=steps,
            compute_s=0.0,
            padded_s=lasts_s,
            late_s=0.0,
            ended=time.monotonic(),
        )

    async def evaluate(self, *, round: int, parameters: Vector) -> EvalResult | None:  # noqa: A002
        """See the module; the loss is the squared distance to the common optimum, halved."""
        await self._pause(0)
        squared = float(np.mean((parameters - self._optimum) ** 2))
        return EvalResult(
            round=round,
            accuracy=1 / (1 + squared),
            loss=squared * self.layout.size / 2,
            seconds=0.0,
        )

    async def close(self) -> None:
        """Nothing to end."""


def _normal(size: int, seed: int, *names: str) -> Vector:
    return stream(seed, *names).standard_normal(size).astype(np.float32)
