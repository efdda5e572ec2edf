"""Numbered datagrams with the time of sending, and who takes in what comes of them.

    python -m tests.links.run_packets sink HOST PORT
    python -m tests.links.run_packets source HOST PORT COUNT PER_SECOND SIZE

The source ends when all are sent. The sink says "ready", then, once its standard input is closed,
[[number, ms on the way], ...] in the order of arrival. Both are on one machine: one clock.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time

HEAD = struct.Struct("!Iq")
BUFFER = 1 << 23


def sink(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.bind((host, port))
        print("ready", flush=True)
        came: list[tuple[int, float]] = []
        threading.Thread(target=_listen, args=(listener, came), daemon=True).start()
        sys.stdin.read()
        print(json.dumps(came), flush=True)


def _listen(listener: socket.socket, came: list[tuple[int, float]]) -> None:
    while True:
        data = listener.recv(2048)
        number, sent = HEAD.unpack_from(data)
        came.append((number, (time.monotonic_ns() - sent) / 1e6))


def source(host: str, port: int, count: int, per_second: float, size: int) -> None:
    filler = bytes(size - 42 - HEAD.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sender.connect((host, port))
        begin = time.monotonic()
        for number in range(count):
            if (left := begin + number / per_second - time.monotonic()) > 0:
                time.sleep(left)
            sender.send(HEAD.pack(number, time.monotonic_ns()) + filler)


if __name__ == "__main__":
    role, host, port, *rest = sys.argv[1:]
    if role == "sink":
        sink(host, int(port))
    else:
        source(host, int(port), int(rest[0]), float(rest[1]), int(rest[2]))
