"""Agents that share links without a kernel: shares settle, sums hold, nonsense is refused."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import LinksConfig, PathSpec, PeerLink, SharedLink
from node.core.ids import NodeId
from node.links.exchange import TICK_NS, Exchange, Sample
from node.links.sharing import Flow, max_min, weight_of
from node.links.usage_wire import DATAGRAM_MAX, Usage, decode, encode
from node.units import MILLISECOND, SECOND, Nanos

FRAME = 1514
SECOND_TICKS = SECOND // TICK_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What goes from one node to another."""

    source: str
    target: str
    links: tuple[str, ...]
    rtt_ms: float
    own_bps: int

    @property
    def key(self) -> str:
        return f"{self.source}>{self.target}"


@dataclass(slots=True, kw_only=True)
class Stream:
    """Traffic on a route: it grows like TCP up to its ceiling, and packets are whole.

    Attributes:
        wants_bps: infinite for a bulk transfer, 0 when it sends nothing.
    """

    route: Route
    wants_bps: float = 0.0
    rate_bps: float = 0.0
    credit: float = 0.0
    size: int = 0
    held: int = 0
    counted: list[int] = field(default_factory=list)

    def tick(self, ceiling_bps: float, draw: random.Random) -> None:
        goal = min(self.wants_bps, ceiling_bps)
        grown = max(self.rate_bps * 2, 20 * FRAME * 8 * SECOND_TICKS)  # slow start, a tick a trip
        self.rate_bps = min(goal, grown)
        noise = draw.uniform(0.97, 1.0) if self.rate_bps < ceiling_bps else 1.0
        self.credit += noise * self.rate_bps * TICK_NS / (8 * SECOND)
        packets = math.floor(self.credit / FRAME)
        self.credit -= packets * FRAME
        self.size += packets * FRAME
        self.held += self.wants_bps > ceiling_bps and packets > 0
        self.counted.append(packets * FRAME)


class World:
    """Agents on a network of shared links, in ticks of virtual time."""

    def __init__(
        self,
        capacities: Mapping[str, int],
        routes: Sequence[Route],
        *,
        seed: int,
        loss: float = 0.0,
    ) -> None:
        self.draw = random.Random(seed)
        self.loss = loss
        self.now: Nanos = 0
        self.capacities = dict(capacities)
        self.routes = routes
        self.streams = {route.key: Stream(route=route) for route in routes}
        self.nodes = sorted({route.source for route in routes})
        self.agents = {name: self._agent(name, sequence=0) for name in self.nodes}
        self.limits: dict[str, Mapping[NodeId, int]] = {name: {} for name in self.nodes}
        self.mail: list[tuple[str, str, bytes]] = []
        self.sent = 0

    def links_of(self, name: str) -> LinksConfig:
        return LinksConfig(
            shared=tuple(SharedLink(name=n, rate_bps=c) for n, c in self.capacities.items()),
            partners=tuple(NodeId(n) for n in self.nodes if n != name),
            peers=tuple(
                PeerLink(
                    name=NodeId(route.target),
                    host="10.0.0.1",
                    port=1,
                    out=self._path(route),
                    into=self._path(route),
                    shared=route.links,
                )
                for route in self.routes
                if route.source == name
            ),
        )

    def _path(self, route: Route) -> PathSpec:
        return PathSpec(rate_bps=route.own_bps, delay_ns=round(route.rtt_ms * MILLISECOND / 2))

    def _agent(self, name: str, *, sequence: int) -> Exchange:
        return Exchange(self.links_of(name), me=NodeId(name), session="s", sequence=sequence)

    def set_capacity(self, link: str, bps: int) -> None:
        self.capacities[link] = bps
        for name, agent in self.agents.items():
            agent.configure(self.links_of(name))

    def ceiling(self, stream: Stream) -> float:
        found = self.limits[stream.route.source].get(NodeId(stream.route.target))
        return stream.route.own_bps if found is None else found

    def tick(self) -> None:
        """Traffic flows for a tick; then agents measure and speak, each at its own moment."""
        self.now += TICK_NS
        for stream in self.streams.values():
            stream.tick(self.ceiling(stream), self.draw)
        mail, self.mail = self.mail, []
        for source, target, datagram in mail:
            if target in self.agents and self.draw.random() >= self.loss:
                assert self.agents[target].hear(NodeId(source), datagram, now=self.now)
        names = list(self.agents)
        self.draw.shuffle(names)
        for name in names:
            agent = self.agents[name]
            samples = {
                NodeId(s.route.target): Sample(size=s.size, held=s.held)
                for s in self.streams.values()
                if s.route.source == name
            }
            agent.observe(samples, now=self.now)
            turn = agent.turn(now=self.now)
            if turn.ceilings is not None:
                self.limits[name] = turn.ceilings
            for datagram in turn.datagrams:
                self.sent += len(self.nodes) - 1
                self.mail += [(name, other, datagram) for other in self.nodes if other != name]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * SECOND_TICKS)):
            self.tick()

    def fair(self) -> dict[str, float]:
        """What the model says that each stream should have."""
        flows = [
            Flow(
                key=key,
                links=s.route.links,
                weight=weight_of(round(s.route.rtt_ms * MILLISECOND)),
                demand_bps=min(s.wants_bps, s.route.own_bps),
            )
            for key, s in self.streams.items()
            if s.wants_bps
        ]
        return max_min(flows, self.capacities)

    def mean(self, key: str, seconds: float) -> float:
        ticks = round(seconds * SECOND_TICKS)
        return 8 * sum(self.streams[key].counted[-ticks:]) / seconds

    def check(self, seconds: float) -> None:
        """The last seconds were as they should be."""
        fair = self.fair()
        for key, rate in fair.items():
            slack = 0.10 * rate + 8 * 2 * FRAME / seconds
            assert abs(self.mean(key, seconds) - rate) <= slack, (
                key,
                self.mean(key, seconds),
                fair,
            )
        for link, capacity in self.capacities.items():
            load = sum(self.mean(k, seconds) for k in fair if link in self.streams[k].route.links)
            should = sum(fair[k] for k in fair if link in self.streams[k].route.links)
            assert load <= 1.05 * capacity, (link, load, capacity)
            if should >= 0.999 * capacity:
                assert load >= 0.95 * capacity, (link, load, capacity)


