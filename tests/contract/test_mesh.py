"""Streams between peers over loopback gRPC: what arrives, in what order, what a cancel stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np
import pytest

from node.config import Pacing, PathSpec
from node.core.effects import DropQueued, InFlight, ProbeLinks
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.outbox import BACKGROUND_SHARE, SLACK, window_bytes
from node.core.rng import stream
from node.runtime.pipes import EXCHANGE, Pipe, dial
from node.runtime.probing import make_prober
from node.units import MILLISECOND, SECOND
from node.wire.codec import decode_frame, encode_frame
from node.wire.frames import (
    MAX_FRAME,
    PROTOCOL,
    Ack,
    Chunk,
    Frame,
    Greeting,
    Identity,
    Ping,
    Pong,
)
from tests.contract.stations import Station, all_acknowledged, configs, stations
from tests.contract.world import run, until

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
SLOW = PathSpec(rate_bps=10**7, delay_ns=10 * MILLISECOND)


@pytest.mark.parametrize("pacing", Pacing)
@pytest.mark.parametrize("path", [None, PathSpec(rate_bps=10**8, delay_ns=MILLISECOND, loss=0.01)])
def test_every_message_comes_once_and_in_order(pacing: Pacing, path: PathSpec | None) -> None:
    async def scenario() -> None:
        async with stations(configs(3, path=path, pacing=pacing)) as all_three:
            rng = stream(3, "sizes")
            per_pair, expected = 40, {}
            for station in all_three:
                for number in range(per_pair):
                    for target in station.config.neighbours:
                        size = int(rng.integers(1, 5000))
                        expected[station.name, target, number] = size
                        station.send_model(target, size=size, number=number)
                        station.send_control(target, number=number, f=0.5, i=-3, s="text")
            for station in all_three:
                await all_acknowledged(station, 4 * per_pair)
            for station in all_three:
                assert len(station.received()) == 4 * per_pair
                for sender in station.config.neighbours:
                    models = station.received(sender, "model")
                    assert [m.round for m in models] == list(range(per_pair))
                    for m in models:
                        assert m.part is not None
                        assert m.part.values.size == expected[sender, station.name, m.round]
                        assert (m.part.values == m.round).all()
                    controls = station.received(sender, "control")
                    assert [m.round for m in controls] == list(range(per_pair))
                    assert controls[0].fields == {"f": 0.5, "i": -3, "s": "text"}
                assert station.refused() == {}

    run(scenario())


def test_bytes_are_what_was_sent() -> None:
    async def scenario() -> None:
        async with stations(configs(2)) as (a, b):
            sizes = [1, 100, 10_000, 100_000]
            for number, size in enumerate(sizes):
                a.send_model(B, size=size, number=number)
            a.send_control(B)
            b.send_model(A, size=500)
            await all_acknowledged(a, 5)
            await all_acknowledged(b, 1)
            values = 4 * sum(sizes)
            for one, other, sent in ((a, b, values), (b, a, 2000)):
                assert one.mesh.traffic.model_sent == sent
                assert one.mesh.traffic.model_delivered == sent
                assert other.mesh.traffic.model_received == sent
                # Every byte that one side counts as not model, the other side counts, too.
                assert one.mesh.traffic.control_sent == other.mesh.traffic.control_received
            assert 0 < a.mesh.traffic.control_sent < 0.01 * values + 5 * 200
            assert a.mesh.traffic.cancelled == 0
            kinds = a.mesh.traffic.kinds_record()
            assert kinds == {
                "control": {"sent": 0, "delivered": 0, "cancelled": 0, "lost": 0},
                "model": {"sent": values, "delivered": values, "cancelled": 0, "lost": 0},
            }
            waits = a.mesh.traffic.of("model")
            assert waits.latency.count == waits.queued.count == 4
            assert 0 <= waits.queued.total < waits.latency.total

    run(scenario())


def test_what_is_given_up_counts_as_lost() -> None:
    async def scenario() -> None:
        async with stations(configs(2, path=SLOW, peer_ns=SECOND // 2)) as (a, b):
            for number in range(30):
                a.send_model(B, size=10_000, number=number)
            await until(lambda: a.mesh.traffic.model_delivered > 0)
            await b.mesh.close()
            await until(lambda: len(a.failed()) + len(a.sent()) == 30)
            (counts,) = a.mesh.traffic.kinds_record().values()
            assert counts["lost"] == 4 * 10_000 * len(a.failed())
            assert counts["delivered"] + counts["lost"] == 30 * 4 * 10_000
            assert counts["lost"] > 0 == counts["cancelled"]

    run(scenario())


def test_a_control_message_overtakes_a_model() -> None:
    async def scenario() -> None:
        async with stations(configs(2, path=SLOW)) as (a, b):
            a.send_model(B, size=100_000, number=1)  # a third of a second on this path
            await until(lambda: a.mesh.traffic.model_sent > 0)
            begin = time.monotonic()
            a.send_control(B, number=2)
            await until(lambda: bool(b.received(kind="control")))
            assert not b.received(kind="model")
            assert a.mesh.traffic.model_sent < 400_000
            waited = time.monotonic() - begin
            # Behind what was written already, and no more: the window at the path's rate.
            window = window_bytes(SLOW, SLOW)
            assert waited < 8 * window / 0.956e7 + 0.010 + 0.25
            await until(lambda: bool(b.received(kind="model")))

    run(scenario())


@pytest.mark.parametrize("in_flight", InFlight)
def test_a_cancel_stops_what_was_not_sent(in_flight: InFlight) -> None:
    async def scenario() -> None:
        async with stations(configs(2, path=SLOW)) as (a, b):
            size = 9_000
            for number in range(60):
                a.send_model(B, size=size, key="round/1", number=number)
            await until(lambda: len(b.received()) >= 5)
            arrived = b.mesh.traffic.model_received
            a.mesh.drop(DropQueued(key_prefix="round/1", in_flight=in_flight))
            a.send_model(B, size=10, key="round/2", number=1000)
            await until(lambda: b.received()[-1].round == 1000)
            late = b.mesh.traffic.model_received - 40 - arrived
            bandwidth_delay = 10**7 * 20 * MILLISECOND // (8 * SECOND)
            assert late <= 64 * 1024 + bandwidth_delay
            if in_flight is InFlight.ABORT:
                assert late <= bandwidth_delay + SLACK
            traffic = a.mesh.traffic
            assert traffic.model_sent + traffic.cancelled == 60 * 4 * size + 40
            assert traffic.cancelled > 40 * 4 * size
            (counts,) = traffic.kinds_record().values()
            assert (counts["sent"], counts["cancelled"]) == (traffic.model_sent, traffic.cancelled)
            assert b.refused() == {}

    run(scenario())


def test_a_measurement_that_is_given_up_leaves_no_ballast_behind() -> None:
    """What it had queued would stand before the run's first messages."""

    async def scenario() -> None:
        slow = PathSpec(rate_bps=10**6, delay_ns=10 * MILLISECOND)
        async with stations(configs(2, path=slow)) as (a, _):
            prober = make_prober(a.config, a.mesh, application=True)
            order = ProbeLinks(attempt=1, targets=(B,), measures=("rate",))
            probing = asyncio.create_task(prober.probe(order))
            await until(lambda: len(a.mesh._outbox) > 0)
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing
            assert len(a.mesh._outbox) == 0

    run(scenario())


