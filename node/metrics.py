"""The event log: one JSON object a line, only ever appended to.

    {"t": 1.25, "wall": 1763697600.5, "node": "n-0", "kind": "round", ...fields}

`t` is seconds on the run clock, null before the run starts; `wall` is Unix time. A line is written
whole or not at all, so that a reader never sees half of one, whatever happened to the writer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from node.errors import EnvironmentFault

_LINE_MAX = 2**24
"""Longer lines are not ours."""
_RESERVED = frozenset({"t", "wall", "node", "kind"})


class Stamp(Protocol):
    """What time it is, for a log."""

    def run_seconds(self) -> float | None:
        """On the run clock; None before the run starts."""

    def wall_seconds(self) -> float:
        """Unix time."""


class Recorder(Protocol):
    """Takes records: `EventLog`, or `MemoryLog` in tests."""

    def record(self, kind: str, fields: Mapping[str, Any]) -> None: ...


class EventLog:
    """Appends events to a file.

    Args:
        path: made with its folders if it is not there.
        node: whose events these are.
        clock: stamps them.

    Raises:
        EnvironmentFault: the file cannot be opened.
    """

    def __init__(self, path: Path, *, node: str, clock: Stamp) -> None:
        self.path = path
        self._node = node
        self._clock = clock
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise _fault(path, error) from error
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._append(b"\n")  # a predecessor was cut off in mid-line

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append one event.

        Raises:
            EnvironmentFault: it could not be stored, and nothing of it was.
            ValueError: a field has a name that every event has, or no JSON value.
        """
        self._append(
            event_line(
                kind,
                fields,
                node=self._node,
                t=self._clock.run_seconds(),
                wall=self._clock.wall_seconds(),
            )
        )

    def close(self) -> None:
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise _fault(self.path, error) from error
        self._size += written


def event_line(
    kind: str, fields: Mapping[str, Any], *, node: str, t: float | None, wall: float
) -> bytes:
    """One event as a line of a log.

    Args:
        t: seconds on the run clock; None before it starts.
        wall: Unix time.

    Raises:
        ValueError: a field has a name that every event has, or no JSON value.
    """
    if clash := _RESERVED & fields.keys():
        raise ValueError(f"event {kind!r} has a field {min(clash)!r} of its own")
    event: dict[str, Any] = {
        "t": None if t is None else round(t, 6),
        "wall": round(wall, 6),
        "node": node,
        "kind": kind,
    }
    event.update((name, plain(value)) for name, value in fields.items())
    line = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    return line.encode(errors="replace") + b"\n"


class MemoryLog:
    """Keeps events in a list, for tests."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(fields)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The fields of all events of a kind."""
        return [fields for name, fields in self.events if name == kind]


class EventReader:
    """The events of a log, from its beginning; iterate over it.

    Attributes:
        skipped: lines so far that were cut off or are no events.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.skipped = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            while line := file.readline(_LINE_MAX):
                event = _parse(line)
                if event is None:
                    self.skipped += bool(line.strip())
                else:
                    yield event


def read_events(path: Path) -> EventReader:
    """The events in a file, whatever is in it; OSError only where it cannot be read at all."""
    return EventReader(path)


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy scalars and arrays become Python's, NaN and infinity null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):  # bool is an int
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy, which not every user of this module imports
        return plain(value.tolist())
    raise ValueError(f"{value!r} is no JSON value")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Free some space there, or choose another results folder."
        return EnvironmentFault("the disk is full", where=str(path), remedy=remedy)
    remedy = "See that the folder exists and that the node's user may write there."
    return EnvironmentFault(f"cannot write: {error.strerror}", where=str(path), remedy=remedy)
