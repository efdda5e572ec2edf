"""What loss, jitter and bursts do to messages, against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from node.config import Burst, PathSpec, Slot
from node.core.messages import Delivery
from node.core.rng import stream
from node.links.impair import lose
from node.sim.fate import PROBE_NS, RTO_NS, Fate, tcp_rate
from node.units import MILLISECOND, SECOND
from tests.sim.lines import A, B, Lines, View, model

RATE = 20e6
TRIP = 40 * MILLISECOND
DRAWS = 4000


def fate(**fields: object) -> Fate:
    path = PathSpec(rate_bps=int(RATE), delay_ns=TRIP // 2, **fields)  # type: ignore[arg-type]
    found = Fate.of(path, rate=RATE, trip=TRIP)
    assert found is not None
    return found


def draws(of: Fate, *, packets: int, datagram: bool) -> list[tuple[int, ...]]:
    rng = stream(1, "test")
    return [of.extra(rng, packets=packets, datagram=datagram) for _ in range(DRAWS)]


def test_an_even_path_needs_no_draws() -> None:
    assert Fate.of(PathSpec(rate_bps=1, delay_ns=5), rate=1.0, trip=10) is None


@pytest.mark.parametrize("packets", [1, 5, 40])
def test_a_datagram_arrives_if_all_its_packets_do(packets: int) -> None:
    found = draws(fate(loss=0.02), packets=packets, datagram=True)
    share = sum(len(each) for each in found) / DRAWS
    expected = 0.98**packets
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / DRAWS))


@pytest.mark.parametrize("packets", [1, 10, 60])
def test_survival_in_bursts_is_that_of_the_chain(packets: int) -> None:
    burst = Burst(enter=0.02, leave=0.2, bad=0.9, good=0.01)
    rng = np.random.default_rng(3)
    bad, kept = False, 0
    for _ in range(500):  # into the long run
        _, bad = lose(burst, bad=bad, count=1, draw=rng.random)
    for _ in range(DRAWS):
        lost, bad = lose(burst, bad=bad, count=packets, draw=rng.random)
        kept += not lost
        # Far enough for the next one to know nothing of this one.
        _, bad = lose(burst, bad=bad, count=30, draw=rng.random)
    expected = fate(burst=burst).survival(packets)
    assert kept / DRAWS == pytest.approx(expected, abs=4 / math.sqrt(4 * DRAWS))


def test_a_reliable_message_always_arrives_late_at_most() -> None:
    found = draws(fate(loss=0.05), packets=40, datagram=False)
    assert all(len(each) == 1 and each[0] >= 0 for each in found)


def test_only_what_is_lost_in_the_last_round_trip_delays_a_long_message() -> None:
    """The share of messages in time is that of tails without a loss."""
    of = fate(loss=0.001)
    tail = 1 + math.ceil(TRIP / (8 * SECOND * 1514 / of.rate))
    found = draws(of, packets=5000, datagram=False)
    in_time = sum(each == (0,) for each in found) / DRAWS
    assert in_time == pytest.approx(0.999**tail, abs=0.02)
    assert max(each[0] for each in found) < 2 * TRIP + PROBE_NS + 2 * (RTO_NS + TRIP)


def test_a_lost_message_of_one_packet_waits_for_a_timeout() -> None:
    found = {each[0] for each in draws(fate(loss=0.2), packets=1, datagram=False)}
    first = TRIP + RTO_NS
    assert {0, first, 2 * first} <= found
    assert all(each % first == 0 for each in found)


def test_jitter_of_a_packet_is_normal() -> None:
    found = [each for (each,) in draws(fate(jitter_ns=3 * MILLISECOND), packets=1, datagram=False)]
    assert np.std(found) == pytest.approx(3 * MILLISECOND, rel=0.05)
    assert abs(np.mean(found)) < 0.2 * MILLISECOND


def test_the_end_of_a_long_message_waits_for_the_latest_packet() -> None:
    """Against drawing every packet by itself."""
    sigma, gap, packets = 3 * MILLISECOND, 8 * SECOND * 1514 / RATE, 30
    found = [each for (each,) in draws(fate(jitter_ns=sigma), packets=packets, datagram=False)]
    rng = np.random.default_rng(5)
    each = sigma * rng.standard_normal((DRAWS, packets)) - gap * np.arange(packets)
    assert np.mean(found) == pytest.approx(np.mean(each.max(axis=1)), rel=0.05)


def test_datagrams_may_be_doubled_or_go_first() -> None:
    twice = draws(fate(duplicate=0.25), packets=1, datagram=True)
    assert sum(len(each) == 2 for each in twice) / DRAWS == pytest.approx(0.25, abs=0.03)
    first = draws(fate(reorder=0.25), packets=1, datagram=True)
    assert sum(each == (-TRIP // 2,) for each in first) / DRAWS == pytest.approx(0.25, abs=0.03)
    assert {len(each) for each in draws(fate(duplicate=0.25), packets=1, datagram=False)} == {1}


def test_slots_hold_up_messages_for_a_part_of_a_pause() -> None:
    slot = Slot(least_ns=2 * MILLISECOND, most_ns=4 * MILLISECOND)
    found = [each for (each,) in draws(fate(slot=slot), packets=1, datagram=False)]
    assert 0 <= min(found) <= max(found) <= 4 * MILLISECOND
    assert np.mean(found) == pytest.approx(1.5 * MILLISECOND, rel=0.05)


def test_a_stream_is_as_fast_as_congestion_control_lets_it_be() -> None:
    """1.22 packets over the root of the loss, each round trip: Mathis et al. 1997."""
    assert tcp_rate(0.01, trip=TRIP) == pytest.approx(12.247 * 8 * 1514 / 0.04, rel=1e-3)
    assert tcp_rate(0.0, trip=TRIP) == tcp_rate(0.01, trip=0) == math.inf
    # With little loss and a long way CUBIC has more than Reno.
    assert tcp_rate(1e-5, trip=200 * MILLISECOND) > 2 * math.sqrt(1.5e5) * 8 * 1514 / 0.2
    assert fate(loss=0.01).rate == pytest.approx(tcp_rate(0.01, trip=TRIP))
    assert fate(loss=1e-6).rate == RATE


def test_bursts_slow_a_stream_down_less_than_as_many_single_losses() -> None:
    burst = Burst(enter=0.002, leave=0.2)  # five packets at a time, which count once
    single = fate(loss=burst.loss)
    assert fate(burst=burst).rate == pytest.approx(math.sqrt(5) * single.rate, rel=1e-3)


# --- on a mesh


def test_a_path_with_jitter_keeps_the_order_of_a_stream() -> None:
    spec = PathSpec(rate_bps=10**8, delay_ns=20 * MILLISECOND, jitter_ns=10 * MILLISECOND)
    lines = Lines(View(default=spec))
    for number in range(300):
        lines.at[A].send(B, model(100, kind=str(number)))
    lines.run(3 * SECOND)
    assert [kind for _, kind in lines.at[B].received()] == [str(number) for number in range(300)]


def test_lost_datagrams_are_counted_and_nobody_hears_of_them() -> None:
    spec = PathSpec(rate_bps=10**7, delay_ns=20 * MILLISECOND, loss=0.2)
    lines = Lines(View(default=spec))
    for number in range(200):
        message = model(100, kind="d", delivery=Delivery.DATAGRAM)
        lines.at[A].send(B, message, key=str(number))
    lines.run(30 * SECOND)
    arrived = len(lines.at[B].received())
    assert arrived == pytest.approx(160, abs=25)
    assert len(lines.at[A].sent()) == 200
    count = lines.at[A].mesh.traffic.kinds["d"]
    assert (count.delivered, count.lost) == (400 * arrived, 400 * (200 - arrived))
    assert count.sent == 80_000


def test_doubled_datagrams_arrive_twice_and_count_once() -> None:
    spec = PathSpec(rate_bps=10**7, delay_ns=20 * MILLISECOND, duplicate=0.5)
    lines = Lines(View(default=spec))
    for _ in range(100):
        lines.at[A].send(B, model(100, kind="d", delivery=Delivery.DATAGRAM))
    lines.run(10 * SECOND)
    assert len(lines.at[B].received()) == pytest.approx(150, abs=25)
    assert lines.at[A].mesh.traffic.kinds["d"].delivered == 40_000
