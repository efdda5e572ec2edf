"""Round trips of small packets: ICMP echo where an ordinary user may send it, else UDP echo.

The peer's kernel answers ICMP, so nothing but the path is in the figure; a UDP echo adds the time
that the peer's process takes to answer.
"""

from __future__ import annotations

import asyncio
import errno
import random
import secrets
import socket
import struct
import time
from typing import Final

from node.units import SECOND, Nanos

_ICMP: Final = struct.Struct("!BBHHHQ")
"""Type, code, checksum and id (the kernel fills them in), number, token."""
SPREAD: Final = (0.75, 1.25)
"""Of the mean, from one ping to the next: drawn, so that they keep step with nothing on the way, or
all would be early or late by the same."""
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


class _Pings:
    """Sends numbered packets and notes when their answers come."""

    def __init__(self, address: tuple[str, int], *, datagram: struct.Struct, head: bytes) -> None:
        self._token = secrets.randbits(63)
        self._datagram, self._head = datagram, head
        self._sent: dict[int, Nanos] = {}
        self.trips: list[Nanos] = []
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
            self._icmp = True
        except PermissionError:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._icmp = False
        self._socket.setblocking(False)
        self._socket.connect(address)

    async def run(self, *, count: int, every_ns: Nanos, patience_ns: Nanos) -> None:
        """Send them, then wait for answers still to come, at most so long."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._receive)
        try:
            for number in range(count):
                self._send(number)
                await asyncio.sleep(every_ns * random.uniform(*SPREAD) / SECOND)
            give_up = time.monotonic_ns() + patience_ns
            while self._sent and time.monotonic_ns() < give_up:
                await asyncio.sleep(every_ns / SECOND)
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _send(self, number: int) -> None:
        if self._icmp:
            packet = _ICMP.pack(_ECHO_REQUEST, 0, 0, 0, number, self._token)
        else:
            packet = self._head + self._datagram.pack(self._token, number)
        self._sent[number] = time.monotonic_ns()
        try:
            self._socket.send(packet)
        except OSError as error:
            # Our own link refuses it (ENOBUFS), or the peer's kernel has told us that nobody
            # listens: a ping that is not answered, like any other.
            if error.errno not in (errno.ENOBUFS, errno.ECONNREFUSED, errno.EAGAIN):
                raise
            del self._sent[number]

    def _receive(self) -> None:
        now = time.monotonic_ns()
        while True:
            try:
                packet = self._socket.recv(2048)
            except OSError:
                return  # nothing more, or an ICMP error about what we sent
            if (number := self._number(packet)) in self._sent:
                self.trips.append(now - self._sent.pop(number))

    def _number(self, packet: bytes) -> int:
        """Of an answer to us; -1 of anything else."""
        if self._icmp:
            if len(packet) < _ICMP.size or packet[0] != _ECHO_REPLY:
                return -1
            _, _, _, _, number, token = _ICMP.unpack_from(packet)
        else:
            if len(packet) < len(self._head) + self._datagram.size:
                return -1
            token, number = self._datagram.unpack_from(packet, len(self._head))
        return int(number) if token == self._token else -1


async def round_trips(
    address: tuple[str, int],
    *,
    count: int,
    every_ns: Nanos,
    patience_ns: Nanos,
    datagram: struct.Struct,
    head: bytes,
) -> list[Nanos]:
    """The round trips of those that were answered, in ns, unsorted.

    Args:
        address: of the peer's probe server.
        patience_ns: how long to wait for answers after the last was sent.
        datagram: how token and number are packed behind `head` in a UDP echo.
    Raises:
        OSError: the peer cannot be reached at all.
    """
    pings = _Pings(address, datagram=datagram, head=head)
    await pings.run(count=count, every_ns=every_ns, patience_ns=patience_ns)
    return pings.trips
