"""The few nfnetlink_queue messages that the delay line speaks, and reading many at once.

Plain stdlib: Python has no recvmmsg, so it is called through ctypes; one system call then fetches
up to `BATCH` packet notices. A queue numbers its packets in a row, so of each queue only the first
notice and the last are looked at: what costs time in Python does not grow with the packets.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from node.units import SECOND, Nanos

NETLINK_NETFILTER: Final = 12
SUBSYSTEM_QUEUE: Final = 3
PACKET, VERDICT, CONFIG, VERDICT_BATCH = range(4)
COPY_META: Final = 1
COMMAND_BIND: Final = 1
FLAG_GSO: Final = 4
DROP, ACCEPT = 0, 1

_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = range(1, 6)
_ATTR_VERDICT_HDR, _ATTR_TIMESTAMP = 2, 4
_REQUEST, _ACK = 1, 4
_ERROR: Final = 2

_HEAD = struct.Struct("=IHHII")
BATCH: Final = 256
_STRIDE: Final = 256
"""Bytes kept of each notice; with metadata only it has about 100."""


def _message(kind: int, queue: int, body: bytes, *, flags: int = _REQUEST) -> bytes:
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue) + body
    return _HEAD.pack(16 + len(body), SUBSYSTEM_QUEUE << 8 | kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def take(queue: int) -> bytes:
    """The message that makes a queue ours, to be acknowledged."""
    command = struct.pack("!BxH", COMMAND_BIND, socket.AF_INET)
    return _message(CONFIG, queue, _attribute(_CFG_CMD, command), flags=_REQUEST | _ACK)


def configure(queue: int, *, limit: int, segment: bool) -> bytes:
    """The messages that set a queue of ours; only a failure is answered.

    Args:
        limit: packets that the kernel holds; it drops those beyond.
        segment: take trains of packets (GSO) apart, so that each has its own fate.
    """
    flags = struct.pack("!I", 0 if segment else FLAG_GSO)
    bodies = (
        _attribute(_CFG_PARAMS, struct.pack("!IB", 0, COPY_META)),
        _attribute(_CFG_MAXLEN, struct.pack("!I", limit)),
        _attribute(_CFG_FLAGS, flags) + _attribute(_CFG_MASK, struct.pack("!I", FLAG_GSO)),
    )
    return b"".join(_message(CONFIG, queue, body) for body in bodies)


def answer(message: bytes) -> int | None:
    """The error number in an acknowledgement, 0 for done; None if it is something else."""
    _, kind, *_ = _HEAD.unpack_from(message)
    return -int(struct.unpack_from("=i", message, 16)[0]) if kind == _ERROR else None


def verdict_head(kind: int, queue: int, decision: int) -> bytes:
    """A verdict but for the number of the packet, four bytes in network order."""
    return verdict(kind, queue=queue, packet=0, decision=decision)[:-4]


def verdict(kind: int, *, queue: int, packet: int, decision: int) -> bytes:
    """What becomes of a packet (VERDICT), or of it and all before it (VERDICT_BATCH)."""
    return (
        _HEAD.pack(32, SUBSYSTEM_QUEUE << 8 | kind, _REQUEST, 0, 0)
        + struct.pack("!BBH", socket.AF_UNSPEC, 0, queue)
        + struct.pack("=HH", 12, _ATTR_VERDICT_HDR)
        + struct.pack("!II", decision, packet)
    )


class _Part(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Entry(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("size", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)

_KIND_PACKET: Final = struct.unpack("!H", struct.pack("=H", SUBSYSTEM_QUEUE << 8 | PACKET))[0]
_KIND_AT: Final = 5 if sys.byteorder == "little" else 4
"""The half of a message's type that says who speaks; an error has another there."""
_QUEUE_HIGH_AT, _QUEUE_LOW_AT = 18, 19
_TIMESTAMP_HEADER: Final = struct.unpack("!I", struct.pack("=HH", 20, _ATTR_TIMESTAMP))[0]
_TIMESTAMP_USUAL: Final = 56
"""Where the arrival time usually stands: behind the packet's header, device and address."""

