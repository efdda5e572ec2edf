"""What the coordinator knows of members and of the edges between them (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import TypeAlias

from node.core.ids import NodeId
from node.core.signals import Stage

Edge: TypeAlias = frozenset[NodeId]
"""Two members that exchange with each other."""


class Overlay:
    """All edges that there may ever be. What belongs to one member is found without a look at the
    others' edges: a thousand members ask in every round."""

    def __init__(self, pairs: Iterable[Iterable[NodeId]]) -> None:
        self.edges: tuple[Edge, ...] = tuple(dict.fromkeys(map(frozenset, pairs)))
        self._of: dict[NodeId, list[Edge]] = {}
        for edge in self.edges:
            for member in edge:
                self._of.setdefault(member, []).append(edge)

    def of(self, member: NodeId) -> Collection[Edge]:
        """A member's edges."""
        return self._of.get(member, ())

    def others(self, edges: Collection[Edge], member: NodeId) -> tuple[NodeId, ...]:
        """The other ends of those of these edges that are the member's, in name order."""
        mine = (edge for edge in self.of(member) if edge in edges)
        return tuple(sorted(end for edge in mine for end in edge if end != member))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How far a member says that it is."""

    round: int
    attempt: int = 0
    stage: Stage = Stage.TRAINING

    @property
    def ready(self) -> bool:
        """It has trained for its round and has not begun to share."""
        return self.stage not in (Stage.TRAINING, Stage.SHARING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a member is, as far as is known.

    Args:
        round: that it is in.
        ready: it has trained for it.
        begun: it has been given a start before (async: it trains).
    """

    round: int
    ready: bool = False
    begun: bool = False


class Standings(MutableMapping[NodeId, Standing]):
    """All members, and how many are in a round and ready for it: counted as they move, since each
    of a thousand members moves several times a round, and the answer is asked for every time."""

    def __init__(self) -> None:
        self._all: dict[NodeId, Standing] = {}
        self._here: Counter[int] = Counter()
        self._ready: Counter[int] = Counter()

    def count(self, round_: int) -> tuple[int, int]:
        """How many members are in this round, and how many of them have trained for it."""
        return self._here[round_], self._ready[round_]

    @property
    def newest(self) -> int:
        """The latest round that anybody is in; -1: there is nobody."""
        return max(self._here, default=-1)

    def __getitem__(self, member: NodeId) -> Standing:
        return self._all[member]

    def __setitem__(self, member: NodeId, standing: Standing) -> None:
        if member in self._all:
            self._count(self._all[member], -1)
        self._all[member] = standing
        self._count(standing, 1)

    def __delitem__(self, member: NodeId) -> None:
        self._count(self._all.pop(member), -1)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def _count(self, standing: Standing, by: int) -> None:
        self._here[standing.round] += by
        self._ready[standing.round] += by * standing.ready
        if not self._here[standing.round]:
            del self._here[standing.round], self._ready[standing.round]


def within(edges: Iterable[Edge], members: Collection[NodeId]) -> set[Edge]:
    """Edges of which both ends are among these."""
    return {edge for edge in edges if all(end in members for end in edge)}
