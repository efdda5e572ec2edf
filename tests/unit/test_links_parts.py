"""Small parts of the links: netlink messages, tc's output, the tally of a bulk transfer, timers."""

from __future__ import annotations

import os
import select
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Emulator, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError, EnvironmentFault
from node.links import netlink
from node.links.kernel import Capabilities, choose, settle
from node.links.probes import REQUEST, Tally, steady
from node.links.tc import parse_rate
from node.links.timer import Timer
from node.units import MILLISECOND, SECOND


def able(**changes: object) -> Capabilities:
    whole = dict.fromkeys(
        ("ifb", "htb", "u32", "redirect", "netem", "netem_duplicate", "nfqueue"), True
    )
    return Capabilities(**{"iptables": "iptables", **whole, **changes})  # type: ignore[arg-type]


def test_auto_takes_netem_where_it_is_and_nfqueue_where_it_is_not() -> None:
    assert choose(Emulator.AUTO, able()) is Emulator.NETEM
    assert choose(Emulator.AUTO, able(netem=False)) is Emulator.NFQUEUE
    assert choose(Emulator.NFQUEUE, able()) is Emulator.NFQUEUE


@pytest.mark.parametrize(
    ("asked", "lacking", "remedy"),
    [
        (Emulator.NETEM, {"netem": False}, "modprobe sch_netem"),
        (Emulator.NFQUEUE, {"nfqueue": False}, "nfnetlink_queue"),
        (Emulator.AUTO, {"netem": False, "nfqueue": False}, "modprobe sch_netem"),
        (Emulator.AUTO, {"ifb": False}, "--backend local"),
    ],
)
def test_what_is_asked_for_and_missing_is_a_fault_with_a_remedy(
    asked: Emulator, lacking: dict[str, object], remedy: str
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        choose(asked, able(**lacking))
    assert remedy in str(fault.value)


def one_peer(path: PathSpec, *, emulator: Emulator = Emulator.AUTO) -> LinksConfig:
    peers = [
        PeerLink(name=NodeId(name), host=f"10.0.0.{i}", port=7000, out=path, into=path)
        for i, name in enumerate("bc", start=2)
    ]
    return LinksConfig(emulator=emulator, peers=tuple(peers))


def test_an_emulator_is_taken_only_if_it_can_do_all_that_is_asked_for() -> None:
    twice = PathSpec(rate_bps=10**7, delay_ns=MILLISECOND, duplicate=0.1)
    me = NodeId("a")
    assert settle(one_peer(twice), able(), me=me) is Emulator.NETEM
    assert settle(one_peer(PathSpec()), able(netem=False), me=me) is Emulator.NFQUEUE
    with pytest.raises(EnvironmentFault, match=r"`duplicate` cannot.*`nfqueue`.*no netem") as fault:
        settle(one_peer(twice), able(netem=False), me=me)
    assert "modprobe sch_netem" in str(fault.value)
    with pytest.raises(ConfigError, match="the path from a to b: `duplicate` cannot"):
        settle(one_peer(twice, emulator=Emulator.NFQUEUE), able(), me=me)
    with pytest.raises(EnvironmentFault, match="sends packets twice beside others"):
        settle(one_peer(twice), able(netem_duplicate=False), me=me)


def test_rates_as_tc_prints_them() -> None:
    assert parse_rate("8bit") == 8
    assert parse_rate("12345Kbit") == 12_345_000
    assert parse_rate("100Gbit") == 100 * 10**9
    with pytest.raises(EnvironmentFault):
        parse_rate("10Mibit")


def test_a_verdict_is_one_message_of_32_bytes() -> None:
    message = netlink.verdict(netlink.VERDICT_BATCH, queue=7, packet=0x01020304, decision=1)
    assert struct.unpack_from("=IHH", message) == (32, 0x0303, 1)
    assert message[18:20] == b"\x00\x07"
    assert message[24:] == b"\x00\x00\x00\x01\x01\x02\x03\x04"
    assert len(message) == 32


def notice(*, queue: int, packet: int, extra: bytes, stamp: tuple[int, int] | None) -> bytes:
    """A packet notice as the kernel writes it."""
    body = struct.pack("!BBH", 2, 0, queue)
    body += struct.pack("=HH", 11, 1) + struct.pack("!IHBx", packet, 0x0800, 1)
    body += extra
    if stamp is not None:
        body += struct.pack("=HH", 20, 4) + struct.pack("!QQ", *stamp)
    return struct.pack("=IHHII", 16 + len(body), 0x0300, 0, 0, 0) + body


@pytest.mark.parametrize(
    "extra", [b"", struct.pack("=HHI", 8, 5, 2), bytes.fromhex("08000500") * 2]
)
def test_notices_are_read_whatever_else_is_in_them(extra: bytes) -> None:
    import socket

    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        notices = netlink.Notices(ours.fileno())
        assert notices.read() == []
        kernel.send(notice(queue=3, packet=9, extra=extra, stamp=(5, 7)))
        kernel.send(notice(queue=4, packet=1, extra=extra, stamp=None))
        error = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -2) + bytes(16)
        kernel.send(error)
        first = 5 * SECOND + 7000
        assert sorted(notices.read()) == [(3, 9, 9, first, first), (4, 1, 1, 0, 0)]


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 7, 255, 256, 0xDFFF]), st.booleans()), max_size=60),
    st.booleans(),
)
def test_notices_of_each_queue_come_together(sent: list[tuple[int, bool]], shifted: bool) -> None:
    """From first to last number, with the times of those two, whatever is mixed in between."""
    import socket

    extra = struct.pack("=HHI", 8, 5, 2) if shifted else b""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        notices = netlink.Notices(ours.fileno())
        expected: dict[int, list[tuple[int, int]]] = {}
        for time_us, (queue, error) in enumerate(sent):
            if error:
                kernel.send(struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -2) + bytes(16))
                continue
            numbers = expected.setdefault(queue, [])
            numbers.append((len(numbers) + 1, SECOND + time_us * 1000))
            kernel.send(notice(queue=queue, packet=len(numbers), extra=extra, stamp=(1, time_us)))
        read = sorted(notices.read()) if sent else []
        assert read == [
            (queue, numbers[0][0], numbers[-1][0], numbers[0][1], numbers[-1][1])
            for queue, numbers in sorted(expected.items())
        ]


