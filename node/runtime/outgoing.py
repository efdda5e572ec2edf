"""What a mesh puts into its send queue, and how it is cut into frames."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from node.config import PathSpec
from node.core.messages import Delivery
from node.core.outbox import Outgoing
from node.units import MILLISECOND, SECOND, Nanos
from node.wire.codec import Encoded
from node.wire.frames import MAX_PAYLOAD

_FRAME_NS: Final = 4 * MILLISECOND
_FRAME_MIN: Final = 4 * 1024


class Body:
    """What the send queue carries for a mesh.

    Args:
        kind: of an algorithm's message: what it is counted as; None: not as one.
        entered: when it entered the queue; as all times here, of the monotonic clock.
        filled: of ballast: when the peer had all of it.
    """

    __slots__ = ("begun", "delivery", "encoded", "entered", "filled", "kind")

    def __init__(
        self,
        encoded: Encoded,
        delivery: Delivery,
        *,
        kind: str | None = None,
        entered: Nanos = 0,
        filled: asyncio.Future[Nanos] | None = None,
    ) -> None:
        self.encoded = encoded
        self.delivery = delivery
        self.kind = kind
        self.entered = entered
        self.begun = entered
        """When its first byte was handed to a stream."""
        self.filled = filled


def frame_bytes(path: PathSpec | None) -> int:
    """Payload of a frame: what a path takes `_FRAME_NS` for, so that acknowledgements flow."""
    if path is None or path.rate_bps is None:
        return MAX_PAYLOAD
    return min(MAX_PAYLOAD, max(_FRAME_MIN, path.rate_bps * _FRAME_NS // (8 * SECOND)))


def model_bytes(item: Outgoing, offset: int, length: int) -> int:
    """How many of these bytes of a message are model values, which are its last ones."""
    head: Any = item.size - item.model_bytes
    return int(max(0, offset + length - max(offset, head)))
