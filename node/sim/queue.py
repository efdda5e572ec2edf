"""What happens when: one queue of calls on virtual time, in one total order (pure).

Two calls of one time are made in the order in which they were queued, so that nothing but the
queue's history decides what comes first. There is no way to take a call back: who may change its
mind gives the call a number that it compares.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from node.units import Nanos

Entry = tuple[Nanos, int, Callable[..., None], tuple[Any, ...]]
"""Time, number, what to call, with what. Numbers differ, so that no two calls are compared."""


class EventQueue:
    """Calls to come. Plain state: entries are bound methods with arguments.

    Attributes:
        now: the time of the call that is being made, or of the last; ns since the beginning. Read
            it as often as you like, never set it.
    """

    __slots__ = ("_entries", "_number", "now")

    def __init__(self) -> None:
        self.now: Nanos = 0
        self._entries: list[Entry] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next(self) -> Nanos | None:
        """The time of the next call; None: there is none."""
        return self._entries[0][0] if self._entries else None

    def at(self, time: Nanos, call: Callable[..., None], *args: Any) -> None:
        """Make this call at `time`, after all that are queued for that time.

        Raises:
            ValueError: that time is over.
        """
        if time < self.now:
            raise ValueError(f"{call!r} at {time} ns, and it is {self.now} ns already")
        self._number += 1
        heappush(self._entries, (time, self._number, call, args))

    def after(self, delay: Nanos, call: Callable[..., None], *args: Any) -> None:
        """Make this call in `delay` ns; raises ValueError where that is negative."""
        self.at(self.now + delay, call, *args)

    def clear(self) -> None:
        """Forget all calls that are still to come."""
        self._entries.clear()

    def run(self, *, until: Nanos | None = None, limit: int | None = None) -> int:
        """Make calls in order until there are none, or one of the bounds is met.

        Args:
            until: calls of a later time stay queued; `now` is `until` then.
            limit: so many calls at most.
        Returns:
            How many calls were made.
        """
        entries, pop, made = self._entries, heappop, 0
        while entries and made != limit:
            if until is not None and entries[0][0] > until:
                break
            self.now, _, call, args = pop(entries)
            made += 1
            call(*args)
        if until is not None and made != limit:
            self.now = max(self.now, until)
        return made
