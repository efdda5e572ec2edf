"""TCP flows whose rate over time is wanted: a sink that keeps the curve, and a source.

    python -m tests.links.run_flows sink HOST PORT
    python -m tests.links.run_flows source HOST PORT

A source sends from the first line on its standard input on; so starting it costs nothing then. The
sink notes every 50 ms how much each address has sent in all; for each line on its standard input it
prints {address: [[monotonic s, bytes], ...]}. A source that is killed takes back what it has not
sent (it resets the connection), as a node does that crashes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time

from node.links.congestion import control_by_loss

CHUNK = bytes(1 << 16)
EVERY_S = 0.05


class _Flow(asyncio.BufferedProtocol):
    """One incoming transfer."""

    _sink = bytearray(1 << 18)

    def __init__(self, totals: dict[str, int]) -> None:
        self._totals = totals
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._address = transport.get_extra_info("peername")[0]
        self._totals.setdefault(self._address, 0)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._sink

    def buffer_updated(self, size: int) -> None:
        self._totals[self._address] += size


async def sink(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    totals: dict[str, int] = {}
    curves: dict[str, list[tuple[float, int]]] = {}
    await loop.create_server(lambda: _Flow(totals), host, port)
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def note() -> None:
        while True:
            now = time.monotonic()
            for address, size in totals.items():
                curves.setdefault(address, []).append((now, size))
            await asyncio.sleep(EVERY_S)

    noting = asyncio.create_task(note())
    print("ready", flush=True)
    while await reader.readline():
        print(json.dumps(curves), flush=True)
    noting.cancel()


def source(host: str, port: int) -> None:
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        control_by_loss(connection)  # BBR's pauses, every ten seconds, are not the network's
        while True:
            connection.sendall(CHUNK)


if __name__ == "__main__":
    role, host, port = sys.argv[1:]
    if role == "sink":
        asyncio.run(sink(host, int(port)))
    else:
        source(host, int(port))
