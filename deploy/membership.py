"""Who took part in a run, and when, from the coordinator's records (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deploy.history import Event, as_float, last, of_kind, started_at

STANDBY: Final = "standby"
PRESENT: Final = "present"
NEVER: Final = "never began"
ENDS: Final = frozenset({"left", "failed", "lost", "killed", "restarting", "silent", "expelled"})
"""What the coordinator calls a member that takes no part any more."""
_COMES: Final = frozenset({"synced", "back"})
"""... and one that takes part from now on."""
_ON_ITS_WAY: Final = frozenset({"joined", "returned", "syncing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A time in which a node took part; s on the run clock."""

    since_s: float
    until_s: float

    def __contains__(self, at_s: float) -> bool:
        return self.since_s <= at_s < self.until_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One node's part in a run.

    Args:
        state: when the run was told to end: `present`, `standby` (never started), one of `ENDS`,
            or how far it was on its way in; `never began` of a run that did not.
        reason: of its end, where there is one.
        spells: when it took part, in order.
    """

    state: str
    reason: str | None
    spells: tuple[Spell, ...]


def parts(
    coordinator: Sequence[Event], *, nodes: Iterable[str], standby: Collection[str]
) -> dict[str, Part]:
    """Every node's part; of a run that never began, none.

    Args:
        standby: the nodes that are not there at the start.
    """
    zero = started_at(coordinator)
    stop = as_float(last(coordinator, "stop").get("wall"))
    if zero is None:
        return {name: Part(state=NEVER, reason=None, spells=()) for name in nodes}
    changes: dict[str, list[tuple[float, str, str | None]]] = {}
    for event in of_kind(coordinator, "member"):
        wall, error = as_float(event.get("wall")), event.get("error")
        if wall is None or (stop is not None and wall > stop):
            continue  # all leave when the run is over
        told = (wall - zero, str(event.get("state")), None if error is None else str(error))
        changes.setdefault(str(event.get("member")), []).append(told)
    return {name: _part(changes.get(name, ()), late=name in standby) for name in nodes}


def _part(changes: Iterable[tuple[float, str, str | None]], *, late: bool) -> Part:
    state = STANDBY if late else PRESENT
    reason: str | None = None
    since: float | None = None if late else 0.0
    spells: list[Spell] = []
    returned_s = 0.0
    for at_s, told, error in changes:
        if told in ENDS and state in ENDS:
            continue  # it was gone already: what took it away says more than how it went
        if told in ENDS:
            if since is not None and at_s > since:
                spells.append(Spell(since_s=since, until_s=at_s))
            state, reason, since = told, error, None
        elif told in _COMES and since is None:
            state, reason, since = PRESENT, None, at_s
        elif told == "done" and state == "returned":
            # It had been given up and was alive: it had its model all the time.
            state, reason, since = PRESENT, None, returned_s
        elif told in _ON_ITS_WAY and (at_s > 0 or since is None):
            if since is not None and told == "syncing":  # started again, and nobody had missed it
                spells.append(Spell(since_s=since, until_s=at_s))
                since = None
            if since is None:
                state, reason, returned_s = told, None, at_s
    if since is not None:
        spells.append(Spell(since_s=since, until_s=math.inf))
    return Part(state=state, reason=reason, spells=tuple(spells))


def took_part(found: Mapping[str, Part]) -> list[str]:
    """The nodes that were there when the run was told to end."""
    return [name for name, part in found.items() if part.state == PRESENT]
