"""What travels on the stream between two peers (`proto/peer.proto`): one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from node.core.ids import NodeId

PROTOCOL: Final = 1
"""Of the peer stream; both ends must have the same."""
MAX_PAYLOAD: Final = 64 * 1024
"""Bytes of a message in one chunk, at most."""
MAX_FRAME: Final = MAX_PAYLOAD + 1024
"""Bytes of an encoded frame, at most."""
MAX_MESSAGE: Final = 512 * 2**20
"""Bytes of a message that an end takes before it knows how large its own model is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who says something: a member of a session, in one of its lives.

    Args:
        incarnation: greater after every restart of the member.
    """

    session: str
    member: NodeId
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The first frame from either side."""

    identity: Identity
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes `offset` and on of message `message`, which has `total`.

    Args:
        filler: of a message that only measures a link.
        lost: instead of a payload, how many bytes an emulated link lost here.
    """

    message: int
    offset: int
    total: int
    payload: bytes = b""
    filler: bool = False
    lost: int = 0

    @property
    def length(self) -> int:
        """Bytes of the message that it accounts for."""
        return len(self.payload) + self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """How many bytes of chunks the receiver has taken from this stream so far."""

    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """The rest of this message will not come."""

    message: int


Frame: TypeAlias = Greeting | Chunk | Ack | Ping | Pong | Abort
