"""The few nfnetlink_queue messages that the delay line speaks, and reading many at once.

Plain stdlib: Python has no recvmmsg, so it is called through ctypes; one system call then fetches
up to `BATCH` packet notices, of which only the fixed head is looked at.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
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


def configure(queue: int, *, limit: int, segment: bool) -> list[bytes]:
    """The messages that make a queue ours.

    Args:
        limit: packets that the kernel holds; it drops those beyond.
        segment: take trains of packets (GSO) apart, so that each has its own fate.
    """
    flags = struct.pack("!I", 0 if segment else FLAG_GSO)
    bodies = [
        _attribute(_CFG_CMD, struct.pack("!BxH", COMMAND_BIND, socket.AF_INET)),
        _attribute(_CFG_PARAMS, struct.pack("!IB", 0, COPY_META)),
        _attribute(_CFG_MAXLEN, struct.pack("!I", limit)),
        _attribute(_CFG_FLAGS, flags) + _attribute(_CFG_MASK, struct.pack("!I", FLAG_GSO)),
    ]
    return [_message(CONFIG, queue, body, flags=_REQUEST | _ACK) for body in bodies]


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
_KIND_ERROR: Final = struct.unpack("!H", struct.pack("=H", _ERROR))[0]
_TIMESTAMP_HEADER: Final = struct.unpack("!I", struct.pack("=HH", 20, _ATTR_TIMESTAMP))[0]
_TIMESTAMP_USUAL: Final = 56
"""Where the arrival time usually stands: behind the packet's header, device and address."""


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

    def read(self) -> list[tuple[int, int, Nanos]]:
        """(queue, packet, time of arrival on the wall clock or 0) of what has come in.

        An empty list when there is nothing now; at most `BATCH` otherwise.
        Raises OSError when the queue is gone.
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
        return list(self._parse(count))

    def _parse(self, count: int) -> Iterator[tuple[int, int, Nanos]]:
        records = self._layout.iter_unpack(self._view[: count * _STRIDE])
        for i, (kind, queue, packet, header, seconds, micros) in enumerate(records):
            if kind != _KIND_PACKET:
                continue  # an error about a verdict: the packet is gone, its device went down
            if header != _TIMESTAMP_HEADER:
                seconds, micros = self._find_timestamp(i, self._entries[i].size)
            yield queue, packet, seconds * SECOND + micros * 1000

    def _timestamp_at(self, offset: int) -> None:
        self._layout = struct.Struct(
            f"!4xH12xH4xI{offset - 28}xIQQ{_STRIDE - offset - 20}x"  # kind, queue, packet, time
        )

    def _find_timestamp(self, index: int, size: int) -> tuple[int, int]:
        """The time in a notice whose attributes are not where they usually are; (0, 0) if none."""
        start = index * _STRIDE
        offset, end = 20, min(size, _STRIDE)
        while offset + 4 <= end:
            length, kind = struct.unpack_from("=HH", self._view, start + offset)
            if kind == _ATTR_TIMESTAMP and offset + 20 <= end:
                self._timestamp_at(offset)
                seconds, micros = struct.unpack_from("!QQ", self._view, start + offset + 4)
                return seconds, micros
            offset += max(4, length + 3 & ~3)
        return 0, 0
