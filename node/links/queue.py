"""Links that are emulated in the application (pure): the `local` backend's, and a model of others.

    backlog --the path and the access link are free--> serialised --delay, jitter, loss--> delivered

`LinkSet` is one direction of one node's access: its paths, and the access links that they share. A
frame is served packet by packet, each when both its path and its access link are free; the paths of
an access link take turns, so that none starves and an acknowledgement never waits for a long frame
of another path. A packet takes size / rate of each. As in HTB, the slower of the two spreads it out
once, not both one after the other.

Rates are those of the wire: each frame is charged Ethernet, IP and TCP headers for every segment of
1448 bytes, so that goodput is 0.956 of the rate, as on a shaped interface. Nothing is ever
delivered out of order on a path. Loss is drawn for each segment, in bursts where the path has them:

- `DATAGRAM`: a frame with a lost segment is lost; it still comes out, marked, in its turn.
- `RELIABLE`: it comes later, as if TCP had sent the segment again: one round trip more for the
  first loss of a segment (fast retransmit), then 200 ms, 400 ms, ... (or round trips, if longer)
  while the copy is lost too; the copies take their share of the rate; what is behind waits. TCP
  would also slow down; this does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from node.config import LinksConfig, PathSpec
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.core.rng import stream
from node.links.impair import lose, loss_chain
from node.units import MILLISECOND, SECOND, Nanos

SEGMENT: Final = 1448
"""Payload bytes of a full TCP segment: MTU 1500, timestamps on."""
OVERHEAD: Final = 66
"""Ethernet, IP and TCP headers of a segment."""
RETRANSMIT: Final = 200 * MILLISECOND
"""Linux's least retransmission time-out."""
_TRIES: Final = 8
"""Losses in a row of one segment that are told apart: the last would come after half a minute."""


