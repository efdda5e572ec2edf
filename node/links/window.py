"""How much a transfer that measures a path may have under way (pure).

Enough that the queue of its class never runs empty, too little that it would run over: so TCP loses
next to nothing, and its rate is at once what the kernel gives it, instead of climbing back for
seconds after each burst of losses.
"""

from __future__ import annotations

from typing import Final

from node.config import PathSpec
from node.links.sizes import queue_bytes
from node.units import SECOND

QUEUE_SHARE: Final = 0.4
"""Of a path's queue: what is in it. The rest takes what several senders to one receiver overlap."""
WINDOW_MAX: Final = 200_000
"""Bytes; more than about that the kernel grants no receiver that sets its buffer by itself, as long
as `net.core.rmem_max` is Linux's default."""


def room_bytes(out: PathSpec, back: PathSpec | None) -> int | None:
    """What path and queue hold together; None where the rate is unlimited."""
    held = _held(out, back)
    return None if held is None else sum(held)


def window_bytes(out: PathSpec, back: PathSpec | None, *, most: int = WINDOW_MAX) -> int | None:
    """What may be under way; None: as much as TCP sees fit, because it is unlimited or too much.

    Args:
        most: the largest window that a receiver can set.
    """
    if (held := _held(out, back)) is None:
        return None
    size = held[0] + round(QUEUE_SHARE * held[1])
    return size if size <= most else None


def _held(out: PathSpec, back: PathSpec | None) -> tuple[int, int] | None:
    """Bytes on the way there and back, and in the queue."""
    if out.rate_bps is None:
        return None
    trip = out.delay_ns + (back.delay_ns if back is not None else 0)
    queue = queue_bytes(rate_bps=out.rate_bps, rtt_ns=trip, asked=out.queue_bytes)
    return out.rate_bps * trip // (8 * SECOND), queue
