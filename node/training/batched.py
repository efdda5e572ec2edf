"""Many models of one kind trained in one call: `torch.func` over stacked parameters.

For a GPU, which a small model leaves idle. Does the steps of `sgd.train` on the same batches, but
other kernels round differently, and which ones run may hang on how many models there are: results
are close to those of a loop over the models, not equal bit by bit. (torch 2.13 on the CPU: equal
for linear layers; for convolutions not even two sizes of a stack agree. So the pool of CPU
processes, whose results must not hang on who trains beside whom, trains one at a time.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from node.config import TrainingConfig
from node.core.parts import Vector
from node.training import sgd
from node.training.bench import Bench
from node.training.material import Material
from node.training.partition import Indices
from node.training.protocol import Outcome


class Stack:
    """Trains and evaluates stacks of models on one device.

    Args:
        tick: called now and then.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        bench: Bench,
        device: torch.device,
        tick: Callable[[], None],
    ) -> None:
        self._config = config
        self._shares = bench.shares
        self._device = device
        self._tick = tick
        self._material = _on(bench.material, device)
        with device:
            self._model = bench.model()
        self._most: int | None = None
        """Models that fit into the memory of the device at a time, once that is known."""

    def train(self, models: Sequence[Vector], batches: Sequence[Indices]) -> list[Outcome]:
        """Train each model, in place, on its batches; all have the same number of them."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(models):
            most = self._most or len(models)
            part = slice(len(outcomes), len(outcomes) + most)
            try:
                outcomes += self._train(models[part], np.stack(batches[part]))
            except torch.cuda.OutOfMemoryError:
                if most == 1:
                    raise
                self._most = -(-most // 2)
                torch.cuda.empty_cache()
        return outcomes

    def evaluate(self, vector: Vector, *, node: int | None) -> tuple[float, float]:
        """Accuracy and loss on the test samples of a node; None: everybody's. Raises Diverged."""
        with self._device:
            self._model.load(vector)
            return sgd.evaluate(
                self._model,
                material=self._material,
                samples=self._shares.tests(node),
                tick=self._tick,
            )

    def _train(self, models: Sequence[Vector], batches: Indices) -> list[Outcome]:
        """One stack: `batches` is (models, steps, batch_size)."""
        config, goal, material = self._config, self._material.objective, self._material
        step = vmap(grad_and_value(self._loss))
        vectors = torch.from_numpy(np.stack(models)).to(self._device)
        velocity = torch.zeros_like(vectors)
        total = torch.zeros(len(models), dtype=torch.float64, device=self._device)
        samples = torch.from_numpy(batches).to(self._device)
        for chosen in samples.unbind(dim=1):
            inputs = goal.decode(material.inputs.index_select(0, chosen.flatten()))
            wanted = material.labels.index_select(0, chosen.flatten())
            gradient, loss = step(
                vectors,
                inputs.unflatten(0, chosen.shape),
                wanted.unflatten(0, chosen.shape),
            )
            if config.weight_decay:
                gradient = gradient.add(vectors, alpha=config.weight_decay)
            velocity = (
                velocity.mul_(config.momentum).add_(gradient) if config.momentum else gradient
            )
            vectors.add_(velocity, alpha=-config.learning_rate)
            total.add_(loss)
            self._tick()
        finite = vectors.isfinite().all(dim=1).tolist()
        for model, vector in zip(models, vectors.cpu(), strict=True):
            torch.from_numpy(model).copy_(vector)
        means = (total / batches.shape[1]).tolist()
        return [
            Outcome(loss=mean, fault=sgd.divergence(mean, finite=sound))
            for mean, sound in zip(means, finite, strict=True)
        ]

    def _loss(self, vector: Tensor, inputs: Tensor, wanted: Tensor) -> Tensor:
        """Of one model; `vmap` makes it one of many."""
        slots = self._model.layout.slots
        pieces = vector.split([slot.size for slot in slots])
        parameters = {
            slot.name: piece.view(slot.shape) for slot, piece in zip(slots, pieces, strict=True)
        }
        outputs = functional_call(self._model.module, parameters, (inputs,))
        return self._material.objective.loss(outputs, wanted)


def _on(material: Material, device: torch.device) -> Material:
    return replace(
        material,
        inputs=material.inputs.to(device),
        labels=material.labels.to(device),
        test_inputs=material.test_inputs.to(device),
        test_labels=material.test_labels.to(device),
    )
