"""Load over plain TCP, on links that the kernel shapes: a sender that never runs dry, and a count.

    sender    greeting (who, of which run), then payload for ever; a connection that breaks, or on
              which nothing is acknowledged any more, is made again until it holds
    receiver  counts what comes, by who sent it; its window bounds what is under way, so that what
              is measured is the network and not TCP (`node.links.window`)

The port is the peer's and three: one up are the probes, two up the link agents.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from node.config import LinkChange, NodeConfig, PathChange, PeerLink
from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links.congestion import control_by_loss
from node.links.window import WINDOW_MAX, window_bytes
from node.runtime.tasks import Tasks
from node.units import SECOND

PORT: Final = 3
"""Above the peer's."""
_CHUNK: Final = memoryview(bytes(1 << 16))
_UNSENT: Final = 1 << 16
"""Bytes that the kernel holds for a connection beyond what it has sent: always enough to send."""
_RETRY_S: Final = 0.1
_CONNECT_S: Final = (0.3, 5.0)
"""For the first attempt to connect, round trips apart; each takes twice the one before, at most so
long: behind what a slow class still holds, an answer takes seconds."""
_ANSWER_S: Final = 5.0
"""Until what is sent again and again counts as undeliverable."""
_GREETING_MAX: Final = 1024
_WAKE_SHARE: Final = 100
"""A receiver is woken so many times a second by a steady flow, whatever its rate."""
_WAKE_MAX: Final = 1 << 16
_RMEM_MAX: Final = Path("/proc/sys/net/core/rmem_max")
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing drops what is unsent."""


class TcpLoad:
    """See the module, and `load_run.Load`. Make it on a running event loop."""

    def __init__(
        self, config: NodeConfig, *, arrived: Callable[[NodeId, int], None], tasks: Tasks
    ) -> None:
        assert config.load is not None
        self._config = config
        self._arrived = arrived
        self._tasks = tasks
        peers = {peer.name: peer for peer in config.links.peers}
        self._senders = {name: _Sender(config, peers[name]) for name in config.load.targets}
        self._most = _largest_window()
        self._windows = {p.name: _window(p, most=self._most) for p in config.links.peers}
        self._server: asyncio.Server | None = None
        self._inflows: dict[NodeId, _Inflow] = {}
        self._greeting: set[_Inflow] = set()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        where = (self._config.host, self._config.port + PORT)
        try:
            self._server = await loop.create_server(lambda: _Inflow(self), *where)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot listen on {where[0]}:{where[1]} for load: {error.strerror}",
                remedy="Another process may use that port; see who with `ss -ltnp`.",
            ) from error

    async def connect(self, *, deadline_s: float) -> Sequence[NodeId]:
        for sender in self._senders.values():
            self._tasks.spawn(sender.run())
        wanted = {name: s for name, s in self._senders.items() if s.has_path}
        waits = [asyncio.create_task(sender.connected.wait()) for sender in wanted.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=deadline_s)
            for wait in late:
                wait.cancel()
        return [name for name, sender in wanted.items() if not sender.connected.is_set()]

    def begin(self) -> None:
        for sender in self._senders.values():
            sender.go.set()

    def renew(self, target: NodeId) -> None:
        self._senders[target].renew()

    def changed(self, change: LinkChange) -> None:
        for path in change.peers:
            self._windows[path.name] = _window(path, most=self._most)
            if (inflow := self._inflows.get(path.name)) is not None:
                inflow.clamp(self._windows[path.name])

    def tick(self) -> None:
        for inflow in self._inflows.values():
            inflow.pace()

    async def close(self) -> None:
        """The senders are tasks, which their owner cancels."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for inflow in (*self._inflows.values(), *self._greeting):
            inflow.abort()
        await server.wait_closed()

    # --- what connections report

    def opened(self, inflow: _Inflow) -> None:
        self._greeting.add(inflow)

    def greeted(self, inflow: _Inflow, greeting: Mapping[str, object]) -> bool:
        """Whether this is a sender of this run; one that comes anew replaces its old connection."""
        source = greeting.get("from")
        known = {peer.name: peer.name for peer in self._config.links.peers}
        if greeting.get("session") != self._config.session or source not in known:
            return False
        name = known[NodeId(str(source))]
        old = self._inflows.get(name)
        if old is not None:
            old.abort()
        self._greeting.discard(inflow)
        self._inflows[name] = inflow
        inflow.source = name
        inflow.clamp(self._windows[name])
        return True

    def arrived(self, source: NodeId, size: int) -> None:
        self._arrived(source, size)

    def closed(self, inflow: _Inflow) -> None:
        self._greeting.discard(inflow)
        if inflow.source is not None and self._inflows.get(inflow.source) is inflow:
            del self._inflows[inflow.source]


