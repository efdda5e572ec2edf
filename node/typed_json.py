"""Frozen dataclasses as JSON, and back with every type checked (pure)."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from node.errors import ConfigError


def plain(value: Any, *, sparse: tuple[type, ...] = ()) -> Any:
    """A dataclass as JSON has it: mappings, lists and scalars.

    Args:
        sparse: dataclasses of which fields with their default value are left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        short = isinstance(value, sparse)
        return {
            f.name: plain(getattr(value, f.name), sparse=sparse)
            for f in fields(value)
            if not (short and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v, sparse=sparse) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, sparse=sparse) for v in value]
    return value


def typed(kind: Any, value: Any, *, where: str) -> Any:
    """Check what JSON has against the type `kind`, and build it.

    Raises:
        ConfigError: it does not fit; the error names the key.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in arguments:
            return None
        return typed(next(a for a in arguments if a is not type(None)), value, where=where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"expected a list, not {value!r}", where=where)
        return tuple(typed(arguments[0], v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, dict):
            raise ConfigError(f"expected a mapping, not {value!r}", where=where)
        return value
    if is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value, where)
    return _scalar(kind, value, where)


def _dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"expected a mapping, not {value!r}", where=where)
    hints = _hints(kind)
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(value) - known):
        raise ConfigError(f"unknown key {unknown[0]!r}", where=where)
    try:
        return kind(**{k: typed(hints[k], v, where=f"{where}.{k}") for k, v in value.items()})
    except TypeError as error:
        raise ConfigError(str(error), where=where) from error


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """The fields' types: looking them up takes a hundred times as long as reading a value."""
    return typing.get_type_hints(kind)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    kind = getattr(kind, "__supertype__", kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as error:
            raise ConfigError(str(error), where=where) from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"expected {kind.__name__}, not {value!r}", where=where)
    return value
