"""The algorithm that is checked, and the nodes that it is checked among."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final

from deploy.check_algorithm.case import Case
from node.algorithms import configure, find
from node.config import Mode
from node.core.algorithm import Algorithm
from node.core.ids import NodeId
from node.errors import ConfigError

Overlay = Mapping[NodeId, tuple[NodeId, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An algorithm with its options.

    Args:
        name: as it was given, in the registry or `module:Class`.
        options: as in a topology file, without those of single nodes.
    """

    name: str
    kind: type[Algorithm]
    options: Mapping[str, Any]

    @property
    def config(self) -> Any:
        """Raises ConfigError where an option is wrong."""
        return configure(self.kind, self.options)

    @property
    def package(self) -> str:
        """Top package of the module that it is defined in."""
        return self.kind.__module__.partition(".")[0]

    def case(self, *, nodes: int, mode: Mode) -> tuple[str, Case]:
        """The overlay on which it is checked, by name, and the case.

        Raises:
            ConfigError: it runs on none of those that are tried.
        """
        config, refused = self.config, ""
        for words, overlay in overlays(nodes).items():
            try:
                self.kind.check_overlay(config, overlay)
                by_node = self.kind.options_by_node(config, overlay)
            except ValueError as error:
                refused = str(error)
                continue
            configs = {
                name: configure(self.kind, {**self.options, **by_node.get(name, {})})
                for name in overlay
            }
            return words, Case(kind=self.kind, configs=configs, overlay=overlay, mode=mode)
        tried = ", ".join(overlays(nodes))
        raise ConfigError(
            f"{self.name} runs on none of {tried} with {nodes} nodes: {refused}",
            where="--nodes",
            remedy="try another number of nodes, or other options: --set option=value",
        )


def subject(name: str, options: Mapping[str, Any]) -> Subject:
    """Find an algorithm: one with a name, or `module:Class` from where the command runs.

    Raises:
        ConfigError: there is none, or its options are wrong.
    """
    made = Subject(name=name, kind=_load(name) if ":" in name else find(name), options=options)
    try:
        _ = made.config
    except ConfigError as error:
        remedy = error.remedy or "give it what it needs: --set option=value"
        raise ConfigError(error.message, where=error.where, remedy=remedy) from error
    return made


def plain(config: Any) -> dict[str, Any]:
    """Options as a plan stores them."""
    found = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    return {k: value.value if isinstance(value, Enum) else value for k, value in found.items()}


def overlays(count: int) -> dict[str, Overlay]:
    """The overlays that are tried, in this order: few neighbours show more."""
    names = [NodeId(f"n-{number}") for number in range(count)]
    near = {n: (names[i - 1], names[(i + 1) % count]) for i, n in enumerate(names)}
    return {
        "a ring": {n: tuple(sorted(set(others) - {n})) for n, others in near.items()},
        "a star": {n: tuple(names[1:]) if i == 0 else (names[0],) for i, n in enumerate(names)},
        "everybody with everybody": {n: tuple(o for o in names if o != n) for n in names},
    }


_HERE: Final = "."


def _load(name: str) -> type[Algorithm]:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path and _HERE not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cannot load {name}: {error}",
            remedy="write MODULE:CLASS, and run where Python finds the module (PYTHONPATH)",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(
            f"{name} is no subclass of Algorithm",
            remedy="docs/adding-an-algorithm.md shows what an algorithm is",
        )
    return found
