"""A timer that epoll can wait for, exact to microseconds; Python has one from 3.13 only."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from node.units import SECOND, Nanos

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Setting(ctypes.Structure):
    """struct itimerspec: no interval, one expiry."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Timer:
    """Readable from the time it is set to; setting it again makes it unreadable until then."""

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "timerfd_create")

    def fileno(self) -> int:
        return self._fd

    def set(self, at: Nanos | None) -> None:
        """Expire at this time of the monotonic clock; None for never."""
        seconds, nanos = divmod(max(1, at), SECOND) if at is not None else (0, 0)
        setting = _Setting(0, 0, seconds, nanos)
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "timerfd_settime")

    def close(self) -> None:
        os.close(self._fd)
