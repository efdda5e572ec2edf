"""Ctrl-C and its like while a run is under way: remembered and asked about, so that the run ends in
order. A second one changes nothing; what cleans up must not be cut short.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Final, Self

_NAMES: Final = {
    signal.SIGINT: "interrupted (Ctrl-C)",
    signal.SIGTERM: "interrupted (SIGTERM)",
    signal.SIGHUP: "interrupted (the terminal was closed)",
}


class Interruption:
    """Catches the signals that ask for an end as long as it is entered.

    Calling it says whether one came. Works in the main thread only, as signals do.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self.reason is not None

    def __enter__(self) -> Self:
        for number in _NAMES:
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.reason is None:
            self.reason = _NAMES[signal.Signals(number)]
