"""Everything that may cross a link between two peers.

The coordinator's signals are in `node.core.signals`. A message is immutable; arrays in it are
read-only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from node.core.parts import Part

Scalar: TypeAlias = int | float | str


class Delivery(Enum):
    """What a lossy link does to a message."""

    RELIABLE = "reliable"
    """Loss becomes delay: the transport sends again (TCP)."""
    DATAGRAM = "datagram"
    """Loss is loss."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PeerMessage:
    """One message of an algorithm.

    Args:
        kind: what the algorithm calls it, such as `fragment` or `pull`; at most 64 characters.
        round: the sender's round when it was made.
        attempt: in synchronous rounds, the attempt whose start allowed it; 0 elsewhere.
        part: model parameters, or None for a control message.
        fields: a few named numbers or short texts.
        delivery: what loss does to it.
    """

    kind: str
    round: int
    part: Part | None = None
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    delivery: Delivery = Delivery.RELIABLE
    attempt: int = 0

    @property
    def model_bytes(self) -> int:
        """Bytes of model values in it, without any header."""
        return self.part.nbytes if self.part is not None else 0
