"""One agent's part in sharing interior links: the socket, the counters and the clock of `Exchange`.

Every 50 ms while there is traffic: read what our classes have let through, hear the other agents,
tell them, and say which ceilings are to be set. Otherwise it costs a look at the device's counter.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from node.config import LinksConfig, NodeConfig
from node.core.ids import NodeId
from node.links.exchange import TICK_NS, Exchange, Sample
from node.links.tc_pipe import Done
from node.links.tree import EXCHANGE_PORT, Argv
from node.links.usage import DeviceBytes, minors, samples, show_command
from node.units import SECOND, Nanos

STEP: Final = 0.01
"""A ceiling that moves by less is left as it is."""
RECORD_EVERY_NS: Final[Nanos] = SECOND
RECORD_STEP: Final = 0.05
ANSWER_NS: Final[Nanos] = SECOND
"""Longer than this one does not wait for tc."""
DATAGRAMS: Final = 256
"""Taken in at once; the rest waits for the next time."""

Ceilings = Mapping[NodeId, int]
SetCeilings = Callable[[Ceilings, Ceilings], None]
"""From those that are in force to those that shall be."""
Ask = Callable[[Sequence[Argv], Done], None]
"""Have tc do something, and be told when it is done."""


class Shares:
    """What other agents use and what is left for us.

    Args:
        links: as they are now.
        device: that the traffic leaves through.
        ask, set_ceilings: what tc has to do for us.
        record: writes a line of the node's events.
    Raises:
        EnvironmentFault, OSError: no counters, or the port is taken.
    """

    def __init__(
        self,
        config: NodeConfig,
        links: LinksConfig,
        device: str,
        *,
        ask: Ask,
        set_ceilings: SetCeilings,
        record: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._ask, self._set_ceilings, self._record = ask, set_ceilings, record
        self._show = show_command(device)
        self._peers = minors({place: peer.name for place, peer in enumerate(links.peers)})
        self._device = DeviceBytes(device)
        self._samples: dict[NodeId, Sample] = {}
        self._asked_at: Nanos | None = None
        self._exchange = Exchange(
            links,
            me=config.name,
            session=config.session,
            sequence=time.time_ns() // 10**6,  # more than before a restart: 20 a second at most
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind((config.host, config.port + EXCHANGE_PORT))
        self._socket.setblocking(False)
        self._addresses: dict[str, NodeId] = {}
        self._targets: list[tuple[str, int]] = []
        self._applied: dict[NodeId, int] = {}
        self._recorded: tuple[Nanos, dict[NodeId, int]] = (0, {})
        self._next = 0
        self._sent = self._received = self._set = self._strangers = 0
        self._failure: str | None = None
        self.configure(links)

    def fileno(self) -> int:
        """Readable when another agent has said something."""
        return self._socket.fileno()

    def configure(self, links: LinksConfig) -> None:
        """The links are these from now on."""
        partners = [peer for peer in links.peers if peer.name in links.partners]
        self._addresses = {peer.host: peer.name for peer in partners}
        self._targets = [(peer.host, peer.port + EXCHANGE_PORT) for peer in partners]
        self._exchange.configure(links)
        self._next = 0  # at once: what has become less must not be exceeded meanwhile

    @property
    def state(self) -> tuple[int, dict[NodeId, int]]:
        """(how often ceilings were set so far, those in force of what shared links limit)."""
        return self._set, self._applied

    def receive(self) -> None:
        """Take in what other agents say."""
        now = time.monotonic_ns()
        for _ in range(DATAGRAMS):
            try:
                datagram, address = self._socket.recvfrom(2048)
            except OSError:
                return  # nothing more, or a port somewhere that nobody listens on
            sender = self._addresses.get(address[0])
            if sender is None:
                self._strangers += 1
            elif self._exchange.hear(sender, datagram, now=now):
                self._received += 1

    def turn(self, now: Nanos) -> Nanos:
        """If a tick has passed, do what it takes; when the next is due."""
        if now < self._next:
            return self._next
        self._next = max(self._next + TICK_NS, now + TICK_NS // 2)
        if self._asked_at is not None and now - self._asked_at < ANSWER_NS:
            return self._next  # the kernel has no time for us; the answer brings the turn
        if self._device.moved():
            self._asked_at = now
            self._ask([self._show], self._take)
        else:
            self._go_on(now)
        return self._next

    def _take(self, at: Nanos, failed: str | None, printed: bytes) -> None:
        """tc has printed the counters."""
        self._asked_at = None
        if failed is None:
            self._samples = dict(samples(printed, self._peers))
        self._go_on(at)

    def _go_on(self, now: Nanos) -> None:
        self.receive()
        self._exchange.observe(self._samples, now=now)
        done = self._exchange.turn(now=now)
        for datagram in done.datagrams:
            for target in self._targets:
                with contextlib.suppress(OSError):  # unreachable for now; it is said again
                    self._socket.sendto(datagram, target)
                    self._sent += 1
        if done.ceilings is not None and (new := self._stepped(done.ceilings)) != self._applied:
            old, self._applied = self._applied, new
            self._set += 1
            self._set_ceilings(old, new)
        self._tell(now)

    def _stepped(self, wanted: Ceilings) -> dict[NodeId, int]:
        """The ceilings to set: those that hardly move stay."""
        stepped = {}
        for peer, bps in wanted.items():
            old = self._applied.get(peer)
            near = old is not None and abs(bps - old) <= STEP * old
            stepped[peer] = old if near and old is not None else bps
        return stepped

    def _tell(self, now: Nanos) -> None:
        """Record what the shares are, once a second at most, and only when they have moved."""
        when, told = self._recorded
        if now - when < RECORD_EVERY_NS or told == self._applied:
            return
        moved = told.keys() != self._applied.keys() or any(
            abs(told[peer] - bps) > RECORD_STEP * told[peer] for peer, bps in self._applied.items()
        )
        if moved:
            self._recorded = (now, dict(self._applied))
            self._record("shares", {"ceilings_bps": dict(self._applied)})

    def failed(self, why: str) -> None:
        """A ceiling could not be set; it is tried again when it changes."""
        self._asked_at = None
        if self._failure is None:
            self._record("error", {"message": f"the share of a link cannot be set: {why}"})
        self._failure = why

    def counters(self) -> dict[str, Any]:
        """For the record at the end."""
        return {
            "sent": self._sent,
            "received": self._received,
            "refused": self._exchange.refused + self._strangers,
            "ceilings_set": self._set,
            "error": self._failure,
        }

    def close(self) -> None:
        """Say no more."""
        self._socket.close()
        self._device.close()
