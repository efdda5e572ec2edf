"""Processes of a run, found by what their environment says: a label that children inherit, that
outlives the process that set it, and that a reused pid cannot carry.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.results import RunFolder

_RUN: Final = "PEERBED_RUN"
_MEMBER: Final = "PEERBED_MEMBER"


def labels(folder: RunFolder, *, member: str) -> dict[str, str]:
    """What to put into the environment of a process of a run."""
    return {_RUN: str(folder.path), _MEMBER: member}


def labelled(folder: RunFolder) -> Iterator[tuple[int, str]]:
    """Processes of a run with the member that each belongs to: this user's, zombies left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (member := _member(int(entry.name), folder)) is not None:
            yield int(entry.name), member


def signal_all(folder: RunFolder, number: signal.Signals, *, member: str | None = None) -> None:
    """Signal every process of a run, or of one member of it.

    A descriptor pins each, so that a reused pid is never hit.
    """
    for pid, whose in list(labelled(folder)):
        if member is not None and whose != member:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if _member(pid, folder) is not None:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def end_all(folder: RunFolder, *, grace_s: float) -> None:
    """Ask every process of a run to end, and make it after `grace_s`."""
    deadline = time.monotonic() + grace_s
    number = signal.SIGTERM
    while any(True for _ in labelled(folder)):
        signal_all(folder, number)
        time.sleep(0.05)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        if time.monotonic() > deadline + grace_s:
            return  # nothing more can be done: stuck in the kernel


def _member(pid: int, folder: RunFolder) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    if f"{_RUN}={folder.path}".encode() not in environment:
        return None
    prefix = f"{_MEMBER}=".encode()
    return next((e[len(prefix) :].decode() for e in environment if e.startswith(prefix)), "?")
