"""Fluids on links: shares as `fill` has them, every byte sent once, times to the nanosecond."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import PathSpec
from node.core.effects import Send
from node.core.outbox import Priority
from node.links.sharing import fill
from node.links.sizes import burst_bytes
from node.sim.lane import Lane
from node.sim.network import Route, Way
from node.sim.pipe import BITS, FAR, NEVER, Entry, Link, Pipe, Shares, Transfer
from node.sim.queue import EventQueue
from node.sim.wire import Parcel
from node.units import SECOND, Nanos
from tests.sim.lines import A, model

ROUTE = Route(PathSpec(), PathSpec(), scale=(1, 1))


class Bed:
    """Starts messages of several senders at their times, and notes when each is through."""

    def __init__(self, links: Sequence[Link] = (), *, in_order: bool = False) -> None:
        self.queue = EventQueue()
        self.shares = Shares(self.queue)
        self.links = links
        self.pipes: dict[int, Pipe] = {}
        self.in_order = in_order
        self.ended: dict[Transfer, Nanos] = {}
        self.active: list[Transfer] = []
        self.fullest = 0.0
        """What a link carried at most, over what it can."""

    def transfer(self, size: float, *links: Link, source: int = 0, weight: float = 1.0) -> Transfer:
        """One of so many bytes on the wire."""
        pipe = self.pipes.get(source)
        if pipe is None:
            pipe = self.pipes[source] = Pipe(self, self.shares, in_order=self.in_order)
        message = model(1)
        entry = Entry(0, 0, Send(target=A, message=message), message, Priority.MODEL, 0)
        parcel = Parcel("m", values=int(size), head=0, chunk=4096)
        parcel.wire = int(size)
        lane = Lane(Priority.MODEL)
        made = Transfer(pipe, lane, entry, None, Way(ROUTE, links, ()), parcel, 0)
        made.weight = weight
        return made

    def drained(self, _transfer: Transfer) -> bool:
        return False  # it was handed out as a whole

    def start(self, transfer: Transfer, demand: float) -> None:
        self.active.append(transfer)
        transfer.pipe.begin(transfer, demand=demand)
        self.settle()

    def settle(self) -> None:
        self.shares.settle()
        self.look()

    def look(self) -> None:
        for link in self.links:
            carried = sum(flow.rate for flow in link.flows)
            self.fullest = max(self.fullest, carried / link.capacity)

    def through(self, transfer: Transfer) -> None:
        assert transfer.left <= 1e-6 * transfer.parcel.wire
        self.active.remove(transfer)
        self.ended[transfer] = self.queue.now
        self.queue.after(0, self.look)

    def opens(self, before: Nanos) -> Nanos:
        return NEVER

    def open(self) -> None:
        raise AssertionError

    def go_on(self) -> None:
        """Nothing waits."""


def fair(flows: Sequence[Transfer]) -> list[float]:
    """Exact max-min rates; a node's own uplink serves its messages evenly."""
    places: dict[Link, int] = {}
    for flow in flows:
        for link in flow.links:
            places.setdefault(link, len(places))
    routes = [[places[link] for link in flow.links] for flow in flows]
    demands = [flow.demand for flow in flows]
    return fill(routes, [f.weight for f in flows], demands, [link.capacity for link in places])


@dataclass(frozen=True)
class Plan:
    at: Nanos
    size: float
    demand: float
    weight: float
    source: int
    links: tuple[int, ...]


Make = Callable[..., tuple[list[float], list[Plan]]]


