"""What the coordinator knows of members and of the edges between them (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from node.core.ids import NodeId
from node.core.signals import Stage

Edge: TypeAlias = frozenset[NodeId]
"""Two members that exchange with each other."""


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


@dataclass(slots=True, kw_only=True)
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


def others(edges: Iterable[Edge], member: NodeId) -> tuple[NodeId, ...]:
    """The other ends of a member's edges, in name order."""
    return tuple(sorted(n for edge in edges if member in edge for n in edge if n != member))


def within(edges: Iterable[Edge], members: Collection[NodeId]) -> set[Edge]:
    """Edges of which both ends are among these."""
    return {edge for edge in edges if all(end in members for end in edge)}


def without(edges: set[Edge], member: NodeId) -> None:
    """Take a member's edges away."""
    edges.difference_update([edge for edge in edges if member in edge])
