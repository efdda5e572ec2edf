"""The links of a node that are emulated in the process itself: the `local` backend's.

Every frame to a peer passes the node's egress queues before it is written, every frame from a peer
its ingress queues before it is handled: data, acknowledgements and pings alike.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from node.config import Emulator, NodeConfig, PathSpec
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.links.queue import LinkSet, egress, ingress
from node.links.timer import Timer
from node.units import MILLISECOND

Out = Callable[[bool], None]
"""Called when a frame comes out of its queue; True: it was lost on the way."""


class Shaper:
    """Both directions of a node's links. Make it on a running event loop."""

    def __init__(self, config: NodeConfig) -> None:
        self._out = _Line(egress(config.links, seed=config.seed, me=config.name))
        self._into = _Line(ingress(config.links, seed=config.seed, me=config.name))

    def send(self, peer: NodeId, size: int, delivery: Delivery, out: Out) -> None:
        """`out` is called when a frame of `size` bytes has passed the path to `peer`."""
        self._out.put(peer, size, delivery, out)

    def receive(self, peer: NodeId, size: int, out: Out) -> None:
        """`out` is called when a frame from `peer` has passed this node's download link."""
        self._into.put(peer, size, Delivery.RELIABLE, out)

    def wire_bytes(self) -> tuple[int, int]:
        """Sent and received so far, with the headers that the frames would have on a wire."""
        return self._out.wire_bytes(), self._into.wire_bytes()

    def state(self) -> str:
        """What is in force, as JSON in the form of the link agent's (`node.links.agent`)."""
        peers: dict[str, Any] = {
            name: {"applied": {"out": _applied(path.spec, path.access.rate_bps), "into": None}}
            for name, path in self._out.links.paths.items()
        }
        for name, path in self._into.links.paths.items():
            rate = {"rate_bps": path.access.rate_bps}
            peers.setdefault(name, {"applied": {"out": None}})["applied"]["into"] = rate
        return json.dumps({"emulator": Emulator.APPLICATION.value, "peers": peers})

    def close(self) -> None:
        """Drop what is under way."""
        self._out.close()
        self._into.close()


class _Line:
    """A `LinkSet` with a timer."""

    def __init__(self, links: LinkSet) -> None:
        self.links = links
        self._timer = Timer()
        self._loop = asyncio.get_running_loop()
        # A timer of the event loop's own is up to a millisecond late, which would be on every path.
        self._loop.add_reader(self._timer.fileno(), self._turn)

    def put(self, peer: NodeId, size: int, delivery: Delivery, out: Out) -> None:
        if peer not in self.links.paths:
            return  # no path, nothing passes
        self.links.enqueue(peer, size, now=time.monotonic_ns(), delivery=delivery, item=out)
        self._turn()

    def wire_bytes(self) -> int:
        return sum(path.wire_bytes for path in self.links.paths.values())

    def close(self) -> None:
        self._loop.remove_reader(self._timer.fileno())
        self._timer.close()

    def _turn(self) -> None:
        for _, frame in self.links.dequeue(now=time.monotonic_ns()):
            frame.item(frame.lost)
        self._timer.set(self.links.next_due())


def _applied(spec: PathSpec, access_bps: int | None) -> dict[str, Any]:
    rates = [rate for rate in (spec.rate_bps, access_bps) if rate is not None]
    return {
        "rate_bps": min(rates, default=None),
        "delay_ms": spec.delay_ns / MILLISECOND,
        "jitter_ms": spec.jitter_ns / MILLISECOND,
        "loss": spec.loss,
    }