def test_a_window_is_all_that_is_on_its_way() -> None:
    async def scenario() -> None:
        async with stations(configs(3, path=SLOW)) as (a, _, _):
            for number in range(20):
                a.send_model(B, size=20_000, number=number)
                a.send_model(C, size=20_000, number=number)
            outbox = a.mesh._outbox
            while len(a.sent()) < 40:
                await asyncio.sleep(0.001)
                assert outbox.unacked(B) + outbox.unacked(C) <= window_bytes(SLOW, SLOW)

    run(scenario())


def test_a_newcomers_model_takes_little_of_a_busy_link_and_all_of_an_idle_one() -> None:
    """Other messages have the rest, and no cancel of theirs takes it back."""

    async def scenario() -> None:
        async with stations(configs(3, path=SLOW)) as (a, b, c):
            for number in range(40):
                a.send_model(B, size=10_000, number=number, key="m")  # 1.3 s on this path
                a.send_background(C, size=8_000, number=number)
            traffic = a.mesh.traffic
            await until(lambda: len(b.received()) == 40)
            busy = traffic.sync_sent / (traffic.sync_sent + traffic.model_sent)
            assert 0.9 * BACKGROUND_SHARE < busy < BACKGROUND_SHARE + 0.04, (
                "and a window at the end"
            )
            assert traffic.model_sent == 40 * 4 * 10_000
            a.mesh.drop(DropQueued(key_prefix="", in_flight=InFlight.ABORT))
            begin, sent = time.monotonic(), traffic.sync_sent
            await until(lambda: len(c.received()) == 40)
            rate = 8 * (traffic.sync_sent - sent) / (time.monotonic() - begin)
            assert rate > 0.6 * 10**7, "the whole link"
            assert c.mesh.traffic.sync_received == 40 * 4 * 8_000 == traffic.sync_sent
            assert c.mesh.traffic.model_received == 0
            assert (traffic.cancelled, traffic.model_delivered) == (0, 40 * 4 * 10_000)

    run(scenario())


