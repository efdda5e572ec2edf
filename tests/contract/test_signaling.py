"""The signaling port without a machine behind it: who is let in, what is refused, what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from node.core.events import Event, PeerChange, PeerChanged, Received
from node.core.ids import NodeId
from node.core.signals import ChangeLinks, Heartbeat, Hello, PeerIsReady, Refuse, Signal, Stop
from node.metrics import MemoryLog
from node.runtime.pipes import CONNECT, Pipe, dial
from node.runtime.refusals import Refusals
from node.runtime.signaling import GARBAGE_MAX, QUEUE_MAX, SignalingServer
from node.runtime.tasks import Tasks
from node.wire.codec import MAX_SIGNAL, decode_signal, encode_signal
from node.wire.frames import Identity
from tests.contract.world import LOOPBACK, free_ports, run, until

A, B = NodeId("a"), NodeId("b")
HELLO = Hello(emulator="none", applied="{}")
ME = Identity(session="s", member=A, incarnation=5)


class Port:
    """A coordinator's port that writes down what comes."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.log = MemoryLog()
        self.defects: list[Exception] = []
        self.refusals = Refusals(self.log)
        self.tasks = Tasks(on_defect=self.defects.append)
        self.server = SignalingServer(
            session="s",
            members=(A, B),
            on_event=self.events.append,
            refusals=self.refusals,
            tasks=self.tasks,
        )
        (self.port,) = free_ports(1)

    def heard(self, member: NodeId = A) -> list[Signal]:
        return [
            event.message  # type: ignore[misc]
            for event in self.events
            if isinstance(event, Received) and event.sender == member
        ]

    def changes(self) -> list[PeerChange]:
        return [event.change for event in self.events if isinstance(event, PeerChanged)]

    def refused(self) -> dict[str, int]:
        self.refusals.flush()
        return {record["reason"]: record["count"] for record in self.log.of("refused")}

    def line(self) -> contextlib.AbstractAsyncContextManager[Pipe]:
        return dial(LOOPBACK, self.port, CONNECT, deadline_s=5)


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[Port]:
    made = Port()
    await made.server.open(LOOPBACK, made.port)
    try:
        yield made
    finally:
        await made.server.close(grace_s=0)
        assert not made.defects


async def say(pipe: Pipe, signal: Signal, who: Identity = ME) -> None:
    await pipe.write(encode_signal(signal, member=who))


async def to_the_end(pipe: Pipe) -> None:
    """Read until the other end finishes. Raises ConnectionError where it breaks the stream."""
    while await pipe.read() is not None:
        pass


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (dataclasses.replace(ME, session="t"), "this is session s, not t"),
        (dataclasses.replace(ME, member=NodeId("x")), "x is not in this run"),
        (dataclasses.replace(ME, incarnation=4), "a newer a is here already"),
    ],
    ids=["session", "member", "an older life"],
)
def test_who_does_not_belong_here_is_told_so(who: Identity, reason: str) -> None:
    async def scenario() -> None:
        async with port() as it, it.line() as known, it.line() as pipe:
            await say(known, HELLO)
            await until(lambda: it.heard() == [HELLO])
            await say(pipe, HELLO, who)
            _, answer = decode_signal(await pipe.read() or b"")
            assert answer == Refuse(reason=reason)
            with pytest.raises(ConnectionError, match=reason):
                await pipe.read()
            assert it.refused() == {reason: 1}
            await say(known, PeerIsReady(round=1))
            await until(lambda: it.heard() == [HELLO, PeerIsReady(round=1)])
            assert it.changes() == [PeerChange.CONNECTED]

    run(scenario())


