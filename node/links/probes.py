"""Measures paths from inside the node process: round trip, steady rate, loss.

The rate and the loss are counted by whoever receives. A bulk transfer is ended by the receiver when
it has seen enough, so nothing has to drain from the sender's buffers. Every wait has a deadline,
every table a limit; what is malformed is ignored.

    client                                        server (the peer's port + 1)
      TCP: request(kind, ramp, window, token) ->
           bulk: payload until ...            ->  skip the ramp, count the window
                                              <-  report(packets, bytes, elapsed)
           train, count: UDP datagrams        ->  counted by token
           end                                ->
                                              <-  report
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from node.config import PathSpec, PeerLink
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links import estimate, ping, schedule
from node.links.congestion import control_by_loss
from node.units import MILLISECOND, SECOND, Nanos

REQUEST: Final = struct.Struct("!4sB3xQQQ")
"""Magic, kind, ramp and window in ns, token; a report: magic, kind, packets, bytes, elapsed ns.
Of counted packets: those that came, and those that came once more."""
DATAGRAM: Final = struct.Struct("!4sB3xQI")
"""Magic, kind, token, number; anything may follow."""
MAGIC: Final = b"pbm1"
BULK, TRAIN, COUNT, ECHO, END = range(1, 6)

TRAIN_PAYLOAD: Final = 1472
COUNT_PAYLOAD: Final = DATAGRAM.size
TRAIN_OVERDRIVE: Final = 1.15
"""How much faster than the path a train is sent: the queue before it never runs empty."""
MAX_TRAIN_LOSS: Final = 0.75
CHUNK: Final = bytes(1 << 16)
MAX_CONNECTIONS: Final = 256
MAX_WINDOW_NS: Final = 30 * SECOND
MAX_COUNT: Final = 1 << 16
IDLE_S: Final = 10.0
"""A connection on which nothing comes for this long is closed."""
MIN_REPLIES: Final = 5
SAMPLE_NS: Final = MILLISECOND // 2
TICK_S: Final = 0.001


@dataclass(slots=True, kw_only=True)
class Tally:
    """Bytes that arrived, as a curve over time: from the end of the ramp, for one window."""

    ramp_ns: Nanos
    window_ns: Nanos
    first: Nanos | None = None
    size: int = 0
    curve: list[tuple[Nanos, int]] = field(default_factory=list)

    def arrive(self, size: int, *, now: Nanos) -> bool:
        """Take in an arrival; True once the window is full."""
        self.size += size
        if self.first is None:
            self.first = now
        if now - self.first < self.ramp_ns:
            return False
        if not self.curve or now - self.curve[-1][0] >= SAMPLE_NS:
            self.curve.append((now, self.size))
        return now - self.curve[0][0] >= self.window_ns

    def report(self) -> bytes:
        return REQUEST.pack(MAGIC, END, len(self.curve), *steady(self.curve, self.window_ns))


def steady(curve: Sequence[tuple[Nanos, int]], window_ns: Nanos) -> tuple[int, Nanos]:
    """(bytes, ns) between two arrivals that stand for the rate of the curve; (0, 0) if too few.

    Whoever stalls on the way or here, arrivals can only be late by it, never early. So the rate is
    the slope along the earliest points: one in the first third of the window, one in the last.
    """
    if len(curve) < 3:
        return 0, 0
    curve = [point for point in curve if point[0] - curve[0][0] <= window_ns]
    (begin, low), (end, high) = curve[0], curve[-1]
    third, slope = (end - begin) / 3, (high - low) / max(1, end - begin)

    def lead(point: tuple[Nanos, int]) -> float:
        return point[1] - low - slope * (point[0] - begin)

    early = max((p for p in curve if p[0] - begin <= third), key=lead)
    late = max((p for p in curve if end - p[0] <= third), key=lead)
    return late[1] - early[1], late[0] - early[0]


@dataclass(slots=True)
class _Count:
    """Which numbered packets arrived."""

    seen: bytearray = field(default_factory=lambda: bytearray(MAX_COUNT))
    again: int = 0

    def arrive(self, number: int) -> None:
        if number < MAX_COUNT:
            self.again += self.seen[number]
            self.seen[number] = 1

    def report(self) -> bytes:
        return REQUEST.pack(MAGIC, END, self.seen.count(1), self.again, 0)


class ProbeServer:
    """Answers the probes of others, until closed.

    Args:
        host, port: where; TCP and UDP alike.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._sessions: dict[int, Tally | _Count] = {}
        self._open: set[_Connection] = set()

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), *self._address)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(self._address)
        loop.add_reader(self._socket, self._receive)

    async def close(self) -> None:
        """Stop answering; may be called again."""
        server, self._server = self._server, None
        datagrams, self._socket = self._socket, None
        if datagrams is not None:
            asyncio.get_running_loop().remove_reader(datagrams)
            datagrams.close()
        if server is not None:
            server.close()
            for connection in tuple(self._open):
                connection.abort()
            await server.wait_closed()

    def _receive(self) -> None:
        """Take in datagrams; not without end, so that others get their turn."""
        assert self._socket is not None
        now = time.monotonic_ns()
        for _ in range(256):
            try:
                data, sender = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an echo: its sender has gone
            if len(data) < DATAGRAM.size:
                continue
            magic, kind, token, number = DATAGRAM.unpack_from(data)
            if magic != MAGIC:
                continue
            if kind == ECHO:
                with contextlib.suppress(OSError):
                    self._socket.sendto(data[: DATAGRAM.size], sender)
                continue
            session = self._sessions.get(token)
            if isinstance(session, Tally):
                session.arrive(len(data), now=now)
            elif session is not None:
                session.arrive(number)