def test_an_emulated_path_takes_its_time() -> None:
    async def scenario() -> None:
        async with stations(configs(2, path=SLOW)) as (a, b):
            line = a.mesh.stream(B)
            assert line is not None
            trips = sorted([await line.ping() or 0 for _ in range(11)])
            assert 20 * MILLISECOND <= trips[0] <= 30 * MILLISECOND
            begin = time.monotonic()
            a.send_model(B, size=250_000)
            await all_acknowledged(a, 1)
            least = 1e6 * 8 / 0.957e7
            assert least <= time.monotonic() - begin <= 1.5 * least + 0.2
            assert len(b.received()) == 1

    run(scenario())


def test_lost_datagrams_do_not_stop_the_stream() -> None:
    from node.core.effects import Send
    from node.core.messages import Delivery, PeerMessage
    from node.core.parts import Part, Span

    async def scenario() -> None:
        path = PathSpec(rate_bps=10**8, loss=0.05)
        async with stations(configs(2, path=path)) as (a, b):
            part = Part(where=Span(0, 2500), values=np.zeros(2500, dtype=np.float32))
            for number in range(100):
                message = PeerMessage(
                    kind="model", round=number, part=part, delivery=Delivery.DATAGRAM
                )
                a.mesh.send(Send(target=B, message=message, key="m"))
            a.send_control(B)
            await all_acknowledged(a, 101)
            rounds = [m.round for m in b.received(kind="model")]
            assert rounds == sorted(set(rounds))
            assert 30 <= len(rounds) <= 95  # seven segments each: two thirds are whole
            assert len(b.received(kind="control")) == 1
            assert b.refused() == {}

    run(scenario())


# --- peers that come and go


def test_a_peer_that_returns_is_connected_again() -> None:
    async def scenario() -> None:
        some = configs(2)
        a = Station(some[0])
        b = Station(some[1], incarnation=10)
        for station in (a, b):
            await station.open()
        assert not await a.mesh.connected((B,), deadline_s=10)
        a.send_model(B, size=10, number=1)
        await all_acknowledged(a, 1)
        await b.close()
        await until(lambda: a.changes(B)[-1] is PeerChange.LOST)
        a.send_model(B, size=10, number=2)  # waits for it
        again = Station(some[1], incarnation=11)
        await again.open()
        await until(lambda: len(a.sent()) == 2)
        assert [m.round for m in again.received()] == [2]
        assert a.changes(B) == [PeerChange.CONNECTED, PeerChange.LOST, PeerChange.CONNECTED]
        assert not a.failed()
        for station in (a, again):
            await station.close()

    run(scenario())


