"""A node's send queue (pure): what to put on which stream next, and what a cancel takes back.

Owned by the runtime, visible to the algorithm through `DropQueued`, `Sent` and `SendFailed`.

Kernel and gRPC buffers must not hide the queue, or a cancel would cancel nothing: at most `window`
bytes that a peer has not acknowledged are ever handed to the transport, about one bandwidth-delay
product (`window_bytes`). With sequential pacing the window holds over all peers together, so that
messages leave one at a time in queue order, as DivShare's sender does (Biswas et al. 2025; its
artifact lets all of them race: frameworks' notes, defect 7). With parallel pacing it holds for each
peer alone. Control messages overtake model messages, which are written in chunks; they are small
and do not wait for the window.

The caller writes what `next_chunk` returns until it returns None, then waits for `acked` or `push`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from node.config import Pacing, PathSpec
from node.core.effects import InFlight
from node.core.ids import NodeId
from node.units import SECOND

SLACK: Final = 24 * 1024
"""Bytes above the bandwidth-delay product: 10 ms at 20 Mbit/s, what a busy host needs to answer."""
UNSHAPED_WINDOW: Final = 512 * 1024
"""Window of a path without a rate, where there is no bandwidth-delay product to compute."""
_CHUNK_MIN: Final = 4 * 1024
_CHUNK_MAX: Final = 16 * 1024
BACKGROUND_SHARE: Final = 0.08
"""Of the bytes, for background messages while there are others: below the tenth that a provider's
rounds may become longer."""
_CREDIT_MAX: Final = 2 * _CHUNK_MAX
"""What background messages may have saved up while they could not be sent."""


class Priority(Enum):
    """Which messages go before which."""

    CONTROL = "control"
    """Before all others, whatever the window."""
    MODEL = "model"
    """In queue order, within the window."""
    BACKGROUND = "background"
    """Within the window, and what is left of the link, or their share of it."""


def window_bytes(out: PathSpec | None, back: PathSpec | None) -> int:
    """Bytes that may be unacknowledged on a path: one bandwidth-delay product and `SLACK`."""
    if out is None or out.rate_bps is None:
        return UNSHAPED_WINDOW
    round_trip = out.delay_ns + (back.delay_ns if back is not None else out.delay_ns)
    return out.rate_bps * round_trip // (8 * SECOND) + SLACK


def chunk_bytes(window: int) -> int:
    """Size of a chunk: an eighth of the window; small, so that little of it stays unused."""
    return min(_CHUNK_MAX, max(_CHUNK_MIN, window // 8))


@dataclass(slots=True, kw_only=True, eq=False)
class Outgoing:
    """One message in the queue.

    Args:
        key: as in `effects.Send`.
        size: bytes of the encoded message.
        body: the encoded message; opaque here.
        model_bytes: bytes of model values in it.
    """

    target: NodeId
    key: str
    size: int
    body: Any
    priority: Priority
    model_bytes: int
    number: int = 0
    written: int = 0
    """Bytes handed out by `next_chunk` so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Bytes `offset` to `offset + length` of `item.body`, to be written now."""

    item: Outgoing
    offset: int
    length: int

    @property
    def last(self) -> bool:
        return self.offset + self.length == self.item.size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dropped:
    """What a cancel took back: never begun, and begun but cut off (to be aborted on the wire)."""

    queued: tuple[Outgoing, ...]
    aborted: tuple[Outgoing, ...]


@dataclass(slots=True)
class _Stream:
    """Bytes to one peer since its connection came up."""

    written: int = 0
    acked: int = 0
    ends: deque[tuple[int, Outgoing]] = field(default_factory=deque)
    """Where in the stream each completely written message ends."""

    @property
    def unacked(self) -> int:
        return self.written - self.acked


class Outbox:
    """The send queue of one node.

    Args:
        pacing: over all peers, or for each.
        window: bytes that may be unacknowledged towards a peer.
    """

    def __init__(self, *, pacing: Pacing, window: Callable[[NodeId], int]) -> None:
        self._pacing = pacing
        self._window = window
        self._queues: dict[Priority, deque[Outgoing]] = {each: deque() for each in Priority}
        self._credit = 0.0
        """Bytes that background messages may send before others."""
        self._streams: dict[NodeId, _Stream] = {}
        self._numbers = 0

    def push(self, item: Outgoing, *, supersedes: bool = False) -> tuple[Outgoing, ...]:
        """Queue a message; returns what it superseded (same target and key, not begun)."""
        dropped: tuple[Outgoing, ...] = ()
        if supersedes:
            dropped = self._remove(
                lambda old: old.target == item.target and old.key == item.key and not old.written
            )
        self._numbers += 1
        item.number = self._numbers
        self._queues[item.priority].append(item)
        return dropped

    def drop(self, *, key_prefix: str, in_flight: InFlight) -> Dropped:
        """Cancel model messages whose key starts with `key_prefix`.

        The message that is being written is finished or cut off; what is written already arrives.
        """

        def named(item: Outgoing) -> bool:
            return item.priority is Priority.MODEL and item.key.startswith(key_prefix)

        queued = self._remove(lambda item: named(item) and not item.written)
        aborted = self._remove(named) if in_flight is InFlight.ABORT else ()
        return Dropped(queued=queued, aborted=aborted)

    def next_chunk(self, connected: Container[NodeId]) -> Chunk | None:
        """What to write now, or None until an acknowledgement, a message or a connection comes."""
        for item in self._queues[Priority.CONTROL]:
            if item.target in connected:
                return self._cut(item, item.size - item.written)
        for item in self._in_order(connected):
            want = self._wanted(item)
            if self._room(item.target) >= want:
                self._account(item, want, connected)
                return self._cut(item, want)
        return None

    def acked(self, target: NodeId, total: int) -> tuple[Outgoing, ...]:
        """The peer has `total` bytes of its stream; returns the messages that it now has whole.

        Raises:
            ValueError: it acknowledges what was never written, or less than before.
        """
        stream = self._streams.setdefault(target, _Stream())
        if not stream.acked <= total <= stream.written:
            raise ValueError(
                f"{target} acknowledges {total} bytes after {stream.acked}, of {stream.written}"
            )
        stream.acked = total
        done = []
        while stream.ends and stream.ends[0][0] <= total:
            done.append(stream.ends.popleft()[1])
        return tuple(done)

    def disconnected(self, target: NodeId) -> tuple[Outgoing, ...]:
        """The stream broke: returns the messages of which the peer may lack something.

        What was not begun stays queued for the next connection, whose byte count starts at 0.
        """
        stream = self._streams.pop(target, _Stream())
        begun = self._remove(lambda i: i.target == target and i.written > 0)
        return (*(item for _, item in stream.ends), *begun)

    def expire(self, target: NodeId) -> tuple[Outgoing, ...]:
        """Give up on a peer: returns all that is queued to it."""
        return self._remove(lambda i: i.target == target)

    def unacked(self, target: NodeId) -> int:
        """Bytes written to the peer that it has not acknowledged."""
        stream = self._streams.get(target)
        return stream.unacked if stream else 0

    def queued(self) -> Iterator[Outgoing]:
        """What is not completely written, in the order of `Priority` and then of the queue."""
        for queue in self._queues.values():
            yield from queue

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def _wanted(self, item: Outgoing) -> int:
        """Bytes of it to write at once."""
        return min(item.size - item.written, chunk_bytes(self._window(item.target)))

    def _candidates(self, priority: Priority, connected: Container[NodeId]) -> Iterator[Outgoing]:
        """Messages that may be written from now, in the order in which they are tried."""
        seen: set[NodeId] = set()
        for item in self._queues[priority]:
            if item.target in seen or item.target not in connected:
                continue
            yield item
            if self._pacing is Pacing.SEQUENTIAL:
                return
            seen.add(item.target)

    def _room(self, target: NodeId) -> int:
        if self._pacing is Pacing.SEQUENTIAL:
            pending = sum(stream.unacked for stream in self._streams.values())
        else:
            pending = self.unacked(target)
        # A chunk larger than the whole window still goes once nothing is on its way.
        return self._window(target) - pending if pending else _CHUNK_MAX

    def _in_order(self, connected: Container[NodeId]) -> Iterator[Outgoing]:
        """What may be written from now: models, or background messages that are owed bytes."""
        models = self._candidates(Priority.MODEL, connected)
        if not self._queues[Priority.BACKGROUND]:
            yield from models
            return
        first = next(models, None)
        for item in self._candidates(Priority.BACKGROUND, connected):
            if first is None or self._wanted(item) <= self._credit:
                yield item
        if first is not None:
            yield first
            yield from models

    def _account(self, item: Outgoing, length: int, connected: Container[NodeId]) -> None:
        """Background messages earn their share by what others send while they wait."""
        priority = item.priority
        other = Priority.MODEL if priority is Priority.BACKGROUND else Priority.BACKGROUND
        if next(self._candidates(other, connected), None) is None:
            return
        if priority is Priority.BACKGROUND:
            self._credit -= length
        else:
            earned = length * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)
            self._credit = min(_CREDIT_MAX, self._credit + earned)

    def _cut(self, item: Outgoing, length: int) -> Chunk:
        chunk = Chunk(item=item, offset=item.written, length=length)
        stream = self._streams.setdefault(item.target, _Stream())
        item.written += length
        stream.written += length
        queue = self._queues[item.priority]
        if chunk.last:
            queue.remove(item)
            stream.ends.append((stream.written, item))
        elif queue[0] is not item:
            # Begun messages stay in front: an unreachable head must not make us interleave.
            queue.remove(item)
            queue.appendleft(item)
        return chunk

    def _remove(self, unwanted: Callable[[Outgoing], bool]) -> tuple[Outgoing, ...]:
        dropped: list[Outgoing] = []
        for queue in self._queues.values():
            keep: list[Outgoing] = []
            for item in queue:
                (dropped if unwanted(item) else keep).append(item)
            if len(keep) < len(queue):
                queue.clear()
                queue.extend(keep)
        return tuple(dropped)