def dumbbell(mbit: float, rtts: Sequence[float]) -> tuple[dict[str, int], list[Route]]:
    """Pairs left and right of one link."""
    rate = round(mbit * 1e6)
    routes = [
        Route(source=f"l{i}", target=f"r{i}", links=("m",), rtt_ms=rtt, own_bps=rate)
        for i, rtt in enumerate(rtts)
    ]
    return {"m": rate}, routes


def parking_lot(mbits: Sequence[float]) -> tuple[dict[str, int], list[Route]]:
    """One flow over all links, one over each."""
    names = [f"m{i}" for i in range(len(mbits))]
    rates = {name: round(mbit * 1e6) for name, mbit in zip(names, mbits, strict=True)}
    long = Route(
        source="long", target="end", links=tuple(names), rtt_ms=40, own_bps=min(rates.values())
    )
    short = [
        Route(source=f"s{i}", target=f"t{i}", links=(name,), rtt_ms=20, own_bps=rates[name])
        for i, name in enumerate(names)
    ]
    return rates, [long, *short]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("mbit", [2, 40, 800])
def test_dumbbell_settles_within_a_second_of_each_of_six_steps(
    mbit: float, loss: float, seed: int
) -> None:
    world = World(*dumbbell(mbit, [20, 20, 60, 100]), seed=seed, loss=loss)
    keys = [route.key for route in world.routes]
    steps = [
        {keys[0]: math.inf},
        {keys[1]: math.inf, keys[2]: math.inf},
        {keys[3]: 0.1 * mbit * 1e6},
        {keys[0]: 0.0},
        {keys[0]: math.inf, keys[3]: math.inf},
        {keys[1]: 0.0, keys[2]: 0.0},
    ]
    for step in steps:
        for key, wants in step.items():
            world.streams[key].wants_bps = wants
        world.run(3.0)
        world.check(2.0)