class _Connection(asyncio.BufferedProtocol):
    """One request, from its arrival to its report."""

    _sink = bytearray(1 << 18)
    """Where bulk data goes, from whichever connection: nobody reads it."""

    def __init__(self, server: ProbeServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._token: int | None = None
        self._session: Tally | _Count | None = None
        self._bulk = False
        self._head = b""
        self._buffer = bytearray(REQUEST.size)
        self._heard = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server._open) >= MAX_CONNECTIONS:
            transport.abort()
            return
        self._server._open.add(self)
        self._watch()

    def _watch(self) -> None:
        left = self._heard + IDLE_S - time.monotonic()
        if left <= 0:
            self.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._watch)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._token is not None:
            self._server._sessions.pop(self._token, None)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._sink if self._bulk else self._buffer

    def buffer_updated(self, size: int) -> None:
        self._heard = time.monotonic()
        if self._bulk:
            assert isinstance(self._session, Tally)
            if self._session.arrive(size, now=time.monotonic_ns()):
                self._reply(self._session.report())
            return
        self._head += self._buffer[:size]
        if len(self._head) >= REQUEST.size:
            head, self._head = self._head[: REQUEST.size], self._head[REQUEST.size :]
            self._request(*REQUEST.unpack(head))

    def _request(self, magic: bytes, kind: int, ramp: int, window: int, token: int) -> None:
        if magic != MAGIC or ramp > MAX_WINDOW_NS or window > MAX_WINDOW_NS:
            self.abort()
        elif self._session is not None and kind == END:
            self._reply(self._session.report())
        elif self._session is not None or kind not in (BULK, TRAIN, COUNT):
            self.abort()
        else:
            counts = kind == COUNT
            self._session = _Count() if counts else Tally(ramp_ns=ramp, window_ns=window)
            self._bulk = kind == BULK
            if not self._bulk and token not in self._server._sessions:
                self._token = token
                self._server._sessions[token] = self._session
                assert self._transport is not None
                self._transport.write(REQUEST.pack(MAGIC, kind, 0, 0, 0))

    def _reply(self, report: bytes) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.write(report)
            self._transport.close()


class ProbeError(Exception):
    """A probe did not come to an end; the message says which."""


async def measure(
    peer: PeerLink, *, measures: Sequence[str], me: NodeId, deadline: float
) -> LinkReading:
    """Measure the path to a peer, one thing after the other.

    Args:
        measures: of `rtt`, `rate`, `loss`; `loss` is skipped on a path without, which is also one
            that sends nothing twice.
        deadline: seconds that it may take in all.
    Returns:
        What could be measured, with the reason in `error` if that is not all.
    """
    reading = LinkReading(source=me, target=peer.name)
    if peer.out is None:
        return replace(reading, error=f"there is no path from {me} to {peer.name}")
    path, back = peer.out, peer.into if peer.into is not None else PathSpec()
    address = (peer.host, peer.port + 1)
    try:
        async with asyncio.timeout(deadline):
            if "rtt" in measures:
                rtt, jitter = await measure_rtt(address, path, back)
                reading = replace(reading, rtt_ns=rtt, jitter_ns=jitter)
            if "rate" in measures:
                transport = "udp" if schedule.scattered(path) else "tcp"
                rate = _train if transport == "udp" else _bulk
                goodput = await rate(address, path, back)
                reading = replace(reading, goodput_bps=goodput, transport=transport)
            if "loss" in measures and schedule.counted(path):
                loss, twice, packets = await _count(address, path)
                reading = replace(reading, loss=loss, duplicate=twice, loss_packets=packets)
    except TimeoutError:
        return replace(reading, error=f"no end within {deadline:g} s")
    except (OSError, ProbeError) as error:
        return replace(reading, error=f"probing {peer.name} at {address[0]}:{address[1]}: {error}")
    return reading


async def measure_rtt(
    address: tuple[str, int], path: PathSpec, back: PathSpec
) -> tuple[Nanos, Nanos | None]:
    """(median, standard deviation where there is jitter) of the round trips.

    Raises ProbeError when next to nothing comes back, OSError.
    """
    jitter = path.jitter_ns + back.jitter_ns
    count, every_ns = schedule.pings(path, back)
    trips = await ping.round_trips(
        address,
        count=count,
        every_ns=every_ns,
        patience_ns=2 * schedule.round_trip_ns(path, back) + 4 * jitter + SECOND // 2,
        datagram=struct.Struct("!QI"),
        head=DATAGRAM.pack(MAGIC, ECHO, 0, 0)[:8],
    )
    if len(trips) < MIN_REPLIES:
        raise ProbeError(f"{len(trips)} of {count} echoes came back")
    reordered = 1 - (1 - path.reorder) * (1 - back.reorder)
    deviation = estimate.deviation(trips) if jitter else None
    return estimate.median(trips, early=reordered), deviation


