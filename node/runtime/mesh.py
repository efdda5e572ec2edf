"""A node's streams to its peers, around its send queue (`node.core.outbox`).

One stream for each pair, dialled by the node whose name sorts first. Both ends greet each other;
a member that comes back with a higher incarnation replaces its old stream, a lower one is refused.
A broken stream is dialled again; what the peer may lack of it is reported as `SendFailed`, and what
waits is given up when the peer stays out of reach for `Deadlines.peer_ns`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from node.config import NodeConfig, PathChange, PathSpec, PeerLink
from node.core.effects import DropQueued, InFlight, Send
from node.core.events import Event, PeerChange, PeerChanged, Received, SendFailed, Sent
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.outbox import Outbox, Outgoing, window_bytes
from node.errors import PeerFault
from node.runtime.peer_stream import PeerStream, Traffic
from node.runtime.pipes import EXCHANGE, Pipe, Server, dial
from node.runtime.refusals import Refusals
from node.runtime.shaper import Shaper
from node.runtime.tasks import Tasks
from node.units import MILLISECOND, SECOND, Nanos, format_duration
from node.wire.codec import Encoded, decode_frame, encode_frame, encode_message
from node.wire.frames import MAX_MESSAGE, MAX_PAYLOAD, PROTOCOL, Abort, Chunk, Greeting, Identity

RETRY_S: Final = (0.2, 2.0)
"""Back-off between attempts to reach a peer: first and longest."""
GREETING_S: Final = 5.0
_SETTLE_S: Final = 0.05
"""After a path has come back: the other end may be a little late to know."""
_FRAME_NS: Final = 4 * MILLISECOND
_FRAME_MIN: Final = 4 * 1024
_FILLER: Final = "\0filler"
"""Key of ballast; no algorithm's begins like that."""
_STALL: Final = 3 * SECOND
"""Between two ticks: this process was stopped, and no peer is to blame for silence."""


