"""The real ends of a simulated run: what crosses between its processes crosses loopback gRPC.

Signals go by `SignalingClient` and `SignalingServer`, what peers say by their meshes. A stream that
broke in the simulation is opened anew before anything crosses it again; a process that died there
has closed its ends, and its next life says so by its incarnation.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from node.config import NodeConfig
from node.core.effects import Send
from node.core.events import Event, PeerChange, PeerChanged, Received, SendFailed, Sent
from node.core.ids import COORDINATOR, NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import KINDS
from node.core.outbox import Priority
from node.core.signals import Signal
from node.metrics import MemoryLog
from node.runtime.mesh import Mesh
from node.runtime.peer_stream import PeerStream
from node.runtime.pipes import CONNECT, Pipe, Server
from node.runtime.refusals import Refusals
from node.runtime.signaling import SignalingClient, SignalingServer
from node.runtime.tasks import Tasks
from node.wire.codec import encode_signal
from node.wire.frames import Identity
from tests.contract.world import LOOPBACK, free_ports, setting

DEADLINE_S: Final = 20.0
"""For each message, on whatever machine."""


def came_up(event: PeerChanged) -> list[tuple[NodeId, PeerChange]]:
    """Whose stream did, if one did. When the end of one is noticed is a matter of real time."""
    return [] if event.change is PeerChange.LOST else [(event.peer, event.change)]


class Post:
    """What has come out of the streams of one run, in order."""

    def __init__(self) -> None:
        self.out: list[tuple[NodeId, NodeId, Any]] = []
        """Source, target, message."""
        self._news = asyncio.Event()

    def put(self, source: NodeId, target: NodeId, message: object) -> None:
        self.out.append((source, target, message))
        self.tell()

    def tell(self) -> None:
        """Something has happened that may be waited for."""
        self._news.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Fails at the deadline."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not within {DEADLINE_S:g} s: {what}")


class Process:
    """What the real ends of one process share."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self._log = MemoryLog()
        self._defects: list[Exception] = []
        self.refusals = Refusals(self._log)
        self.tasks = Tasks(on_defect=self._defects.append)

    async def close(self) -> None:
        await self.tasks.close()
        self.refusals.flush()
        assert not self._defects, self._defects
        assert not self._log.of("refused"), self._log.of("refused")


class Coordinator(Process):
    """A life of the coordinator."""

    def __init__(self, post: Post, config: NodeConfig) -> None:
        super().__init__(post)
        self.changes: list[tuple[NodeId, PeerChange]] = []
        """Streams that came up, and whose."""
        self._port = config.coordinator_port
        self.server = SignalingServer(
            session=config.session,
            members=config.members,
            on_event=self._on_event,
            refusals=self.refusals,
            tasks=self.tasks,
        )

    async def open(self) -> None:
        await self.server.open(LOOPBACK, self._port)

    async def close(self) -> None:
        await self.server.close(grace_s=0)
        await super().close()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Received):
            self.post.put(event.sender, COORDINATOR, event.message)
        elif isinstance(event, PeerChanged):
            self.changes += came_up(event)


