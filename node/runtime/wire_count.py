"""Bytes on the wire: the interface's own counters, or those of the application's links."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from node.runtime.shaper import Shaper

_NET: Final = Path("/sys/class/net")


class WireCount:
    """Counts from `begin` on; None where nobody counts.

    Args:
        device: the interface, in a network namespace of our own.
        shaper: counts instead, if there is one.
    """

    def __init__(self, *, device: str | None, shaper: Shaper | None) -> None:
        self._device = device
        self._shaper = shaper
        self._base = self._now()

    def begin(self) -> None:
        self._base = self._now()

    def since_begin(self) -> tuple[int | None, int | None]:
        """Sent and received."""
        if self._base is None or (now := self._now()) is None:
            return None, None
        return now[0] - self._base[0], now[1] - self._base[1]

    def _now(self) -> tuple[int, int] | None:
        if self._shaper is not None:
            return self._shaper.wire_bytes()
        if self._device is None:
            return None
        folder = _NET / self._device / "statistics"
        with contextlib.suppress(OSError, ValueError):
            sent, received = (int((folder / f"{way}_bytes").read_text()) for way in ("tx", "rx"))
            return sent, received
        return None
