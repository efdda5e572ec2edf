"""The links of a node that are emulated in the process itself: the `local` backend's.

Every frame to a peer passes the node's egress queues before it is written, every frame from a peer
its ingress queues before it is handled: data, acknowledgements and pings alike.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import numpy as np

from node.config import AccessLink, Emulator, LinkChange, NodeConfig, PathSpec
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.core.rng import stream
from node.links.queue import RETRANSMIT, AccessQueue, LinkQueue, LinkSet, egress, ingress
from node.links.timer import Timer
from node.units import MILLISECOND, SECOND, Nanos

Out = Callable[[bool], None]
"""Called when a frame comes out of its queue; True: it was lost on the way."""
_TIMEOUT_MAX: Final = 120 * SECOND
"""Linux's longest retransmission time-out."""


class Shaper:
    """Both directions of a node's links. Make it on a running event loop."""

    def __init__(self, config: NodeConfig) -> None:
        links = config.links
        up = {peer.name: peer.up for peer in links.peers}
        down = {peer.name: peer.down for peer in links.peers}
        out = egress(links, seed=config.seed, me=config.name)
        into = ingress(links, seed=config.seed, me=config.name)
        self._out = _Line(out, links.up, up, _streams(config, "link"), through=False)
        self._into = _Line(into, links.down, down, _streams(config, "link-in"), through=True)

    def send(self, peer: NodeId, size: int, delivery: Delivery, out: Out) -> None:
        """`out` is called when a frame of `size` bytes has passed the path to `peer`."""
        self._out.put(peer, size, delivery, out)

    def receive(self, peer: NodeId, size: int, out: Out) -> None:
        """`out` is called when a frame from `peer` has passed this node's download link."""
        self._into.put(peer, size, Delivery.RELIABLE, out)

    def wire_bytes(self) -> tuple[int, int]:
        """Sent and received so far, with the headers that the frames would have on a wire."""
        return self._out.wire_bytes(), self._into.wire_bytes()

    def change(self, change: LinkChange) -> dict[str, Any]:
        """Make the links what they become, all at once; what is in force then of what changed."""
        for link in change.access:
            self._out.rate(link)
            self._into.rate(link)
        for path in change.peers:
            delays = [p.delay_ns for p in (path.out, path.into) if p is not None]
            self._out.path(path.name, path.out, path.up, round_trip_ns=sum(delays))
            self._into.path(
                path.name, PathSpec() if path.into else None, path.down, round_trip_ns=0
            )
        changed = {path.name for path in change.peers}
        links = {link.name for link in change.access}
        changed |= self._out.through(links) | self._into.through(links)
        return {str(name): self._in_force(name) for name in sorted(changed)}

    def state(self) -> str:
        """What is in force, as JSON in the form of the link agent's (`node.links.agent`)."""
        names = dict.fromkeys([*self._out.links.paths, *self._into.links.paths])
        peers = {name: {"applied": self._in_force(name)} for name in names}
        return json.dumps({"emulator": Emulator.APPLICATION.value, "peers": peers})

    def _in_force(self, peer: NodeId) -> dict[str, Any]:
        out, into = self._out.passable(peer), self._into.passable(peer)
        return {
            "out": None if out is None else _applied(out.spec, out.access.rate_bps),
            "into": None if into is None else {"rate_bps": into.access.rate_bps},
        }

    def close(self) -> None:
        """Drop what is under way."""
        self._out.close()
        self._into.close()


