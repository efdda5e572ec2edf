"""Probing over loopback: what comes out, what is ignored, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TypeVar

import pytest

from node.config import PathSpec, PeerLink
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links import ping, probes
from node.links.probes import BULK, COUNT, DATAGRAM, END, MAGIC, REQUEST, ProbeServer, measure
from node.units import MILLISECOND

T = TypeVar("T")
HOST = "127.0.0.1"
SLOW = PathSpec(rate_bps=100_000_000)


def free_port() -> int:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind((HOST, 0))
        udp.bind((HOST, tcp.getsockname()[1]))
        return int(tcp.getsockname()[1])


def peer(port: int, out: PathSpec | None = SLOW) -> PeerLink:
    return PeerLink(name=NodeId("b"), host=HOST, port=port - 1, out=out, into=PathSpec())


def serve(use: Callable[[ProbeServer, int], Awaitable[T]]) -> T:
    async def main() -> T:
        port = free_port()
        server = ProbeServer(HOST, port)
        await server.start()
        try:
            async with asyncio.timeout(30):
                return await use(server, port)
        finally:
            await server.close()

    return asyncio.run(main())


def reading(*measures: str, out: PathSpec = SLOW) -> LinkReading:
    return serve(
        lambda _, port: measure(peer(port, out), measures=measures, me=NodeId("a"), deadline=20)
    )


def test_round_trips_and_a_rate_over_loopback() -> None:
    seen = reading("rtt", "rate")
    assert seen.error is None
    assert seen.rtt_ns is not None
    assert 0 < seen.rtt_ns < 20 * MILLISECOND
    assert seen.transport == "tcp"
    assert seen.goodput_bps is not None
    assert seen.goodput_bps > 10_000_000


def test_a_lossy_path_is_measured_by_datagrams() -> None:
    seen = reading("rate", "loss", out=PathSpec(rate_bps=20_000_000, loss=0.01))
    assert seen.error is None
    assert seen.transport == "udp"
    assert seen.goodput_bps == pytest.approx(20_000_000 * probes.TRAIN_OVERDRIVE, rel=0.2)
    assert seen.loss_packets == 5000
    assert seen.loss == pytest.approx(0, abs=0.01)


def test_without_icmp_an_udp_echo_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, kind: int, proto: int = 0) -> socket.socket:
        if proto == socket.IPPROTO_ICMP:
            raise PermissionError
        return socket.socket(family, kind, proto)

    monkeypatch.setattr(ping, "socket", SimpleNamespace(**vars(socket) | {"socket": refuse}))
    seen = reading("rtt")
    assert seen.error is None
    assert seen.rtt_ns is not None
    assert 0 < seen.rtt_ns < 20 * MILLISECOND


def test_no_path_nobody_there_and_no_time_are_errors_not_exceptions() -> None:
    async def ask(port: int, out: PathSpec | None, measures: str, deadline: float) -> str:
        link = peer(port, out)
        seen = await measure(link, measures=(measures,), me=NodeId("a"), deadline=deadline)
        return str(seen.error)

    assert "no path from a to b" in asyncio.run(ask(free_port(), None, "rtt", 5))
    assert "probing b at 127.0.0.1" in asyncio.run(ask(free_port(), SLOW, "rate", 5))
    begin = time.monotonic()
    assert "no end within 0.2 s" in serve(lambda _, port: ask(port, SLOW, "rate", 0.2))
    assert time.monotonic() - begin < 5


def test_malformed_datagrams_are_ignored() -> None:
    async def use(server: ProbeServer, port: int) -> LinkReading:
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for size in (0, 1, DATAGRAM.size - 1, DATAGRAM.size, 1400):
                sender.sendto(secrets.token_bytes(size), (HOST, port))
            sender.sendto(DATAGRAM.pack(MAGIC, COUNT, 1, 2**32 - 1), (HOST, port))
            sender.sendto(DATAGRAM.pack(MAGIC, 99, 1, 0), (HOST, port))
        return await measure(peer(port), measures=("rtt",), me=NodeId("a"), deadline=10)

    assert serve(use).error is None


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        REQUEST.pack(MAGIC, 77, 0, 0, 0),
        REQUEST.pack(MAGIC, BULK, 2**63, 1, 0),
        REQUEST.pack(MAGIC, END, 0, 0, 0),
        REQUEST.pack(MAGIC, COUNT, 0, 0, 1) + REQUEST.pack(MAGIC, COUNT, 0, 0, 1),
    ],
)
def test_malformed_requests_end_the_connection(request_: bytes) -> None:
    async def use(server: ProbeServer, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(request_)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    answer = serve(use)
    assert answer in (b"", REQUEST.pack(MAGIC, COUNT, 0, 0, 0))


def test_silent_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "IDLE_S", 0.1)

    async def use(server: ProbeServer, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert serve(use) == b""


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MAX_CONNECTIONS", 2)

    async def use(server: ProbeServer, port: int) -> list[bool]:
        writers = [(await asyncio.open_connection(HOST, port)) for _ in range(3)]
        ended = []
        for reader, writer in writers:
            try:
                async with asyncio.timeout(0.3):
                    ended.append(await reader.read() == b"")
            except ConnectionResetError:
                ended.append(True)
            except TimeoutError:
                ended.append(False)
            writer.close()
        return ended

    assert serve(use) == [False, False, True]
