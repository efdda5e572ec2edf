"""How much bursts, queues and delays hold (pure): figures that every link command rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from node.config import PathSpec, PeerLink
from node.units import MILLISECOND, SECOND, Nanos

FRAME: Final = 1514
"""Bytes that HTB charges for a full packet: MTU 1500 and the Ethernet header."""

UNLIMITED_BPS: Final = 10**11
"""HTB needs a number; no path inside one host comes near this one."""

BURST_NS: Final = MILLISECOND
"""Tokens that an idle class may save. Long enough for the timer's slack at 1 Gbit/s, short enough
that a 64 KiB message still takes its time at any rate of interest."""

BURST_BYTES_MIN: Final = 1600

GSO_NS: Final = MILLISECOND // 5
"""What a train of packets may take of the slowest path's time: 1 packet at 50 Mbit/s, 3 at 200, 16
at 1 Gbit/s. With single packets, two busy cores carried 300 Mbit/s of 1 Gbit/s, with these 950."""

QUEUE_NS: Final = 100 * MILLISECOND
QUEUE_BYTES: Final = (64 * FRAME, 32 * 2**20)
"""The bottleneck's buffer: 100 ms or one round trip of the path, whichever is longer, as a home
router has; not a fixed 1000 packets, which is 12 s at 1 Mbit/s."""

SMALL_PACKET: Final = 256
LINE_PACKETS: Final = (1000, 200_000)
"""What a delay holds is counted in packets, small ones too; least and most that are planned for."""


def burst_bytes(rate_bps: int) -> int:
    """Bytes that an idle class may send at once: one packet at least."""
    return max(BURST_BYTES_MIN, rate_bps * BURST_NS // (8 * SECOND))


def queue_bytes(*, rate_bps: int, rtt_ns: Nanos, asked: int | None = None) -> int:
    """Bytes that a bottleneck of this rate buffers before it drops.

    Args:
        asked: `PathSpec.queue_bytes`, which counts if it is set; one full packet always fits.
    """
    if asked is not None:
        return max(FRAME, asked)
    held = rate_bps * max(QUEUE_NS, rtt_ns) // (8 * SECOND)
    return min(QUEUE_BYTES[1], max(QUEUE_BYTES[0], held))


def line_packets(path: PathSpec) -> int:
    """Packets under way in the path's delay at most, small ones (256 bytes) included."""
    return min(LINE_PACKETS[1], max(LINE_PACKETS[0], _under_way(path)))


def netem_packets(path: PathSpec, *, rtt_ns: Nanos) -> int:
    """Packets in a netem leaf: it is the delay and the bottleneck's queue at once.

    No floor of 1000 as in `line_packets`: below HTB those would be a queue of 12 s at 1 Mbit/s.
    """
    rate = path.rate_bps or UNLIMITED_BPS
    queue = queue_bytes(rate_bps=rate, rtt_ns=rtt_ns, asked=path.queue_bytes)
    return min(LINE_PACKETS[1], _under_way(path) + queue // FRAME)


def _under_way(path: PathSpec) -> int:
    rate = path.rate_bps or UNLIMITED_BPS
    return rate * (path.delay_ns + 4 * path.jitter_ns) // (8 * SMALL_PACKET * SECOND)


def gso_segments(peers: Sequence[PeerLink]) -> int | None:
    """How many packets a sender may hand to the queue as one; None where no path has a rate."""
    return path_segments([p.out for p in peers if p.out is not None])


def path_segments(paths: Sequence[PathSpec]) -> int | None:
    """The same for paths from this node, all that there will be.

    A train of packets that counts as one is lost, delayed and queued as one. So one each where a
    path is slow or impairs single packets, and `GSO_NS` worth of the slowest path where single
    packets would cost a core.
    """
    if any(
        path.loss_rate or path.jitter_ns or path.duplicate or path.corrupt or path.reorder
        for path in paths
    ):
        return 1
    rates = [path.rate_bps for path in paths if path.rate_bps is not None]
    return max(1, min(rates) * GSO_NS // (8 * FRAME * SECOND)) if rates else None
