"""When which path is measured: nobody shares a link, everything is measured, and it is quick."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import ExpectedPair, PathSpec
from node.core.ids import NodeId
from node.links.schedule import (
    AGAIN,
    BUDGET_BPS,
    NODES_AT_ONCE,
    Slot,
    loss_pace,
    ramp_ns,
    sample,
    schedule,
    window_ns,
)
from node.links.sizes import netem_packets
from node.units import MILLISECOND, SECOND

path_specs = st.builds(
    PathSpec,
    rate_bps=st.none() | st.integers(100_000, 2 * 10**9),
    delay_ns=st.integers(0, 200 * MILLISECOND),
    loss=st.sampled_from([0.0, 0.01]),
)


def all_pairs(count: int, path: PathSpec) -> list[ExpectedPair]:
    names = [NodeId(f"n{i:02}") for i in range(count)]
    return [
        ExpectedPair(source=a, target=b, out=path, back=path) for a, b in permutations(names, 2)
    ]


def seconds(slots: tuple[Slot, ...]) -> float:
    return sum(slot.expected_ns for slot in slots) / SECOND


@given(st.data())
def test_every_pair_is_measured_once_and_links_are_not_shared(data: st.DataObject) -> None:
    names = [NodeId(f"n{i}") for i in range(data.draw(st.integers(2, 6)))]
    pairs = [
        ExpectedPair(source=a, target=b, out=data.draw(path_specs), back=data.draw(path_specs))
        for a, b in permutations(names, 2)
        if data.draw(st.booleans())
    ]
    asked = {(p.source, p.target): p.out for p in pairs}
    slots = schedule(pairs)
    pinged = [pair for slot in slots if "rtt" in slot.measures for pair in slot.pairs]
    assert sorted(pinged) == sorted(asked)
    filled = [slot for slot in slots if "rate" in slot.measures]
    moved = [pair for slot in filled for pair in slot.pairs]
    assert sorted(moved) == sorted(k for k, p in asked.items() if p.rate_bps or p.loss)
    for slot in filled:
        for end in (0, 1):
            assert len({pair[end] for pair in slot.pairs}) == len(slot.pairs)
        total = sum(asked[pair].rate_bps or 0 for pair in slot.pairs)
        assert total <= BUDGET_BPS or len(slot.pairs) == 1
        assert ("loss" in slot.measures) == any(asked[pair].loss for pair in slot.pairs)


def test_no_more_nodes_are_at_it_at_once_than_a_small_machine_carries() -> None:
    pairs = all_pairs(64, PathSpec(rate_bps=10**6, delay_ns=MILLISECOND))
    slots = schedule(pairs)
    for slot in slots:
        assert len({node for pair in slot.pairs for node in pair}) <= NODES_AT_ONCE
    for measure in ("rtt", "rate"):
        done = [pair for slot in slots if measure in slot.measures for pair in slot.pairs]
        assert sorted(done) == sorted((p.source, p.target) for p in pairs)


@pytest.mark.parametrize(("mbit", "delay_ms"), [(20, 20), (60, 10), (1, 20), (12, 50)])
def test_16_nodes_take_less_than_half_a_minute(mbit: int, delay_ms: int) -> None:
    path = PathSpec(rate_bps=mbit * 10**6, delay_ns=delay_ms * MILLISECOND)
    slots = schedule(all_pairs(16, path))
    assert sum("rate" in slot.measures for slot in slots) >= 15
    assert seconds(slots) < 30


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_3_nodes_take_less_than_10_seconds(loss: float) -> None:
    path = PathSpec(rate_bps=20_000_000, delay_ns=20 * MILLISECOND, loss=loss)
    slots = schedule(all_pairs(3, path))
    assert len(slots) == 3
    assert seconds(slots) < 10


def test_the_longer_a_round_trip_and_the_slower_a_path_the_longer_it_takes() -> None:
    near, far = PathSpec(rate_bps=50_000_000), PathSpec(rate_bps=50_000_000, delay_ns=SECOND // 10)
    assert ramp_ns(near, near) < 200 * MILLISECOND
    assert ramp_ns(far, far) >= 1500 * MILLISECOND  # measured: TCP takes that long
    assert window_ns(PathSpec(rate_bps=1_000_000)) > window_ns(near)


@given(st.integers(100_000, 10**9), st.integers(0, SECOND))
def test_counting_losses_overflows_no_queue(rate: int, delay: int) -> None:
    path = PathSpec(rate_bps=rate, delay_ns=delay, loss=0.01)
    count, pace = loss_pace(path)
    assert count >= 2000
    assert pace == 50 or pace * 64 * 8 <= rate
    assert pace == 50 or pace * delay / SECOND <= netem_packets(path, rtt_ns=2 * delay)


def test_paths_that_share_an_interior_link_are_measured_one_after_another() -> None:
    path = PathSpec(rate_bps=1_000_000)
    pairs = [
        ExpectedPair(source=NodeId(f"l{i}"), target=NodeId(f"r{i}"), out=path, back=path, shared=on)
        for i, on in enumerate((("m",), ("m", "k"), ("k",), ()))
    ]
    slots = [slot for slot in schedule(pairs) if "rate" in slot.measures]
    shared = {(p.source, p.target): set(p.shared) for p in pairs}
    assert len(slots) == 2
    for slot in slots:
        crossed = [link for pair in slot.pairs for link in shared[pair]]
        assert len(crossed) == len(set(crossed))


def test_nothing_to_measure_takes_no_slot() -> None:
    assert schedule([]) == ()


def test_what_is_measured_again_is_kept_apart() -> None:
    pairs = all_pairs(20, PathSpec(rate_bps=40 * 10**6, delay_ns=MILLISECOND))
    slots = schedule(pairs, limits=AGAIN)
    filled = [slot for slot in slots if "rate" in slot.measures]
    assert sorted(pair for slot in filled for pair in slot.pairs) == sorted(
        (p.source, p.target) for p in pairs
    )
    for slot in slots:
        nodes = [node for pair in slot.pairs for node in pair]
        assert "rate" in slot.measures or len(set(nodes)) == len(nodes)
    for slot in filled:
        assert not {a for a, _ in slot.pairs} & {b for _, b in slot.pairs}
        assert len({node for pair in slot.pairs for node in pair}) <= AGAIN.nodes < NODES_AT_ONCE
        assert 40 * 10**6 * len(slot.pairs) <= AGAIN.bps < BUDGET_BPS


def test_all_pairs_are_measured_where_there_is_time() -> None:
    pairs = all_pairs(16, PathSpec(rate_bps=20 * 10**6, delay_ns=20 * MILLISECOND))
    assert sample(pairs, within_ns=60 * SECOND) == tuple(pairs)
    assert sample([], within_ns=SECOND) == ()


@pytest.mark.parametrize("count", [5, 64, 200])
def test_a_sample_fits_its_time_and_is_spread_over_the_nodes(count: int) -> None:
    pairs = all_pairs(count, PathSpec(rate_bps=60 * 10**6, delay_ns=5 * MILLISECOND))
    most = seconds(schedule(pairs[: 40 * count])) / 2
    chosen = sample(pairs, within_ns=round(most * SECOND))
    assert sample(pairs, within_ns=round(most * SECOND)) == chosen
    assert seconds(schedule(chosen)) <= most
    assert len(pairs) / len(chosen) > 1.5
    assert set(chosen) <= set(pairs)
    for end in ("source", "target"):
        times = Counter(getattr(pair, end) for pair in chosen)
        assert len(times) == count
        assert max(times.values()) - min(times.values()) <= 1


def test_with_next_to_no_time_one_pair_is_measured_still() -> None:
    pairs = all_pairs(4, PathSpec(rate_bps=10**6, delay_ns=SECOND))
    assert len(sample(pairs, within_ns=1)) == 1
