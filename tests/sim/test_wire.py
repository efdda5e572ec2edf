"""What the simulator counts is what the codec makes."""

from __future__ import annotations

import numpy as np
import pytest

from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Listed, Part, Whole
from node.sim.wire import ACK, CHUNK, PACKET, PAYLOAD, Parcel, head_bytes
from node.wire.codec import encode_frame, encode_message
from node.wire.frames import Ack, Chunk, Identity

ME = Identity(session="ring-20251121-195100-abcd", member=NodeId("n12"), incarnation=123456789)
VALUES = np.zeros(1000, np.float32)


@pytest.mark.parametrize(
    "message",
    [
        PeerMessage(kind="pull", round=3),
        PeerMessage(kind="model", round=120, attempt=1, part=Part(where=Whole(), values=VALUES)),
        PeerMessage(
            kind="fragment", round=7, part=Part(where=Fragment(3, 10, 1 << 60), values=VALUES)
        ),
        PeerMessage(
            kind="model", round=3, part=Part(where=Whole(), values=VALUES),
            fields={"degree": 3, "loss": 1.0, "said": "something"},
        ),
        PeerMessage(
            kind="top", round=3, part=Part(where=Listed(np.arange(1000)), values=VALUES)
        ),
    ],
)  # fmt: skip
def test_a_message_is_as_long_as_the_codec_makes_it(message: PeerMessage) -> None:
    real = encode_message(message, sender=ME).size
    assert head_bytes(message) + message.model_bytes == pytest.approx(real, abs=24)


def test_a_chunk_costs_what_the_codec_and_http_2_add() -> None:
    payload = bytes(16 * 1024)
    frame = encode_frame(Chunk(message=1000, offset=100_000, total=360_000, payload=payload))
    assert len(frame) - len(payload) + 5 + 9 == pytest.approx(CHUNK, abs=3)
    assert PACKET + len(encode_frame(Ack(total=10**8))) + 5 + 9 == pytest.approx(ACK, abs=3)


def test_a_large_message_has_the_goodput_of_full_packets() -> None:
    """1448 of 1514 bytes, as HTB counts, less what chunks cost."""
    parcel = Parcel("m", values=10**6, head=70, chunk=16 * 1024)
    chunks = -(-(10**6 + 70) // (16 * 1024))
    stream = 10**6 + 70 + chunks * CHUNK
    assert parcel.packets == -(-stream // PAYLOAD)
    assert parcel.wire == stream + parcel.packets * PACKET
    assert parcel.values / parcel.wire == pytest.approx(1448 / 1514, rel=0.003)
