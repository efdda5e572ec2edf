"""What is still to happen to one node's links, and when (pure).

    planned changes --due--> applied
          ^ replan: from a moment on, others instead (`deploy link`, `deploy partition`)

The link agent keeps one for the kernel's links, the node process one for what it does itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.config import LinkChange, Replan
from node.units import Nanos


class Pending:
    """Changes in order of time; those of the same time in the order in which they came."""

    def __init__(self, changes: Iterable[LinkChange] = ()) -> None:
        self._left = sorted(changes, key=lambda change: change.at_ns)

    @property
    def next_at(self) -> Nanos | None:
        """When the next one is due, on the run clock; None when nothing is left."""
        return self._left[0].at_ns if self._left else None

    @property
    def next(self) -> LinkChange | None:
        """What is due next; None when nothing is left."""
        return self._left[0] if self._left else None

    def replan(self, order: Replan) -> None:
        """From `order.at_ns` on, these instead of what was planned."""
        before = [change for change in self._left if change.at_ns < order.at_ns]
        self._left = before + sorted(order.changes, key=lambda change: change.at_ns)

    def due(self, now: Nanos) -> list[LinkChange]:
        """Take out all whose time has come, in order."""
        count = sum(change.at_ns <= now for change in self._left)
        due, self._left = self._left[:count], self._left[count:]
        return due

    def __len__(self) -> int:
        return len(self._left)
