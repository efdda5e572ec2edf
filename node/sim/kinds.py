"""What snapshots can hold, as both directions need it (pure): see `node.sim.snapshot`.

A record of the graph is a list: its kind, then what the kind needs. A value in it stands for
itself, or is a list with the number of another record.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

OURS: Final = "node"
"""The package whose modules are always allowed."""
LISTS: Final[dict[type, str]] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
DICTS: Final[dict[type, str]] = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}
BUILTINS: Final[dict[str, type]] = {
    kind.__name__: kind for kind in (bool, bytes, dict, float, int, list, set, str, tuple)
}
"""Classes that are stored by name though they are of no module of ours."""
BIT_GENERATORS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}


def allowed(module: str, modules: Iterable[str]) -> bool:
    """Whether it is one of `modules`, or below one."""
    return any(module == name or module.startswith(f"{name}.") for name in modules)


def find(module: str, path: str) -> Any:
    """What a module calls so, inner classes and functions of classes included; None: nothing."""
    found: Any = importlib.import_module(module)
    for step in path.split("."):
        found = inspect.getattr_static(found, step, None)
    return found.__func__ if isinstance(found, staticmethod) else found


def slots(kind: type) -> tuple[str, ...]:
    """Names of the attributes that a class keeps in slots, as they are looked up."""
    names = []
    for base in reversed(kind.__mro__):
        own = base.__dict__.get("__slots__", ())
        for slot in (own,) if isinstance(own, str) else own:
            if slot not in ("__dict__", "__weakref__"):
                private = slot.startswith("__") and not slot.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{slot}" if private else slot)
    return tuple(names)
