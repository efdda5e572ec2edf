"""Counts what was refused, and records it without letting whoever sends it fill the log."""

from __future__ import annotations

from collections import Counter
from typing import Final

from node.metrics import Recorder

_KINDS_MAX: Final = 16
"""Pairs of sender and reason told apart between two records; more are counted together."""
_NAME_MAX: Final = 64


class Refusals:
    """To be flushed each second: one `refused` record for each sender and reason."""

    def __init__(self, log: Recorder) -> None:
        self._log = log
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, peer: str, reason: str) -> None:
        key = (peer[:_NAME_MAX], reason)
        if key not in self._counts and len(self._counts) >= _KINDS_MAX:
            key = ("?", "many kinds")
        self._counts[key] += 1

    def flush(self) -> None:
        counts, self._counts = self._counts, Counter()
        for (peer, reason), count in counts.items():
            self._log.record("refused", {"peer": peer, "reason": reason, "count": count})
