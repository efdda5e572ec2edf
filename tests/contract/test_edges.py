"""Which peers answer now: checks of connections, on meshes over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable

import pytest

from node.config import NodeConfig, PathChange, PathSpec
from node.core.effects import ConnectEdges
from node.core.events import EdgeSettled, PeerChange
from node.core.ids import NodeId
from node.runtime.edges import LIMIT_SHARE, EdgeChecks
from node.runtime.pipes import EXCHANGE, Pipe, Server, dial
from node.units import MILLISECOND, SECOND
from node.wire.codec import decode_frame, encode_frame
from node.wire.frames import Greeting, Identity, Ping, Pong
from tests.contract.stations import Station, configs
from tests.contract.world import LOOPBACK, run, until

A, B, C, D = (NodeId(letter) for letter in "abcd")
TIMEOUT = SECOND
LIMIT_S = LIMIT_SHARE * TIMEOUT / SECOND


class Checked:
    """A station that nobody has told to connect, and the answers of its checks."""

    def __init__(self, config: NodeConfig, *, timeout_ns: int = TIMEOUT) -> None:
        self.station = Station(config)
        self.mesh = self.station.mesh
        self.answers: list[EdgeSettled] = []
        self.checks = EdgeChecks(
            mesh=self.mesh,
            timeout_ns=timeout_ns,
            tasks=self.station.tasks,
            tell=self.answers.append,
        )

    def check(
        self,
        *peers: NodeId,
        attempt: int = 1,
        anew: Iterable[NodeId] = (),
        spare: Iterable[NodeId] = (),
    ) -> None:
        order = ConnectEdges(
            round=3, attempt=attempt, peers=peers, anew=tuple(anew), spare=tuple(spare)
        )
        self.checks.check(order)

    async def answered(self, count: int = 1) -> dict[NodeId, str | None]:
        """Errors of the newest answers, once there are so many."""
        await until(lambda: len(self.answers) >= count, limit_s=5, what=f"{count} answers")
        assert len(self.answers) == count, "each peer is settled once"
        assert all(answer.round == 3 for answer in self.answers)
        return {answer.peer: answer.error for answer in self.answers}


@contextlib.asynccontextmanager
async def open_all(some: Iterable[Checked]) -> AsyncIterator[None]:
    opened = list(some)
    try:
        for each in opened:
            await each.mesh.open()
        yield
    finally:
        for each in opened:
            each.checks.close()
            await each.station.close()
            assert not len(each.checks)
            assert not each.station.tasks._tasks, "nothing is left of any attempt"


def test_edges_are_connected_from_both_ends_and_answer() -> None:
    async def scenario() -> None:
        a, b, c = (Checked(config) for config in configs(3))
        async with open_all((a, b, c)):
            a.check(B, C)
            b.check(A, C)
            c.check(A, B)
            assert await a.answered(2) == {B: None, C: None}
            assert await b.answered(2) == {A: None, C: None}
            assert await c.answered(2) == {A: None, B: None}
            assert {answer.attempt for answer in a.answers} == {1}
            assert not len(a.checks)

    run(scenario())


def test_a_peer_that_comes_late_within_the_attempt_is_reached() -> None:
    """The back-off of a former failure does not outlast the attempt."""

    async def scenario() -> None:
        a, b = (Checked(config, timeout_ns=4 * SECOND) for config in configs(2))
        async with open_all((a,)):
            a.mesh.connect((B,))
            await until(lambda: a.mesh._dials[B].wait > 0.8, what="a has tried several times")
            a.check(B)
            await asyncio.sleep(0.3)
            async with open_all((b,)):
                assert await a.answered() == {B: None}

    run(scenario())


def test_nobody_there_is_said_in_time_by_both_ends() -> None:
    async def scenario() -> None:
        a, b, _ = (Checked(config) for config in configs(3))
        async with open_all((a, b)):
            begin = time.monotonic()
            a.check(C)
            b.check(C)
            assert "no stream to c within 800ms: unavailable" in str((await a.answered())[C])
            assert LIMIT_S <= time.monotonic() - begin <= LIMIT_S + 0.2
            assert "no stream to c within 800ms: unavailable" in str((await b.answered())[C])

    run(scenario())


def test_who_waits_for_a_dial_says_so() -> None:
    async def scenario() -> None:
        _, b = (Checked(config) for config in configs(2))
        async with open_all((b,)):
            b.check(A)
            assert await b.answered() == {
                A: "no stream to a within 800ms: it has not dialled this node"
            }

    run(scenario())


def test_a_port_that_takes_connections_and_says_nothing() -> None:
    async def scenario() -> None:
        some = configs(2)
        a = Checked(some[0])
        mute = await asyncio.start_server(lambda *_: None, LOOPBACK, some[1].port)
        async with mute, open_all((a,)):
            a.check(B)
            assert "no stream to b within 800ms" in str((await a.answered())[B])

    run(scenario())


def test_a_stream_without_answers_is_said_and_dialled_anew() -> None:
    """The peer greets and then says nothing; a second stream of it answers."""

    async def scenario() -> None:
        some = configs(2)
        a = Checked(some[0])
        streams = 0

        async def serve(pipe: Pipe) -> None:
            nonlocal streams
            streams += 1
            mute = streams == 1
            assert isinstance(decode_frame(await pipe.read() or b""), Greeting)
            me = Identity(session=some[1].session, member=B, incarnation=7)
            await pipe.write(encode_frame(Greeting(identity=me)))
            while (data := await pipe.read()) is not None:
                frame = decode_frame(data)
                if isinstance(frame, Ping) and not mute:
                    await pipe.write(encode_frame(Pong(id=frame.id)))

        server = Server(EXCHANGE, serve, on_defect=a.station.defects.append)
        await server.open(LOOPBACK, some[1].port)
        async with open_all((a,)):
            a.check(B)
            assert await a.answered() == {B: "no answer to a ping from b within 800ms"}
            a.check(B, attempt=2)
            await until(lambda: len(a.answers) == 2)
            assert a.answers[1].error, "the old stream is as silent as before"
            a.check(B, attempt=3, anew=(B,))
            await until(lambda: len(a.answers) == 3)
            assert a.answers[2] == EdgeSettled(peer=B, round=3, attempt=3)
            assert a.station.changes(B) == [
                PeerChange.CONNECTED,
                PeerChange.LOST,
                PeerChange.CONNECTED,
            ]
            assert streams == 2
        await server.close()

    run(scenario())


def test_a_dial_that_hangs_is_given_up_for_a_new_one() -> None:
    async def scenario() -> None:
        some = configs(2)
        a, b = Checked(some[0]), Checked(some[1])
        mute = await asyncio.start_server(lambda *_: None, LOOPBACK, some[1].port)
        async with open_all((a,)):
            a.check(B)
            await a.answered()
            mute.close()
            await mute.wait_closed()
            async with open_all((b,)):
                begin = time.monotonic()
                a.check(B, attempt=2, anew=(B,))
                await until(lambda: len(a.answers) == 2)
                assert a.answers[1].error is None
                assert time.monotonic() - begin < LIMIT_S

    run(scenario())


@pytest.mark.parametrize("cut", ["out", "into"])
def test_an_edge_without_a_path_fails_at_once(cut: str) -> None:
    async def scenario() -> None:
        first, *_ = configs(3)
        peers = tuple(
            dataclasses.replace(peer, **{cut: None}) if peer.name == B else peer  # type: ignore[arg-type]
            for peer in first.links.peers
        )
        a = Checked(dataclasses.replace(first, links=dataclasses.replace(first.links, peers=peers)))
        async with open_all((a,)):
            a.check(B, D)
            assert [(x.peer, x.error) for x in a.answers] == [
                (B, "no path to b in the link plan"),
                (D, "no path to d in the link plan"),
            ]
            a.mesh.change_paths([PathChange(name=C)])
            a.check(C, attempt=2)
            assert a.answers[-1].error == "no path to c in the link plan"

    run(scenario())


def test_a_path_that_goes_away_while_a_check_waits_is_the_reason() -> None:
    async def scenario() -> None:
        slow = PathSpec(rate_bps=10**7, delay_ns=200 * MILLISECOND)
        a, b = (Checked(config) for config in configs(2, path=slow))
        async with open_all((a, b)):
            a.check(B)
            a.mesh.change_paths([PathChange(name=B)])
            b.check(A)
            assert (await a.answered())[B] == "no path to b any more, by the link plan"

    run(scenario())


def test_a_newer_check_replaces_the_older_for_the_peers_it_names() -> None:
    async def scenario() -> None:
        a = Checked(configs(3)[0])
        async with open_all((a,)):
            a.check(B, C)
            await asyncio.sleep(0.1)
            a.check(C, attempt=2)
            await until(lambda: len(a.answers) == 2)
            assert [(x.peer, x.attempt) for x in a.answers] == [(B, 1), (C, 2)]
            await asyncio.sleep(0.1)
            assert len(a.answers) == 2

    run(scenario())


def test_spare_peers_are_asked_only_over_streams_there_are() -> None:
    async def scenario() -> None:
        a, b, c = (Checked(config) for config in configs(3))
        async with open_all((a, b, c)):
            a.mesh.connect((B,))
            b.mesh.connect((A,))
            assert not await a.mesh.connected((B,), deadline_s=5)
            a.check(spare=(B, C))
            answers = await a.answered(2)
            assert answers == {B: None, C: "no stream to c, and none was asked for"}
            assert a.mesh.stream(C) is None
            assert C not in a.mesh._wanted

    run(scenario())


def test_checks_without_end_leave_nothing_behind() -> None:
    """Waiters that lose are gone (frameworks' notes, D11)."""

    async def scenario() -> None:
        a = Checked(configs(3)[0])
        async with open_all((a,)):
            a.check(B, C)
            await asyncio.sleep(0)
            tasks = len(asyncio.all_tasks())
            for attempt in range(2, 300):
                a.check(B, C, attempt=attempt, anew=(B, C))
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert len(a.checks) == 2
            assert len(asyncio.all_tasks()) <= tasks + 2
            assert await a.answered(2)
            assert {x.attempt for x in a.answers} == {299}

    run(scenario())


def test_a_stream_that_breaks_in_the_middle_of_a_check_is_replaced() -> None:
    """By a new stream of the same attempt, whose ping counts."""

    async def scenario() -> None:
        slow = PathSpec(delay_ns=100 * MILLISECOND)
        a, b = (Checked(config, timeout_ns=5 * SECOND) for config in configs(2, path=slow))
        async with open_all((a, b)):
            a.mesh.connect((B,))
            assert not await a.mesh.connected((B,), deadline_s=5)
            old = a.mesh.stream(B)
            assert old is not None
            a.check(B)
            b.check(A)
            await asyncio.sleep(0.01)
            old.end("broken by the test")
            assert await a.answered() == {B: None}
            assert await b.answered() == {A: None}
            assert a.mesh.stream(B) is not old

    run(scenario())


def test_dial_is_still_refused_to_strangers() -> None:
    async def scenario() -> None:
        b = Checked(configs(2)[1])
        async with open_all((b,)):
            b.check(A)
            config = b.station.config
            async with dial(config.host, config.port, EXCHANGE, deadline_s=5) as pipe:
                who = Identity(session="another", member=A, incarnation=1)
                await pipe.write(encode_frame(Greeting(identity=who)))
                with pytest.raises(ConnectionError, match="another session"):
                    await pipe.read()
            assert (await b.answered())[A]

    run(scenario())
