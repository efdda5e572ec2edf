"""What messages cost on the wire (pure): the containers' framing, counted as HTB counts it.

message   4 bytes of length, an `Envelope`, the values                 node.wire.codec
chunks    of at most `outbox.chunk_bytes`, each a protobuf `Frame`      node.wire.frames
gRPC      5 bytes of prefix a frame, 9 of HTTP/2 a DATA frame
TCP       1448 bytes of it in a packet: MTU 1500 less 20 of IPv4 and 32 of TCP with timestamps
Ethernet  14 bytes a packet, as HTB and netem count them: 1514 for a full one
"""

from __future__ import annotations

from typing import Final

from node.core.messages import PeerMessage
from node.units import SECOND

PAYLOAD: Final = 1448
"""Bytes of a stream in a full packet."""
PACKET: Final = 66
"""Bytes of a packet besides: Ethernet 14, IPv4 20, TCP 32."""
ENVELOPE: Final = 58
"""Of a message's head: length, session, names, round, which part; within 10 bytes, as they vary."""
FIELD: Final = 14
"""Of a field besides its name and, if it is a text, that."""
CHUNK: Final = 19 + 5 + 9
"""Of a chunk: the frame's fields, gRPC's prefix, HTTP/2's header."""
ACK: Final = PACKET + 7 + 5 + 9
"""The packet in which our protocol acknowledges a chunk, whole."""
SMALL: Final = 128
"""A packet of a greeting, a ping or its answer, whole."""


class Parcel:
    """What messages of one kind and size are on their way over paths of one kind.

    Attributes:
        kind: `PeerMessage.kind`.
        values: bytes of model values, as many as they stand for.
        message: the same with the head: what the send queue counts.
        wire: bytes that the link carries.
        back: bytes that the link back carries for it: acknowledgements, ours and TCP's.
        packets: how many packets are full of it.
        share: bytes of `message` that leave each ns for each bit/s.
    """

    __slots__ = ("back", "kind", "message", "packets", "share", "values", "wire")

    def __init__(self, kind: str, *, values: int, head: int, chunk: int) -> None:
        """Cut into chunks of `chunk` bytes. TCP acknowledges every second packet by itself; our
        acknowledgements come on top."""
        self.kind = kind
        self.values = values
        self.message = values + head
        chunks = -(-self.message // chunk)
        stream = self.message + chunks * CHUNK
        self.packets = -(-stream // PAYLOAD)
        self.wire = stream + self.packets * PACKET
        self.share = self.message / self.wire / (8 * SECOND)
        self.back = chunks * ACK + self.packets // 2 * PACKET


def head_bytes(message: PeerMessage) -> int:
    """Bytes of an encoded message besides those of its part, which count listed indices."""
    size = ENVELOPE + len(message.kind)
    if not message.fields:
        return size
    for name, value in message.fields.items():
        size += FIELD + len(name) + (len(value) if isinstance(value, str) else 0)
    return size
