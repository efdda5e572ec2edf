"""The trace of a node's peer machine as a file: whole frames, appended at once."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from node.errors import EnvironmentFault
from node.sim.trace import whole_frames


class TraceFile:
    """A trace to append to; that of a former life of the node goes on.

    Args:
        path: made with its folders if it is not there.

    Raises:
        EnvironmentFault: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, flags, 0o644)
            with os.fdopen(self._file, "rb", closefd=False) as file:
                self._size = whole_frames(file)
            os.ftruncate(self._file, self._size)  # a former life was cut off in mid-frame
        except OSError as error:
            raise self._fault(error) from error

    def append(self, frame: bytes) -> None:
        """Raises EnvironmentFault: it could not be stored, and nothing of it was."""
        try:
            if os.write(self._file, frame) < len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise self._fault(error) from error
        self._size += len(frame)

    def close(self) -> None:
        os.close(self._file)

    def _fault(self, error: OSError) -> EnvironmentFault:
        remedy = "Free some space there, or run without `trace` in the topology file."
        text = f"cannot store the trace: {error.strerror}"
        return EnvironmentFault(text, where=str(self._path), remedy=remedy)
