"""What no path allows is refused and counted; the coordinator's traffic passes unshaped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.config import Emulator, PathSpec
from node.links.tc_plan import IFB
from node.units import MILLISECOND
from tests.links.bed import bed
from tests.links.netns import Host, statistics, wait_until

pytestmark = pytest.mark.links

PATH = PathSpec(rate_bps=1_000_000, delay_ns=50 * MILLISECOND)


def refused(host: Host, device: str = "eth0", *, parent: str = "1:3") -> int:
    """Packets that fell into a class that drops: that of strangers, or of a peer without a path."""
    drop = next(q for q in statistics(host, device) if q.get("parent") == parent)
    assert drop["packets"] == 0
    return int(str(drop["drops"]))


def test_a_peer_without_a_path_is_out_of_reach(emulator: Emulator) -> None:
    def path(a: Host, b: Host) -> PathSpec | None:
        return None if {a.name, b.name} == {"n0", "n2"} else PATH

    with bed(3, path=path, emulator=emulator) as net:
        first, middle, last = net.hosts
        assert len(net.round_trips(first, middle.address)) == 5
        before = refused(first, parent="1:1001")
        assert net.round_trips(first, last.address) == []
        assert refused(first, parent="1:1001") >= before + 5
        assert net.round_trips(last, first.address) == []


def test_addresses_that_the_plan_does_not_know_are_refused_both_ways(emulator: Emulator) -> None:
    with bed(2, path=PATH, emulator=emulator, strangers=2) as net:
        me, _ = net.hosts
        _, stranger = net.strangers
        out, into = refused(me), refused(me, IFB)
        assert net.round_trips(me, stranger.address) == []
        assert refused(me) >= out + 5
        assert net.round_trips(stranger, me.address) == []
        assert refused(me, IFB) >= into + 5


def test_ipv6_is_refused(emulator: Emulator) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "[s.sendto(b'x', ('ff02::1', 9, 0, socket.if_nametoindex('eth0'))) for _ in range(20)]"
    )
    with bed(2, path=PATH, emulator=emulator, strangers=2) as net:
        me, stranger = net.hosts[0], net.strangers[1]
        before = refused(me)
        me.run(*me.interpreter("timeit")[:1], "-c", send)
        wait_until(lambda: refused(me) >= before + 20, what="IPv6 was not counted as refused")
        arrived = refused(me, IFB)
        stranger.run(*stranger.interpreter("timeit")[:1], "-c", send)
        wait_until(lambda: refused(me, IFB) >= arrived + 20, what="IPv6 was let in")


def test_the_coordinator_is_reached_unshaped(emulator: Emulator) -> None:
    with bed(2, path=PATH, access_bps=PATH.rate_bps, emulator=emulator, strangers=1) as net:
        me, (coordinator,) = net.hosts[0], net.strangers
        link = replace(
            net.peer(me, coordinator), out=PathSpec(rate_bps=500_000_000), into=PathSpec()
        )
        for _ in range(3):
            reading = net.measure(me, coordinator, "rtt", "rate", peer=link)
            assert reading.error is None
            assert reading.rtt_ns is not None
            assert reading.goodput_bps is not None
            if reading.rtt_ns < 5 * MILLISECOND and reading.goodput_bps > 200_000_000:
                break
        assert reading.rtt_ns < 5 * MILLISECOND
        assert reading.goodput_bps > 200_000_000