@given(st.integers(1, 10**6), st.lists(st.integers(0, 30 * MILLISECOND), min_size=50, max_size=50))
def test_stalls_do_not_change_a_steady_rate(size: int, stalls: list[int]) -> None:
    """Arrivals 10 ms apart, each late by its stall, in order."""
    curve, now = [], 0
    for i, stall in enumerate(stalls):
        now = max(now, i * 10 * MILLISECOND + (stall if i % 5 else 0))
        curve.append((now, (i + 1) * size))
    seen, elapsed = steady(curve, 10 * SECOND)
    assert seen / elapsed == pytest.approx(size / (10 * MILLISECOND), rel=0.03)


def test_a_tally_leaves_the_ramp_out_and_ends_with_its_window() -> None:
    tally = Tally(ramp_ns=100, window_ns=10 * MILLISECOND)
    times = [0, 50, 100, *range(MILLISECOND, 20 * MILLISECOND, MILLISECOND)]
    ended = [tally.arrive(1000, now=now) for now in times]
    assert ended.index(True) == times.index(11 * MILLISECOND)
    _, _, _, size, elapsed = REQUEST.unpack(tally.report())
    assert size / elapsed == pytest.approx(1000 / MILLISECOND, rel=0.01)


def test_a_tally_of_next_to_nothing_says_so() -> None:
    tally = Tally(ramp_ns=0, window_ns=SECOND)
    assert REQUEST.unpack(tally.report())[3:] == (0, 0)
    tally.arrive(1, now=0)
    assert REQUEST.unpack(tally.report())[3:] == (0, 0)


def test_a_timer_is_readable_when_it_is_time_and_never_when_it_is_off() -> None:
    timer = Timer()
    try:
        begin = time.monotonic_ns()
        timer.set(begin + 5 * MILLISECOND)
        assert select.select([timer], [], [], 5)[0]
        assert time.monotonic_ns() >= begin + 5 * MILLISECOND
        timer.set(None)
        assert not select.select([timer], [], [], 0)[0]
    finally:
        timer.close()
    with pytest.raises(OSError, match=r"."):
        os.fstat(timer.fileno())
