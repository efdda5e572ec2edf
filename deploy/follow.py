"""Records of a run as they are written: what is new in each file since the last look."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from deploy.history import Event, as_float
from deploy.results import RunFolder

_READ_MAX = 4 << 20


class Tail:
    """The complete lines that a file has gained; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    @classmethod
    def from_here(cls, path: Path) -> Self:
        """What the file gains from now on."""
        tail = cls(path)
        with contextlib.suppress(OSError):
            tail._offset = path.stat().st_size
        return tail

    def lines(self) -> list[bytes]:
        """New lines since the last call, without their ends."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_READ_MAX)
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def events(self) -> list[Event]:
        """New events; lines that are none are left to the verdict's count."""
        found: list[Event] = []
        for line in self.lines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found


class Follower:
    """New records of all members of a run."""

    def __init__(self, folder: RunFolder, *, nodes: tuple[str, ...]) -> None:
        self._tails = {"coordinator": Tail(folder.coordinator_file)}
        self._tails["deploy"] = Tail(folder.control_log)
        self._tails |= {name: Tail(folder.node_file(name)) for name in nodes}

    def poll(self) -> Iterator[tuple[str, Event]]:
        """New events with the member that wrote each, in the order in which they were written: what
        the coordinator says of a node may be older or newer than what that says itself."""
        new = [(member, event) for member, tail in self._tails.items() for event in tail.events()]
        yield from sorted(new, key=lambda one: as_float(one[1].get("wall")) or 0.0)
