"""Checkpoints of a simulation as files: written whole or not at all, the newest two kept.

    <run>/checkpoints/000017.snapshot      see `node.sim.snapshot`

A run that was killed goes on from the newest: its record files are cut back to what they were
(`Records.rewind`), work that was under way is handed in again, and all that comes is as it would
have been.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError, EnvironmentFault
from node.sim.snapshot import dump, load

_KEPT: Final = 2
_COST_SHARE: Final = 20
"""Of the time, checkpoints take at most one part in so many."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of theirs; made with the first.
        modules: that things in them may be of, besides this package.
    """

    def __init__(self, folder: Path, *, modules: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._modules = modules

    def take(self, state: Any) -> Path:
        """Store a state, and forget all but the newest.

        Raises:
            NotStorable: there is something in it that cannot be stored: a defect.
            EnvironmentFault: the disk refuses.
        """
        data = dump(state, name="state", modules=self._modules)
        there = self._there()
        path = self._folder / f"{_number(there[-1]) + 1 if there else 1:06}.snapshot"
        try:
            self._store(path, data)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot store a checkpoint: {error.strerror}",
                where=str(path),
                remedy="Free some space there, or go without: --checkpoint-every 0s.",
            ) from error
        for old in there[: 1 - _KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def newest(self) -> Any:
        """The newest state that can be read.

        Raises:
            ConfigError: there is none.
            EnvironmentFault: none can be read; the error is the newest one's.
        """
        fault: EnvironmentFault | None = None
        for path in reversed(self._there()):
            try:
                return load(path.read_bytes(), where=str(path), modules=self._modules)
            except OSError as error:
                fault = fault or EnvironmentFault(f"unreadable: {error}", where=str(path))
            except EnvironmentFault as error:
                fault = fault or error
        raise fault or ConfigError(
            "there is no checkpoint to go on from",
            where=str(self._folder),
            remedy="begin anew: deploy sim FILE",
        )

    def clear(self) -> None:
        """The run has ended: nobody goes on from one."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _there(self) -> list[Path]:
        """Oldest first."""
        found = [p for p in self._folder.glob("*.snapshot") if p.stem.isdigit()]
        return sorted(found, key=_number)

    def _store(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


def _number(path: Path) -> int:
    return int(path.stem)


class Pace:
    """When the next checkpoint is due: every so often, and less often where they are costly.

    Args:
        every_s: wall time between the end of one and the beginning of the next; 0: none at all.
    """

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._next = clock() + every_s

    @property
    def wanted(self) -> bool:
        """Whether there are to be any."""
        return self._every_s > 0

    @property
    def due(self) -> bool:
        return self._every_s > 0 and self._clock() >= self._next

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Around the work of taking one."""
        began = self._clock()
        yield
        ended = self._clock()
        self._next = ended + max(self._every_s, (ended - began) * _COST_SHARE)
