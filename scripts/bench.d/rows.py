"""What a benchmark returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Args:
        figure: what was measured.
        target: what was asked for, in words.
        holds: whether the figure meets it; None where it only informs.
    """

    figure: str
    value: float
    unit: str = ""
    target: str = ""
    holds: bool | None = None


Bench: TypeAlias = Callable[[], list[Row]]
