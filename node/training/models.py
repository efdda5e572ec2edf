"""The models, and a model as one flat float32 vector. Imports torch: trainer process only.

A model has parameters only, no buffers: what nodes exchange is all there is (a BatchNorm's running
statistics would stay behind; use GroupNorm).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from node.core.parts import Layout, Vector
from node.core.rng import stream
from node.errors import ConfigError
from node.training.catalog import MODELS


def build(name: str, *, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model by its name in the catalog, without values.

    Args:
        shape: of one sample, for example (8, 8).
        classes: number of outputs (logits).

    Raises:
        ConfigError: no such model.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"unknown model {name!r}", remedy=f"Known: {', '.join(MODELS)}.")
    with torch.device("meta"):
        return _BUILDERS[name](shape, classes)


def _mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """64*128 + 128 + 128*10 + 10 = 9,610 parameters for digits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def _cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """160 + 4,640 + 512*10 + 10 = 9,930 parameters for digits, about as many as the MLP."""
    height, width = shape
    return nn.Sequential(
        nn.Unflatten(1, (1, height)),
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), classes),
    )


_BUILDERS: Final[dict[str, Callable[[tuple[int, ...], int], nn.Module]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
}


class FlatModel:
    """A module whose parameters, and their gradients, are views into two flat tensors.

    Loading a model is one copy; a step of SGD is one operation on flat tensors.

    Args:
        module: built on the `meta` device; its parameters get their memory here, zeroed.

    Raises:
        ConfigError: the module has buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ConfigError(
                f"the model has buffers ({', '.join(buffers[:3])}), which are not exchanged",
                remedy="Use layers without running statistics, for example GroupNorm.",
            )
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self.module = module
        self.layout = Layout.of(shapes)
        self.vector: Tensor = torch.zeros(self.layout.size)
        self.gradient: Tensor = torch.zeros(self.layout.size)
        for slot in self.layout.slots:
            owner, _, name = slot.name.rpartition(".")
            span = slice(slot.offset, slot.offset + slot.size)
            parameter = nn.Parameter(self.vector[span].view(slot.shape))
            parameter.grad = self.gradient[span].view(slot.shape)
            setattr(module.get_submodule(owner), name, parameter)

    def load(self, vector: Vector) -> None:
        """Copy a flat vector into the parameters."""
        self.vector.copy_(torch.from_numpy(vector))

    def store(self, vector: Vector) -> None:
        """Copy the parameters into a flat vector."""
        torch.from_numpy(vector).copy_(self.vector)


def initial(model: FlatModel, *, seed: int) -> Vector:
    """The vector that every node of a run starts from, drawn from the stream `init` in the order
    of the layout, so that it does not depend on torch's generators.

    Linear and convolution layers, weights and biases: uniform in +-1/sqrt(fan-in), which is what
    torch's own `reset_parameters` amounts to. Normalisation layers: weights 1, biases 0.

    Raises:
        ConfigError: a layer that there is no rule for.
    """
    rng = stream(seed, "init")
    vector = np.zeros(model.layout.size, dtype=np.float32)
    for slot in model.layout.slots:
        owner, _, name = slot.name.rpartition(".")
        layer = model.module.get_submodule(owner)
        span = slice(slot.offset, slot.offset + slot.size)
        match layer:
            case nn.Linear() | nn.Conv1d() | nn.Conv2d():
                bound = 1 / math.sqrt(layer.weight[0].numel())
                vector[span] = rng.uniform(-bound, bound, slot.size)
            case nn.GroupNorm() | nn.LayerNorm():
                vector[span] = 1 if name == "weight" else 0
            case _:
                raise ConfigError(f"no rule to initialise a {type(layer).__name__} ({slot.name})")
    return vector
