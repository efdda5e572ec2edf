"""The delay line: holds packets in the kernel's NFQUEUE and lets them go when they are due.

For kernels without netem. It stands at the receiver, behind the queues that set the rate, so TCP's
own queue limits at the sender work as on a real network. One netlink socket serves all sources; the
kernel keeps the packets and tells only their numbers. When this process ends, the kernel drops
what is queued and all that follows: it fails closed.

It knows nothing of processes or signals; `agent.py` calls `turn` whenever the socket is readable
or the time has come.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links import netlink
from node.links.delay import Line
from node.links.tc_plan import Delay
from node.units import MICROSECOND, SECOND, Nanos

RECEIVE_BUFFER: Final = 16 * 2**20
"""Bytes for notices not yet read, about 1 KB each: a second at 200 Mbit/s."""

PAUSE_NS: Final = (200 * MICROSECOND, 2000 * MICROSECOND)
"""Least and most time between two looks at a busy queue; within it, 1/10 of the shortest delay.

A look costs 40 (idle machine) to 110 us (busy one) however little there is to do, so this sets the
CPU share under load. Packets then leave up to half a pause early or late, on average on time;
those that come less than every two pauses are never early, and late by 0.1 ms.
"""

NOBODY: Final = NodeId("")
"""For a queue that stands for no peer, when only the kernel's ability is asked for."""

