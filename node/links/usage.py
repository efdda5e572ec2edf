"""How much each class has let through, from what the `tc` that stays prints.

Neither this nor anything else in the agent's loop asks rtnetlink itself: its lock is one for the
whole machine, and whoever sets up or removes containers holds it for tenths of a second (measured:
300 ms), in which no packet would leave the delay line.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links.exchange import Sample
from node.links.tree import FIRST_LEAF, Argv, words

QUIET_BYTES: Final = 4000
"""A device that sent less since the last look carried nothing but heartbeats."""

_DEVICES: Final = "/proc/self/net/dev"
_SENT: Final = 8
"""Bytes sent are the ninth figure of a device there."""
_CLASS: Final = re.compile(
    rb"class htb 1:([0-9a-f]{4}) [^\n]*\n Sent (\d+) bytes \d+ pkt \(dropped \d+, overlimits (\d+)"
)


def show_command(device: str) -> Argv:
    """What tc has to be asked for `samples`; with statistics, as our `TcPipe` has it."""
    return words(f"tc class show dev {device}")


def samples(text: bytes, peers: Mapping[int, NodeId]) -> Iterator[tuple[NodeId, Sample]]:
    """The counters of every peer's class in what tc printed.

    Args:
        peers: by the minor number of their class.
    """
    for minor, size, held in _CLASS.findall(text):
        if (peer := peers.get(int(minor, 16))) is not None:
            yield peer, Sample(size=int(size), held=int(held))


def minors(peers: Mapping[int, NodeId]) -> dict[int, NodeId]:
    """Peers by the minor number of their class, from their places in the plan."""
    return {FIRST_LEAF + place: name for place, name in peers.items()}


class DeviceBytes:
    """Whether a device sends anything at all: one small read, which waits for nobody.

    Raises:
        EnvironmentFault: there is no such file.
    """

    def __init__(self, device: str) -> None:
        self._device = f"{device}:"
        try:
            self._fd = os.open(_DEVICES, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentFault(f"{_DEVICES} cannot be read: {error}") from error
        self._sent = -1

    def moved(self) -> bool:
        """Whether more than heartbeats was sent since it was last said that there was."""
        sent = self._read()
        if 0 <= sent - self._sent <= QUIET_BYTES and self._sent >= 0:
            return False
        self._sent = sent
        return True

    def _read(self) -> int:
        """-1 if the device is not there."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in os.pread(self._fd, 1 << 16, 0).decode().splitlines():
                name, *figures = line.split()
                if name == self._device:
                    return int(figures[_SENT])
        return -1

    def close(self) -> None:
        os.close(self._fd)
