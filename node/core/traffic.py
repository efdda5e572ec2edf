"""What a node's links carried, counted (pure): the same counters in containers and virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from node.core.effects import Value


@dataclass(slots=True)
class KindCount:
    """Messages of one kind, in bytes of model values.

    Args:
        sent: handed to the transport.
        delivered: of them, acknowledged whole by the peer.
        cancelled: taken back before they were sent.
        lost: given up: the peer was out of reach, or a datagram was dropped on the way (which only
            the simulator can know).
    """

    sent: int = 0
    delivered: int = 0
    cancelled: int = 0
    lost: int = 0


@dataclass(slots=True)
class Traffic:
    """Bytes of one node, cumulative.

    Args:
        model_sent, model_delivered, model_received: of model values in algorithms' messages.
        sync_sent, sync_received: of model values in model sync.
        control_sent, control_received: all other bytes of our own protocol on peer streams.
        cancelled: of model values that were taken back before they were sent.
        refused: messages that were refused, a count.
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

    def of(self, kind: str) -> KindCount:
        """The counters of a kind of message."""
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = KindCount()
        return found

    def kinds_record(self) -> dict[str, Value]:
        """Field `kinds` of the record `bytes`: counters by kind, in order of the names."""
        names = [each.name for each in fields(KindCount)]
        return {
            kind: {name: getattr(self.kinds[kind], name) for name in names}
            for kind in sorted(self.kinds)
        }