def star(seed: int, count: int, *, nodes: int = 12) -> tuple[list[float], list[Plan]]:
    """Messages between nodes with links of two rates; uplinks first, then downlinks."""
    draw = np.random.default_rng(seed)
    rates = [float(rate) for rate in draw.choice([12e6, 60e6], 2 * nodes)]
    plans = []
    for _ in range(count):
        source, target = draw.choice(nodes, 2, replace=False)
        links = (int(source), nodes + int(target))
        plans.append(
            Plan(
                at=int(draw.integers(SECOND // 5)),
                size=float(draw.integers(10**4, 10**5)),
                demand=min(rates[link] for link in links),
                weight=1.0,
                source=int(source),
                links=links,
            )
        )
    return rates, plans


def graph(seed: int, count: int) -> tuple[list[float], list[Plan]]:
    """Messages of many senders on up to four of ten interior links, with weights."""
    draw = np.random.default_rng(seed)
    rates = [float(rate) for rate in draw.uniform(5e6, 100e6, 10)]
    plans = []
    for number in range(count):
        links = tuple(int(x) for x in draw.choice(10, draw.integers(1, 5), replace=False))
        plans.append(
            Plan(
                at=int(draw.integers(SECOND // 5)),
                size=float(draw.integers(10**4, 10**5)),
                demand=min(rates[link] for link in links) * float(draw.uniform(0.3, 1)),
                weight=float(draw.uniform(5, 100)),
                source=number,
                links=links,
            )
        )
    return rates, plans


def bed(rates: list[float], plans: list[Plan], *, in_order: bool = False) -> Bed:
    made = Bed([Link(rate) for rate in rates], in_order=in_order)
    for plan in plans:
        links = [made.links[place] for place in plan.links]
        flow = made.transfer(plan.size, *links, source=plan.source, weight=plan.weight)
        made.queue.at(plan.at, made.start, flow, plan.demand)
    return made


def ideal(rates: list[float], plans: list[Plan], until: Nanos) -> float:
    """Bytes that have left by then where all rates are exactly fair at every moment."""
    todo, now, total = sorted(plans, key=lambda plan: plan.at), 0.0, 0.0
    active: list[tuple[Plan, float]] = []
    while (active or todo) and now < until:
        routes, weights = [list(p.links) for p, _ in active], [p.weight for p, _ in active]
        share = fill(routes, weights, [p.demand for p, _ in active], rates)
        ends = [now + left * BITS / rate for (_, left), rate in zip(active, share, strict=True)]
        step = min([*ends, float(todo[0].at) if todo else math.inf, float(until)])
        after = []
        for (plan, left), rate, end in zip(active, share, ends, strict=True):
            sent = left if end <= step else rate * (step - now) / BITS
            total += sent
            if end > step:
                after.append((plan, left - sent))
        now, active = step, after
        while todo and todo[0].at <= now:
            active.append((todo[0], todo[0].size))
            todo.pop(0)
    return total


def sent(made: Bed) -> float:
    """Bytes that have left so far."""
    leaving = {flow: flow.pipe.left(flow) for flow in made.active}
    through = sum(flow.parcel.wire for flow in made.ended)
    return through + sum(flow.parcel.wire - left for flow, left in leaving.items())


@pytest.mark.parametrize(("make", "close"), [(star, 0.005), (graph, 0.01)])
@pytest.mark.parametrize("seed", range(6))
def test_rates_are_fair_whenever_a_change_has_settled(make: Make, close: float, seed: int) -> None:
    """To the threshold, of which several may add up where a rate depends on many others."""
    made = bed(*make(seed, 150))
    apart: list[float] = []
    sums: list[float] = []
    while (at := made.queue.next) is not None:
        made.queue.run(until=at)
        exact = fair(made.active)
        apart += [abs(f.rate / rate - 1) for f, rate in zip(made.active, exact, strict=True)]
        if exact:
            sums.append(sum(flow.rate for flow in made.active) / sum(exact))
    assert np.quantile(apart, 0.98) <= FAR / (1 - FAR)
    assert max(apart) <= 7 * FAR
    assert np.mean(sums) == pytest.approx(1, abs=close)
    assert len(made.ended) == 150
    assert made.fullest <= 1 / (1 - FAR)


@pytest.mark.parametrize("make", [star, graph])
def test_without_a_threshold_rates_are_exactly_fair(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.sim.pipe.FAR", 1e-9)
    monkeypatch.setattr("node.sim.pipe.SLACK", 1e-9)
    monkeypatch.setattr("node.sim.pipe.HOPS", 1000)
    made = bed(*make(7, 100))
    while (at := made.queue.next) is not None:
        made.queue.run(until=at)
        for flow, rate in zip(made.active, fair(made.active), strict=True):
            assert flow.rate == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_as_many_bytes_leave_as_with_exactly_fair_shares(seed: int) -> None:
    rates, plans = star(seed, 400, nodes=20)
    made = bed(rates, plans)
    for at in (SECOND // 10, SECOND // 5, 3 * SECOND // 10, SECOND // 2):
        made.queue.run(until=at)
        assert sent(made) == pytest.approx(ideal(rates, plans, at), rel=0.005)


@pytest.mark.parametrize("make", [star, graph])
@given(seed=st.integers(0, 1000), count=st.integers(1, 60), in_order=st.booleans())
@settings(max_examples=30)
def test_every_byte_crosses_its_links_and_no_link_carries_more_than_it_can(
    make: Make, seed: int, count: int, in_order: bool
) -> None:
    rates, plans = make(seed, count)
    made = bed(rates, plans, in_order=in_order)
    made.queue.run()
    assert len(made.ended) == count
    for place, link in enumerate(made.links):
        assert not link.flows
        crossing = [flow for flow in made.ended if link in flow.links]
        if crossing:
            began = min(plan.at for plan in plans if place in plan.links)
            span = max(made.ended[flow] for flow in crossing) - began + len(crossing)
            bursts = len(crossing) * burst_bytes(int(link.capacity))
            bits = (sum(flow.parcel.wire for flow in crossing) - bursts) * BITS
            assert bits <= link.capacity * span / (1 - FAR)


# --- times


def test_a_message_alone_takes_its_size_over_its_rate() -> None:
    made = Bed()
    flow = made.transfer(1_000_000)
    made.queue.at(7, made.start, flow, 8e6)
    made.queue.run()
    assert made.ended == {flow: 7 + SECOND}


def test_two_messages_on_a_link_share_it_and_the_longer_one_speeds_up() -> None:
    made = Bed()
    link = Link(8e6)
    short, long = (made.transfer(s, link, source=s) for s in (250_000, 1_000_000))
    for flow in (short, long):
        made.start(flow, 8e6)
    made.queue.run()
    # Half the rate each for 0.5 s; then the long one has 750,000 bytes left and the whole link.
    assert made.ended[short] == SECOND // 2
    assert made.ended[long] == pytest.approx(SECOND // 2 + SECOND * 3 // 4, abs=2)


def test_on_an_uplink_in_order_the_next_has_what_is_left_over() -> None:
    made = Bed(in_order=True)
    up, narrow, wide = Link(10e6), Link(4e6), Link(10e6)
    held, spill, behind = (made.transfer(1e6, up, each) for each in (narrow, wide, wide))
    for flow in (held, spill, behind):
        made.start(flow, 10e6)
    assert [flow.rate for flow in (held, spill, behind)] == pytest.approx([4e6, 6e6, 0.0])


def test_streams_of_one_node_have_equal_parts_of_its_uplink_whatever_their_round_trips() -> None:
    """HTB serves them frame by frame; on a link inside the network a short one gets more."""
    made = Bed()
    up, inner = Link(10e6), Link(10e6)
    flows = [made.transfer(1e6, up, weight=weight) for weight in (500.0, 10.0)]
    others = [made.transfer(1e6, inner, source=weight, weight=float(weight)) for weight in (30, 10)]
    for flow in (*flows, *others):
        made.start(flow, 10e6)
    assert [flow.rate for flow in flows] == pytest.approx([5e6, 5e6])
    assert [flow.rate for flow in others] == pytest.approx([7.5e6, 2.5e6])


def test_an_idle_link_lets_a_burst_pass_at_once() -> None:
    made = Bed()
    link = Link(8e6)
    first, second = (made.transfer(100_000, link) for _ in range(2))
    made.queue.at(SECOND, made.start, first, 8e6)
    made.queue.run()
    assert made.ended[first] == SECOND + (100_000 - burst_bytes(8_000_000)) * 1000
    made.queue.run(until=made.queue.now + 500_000)
    made.start(second, 8e6)
    began = made.queue.now
    made.queue.run()
    assert made.ended[second] == began + (100_000 - 500) * 1000


def test_a_message_that_stalls_goes_on_where_it_was() -> None:
    made = Bed()
    flow = made.transfer(1_000_000)
    made.start(flow, 8e6)
    made.queue.run(until=SECOND // 4)
    flow.pipe.change(flow, demand=0.0)
    made.settle()
    made.queue.run(until=10 * SECOND)
    assert not made.ended
    flow.pipe.change(flow, demand=16e6)
    made.settle()
    made.queue.run()
    assert made.ended == {flow: pytest.approx(10 * SECOND + SECOND * 3 // 8, abs=2)}


def test_a_message_may_become_longer_or_shorter() -> None:
    made = Bed()
    flow = made.transfer(1_000_000)
    made.start(flow, 8e6)
    flow.pipe.resize(flow, left=2_000_000)
    made.settle()
    made.queue.run(until=SECOND)
    flow.pipe.resize(flow, left=500_000)
    made.settle()
    made.queue.run()
    assert made.ended == {flow: pytest.approx(SECOND + SECOND // 2, abs=2)}


def test_a_stopped_message_leaves_its_share_to_others_and_is_never_through() -> None:
    made = Bed()
    link = Link(8e6)
    gone, stays = (made.transfer(1_000_000, link, source=source) for source in (1, 2))
    for flow in (gone, stays):
        made.start(flow, 8e6)
    made.queue.run(until=SECOND)
    made.active.remove(gone)
    gone.pipe.stop(gone)
    made.settle()
    made.queue.run()
    assert made.ended == {stays: pytest.approx(SECOND + SECOND // 2, abs=2)}


def test_acknowledgements_take_their_part_of_the_link_back() -> None:
    made = Bed()
    there, back = Link(10e6), Link(10e6)
    first = made.transfer(1e6, there, source=1)
    first.back = (back,)
    made.start(first, 10e6)
    second = made.transfer(1e6, back, source=2)
    made.start(second, 10e6)
    part = first.parcel.back / first.parcel.wire
    assert 0.02 < part < 0.06
    assert second.rate == pytest.approx(10e6 * (1 - part))
    made.queue.run()
    assert back.acks == pytest.approx(0.0, abs=1e-3)
