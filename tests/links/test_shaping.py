"""Links are what was asked for: rate, round trip, loss, jitter, access links that are shared."""

from __future__ import annotations

import statistics

import pytest

from node.config import Emulator, PathSpec
from node.units import MILLISECOND
from tests.links.bed import bed
from tests.links.bulk import one_to_many, shares
from tests.links.netns import Host

pytestmark = pytest.mark.links

SECONDS = 3.0
"""A window of bulk transfers side by side."""


@pytest.mark.parametrize("mbit", [1, 10, 50, 200])
def test_rate_and_round_trip(emulator: Emulator, mbit: int) -> None:
    path = PathSpec(rate_bps=mbit * 10**6, delay_ns=20 * MILLISECOND)
    with bed(2, path=path, access_bps=path.rate_bps, emulator=emulator) as net:
        report = net.judged(*net.hosts, "rtt", "rate")
        assert report.ok, report.why


def test_a_rate_without_a_delay(emulator: Emulator) -> None:
    with bed(2, path=PathSpec(rate_bps=20_000_000), emulator=emulator) as net:
        report = net.judged(*net.hosts, "rtt", "rate")
        assert report.ok, report.why


def test_each_direction_has_its_own_delay_and_rate(emulator: Emulator) -> None:
    def path(a: Host, _b: Host) -> PathSpec:
        fast = a.name == "n0"
        return PathSpec(
            rate_bps=40_000_000 if fast else 5_000_000, delay_ns=(5 if fast else 30) * MILLISECOND
        )

    with bed(2, path=path, emulator=emulator) as net:
        for ends in (net.hosts, net.hosts[::-1]):
            report = net.judged(*ends, "rtt", "rate")
            assert report.ok, report.why


@pytest.mark.parametrize("loss", [0.01, 0.1])
def test_loss(emulator: Emulator, loss: float) -> None:
    path = PathSpec(rate_bps=20_000_000, delay_ns=5 * MILLISECOND, loss=loss)
    with bed(2, path=path, access_bps=path.rate_bps, emulator=emulator) as net:
        report = net.judged(*net.hosts, "rtt", "rate", "loss")
        assert report.ok, report.why
        assert report.reading is not None
        assert report.reading.loss_packets == 5000


def test_jitter(emulator: Emulator) -> None:
    """Its spread is as asked, apart from what one direction only can tell."""
    sigma = 3.0

    def path(a: Host, _b: Host) -> PathSpec:
        jitter = round(sigma * MILLISECOND) if a.name == "n0" else 0
        return PathSpec(rate_bps=50_000_000, delay_ns=20 * MILLISECOND, jitter_ns=jitter)

    with bed(2, path=path, emulator=emulator) as net:
        me, other = net.hosts
        for _ in range(3):
            trips = net.round_trips(me, other.address, count=250, every_ms=6 * sigma)
            seen = statistics.stdev(trips)
            if abs(seen / sigma - 1) <= 0.15:
                break
        assert seen == pytest.approx(sigma, rel=0.15)
        assert statistics.median(trips) == pytest.approx(40, abs=1.5)
        assert len(trips) == 250


@pytest.mark.parametrize("senders", [2, 4])
def test_senders_share_the_receivers_download_link(emulator: Emulator, senders: int) -> None:
    cap = 20_000_000

    def path(_a: Host, _b: Host) -> PathSpec:
        return PathSpec(rate_bps=cap, delay_ns=10 * MILLISECOND)

    with bed(senders + 1, path=path, access_bps=cap, emulator=emulator) as net:
        fair = 0.956 * cap / senders
        for _ in range(3):
            rates = shares(net.hosts[0], net.hosts[1:], seconds=SECONDS)
            if sum(rates) >= 0.97 * 0.956 * cap and min(rates) >= 0.85 * fair:
                break
        assert sum(rates) == pytest.approx(0.956 * cap, rel=0.03)
        assert rates == [pytest.approx(fair, rel=0.15)] * senders


def test_receivers_share_the_senders_upload_link(emulator: Emulator) -> None:
    cap = 20_000_000
    path = PathSpec(rate_bps=cap, delay_ns=10 * MILLISECOND)
    with bed(3, path=path, access_bps=cap, emulator=emulator) as net:
        me, *others = net.hosts
        for _ in range(3):
            rates = one_to_many(me, others, seconds=SECONDS)
            if sum(rates) >= 0.97 * 0.956 * cap and min(rates) >= 0.85 * 0.956 * cap / 2:
                break
        assert sum(rates) == pytest.approx(0.956 * cap, rel=0.03)
        assert rates == [pytest.approx(0.956 * cap / 2, rel=0.15)] * 2
