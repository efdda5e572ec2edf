"""What both kinds of process have in common: log, sign of life, signals, ends, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from node.errors import EnvironmentFault
from node.metrics import EventLog, Stamp
from node.runtime.tasks import Tasks

RUN_DIR: Final = Path("/run/peerbed")
TICK_S: Final = 1.0
STOP_S: Final = 2.5
"""From SIGTERM to ending by force: within five seconds all is closed, too."""


class Process:
    """The frame of a node's or the coordinator's process. Make it on a running event loop.

    Args:
        log: where records go.
        run_dir: has the sign of life; need not exist.
        on_failure: told once what broke for good: a disk that is full, a defect of ours.
    """

    def __init__(
        self,
        *,
        path: Path,
        name: str,
        clock: Stamp,
        run_dir: Path,
        on_failure: Callable[[str], None],
    ) -> None:
        self._log = EventLog(path, node=name, clock=clock)
        self._heartbeat = run_dir / "heartbeat"
        self._on_failure = on_failure
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._failed = False
        self.tasks = Tasks(on_defect=self.defect)

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write a record; when that fails the process ends, and later ones are not tried."""
        if self._failed and kind != "error":
            with contextlib.suppress(EnvironmentFault):
                self._log.record(kind, fields)
            return
        try:
            self._log.record(kind, fields)
        except EnvironmentFault as fault:
            self.fail(str(fault))

    def fail(self, reason: str) -> None:
        """Something broke for good: say so and end. Only the first counts."""
        if self._failed:
            return
        self._failed = True
        say(f"error: {reason}")
        with contextlib.suppress(EnvironmentFault):
            self._log.record("error", {"message": reason})
        self._on_failure(reason)

    def defect(self, error: Exception) -> None:
        """An exception that should not have been: keep its traceback, and end."""
        traceback.print_exception(error)
        self.fail(f"{type(error).__name__}: {error}")

    def on_signals(self, stop: Callable[[str], None], *, force: Callable[[], None]) -> None:
        """SIGTERM and SIGINT ask to `stop`, and `force` it when that takes too long."""
        loop = asyncio.get_running_loop()

        def asked(name: str) -> None:
            loop.call_later(STOP_S, force)
            stop(name)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked, number.name)

    def watch_loop(self) -> None:
        """Record what asyncio or gRPC could not handle, which need not be the end of the run."""

        def told(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, Exception):
                traceback.print_exception(error)
            message = f"{context.get('message')}: {error!r}"
            self.record("warning", {"message": message})

        asyncio.get_running_loop().set_exception_handler(told)

    def every_second(self, work: Callable[[], None]) -> None:
        """Call `work` and give a sign of life each second."""

        async def tick() -> None:
            while True:
                self._touch()
                work()
                await asyncio.sleep(TICK_S)

        self.tasks.spawn(tick())

    def end(self, status: int) -> None:
        """The exit status; only the first counts."""
        if not self._ended.done():
            self._ended.set_result(status)

    async def ended(self) -> int:
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        self._log.close()

    def _touch(self) -> None:
        with contextlib.suppress(OSError):  # no such folder: nobody looks
            self._heartbeat.touch()


def store(path: Path, data: bytes | memoryview) -> None:
    """Write a file, all of it or none. Raises EnvironmentFault."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(scratch).chmod(0o644)
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EnvironmentFault(
            f"cannot store {path}: {error.strerror}",
            remedy="Free some space there, or choose another results folder.",
        ) from error


def say(text: str) -> None:
    """To whoever reads the process's output."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