class Member(Process):
    """A life of a member.

    Attributes:
        line: which stream of the simulation the present one to the coordinator is, if any.
        known: whether the coordinator's end has heard anything on it.
    """

    def __init__(self, post: Post, config: NodeConfig, *, incarnation: int) -> None:
        super().__init__(post)
        self.name = config.name
        self.me = Identity(session=config.session, member=config.name, incarnation=incarnation)
        self.line: int | None = None
        self.known = False
        self.sent: set[str] = set()
        self.failed: list[SendFailed] = []
        self._up = False
        self._fresh = False
        self.client = self.dialling(config.coordinator_port, self._from_coordinator)
        self.mesh = Mesh(
            config=config,
            me=self.me,
            on_event=self._from_peer,
            refusals=self.refusals,
            tasks=self.tasks,
        )

    def dialling(self, port: int, on_event: Callable[[Event], None]) -> SignalingClient:
        return SignalingClient(
            me=self.me,
            host=LOOPBACK,
            port=port,
            on_event=on_event,
            refusals=self.refusals,
            tasks=self.tasks,
        )

    async def open(self) -> None:
        await self.mesh.open()
        self.client.open()

    async def close(self) -> None:
        await self.mesh.close()
        await super().close()

    async def up(self) -> None:
        await self.post.until(lambda: self._up, f"{self.name} reaches the coordinator")

    async def lost(self) -> None:
        """The coordinator is no more: this end hears of it."""
        await self.post.until(lambda: not self._up, f"{self.name} hears that its stream is lost")

    async def connected(self, line: int) -> None:
        """That stream of the simulation is a real one; never one that was another before."""
        if self.line == line:
            return
        if self._up and not self._fresh:
            duplex = self.client._line.duplex
            assert duplex is not None
            duplex.end("it breaks in the simulation")
        fresh = f"a new stream of {self.name} to the coordinator"
        await self.post.until(lambda: self._up and self._fresh, fresh)
        self.line, self._fresh, self.known = line, False, False

    def _from_coordinator(self, event: Event) -> None:
        if isinstance(event, Received):
            self.post.put(COORDINATOR, self.name, event.message)
        elif isinstance(event, PeerChanged):
            self._up = self._fresh = event.change is PeerChange.CONNECTED
            self.post.tell()

    def _from_peer(self, event: Event) -> None:
        match event:
            case Received(sender=sender, message=message):
                self.post.put(sender, self.name, message)
            case Sent(key=key):
                self.sent.add(key)
            case SendFailed():
                self.failed.append(event)
        self.post.tell()


