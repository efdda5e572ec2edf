"""Bulk transfers that go on: a sink that tells who gets how much, and a source.

    python -m tests.links.run_bulk sink HOST PORT SOURCES SECONDS
    python -m tests.links.run_bulk source HOST PORT

The sink waits until all sources send, lets a second pass, counts for SECONDS and prints
{address: payload bit/s}.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

from node.links.congestion import control_by_loss

CHUNK = bytes(1 << 16)
RAMP_S = 1.0


class _Source(asyncio.BufferedProtocol):
    """One incoming transfer."""

    _sink = bytearray(1 << 18)

    def __init__(self) -> None:
        self.size = 0
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.address = transport.get_extra_info("peername")[0]

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._sink

    def buffer_updated(self, size: int) -> None:
        self.size += size


async def sink(host: str, port: int, sources: int, seconds: float) -> None:
    arrived: list[_Source] = []

    def accept() -> _Source:
        arrived.append(_Source())
        return arrived[-1]

    server = await asyncio.get_running_loop().create_server(accept, host, port)
    print("ready", flush=True)
    async with asyncio.timeout(30):
        while sum(source.size > 0 for source in arrived) < sources:
            await asyncio.sleep(0.01)
    await asyncio.sleep(RAMP_S)
    begin, before = time.monotonic(), [source.size for source in arrived]
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - begin
    rates = {s.address: 8 * (s.size - b) / elapsed for s, b in zip(arrived, before, strict=True)}
    print(json.dumps(rates), flush=True)
    server.close()


def source(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=10) as connection:
        control_by_loss(connection)
        while True:
            connection.sendall(CHUNK)


if __name__ == "__main__":
    role, host, port, *rest = sys.argv[1:]
    if role == "sink":
        asyncio.run(sink(host, int(port), int(rest[0]), float(rest[1])))
    else:
        source(host, int(port))
