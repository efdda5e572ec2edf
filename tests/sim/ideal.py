"""The real send queue on ideal links, chunk by chunk: for tests of the window."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from node.config import Pacing, PathSpec
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.outbox import Chunk, Outbox, Outgoing, Priority, chunk_bytes, window_bytes
from node.sim.wire import Parcel, head_bytes
from node.units import SECOND, Nanos


def sent(
    messages: Sequence[tuple[NodeId, PeerMessage]], paths: Mapping[NodeId, PathSpec]
) -> list[Nanos]:
    """When each message has arrived as a whole, if all are queued at 0. Each path is a link of its
    own, whose acknowledgements meet nothing."""
    box = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda to: window_bytes(paths[to], paths[to]))
    wire: list[float] = []
    for target, message in messages:
        spec = paths[target]
        parcel = Parcel(
            message.kind,
            values=message.model_bytes,
            head=head_bytes(message),
            chunk=chunk_bytes(window_bytes(spec, spec)),
        )
        wire.append(parcel.wire / parcel.message)
        box.push(
            Outgoing(
                target=target, key="", size=parcel.message, body=None,
                priority=Priority.MODEL, model_bytes=message.model_bytes,
            )
        )  # fmt: skip
    free = dict.fromkeys(paths, 0.0)
    written = dict.fromkeys(paths, 0)
    acks: list[tuple[float, NodeId, int]] = []
    arrived = [0] * len(messages)
    now = 0.0
    while True:
        while (chunk := box.next_chunk(paths)) is not None:
            to = chunk.item.target
            left = max(free[to], now) + _takes(chunk, wire, paths[to])
            free[to] = left
            written[to] += chunk.length
            heapq.heappush(acks, (left + 2 * paths[to].delay_ns, to, written[to]))
            if chunk.last:
                arrived[chunk.item.number - 1] = round(left + paths[to].delay_ns)
        if not acks:
            return arrived
        now, to, total = heapq.heappop(acks)
        box.acked(to, total)


def _takes(chunk: Chunk, wire: Sequence[float], spec: PathSpec) -> float:
    assert spec.rate_bps is not None
    return chunk.length * wire[chunk.item.number - 1] * 8 * SECOND / spec.rate_bps
