"""What one life of a node has sent and received, counted (pure).

Messages are counted by parcel when they pass, which is cheap, and added up when somebody asks.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from node.core.model_sync import KINDS
from node.core.traffic import Traffic
from node.sim.wire import Parcel
from node.units import Nanos

HELD_MAX: Final = 64
"""Times that are kept before they are added up."""


class Meter:
    """See the module.

    Attributes:
        sent, received: how many of each parcel since they were added up.
        times: of each message that was acknowledged since then: how long it took from the queue to
            the acknowledgement, and to the link.
    """

    __slots__ = ("_traffic", "_wire", "received", "sent", "times")

    def __init__(self) -> None:
        self._traffic = Traffic()
        self._wire = [0, 0]
        self.sent: defaultdict[Parcel, int] = defaultdict(int)
        self.received: defaultdict[Parcel, int] = defaultdict(int)
        self.times: list[tuple[Parcel, Nanos, Nanos]] = []

    @property
    def traffic(self) -> Traffic:
        """The counters as they are now."""
        self.add_up()
        return self._traffic

    @property
    def wire(self) -> tuple[int, int]:
        """Bytes on the wire, sent and received, acknowledgements included."""
        self.add_up()
        return self._wire[0], self._wire[1]

    def cancelled(self, kind: str, unsent: int) -> None:
        """So many bytes of values were taken back."""
        self._traffic.count_cancelled(kind, unsent)

    def cut_off(self, kind: str, unsent: int) -> None:
        """So many bytes of values of a message that counts as sent were taken back."""
        self._traffic.count_sent(kind, -unsent)
        self._traffic.count_cancelled(kind, unsent)

    def lost(self, kind: str, values: int) -> None:
        """A message was given up."""
        if kind not in KINDS:
            self._traffic.of(kind).lost += values

    def add_up(self) -> None:
        """To be called now and then, so that what is kept stays small."""
        traffic, wire = self._traffic, self._wire
        for parcel, count in self.sent.items():
            wire[0] += count * parcel.wire
            wire[1] += count * parcel.back
            traffic.control_sent += count * (parcel.message - parcel.values)
            if parcel.kind in KINDS:
                traffic.sync_sent += count * parcel.values
            else:
                traffic.count_sent(parcel.kind, count * parcel.values)
        for parcel, count in self.received.items():
            wire[1] += count * parcel.wire
            wire[0] += count * parcel.back
            traffic.control_received += count * (parcel.message - parcel.values)
            if parcel.kind in KINDS:
                traffic.sync_received += count * parcel.values
            else:
                traffic.model_received += count * parcel.values
        for kind in dict.fromkeys(parcel.kind for parcel, _, _ in self.times):
            if kind in KINDS:
                continue
            found = [each for each in self.times if each[0].kind == kind]
            values = sum(parcel.values for parcel, _, _ in found)
            traffic.model_delivered += values
            of_kind = traffic.of(kind)
            of_kind.delivered += values
            of_kind.latency.add_all([latency for _, latency, _ in found])
            of_kind.queued.add_all([queued for _, _, queued in found])
        self.sent.clear()
        self.received.clear()
        self.times.clear()
