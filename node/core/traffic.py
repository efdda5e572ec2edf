"""What a node's links carried, counted (pure): the same counters in containers and virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from node.core.effects import Value
from node.core.histogram import Histogram
from node.units import Nanos

_FATES: Final = ("sent", "delivered", "cancelled", "lost")


@dataclass(slots=True)
class KindCount:
    """Algorithms' messages of one kind. Bytes are those of model values alone.

    Args:
        sent: bytes handed to the transport.
        delivered: of messages that the peer has acknowledged whole.
        cancelled: bytes that were taken back before they were handed to the transport.
        lost: of messages that were given up: the connection broke, the peer was out of reach, or a
            datagram was dropped on the way (which only the simulator can know).
        latency: of each message that was delivered: from when it entered the send queue to its
            acknowledgement.
        queued: of the same, the part until its first byte was handed to the transport.
    """

    sent: int = 0
    delivered: int = 0
    cancelled: int = 0
    lost: int = 0
    latency: Histogram = field(default_factory=Histogram)
    queued: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class Traffic:
    """Bytes of one node since the last reset. Model bytes are parameter values alone, and only
    those of learning: what a newcomer gets is counted apart.

    Args:
        model_sent: handed to a stream.
        model_delivered: acknowledged whole message by whole message.
        model_received: in whole messages.
        sync_sent, sync_received: parameter values of model sync.
        control_sent, control_received: all else in our frames: headers, acknowledgements, pings.
        cancelled: model bytes that a cancel took back before they were sent.
        refused: frames and messages that were malformed or out of place.
        kinds: algorithms' messages by `PeerMessage.kind`.
    """

    model_sent: int = 0
    model_delivered: int = 0
    model_received: int = 0
    sync_sent: int = 0
    sync_received: int = 0
    control_sent: int = 0
    control_received: int = 0
    cancelled: int = 0
    refused: int = 0
    kinds: dict[str, KindCount] = field(default_factory=dict)

    def count_sent(self, kind: str, size: int) -> None:
        """Bytes of a message of an algorithm were handed to the transport."""
        self.model_sent += size
        self.of(kind).sent += size

    def count_delivered(self, kind: str, size: int, *, latency: Nanos, queued: Nanos) -> None:
        """The peer has all of a message; see `KindCount`."""
        self.model_delivered += size
        count = self.of(kind)
        count.delivered += size
        count.latency.add(latency)
        count.queued.add(queued)

    def count_cancelled(self, kind: str, size: int) -> None:
        """Bytes of a message were taken back before they were sent."""
        self.cancelled += size
        self.of(kind).cancelled += size

    def of(self, kind: str) -> KindCount:
        """The counters of a kind of message."""
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = KindCount()
        return found

    def reset(self) -> None:
        """Count from here on."""
        fresh = Traffic()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

    def record(self, *, queued: int, wire: tuple[int, int]) -> dict[str, Value]:
        """The fields of the record `bytes`.

        Args:
            queued: model bytes that wait in the send queue.
            wire: all bytes that the node's links carried, out and in.
        """
        return {
            "model_sent": self.model_sent,
            "model_delivered": self.model_delivered,
            "model_received": self.model_received,
            "sync_sent": self.sync_sent,
            "sync_received": self.sync_received,
            "control_sent": self.control_sent,
            "control_received": self.control_received,
            "cancelled": self.cancelled,
            "kinds": self.kinds_record(),
            "queued": queued,
            "wire_tx": wire[0],
            "wire_rx": wire[1],
        }

    def kinds_record(self) -> dict[str, Value]:
        """Field `kinds` of the record `bytes`: counters by kind, in order of the names."""
        return {
            kind: {fate: getattr(self.kinds[kind], fate) for fate in _FATES}
            for kind in sorted(self.kinds)
        }

    def latency_records(self) -> list[dict[str, Value]]:
        """The fields of the records `latency`, one for each kind of which any was delivered."""
        counted = [(kind, self.kinds[kind]) for kind in sorted(self.kinds)]
        return [
            {"message": kind, **count.latency.record(), "queued": count.queued.record()}
            for kind, count in counted
            if count.latency.count
        ]
