"""Imports torchvision, also where its compiled operators do not fit the torch that is installed.

PyPI's torchvision is a CUDA build: beside a CPU build of torch its library does not load, and
`import torchvision` then fails on two operators whose shapes it wants to register. Data sets,
transforms and models use neither. Trainer process only, and only for data or models that need it:
it costs another second of CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

from node.errors import EnvironmentFault
from node.training.catalog import LEFT_OUT

_WANTED: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_declared: list[torch.library.Library] = []  # an operator lives as long as its Library


def import_torchvision() -> ModuleType:
    """The module `torchvision`, whatever build it is.

    Raises:
        EnvironmentFault: it is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise EnvironmentFault(
            "torchvision is not installed",
            remedy="Install the extra that nodes train with: pip install 'peerbed[train]'.",
        )
    stub = sys.modules.get(LEFT_OUT)
    if stub is not None and stub.__spec__ is None:  # `__main__` has put it there
        del sys.modules[LEFT_OUT]
        importlib.import_module(LEFT_OUT)
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        with contextlib.suppress(OSError):  # what torchvision does itself, only earlier
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    declare_missing()
    return importlib.import_module("torchvision")


def declare_missing() -> tuple[str, ...]:
    """Declare those of the wanted operators that nobody has; the names of the declared ones.

    Declared, not defined: calling one fails.
    """
    missing = tuple(name for name in _WANTED if not hasattr(torch.ops.torchvision, name))
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in missing:
            library.define(_WANTED[name])  # type: ignore[no-untyped-call]
        _declared.append(library)
    return missing