_SO_TIMESTAMP: Final = 29
_SO_RCVBUFFORCE: Final = 33
_STATUS: Final = Path("/proc/self/net/netfilter/nfnetlink_queue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """One source's packets since the start.

    Args:
        packets: that came in.
        lost: drawn to be lost, as asked.
        overflowed: dropped because more were under way than the line holds, or because this
            process did not keep up.
        late_ns: the longest time that a packet left after it was due.
    """

    packets: int
    lost: int
    overflowed: int
    late_ns: Nanos

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class DelayLine:
    """All sources of one node.

    Args:
        delays: what to do to whose packets.
        seed: of the losses and the jitter; with the source's name it makes its own stream.
    Raises:
        EnvironmentFault: the kernel does not give us the queues.
    """

    def __init__(self, delays: Sequence[Delay], *, seed: str) -> None:
        self._lines = {
            d.queue: Line(d, randomness=random.Random(f"{seed}/{d.peer}")) for d in delays
        }
        self._late_ns = dict.fromkeys(self._lines, 0)
        self._busy: set[int] = set()
        self._arrival = 0
        shortest = min((d.delay_ns for d in delays), default=0)
        self.pause_ns = min(PAUSE_NS[1], max(PAUSE_NS[0], shortest // 10))
        # While a socket wants them, the kernel stamps all packets with their time of arrival: a
        # packet is then due on time even if its notice is read late.
        self._stamping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stamping.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self._socket = bind(delays)
        self._notices = netlink.Notices(self._socket.fileno())

    def fileno(self) -> int:
        """Readable when packets have come in."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """By which the kernel knows us as the owner of the queues."""
        port: int = self._socket.getsockname()[0]
        return port

    def turn(self) -> Nanos | None:
        """Take in what has arrived and let go what is due.

        Returns:
            When to call again at the latest (monotonic clock), None for when the socket is
            readable. Raises OSError when the kernel has taken the queues away.
        """
        now = time.monotonic_ns()
        wall = time.time_ns() - now
        drops: list[bytes] = []
        arrived = self._notices.read()
        for queue, packet, stamp in arrived:
            at = stamp - wall
            if not now - SECOND < at <= now:
                at = now  # no stamp, or the wall clock was set meanwhile
            if self._lines[queue].arrive(packet, at=at):
                self._busy.add(queue)
            else:
                drops.append(_drop(queue, packet))
        self._send(drops)
        if not arrived:
            return self._release(until=time.monotonic_ns())
        dense, self._arrival = now - self._arrival < 2 * self.pause_ns, now
        if not dense:
            return self._release(until=time.monotonic_ns())
        # Under load, look again after a pause rather than at every packet.
        self._release(until=now + self.pause_ns // 2)
        return now + self.pause_ns

    def _release(self, *, until: Nanos) -> Nanos | None:
        """Let go what is due until then; when the next is, None if there is none."""
        verdicts = []
        next_due: Nanos | None = None
        for queue in tuple(self._busy):
            line = self._lines[queue]
            if (released := line.release(now=until)) is not None:
                packet, due = released
                self._late_ns[queue] = max(self._late_ns[queue], until - due)
                verdicts.append(_pass(queue, packet))
            head = line.next_due()
            if head is None:
                self._busy.discard(queue)
            elif next_due is None or head < next_due:
                next_due = head
        self._send(verdicts)
        return next_due

    def _send(self, verdicts: list[bytes]) -> None:
        if verdicts:
            self._socket.send(b"".join(verdicts))

    def counters(self) -> dict[NodeId, Counters]:
        """Per source; what could not be counted any more is left out of `overflowed`."""
        overflowed = {}
        with contextlib.suppress(OSError):
            overflowed = {queue: state.overflowed for queue, state in queue_states().items()}
        return {
            line.delay.peer: Counters(
                packets=line.packets,
                lost=line.lost,
                overflowed=overflowed.get(queue, 0),
                late_ns=self._late_ns[queue],
            )
            for queue, line in self._lines.items()
        }

    def in_force(self) -> Iterator[Delay]:
        """What happens to packets that arrive now, per source."""
        for line in self._lines.values():
            yield line.delay

    def close(self) -> None:
        """End it: from now on the kernel drops the sources' packets."""
        self._socket.close()
        self._stamping.close()


def _pass(queue: int, packet: int) -> bytes:
    return netlink.verdict(
        netlink.VERDICT_BATCH, queue=queue, packet=packet, decision=netlink.ACCEPT
    )


def _drop(queue: int, packet: int) -> bytes:
    return netlink.verdict(netlink.VERDICT, queue=queue, packet=packet, decision=netlink.DROP)


def bind(delays: Sequence[Delay]) -> socket.socket:
    """A socket that owns the queues of these delays. Raises EnvironmentFault."""
    try:
        connection = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_NETFILTER
        )
        connection.bind((0, 0))
        connection.settimeout(5.0)
        for delay in delays:
            # Trains of packets are taken apart only where each packet has its own fate.
            segment = delay.loss > 0 or delay.jitter_ns > 0
            for message in netlink.configure(delay.queue, limit=delay.limit, segment=segment):
                connection.send(message)
                _expect_done(connection.recv(4096))
    except OSError as error:
        raise EnvironmentFault(
            f"the kernel gives no NFQUEUE to this process: {error}",
            remedy="the container needs NET_ADMIN and a kernel with nfnetlink_queue",
        ) from error
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    connection.setblocking(False)
    return connection


def _expect_done(reply: bytes) -> None:
    (code,) = struct.unpack_from("=i", reply, 16)
    if code:
        raise OSError(-code, os.strerror(-code))


def read_back(line: DelayLine) -> None:
    """Check that the kernel has every queue in our hands. Raises EnvironmentFault."""
    try:
        states = queue_states()
    except OSError as error:
        raise EnvironmentFault(f"the kernel's queues cannot be read: {error}") from error
    for delay in line.in_force():
        state = states.get(delay.queue)
        if state is None or state.owner != line.port:
            raise EnvironmentFault(
                f"the delay from {delay.peer} cannot be set: queue {delay.queue} is not ours"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What the kernel says about one queue.

    Args:
        owner: netlink port of the process that reads it.
        held: packets waiting now.
        overflowed: dropped for want of room, in the queue or in the reader's socket.
    """

    owner: int
    held: int
    overflowed: int


def queue_states() -> dict[int, QueueState]:
    """The queues of this network namespace that somebody reads. Raises OSError."""
    states = {}
    for line in _STATUS.read_text().splitlines():
        number, owner, held, _, _, dropped, user_dropped, *_ = map(int, line.split())
        states[number] = QueueState(owner=owner, held=held, overflowed=dropped + user_dropped)
    return states
