"""The stream between a member and the coordinator, at both ends.

While there is no stream, signals wait for the next one, but for Hello and Heartbeat: a member says
Hello anew on every stream, and an old heartbeat says nothing. What was on its way when a stream
broke is lost; the machines' deadlines take care of that.

Whoever can reach the coordinator's port can write to it. What is no signal of the stream's member
is counted and refused; who sends nothing else, or does not read, loses the stream; and nothing that
is sent makes this process grow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from node.core.events import Event, PeerChange, PeerChanged, Received
from node.core.ids import COORDINATOR, NodeId
from node.core.signals import Heartbeat, Hello, Refuse, Signal
from node.errors import PeerFault
from node.runtime.duplex import Duplex
from node.runtime.pipes import CONNECT, Pipe, Server, dial
from node.runtime.refusals import Refusals
from node.runtime.tasks import Tasks
from node.wire.codec import decode_signal, encode_signal
from node.wire.frames import Identity

RETRY_S: Final = (0.2, 2.0)
DIAL_S: Final = 5.0
_WAITING_MAX: Final = 64
GARBAGE_MAX: Final = 200
"""Signals that may be refused in a row before the stream is ended."""
QUEUE_MAX: Final = 16 * 2**20
"""Bytes for a member that reads slowly: some changes of links, each of up to 1 MiB."""


@dataclass(slots=True, eq=False)
class _Line:
    """What goes to one end, whether it is connected or not."""

    duplex: Duplex | None = None
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=_WAITING_MAX))

    def put(self, data: bytes, *, keep: bool) -> None:
        if self.duplex is not None:
            self.duplex.put(data)
        elif keep:
            self.waiting.append(data)
            while sum(map(len, self.waiting)) > QUEUE_MAX:
                self.waiting.popleft()

    def flush(self) -> None:
        while self.duplex is not None and self.waiting:
            self.duplex.put(self.waiting.popleft())


class SignalingClient:
    """A member's end. Make it on a running event loop.

    Args:
        on_event: takes Received and PeerChanged of the coordinator.
    """

    def __init__(
        self,
        *,
        me: Identity,
        host: str,
        port: int,
        on_event: Callable[[Event], None],
        refusals: Refusals,
        tasks: Tasks,
    ) -> None:
        self._me = me
        self._host, self._port = host, port
        self._on_event = on_event
        self._refusals = refusals
        self._tasks = tasks
        self._line = _Line()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self) -> None:
        """Begin to dial, and go on until `close`."""
        self._tasks.spawn(self._dial())

    def send(self, signal: Signal) -> None:
        data = encode_signal(signal, member=self._me)
        self._line.put(data, keep=not isinstance(signal, Hello | Heartbeat))

    async def close(self, *, deadline_s: float) -> None:
        """Let what was sent reach the coordinator, if it is there, then end the stream."""
        self._closing = True
        if self._line.duplex is not None:
            self._line.duplex.finish()
            try:
                await asyncio.wait_for(self._idle.wait(), deadline_s)
            except TimeoutError:
                self._line.duplex.end("closing")

    async def _dial(self) -> None:
        wait = RETRY_S[0]
        while not self._closing:
            try:
                async with dial(
                    self._host, self._port, CONNECT, deadline_s=DIAL_S, keepalive=True
                ) as pipe:
                    wait = RETRY_S[0]
                    await self._serve(pipe)
            except ConnectionError:
                pass  # not there yet, or not any more
            await asyncio.sleep(wait)
            wait = min(RETRY_S[1], wait * 1.6)

    async def _serve(self, pipe: Pipe) -> None:
        duplex = self._line.duplex = Duplex(pipe, on_data=self._on_data, queue_max=QUEUE_MAX)
        self._idle.clear()
        # The member says Hello to this; only then comes what had to wait.
        self._on_event(PeerChanged(peer=COORDINATOR, change=PeerChange.CONNECTED))
        self._line.flush()
        try:
            await duplex.run()
        finally:
            self._line.duplex = None
            self._idle.set()
            if not self._closing:
                self._on_event(PeerChanged(peer=COORDINATOR, change=PeerChange.LOST))

    def _on_data(self, data: bytes) -> None:
        try:
            member, signal = decode_signal(data)
            # A refusal may be for another session: that is why it refuses.
            if member != self._me and not isinstance(signal, Refuse):
                raise PeerFault("a signal for another session, member or life")
        except PeerFault as fault:
            self._refusals.count(COORDINATOR, fault.message)
            return
        self._on_event(Received(sender=COORDINATOR, message=signal))


class SignalingServer:
    """The coordinator's end. Make it on a running event loop.

    Args:
        members: who may come.
        on_event: takes Received and PeerChanged of members.
    """

    def __init__(
        self,
        *,
        session: str,
        members: Iterable[NodeId],
        on_event: Callable[[Event], None],
        refusals: Refusals,
        tasks: Tasks,
    ) -> None:
        self._session = session
        self._lines = {name: _Line() for name in members}
        self._lives: dict[NodeId, Identity] = {}
        self._on_event = on_event
        self._refusals = refusals
        self._server = Server(CONNECT, self._accept, on_defect=tasks.on_defect, keepalive=True)
        self._closing = False

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises EnvironmentFault."""
        return await self._server.open(host, port)

    def send(self, member: NodeId, signal: Signal) -> None:
        """To a member; it waits if the member is between two streams, not if it never came."""
        life = self._lives.get(member)
        if life is not None:
            self._lines[member].put(encode_signal(signal, member=life), keep=True)

    async def close(self, *, grace_s: float) -> None:
        """Stop listening; streams that members do not end themselves are cut after the grace."""
        self._closing = True
        await self._server.close(grace_s=grace_s)

    async def _accept(self, pipe: Pipe) -> None:
        """Run a member's stream: its first signal says who it is."""
        try:
            data = await asyncio.wait_for(pipe.read(), DIAL_S)
            if data is None:
                return
            who, signal = decode_signal(data)
            reason = self._objection(who)
            if reason is not None:
                await pipe.write(encode_signal(Refuse(reason=reason), member=who))
                raise PeerFault(reason)
        except TimeoutError:
            self._refusals.count("?", "a stream without a signal")
            return
        except PeerFault as fault:
            self._refusals.count("?", fault.message)
            raise
        await self._serve(who, signal, pipe)

    def _objection(self, who: Identity) -> str | None:
        if who.session != self._session:
            return f"this is session {self._session}, not {who.session}"
        if who.member not in self._lines:
            return f"{who.member} is not in this run"
        known = self._lives.get(who.member)
        if known is not None and who.incarnation < known.incarnation:
            return f"a newer {who.member} is here already"
        return None

    async def _serve(self, who: Identity, first: Signal, pipe: Pipe) -> None:
        name, line = who.member, self._lines[who.member]
        if line.duplex is not None:
            line.duplex.end("replaced by a newer stream")
        change = PeerChange.CONNECTED
        if self._lives.get(name, who) != who:
            line.waiting.clear()  # what was meant for a former life
            change = PeerChange.RESTARTED
        self._lives[name] = who
        reader = _Reader(who, on_event=self._on_event, refusals=self._refusals)
        duplex = line.duplex = Duplex(pipe, on_data=reader.on_data, queue_max=QUEUE_MAX)
        reader.on_garbage = duplex.end
        self._on_event(PeerChanged(peer=name, change=change))
        self._on_event(Received(sender=name, message=first))
        line.flush()
        try:
            reason = await duplex.run()
        finally:
            if line.duplex is duplex:
                line.duplex = None
                if not self._closing:
                    self._on_event(PeerChanged(peer=name, change=PeerChange.LOST))
        if reader.refused > GARBAGE_MAX:
            raise PeerFault(reason)


class _Reader:
    """Takes what a member's stream brings.

    Attributes:
        refused: signals in a row that were refused.
        on_garbage: ends the stream, with this reason.
    """

    def __init__(
        self, who: Identity, *, on_event: Callable[[Event], None], refusals: Refusals
    ) -> None:
        self.refused = 0
        self.on_garbage: Callable[[str], None] = lambda _: None
        self._who = who
        self._on_event = on_event
        self._refusals = refusals

    def on_data(self, data: bytes) -> None:
        if self.refused > GARBAGE_MAX:
            return  # read before the stream ended
        try:
            said, signal = decode_signal(data)
            if said != self._who:
                raise PeerFault("a signal from another session, member or life than its stream")
        except PeerFault as fault:
            self._refusals.count(self._who.member, fault.message)
            self.refused += 1
            if self.refused > GARBAGE_MAX:
                self.on_garbage(f"more than {GARBAGE_MAX} signals in a row that are none")
            return
        self.refused = 0
        self._on_event(Received(sender=self._who.member, message=signal))
