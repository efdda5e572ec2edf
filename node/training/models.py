"""The models, and a model as one flat float32 vector. Imports torch.

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

from node.config import TrainingConfig
from node.core.parts import Layout, Vector
from node.core.rng import stream
from node.errors import ConfigError
from node.training import nets, own_model
from node.training.catalog import MODELS, OWN_MODEL
from node.training.dataset import Problem


def build(config: TrainingConfig, problem: Problem) -> nn.Module:
    """The model that a run trains: one of the catalog, without values, or a user's own.

    Raises:
        ConfigError: no such model, it is not for such data, or a user's function fails.
        EnvironmentFault: the model needs a package that is not installed.
    """
    name = config.model
    if OWN_MODEL.fullmatch(name):
        return own_model.build(name, problem, folder=config.data_dir, seed=0)
    if name not in _BUILDERS:
        known = ", ".join(MODELS)
        raise ConfigError(
            f"unknown model {name!r}", remedy=f"Known: {known}; or your own, module:function."
        )
    with torch.device("meta"):
        return _BUILDERS[name](problem)


_BUILDERS: Final[dict[str, Callable[[Problem], nn.Module]]] = {
    "mlp": nets.mlp,
    "cnn": nets.cnn,
    "gn-lenet": nets.gn_lenet,
    "gn-lenet-small": nets.gn_lenet_small,
    "resnet18": nets.resnet18,
    "matrix-factorisation": nets.MatrixFactorisation,
    "char-gpt": nets.CharGpt,
}


class FlatModel:
    """A module whose parameters, and their gradients, are views into two flat tensors.

    Loading a model is one copy; a step of SGD is one operation on flat tensors.

    Args:
        module: its parameters get their memory here, zeroed.

    Raises:
        ConfigError: the module has buffers, or parameters that are not trained or not float32.
    """

    def __init__(self, module: nn.Module) -> None:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ConfigError(
                f"the model has buffers ({', '.join(buffers[:3])}), which are not exchanged",
                remedy="Use layers without running statistics, for example GroupNorm.",
            )
        for name, parameter in module.named_parameters():
            if parameter.dtype != torch.float32 or not parameter.requires_grad:
                raise ConfigError(f"the model's {name} is not float32, or is not trained")
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self.module = module
        self.layout = Layout.of(shapes)
        self.vector: Tensor = torch.zeros(self.layout.size)
        self.gradient: Tensor = torch.zeros(self.layout.size)
        views = {}
        for slot in self.layout.slots:
            span = slice(slot.offset, slot.offset + slot.size)
            parameter = nn.Parameter(self.vector[span].view(slot.shape))
            parameter.grad = self.gradient[span].view(slot.shape)
            views[module.get_parameter(slot.name)] = parameter
        # A parameter that several layers share has one place in the vector, and several names.
        for name, old in [*module.named_parameters(remove_duplicate=False)]:
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, views[old])

    def load(self, vector: Vector) -> None:
        """Copy a flat vector into the parameters."""
        self.vector.copy_(torch.from_numpy(vector))

    def store(self, vector: Vector) -> None:
        """Copy the parameters into a flat vector."""
        torch.from_numpy(vector).copy_(self.vector)


def initial(config: TrainingConfig, problem: Problem, *, seed: int) -> Vector:
    """The vector that every node of a run starts from, decided by the run's seed.

    Ours are drawn from the stream `init` (see `drawn`); a user's model has what its function gives
    it, with torch's generator set from the seed.

    Raises:
        ConfigError, EnvironmentFault: as `build`.
    """
    if OWN_MODEL.fullmatch(config.model):
        made = own_model.build(config.model, problem, folder=config.data_dir, seed=seed)
        return own_model.values(made)
    return drawn(FlatModel(build(config, problem)), seed=seed)


def drawn(model: FlatModel, *, seed: int) -> Vector:
    """Initial values from the stream `init` in the order of the layout, so that they do not depend
    on torch's generators.

    Linear and convolution layers, weights and biases: uniform in +-1/sqrt(fan-in), which is what
    torch's own `reset_parameters` amounts to. Embeddings: uniform in +-0.05, factors around their
    `CENTRE`. Normalisation layers: weights 1, biases 0.

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
            case nn.Embedding():
                centre = layer.CENTRE if isinstance(layer, nets.Factors) else 0.0
                vector[span] = centre + rng.uniform(-_EMBEDDING, _EMBEDDING, slot.size)
            case nn.GroupNorm() | nn.LayerNorm():
                vector[span] = 1 if name == "weight" else 0
            case _:
                raise ConfigError(f"no rule to initialise a {type(layer).__name__} ({slot.name})")
    return vector


_EMBEDDING: Final = 0.05