def test_a_later_life_takes_the_place_of_the_former() -> None:
    async def scenario() -> None:
        async with port() as it, it.line() as old, it.line() as new:
            await say(old, HELLO)
            await until(lambda: len(it.heard()) == 1)
            it.server.send(A, Stop(reason="for the old one"))
            await say(new, HELLO, dataclasses.replace(ME, incarnation=6))
            await until(lambda: len(it.heard()) == 2)
            assert it.changes() == [PeerChange.CONNECTED, PeerChange.RESTARTED]
            it.server.send(A, Stop(reason="for the new one"))
            who, signal = decode_signal(await new.read() or b"")
            assert (who.incarnation, signal) == (6, Stop(reason="for the new one"))
            with contextlib.suppress(ConnectionError):
                await say(old, PeerIsReady(round=9))
                await to_the_end(old)
            assert PeerIsReady(round=9) not in it.heard(), "what the dead one says is not heard"

    run(scenario())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff", "a signal that is not protobuf"),
        (b"", "a signal of an unknown kind"),
        (bytes(MAX_SIGNAL + 1), "a signal that is too large"),
        (encode_signal(PeerIsReady(), member=ME)[:-2], "not protobuf"),
        (
            encode_signal(PeerIsReady(), member=dataclasses.replace(ME, incarnation=4)),
            "another session, member or life than its stream",
        ),
        (
            encode_signal(PeerIsReady(), member=dataclasses.replace(ME, member=B)),
            "another session, member or life than its stream",
        ),
    ],
    ids=["garbage", "empty", "oversized", "cut off", "a former life", "somebody else"],
)
def test_what_is_no_signal_of_the_member_is_counted_and_passed_over(
    data: bytes, reason: str
) -> None:
    async def scenario() -> None:
        async with port() as it, it.line() as pipe:
            await say(pipe, HELLO)
            for _ in range(20):
                await pipe.write(data)
            await say(pipe, PeerIsReady(round=1))
            await until(lambda: it.heard() == [HELLO, PeerIsReady(round=1)])
            ((found, count),) = it.refused().items()
            assert reason in found
            assert count == 20
            assert it.changes() == [PeerChange.CONNECTED]

    run(scenario())


def test_a_stream_of_nothing_but_garbage_is_ended() -> None:
    async def scenario() -> None:
        async with port() as it, it.line() as pipe:
            await say(pipe, HELLO)
            for _ in range(GARBAGE_MAX):
                await pipe.write(b"\xff")
            await say(pipe, PeerIsReady(round=1))  # one good signal, and the count begins anew
            with contextlib.suppress(ConnectionError):
                for _ in range(3 * GARBAGE_MAX):
                    await pipe.write(b"\xff")
            with pytest.raises(ConnectionError):
                await to_the_end(pipe)
            assert sum(it.refused().values()) == 2 * GARBAGE_MAX + 1
            assert it.changes() == [PeerChange.CONNECTED, PeerChange.LOST]
            assert it.heard() == [HELLO, PeerIsReady(round=1)]
            async with it.line() as again:
                await say(again, HELLO)
                await until(lambda: len(it.heard()) == 3)

    run(scenario())


def test_who_does_not_read_loses_the_stream_and_nothing_piles_up() -> None:
    async def scenario() -> None:
        plan = ChangeLinks(number=1, plan="x" * 2**20)
        async with port() as it, it.line() as pipe:
            await say(pipe, HELLO)
            await until(lambda: len(it.heard()) == 1)
            # Nobody reads: the transport takes its window, then our queue fills up, then it ends.
            await until(
                lambda: it.server.send(A, plan) or it.changes()[-1] is PeerChange.LOST,
                what="the stream is ended",
            )
            for _ in range(1000):
                it.server.send(A, plan)
            assert sum(map(len, it.server._lines[A].waiting)) <= QUEUE_MAX

    run(scenario())


def test_streams_that_are_refused_leave_nothing_behind() -> None:
    async def scenario() -> None:
        async with port() as it:
            await asyncio.sleep(0)
            before = len(asyncio.all_tasks())
            for number in range(60):
                async with it.line() as pipe:
                    who = dataclasses.replace(ME, session=f"x{number}")
                    await say(pipe, Heartbeat(phase="", ended=0), who)
                    with pytest.raises(ConnectionError):
                        await to_the_end(pipe)
            refused = it.refused()
            assert sum(refused.values()) == 60
            assert len(refused) <= 17, "reasons that an outsider chooses are counted together"
            assert not it.server._lives
            await until(lambda: len(asyncio.all_tasks()) <= before + 2, what="tasks are gone")

    run(scenario())
