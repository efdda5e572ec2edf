"""A `tc` that stays: lines written to it are executed as they arrive.

Starting a process for every change would cost milliseconds, and 20 times a second a core; and the
kernel's lock for all of this may be held by others for long, which is then not our loop's problem.
The lines are those that anybody could type. After each batch it is asked for a class that is always
there; when it prints that, the batch is done, and what it complained about has been read.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from node.errors import EnvironmentFault
from node.links.tree import DROP, Argv
from node.units import Nanos

_FAILED: Final = re.compile(r"Command failed -:(\d+)")
_MARK: Final = f"class htb 1:{DROP:x} ".encode()
_KEPT: Final = 10_000
"""Characters of what it said that are not understood, for when it ends."""


Done = Callable[[Nanos, str | None, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Commands that were sent together.

    Args:
        first, last: numbers of their first line and of the one that asks whether they are done.
        marks: how often the class that is asked for will have been printed by then.
        done: called with the time (monotonic), what failed (None if nothing did) and what was
            printed.
    """

    first: int
    last: int
    marks: int
    commands: tuple[Argv, ...]
    done: Done


class TcPipe:
    """The process and what it has still to do.

    Args:
        device: with our HTB on it.
    Raises:
        EnvironmentFault: tc cannot be started.
    """

    def __init__(self, device: str) -> None:
        self._question = f"class show dev {device} classid 1:{DROP:x}"
        self._waiting: deque[Batch] = deque()
        self._lines = 0
        self._complaints = ""
        self._printed = b""
        try:
            self._process = subprocess.Popen(
                ["tc", "-s", "-force", "-batch", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise EnvironmentFault(f"tc cannot be started: {error}") from error
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (s.fileno() for s in streams if s is not None)
        os.set_blocking(self._out, False)
        os.set_blocking(self._err, False)

    def fileno(self) -> int:
        """Readable when a batch is done, or the process has ended."""
        return self._out

    @property
    def printing(self) -> bool:
        """Whether it has been asked to print classes: it does so one by one, a write for each, so
        look after a while instead of waiting for `fileno`."""
        return any(batch.marks > 1 for batch in self._waiting)

    def send(self, commands: Sequence[Argv], done: Done) -> None:
        """Have these commands executed in order. Raises OSError when the process is gone."""
        lines = [" ".join(command[1:]) for command in commands]
        data = "\n".join([*lines, self._question, ""]).encode()
        first = self._lines + 1
        self._lines += len(lines) + 1
        self._waiting.append(
            Batch(
                first=first,
                last=self._lines,
                marks=1 + sum(command[1:3] == ("class", "show") for command in commands),
                commands=tuple(commands),
                done=done,
            )
        )
        while data:
            data = data[os.write(self._in, data) :]

    def receive(self) -> None:
        """Take in what it says; calls back for each batch that is done.

        Raises OSError when the process has ended.
        """
        try:
            said = os.read(self._out, 1 << 16)
        except BlockingIOError:
            return
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._err, 1 << 16):
                self._complaints += more.decode(errors="replace")
        if not said:
            raise OSError(f"tc has ended: {self._complaints.strip()[-500:]}")
        now = time.monotonic_ns()
        self._printed += said
        while self._waiting:
            batch, end = self._waiting[0], -1
            for _ in range(batch.marks):
                end = self._printed.find(_MARK, end + 1)
                if end < 0:
                    return
            self._waiting.popleft()
            printed, self._printed = self._printed[:end], self._printed[end + len(_MARK) :]
            batch.done(now, self._failure(batch), printed)

    def _failure(self, batch: Batch) -> str | None:
        """What of a batch failed, in the words of tc."""
        mine: list[str] = []
        end = 0
        for match in _FAILED.finditer(self._complaints):
            if (line := int(match[1])) > batch.last:
                break
            reason = self._complaints[end : match.start()].strip().replace("\n", "; ")
            end = match.end()
            if line >= batch.first:
                number = line - batch.first
                command = " ".join(batch.commands[number]) if number < len(batch.commands) else ""
                mine.append(f"`{command or 'tc ' + self._question}` failed: {reason}")
        self._complaints = self._complaints[end:][-_KEPT:]
        return "; ".join(mine[:5]) or None

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
