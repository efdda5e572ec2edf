"""Models of a user's own: `module:function`, called with the `Problem`. Imports torch.

The module is looked for on Python's path, then in the data folder: containers see that one, too.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from node.core.parts import Vector
from node.core.rng import derive_seed
from node.errors import ConfigError
from node.training.dataset import Problem, Task

_WHERE: Final = "training.model"
_TORCH_SEEDS: Final = 2**63


def build(name: str, problem: Problem, *, folder: str | None, seed: int) -> nn.Module:
    """Call the user's function and look at what it gives.

    Args:
        name: `module:function`; the function takes a `Problem`.
        folder: looked into for the module where Python's path has none of that name.
        seed: sets torch's generator while the function runs; afterwards it is as it was.

    Raises:
        ConfigError: there is no such function, it fails, or what it gives is no model for the
            problem: a module of which outputs have the right shape and repeat themselves.
    """
    make = _function(name, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init") % _TORCH_SEEDS)
        with _blamed(name, "fails"):
            module = make(problem)
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise ConfigError(f"the model {name} is a {kind}, not a torch.nn.Module", where=_WHERE)
    for part in module.modules():
        if isinstance(part, _DropoutNd) and part.p > 0:
            raise ConfigError(
                f"the model {name} draws random numbers ({type(part).__name__})",
                where=_WHERE,
                remedy="Leave dropout out: the same seed must give the same run.",
            )
    _try_out(name, module, problem)
    return module


def values(module: nn.Module) -> Vector:
    """What its parameters hold, in the order of a `FlatModel`."""
    parts = [parameter.detach().flatten() for parameter in module.parameters()]
    flat: Vector = torch.cat(parts).numpy() if parts else np.empty(0, dtype=np.float32)
    return flat


def _function(name: str, folder: str | None) -> Callable[[Problem], object]:
    module_name, _, function_name = name.partition(":")
    with _blamed(name, "cannot be imported"), _reachable(folder):
        made = importlib.import_module(module_name)
    function = getattr(made, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"the model {name}: {module_name} has no function {function_name}",
            where=_WHERE,
            remedy=f"It is {getattr(made, '__file__', 'built in')}.",
        )
    return function  # type: ignore[no-any-return]


@contextmanager
def _reachable(folder: str | None) -> Iterator[None]:
    """Python looks for modules in the folder, too, after all other places."""
    added = [folder] if folder is not None and folder not in sys.path else []
    sys.path += added
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


@contextmanager
def _blamed(name: str, what: str) -> Iterator[None]:
    """Whatever a user's code raises becomes an error of the input."""
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"the model {name} {what}: {type(error).__name__}: {error}",
            where=_WHERE,
            remedy="It is module:function, of a module on Python's path or in training.data_dir;"
            " the function takes a problem (see node/training/dataset.py) and returns a"
            " torch.nn.Module.",
        ) from error


def _try_out(name: str, module: nn.Module, problem: Problem) -> None:
    """One batch of two, forward."""
    inputs, shape = _example(problem)
    with _blamed(name, f"cannot take a batch of shape {tuple(inputs.shape)}"), torch.no_grad():
        outputs = module(inputs)
    if not isinstance(outputs, Tensor) or outputs.shape != shape:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(
            f"the model {name} gives {found} for a batch of two, not {shape}", where=_WHERE
        )


def _example(problem: Problem) -> tuple[Tensor, tuple[int, ...]]:
    """A batch of two, and the shape of what a model is to make of it."""
    match problem.task:
        case Task.CLASS:
            return torch.zeros(2, *problem.shape), (2, problem.classes)
        case Task.RATING:
            return torch.zeros(2, *problem.shape, dtype=torch.int64), (2,)
        case Task.NEXT_TOKEN:
            empty = torch.zeros(2, *problem.shape, dtype=torch.int32)
            return empty, (2, *problem.shape, problem.classes)
