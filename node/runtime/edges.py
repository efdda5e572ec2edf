"""Which peers answer now: the node's part in setting up a round's connections (`ConnectEdges`).

A peer answers if a ping that was sent in this attempt came back over its stream. Until then it is
dialled again and again, or waited for, if it is the peer that dials. Each peer is settled once for
each attempt that names it, whatever happens, and nothing of an attempt is left when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from node.core.effects import ConnectEdges
from node.core.events import EdgeSettled
from node.core.ids import NodeId
from node.runtime.mesh import Mesh
from node.runtime.tasks import Tasks
from node.units import SECOND, Nanos, format_duration

LIMIT_SHARE: Final = 0.8
"""Of the coordinator's time for an attempt: it has to hear of what failed before that is over."""


class EdgeChecks:
    """See the module. Make it on a running event loop.

    Args:
        timeout_ns: `RoundsConfig.connection_timeout_ns`.
        tell: takes the answers.
    """

    def __init__(
        self,
        *,
        mesh: Mesh,
        timeout_ns: Nanos,
        tasks: Tasks,
        tell: Callable[[EdgeSettled], None],
    ) -> None:
        self._mesh = mesh
        self._limit: Nanos = round(timeout_ns * LIMIT_SHARE)
        self._tasks = tasks
        self._tell = tell
        self._checks: dict[NodeId, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """Checks that are under way."""
        return len(self._checks)

    def check(self, order: ConnectEdges) -> None:
        """Settle these peers; what is under way for the same ones is forgotten."""
        named = dict.fromkeys((*order.peers, *order.spare))
        for peer in named:
            self._forget(peer)
        for peer in named:
            asked_for = peer in order.peers
            if not self._mesh.has_path(peer):
                error = f"no path to {peer} in the link plan"
            elif not asked_for and self._mesh.stream(peer) is None:
                error = f"no stream to {peer}, and none was asked for"
            else:
                if asked_for:
                    self._press(peer, anew=peer in order.anew)
                work = self._settle(peer, order.round, order.attempt)
                self._checks[peer] = self._tasks.spawn(work)
                continue
            self._tell(
                EdgeSettled(peer=peer, round=order.round, attempt=order.attempt, error=error)
            )

    def close(self) -> None:
        """Nothing is settled any more."""
        for peer in list(self._checks):
            self._forget(peer)

    def _forget(self, peer: NodeId) -> None:
        task = self._checks.pop(peer, None)
        if task is not None:
            task.cancel()

    def _press(self, peer: NodeId, *, anew: bool) -> None:
        """See to it that there will be a stream."""
        self._mesh.connect((peer,))
        if anew:
            self._mesh.renew(peer)
        elif self._mesh.stream(peer) is None:
            self._mesh.hasten(peer)

    async def _settle(self, peer: NodeId, number: int, attempt: int) -> None:
        error = await self._answer(peer)
        del self._checks[peer]  # it is this one: `_forget` cancels what it replaces
        self._tell(EdgeSettled(peer=peer, round=number, attempt=attempt, error=error))

    async def _answer(self, peer: NodeId) -> str | None:
        """Wait for an answer; or say what was in the way when time was over."""
        asked = False
        try:
            async with asyncio.timeout(self._limit / SECOND):
                while True:
                    stream = await self._mesh.up(peer)
                    asked = True
                    if await stream.ping() is not None:
                        return None
                    asked = False  # that stream is no more
        except TimeoutError:
            limit = format_duration(self._limit)
            if not self._mesh.has_path(peer):
                return f"no path to {peer} any more, by the link plan"
            if asked:
                return f"no answer to a ping from {peer} within {limit}"
            return f"no stream to {peer} within {limit}: {self._mesh.obstacle(peer)}"
