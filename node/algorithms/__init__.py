"""Algorithms by name: our own, one file each, and those of other packages.

Another package registers a subclass of `node.core.algorithm.Algorithm` in the entry-point group
`peerbed.algorithms`; see docs/adding-an-algorithm.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import types
import typing
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from node.core.algorithm import Algorithm
from node.errors import ConfigError

GROUP: Final = "peerbed.algorithms"
CODE: Final = "algorithm.zip"
"""In a run's folder: the package of an algorithm that is not ours, to import from."""
_OURS: Final = {
    "adpsgd": "node.algorithms.adpsgd:ADPSGD",
    "adpsgd-artifact": "node.algorithms.adpsgd_artifact:ADPSGDArtifact",
    "choco": "node.algorithms.choco:Choco",
    "divshare": "node.algorithms.divshare:DivShare",
    "dpsgd": "node.algorithms.dpsgd:DPSGD",
    "epidemic": "node.algorithms.epidemic:Epidemic",
    "fedavg": "node.algorithms.fedavg:FedAvg",
    "single-merge": "node.algorithms.single_merge:SingleMerge",
    "subsampling": "node.algorithms.subsampling:Subsampling",
    "swift": "node.algorithms.swift:Swift",
    "swift-artifact": "node.algorithms.swift_artifact:SwiftArtifact",
    "topk": "node.algorithms.topk:TopK",
}


def names() -> tuple[str, ...]:
    """Every algorithm that can be named in a topology file, sorted."""
    return tuple(sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))}))


def find(name: str) -> type[Algorithm]:
    """The class behind a name. Raises ConfigError listing the names when there is none."""
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            near = difflib.get_close_matches(name, names(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"unknown algorithm {name!r}{hint}",
                remedy=f"Known algorithms: {', '.join(names())}.",
            )
        found = points[0].load()
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"algorithm {name!r}: {found!r} is not a subclass of Algorithm")
    return found


def configure(kind: type[Algorithm], options: Mapping[str, Any]) -> Any:
    """Check options against the algorithm's `Config` and build it.

    Raises:
        ConfigError: an unknown option (with the nearest known), or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind.Config)
    known = [field.name for field in dataclasses.fields(kind.Config)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"unknown option{hint}", where=key, remedy=f"Options: {', '.join(known)}."
            )
    values = {key: _value(hints[key], value, where=key) for key, value in options.items()}
    try:
        return kind.Config(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def make(name: str, options: Mapping[str, Any]) -> Algorithm:
    """An algorithm ready to run."""
    kind = find(name)
    return kind(configure(kind, options))


def _value(hint: Any, value: Any, *, where: str) -> Any:
    """One option as its type says: number, text, flag, enumeration, or None where allowed."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = typing.get_args(hint)
        if value is None and type(None) in kinds:
            return None
        hint = next(kind for kind in kinds if kind is not type(None))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        allowed = [member.value for member in hint]
        if value not in allowed:
            raise ConfigError(f"{value!r} is none of {', '.join(map(str, allowed))}", where=where)
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"expected {hint.__name__}, not {value!r}", where=where)
    return value