Arrivals = tuple[int, int, int, Nanos, Nanos]
"""Packets of one queue that were read together: the queue, the numbers of the first and the last,
when those two arrived (wall clock, 0 if not known)."""


class Notices:
    """Reads packet notices off a netlink socket, many in one system call.

    Attributes:
        overruns: how often the socket's buffer ran over (the kernel drops those packets).
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.overruns = 0
        self._buffer = ctypes.create_string_buffer(BATCH * _STRIDE)
        self._view = memoryview(self._buffer).cast("B")
        start = ctypes.addressof(self._buffer)
        parts = (_Part * BATCH)(*(_Part(start + i * _STRIDE, _STRIDE) for i in range(BATCH)))
        self._entries = (_Entry * BATCH)()
        for i, entry in enumerate(self._entries):
            entry.header.parts = ctypes.pointer(parts[i])
            entry.header.part_count = 1
        self._entries_at = ctypes.addressof(self._entries)
        self._timestamp_at(_TIMESTAMP_USUAL)

    def read(self) -> list[Arrivals]:
        """What has come in, of each queue together; at most `BATCH` packets.

        An empty list when there is nothing now. Raises OSError when the queue is gone.
        """
        count: int = _recvmmsg(self._fd, self._entries_at, BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code == errno.ENOBUFS:
                self.overruns += 1
                return []
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code), "NFQUEUE")
        kind, queue, packet, at = self._notice(0)
        other, whose, last, until = (
            self._notice(count - 1) if count > 1 else (kind, queue, packet, at)
        )
        if kind == other == _KIND_PACKET and queue == whose and last - packet == count - 1:
            # As many numbers as notices: none in between is another queue's.
            return [(queue, packet, last, at, until)]
        return list(self._sort(count))

    def _sort(self, count: int) -> Iterator[Arrivals]:
        """The notices of each queue, where they are mixed.

        Errors are left out: they are about a verdict on a packet that is gone.
        """
        kinds, high = self._column(_KIND_AT, count), self._column(_QUEUE_HIGH_AT, count)
        low = self._column(_QUEUE_LOW_AT, count)
        found: dict[int, tuple[int, int]] = {}
        if kinds.count(SUBSYSTEM_QUEUE) == count and not any(high):
            found = {queue: (low.index(queue), low.rindex(queue)) for queue in set(low)}
        else:
            for i in range(count):
                if kinds[i] == SUBSYSTEM_QUEUE:
                    queue = high[i] << 8 | low[i]
                    found[queue] = found.get(queue, (i, i))[0], i
        for queue, (first, last) in found.items():
            _, _, packet, at = self._notice(first)
            _, _, end, until = self._notice(last)
            yield queue, packet, end, at, until

    def _column(self, offset: int, count: int) -> bytes:
        """One byte of each notice."""
        return self._view[offset : count * _STRIDE : _STRIDE].tobytes()

    def _notice(self, index: int) -> tuple[int, int, int, Nanos]:
        """(kind, queue, packet, time of arrival or 0)."""
        start = index * _STRIDE
        kind, queue, packet, header, seconds, micros = self._layout(self._buffer, start)
        if header != _TIMESTAMP_HEADER:
            size = min(self._entries[index].size, _STRIDE)
            seconds, micros = self._find_timestamp(start, size)
        return kind, queue, packet, seconds * SECOND + micros * 1000

    def _timestamp_at(self, offset: int) -> None:
        self._layout = struct.Struct(f"!4xH12xH4xI{offset - 28}xIQQ").unpack_from

    def _find_timestamp(self, start: int, size: int) -> tuple[int, int]:
        """The time in a notice whose attributes are not where they usually are; (0, 0) if none."""
        offset = 20
        while offset + 20 <= size:
            length, kind = struct.unpack_from("=HH", self._view, start + offset)
            if kind == _ATTR_TIMESTAMP:
                self._timestamp_at(offset)
                seconds, micros = struct.unpack_from("!QQ", self._view, start + offset + 4)
                return seconds, micros
            offset += max(4, length + 3 & ~3)
        return 0, 0
