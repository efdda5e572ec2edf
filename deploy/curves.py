"""What nodes and their mean had learnt at each time of a run (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from deploy.history import Event, as_float, of_kind
from deploy.membership import Spell

Points = list[tuple[float, float]]
"""Times, s on the run clock, and values; each holds until the next."""
_SCALE: Final = 2**60
"""Sums are of whole numbers: the mean of equal values is that value, in any order."""
_ENDS, _BEGINS, _TELLS = range(3)
"""What happens to a node, in this order where it is at the same time."""


def evaluations(events: Sequence[Event], *, of: str = "accuracy") -> Points:
    """When each evaluation of a node was known, and what it said.

    Args:
        of: the field, `accuracy` or `loss`.
    """
    return list(_points(of_kind(events, "evaluation"), of))


def merged_over_time(coordinator: Sequence[Event], *, of: str = "accuracy") -> Points:
    """What the mean of all models was worth during the run, or how far they were apart
    (`distance`); nothing where nobody could know, which is everywhere but in virtual time."""
    return list(_points(of_kind(coordinator, "consensus"), of))


def mean_over_time(
    nodes: Mapping[str, Sequence[Event]],
    spells: Mapping[str, Sequence[Spell]] | None = None,
    *,
    of: str = "accuracy",
) -> Points:
    """The mean of the newest evaluations of those that take part, from when each has one.

    One that comes later counts from its first evaluation on; what it knew in an earlier life does
    not.

    Args:
        spells: when each took part; None: all did, all the time.
        of: as in `evaluations`.
    """
    always = (Spell(since_s=0.0, until_s=math.inf),)
    steps: list[tuple[float, int, str, float]] = []
    for name, events in nodes.items():
        for spell in always if spells is None else spells.get(name, ()):
            steps.append((spell.since_s, _BEGINS, name, spell.since_s))
            steps.append((spell.until_s, _ENDS, name, 0.0))
        steps += [(t, _TELLS, name, value) for t, value in evaluations(events, of=of)]
    mean = _Mean()
    points: Points = []
    for t, what, name, value in sorted(steps):
        if what == _ENDS:
            mean.leave(name)
        elif what == _BEGINS:
            mean.come(name, from_start=value == 0.0)
        else:
            mean.tell(name, value)
            if (now := mean.value) is not None:
                if points and points[-1][0] == t:
                    points.pop()  # of a part of those who tell at this time
                points.append((t, now))
    return points


class _Mean:
    """The mean of what those who are there have told last, kept up with each that tells."""

    def __init__(self) -> None:
        self._there: dict[str, int | None] = {}
        """Those who are there, and what each told, scaled."""
        self._waited_for: set[str] = set()
        """Who was there from the start and has not told: no mean without them."""
        self._total = self._known = 0

    @property
    def value(self) -> float | None:
        if not self._known or self._waited_for:
            return None
        return self._total / (self._known * _SCALE)

    def come(self, name: str, *, from_start: bool) -> None:
        self._there[name] = None
        if from_start:
            self._waited_for.add(name)

    def leave(self, name: str) -> None:
        self._forget(self._there.pop(name, None))
        self._waited_for.discard(name)

    def tell(self, name: str, value: float) -> None:
        if name in self._there:
            self._forget(self._there[name])
            told = self._there[name] = round(value * _SCALE)
            self._total, self._known = self._total + told, self._known + 1
            self._waited_for.discard(name)

    def _forget(self, told: int | None) -> None:
        if told is not None:
            self._total, self._known = self._total - told, self._known - 1


def first_time(points: Points, target: float, *, falling: bool = False) -> float | None:
    """When a curve first reached the target; None if it never did.

    Args:
        falling: the target is reached from above, as a loss is.
    """
    sign = -1 if falling else 1
    return next((t for t, value in points if sign * value >= sign * target), None)


def value_at(points: Points, t: float) -> float | None:
    """What a curve was at a time; None before it began."""
    found = None
    for at, value in points:
        if at > t:
            break
        found = value
    return found


def _points(events: Sequence[Event], field: str) -> Iterator[tuple[float, float]]:
    for event in events:
        t, value = as_float(event.get("t")), as_float(event.get(field))
        if t is not None and value is not None:
            yield t, value