class _Line:
    """A `LinkSet` with a timer, whose paths come and go.

    Nothing passes a path that is gone. What is under way is kept, as TCP would keep it and send it
    again and again; it passes with the first try after the path has come back.

    Args:
        access: the access links of this direction.
        names: which of them the path of each peer goes through.
        streams: makes the random stream of a path.
        through: as in `LinkQueue`.
    """

    def __init__(
        self,
        links: LinkSet,
        access: Iterable[AccessLink],
        names: Mapping[NodeId, str | None],
        streams: Callable[[NodeId], np.random.Generator],
        *,
        through: bool,
    ) -> None:
        self.links = links
        self._names = dict(names)
        self._streams = streams
        self._through = through
        self._access = {link.name: AccessQueue(link.rate_bps) for link in access}
        for peer, path in links.paths.items():
            if (name := self._names[peer]) is not None:
                self._access[name] = path.access
        self._held: dict[NodeId, list[tuple[int, Delivery, Out]]] = {
            peer: [] for peer in self._names if peer not in links.paths
        }
        self._gone_at: dict[NodeId, Nanos] = dict.fromkeys(self._held, time.monotonic_ns())
        self._timer = Timer()
        self._loop = asyncio.get_running_loop()
        # A timer of the event loop's own is up to a millisecond late, which would be on every path.
        self._loop.add_reader(self._timer.fileno(), self._turn)

    def put(self, peer: NodeId, size: int, delivery: Delivery, out: Out) -> None:
        if peer in self._held:
            self._held[peer].append((size, delivery, out))
        elif peer in self.links.paths:
            self.links.enqueue(peer, size, now=time.monotonic_ns(), delivery=delivery, item=out)
            self._turn()

    def passable(self, peer: NodeId) -> LinkQueue | None:
        """The path, if it is there now."""
        return None if peer in self._held else self.links.paths.get(peer)

    def through(self, names: Collection[str]) -> set[NodeId]:
        """The peers whose path goes through one of these access links."""
        return {p for p, name in self._names.items() if name in names and p not in self._held}

    def rate(self, link: AccessLink) -> None:
        """Change an access link's rate, if it is one of ours."""
        if link.name in self._access:
            self._access[link.name].rate_bps = link.rate_bps
            self._turn()

    def path(
        self, peer: NodeId, spec: PathSpec | None, access: str | None, *, round_trip_ns: Nanos
    ) -> None:
        """The path is like this from now on, through this access link; None: it is gone."""
        now = time.monotonic_ns()
        self._turn()  # what has come out by now was there before
        queue = self.links.paths.get(peer)
        if spec is None:
            if peer not in self._held:
                self._held[peer] = queue.empty() if queue is not None else []
                self._gone_at[peer] = now
            self._turn()
            return
        self._names[peer] = access
        through = self._access.setdefault(access, AccessQueue()) if access else AccessQueue()
        if queue is None:
            rng = self._streams(peer)
            queue = LinkQueue(spec=spec, rng=rng, access=through, through=self._through)
            self.links.paths[peer] = queue
        queue.change(spec)
        queue.access = through
        if not self._through:
            queue.round_trip_ns = round_trip_ns
        if peer in self._held:
            at = now if self._through else self._tried_again(peer, round_trip_ns, now)
            for size, delivery, out in self._held.pop(peer):
                item = out if delivery is Delivery.RELIABLE else _lost(out)
                queue.enqueue(size, now=at, delivery=delivery, item=item)
        self._turn()

    def _tried_again(self, peer: NodeId, round_trip_ns: Nanos, now: Nanos) -> Nanos:
        """When TCP sends next what it has in vain sent again and again since the path was gone."""
        since, timeout = self._gone_at.pop(peer), max(RETRANSMIT, round_trip_ns)
        at = since + timeout
        while at < now:
            timeout = min(2 * timeout, _TIMEOUT_MAX)
            at += timeout
        return at

    def wire_bytes(self) -> int:
        return sum(path.wire_bytes for path in self.links.paths.values())

    def close(self) -> None:
        self._loop.remove_reader(self._timer.fileno())
        self._timer.close()

    def _turn(self) -> None:
        for _, frame in self.links.dequeue(now=time.monotonic_ns()):
            frame.item(frame.lost)
        self._timer.set(self.links.next_due())


def _lost(out: Out) -> Out:
    """Nobody sends a datagram again; that it was lost is known once something passes."""
    return lambda _: out(True)


def _streams(config: NodeConfig, purpose: str) -> Callable[[NodeId], np.random.Generator]:
    return lambda peer: stream(config.seed, purpose, config.name, peer)


def _applied(spec: PathSpec, access_bps: int | None) -> dict[str, Any]:
    rates = [rate for rate in (spec.rate_bps, access_bps) if rate is not None]
    return {
        "rate_bps": min(rates, default=None),
        "delay_ms": spec.delay_ns / MILLISECOND,
        "jitter_ms": spec.jitter_ns / MILLISECOND,
        "loss": spec.loss,
    }