def segments(size: int) -> int:
    """Packets that `size` bytes of payload are sent in."""
    return max(1, -(-size // SEGMENT))


def wire_bytes(size: int) -> int:
    """Bytes on the wire for a frame of `size` bytes of payload."""
    return size + OVERHEAD * segments(size)


def _transmission(size: int, rate_bps: int | None) -> Nanos:
    return 0 if rate_bps is None else -(-size * 8 * SECOND // rate_bps)


@dataclass(slots=True)
class AccessQueue:
    """An access link, or any ceiling that several paths share.

    Attributes:
        rate_bps: None is unlimited; may be changed at any time.
    """

    rate_bps: int | None = None
    free_at: Nanos = 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Frame:
    arrived: Nanos
    size: int
    delivery: Delivery
    item: Any
    left: int
    """Bytes on the wire that were not served yet."""
    begun: bool = False
    lost: bool = False
    late: Nanos = 0
    """What sending segments again costs it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delivered:
    """A frame that comes out of a path: `item` as it went in."""

    due: Nanos
    item: Any
    lost: bool
    size: int = 0
    delivery: Delivery = Delivery.RELIABLE


@dataclass(slots=True, kw_only=True)
class Counters:
    """Frames and payload bytes through a path."""

    frames_in: int = 0
    frames_out: int = 0
    frames_lost: int = 0
    wire_bytes: int = 0
    """Served so far, headers and copies of lost segments included."""


@dataclass(slots=True, kw_only=True, eq=False)
class LinkQueue:
    """One direction of a path.

    Args:
        spec: of this direction.
        rng: for jitter and loss.
        access: the access link that it goes through.
        round_trip_ns: what a retransmission costs; None: twice this direction's delay.
        through: frames come in from a wire, not from memory: their packets were passed on while
            they arrived, so that only what comes faster than the access link is held.
    """

    spec: PathSpec
    rng: np.random.Generator
    access: AccessQueue = field(default_factory=AccessQueue)
    round_trip_ns: Nanos | None = None
    through: bool = False
    counters: Counters = field(default_factory=Counters)
    _backlog: deque[_Frame] = field(default_factory=deque)
    _flying: deque[Delivered] = field(default_factory=deque)
    _free_at: Nanos = 0
    _last_due: Nanos = 0
    _bad: bool = False
    """The state of the path's losses in bursts."""
    served_at: Nanos = -1
    """When a frame was served last; -1 before the first."""

    def enqueue(
        self, size: int, *, now: Nanos, delivery: Delivery = Delivery.RELIABLE, item: Any = None
    ) -> None:
        """Put a frame of `size` bytes of payload behind what is there."""
        self.counters.frames_in += 1
        left = wire_bytes(size)
        arrived = now - _transmission(left, self.access.rate_bps) if self.through else now
        self._backlog.append(
            _Frame(arrived=arrived, size=size, delivery=delivery, item=item, left=left)
        )

    @property
    def wire_bytes(self) -> int:
        """Bytes on the wire for all that was put in, served or not."""
        return self.counters.wire_bytes + sum(frame.left for frame in self._backlog)

    def change(self, spec: PathSpec) -> None:
        """From now on the path is like this; what was served already keeps its time."""
        self.spec = spec

    @property
    def servable_at(self) -> Nanos | None:
        """When the next packet can be served; None when there is none."""
        if not self._backlog:
            return None
        return max(self._backlog[0].arrived, self._free_at, self.access.free_at)

    @property
    def done_at(self) -> Nanos | None:
        """When the first frame of the backlog is served at the earliest; None without one."""
        at = self.servable_at
        if at is None:
            return None
        left = self._backlog[0].left
        return at + max(self._on_path(left), _transmission(left, self.access.rate_bps))

    def serve(self) -> None:
        """Serve the next packet at `servable_at`."""
        start = self.servable_at
        assert start is not None
        frame = self._backlog[0]
        if not frame.begun:
            self._begin(frame)
        unlimited = self.spec.rate_bps is None and self.access.rate_bps is None
        size = frame.left if unlimited else min(frame.left, SEGMENT + OVERHEAD)
        on_path, on_access = self._on_path(size), _transmission(size, self.access.rate_bps)
        self.served_at = start
        self._free_at = start + on_path
        self.access.free_at = start + on_access
        self.counters.wire_bytes += size
        frame.left -= size
        if not frame.left:
            self._backlog.popleft()
            self._depart(frame, start + max(on_path, on_access))

    def _on_path(self, size: int) -> Nanos:
        return _transmission(size, self.spec.rate_bps)

    def _begin(self, frame: _Frame) -> None:
        """Draw what becomes of a frame."""
        frame.begun = True
        frame.lost, frame.late, copies = self._losses(frame)
        frame.left += copies * (SEGMENT + OVERHEAD)
        self.counters.frames_lost += frame.lost

    def _depart(self, frame: _Frame, at: Nanos) -> None:
        """All of a frame is on its way."""
        flight = self.spec.delay_ns + frame.late
        if self.spec.jitter_ns:
            flight += max(-flight, round(self.rng.normal(0.0, self.spec.jitter_ns)))
        self._last_due = max(self._last_due, at + flight)
        self._flying.append(
            Delivered(
                due=self._last_due,
                item=frame.item,
                lost=frame.lost,
                size=frame.size,
                delivery=frame.delivery,
            )
        )

    @property
    def due_at(self) -> Nanos | None:
        """When the next frame comes out; None when none is under way."""
        return self._flying[0].due if self._flying else None

    def deliver(self) -> Delivered:
        """Take the next frame out."""
        self.counters.frames_out += 1
        return self._flying.popleft()

    def empty(self) -> list[tuple[int, Delivery, Any]]:
        """Take out all that is under way, served or not: size, delivery, item, in its order."""
        taken = [(frame.size, frame.delivery, frame.item) for frame in self._flying]
        taken += [(frame.size, frame.delivery, frame.item) for frame in self._backlog]
        self._flying.clear()
        self._backlog.clear()
        return taken

    def __len__(self) -> int:
        return len(self._backlog) + len(self._flying)

    def _losses(self, frame: _Frame) -> tuple[bool, Nanos, int]:
        """Whether the frame is lost; else what loss costs it in time, and in copies of segments."""
        rounds = self._lost_in_rounds(segments(frame.size), once=frame.delivery)
        if frame.delivery is Delivery.DATAGRAM or not rounds:
            return bool(rounds), 0, 0
        round_trip = self.round_trip_ns
        if round_trip is None:
            round_trip = 2 * self.spec.delay_ns
        timeouts = max(RETRANSMIT, round_trip) * (2 ** (len(rounds) - 1) - 1)
        return False, round_trip + timeouts, sum(rounds)

    def _lost_in_rounds(self, count: int, *, once: Delivery) -> list[int]:
        """How many of so many segments are lost, how many of their copies, of those copies, ...

        Nothing more after the first round of a datagram; certain loss ends after `_TRIES`.
        """
        loss, chain = self.spec.loss, loss_chain(self.spec)
        rounds: list[int] = []
        while (loss or chain) and count and len(rounds) < _TRIES:
            if chain is None:
                count = int(self.rng.binomial(count, loss))
            else:
                lost, self._bad = lose(chain, bad=self._bad, count=count, draw=self.rng.random)
                count = len(lost)
            if count:
                rounds.append(count)
            if once is Delivery.DATAGRAM:
                break
        return rounds


class LinkSet:
    """One direction of a node's access: all its paths. See the module.

    Args:
        paths: by the node at the other end.
    """

    def __init__(self, paths: Mapping[NodeId, LinkQueue]) -> None:
        self.paths = dict(paths)

    def enqueue(
        self,
        peer: NodeId,
        size: int,
        *,
        now: Nanos,
        delivery: Delivery = Delivery.RELIABLE,
        item: Any = None,
    ) -> None:
        """Put a frame on the path to (or from) `peer`. Raises KeyError where there is none."""
        path = self.paths[peer]
        self._serve(now)
        path.enqueue(size, now=now, delivery=delivery, item=item)
        self._serve(now)

    def next_due(self) -> Nanos | None:
        """When to call `dequeue` next; None when the links are empty."""
        times = [t for p in self.paths.values() for t in (p.done_at, p.due_at) if t is not None]
        return min(times, default=None)

    def dequeue(self, *, now: Nanos) -> list[tuple[NodeId, Delivered]]:
        """What has come out by `now`, in order of time."""
        self._serve(now)
        arrived = []
        while due := min(self._due(now), default=None):
            peer = due[-1]
            arrived.append((peer, self.paths[peer].deliver()))
        return arrived

    def __len__(self) -> int:
        return sum(len(path) for path in self.paths.values())

    def _serve(self, now: Nanos) -> None:
        """Serve what can be served until `now`, in order of time; ties in turn."""
        while ready := min(self._ready(now), default=None):
            self.paths[ready[-1]].serve()

    def _ready(self, now: Nanos) -> Iterator[tuple[Nanos, Nanos, int, NodeId]]:
        for order, (peer, path) in enumerate(self.paths.items()):
            at = path.servable_at
            if at is not None and at <= now:
                yield at, path.served_at, order, peer

    def _due(self, now: Nanos) -> Iterator[tuple[Nanos, int, NodeId]]:
        for order, (peer, path) in enumerate(self.paths.items()):
            if path.due_at is not None and path.due_at <= now:
                yield path.due_at, order, peer


def egress(links: LinksConfig, *, seed: int, me: NodeId) -> LinkSet:
    """What leaves a node: its paths, under its access links."""
    access = {link.name: AccessQueue(link.rate_bps) for link in links.up}
    paths = {}
    for peer in links.peers:
        if peer.out is None:
            continue
        back = peer.into.delay_ns if peer.into is not None else peer.out.delay_ns
        paths[peer.name] = LinkQueue(
            spec=peer.out,
            rng=stream(seed, "link", me, peer.name),
            access=access[peer.up] if peer.up is not None else AccessQueue(),
            round_trip_ns=peer.out.delay_ns + back,
        )
    return LinkSet(paths)


def ingress(links: LinksConfig, *, seed: int, me: NodeId) -> LinkSet:
    """What reaches a node: only its download links are left to pass, the paths are behind it."""
    access = {link.name: AccessQueue(link.rate_bps) for link in links.down}
    return LinkSet(
        {
            peer.name: LinkQueue(
                spec=PathSpec(),
                rng=stream(seed, "link-in", me, peer.name),
                access=access[peer.down] if peer.down is not None else AccessQueue(),
                through=True,
            )
            for peer in links.peers
            if peer.into is not None
        }
    )
