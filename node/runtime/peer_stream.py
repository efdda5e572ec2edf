"""One stream to one peer, while it is up: frames out, frames in, acknowledgements, pings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Protocol

from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.model_sync import KINDS
from node.core.traffic import Traffic
from node.errors import PeerFault
from node.runtime.duplex import Duplex
from node.runtime.pipes import Pipe
from node.runtime.shaper import Shaper
from node.units import Nanos
from node.wire.assembly import Assembler
from node.wire.codec import decode_frame, decode_message, encode_frame
from node.wire.frames import Abort, Ack, Chunk, Frame, Greeting, Identity, Ping, Pong


class Home(Protocol):
    """Whom a stream reports to."""

    def received(self, stream: PeerStream, message: PeerMessage) -> None: ...

    def acked(self, stream: PeerStream, total: int) -> None:
        """Raises PeerFault where that cannot be."""

    def refused(self, peer: str, reason: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Pending:
    """A ping that was not answered yet."""

    sent: Nanos
    answer: asyncio.Future[Nanos | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class PeerStream:
    """A stream whose greetings have been exchanged.

    Args:
        peer: who is at the other end.
        message_max: bytes that a message from it may have.
        shaper: emulates the links; None where something below does.
    """

    def __init__(
        self,
        *,
        peer: Identity,
        pipe: Pipe,
        home: Home,
        traffic: Traffic,
        message_max: int,
        shaper: Shaper | None,
    ) -> None:
        self.peer = peer
        self.heard_at = time.monotonic_ns()
        """When anything came last."""
        self.assembler = Assembler(limit=message_max)
        self._duplex = Duplex(pipe, on_data=self._on_data)
        self._home = home
        self._traffic = traffic
        self._shaper = shaper
        self._open = True
        self._received = 0
        self._pings: dict[int, _Pending] = {}
        self._ping_ids = 0

    @property
    def name(self) -> NodeId:
        return self.peer.member

    @property
    def received_bytes(self) -> int:
        """Of messages and ballast that have arrived on this stream, lost ones included."""
        return self._received

    async def run(self) -> str:
        """Until the stream ends; returns why."""
        try:
            return await self._duplex.run()
        finally:
            self._open = False
            for pending in self._pings.values():
                if not pending.answer.done():
                    pending.answer.set_result(None)

    def end(self, reason: str) -> None:
        self._duplex.end(reason)

    def put(self, frame: Frame, *, delivery: Delivery = Delivery.RELIABLE) -> None:
        """Send a frame; acknowledgements and answers to pings go before what waits here."""
        data = encode_frame(frame)
        urgent = isinstance(frame, Ack | Pong)
        payload = len(frame.payload) if isinstance(frame, Chunk) else 0
        self._traffic.control_sent += len(data) - payload
        if self._shaper is None:
            self._duplex.put(data, urgent=urgent)
        else:
            self._shaper.send(
                self.name, len(data), delivery, lambda lost: self._pass(frame, data, lost=lost)
            )

    def ping(self, *, delivery: Delivery = Delivery.RELIABLE) -> asyncio.Future[Nanos | None]:
        """Send a ping; the future is its round-trip time, None when the stream ends before."""
        self._ping_ids += 1
        pending = self._pings[self._ping_ids] = _Pending(sent=time.monotonic_ns())
        self.put(Ping(id=self._ping_ids), delivery=delivery)
        return pending.answer

    def _pass(self, frame: Frame, data: bytes, *, lost: bool) -> None:
        """A frame has come out of the emulated link."""
        if not lost:
            self._duplex.put(data)
        elif isinstance(frame, Chunk):
            # The receiver's count must go on, or the bytes would stay unacknowledged for ever.
            self._duplex.put(encode_frame(replace(frame, payload=b"", lost=frame.length)))

    def _on_data(self, data: bytes) -> None:
        if self._shaper is None:
            self._handle(data)
        else:
            self._shaper.receive(self.name, len(data), lambda _lost: self._handle(data))

    def _handle(self, data: bytes) -> None:
        """Take one frame, whatever it is; nothing in it can do harm."""
        if not self._open:
            return
        self.heard_at = time.monotonic_ns()
        try:
            self._take(decode_frame(data), len(data))
        except PeerFault as fault:
            self._traffic.control_received += len(data)
            self._home.refused(self.name, fault.message)

    def _take(self, frame: Frame, size: int) -> None:
        match frame:
            case Chunk():
                self._take_chunk(frame, size)
                return
            case Ack(total=total):
                self._home.acked(self, total)
            case Ping(id=number):
                self.put(Pong(id=number))
            case Pong(id=number):
                self._take_pong(number)
            case Abort(message=number):
                self.assembler.forget(number)
            case Greeting():
                raise PeerFault("a second greeting")
        self._traffic.control_received += size

    def _take_pong(self, number: int) -> None:
        pending = self._pings.pop(number, None)
        if pending is None:
            raise PeerFault("an answer to no ping")
        if not pending.answer.done():
            pending.answer.set_result(time.monotonic_ns() - pending.sent)

    def _take_chunk(self, chunk: Chunk, size: int) -> None:
        """Acknowledge at once, also what is refused: its bytes have arrived."""
        self._received += chunk.length
        self.put(Ack(total=self._received))
        self._traffic.control_received += size - len(chunk.payload)
        try:
            whole = self.assembler.take(chunk)
            if whole is None:
                return
            message = decode_message(whole, sender=self.peer)
        except PeerFault as fault:
            self._home.refused(self.name, fault.message)
            return
        if message.kind in KINDS:
            self._traffic.sync_received += message.model_bytes
        else:
            self._traffic.model_received += message.model_bytes
        self._traffic.control_received += len(whole) - message.model_bytes
        self._home.received(self, message)