class Mesh:
    """The streams of one node. Make it on a running event loop.

    Args:
        me: as whom this node greets.
        on_event: takes Received, Sent, SendFailed and PeerChanged, also of peers that are no
            neighbours.
        tasks: where the streams run.
        shaper: emulates the links; None where something below does.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        me: Identity,
        on_event: Callable[[Event], None],
        refusals: Refusals,
        tasks: Tasks,
        shaper: Shaper | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._config = config
        self._me = me
        self._on_event = on_event
        self._refusals = refusals
        self._tasks = tasks
        self._shaper = shaper
        self._links: dict[NodeId, PeerLink] = {peer.name: peer for peer in config.links.peers}
        self._windows = {
            peer.name: window_bytes(peer.out, peer.into) for peer in config.links.peers
        }
        self._frames = {peer.name: _frame_bytes(peer.out) for peer in config.links.peers}
        self._outbox = Outbox(pacing=config.algorithm.pacing, window=self._windows.__getitem__)
        self._streams: dict[NodeId, PeerStream] = {}
        self._incarnations: dict[NodeId, int] = {}
        self._wanted: set[NodeId] = set()
        self._dialling: set[NodeId] = set()
        self._paths_changed = asyncio.Event()
        self._expiries: dict[NodeId, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._server = Server(EXCHANGE, self._accept, on_defect=tasks.on_defect)
        self._message_max = MAX_MESSAGE
        self._ticked_at: Nanos = time.monotonic_ns()
        self._closed = False

    async def open(self) -> int:
        """Listen; returns the port. Raises EnvironmentFault."""
        return await self._server.open(self._config.host, self._config.port)

    def connect(self, peers: Iterable[NodeId]) -> None:
        """Keep a stream to each of these from now on, or once there is a path; the others of a pair
        must do likewise."""
        self._wanted.update(peers)
        for name in self._wanted - self._dialling:
            if self._me.member < name and self._reachable(name):
                self._dialling.add(name)
                self._tasks.spawn(self._dial(self._links[name]))

    def change_paths(self, changes: Iterable[PathChange]) -> None:
        """Paths are different from now on: as much is under way as fits them."""
        for change in changes:
            link = self._links.get(change.name)
            if link is not None:
                link = replace(link, out=change.out, into=change.into)
                self._links[change.name] = link
                self._windows[change.name] = window_bytes(link.out, link.into)
                self._frames[change.name] = _frame_bytes(link.out)
        self._paths_changed.set()
        self.connect(())
        self._pump()

    async def connected(self, peers: Iterable[NodeId], *, deadline_s: float) -> tuple[NodeId, ...]:
        """Wait until all of these are connected; returns those that are not at the deadline."""
        wanted = tuple(peers)

        def missing() -> tuple[NodeId, ...]:
            return tuple(name for name in wanted if name not in self._streams)

        async def wait() -> None:
            while missing():
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), deadline_s)
        except TimeoutError:
            return missing()
        return ()

    def stream(self, peer: NodeId) -> PeerStream | None:
        """The stream to a peer, if it is connected."""
        return self._streams.get(peer)

    def limit_messages(self, size: int) -> None:
        """Take no message of more than `size` bytes from now on."""
        self._message_max = size
        for stream in self._streams.values():
            stream.assembler.limit = size

    # --- sending

    def send(self, effect: Send) -> None:
        """Queue a message to a peer. Raises ValueError where it cannot be one."""
        message = effect.message
        if not isinstance(message, PeerMessage):
            raise ValueError(f"a {type(message).__name__} to a peer")
        item = Outgoing(
            target=effect.target,
            key=effect.key,
            size=0,
            body=_Body(encode_message(message, sender=self._me), message.delivery),
            control=message.part is None,
            model_bytes=message.model_bytes,
        )
        item.size = item.body.encoded.size
        self._push(item, supersedes=effect.supersedes)

    def fill(self, peer: NodeId, *, size: int, delivery: Delivery) -> asyncio.Future[Nanos]:
        """Send ballast; the future is when (monotonic) the peer had all of it.

        The future fails with ConnectionError when the stream breaks.
        """
        done: asyncio.Future[Nanos] = asyncio.get_running_loop().create_future()
        body = _Body(Encoded(head=b"", values=memoryview(bytes(size))), delivery, done)
        item = Outgoing(
            target=peer, key=_FILLER, size=size, body=body, control=False, model_bytes=0
        )
        self._push(item, supersedes=False)
        return done

    def drop_fillers(self) -> None:
        """Cancel ballast that has not arrived."""
        self.drop(DropQueued(key_prefix=_FILLER, in_flight=InFlight.ABORT))

    def queued_model_bytes(self) -> int:
        """Model bytes in the queue that no stream has been given yet."""
        return sum(
            item.model_bytes - _model_bytes(item, 0, item.written) for item in self._outbox.queued()
        )

    def drop(self, effect: DropQueued) -> None:
        """Cancel what is queued, as `effect` says."""
        dropped = self._outbox.drop(key_prefix=effect.key_prefix, in_flight=effect.in_flight)
        for item in (*dropped.queued, *dropped.aborted):
            self.traffic.cancelled += item.model_bytes - _model_bytes(item, 0, item.written)
        for item in dropped.aborted:
            stream = self._streams.get(item.target)
            if stream is not None:
                stream.put(Abort(message=item.number))
        self._pump()

    def _push(self, item: Outgoing, *, supersedes: bool) -> None:
        for old in self._outbox.push(item, supersedes=supersedes):
            self.traffic.cancelled += old.model_bytes
        if item.target not in self._streams:
            self._expire_later(item.target)
        self._pump()

    def _pump(self) -> None:
        """Hand to the streams what the queue allows."""
        while (cut := self._outbox.next_chunk(self._streams)) is not None:
            item, body = cut.item, cut.item.body
            values = _model_bytes(item, cut.offset, cut.length)
            self.traffic.model_sent += values
            self.traffic.control_sent += cut.length - values
            step, stop = self._frames[item.target], cut.offset + cut.length
            for offset in range(cut.offset, stop, step):
                chunk = Chunk(
                    message=item.number,
                    offset=offset,
                    total=item.size,
                    payload=body.encoded.cut(offset, min(step, stop - offset)),
                    filler=body.filled is not None,
                )
                self._streams[item.target].put(chunk, delivery=body.delivery)

    def _failed(self, items: Iterable[Outgoing], reason: str) -> None:
        for item in items:
            filled = item.body.filled
            if filled is None:
                self._on_event(SendFailed(target=item.target, key=item.key, reason=reason))
            elif not filled.done():
                filled.set_exception(ConnectionError(reason))
                filled.exception()  # counts as retrieved, also where nobody waits any more

    # --- what streams report

    def received(self, stream: PeerStream, message: PeerMessage) -> None:
        self._on_event(Received(sender=stream.name, message=message))

    def acked(self, stream: PeerStream, total: int) -> None:
        try:
            done = self._outbox.acked(stream.name, total)
        except ValueError as error:
            raise PeerFault("an acknowledgement of what was never sent") from error
        now = time.monotonic_ns()
        for item in done:
            self.traffic.model_delivered += item.model_bytes
            filled = item.body.filled
            if filled is None:
                sent = Sent(target=item.target, key=item.key, model_bytes=item.model_bytes)
                self._on_event(sent)
            elif not filled.done():
                filled.set_result(now)
        self._pump()

    def refused(self, peer: str, reason: str) -> None:
        self.traffic.refused += 1
        self._refusals.count(peer, reason)

    def tick(self) -> None:
        """To be called each second: asks silent peers for a sign of life, and gives them up."""
        now = time.monotonic_ns()
        stalled, self._ticked_at = now - self._ticked_at > _STALL, now
        limit = self._config.deadlines.peer_ns
        for stream in self._streams.values():
            if stalled:
                stream.heard_at = now
            silent = now - stream.heard_at
            if silent > limit:
                stream.end(f"silent for {format_duration(limit)}")
            elif silent > limit // 4:
                stream.ping()

    # --- streams that come and go

    async def _dial(self, link: PeerLink) -> None:
        wait = RETRY_S[0]
        while not self._closed:
            if not self._reachable(link.name):
                self._paths_changed.clear()
                await self._paths_changed.wait()
                await asyncio.sleep(_SETTLE_S)
                wait = RETRY_S[0]
                continue
            try:
                async with dial(link.host, link.port, EXCHANGE, deadline_s=GREETING_S) as pipe:
                    await pipe.write(self._greeting())
                    peer = await self._greeted(pipe)
                    if peer.member != link.name:
                        raise PeerFault("another member answers where this one should")
                    wait = RETRY_S[0]
                    await self._serve(peer, pipe)
            except PeerFault as fault:
                self.refused(link.name, fault.message)
            except ConnectionError:
                pass  # not there yet, or not any more
            await asyncio.sleep(wait)
            wait = min(RETRY_S[1], wait * 1.6)

    async def _accept(self, pipe: Pipe) -> None:
        try:
            peer = await self._greeted(pipe)
            if not self._reachable(peer.member) or not peer.member < self._me.member:
                raise PeerFault("a stream from one who should not dial here")
        except PeerFault as fault:
            self.refused("?", fault.message)
            raise
        await pipe.write(self._greeting())
        await self._serve(peer, pipe)

    def _greeting(self) -> bytes:
        return encode_frame(Greeting(identity=self._me))

    async def _greeted(self, pipe: Pipe) -> Identity:
        """Read and check the other's greeting. Raises PeerFault, ConnectionError."""
        try:
            data = await asyncio.wait_for(pipe.read(), GREETING_S)
        except TimeoutError as error:
            raise PeerFault("no greeting in time") from error
        frame = decode_frame(data) if data is not None else None
        if not isinstance(frame, Greeting):
            raise PeerFault("a stream without a greeting")
        peer = frame.identity
        if frame.protocol != PROTOCOL:
            raise PeerFault(f"protocol {frame.protocol}, not {PROTOCOL}")
        if peer.session != self._me.session:
            raise PeerFault("a member of another session")
        if peer.incarnation < self._incarnations.get(peer.member, 0):
            raise PeerFault("an earlier life of a member")
        return peer

    async def _serve(self, peer: Identity, pipe: Pipe) -> None:
        """Run a stream from its greeting to its end."""
        stream = PeerStream(
            peer=peer,
            pipe=pipe,
            home=self,
            traffic=self.traffic,
            message_max=self._message_max,
            shaper=self._shaper,
        )
        old = self._streams.get(peer.member)
        if old is not None:
            self._lost(old, "replaced by a newer stream")
            old.end("replaced")
        self._incarnations[peer.member] = peer.incarnation
        self._streams[peer.member] = stream
        self._cancel_expiry(peer.member)
        self._changed.set()
        self._on_event(PeerChanged(peer=peer.member, change=PeerChange.CONNECTED))
        self._pump()
        reason = "ended"
        try:
            reason = await stream.run()
        finally:
            self._lost(stream, reason)

    def _lost(self, stream: PeerStream, reason: str) -> None:
        """A stream is no more; nothing to do where it was replaced already."""
        if self._streams.get(stream.name) is not stream:
            return
        del self._streams[stream.name]
        broken = self._outbox.disconnected(stream.name)
        if self._closed:
            return
        self._failed(broken, f"the connection broke: {reason}")
        self._expire_later(stream.name)
        self._on_event(PeerChanged(peer=stream.name, change=PeerChange.LOST))
        self._pump()

    def _expire_later(self, peer: NodeId) -> None:
        """Give up on what waits for a peer unless it is connected in time."""
        if peer not in self._expiries:
            limit = self._config.deadlines.peer_ns
            loop = asyncio.get_running_loop()
            self._expiries[peer] = loop.call_later(limit / SECOND, self._expire, peer)

    def _expire(self, peer: NodeId) -> None:
        del self._expiries[peer]
        wait = format_duration(self._config.deadlines.peer_ns)
        self._failed(self._outbox.expire(peer), f"out of reach for {wait}")
        self._pump()

    def _cancel_expiry(self, peer: NodeId) -> None:
        timer = self._expiries.pop(peer, None)
        if timer is not None:
            timer.cancel()

    def _reachable(self, name: NodeId) -> bool:
        link = self._links.get(name)
        return link is not None and link.out is not None and link.into is not None

    async def close(self) -> None:
        """End all streams and stop listening. The tasks are their owner's to cancel."""
        self._closed = True
        for peer in list(self._expiries):
            self._cancel_expiry(peer)
        for stream in list(self._streams.values()):
            stream.end("closing")
        await self._server.close()


class _Body:
    """What the send queue carries for us."""

    __slots__ = ("delivery", "encoded", "filled")

    def __init__(
        self,
        encoded: Encoded,
        delivery: Delivery,
        filled: asyncio.Future[Nanos] | None = None,
    ) -> None:
        self.encoded = encoded
        self.delivery = delivery
        self.filled = filled


def _frame_bytes(path: PathSpec | None) -> int:
    """Payload of a frame: what a path takes `_FRAME_NS` for, so that acknowledgements flow."""
    if path is None or path.rate_bps is None:
        return MAX_PAYLOAD
    return min(MAX_PAYLOAD, max(_FRAME_MIN, path.rate_bps * _FRAME_NS // (8 * SECOND)))


def _model_bytes(item: Outgoing, offset: int, length: int) -> int:
    """How many of these bytes of a message are model values, which are its last ones."""
    head: Any = item.size - item.model_bytes
    return int(max(0, offset + length - max(offset, head)))
