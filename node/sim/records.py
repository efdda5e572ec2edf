"""The record files of a simulated run: the same files and lines as containers write, with virtual
times, so that the same seed gives the same bytes.

Lines wait in memory until `flush`: a run of 1,000 nodes would need as many open files otherwise.
Whoever drives the simulation flushes every now and then, and at the end, whatever that was.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from node.core.ids import COORDINATOR
from node.errors import EnvironmentFault
from node.metrics import event_line
from node.units import SECOND, Nanos

DEPLOY: Final = "deploy"
"""Whose records say what was done to nodes."""
_FILES: Final = {COORDINATOR: "coordinator.jsonl", DEPLOY: "control.jsonl"}
_GROWING: Final = ("*.jsonl", "nodes/*.jsonl", "nodes/*.trace", "logs/*.log")
"""Files that are only ever appended to."""

Watch = Callable[[str, Mapping[str, Any]], None]
"""Takes each record as it is made: whose it is, and its fields with `kind`, `t` and `wall`."""


class Records:
    """See the module.

    Args:
        folder: the run's.
        watch: is told of every record, for a display.
    """

    def __init__(self, folder: Path, *, watch: Watch | None = None) -> None:
        self._folder = folder
        self._watch = watch
        self._pending: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}

    def write(
        self, member: str, kind: str, fields: Mapping[str, Any], *, now: Nanos, began: Nanos | None
    ) -> None:
        """A line more in a member's file.

        Args:
            now: virtual time, which is the Unix time of the run.
            began: when the member's run clock stood at 0, which may lie ahead; None: not known.

        Raises:
            ValueError: a field has a name that every event has, or no JSON value.
        """
        t = None if began is None or now < began else (now - began) / SECOND
        line = event_line(kind, fields, node=member, t=t, wall=now / SECOND)
        self.append(_file(member), line)
        if self._watch is not None:
            self._watch(member, {**fields, "kind": kind, "t": t, "wall": now / SECOND})

    def append(self, name: str, data: bytes) -> None:
        """Add to a file of the run, named from its folder on."""
        self._pending.setdefault(name, []).append(data)

    def log(self, member: str, text: str) -> None:
        """What a process would have printed, such as the traceback of an algorithm's defect."""
        self.append(f"logs/{member}.log", text.encode(errors="replace"))

    def store(self, name: str, data: bytes | memoryview) -> None:
        """Write a file of the run whole, in place of one of that name. Raises EnvironmentFault."""
        path = self._folder / name
        scratch = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(data)
            scratch.replace(path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise _fault(path, error) from error

    def flush(self) -> None:
        """Append all that waits to its files.

        Raises:
            EnvironmentFault: a file takes no more; nothing of it has half a line.
        """
        for name in list(self._pending):
            data = b"".join(self._pending[name])
            self._append(self._folder / name, data)
            del self._pending[name]
            self._sizes[name] = self._sizes.get(name, 0) + len(data)

    def sizes(self) -> dict[str, int]:
        """Bytes in each file so far, for a checkpoint; what waits is flushed first."""
        self.flush()
        return dict(self._sizes)

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Take back what was written after a checkpoint. Raises EnvironmentFault."""
        self._pending.clear()
        self._sizes = dict(sizes)
        for path in (path for pattern in _GROWING for path in self._folder.glob(pattern)):
            try:
                os.truncate(path, sizes.get(str(path.relative_to(self._folder)), 0))
            except OSError as error:
                raise _fault(path, error) from error

    def _append(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(file).st_size
                if os.write(file, data) < len(data):
                    with contextlib.suppress(OSError):
                        os.ftruncate(file, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
        except OSError as error:
            raise _fault(path, error) from error


def _file(member: str) -> str:
    return _FILES.get(member) or f"nodes/{member}.jsonl"


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"cannot write: {error.strerror}",
        where=str(path),
        remedy="Free some space there, or choose another results folder.",
    )
