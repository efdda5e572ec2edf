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
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from node.config import PathSpec
from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links import netlink
from node.links.delay import Line
from node.links.impair import own_fate
from node.links.tc_plan import Delay
from node.units import MICROSECOND, SECOND, Nanos

RECEIVE_BUFFER: Final = 16 * 2**20
"""Bytes for notices not yet read, about 1 KB each: a second at 200 Mbit/s."""

PAUSE_NS: Final = (200 * MICROSECOND, 2000 * MICROSECOND, 5000 * MICROSECOND)
"""Between two looks at a busy queue: a quarter of the delay, 2 ms at least; 5 ms, half the delay
and the jitter at most; never less than 0.2 ms. That is the mean, drawn from half to three halves.

A look costs about 60 us, most of it the caches' misses after a pause and the kernel's work on what
is let go, so this sets the CPU share under load. Packets then leave up to half a pause early or
late, on average on time; those that come less than every two pauses leave within 0.1 to 0.2 ms.
"""
LEAD_NS: Final = 100 * MICROSECOND
"""To wake up, look, and have a packet let go takes about as long at least: one that is waited for
is let go by so much too soon, and is on time."""

VERDICTS: Final = 1000
"""Messages of 32 bytes in one system call; a socket takes no more than its send buffer at once."""

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
        cut: dropped because there was no path.
        overflowed: dropped because more were under way than the line holds, or because this
            process did not keep up.
        late_ns: the longest time that a packet left after it was due.
    """

    packets: int
    lost: int
    cut: int
    overflowed: int
    late_ns: Nanos

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True, kw_only=True, eq=False)
class _Source:
    """A source's line, and what is sent to the kernel about it."""

    delay: Delay
    line: Line
    passing: bytes
    """A verdict that lets pass, up to the packet's number."""
    pause_ns: Nanos
    late_ns: Nanos = 0
    newest: int = 0