def _window(path: PeerLink | PathChange, *, most: int) -> int | None:
    """Bytes that a sender may have under way to here; None: as many as TCP sees fit."""
    return None if path.into is None else window_bytes(path.into, path.out, most=most)


def _largest_window() -> int:
    """Where a container is not shown what the machine allows, what Linux allows by default."""
    try:
        return int(_RMEM_MAX.read_text())
    except (OSError, ValueError):
        return WINDOW_MAX


class _Sender:
    """Keeps one peer supplied.

    Attributes:
        connected: once the first connection stands.
        go: set when the load begins.
    """

    def __init__(self, config: NodeConfig, peer: PeerLink) -> None:
        self.connected = asyncio.Event()
        self.go = asyncio.Event()
        self._peer = peer
        who = {"session": config.session, "from": config.name}
        self._greeting = json.dumps(who).encode() + b"\n"
        self._transfer: asyncio.Task[None] | None = None
        self._failed = 0
        """Attempts in a row."""

    @property
    def has_path(self) -> bool:
        return self._peer.out is not None and self._peer.into is not None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._transfer = asyncio.create_task(self._send())
                await asyncio.wait((self._transfer,))
                if not self._transfer.cancelled():
                    error = self._transfer.exception()
                    if error is not None and not isinstance(error, OSError):
                        raise error
                    await asyncio.sleep(_RETRY_S)
        finally:
            self.renew()

    def renew(self) -> None:
        """End the connection, or the attempt at one; `run` makes another at once."""
        self._failed = 0
        if self._transfer is not None:
            self._transfer.cancel()

    async def _send(self) -> None:
        """One connection to its end. Raises OSError, of which TimeoutError is one."""
        loop = asyncio.get_running_loop()
        trip_s = sum(p.delay_ns for p in (self._peer.out, self._peer.into) if p) / SECOND
        first, longest = _CONNECT_S
        limit_s = min(longest, 2**self._failed * (first + 2 * trip_s))
        self._failed += 1
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            control_by_loss(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
            answer_ms = round(1000 * (_ANSWER_S + 3 * trip_s))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, answer_ms)
            address = (self._peer.host, self._peer.port + PORT)
            async with asyncio.timeout(limit_s):
                await loop.sock_connect(connection, address)
            await loop.sock_sendall(connection, self._greeting)
            self._failed = 0
            self.connected.set()
            await self.go.wait()
            while True:
                await loop.sock_sendall(connection, _CHUNK)


class _Inflow(asyncio.BufferedProtocol):
    """What one sender sends.

    Attributes:
        source: who it is, once it has said so.
    """

    _sink = bytearray(1 << 18)
    """Where the payload goes, from whichever connection: nobody reads it."""

    def __init__(self, load: TcpLoad) -> None:
        self.source: NodeId | None = None
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._second = 0
        """Bytes since the last `pace`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.closed(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def clamp(self, size: int | None) -> None:
        """Let the sender have so many bytes under way; None leaves the window as it is."""
        if size is not None and self._transport is not None:
            taken = self._transport.get_extra_info("socket")
            # With a size of its own the buffer grows no more, and the window not with it.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * size)
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, size)

    def pace(self) -> None:
        """Have the kernel wake us for a hundredth of what comes in a second, not each packet.

        Otherwise 60 receivers of 1000 packets a second each would take two cores.
        """
        size, self._second = self._second // _WAKE_SHARE, 0
        if self._transport is not None and not self._transport.is_closing():
            taken = self._transport.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, max(1, min(size, _WAKE_MAX)))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._sink

    def buffer_updated(self, size: int) -> None:
        if self.source is not None:
            self._second += size
            self._load.arrived(self.source, size)
            return
        head, line_end, payload = (self._head + self._sink[:size]).partition(b"\n")
        if not line_end and len(head) <= _GREETING_MAX:
            self._head = head
        elif not self._load.greeted(self, _greeting(head)):
            self.abort()
        elif payload:
            self.buffer_updated(len(payload))


def _greeting(line: bytes) -> Mapping[str, object]:
    """What a sender says of itself; nothing, if that is not ours to understand."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