class Loopback:
    """The real ends of one simulated run."""

    def __init__(self, names: tuple[NodeId, ...]) -> None:
        self._configs = setting(Path(), count=len(names)).nodes
        assert tuple(self._configs) == names
        self._any = next(iter(self._configs.values()))
        self.post = Post()
        self.answers: Counter[str] = Counter()
        """Acknowledgements and answers to pings that came over peer streams."""
        self.unasked = 0
        """Signals that no `SignalingServer` would have sent."""
        self._members: dict[NodeId, Member] = {}
        self._coordinator: Coordinator | None = None
        self._wires: dict[tuple[NodeId, NodeId], tuple[int, PeerStream, PeerStream]] = {}
        self._owed: Counter[tuple[str, NodeId, NodeId]] = Counter()
        """Answers that have crossed and are still under way in the simulation."""

    # --- processes

    async def start_coordinator(self) -> None:
        self._coordinator = Coordinator(self.post, self._any)
        await self._coordinator.open()

    async def stop_coordinator(self) -> list[tuple[NodeId, PeerChange]]:
        """Returns whose streams came up in that life."""
        ending, self._coordinator = self._coordinator, None
        if ending is None:
            return []
        for member in self._members.values():
            await member.up()  # none must reach the one that ends while it does so
        await ending.close()
        for member in self._members.values():
            await member.lost()
        return ending.changes

    async def start(self, name: NodeId, incarnation: int) -> None:
        await self.stop(name)
        member = Member(self.post, self._configs[name], incarnation=incarnation)
        self._members[name] = member
        await member.open()

    async def stop(self, name: NodeId) -> None:
        """A process ends; nothing of it is left."""
        if name in self._members:
            await self._members.pop(name).close()

    async def close(self) -> list[tuple[NodeId, PeerChange]]:
        for name in list(self._members):
            await self.stop(name)
        return await self.stop_coordinator()

    # --- signals

    async def signal(self, source: NodeId, target: NodeId, line: int, message: Signal) -> Signal:
        """Over the stream that is `line` in the simulation; returns what arrives."""
        up = target == COORDINATOR
        member = self._members[source if up else target]
        come = len(self.post.out)
        if up:
            assert self._coordinator is not None
            await member.connected(line)
            member.client.send(message)
            member.known = True
        elif member.line == line and member.known:
            assert self._coordinator is not None
            self._coordinator.server.send(target, message)
        else:
            return await self._unasked(member, message)
        out: Signal = await self._out(come, source, target)
        return out

    async def _out(self, come: int, source: NodeId, target: NodeId) -> Any:
        what = f"a message from {source} arrives at {target}"
        await self.post.until(lambda: len(self.post.out) > come, what)
        return self._the_one(come, source, target)

    async def _unasked(self, member: Member, message: Signal) -> Signal:
        """No coordinator of ours says anything on a stream that has not said who it is. Another
        one does it: on its own port, to a client like the member's."""
        self.unasked += 1

        async def accept(pipe: Pipe) -> None:
            await pipe.write(encode_signal(message, member=member.me))
            await pipe.read()  # until the client is gone

        def heard(event: Event) -> None:
            if isinstance(event, Received):
                self.post.put(COORDINATOR, member.name, event.message)

        come = len(self.post.out)
        server = Server(CONNECT, accept, on_defect=member.tasks.on_defect)
        (port,) = free_ports(1)
        await server.open(LOOPBACK, port)
        try:
            client = member.dialling(port, heard)
            client.open()
            out: Signal = await self._out(come, COORDINATOR, member.name)
            await client.close(deadline_s=DEADLINE_S)
        finally:
            await server.close()
        return out

    def _the_one(self, come: int, source: NodeId, target: NodeId) -> Any:
        """What has arrived since then: one message, of these."""
        assert len(self.post.out) == come + 1
        found = self.post.out[come]
        assert found[:2] == (source, target)
        return found[2]

    # --- what peers say

    async def item(self, source: NodeId, target: NodeId, wire: int, item: Any) -> Any:
        """Likewise, of `tests.simulation.mesh`. Answers have crossed with what they answer, as the
        far end gives them at once: the simulation may be later, never earlier."""
        stream = await self._connected(source, target, wire)
        match item:
            case ("message", number, PeerMessage() as message):
                out = await self._message(source, target, message)
                self._owed["ack", target, source] += 1
                return ("message", number, out)
            case ("ping", *_):
                async with asyncio.timeout(DEADLINE_S):
                    assert await stream.ping() is not None
                self._owed["pong", target, source] += 1
            case ("ack" | "pong" as kind, *_):
                self._owed[kind, source, target] -= 1
                assert self._owed[kind, source, target] >= 0, f"{source} has given no {kind}"
                self.answers[kind] += 1
            case _:
                raise AssertionError(item)
        return item

    async def _message(self, source: NodeId, target: NodeId, message: PeerMessage) -> PeerMessage:
        sender = self._members[source]
        come = len(self.post.out)
        key = str(come)
        order = Send(target=target, message=message, key=key)
        background = message.kind in KINDS and message.part is not None
        sender.mesh.send(order, priority=Priority.BACKGROUND if background else Priority.MODEL)
        await self.post.until(
            lambda: bool(sender.failed) or (len(self.post.out) > come and key in sender.sent),
            f"a message from {source} arrives at {target}, and the acknowledgement of it",
        )
        assert not sender.failed, sender.failed
        found: PeerMessage = self._the_one(come, source, target)
        return found

    async def _connected(self, source: NodeId, target: NodeId, wire: int) -> PeerStream:
        """The stream of this pair; never one that was another in the simulation before."""
        low, high = sorted((source, target))
        one, two = self._members[low], self._members[high]
        was = self._wires.get((low, high))
        if was is None or was[0] != wire:
            old = was[1:] if was is not None else (None, None)
            two.mesh.connect((low,))
            one.mesh.connect((high,))
            if old[0] is not None and one.mesh.stream(high) is old[0]:
                one.mesh.renew(high)
            else:
                one.mesh.hasten(high)

            def fresh() -> bool:
                ends = (one.mesh.stream(high), two.mesh.stream(low))
                return all(
                    end is not None and end is not before and end.peer == other.me
                    for end, before, other in zip(ends, old, (two, one), strict=True)
                )

            await self.post.until(fresh, f"a new stream between {low} and {high}")
            was = self._wires[low, high] = wire, await one.mesh.up(high), await two.mesh.up(low)
            for kind in ("ack", "pong"):
                self._owed[kind, low, high] = self._owed[kind, high, low] = 0
        return was[1] if source == low else was[2]
