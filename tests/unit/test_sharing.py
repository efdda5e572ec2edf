"""Fair shares: they fill what can be filled, exceed nothing, and favour nobody."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.links.sharing import Flow, max_min, weight_of
from node.units import MILLISECOND

LINKS = ("a", "b", "c", "d")
Case = tuple[list[Flow], dict[str, float | None]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    capacities: dict[str, float | None] = {
        name: draw(st.none() | st.integers(0, 10**9).map(float)) for name in LINKS
    }
    routes = st.lists(st.sampled_from(LINKS), max_size=4, unique=True).map(tuple)
    flows = [
        Flow(
            key=f"f{i}",
            links=draw(routes),
            weight=draw(st.floats(0.1, 1000)),
            demand_bps=draw(st.none() | st.integers(0, 10**9).map(float)),
        )
        for i in range(draw(st.integers(0, 12)))
    ]
    return flows, capacities


def load(flows: Sequence[Flow], rates: Mapping[str, float], link: str) -> float:
    return math.fsum(rates[f.key] for f in flows if link in f.links)


@given(cases())
def test_nothing_exceeds_a_link_or_a_demand(case: Case) -> None:
    flows, capacities = case
    rates = max_min(flows, capacities)
    assert rates.keys() == {f.key for f in flows}
    for name, capacity in capacities.items():
        if capacity is not None:
            assert load(flows, rates, name) <= capacity * (1 + 1e-9) + 1e-3
    for flow in flows:
        assert 0 <= rates[flow.key] <= (math.inf if flow.demand_bps is None else flow.demand_bps)


@given(cases())
def test_who_has_less_than_wanted_is_on_a_full_link_where_nobody_has_more(case: Case) -> None:
    """The bottleneck condition: it holds exactly for max-min fair rates (Bertsekas, Gallager)."""
    flows, capacities = case
    rates = max_min(flows, capacities)
    for flow in flows:
        mine = rates[flow.key]
        if flow.demand_bps is not None and mine >= flow.demand_bps * (1 - 1e-9):
            continue
        limited = [(name, c) for name in flow.links if (c := capacities[name]) is not None]
        if not limited:
            assert mine == math.inf
            continue
        assert any(
            load(flows, rates, name) >= capacity * (1 - 1e-9) - 1e-3
            and all(
                rates[other.key] / other.weight <= mine / flow.weight * (1 + 1e-6) + 1e-3
                for other in flows
                if name in other.links
            )
            for name, capacity in limited
        ), flow.key


@given(cases(), st.floats(0.01, 100))
def test_units_of_rates_and_of_weights_do_not_matter(case: Case, factor: float) -> None:
    flows, capacities = case
    rates = max_min(flows, capacities)
    faster = max_min(
        [
            replace(f, demand_bps=None if f.demand_bps is None else f.demand_bps * factor)
            for f in flows
        ],
        {name: None if c is None else c * factor for name, c in capacities.items()},
    )
    heavier = max_min([replace(f, weight=f.weight * factor) for f in flows], capacities)
    for key, rate in rates.items():
        assert faster[key] == pytest.approx(rate * factor, rel=1e-6, abs=1e-2)
        assert heavier[key] == pytest.approx(rate, rel=1e-6, abs=1e-2)


@given(cases(), st.randoms())
def test_the_order_of_the_flows_does_not_matter(case: Case, shuffle: random.Random) -> None:
    flows, capacities = case
    before = max_min(flows, capacities)
    shuffle.shuffle(flows)
    assert max_min(flows, capacities) == before


@given(cases())
def test_what_does_not_want_its_share_is_the_others(case: Case) -> None:
    """Asking for exactly what one gets changes nothing for anybody."""
    flows, capacities = case
    rates = max_min(flows, capacities)
    content = [
        replace(f, demand_bps=rates[f.key] if math.isfinite(rates[f.key]) else None) for f in flows
    ]
    again = max_min(content, capacities)
    for key, rate in rates.items():
        assert again[key] == pytest.approx(rate, rel=1e-6, abs=1e-2)


def flow(key: str, *links: str, rtt_ms: float = 20, demand: float | None = None) -> Flow:
    weight = weight_of(round(rtt_ms * MILLISECOND))
    return Flow(key=key, links=links, weight=weight, demand_bps=demand)


def test_a_dumbbell_is_shared_in_proportion_to_1_over_rtt() -> None:
    rates = max_min([flow("near", "m", rtt_ms=20), flow("far", "m", rtt_ms=60)], {"m": 40e6})
    assert rates == {"near": pytest.approx(30e6), "far": pytest.approx(10e6)}


def test_a_parking_lot_leaves_the_long_flow_half_of_each_link() -> None:
    flows = [flow("long", "x", "y"), flow("first", "x"), flow("second", "y")]
    rates = max_min(flows, {"x": 10e6, "y": 30e6})
    assert rates == {
        "long": pytest.approx(5e6), "first": pytest.approx(5e6), "second": pytest.approx(25e6)
    }  # fmt: skip


def test_a_small_flow_has_what_it_wants_and_the_rest_is_for_the_others() -> None:
    flows = [flow("small", "m", demand=1e6), flow("a", "m"), flow("b", "m")]
    rates = max_min(flows, {"m": 10e6})
    assert rates == {
        "small": pytest.approx(1e6), "a": pytest.approx(4.5e6), "b": pytest.approx(4.5e6)
    }  # fmt: skip


def test_unlimited_links_limit_nobody() -> None:
    assert max_min([flow("f", "m")], {"m": None}) == {"f": math.inf}
    assert max_min([flow("f", "m", demand=5.0)], {"m": None}) == {"f": 5.0}
    assert max_min([flow("f")], {}) == {"f": math.inf}


def test_a_route_that_names_a_link_twice_counts_once() -> None:
    assert max_min([flow("f", "m", "m")], {"m": 8e6}) == {"f": pytest.approx(8e6)}


def test_weights_stop_at_a_round_trip_of_1_ms() -> None:
    assert weight_of(0) == weight_of(MILLISECOND) == 1000
    assert weight_of(100 * MILLISECOND) == 10


@pytest.mark.parametrize(
    ("flows", "complaint"),
    [
        ([flow("f", "nowhere")], "no link"),
        ([flow("f"), flow("f")], "two flows"),
        ([Flow(key="f", links=(), weight=0.0)], "weight"),
        ([Flow(key="f", links=(), weight=math.nan)], "weight"),
        ([flow("f", "m", demand=-1.0)], "demand"),
        ([flow("f", "m", demand=math.nan)], "demand"),
    ],
)
def test_nonsense_is_refused(flows: list[Flow], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        max_min(flows, {"m": 1.0})


def test_thousands_of_flows_take_milliseconds() -> None:
    """The simulator asks this often; a time that grows with flows squared would be seconds."""
    draw = random.Random(1)
    capacities: dict[str, float | None] = {f"l{i}": draw.uniform(1e6, 1e9) for i in range(200)}
    flows = [
        Flow(
            key=f"f{i}",
            links=tuple(draw.sample(sorted(capacities), 4)),
            weight=draw.uniform(1, 100),
            demand_bps=draw.choice([None, draw.uniform(0, 1e8)]),
        )
        for i in range(4000)
    ]
    best = math.inf
    for _ in range(3):
        begin = time.process_time()
        max_min(flows, capacities)
        best = min(best, time.process_time() - begin)
    assert best < 0.5
