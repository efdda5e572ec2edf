"""A node's streams to its peers, around its send queue (`node.core.outbox`).

One stream for each pair, dialled by the node whose name sorts first. Both ends greet each other;
a member that comes back with a higher incarnation replaces its old stream, a lower one is refused.
A broken stream is dialled again; what the peer may lack of it is reported as `SendFailed`, and what
waits is given up when the peer stays out of reach for `Deadlines.peer_ns`. Whether a peer answers
now is found out by `node.runtime.edges`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from node.config import NodeConfig, PathChange, PeerLink
from node.core.effects import DropQueued, InFlight, Send
from node.core.events import Event, PeerChange, PeerChanged, Received, SendFailed, Sent
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.outbox import Outbox, Outgoing, Priority, window_bytes
from node.core.traffic import Traffic
from node.errors import PeerFault
from node.runtime.outgoing import Body, frame_bytes, model_bytes
from node.runtime.peer_stream import PeerStream
from node.runtime.pipes import EXCHANGE, Pipe, Server, dial
from node.runtime.refusals import Refusals
from node.runtime.shaper import Shaper
from node.runtime.tasks import Tasks
from node.units import SECOND, Nanos, format_duration
from node.wire.codec import Encoded, decode_frame, encode_frame, encode_message
from node.wire.frames import MAX_MESSAGE, PROTOCOL, Abort, Chunk, Greeting, Identity

RETRY_S: Final = (0.2, 2.0)
"""Back-off between attempts to reach a peer: first and longest."""
GREETING_S: Final = 5.0
_SETTLE_S: Final = 0.05
"""After a path has come back: the other end may be a little late to know."""
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
        self._frames = {peer.name: frame_bytes(peer.out) for peer in config.links.peers}
        self._outbox = Outbox(pacing=config.algorithm.pacing, window=self._windows.__getitem__)
        self._streams: dict[NodeId, PeerStream] = {}
        self._incarnations: dict[NodeId, int] = {}
        self._wanted: set[NodeId] = set()
        self._dials: dict[NodeId, _Dial] = {}
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
        for name in self._wanted - self._dials.keys():
            if self._me.member < name and self.has_path(name):
                self._dials[name] = _Dial()
                self._tasks.spawn(self._dial(name))

    def hasten(self, peer: NodeId) -> None:
        """Dial a peer now, if it is ours to dial, rather than after the usual pause."""
        dial_of = self._dials.get(peer)
        if dial_of is not None:
            dial_of.wait = RETRY_S[0]
            dial_of.now.set()

    def renew(self, peer: NodeId) -> None:
        """Close the stream to a peer and dial it anew, whatever that is at, if it is ours to dial.

        The other end does nothing: it takes the new stream in the place of the old one.
        """
        dial_of = self._dials.get(peer)
        if dial_of is None:
            return
        if (stream := self._streams.get(peer)) is not None:
            stream.end("to be dialled anew")
        elif dial_of.attempt is not None:
            dial_of.attempt.reschedule(asyncio.get_running_loop().time())
            dial_of.attempt = None
        self.hasten(peer)

    def change_paths(self, changes: Iterable[PathChange]) -> None:
        """Paths are different from now on: as much is under way as fits them."""
        for change in changes:
            link = self._links.get(change.name)
            if link is not None:
                link = replace(link, out=change.out, into=change.into)
                self._links[change.name] = link
                self._windows[change.name] = window_bytes(link.out, link.into)
                self._frames[change.name] = frame_bytes(link.out)
        self._paths_changed.set()
        self.connect(())
        self._pump()

    def has_path(self, peer: NodeId) -> bool:
        """Whether the link plan has a path to this member and back, as things are now."""
        link = self._links.get(peer)
        return link is not None and link.out is not None and link.into is not None

    def obstacle(self, peer: NodeId) -> str:
        """Why there is no stream to a peer, as far as this end can tell."""
        if peer in self._dials:
            return self._dials[peer].failed or "it has not answered yet"
        return "it has not dialled this node"

    async def up(self, peer: NodeId) -> PeerStream:
        """The stream to a peer, once there is one. Waits for as long as that takes."""
        while peer not in self._streams:
            self._changed.clear()
            await self._changed.wait()
        return self._streams[peer]

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

    def send(self, effect: Send, *, priority: Priority = Priority.MODEL) -> None:
        """Queue a message to a peer. Raises ValueError where it cannot be one.

        Args:
            priority: if it has a part; a message without is a control message.
        """
        message = effect.message
        if not isinstance(message, PeerMessage):
            raise ValueError(f"a {type(message).__name__} to a peer")
        item = Outgoing(
            target=effect.target,
            key=effect.key,
            size=0,
            body=Body(
                encode_message(message, sender=self._me),
                message.delivery,
                kind=message.kind if priority is Priority.MODEL else None,
                entered=time.monotonic_ns(),
            ),
            priority=Priority.CONTROL if message.part is None else priority,
            model_bytes=message.model_bytes,
        )
        item.size = item.body.encoded.size
        self._push(item, supersedes=effect.supersedes)

    def fill(self, peer: NodeId, *, size: int, delivery: Delivery) -> asyncio.Future[Nanos]:
        """Send ballast; the future is when (monotonic) the peer had all of it.

        The future fails with ConnectionError when the stream breaks.
        """
        done: asyncio.Future[Nanos] = asyncio.get_running_loop().create_future()
        body = Body(Encoded(head=b"", values=memoryview(bytes(size))), delivery, filled=done)
        item = Outgoing(
            target=peer,
            key=_FILLER,
            size=size,
            body=body,
            priority=Priority.MODEL,
            model_bytes=0,
        )
        self._push(item, supersedes=False)
        return done

    def drop_fillers(self) -> None:
        """Cancel ballast that has not arrived."""
        self.drop(DropQueued(key_prefix=_FILLER, in_flight=InFlight.ABORT))

    def queued_model_bytes(self) -> int:
        """Model bytes in the queue that no stream has been given yet, model sync apart."""
        return sum(
            item.model_bytes - model_bytes(item, 0, item.written)
            for item in self._outbox.queued()
            if item.priority is not Priority.BACKGROUND
        )

    def drop(self, effect: DropQueued) -> None:
        """Cancel what is queued, as `effect` says."""
        dropped = self._outbox.drop(key_prefix=effect.key_prefix, in_flight=effect.in_flight)
        for item in (*dropped.queued, *dropped.aborted):
            self._cancelled(item)
        for item in dropped.aborted:
            stream = self._streams.get(item.target)
            if stream is not None:
                stream.put(Abort(message=item.number))
        self._pump()

    def _cancelled(self, item: Outgoing) -> None:
        """Count what a cancel took back."""
        if item.body.kind is not None:
            unsent = item.model_bytes - model_bytes(item, 0, item.written)
            self.traffic.count_cancelled(item.body.kind, unsent)

    def _push(self, item: Outgoing, *, supersedes: bool) -> None:
        for old in self._outbox.push(item, supersedes=supersedes):
            self._cancelled(old)
        if item.target not in self._streams:
            self._expire_later(item.target)
        self._pump()

    def _pump(self) -> None:
        """Hand to the streams what the queue allows."""
        while (cut := self._outbox.next_chunk(self._streams)) is not None:
            item, body = cut.item, cut.item.body
            values = model_bytes(item, cut.offset, cut.length)
            if body.kind is None:
                self.traffic.sync_sent += values
            else:
                self.traffic.count_sent(body.kind, values)
            if cut.offset == 0:
                body.begun = time.monotonic_ns()
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
            kind, filled = item.body.kind, item.body.filled
            if kind is not None:
                self.traffic.of(kind).lost += item.model_bytes
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
            body = item.body
            if body.kind is not None:
                latency, queued = now - body.entered, body.begun - body.entered
                self.traffic.count_delivered(
                    body.kind, item.model_bytes, latency=latency, queued=queued
                )
            filled = body.filled
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

    async def _dial(self, name: NodeId) -> None:
        this = self._dials[name]
        while not self._closed:
            if not self.has_path(name):
                self._paths_changed.clear()
                await self._paths_changed.wait()
                await asyncio.sleep(_SETTLE_S)
                this.wait = RETRY_S[0]
                continue
            this.now.clear()
            try:
                await self._dial_once(self._links[name], this)
            except PeerFault as fault:
                this.failed = fault.message
                self.refused(name, fault.message)
            except ConnectionError as error:
                this.failed = str(error)  # not there yet, or not any more
            except TimeoutError:
                continue  # of `renew`
            pause, this.wait = this.wait, min(RETRY_S[1], this.wait * 1.6)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(this.now.wait(), pause)

    async def _dial_once(self, link: PeerLink, this: _Dial) -> None:
        """Dial a peer and run the stream. Raises PeerFault, ConnectionError, TimeoutError."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(None) as this.attempt:
                    pipe = await stack.enter_async_context(
                        dial(link.host, link.port, EXCHANGE, deadline_s=GREETING_S)
                    )
                    await pipe.write(self._greeting())
                    peer = await self._greeted(pipe)
            finally:
                this.attempt = None
            if peer.member != link.name:
                raise PeerFault("another member answers where this one should")
            this.wait, this.failed = RETRY_S[0], None
            await self._serve(peer, pipe)

    async def _accept(self, pipe: Pipe) -> None:
        try:
            peer = await self._greeted(pipe)
            if not self.has_path(peer.member) or not peer.member < self._me.member:
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

    async def close(self) -> None:
        """End all streams and stop listening. The tasks are their owner's to cancel."""
        self._closed = True
        for peer in list(self._expiries):
            self._cancel_expiry(peer)
        for stream in list(self._streams.values()):
            stream.end("closing")
        await self._server.close()


class _Dial:
    """How it stands with the dialling of one peer."""

    __slots__ = ("attempt", "failed", "now", "wait")

    def __init__(self) -> None:
        self.attempt: asyncio.Timeout | None = None
        """While a dial is under way: ends it."""
        self.failed: str | None = None
        """Why the last one failed."""
        self.now = asyncio.Event()
        """Do not wait any longer."""
        self.wait = RETRY_S[0]
