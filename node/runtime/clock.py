"""The clocks that machines are driven by: integer nanoseconds, and never backwards."""

from __future__ import annotations

import time
from typing import Final, Protocol

from node.units import SECOND, Nanos


class Clock(Protocol):
    def now(self) -> Nanos: ...


class MonotonicClock:
    """Nanoseconds since some moment."""

    def now(self) -> Nanos:
        return time.monotonic_ns()


class UnixClock:
    """Unix time in nanoseconds, read once and then advanced by the monotonic clock."""

    def __init__(self) -> None:
        self._offset: Final = time.time_ns() - time.monotonic_ns()

    def now(self) -> Nanos:
        return time.monotonic_ns() + self._offset


class RunClock:
    """Nanoseconds since the run began, the same moment for all members; 0 before."""

    def __init__(self) -> None:
        self._begin: Nanos | None = None

    def begin(self, at_wall_ns: int) -> None:
        """The run begins at this Unix time, which may lie ahead."""
        self._begin = at_wall_ns - time.time_ns() + time.monotonic_ns()

    def now(self) -> Nanos:
        return max(0, self._elapsed())

    def until_begin(self) -> Nanos:
        """How long until the run begins; negative once it has."""
        return -self._elapsed()

    def run_seconds(self) -> float | None:
        elapsed = self._elapsed()
        return elapsed / SECOND if self._begin is not None and elapsed >= 0 else None

    def wall_seconds(self) -> float:
        return time.time()

    def _elapsed(self) -> Nanos:
        return 0 if self._begin is None else time.monotonic_ns() - self._begin