async def _bulk(address: tuple[str, int], path: PathSpec, back: PathSpec) -> float:
    """Payload bit/s of TCP once it fills the path."""
    ramp, window = schedule.ramp_ns(path, back), schedule.window_ns(path)
    loop = asyncio.get_running_loop()
    with _new_socket(socket.SOCK_STREAM) as connection:
        # Ended by a reset: what is still in the send buffer does not linger on the path.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        control_by_loss(connection)
        await loop.sock_connect(connection, address)
        await _ask(connection, BULK, ramp=ramp, window=window)
        feeding = asyncio.create_task(_feed(connection))
        try:
            return _rate(await _report(connection))
        finally:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await feeding


async def _feed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(connection, CHUNK)


async def _train(address: tuple[str, int], path: PathSpec, back: PathSpec) -> float:
    """Payload bit/s of UDP sent faster than the path is."""
    window = schedule.window_ns(path)
    ramp = 100 * MILLISECOND + schedule.round_trip_ns(path, back)
    # Netem loses packets before it counts them, so what it lets through must still be enough.
    overdrive = TRAIN_OVERDRIVE / (1 - min(path.loss_rate, MAX_TRAIN_LOSS))
    pace = overdrive * (path.rate_bps or schedule.BUDGET_BPS) / (8 * TRAIN_PAYLOAD)
    lasts_s = (1.2 * (ramp + window)) / SECOND
    with _new_socket(socket.SOCK_STREAM) as connection:
        token = await _open(connection, address, TRAIN, ramp=ramp, window=window)
        await _send_paced(
            address, TRAIN, token, count=round(pace * lasts_s), pace=pace, size=TRAIN_PAYLOAD
        )
        await _ask(connection, END)
        return _rate(await _report(connection))


async def _count(address: tuple[str, int], path: PathSpec) -> tuple[float, float, int]:
    """Shares of small packets that were lost and that came twice, and of how many."""
    count, pace = schedule.loss_pace(path)
    with _new_socket(socket.SOCK_STREAM) as connection:
        token = await _open(connection, address, COUNT)
        sent = await _send_paced(
            address, COUNT, token, count=count, pace=float(pace), size=COUNT_PAYLOAD
        )
        await asyncio.sleep((path.delay_ns + 4 * path.jitter_ns) / SECOND + 0.1)
        await _ask(connection, END)
        _, arrived, again, _ = await _report(connection)
        return 1 - min(arrived, sent) / sent, min(again, sent) / sent, sent


async def _send_paced(
    address: tuple[str, int], kind: int, token: int, *, count: int, pace: float, size: int
) -> int:
    """Send numbered datagrams at `pace` a second; how many went out.

    A train that its path cannot take is cut short by the socket's buffer, not delayed: what cannot
    be sent when it is due is left out, except when every packet counts.
    """
    filler = bytes(size - DATAGRAM.size)
    begin, number = time.monotonic(), 0
    with _new_socket(socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        while number < count:
            due = min(count, int((time.monotonic() - begin) * pace) + 1)
            while number < due:
                try:
                    sender.send(DATAGRAM.pack(MAGIC, kind, token, number) + filler)
                except BlockingIOError:
                    if kind == TRAIN:
                        number = due
                    break
                number += 1
            await asyncio.sleep(TICK_S)
    return number


def _new_socket(kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    return made


async def _open(
    connection: socket.socket,
    address: tuple[str, int],
    kind: int,
    *,
    ramp: Nanos = 0,
    window: Nanos = 0,
) -> int:
    """Have the server count datagrams; the token that marks them."""
    token = secrets.randbits(63)
    await asyncio.get_running_loop().sock_connect(connection, address)
    await _ask(connection, kind, ramp=ramp, window=window, token=token)
    await _report(connection)
    return token


async def _ask(
    connection: socket.socket, kind: int, *, ramp: Nanos = 0, window: Nanos = 0, token: int = 0
) -> None:
    request = REQUEST.pack(MAGIC, kind, ramp, window, token)
    await asyncio.get_running_loop().sock_sendall(connection, request)


async def _report(connection: socket.socket) -> tuple[int, int, int, int]:
    """(kind, packets, bytes, elapsed ns) as the server says. Raises ProbeError."""
    data = b""
    while len(data) < REQUEST.size:
        more = await asyncio.get_running_loop().sock_recv(connection, REQUEST.size - len(data))
        if not more:
            raise ProbeError("the peer's probe server closed the connection")
        data += more
    magic, kind, packets, size, elapsed = REQUEST.unpack(data)
    if magic != MAGIC:
        raise ProbeError("the peer's probe port does not speak our protocol")
    return kind, packets, size, elapsed


def _rate(report: tuple[int, int, int, int]) -> float:
    _, _, size, elapsed = report
    if elapsed <= 0:
        raise ProbeError("too little arrived to tell the rate")
    return size * 8 * SECOND / elapsed
