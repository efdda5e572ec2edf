"""Asked against measured: what is within tolerance, and the shape of links.json."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Burst, Emulator, ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links.delay import Line
from node.links.estimate import deviation, loss_weight, median
from node.links.report import KERNEL, PairReport, applied_to_pair, judge, links_json, wilson
from node.units import MILLISECOND

A, B = NodeId("a"), NodeId("b")
OUT = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND)
BACK = PathSpec(rate_bps=10_000_000, delay_ns=30 * MILLISECOND)


def verdict(
    out: PathSpec = OUT, *, emulator: Emulator = Emulator.NFQUEUE, **measured: object
) -> PairReport:
    reading = LinkReading(source=A, target=B, **measured)  # type: ignore[arg-type]
    pair = ExpectedPair(source=A, target=B, out=out, back=BACK)
    return judge(pair, reading, None, emulator=emulator)


@pytest.mark.parametrize(
    ("rtt_ms", "ok"), [(50.0, True), (50.9, True), (49.95, True), (51.1, False), (49.8, False)]
)
def test_round_trips_hardly_early_and_1_ms_late_at_most(rtt_ms: float, ok: bool) -> None:
    report = verdict(rtt_ns=round(rtt_ms * MILLISECOND))
    assert report.ok is ok
    assert (report.why is None) is ok
    assert report.tolerance["rtt_ms"] == [49.9, 51.0]


def test_long_round_trips_may_be_late_by_1_percent() -> None:
    far = PathSpec(rate_bps=10_000_000, delay_ns=370 * MILLISECOND)
    assert verdict(far, rtt_ns=round(403.9 * MILLISECOND)).ok
    assert not verdict(far, rtt_ns=round(404.1 * MILLISECOND)).ok


def test_a_slower_machine_is_given_more_room() -> None:
    reading = LinkReading(source=A, target=B, rtt_ns=52 * MILLISECOND)
    pair = ExpectedPair(source=A, target=B, out=OUT, back=BACK)
    assert not judge(pair, reading, None, emulator=Emulator.NETEM).ok
    assert judge(pair, reading, None, emulator=Emulator.NETEM, tolerance=KERNEL.times(3)).ok


@pytest.mark.parametrize(
    ("goodput", "ok"), [(9.564e6, True), (9.38e6, True), (9.36e6, False), (9.77e6, False)]
)
def test_goodput_within_2_percent_of_what_the_headers_leave(goodput: float, ok: bool) -> None:
    report = verdict(goodput_bps=goodput, transport="tcp")
    assert report.ok is ok
    if not ok:
        assert "goodput" in str(report.why)


def test_udp_goodput_counts_what_the_losses_leave() -> None:
    lossy = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND, loss=0.1)
    assert verdict(lossy, goodput_bps=8.75e6, transport="udp").ok
    assert not verdict(lossy, goodput_bps=9.72e6, transport="udp").ok
    netem = verdict(lossy, emulator=Emulator.NETEM, goodput_bps=9.72e6, transport="udp")
    assert netem.ok  # it loses packets before they take their share of the rate


def test_loss_is_held_against_the_interval_of_what_was_counted() -> None:
    lossy = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND, loss=0.01)
    near = verdict(lossy, loss=0.013, loss_packets=2000)
    assert near.ok
    assert near.tolerance["loss"] == pytest.approx([0.00691, 0.02434], abs=1e-5)
    assert not verdict(lossy, loss=0.02, loss_packets=2000).ok


def test_losses_in_bursts_tell_less_than_single_ones() -> None:
    """The deviation of a share over a chain, against what many chains do."""
    bursty = replace(OUT, burst=Burst(enter=0.005, leave=0.1))
    count, shares = 2000, []
    for seed in range(300):
        line = Line(bursty, streams=lambda purpose, seed=seed: random.Random(f"{seed}/{purpose}"))
        line.arrive(1, count, at=0, until=0)
        shares.append(line.lost / count)
    weight = loss_weight(bursty)
    single = math.sqrt(bursty.loss_rate * (1 - bursty.loss_rate) / count)
    assert statistics.stdev(shares) == pytest.approx(single * math.sqrt(weight), rel=0.15)
    assert loss_weight(OUT) == 1.0
    assert sum(not verdict(bursty, loss=s, loss_packets=count).ok for s in shares) <= 3
    assert not verdict(bursty, loss=0.2, loss_packets=count).ok


def test_corrupt_packets_count_as_lost_and_twice_sent_ones_are_held_against_their_share() -> None:
    both = replace(OUT, corrupt=0.02, duplicate=0.1)
    assert verdict(both, loss=0.019, duplicate=0.1, loss_packets=5000).ok
    assert not verdict(both, loss=0.08, duplicate=0.1, loss_packets=5000).ok
    off = verdict(both, loss=0.019, duplicate=0.03, loss_packets=5000)
    assert not off.ok
    assert "came twice" in str(off.why)


def test_jitter_is_held_against_what_both_ways_add_up_to() -> None:
    shaky = replace(OUT, jitter_ns=3 * MILLISECOND)
    assert verdict(shaky, rtt_ns=50 * MILLISECOND, jitter_ns=3 * MILLISECOND).ok
    off = verdict(shaky, rtt_ns=50 * MILLISECOND, jitter_ns=2 * MILLISECOND)
    assert not off.ok
    assert "jitter 2.00 ms there and back, asked 3.00" in str(off.why)
    cut = replace(shaky, jitter_ns=15 * MILLISECOND)
    assert verdict(cut, rtt_ns=50 * MILLISECOND, jitter_ns=9 * MILLISECOND).ok, "not judged"


def test_what_was_not_measured_is_not_judged() -> None:
    report = verdict()
    assert report.ok is None
    assert report.why == "not measured"
    unlimited = verdict(PathSpec(delay_ns=20 * MILLISECOND), goodput_bps=1e10, transport="tcp")
    assert unlimited.ok
    assert unlimited.tolerance["goodput_bps"] is None


def test_an_error_is_a_miss_with_its_reason() -> None:
    report = verdict(rtt_ns=50 * MILLISECOND, error="no end within 5 s")
    assert report.ok is False
    assert report.why == "no end within 5 s"


def test_the_application_emulator_is_judged_more_leniently() -> None:
    assert verdict(emulator=Emulator.APPLICATION, rtt_ns=56 * MILLISECOND).ok
    assert not verdict(rtt_ns=56 * MILLISECOND).ok


def test_jitter_widens_the_bounds_by_what_a_median_varies() -> None:
    shaky = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND, jitter_ns=5 * MILLISECOND)
    assert verdict(shaky, rtt_ns=52 * MILLISECOND).ok
    assert not verdict(shaky, rtt_ns=53 * MILLISECOND).ok


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_contain_what_was_seen(seen: tuple[int, int]) -> None:
    hits, count = seen
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert low < high


def test_applied_takes_the_rate_from_the_sender_and_the_delay_from_either_end() -> None:
    sides = {"delay_ms": None, "jitter_ms": None, "loss": None}
    sender = {"peers": {"b": {"applied": {"out": {"rate_bps": 10, **sides}, "into": None}}}}
    into = {"rate_bps": 20, "delay_ms": 20.0, "jitter_ms": 0.0, "loss": 0.01}
    receiver = {"peers": {"a": {"applied": {"out": None, "into": into}}}}
    assert applied_to_pair({A: sender, B: receiver}, source=A, target=B) == {
        "rate_bps": 10,
        "delay_ms": 20.0,
        "jitter_ms": 0.0,
        "loss": 0.01,
    }
    assert applied_to_pair({A: sender}, source=A, target=B) == {"rate_bps": 10, **sides}
    assert applied_to_pair({A: {}}, source=A, target=B) is None


def test_links_json_has_the_fields_that_scripts_rely_on() -> None:
    reports = [verdict(rtt_ns=50 * MILLISECOND), verdict()]
    made = links_json(reports, emulator="nfqueue")
    assert made["emulator"] == "nfqueue"
    first, second = made["pairs"]
    assert first["from"] == "a"
    assert first["to"] == "b"
    assert first["asked"] == {
        "rate_bps": 10_000_000,
        "delay_ms": 20.0,
        "jitter_ms": 0.0,
        "loss": 0.0,
    }
    assert {"rtt_ms": 50.0, "goodput_bps": None, "loss": None}.items() <= first["measured"].items()
    rare = links_json([verdict(replace(OUT, corrupt=0.1, burst=Burst(enter=0.1, leave=0.9)))],
                      emulator="netem")["pairs"][0]["asked"]  # fmt: skip
    assert rare["loss"] == pytest.approx(0.1)
    assert rare["corrupt"] == 0.1
    assert rare["burst"] == {"enter": 0.1, "leave": 0.9, "bad": 1.0, "good": 0.0}
    assert "duplicate" not in rare
    assert first["ok"] is True
    assert first["why"] is None
    assert second["measured"]["rtt_ms"] is None
    assert second["ok"] is None


def test_a_median_leaves_out_what_was_sent_ahead_and_a_deviation_what_stalled() -> None:
    chance = random.Random(1)
    trips = [round(chance.gauss(50e6, 2e6)) for _ in range(400)]
    ahead = [trip - 20 * MILLISECOND for trip in trips[:100]] + trips[100:]
    assert median(ahead, early=0.25) == pytest.approx(50e6, rel=0.01)
    assert median([5]) == 5
    stalled = [*trips, *(trip + 90 * MILLISECOND for trip in trips[:8])]
    assert deviation(stalled) == pytest.approx(2e6, rel=0.1)
    assert deviation([7, 7, 7]) == 0
