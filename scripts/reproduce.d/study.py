"""What a reproduction is: many simulations, told apart by what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One simulation of a study.

    Args:
        series: what is compared, such as `divshare`.
        factor: the setting that it is compared over, such as a straggling factor.
        topology: content of the topology file, as plain data.
    """

    series: str
    factor: float
    seed: int
    topology: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Names the run: series, factor and seed."""
        return f"{self.series}-f{self.factor:g}-s{self.seed}".replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A published claim, and the simulations that it is held against.

    Args:
        name: of the study and of its results folder.
        cases: in the order in which they are run: what tells most comes first.
        report: writes tables and figures of what has been run so far into a folder; returns the
            table in Markdown.
    """

    name: str
    cases: Sequence[Case]
    report: Callable[[Sequence[tuple[Case, Path]], Path], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How much of a study is run.

    Args:
        scale: `paper`, the published setting, or `small`.
        data: folder of the data sets.
    """

    scale: str
    seeds: Sequence[int]
    data: Path


Make: TypeAlias = Callable[[Scope], Study]