@pytest.mark.parametrize("seed", range(20))
def test_parking_lot_settles_when_flows_and_links_change(seed: int) -> None:
    world = World(*parking_lot([20, 40, 30]), seed=seed, loss=0.05)
    for stream in world.streams.values():
        stream.wants_bps = math.inf
    world.run(3.0)
    world.check(2.0)
    for change in (
        lambda: world.set_capacity("m1", 10_000_000),
        lambda: setattr(world.streams["s1>t1"], "wants_bps", 1e6),
        lambda: world.set_capacity("m0", 60_000_000),
        lambda: setattr(world.streams["long>end"], "wants_bps", 0.0),
        lambda: setattr(world.streams["long>end"], "wants_bps", math.inf),
    ):
        change()
        world.run(3.0)
        world.check(2.0)


@pytest.mark.parametrize("seed", range(10))
def test_many_flows_of_few_nodes(seed: int) -> None:
    """Random demands on random routes; the sums over each link and each flow's mean hold."""
    draw = random.Random(seed)
    capacities = {f"m{i}": draw.randrange(10, 100) * 1_000_000 for i in range(3)}
    routes = [
        Route(
            source=f"a{i}",
            target=f"b{j}",
            links=tuple(sorted(draw.sample(sorted(capacities), draw.randint(1, 3)))),
            rtt_ms=draw.choice([10, 20, 50, 100]),
            own_bps=draw.randrange(5, 100) * 1_000_000,
        )
        for i, j in itertools.product(range(4), range(4))
    ]
    world = World(capacities, routes, seed=seed)
    for _ in range(4):
        for stream in world.streams.values():
            stream.wants_bps = draw.choice([0.0, math.inf, draw.uniform(1e6, 1e7)])
        world.run(4.0)
        world.check(3.0)


def test_a_node_that_dies_leaves_its_share_to_the_others() -> None:
    world = World(*dumbbell(40, [20, 20]), seed=1)
    for stream in world.streams.values():
        stream.wants_bps = math.inf
    world.run(2.0)
    world.check(1.0)
    del world.agents["l0"]
    world.streams["l0>r0"].wants_bps = 0.0
    world.run(1.0)
    assert world.ceiling(world.streams["l1>r1"]) == pytest.approx(40e6, rel=0.02)


def test_an_agent_that_starts_anew_is_heard_again() -> None:
    world = World(*dumbbell(40, [20, 20]), seed=1)
    for stream in world.streams.values():
        stream.wants_bps = math.inf
    world.run(2.0)
    world.agents["l0"] = world._agent("l0", sequence=10**6)
    world.run(2.0)
    world.check(1.0)