def test_what_a_broken_stream_may_lack_is_reported() -> None:
    async def scenario() -> None:
        some = configs(2, path=SLOW, peer_ns=SECOND // 2)
        a, b = Station(some[0]), Station(some[1])
        for station in (a, b):
            await station.open()
        assert not await a.mesh.connected((B,), deadline_s=10)
        for number in range(10):
            a.send_model(B, size=50_000, number=number, key=f"k/{number}")
        await until(lambda: len(b.received()) >= 2)
        await b.close()
        await until(lambda: bool(a.failed()))
        broken = [event.key for event in a.failed() if "broke" in event.reason]
        assert broken, "what was on its way"
        await until(lambda: len(a.failed()) + len(a.sent()) == 10)
        given_up = [event.key for event in a.failed() if "out of reach for 500ms" in event.reason]
        assert given_up[-1] == "k/9"
        keys = [event.key for event in (*a.sent(), *a.failed())]
        assert sorted(keys) == [f"k/{n}" for n in range(10)], "each is reported once"
        await a.close()

    run(scenario())


def test_sending_to_one_who_never_came_fails_in_time() -> None:
    async def scenario() -> None:
        a = Station(configs(2, peer_ns=SECOND // 4)[0])
        await a.open()
        a.send_control(B)
        a.send_model(B, size=10)
        await until(lambda: len(a.failed()) == 2)
        await a.close()

    run(scenario())


def test_a_silent_peer_is_given_up() -> None:
    async def scenario() -> None:
        some = configs(2, peer_ns=SECOND // 2)
        async with _stranger(some[1], as_member=A) as (b, pipe, _):
            # It greets, and then says nothing, whatever it is asked.
            await until(lambda: bool(b.changes(A)))
            begin = time.monotonic()
            while b.changes(A)[-1] is PeerChange.CONNECTED:
                b.mesh.tick()
                await asyncio.sleep(0.02)
                assert time.monotonic() - begin < 5
            assert time.monotonic() - begin >= 0.5
            frames = [decode_frame(await pipe.read() or b"") for _ in range(2)]
            assert all(isinstance(frame, Ping) for frame in frames), "it was asked first"

    run(scenario())


def test_the_newer_life_wins() -> None:
    async def scenario() -> None:
        some = configs(2)
        async with _stranger(some[1], as_member=A, incarnation=5) as (b, _, _unused):
            await until(lambda: len(b.changes(A)) == 1)
            async with dial(b.config.host, b.config.port, EXCHANGE, deadline_s=5) as newer:
                await _greet(newer, A, 6)
                await until(lambda: len(b.changes(A)) == 3)
                assert b.changes(A)[1:] == [PeerChange.LOST, PeerChange.CONNECTED]
                async with dial(b.config.host, b.config.port, EXCHANGE, deadline_s=5) as older:
                    await older.write(_greeting(A, 5))
                    with pytest.raises(ConnectionError, match="an earlier life"):
                        await older.read()
                await newer.write(encode_frame(Ping(id=1)))
                assert decode_frame(await newer.read() or b"") == Pong(id=1)

    run(scenario())


# --- those who do not keep to the protocol


def _greeting(member: NodeId, incarnation: int = 1, **changes: Any) -> bytes:
    identity = Identity(
        session=changes.get("session", "stations"), member=member, incarnation=incarnation
    )
    return encode_frame(Greeting(identity=identity, protocol=changes.get("protocol", PROTOCOL)))


async def _greet(pipe: Pipe, member: NodeId, incarnation: int) -> None:
    await pipe.write(_greeting(member, incarnation))
    assert isinstance(decode_frame(await pipe.read() or b""), Greeting)


class _stranger:  # noqa: N801 - used as a context manager
    """A station, and a hand-made stream to it from one who claims to be `as_member`."""

    def __init__(self, config: Any, *, as_member: NodeId, incarnation: int = 1) -> None:
        self.station = Station(config)
        self.member, self.incarnation = as_member, incarnation
        self.dialled = dial(config.host, config.port, EXCHANGE, deadline_s=5)

    async def __aenter__(self) -> tuple[Station, Pipe, NodeId]:
        await self.station.open()
        pipe = await self.dialled.__aenter__()
        await _greet(pipe, self.member, self.incarnation)
        return self.station, pipe, self.member

    async def __aexit__(self, *error: Any) -> None:
        await self.dialled.__aexit__(None, None, None)
        await self.station.close()


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (_greeting(A, session="another"), "another session"),
        (_greeting(NodeId("zz")), "should not dial"),
        (_greeting(B), "should not dial"),
        (_greeting(C), "should not dial"),
        (_greeting(A, protocol=99), "protocol 99"),
        (encode_frame(Ping(id=1)), "without a greeting"),
        (b"\xff\xff\xff", "not protobuf"),
        (b"", "unknown kind"),
    ],
)
def test_who_does_not_belong_here_is_turned_away(first: bytes, reason: str) -> None:
    async def scenario() -> None:
        b = Station(configs(3)[1])
        await b.open()
        async with dial(b.config.host, b.config.port, EXCHANGE, deadline_s=5) as pipe:
            await pipe.write(first)
            with pytest.raises(ConnectionError, match=reason):
                await pipe.read()
        assert not b.events
        assert [text for text in b.refused() if reason in text]
        await b.close()

    run(scenario())


def _chunk(payload: bytes, **changes: Any) -> Chunk:
    return Chunk(
        **{"message": 1, "offset": 0, "total": len(payload), "payload": payload, **changes}
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"garbage", "not protobuf"),
        (b"", "unknown kind"),
        (bytes(MAX_FRAME + 1), "too large"),
        (_greeting(A), "second greeting"),
        (Ack(total=10**9), "never sent"),
        (Pong(id=77), "answer to no ping"),
        (_chunk(b"1234", offset=4, total=8), "middle of an unknown"),
        (_chunk(b"1234", total=2**60), "too large"),
        (_chunk(b"1234"), "without its header"),
        (_chunk(b"\x03\0\0\0\xff\xff\xff"), "not protobuf"),
        (_chunk(b"\x00\0\0\0"), "another session, member or life"),
    ],
)
def test_what_is_malformed_is_counted_and_nothing_else_happens(
    bad: bytes | Frame, reason: str
) -> None:
    async def scenario() -> None:
        async with _stranger(configs(2)[1], as_member=A) as (b, pipe, _):
            data = bad if isinstance(bad, bytes) else encode_frame(bad)
            for _ in range(50):
                await pipe.write(data)
            await pipe.write(encode_frame(Ping(id=5)))
            while (answer := decode_frame(await pipe.read() or b"")) != Pong(id=5):
                assert isinstance(answer, Ack), "chunks are acknowledged whatever is in them"
            (count,) = [n for text, n in b.refused().items() if reason in text]
            assert count == 50
            assert b.mesh.traffic.refused == 50
            assert not b.received()
            assert b.changes(A) == [PeerChange.CONNECTED]

    run(scenario())


def test_noise_fills_neither_log_nor_memory() -> None:
    async def scenario() -> None:
        rng = stream(1, "noise")
        async with _stranger(configs(2)[1], as_member=A) as (b, pipe, _):
            for _ in range(3000):
                await pipe.write(rng.bytes(int(rng.integers(0, 60))))
            await pipe.write(encode_frame(Ping(id=5)))
            while (await pipe.read()) != encode_frame(Pong(id=5)):
                pass
            refused = b.refused()
            assert sum(refused.values()) > 2000
            assert len(b.log.of("refused")) <= 17

    run(scenario(), limit_s=120)


def test_a_monstrous_frame_costs_the_stream_and_no_more() -> None:
    async def scenario() -> None:
        async with _stranger(configs(2)[1], as_member=A) as (b, pipe, _):
            with contextlib.suppress(ConnectionError):
                await pipe.write(bytes(2**23))
            await until(lambda: b.changes(A)[-1] is PeerChange.LOST)
            async with dial(b.config.host, b.config.port, EXCHANGE, deadline_s=5) as another:
                await _greet(another, A, 2)
                await until(lambda: b.changes(A)[-1] is PeerChange.CONNECTED)

    run(scenario())
