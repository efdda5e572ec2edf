"""From chunks back to messages: one `Assembler` for each incoming stream.

It holds no more bytes than came, and of no more messages than a well-behaved sender has open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from node.errors import PeerFault
from node.wire.frames import MAX_MESSAGE, Chunk

_OPEN_MAX: Final = 8
"""Messages that may be incomplete at a time: a long one, and short ones between its chunks."""


@dataclass(slots=True)
class _Open:
    total: int
    received: int = 0
    data: bytearray = field(default_factory=bytearray)
    whole: bool = True
    """No byte of it was lost so far."""


class Assembler:
    """Puts the messages of one stream together.

    Attributes:
        limit: bytes that a message may have.
    """

    def __init__(self, *, limit: int = MAX_MESSAGE) -> None:
        self.limit = limit
        self._open: dict[int, _Open] = {}

    def take(self, chunk: Chunk) -> bytearray | None:
        """Add a chunk; returns the message that it completes, if one and nothing of it was lost.

        Raises:
            PeerFault: the chunk does not follow what came before it; its message is forgotten.
        """
        message = self._open.get(chunk.message)
        if message is None:
            message = self._begin(chunk)
        if chunk.offset != message.received or chunk.total != message.total or not chunk.length:
            self.forget(chunk.message)
            raise PeerFault("a chunk that does not follow the one before it")
        if chunk.offset + chunk.length > message.total:
            self.forget(chunk.message)
            raise PeerFault("a chunk beyond the end of its message")
        message.received += chunk.length
        message.whole = message.whole and not chunk.lost
        if message.whole and not chunk.filler:
            message.data += chunk.payload
        if message.received < message.total:
            return None
        self.forget(chunk.message)
        return message.data if message.whole and not chunk.filler else None

    def forget(self, message: int) -> None:
        """The rest of a message will not come."""
        self._open.pop(message, None)

    def _begin(self, chunk: Chunk) -> _Open:
        if chunk.offset:
            raise PeerFault("a chunk from the middle of an unknown message")
        if chunk.total > self.limit:
            raise PeerFault("a message that is too large")
        if len(self._open) >= _OPEN_MAX:
            raise PeerFault("too many messages at once")
        message = self._open[chunk.message] = _Open(chunk.total)
        return message
