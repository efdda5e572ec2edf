"""Fluids on links: shares as `max_min` has them, every byte sent once, times to the nanosecond."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.links.sharing import Flow as Demand
from node.links.sharing import fill, fill_one, max_min
from node.links.sharing_arrays import fill_many
from node.sim.flows import GROUP, NEVER, PAUSE, Flow, Flows, Link, pause
from node.sim.queue import EventQueue
from node.units import SECOND


class Bytes(Flow):
    __slots__ = ("name", "size")

    def __init__(
        self, log: Log, name: str, size: float, links: tuple[Link, ...], weight: float = 1.0
    ) -> None:
        self.sender = log
        self.name = name
        self.size = size
        self.links = links
        self.weight = weight
        self.due = NEVER
        self.mark = 0


class Log:
    """Starts flows at their times, checks all rates whenever one ends."""

    def __init__(self) -> None:
        self.queue = EventQueue()
        self.flows = Flows(self.queue)
        self.active: list[Bytes] = []
        self.ended: dict[str, int] = {}

    def start(self, flow: Bytes, demand: float) -> None:
        self.active.append(flow)
        self.flows.begin(flow, size=flow.size, demand=demand)
        self.check()

    def through(self, flow: Flow) -> None:
        assert isinstance(flow, Bytes)
        self.active.remove(flow)
        self.ended[flow.name] = self.queue.now
        assert self.flows.left(flow) <= 1e-6 * max(1.0, flow.size)
        self.check()

    def check(self) -> None:
        expected = self.expected()
        for flow in self.active:
            assert flow.rate == pytest.approx(expected[flow.name], rel=1e-6, abs=1e-3), flow.name

    def expected(self) -> dict[str, float]:
        """The fair rates of what is active."""
        links = {id(link): link for flow in self.active for link in flow.links}
        names = {key: f"l{place}" for place, key in enumerate(links)}
        return max_min(
            [
                Demand(
                    key=flow.name,
                    links=tuple(names[id(link)] for link in flow.links),
                    weight=flow.weight,
                    demand_bps=flow.demand,
                )
                for flow in self.active
            ],
            {names[key]: link.capacity for key, link in links.items()},
        )


Run = list[tuple[int, int, float, float, list[int]]]
runs = st.lists(
    st.tuples(
        st.integers(0, 3 * SECOND),  # when it begins
        st.integers(1, 10**6),  # bytes
        st.floats(1e5, 1e8),  # demand
        st.floats(0.5, 100),  # weight
        st.lists(st.integers(0, 4), unique=True, max_size=3),
    ),
    max_size=14,
)
capacities = st.lists(st.floats(1e5, 1e8), min_size=5, max_size=5)


@given(runs, capacities)
def test_rates_are_max_min_at_all_times_and_all_bytes_get_through(
    plan: Run, rates: list[float]
) -> None:
    log = Log()
    links = [Link(rate) for rate in rates]
    for number, (at, size, demand, weight, crossed) in enumerate(plan):
        flow = Bytes(log, f"f{number}", size, tuple(links[place] for place in crossed), weight)
        log.queue.at(at, log.start, flow, min([demand, *(rates[place] for place in crossed)]))
    log.queue.run()
    assert len(log.ended) == len(plan)
    assert not log.active
    for link in links:
        assert not link.flows
        assert link.wanted == 0.0


@given(runs, capacities)
def test_no_link_carries_more_than_it_can(plan: Run, rates: list[float]) -> None:
    """All bytes that crossed it, over the time from the first start to the last end."""
    log = Log()
    links = [Link(rate) for rate in rates]
    flows = []
    for number, (at, size, demand, weight, crossed) in enumerate(plan):
        flow = Bytes(log, f"f{number}", size, tuple(links[place] for place in crossed), weight)
        flows.append((at, flow))
        log.queue.at(at, log.start, flow, min([demand, *(rates[place] for place in crossed)]))
    log.queue.run()
    for link in links:
        crossing = [(at, flow) for at, flow in flows if link in flow.links]
        if crossing:
            span = max(log.ended[f.name] for _, f in crossing) - min(at for at, _ in crossing)
            bits = 8 * sum(flow.size for _, flow in crossing)
            assert bits <= link.capacity * (span + len(crossing)) / SECOND * (1 + 1e-6)


def test_a_flow_alone_takes_its_size_over_its_rate() -> None:
    log = Log()
    log.queue.at(7, log.start, Bytes(log, "f", 1_000_000, ()), 8e6)
    log.queue.run()
    assert log.ended == {"f": 7 + SECOND}


def test_two_flows_on_a_link_share_it_and_the_longer_one_speeds_up() -> None:
    log = Log()
    link = Link(8e6)
    log.queue.at(0, log.start, Bytes(log, "short", 250_000, (link,)), 8e6)
    log.queue.at(0, log.start, Bytes(log, "long", 1_000_000, (link,)), 8e6)
    log.queue.run()
    # Half the rate each for 0.5 s; then the long one has 750,000 bytes left and the whole link.
    assert log.ended == {
        "short": SECOND // 2, "long": pytest.approx(SECOND // 2 + SECOND * 3 // 4, abs=2)
    }  # fmt: skip


def test_a_flow_that_stalls_goes_on_where_it_was() -> None:
    log = Log()
    flow = Bytes(log, "f", 1_000_000, ())
    log.start(flow, 8e6)
    log.queue.run(until=SECOND // 4)
    log.flows.change(flow, demand=0.0)
    log.queue.run(until=10 * SECOND)
    assert not log.ended
    log.flows.change(flow, demand=16e6)
    log.queue.run()
    assert log.ended == {"f": pytest.approx(10 * SECOND + SECOND * 3 // 8, abs=2)}


def test_a_flow_may_become_longer_or_shorter() -> None:
    log = Log()
    flow = Bytes(log, "f", 1_000_000, ())
    log.start(flow, 8e6)
    log.flows.resize(flow, left=2_000_000)
    log.queue.run(until=SECOND)
    log.flows.resize(flow, left=500_000)
    log.queue.run()
    assert log.ended == {"f": pytest.approx(SECOND + SECOND // 2, abs=2)}


def test_a_stopped_flow_leaves_its_share_to_the_others_and_is_never_through() -> None:
    log = Log()
    link = Link(8e6)
    gone, stays = (Bytes(log, name, 1_000_000, (link,)) for name in ("gone", "stays"))
    log.start(gone, 8e6)
    log.start(stays, 8e6)
    log.queue.run(until=SECOND)
    log.active.remove(gone)
    log.flows.stop(gone)
    log.queue.run()
    assert log.ended == {"stays": pytest.approx(SECOND + SECOND // 2, abs=2)}


@given(
    st.lists(st.tuples(st.floats(0.1, 1000), st.floats(0, 1e9)), min_size=1, max_size=12),
    st.floats(0, 1e9),
)
def test_one_link_is_filled_as_many_are(flows: list[tuple[float, float]], rate: float) -> None:
    weights, demands = [list(column) for column in zip(*flows, strict=True)]
    whole = fill([[0]] * len(flows), weights, demands, [rate])
    for one, other in zip(fill_one(weights, demands, rate), whole, strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-3)
    assert math.fsum(fill_one(weights, demands, rate)) <= rate * (1 + 1e-9) + 1e-6


many = st.lists(
    st.tuples(
        st.floats(0.5, 100),
        st.floats(0, 1e9),
        st.lists(st.integers(0, 5), unique=True, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=60,
)


@given(many, st.lists(st.floats(0, 1e9), min_size=6, max_size=6))
def test_arrays_are_filled_as_lists_are(
    flows: list[tuple[float, float, list[int]]], rates: list[float]
) -> None:
    weights, demands, routes = [list(column) for column in zip(*flows, strict=True)]
    one, other = (way(routes, weights, demands, rates) for way in (fill, fill_many))
    assert other == pytest.approx(one, rel=1e-6, abs=1e-2)


# --- groups: more flows than are computed at once


class Crowd(Log):
    """Starts flows of a group; no link may ever carry more than it can."""

    def __init__(self, links: list[Link]) -> None:
        super().__init__()
        self.links = links

    def check(self) -> None:
        for link in self.links:
            assert sum(flow.rate for flow in link.flows) <= link.capacity * (1 + 1e-6)


def crowd(seed: int, count: int) -> tuple[Crowd, list[Bytes]]:
    """Flows from 20 senders to 20 receivers, which begin within 0.2 s."""
    draw = np.random.default_rng(seed)
    links = [Link(float(rate)) for rate in draw.choice([12e6, 60e6], 40)]
    log = Crowd(links)
    flows = []
    for number in range(count):
        up, down = links[draw.integers(20)], links[20 + draw.integers(20)]
        flow = Bytes(log, f"f{number}", float(draw.integers(10**4, 10**5)), (up, down))
        flows.append(flow)
        at = int(draw.integers(SECOND // 5))
        log.queue.at(at, log.start, flow, min(up.capacity, down.capacity))
    return log, flows


@pytest.mark.parametrize("seed", range(5))
def test_in_a_group_no_link_is_exceeded_and_all_bytes_get_through(seed: int) -> None:
    log, flows = crowd(seed, 600)
    log.queue.run()
    assert len(log.ended) == len(flows)
    for link in log.links:
        assert not link.flows


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_a_group_are_fair_a_pause_after_the_last_change(seed: int) -> None:
    log, flows = crowd(seed, 400)
    for flow in flows:
        flow.size *= 1000  # none ends meanwhile
    log.queue.run(until=SECOND // 5 + PAUSE[1])
    assert len(log.active) == len(flows) > GROUP
    expected = log.expected()
    for flow in log.active:
        assert expected[flow.name] / 1.011 <= flow.rate <= expected[flow.name] * (1 + 1e-6)


def test_a_crowd_takes_as_long_as_it_would_with_exact_shares() -> None:
    """Within 3 %: what ends leaves its share unused for half a pause on average."""
    ends = []
    for limit in (GROUP, 10**9):
        log, _ = crowd(1, 600)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("node.sim.flows.GROUP", limit)
            log.queue.run()
        ends.append(sorted(log.ended.values()))
    grouped, exact = (np.array(each) for each in ends)
    assert grouped.mean() == pytest.approx(exact.mean(), rel=0.03)
    assert grouped[-1] == pytest.approx(exact[-1], rel=0.03)


def test_a_pause_grows_with_the_group_up_to_a_bound() -> None:
    assert pause(GROUP) == PAUSE[0]
    assert PAUSE[0] < pause(2300) < PAUSE[1]
    assert pause(10**6) == PAUSE[1]
