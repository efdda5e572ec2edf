"""A pipe with a queue in front of it, so that those who send need not wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from node.runtime.pipes import Pipe

QUEUE_MAX: Final = 32 * 2**20
"""Bytes that may wait for the other end to read; what needs more does not read at all."""
_ENTRY: Final = 64
"""What a message in the queue costs besides its own bytes."""


class Duplex:
    """Reads and writes a pipe at the same time.

    Args:
        on_data: called with each message that comes.
        queue_max: bytes that may wait to be written; with more, the stream ends.
    """

    def __init__(
        self, pipe: Pipe, *, on_data: Callable[[bytes], None], queue_max: int = QUEUE_MAX
    ) -> None:
        self._pipe = pipe
        self._on_data = on_data
        self._queue_max = queue_max
        self._waiting = 0
        self._urgent: deque[bytes] = deque()
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._finishing = False
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def put(self, data: bytes, *, urgent: bool = False) -> None:
        """Queue a message; urgent ones go before the others, in their own order."""
        if self._ended.done():
            return  # nobody will write it
        self._waiting += len(data) + _ENTRY
        if self._waiting > self._queue_max:
            self._urgent.clear()
            self._queue.clear()
            self.end("the other end does not read what it is sent")
            return
        (self._urgent if urgent else self._queue).append(data)
        self._wake.set()

    def finish(self) -> None:
        """Write what is queued, then nothing more."""
        self._finishing = True
        self._wake.set()

    def end(self, reason: str) -> None:
        """Stop `run` where it is."""
        if not self._ended.done():
            self._ended.set_result(reason)

    async def run(self) -> str:
        """Until either end finishes, the pipe breaks or `end` is called; returns which."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        for task in tasks:
            task.add_done_callback(self._task_done)
        try:
            return await asyncio.shield(self._ended)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _task_done(self, task: asyncio.Task[str]) -> None:
        if task.cancelled() or self._ended.done():
            return
        error = task.exception()
        if error is None:
            self.end(task.result())
        elif isinstance(error, ConnectionError):
            self.end(str(error))
        else:
            self._ended.set_exception(error)

    async def _read(self) -> str:
        while (data := await self._pipe.read()) is not None:
            self._on_data(data)
        return "the other end finished"

    async def _write(self) -> str:
        while True:
            while queue := self._urgent or self._queue:
                data = queue.popleft()
                await self._pipe.write(data)
                self._waiting -= len(data) + _ENTRY
            if self._finishing:
                await self._pipe.finish()
                # The other end answers by finishing too, which the reader sees.
                await asyncio.Event().wait()
            self._wake.clear()
            await self._wake.wait()
