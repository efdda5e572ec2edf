"""What a paper claims, held against the figures of runs (pure).

Claims are worked out seed by seed, since the runs of one seed share data and initial model; what is
told is the median over the seeds, and the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, TypeAlias

import reckon
from runs import Column

from deploy.curves import Points

Key: TypeAlias = tuple[str, float]
"""Series and factor."""
DECISIVE: Final = 0.9
"""Of the way that a curve goes: what comes after takes long and hangs on chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one seed's runs.

    Args:
        values: of each series and factor by the column's label.
        curves: what each had learnt, along the axis.
        falling: less is better.
    """

    values: Mapping[Key, Mapping[str, float]]
    curves: Mapping[Key, Points] = field(default_factory=dict)
    falling: bool = False

    def at(self, key: Key, column: Column) -> float:
        """Not a number where that run is missing."""
        return self.values.get(key, {}).get(column.label, math.nan)

    def speedup(self, base: Key, own: Key, share: float) -> float:
        """How many times sooner one goes this share of the way that the other goes in the end;
        see `reckon.speedup`."""
        if base not in self.curves or own not in self.curves:
            return math.nan
        (target,) = reckon.targets([self.curves[base]], (share,))
        one, other = (
            reckon.arrival(self.curves[key], target, falling=self.falling) for key in (base, own)
        )
        return reckon.speedup(one, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is claimed of the figures of one seed.

    Args:
        says: the claim, and what of it is asked here.
        of: the number that decides.
        least, most: between what it holds.
        form: how the number is printed.
    """

    says: str
    of: Callable[[Figures], float]
    least: float
    most: float = math.inf
    form: str = ".2f"

    def held(self, seeds: Sequence[Figures]) -> str:
        """Its row in Markdown."""
        found = reckon.known(self.of(each) for each in seeds)
        asked = reckon.shown(self.least, self.form)
        asked += "" if math.isinf(self.most) else f" to {reckon.shown(self.most, self.form)}"
        if not found:
            return f"| {self.says} | {asked} | - | not known |"
        verdict = "yes" if self.least <= median(found) <= self.most else "no"
        return f"| {self.says} | {asked} | {reckon.spread(found, self.form)} | {verdict} |"


def sooner(says: str, *, base: Key, own: Key, least: float, most: float = math.inf) -> Claim:
    """How many times sooner one goes `DECISIVE` of the way that the other goes in the end."""
    return Claim(
        says=says, of=lambda seed: seed.speedup(base, own, DECISIVE), least=least, most=most
    )


def ahead(says: str, *, base: tuple[Key, Column], own: tuple[Key, Column], least: float) -> Claim:
    """How many points one accuracy is above another."""
    return Claim(says=says, of=lambda seed: 100 * (seed.at(*own) - seed.at(*base)), least=least)


def quotient(says: str, *, of: tuple[Key, Column], by: tuple[Key, Column], least: float) -> Claim:
    """One figure divided by another."""
    return Claim(says=says, of=lambda seed: seed.at(*of) / (seed.at(*by) or math.nan), least=least)
