"""Real send queues around a switch, packet by packet: what the fluid model is held against.

Every node has an `Outbox`, an uplink and a downlink that serve peers by turns, a packet each, and
save up a burst while they are idle, as HTB does. Acknowledgements of chunks are packets behind what
is queued for the same peer, as in one TCP stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from node.config import Pacing, PathSpec
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.outbox import Chunk, Outbox, Outgoing, Priority, chunk_bytes, window_bytes
from node.links.sizes import burst_bytes
from node.sim.queue import EventQueue
from node.sim.wire import ACK, PACKET, PAYLOAD, Parcel, head_bytes
from node.units import SECOND, Nanos

_FULL: Final = PAYLOAD + PACKET


class _Link:
    """Packets of several peers, served by turns."""

    def __init__(self, queue: EventQueue, rate_bps: int) -> None:
        self._queue = queue
        self._ns_per_byte = 8 * SECOND / rate_bps
        self._waiting: dict[int, deque[tuple[float, Callable[[], None]]]] = {}
        self._turns: deque[int] = deque()
        self._busy = False
        self._burst = self._saved = float(burst_bytes(rate_bps))
        self._idle: Nanos = 0
        """Since when; bytes saved up are as many as fit, and what there was then."""

    def put(self, peer: int, size: float, passed: Callable[[], None]) -> None:
        """One of so many bytes for, or from, a peer."""
        waiting = self._waiting.setdefault(peer, deque())
        if not waiting:
            self._turns.append(peer)
        waiting.append((size, passed))
        if not self._busy:
            earned = (self._queue.now - self._idle) / self._ns_per_byte
            self._saved = min(self._burst, self._saved + earned)
            self._serve()

    def _serve(self) -> None:
        self._busy = bool(self._turns)
        if self._turns:
            size, _ = self._waiting[self._turns[0]][0]
            free = min(size, self._saved)
            self._saved -= free
            self._queue.after(round((size - free) * self._ns_per_byte), self._passed)
        else:
            self._idle = self._queue.now

    def _passed(self) -> None:
        peer = self._turns.popleft()
        waiting = self._waiting[peer]
        _, passed = waiting.popleft()
        if waiting:
            self._turns.append(peer)
        passed()
        self._serve()


class _Node:
    def __init__(self, switch: Switch, place: int) -> None:
        self._switch = switch
        self.place = place
        window = window_bytes(switch.path, switch.path)
        self.box = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda _: window)
        rate = switch.path.rate_bps
        assert rate is not None
        self.up, self.down = _Link(switch.queue, rate), _Link(switch.queue, rate)
        self.arrived: list[Nanos] = []
        self.heard: list[Nanos] = []
        """When each message to others was acknowledged as a whole."""
        self._came = [0] * len(switch.names)

    def pump(self) -> None:
        """Hand out all for which there is room."""
        names = self._switch.names
        others = set(names) - {names[self.place]}
        while (chunk := self.box.next_chunk(others)) is not None:
            target = self._switch.nodes[names.index(chunk.item.target)]
            left = chunk.length * chunk.item.body
            while left > 0:
                size = min(_FULL, left)
                left -= size
                came = self._came_at(target, chunk) if left <= 0 else lambda: None
                self._switch.carry(self, target, size, came)

    def _came_at(self, target: _Node, chunk: Chunk) -> Callable[[], None]:
        return lambda: target.take(self, chunk)

    def take(self, sender: _Node, chunk: Chunk) -> None:
        """The last packet of a chunk has come: acknowledge it."""
        self._came[sender.place] += chunk.length
        total = self._came[sender.place]
        if chunk.last:
            self.arrived.append(self._switch.queue.now)
        self._switch.carry(self, sender, ACK, lambda: sender.acknowledged(self, total))

    def acknowledged(self, by: _Node, total: int) -> None:
        done = self.box.acked(self._switch.names[by.place], total)
        self.heard += [self._switch.queue.now] * len(done)
        self.pump()


class Switch:
    """Nodes with links of one rate; half of the path's delay lies before the switch.

    Args:
        sends: for each node the targets of its messages, in order, and what is sent.
    """

    def __init__(self, path: PathSpec, sends: Sequence[Sequence[tuple[int, PeerMessage]]]) -> None:
        self.queue = EventQueue()
        self.path = path
        self.names = [NodeId(chr(ord("a") + place)) for place in range(len(sends))]
        self.nodes = [_Node(self, place) for place in range(len(sends))]
        chunk = chunk_bytes(window_bytes(path, path))
        for node, messages in zip(self.nodes, sends, strict=True):
            for target, message in messages:
                values, head = message.model_bytes, head_bytes(message)
                parcel = Parcel(message.kind, values=values, head=head, chunk=chunk)
                node.box.push(
                    Outgoing(
                        target=self.names[target],
                        key="",
                        size=parcel.message,
                        body=parcel.wire / parcel.message,
                        priority=Priority.MODEL,
                        model_bytes=values,
                    )
                )

    def run(self) -> None:
        """Until all has arrived."""
        for node in self.nodes:
            node.pump()
        while (at := self.queue.next) is not None:
            self.queue.run(until=at)

    def carry(self, source: _Node, target: _Node, size: float, came: Callable[[], None]) -> None:
        """A packet: over one's uplink, and the other's downlink."""
        half = self.path.delay_ns // 2

        def there() -> None:
            target.down.put(source.place, size, lambda: self.queue.after(half, came))

        source.up.put(target.place, size, lambda: self.queue.after(half, there))
