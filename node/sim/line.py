"""The stream between a member and the coordinator in a simulation; see `node.runtime.signaling`.

It has a class of its own in an emulated network too, and is never cut: what is said arrives in
order after `SIGNAL_NS`, unless the process that said it, or was to hear it, is no more by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.core.events import PeerChange, PeerChanged, Received
from node.core.ids import COORDINATOR, NodeId
from node.core.signals import Signal
from node.units import MILLISECOND, Nanos

if TYPE_CHECKING:
    from node.sim.host import NodeHost
    from node.sim.world import World

SIGNAL_NS: Final[Nanos] = MILLISECOND
"""From a member to the coordinator or back: a loopback or bridge, two processes and gRPC."""


class Line:
    """Both ends of a member's stream, over all of its lives."""

    def __init__(self, world: World, member: NodeId) -> None:
        self._world = world
        self._queue = world.queue
        self._member = member
        self._host: NodeHost | None = None
        self._up = False
        """As the member sees it."""
        self._known = 0
        """The incarnation that the coordinator knows; 0: none."""

    def open(self, host: NodeHost) -> None:
        """A new life of the member dials."""
        self._host, self._up = host, False
        self._queue.after(SIGNAL_NS, self._connected, host)

    def close(self) -> None:
        """The member's life is over; what it has said arrives."""
        host, self._host = self._host, None
        if host is not None and self._up:
            self._queue.after(SIGNAL_NS, self._lost, host.incarnation)
        self._up = False

    def from_member(self, signal: Signal) -> None:
        """Before there is a stream, nothing is said that is not said again on it."""
        if self._host is not None and self._up:
            self._queue.after(SIGNAL_NS, self._at_coordinator, self._host.incarnation, signal)

    def from_coordinator(self, signal: Signal) -> None:
        if self._known:
            self._queue.after(SIGNAL_NS, self._at_member, self._known, signal)

    def _connected(self, host: NodeHost) -> None:
        if host is self._host:
            self._up = True
            host.tell(PeerChanged(peer=COORDINATOR, change=PeerChange.CONNECTED))

    def _at_coordinator(self, incarnation: int, signal: Signal) -> None:
        coordinator = self._world.coordinator
        if incarnation != self._known:
            change = PeerChange.RESTARTED if self._known else PeerChange.CONNECTED
            self._known = incarnation
            coordinator.feed(PeerChanged(peer=self._member, change=change))
        coordinator.feed(Received(sender=self._member, message=signal))

    def _at_member(self, incarnation: int, signal: Signal) -> None:
        host = self._host
        if host is not None and host.incarnation == incarnation:
            host.tell(Received(sender=COORDINATOR, message=signal))

    def _lost(self, incarnation: int) -> None:
        if incarnation == self._known:
            lost = PeerChanged(peer=self._member, change=PeerChange.LOST)
            self._world.coordinator.feed(lost)
