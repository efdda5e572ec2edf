"""Work that takes too long for the agent's loop: done by a copy of it, one piece at a time.

Reading links back runs four tools and takes some 50 ms; the delay line must not wait for that. A
forked child has everything that it needs to know, does the work, writes its result into a pipe as
JSON, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from node.errors import PeerbedError

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)

Work = Callable[[], Any]
Then = Callable[[Any, str | None], None]
"""With the result, or None and what went wrong."""


class Aside:
    """Pieces of work, in the order in which they were given."""

    def __init__(self, *, watch: Callable[[int], None], unwatch: Callable[[int], None]) -> None:
        """watch, unwatch: of file descriptors; the caller then calls `receive`."""
        self._watch, self._unwatch = watch, unwatch
        self._queue: deque[tuple[Work, Then]] = deque()
        self._fd: int | None = None
        self._pid = 0
        self._said = b""
        self._then: Then | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._fd is not None

    def do(self, work: Work, then: Then) -> None:
        """Have this done when all before it is; then tell what came of it."""
        self._queue.append((work, then))
        self._next()

    def drop(self) -> None:
        """Forget what has not begun and end what has; nobody is told."""
        self._queue.clear()
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._close()

    def _next(self) -> None:
        if self._fd is not None or not self._queue:
            return
        work, self._then = self._queue.popleft()
        read, write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _work(work, write, parent)
        os.close(write)
        os.set_blocking(read, False)
        self._fd, self._said = read, b""
        self._watch(read)

    def receive(self, fd: int) -> bool:
        """There is something to read; False if this file descriptor is not of ours."""
        if fd != self._fd:
            return False
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if data:
            self._said += data
            return True
        then, said = self._then, self._said
        self._close()
        assert then is not None
        try:
            answer = json.loads(said)
        except ValueError:
            answer = {"error": "a piece of the agent's work ended without a word"}
        then(answer.get("result"), answer.get("error"))
        self._next()
        return True

    def _close(self) -> None:
        assert self._fd is not None
        self._unwatch(self._fd)
        os.close(self._fd)
        self._fd = None


def _work(work: Work, write: int, parent: int) -> None:
    """In the child: it ends here whatever happens, and with its parent."""
    answer: dict[str, Any]
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() != parent:
            os._exit(1)
        answer = {"result": work()}
    except PeerbedError as fault:
        answer = {"error": str(fault)}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(write, data) :]
    finally:
        os._exit(0)
