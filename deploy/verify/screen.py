"""A verification on the screen, and how busy the machine was meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.live import Screen
from deploy.progress import Progress

_STAT: Final = Path("/proc/stat")
_IDLE: Final = (3, 4)
"""Fields of its first line that nobody worked in: idle and waiting for disks (proc(5))."""
_WORDS: Final = {
    "nodes get ready to train": "nodes connect to each other",
    "training": "all send at once",
}


class VerifyScreen:
    """A screen that is told of a run without training; takes the machine's load on the way."""

    def __init__(self, inner: Screen) -> None:
        self._inner = inner
        self._samples: list[tuple[float, int, int]] = []
        """Unix time, ticks worked, ticks in all."""

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        self._inner.say(_WORDS.get(line, line))

    def show(self, progress: Progress) -> None:
        """Called several times a second while a run is followed. No table: no node learns."""
        del progress
        if (ticks := _ticks()) is not None:
            self._samples.append((time.time(), *ticks))

    def busy(self, begin: float, end: float) -> float | None:
        """Share of all cores' time that was worked between two Unix times; None: not known."""
        inside = [sample for sample in self._samples if begin <= sample[0] <= end]
        if len(inside) < 2 or inside[-1][2] == inside[0][2]:
            return None
        return (inside[-1][1] - inside[0][1]) / (inside[-1][2] - inside[0][2])


def _ticks() -> tuple[int, int] | None:
    try:
        fields = [int(text) for text in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(fields) <= max(_IDLE):
        return None
    return sum(fields) - sum(fields[i] for i in _IDLE), sum(fields)