class DelayLine:
    """All sources of one node.

    Args:
        delays: what to do to whose packets.
        seed: of the losses and the jitter; with the source's name it makes its own stream.
    Raises:
        EnvironmentFault: the kernel does not give us the queues.
    """

    def __init__(self, delays: Sequence[Delay], *, seed: str) -> None:
        self._seed = seed
        self._sources = {delay.queue: self._source(delay) for delay in delays}
        self._busy: dict[int, _Source] = {}
        self._arrival = 0
        self._rest = 0
        self._pause_ns = PAUSE_NS[0]
        self._dither = random.Random(f"{seed}/looks").random
        # While a socket wants them, the kernel stamps all packets with their time of arrival: a
        # packet is then due on time even if its notice is read late.
        self._stamping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stamping.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self._socket = bind(delays)
        self._notices = netlink.Notices(self._socket.fileno())

    def _source(self, delay: Delay) -> _Source:
        return _Source(
            delay=delay,
            line=Line(
                delay.path,
                streams=lambda purpose: random.Random(f"{self._seed}/{delay.peer}/{purpose}"),
            ),
            passing=netlink.verdict_head(netlink.VERDICT_BATCH, delay.queue, netlink.ACCEPT),
            pause_ns=pause_ns(delay.path),
        )

    def fileno(self) -> int:
        """Readable when packets have come in."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """By which the kernel knows us as the owner of the queues."""
        port: int = self._socket.getsockname()[0]
        return port

    @property
    def pause_ns(self) -> Nanos:
        """The longest that `turn` may want to pause with the packets that are under way now."""
        return self._pause_ns * 3 // 2

    def turn(self) -> Nanos | None:
        """Take in what has arrived and let go what is due, unless it is too soon to look again.

        Returns:
            When to call again at the latest (monotonic clock), None for when the socket is
            readable. Raises OSError when the kernel has taken the queues away.
        """
        # Each look lets go what is due until the middle of the pause after it: more looks than that
        # would let packets go early.
        if time.monotonic_ns() < self._rest:
            return self._rest
        return self._look()

    def _look(self) -> Nanos | None:
        self._rest = 0
        arrived = self._notices.read()
        now = time.monotonic_ns()
        if not arrived:
            return self._punctual(now)
        wall = time.time_ns() - now
        drops: list[bytes] = []
        pause = PAUSE_NS[2]
        for queue, packet, last, at, until in arrived:
            source = self._sources[queue]
            at, until = at - wall, until - wall
            if not now - SECOND < at <= until <= now:
                at = until = now  # no stamp, or the wall clock was set meanwhile
            source.newest = last
            if lost := source.line.arrive(packet, last, at=at, until=until):
                head = netlink.verdict_head(netlink.VERDICT, queue, netlink.DROP)
                drops += [head + number.to_bytes(4, "big") for number in lost]
            self._busy[queue] = source
            pause = min(pause, source.pause_ns)
        if drops:
            self._send(drops)
        self._pause_ns = pause
        dense, self._arrival = now - self._arrival < 2 * pause, now
        if not dense:
            return self._punctual(now)
        # Under load, look again after a pause rather than at every packet; not always the same one,
        # or looks here and at the other end would keep step, and all packets be as early or late.
        pause = round(pause * (0.5 + self._dither()))
        self._release(now, until=now + pause // 2)
        self._rest = now + pause
        return self._rest

    def _punctual(self, now: Nanos) -> Nanos | None:
        """Let go what is due, and return when to do so for the next."""
        due = self._release(now, until=now + LEAD_NS)
        return None if due is None else due - LEAD_NS

    def _release(self, now: Nanos, *, until: Nanos) -> Nanos | None:
        """Let go what is due until then; when the next is, None if there is none."""
        verdicts: list[bytes] = []
        next_due: Nanos | None = None
        for queue, source in tuple(self._busy.items()):
            line = source.line
            if (released := line.release(now=until)) is not None:
                single, upto, due = released
                if now - due > source.late_ns:
                    source.late_ns = now - due
                if single:
                    head = netlink.verdict_head(netlink.VERDICT, queue, netlink.ACCEPT)
                    verdicts += [head + number.to_bytes(4, "big") for number in single]
                if upto is not None:
                    verdicts.append(source.passing + upto.to_bytes(4, "big"))
            head_due = line.next_due()
            if head_due is None:
                del self._busy[queue]
            elif next_due is None or head_due < next_due:
                next_due = head_due
        if verdicts:
            self._send(verdicts)
        return next_due

    def _send(self, verdicts: Sequence[bytes]) -> None:
        """In one system call, up to what a socket takes at once."""
        for start in range(0, len(verdicts), VERDICTS):
            self._socket.send(b"".join(verdicts[start : start + VERDICTS]))

    def change(self, delays: Sequence[Delay]) -> None:
        """From now on these sources' packets fare so; those under way keep their times.

        Where there is no path, what is under way is dropped as well.
        Raises OSError when the kernel has taken the queues away.
        """
        self._look()  # what has come in before now belongs to the links before
        for delay in delays:
            source = self._sources[delay.queue]
            if delay.path is None and source.newest:
                # All up to the newest, whatever still waits of them.
                drop = netlink.verdict_head(netlink.VERDICT_BATCH, delay.queue, netlink.DROP)
                self._send([drop + source.newest.to_bytes(4, "big")])
            source.delay = delay
            source.line.path = delay.path
            source.pause_ns = pause_ns(delay.path)
            configure(self._socket, delay)

    def counters(self) -> dict[NodeId, Counters]:
        """Per source; what could not be counted any more is left out of `overflowed`."""
        overflowed = {}
        with contextlib.suppress(OSError):
            overflowed = {queue: state.overflowed for queue, state in queue_states().items()}
        return {
            source.delay.peer: Counters(
                packets=source.line.packets,
                lost=source.line.lost,
                cut=source.line.cut,
                overflowed=overflowed.get(queue, 0),
                late_ns=source.late_ns,
            )
            for queue, source in self._sources.items()
        }

    def in_force(self) -> Iterator[Delay]:
        """What happens to packets that arrive now, per source."""
        for source in self._sources.values():
            yield source.delay

    def close(self) -> None:
        """End it: from now on the kernel drops the sources' packets."""
        self._socket.close()
        self._stamping.close()


def pause_ns(path: PathSpec | None) -> Nanos:
    """Between two looks at the packets of a path, when they come thick and fast."""
    delay = path.delay_ns if path is not None else SECOND
    least, usual, most = PAUSE_NS
    if path is not None and path.jitter_ns:
        # What a pause adds to the jitter (its length / sqrt(12), as deviation) must not show.
        most = min(most, path.jitter_ns)
    if path is not None and path.reorder:
        most = min(most, usual)  # what is sent ahead waits for the next look
    return max(least, min(most, delay // 2, max(usual, delay // 4)))


def bind(delays: Sequence[Delay]) -> socket.socket:
    """A socket that owns the queues of these delays. Raises EnvironmentFault."""
    try:
        connection = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_NETFILTER
        )
        connection.bind((0, 0))
        connection.settimeout(5.0)
        for delay in delays:
            connection.send(netlink.take(delay.queue))
            while (code := netlink.answer(connection.recv(4096))) is None:
                pass  # a packet that is there before all is set up: it waits, like those to come
            if code:
                raise OSError(code, os.strerror(code))
            configure(connection, delay)
    except OSError as error:
        raise EnvironmentFault(
            f"the kernel gives no NFQUEUE to this process: {error}",
            remedy="the container needs NET_ADMIN and a kernel with nfnetlink_queue",
        ) from error
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    connection.setblocking(False)
    return connection


def configure(connection: socket.socket, delay: Delay) -> None:
    """Set a queue that is ours for a path. Raises OSError."""
    # Trains of packets are taken apart only where each packet has its own fate.
    segment = delay.path is not None and own_fate(delay.path)
    connection.send(netlink.configure(delay.queue, limit=delay.limit, segment=segment))


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
