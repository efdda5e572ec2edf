"""Who runs a run: the process that will clean it up, named so that a reused pid cannot be it.

A process is its pid together with its start time, the boot it lives in, the host, and the pid
namespace in which the number counts.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.02


class Liveness(Enum):
    """What can be said of a process from here."""

    ALIVE = "alive"
    DEAD = "dead"
    ELSEWHERE = "elsewhere"
    """On another host, or in another pid namespace: not ours to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, for good. `start` is in clock ticks since boot, as in /proc/<pid>/stat."""

    pid: int
    start: int
    boot: str
    host: str
    namespace: str

    def liveness(self) -> Liveness:
        """Whether it still runs, as far as this process can tell."""
        here = current()
        if self.host != here.host:
            return Liveness.ELSEWHERE
        if self.boot != here.boot:
            return Liveness.DEAD
        if self.namespace != here.namespace:
            return Liveness.ELSEWHERE
        return Liveness.ALIVE if start_time(self.pid) == self.start else Liveness.DEAD

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False when it is gone. Raises PermissionError if it is another's."""
        if self.liveness() is not Liveness.ALIVE:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def await_end(self, *, timeout_s: float) -> bool:
        """Wait until it no longer runs here; False when it still does after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while alive := self.liveness() is Liveness.ALIVE:
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_EVERY_S)
        return not alive

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Process:
    """Read what `Process.to_json` wrote; raises ValueError when it is not that."""
    try:
        value = json.loads(text)
        return Process(
            pid=int(value["pid"]),
            start=int(value["start"]),
            boot=str(value["boot"]),
            host=str(value["host"]),
            namespace=str(value["namespace"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a process record: {error}") from error


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may hold blanks and brackets itself.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def describe(pid: int) -> Process:
    """The process with this pid on this host, which must exist."""
    start = start_time(pid)
    if start is None:
        raise ProcessLookupError(f"no process {pid}")
    return Process(
        pid=pid,
        start=start,
        boot=_read("/proc/sys/kernel/random/boot_id"),
        host=platform.node(),
        namespace=_namespace(),
    )


def current() -> Process:
    """This process."""
    return describe(os.getpid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