def test_idle_agents_say_nothing() -> None:
    world = World(*dumbbell(40, [20, 20, 60]), seed=1)
    world.run(2.0)
    assert world.sent == 0
    world.streams["l0>r0"].wants_bps = math.inf
    world.run(1.0)
    steady = world.sent
    world.run(2.0)
    assert world.sent - steady <= 2 * (2 * SECOND_TICKS // 3 + 1)  # two partners, every third tick
    world.streams["l0>r0"].wants_bps = 0.0
    world.run(2.0)
    ended = world.sent
    world.run(5.0)
    assert world.sent == ended


def test_a_flow_can_grow_at_once_to_what_it_is_due() -> None:
    """An idle path's ceiling is its share beside what the others use, not what is left."""
    world = World(*dumbbell(40, [20, 20]), seed=1)
    world.streams["l0>r0"].wants_bps = math.inf
    world.run(2.0)
    assert world.ceiling(world.streams["l0>r0"]) == 40e6
    assert world.ceiling(world.streams["l1>r1"]) == pytest.approx(20e6, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_shares_do_not_swing(seed: int) -> None:
    """In a steady state no ceiling moves by more than a few per cent."""
    world = World(*dumbbell(40, [20, 20, 60, 100]), seed=seed)
    for stream in world.streams.values():
        stream.wants_bps = math.inf
    world.streams["l3>r3"].wants_bps = 1.5e6
    world.run(2.0)
    seen: dict[str, list[float]] = {key: [] for key in world.streams}
    for _ in range(100):
        world.tick()
        for key, stream in world.streams.items():
            seen[key].append(world.ceiling(stream))
    for values in seen.values():
        assert max(values) <= 1.06 * min(values)


# What is said ------------------------------------------------------------------------------------

ME = NodeId("me")
usages = st.lists(
    st.builds(
        Usage,
        links=st.lists(st.integers(0, 65535), min_size=1, max_size=8, unique=True).map(
            lambda links: tuple(sorted(links))
        ),
        weight=st.floats(1e-3, 1e6),
        demand_bps=st.floats(0, 1e12) | st.just(math.inf),
    ),
    max_size=130,
)


@given(usages, st.integers(0, 2**63), st.integers(1, 65535))
def test_reports_come_back_whole(flows: list[Usage], sequence: int, valid_ms: int) -> None:
    made = encode(flows, session="s", sender=ME, sequence=sequence, valid_ms=valid_ms)
    parts = [decode(datagram, session="s", sender=ME) for datagram in made]
    assert all(len(datagram) <= DATAGRAM_MAX for datagram in made)
    assert [flow for part in parts if part for flow in part.flows] == flows
    for number, part in enumerate(parts):
        assert part is not None
        assert (part.sequence, part.valid_ms) == (sequence, valid_ms)
        assert (part.part, part.parts) == (number, len(made))
    for datagram in made:
        assert decode(datagram, session="another run", sender=ME) is None
        assert decode(datagram, session="s", sender=NodeId("another")) is None


@given(usages, st.data())
def test_damaged_reports_are_refused_or_still_make_sense(
    flows: list[Usage], data: st.DataObject
) -> None:
    datagram = bytearray(encode(flows, session="s", sender=ME, sequence=1, valid_ms=100)[0])
    place = data.draw(st.integers(0, len(datagram) - 1))
    datagram[place] ^= data.draw(st.integers(1, 255))
    part = decode(bytes(datagram), session="s", sender=ME)
    for flow in part.flows if part else ():
        assert flow.weight > 0
        assert flow.demand_bps >= 0
        assert list(flow.links) == sorted(set(flow.links))
    cut = data.draw(st.integers(0, len(datagram) - 1))
    assert decode(bytes(datagram[:cut]), session="s", sender=ME) is None or cut == len(datagram)


@given(st.binary(max_size=1500))
def test_noise_is_refused_and_counted(noise: bytes) -> None:
    world = World(*dumbbell(40, [20, 20]), seed=1)
    agent = world.agents["l0"]
    assert not agent.hear(NodeId("l1"), noise, now=0)
    assert agent.refused == 1
    agent.turn(now=TICK_NS)


def test_only_partners_are_listened_to_and_links_that_one_does_not_know_are_left_out() -> None:
    world = World(*dumbbell(40, [20, 20]), seed=1)
    agent = world.agents["l0"]
    flow = Usage(links=(0, 7), weight=50.0, demand_bps=math.inf)
    for sender, heard in (("stranger", False), ("l1", True)):
        (datagram,) = encode([flow], session="s", sender=NodeId(sender), sequence=5, valid_ms=500)
        assert agent.hear(NodeId(sender), datagram, now=0) is heard
    assert agent.turn(now=TICK_NS).ceilings == {NodeId("r0"): pytest.approx(20e6, rel=0.01)}


def test_a_report_in_parts_counts_when_it_is_whole() -> None:
    world = World(*dumbbell(40, [20, 20]), seed=1)
    agent = world.agents["l0"]
    flows = [Usage(links=(0,), weight=50.0, demand_bps=math.inf) for _ in range(60)]
    first, second = encode(flows, session="s", sender=NodeId("l1"), sequence=5, valid_ms=500)
    assert agent.hear(NodeId("l1"), second, now=0)
    assert agent.turn(now=TICK_NS).ceilings == {}
    assert agent.hear(NodeId("l1"), first, now=0)
    found = agent.turn(now=2 * TICK_NS).ceilings
    assert found == {NodeId("r0"): pytest.approx(40e6 / 61, rel=0.01)}
    assert agent.hear(NodeId("l1"), first, now=0)  # said again
    assert agent.turn(now=3 * TICK_NS).ceilings is None
