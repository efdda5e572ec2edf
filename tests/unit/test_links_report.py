"""Asked against measured: what is within tolerance, and the shape of links.json."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Emulator, ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links.report import PairReport, applied_to_pair, judge, links_json, wilson
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
    ("rtt_ms", "ok"), [(50.0, True), (51.9, True), (48.1, True), (52.1, False), (47.9, False)]
)
def test_round_trips_within_1_ms_and_2_percent(rtt_ms: float, ok: bool) -> None:
    report = verdict(rtt_ns=round(rtt_ms * MILLISECOND))
    assert report.ok is ok
    assert (report.why is None) is ok
    assert report.tolerance["rtt_ms"] == [48.0, 52.0]


@pytest.mark.parametrize(
    ("goodput", "ok"), [(9.564e6, True), (9.28e6, True), (9.27e6, False), (9.86e6, False)]
)
def test_goodput_within_3_percent_of_what_the_headers_leave(goodput: float, ok: bool) -> None:
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
    assert near.tolerance["loss"] == pytest.approx([0.00790, 0.02132], abs=1e-5)
    assert not verdict(lossy, loss=0.02, loss_packets=2000).ok


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
    assert verdict(shaky, rtt_ns=54 * MILLISECOND).ok
    assert not verdict(shaky, rtt_ns=56 * MILLISECOND).ok


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
    assert first["ok"] is True
    assert first["why"] is None
    assert second["measured"]["rtt_ms"] is None
    assert second["ok"] is None
