"""Load on the streams between nodes, where their links are emulated in the application.

Ballast goes through the send queue and the emulated links as messages do; what has arrived is the
streams' own count. Bytes that a link lost and that would be sent again count once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from node.config import LinkChange, NodeConfig, PeerLink
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.core.outbox import window_bytes
from node.runtime.mesh import Mesh
from node.runtime.peer_stream import PeerStream
from node.runtime.tasks import Tasks
from node.units import SECOND

_PIECES: Final = 3
"""Ahead of the stream: it never waits for the next."""
_PIECE: Final = (16 * 1024, 512 * 1024)
_RETRY_S: Final = 0.1


class MeshLoad:
    """See the module, and `load_run.Load`. Make it on a running event loop."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        mesh: Mesh,
        arrived: Callable[[NodeId, int], None],
        tasks: Tasks,
    ) -> None:
        assert config.load is not None
        self._config = config
        self._mesh = mesh
        self._arrived = arrived
        self._tasks = tasks
        self._sample_s = config.load.sample_ns / SECOND
        self._seen: dict[NodeId, tuple[PeerStream, int]] = {}
        """The stream of each peer and how much had arrived on it."""

    async def open(self) -> None:
        """The mesh listens already."""

    async def connect(self, *, deadline_s: float) -> Sequence[NodeId]:
        assert self._config.load is not None
        links = self._config.links.peers
        self._mesh.connect(peer.name for peer in links)
        paths = {peer.name for peer in links if peer.out is not None and peer.into is not None}
        wanted = [name for name in self._config.load.targets if name in paths]
        return await self._mesh.connected(wanted, deadline_s=deadline_s)

    def begin(self) -> None:
        assert self._config.load is not None
        peers = {peer.name: peer for peer in self._config.links.peers}
        for name in peers:
            self._count(name)
        self._tasks.spawn(self._sample())
        for name in self._config.load.targets:
            self._tasks.spawn(self._send(peers[name]))

    def renew(self, target: NodeId) -> None:
        """There is no window that would have to grow: it is computed from the path."""

    def changed(self, change: LinkChange) -> None:
        """The mesh and its links are told by others."""

    def tick(self) -> None: ...

    async def close(self) -> None:
        """The senders are tasks, which their owner cancels."""
        self._mesh.drop_fillers()

    async def _send(self, peer: PeerLink) -> None:
        """Keep a peer supplied, until cancelled."""
        least, most = _PIECE
        size = min(most, max(least, window_bytes(peer.out, peer.into)))
        pieces: deque[asyncio.Future[int]] = deque()
        while True:
            while len(pieces) < _PIECES:
                pieces.append(self._mesh.fill(peer.name, size=size, delivery=Delivery.RELIABLE))
            try:
                await pieces.popleft()
            except ConnectionError:
                await asyncio.sleep(_RETRY_S)

    async def _sample(self) -> None:
        """Take the streams' counts, often enough that each interval has its own."""
        while True:
            await asyncio.sleep(self._sample_s / 4)
            for peer in self._config.links.peers:
                if size := self._count(peer.name):
                    self._arrived(peer.name, size)

    def _count(self, peer: NodeId) -> int:
        """Bytes that have come from a peer since the last time."""
        stream = self._mesh.stream(peer)
        if stream is None:
            return 0
        old, before = self._seen.get(peer, (stream, 0))
        total = stream.received_bytes
        self._seen[peer] = (stream, total)
        return total - before if old is stream else total
