"""Orders by hand: what they make of every node's links, together with what the file plans."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.orders import (
    BY_HAND,
    BY_PLAN,
    Order,
    known_node,
    link_step,
    merged,
    order_from_json,
    replan,
    state_before,
    steps_of,
)
from deploy.plan_links import LinkPlan
from deploy.topology import Topology, parse_topology
from deploy.topology.state import NetworkState
from deploy.topology.timeline import Step
from node.config import LinkChange, PathChange, Replan, SharedLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.pending import Pending
from node.units import MILLISECOND, SECOND, Nanos, format_duration

N0, N1, N2, N3 = (NodeId(f"n-{i}") for i in range(4))

RING = """
name: r
nodes: 4
network: {shape: ring, link: {rate: 10mbit, delay: 5ms}}
algorithm: {name: divshare}
stop: {time: 60s}
"""
DUMBBELL = """
name: d
nodes: 4
network:
  bridges: [left, right]
  link: {rate: 10mbit, delay: 1ms}
  links:
    - {from: n-0, to: left}
    - {from: n-1, to: left}
    - {from: n-2, to: right}
    - {from: n-3, to: right}
    - {from: left, to: right, rate: 15mbit}
algorithm: {name: divshare}
stop: {time: 60s}
"""


def topology(text: str = RING, *events: str) -> Topology:
    listed = "".join(f"\n  - {event}" for event in events)
    whole = text + (f"events:{listed}\n" if events else "")
    return parse_topology(whole.encode(), path=Path("r.yaml"))


def step(of: Topology, at_s: float, **event: Any) -> Step:
    return link_step(of, {"at": format_duration(round(at_s * SECOND)), **event})


def shared_of(of: Topology) -> tuple[SharedLink, ...]:
    return LinkPlan.of(of).shared


class Node:
    """One node's links, changed as its agent changes them.

    Args:
        late_ns: how long an order takes to reach it.
    """

    def __init__(self, of: Topology, name: NodeId, *, late_ns: Nanos = 0) -> None:
        plan = LinkPlan.of(of)
        self.name, self.late_ns = name, late_ns
        self._pending = Pending(plan.changes(name))
        others = [node for node in of.network.nodes if node != name]
        self.paths: dict[NodeId, PathChange] = {o: plan.path(name, o) for o in others}
        self.rates = {link.name: link.rate_bps for link in (*plan.up(name), *plan.down(name))}
        self.shared = {link.name: link.rate_bps for link in plan.shared}
        self._orders: list[Replan] = []

    def order(self, plan: Replan) -> None:
        self._orders.append(plan)

    def at(self, now: Nanos) -> None:
        """Live until then."""
        for plan in self._orders:
            seen = plan.at_ns + self.late_ns
            if seen <= now:
                self._apply(self._pending.due(seen - 1))
                self._pending.replan(plan)
                assert [link.name for link in plan.shared][: len(self.shared)] == [*self.shared]
                self.shared = {link.name: link.rate_bps for link in plan.shared} | self.shared
                self._orders = [p for p in self._orders if p is not plan]
        self._apply(self._pending.due(now))

    def _apply(self, changes: Sequence[LinkChange]) -> None:
        for change in changes:
            self.paths |= {path.name: path for path in change.peers}
            self.rates |= {link.name: link.rate_bps for link in change.access}
            self.shared |= {link.name: link.rate_bps for link in change.shared}


def expected(state: NetworkState) -> Mapping[NodeId, Mapping[NodeId, Any]]:
    """What the paths of every node should be like: straight from the state of the network."""
    routes = {name: state.routes(name) for name in state.base.nodes}
    specs = {(a, b): route.spec for a, found in routes.items() for b, route in found.items()}
    return {
        a: {b: (specs.get((a, b)), specs.get((b, a))) for b in routes if b != a} for a in routes
    }


def rate_in(state: NetworkState, link: str) -> int | None:
    source, _, target = link.partition(">")
    spec = dict(state.altered).get((source, target)) or state.base.spec(source, target)
    assert spec is not None
    return spec.rate_bps


def test_an_order_names_what_is_different_and_whom_it_concerns() -> None:
    of = topology()
    change = replan(of, earlier=(), order=step(of, 5, link=["n-0", "n-1"], set={"rate": "1mbit"}),
                    shared=())  # fmt: skip
    assert change.touched == (N0, N1)
    assert set(change.plans) == {N0, N1}
    plan = change.plans[N0]
    assert plan.at_ns == 5 * SECOND
    (made,) = plan.changes
    (path,) = made.peers
    assert path.name == N1
    assert path.out is not None
    assert (path.out.rate_bps, path.out.delay_ns) == (1_000_000, 5 * MILLISECOND)
    assert {link.name for link in made.access} == {"n-0>n-1", "n-1>n-0"}


def test_one_way_is_one_way() -> None:
    of = topology()
    order = step(of, 5, link=["n-0", "n-1"], set={"delay": "50ms"}, oneway=True)
    change = replan(of, earlier=(), order=order, shared=())
    path = change.plans[N0].changes[0].peers[0]
    assert path.out is not None
    assert path.into is not None
    assert (path.out.delay_ns, path.into.delay_ns) == (50 * MILLISECOND, 5 * MILLISECOND)


def test_what_the_file_plans_still_happens_on_top_of_the_order() -> None:
    """The file's change names the rate alone; the delay that was set by hand stays."""
    of = topology(RING, "{at: 20s, link: [n-0, n-1], set: {rate: 2mbit}}")
    order = step(of, 5, link=["n-0", "n-1"], set={"delay": "80ms"})
    plan = replan(of, earlier=(), order=order, shared=()).plans[N0]
    assert [made.at_ns for made in plan.changes] == [5 * SECOND, 20 * SECOND]
    now, later = (made.peers[0].out for made in plan.changes)
    assert now is not None
    assert later is not None
    assert (now.rate_bps, now.delay_ns) == (10_000_000, 80 * MILLISECOND)
    assert (later.rate_bps, later.delay_ns) == (2_000_000, 80 * MILLISECOND)
    assert plan.changes[1].what == of.timeline[0].what


def test_a_planned_up_ends_what_was_taken_down_by_hand_and_up_by_hand_ends_all() -> None:
    of = topology(RING, "{at: 8s, down: [n-0, n-1]}", "{at: 9s, up: [n-0, n-1]}")
    down = step(of, 5, down=["n-0", "n-1"])
    plan = replan(of, earlier=(), order=down, shared=()).plans[N0]
    assert [c.at_ns // SECOND for c in plan.changes] == [5, 9], "at 8 s it is down already"
    churn = topology(RING, "{flap: [n-0, n-1], from: 4s, until: 20s, every: 10s, for: 9s}")
    up = step(churn, 6, up=["n-0", "n-1"])
    first = replan(churn, earlier=(), order=up, shared=()).plans[N0].changes[0]
    assert first.peers[0].out is not None, "whoever holds it down"


def test_an_order_without_effect_now_may_have_one_later() -> None:
    of = topology(RING, "{at: 10s, heal: true}", "{at: 1s, partition: [[n-0], [n-1]]}")
    order = step(of, 5, link=["n-0", "n-1"], set={"delay": "70ms"})
    change = replan(of, earlier=(), order=order, shared=())
    # The link's own rate and delay are hidden by the partition until it heals.
    path = change.plans[N0].changes[-1].peers
    assert {p.out.delay_ns for p in path if p.out is not None and p.name == N1} == {
        70 * MILLISECOND
    }
    same = replan(of, earlier=(), order=step(of, 5, up=["n-0", "n-1"]), shared=())
    assert (same.plans, same.touched) == ({}, ())


def test_shared_links_keep_their_places() -> None:
    """The rate of the middle link was no limit; by hand it becomes one, and is added."""
    of = topology(DUMBBELL.replace("15mbit", "40mbit"))
    assert shared_of(of) == ()
    first = replan(
        of, earlier=(), order=step(of, 5, link=["left", "right"], set={"rate": "12mbit"}), shared=()
    )
    assert [link.name for link in first.shared] == ["left>right", "right>left"]
    assert {link.rate_bps for link in first.shared} == {12_000_000}
    path = next(p for p in first.plans[N0].changes[0].peers if p.name == N2)
    assert path.shared == ("left>right",)
    assert first.plans[N0].partners == (N1, N2, N3) or N1 in first.plans[N0].partners
    hand = step(of, 5, link=["left", "right"], set={"rate": "12mbit"})
    second = replan(
        of, earlier=[hand], order=step(of, 6, link=["left", "right"], set={"rate": "9mbit"}),
        shared=first.shared,
    )  # fmt: skip
    assert [link.name for link in second.shared] == ["left>right", "right>left"]
    assert {link.rate_bps for link in second.shared} == {9_000_000}
    assert second.plans[N0].changes[0].shared == second.shared


@pytest.mark.parametrize("seed", range(60))
def test_every_node_ends_as_the_network_is_however_late_it_learns(seed: int) -> None:
    """Random plans and random orders, each known to each node at another time."""
    rng = random.Random(seed)
    text = rng.choice([RING, DUMBBELL])
    of = topology(text, *_events(rng, text))
    nodes = {
        name: Node(of, name, late_ns=rng.choice([0, 0, SECOND // 3, 3 * SECOND]))
        for name in of.network.nodes
    }
    hand: list[Step] = []
    shared = shared_of(of)
    for at_s in sorted(rng.sample(range(2, 50), 4)):
        order = step(of, at_s + rng.choice([0, 0.5]), **_order(rng, text))
        change = replan(of, earlier=hand, order=order, shared=shared)
        hand.append(order)
        assert change.shared[: len(shared)] == tuple(
            SharedLink(name=link.name, rate_bps=now.rate_bps)
            for link, now in zip(shared, change.shared, strict=False)
        )
        shared = change.shared
        for name, plan in change.plans.items():
            nodes[name].order(plan)
    for moment in range(60 * 2):
        now = moment * SECOND // 2
        state = state_before(of, merged(of.timeline, hand), now + 1)
        right = expected(state)
        orders = [order.at_ns for order in hand if order.at_ns <= now]
        for name, node in nodes.items():
            node.at(now)
            if orders and now < orders[-1] + node.late_ns:
                continue  # it does not know yet
            for link, rate in (*node.rates.items(), *node.shared.items()):
                assert rate == rate_in(state, link), f"{link} for {name} at {now / SECOND} s"
            found = {o: (p.out, p.into) for o, p in node.paths.items()}
            assert found == right[name], f"{name} at {now / SECOND} s"


def _events(rng: random.Random, text: str) -> list[str]:
    links = _links(text)
    made = []
    down: set[tuple[str, str]] = set()
    for at in sorted(rng.sample(range(1, 58), rng.randint(0, 6))):
        a, b = rng.choice(links)
        verb = rng.choice(["set", "set", "down"])
        if (a, b) in down:
            made.append(f"{{at: {at}s, up: [{a}, {b}]}}")
            down.discard((a, b))
        elif verb == "down":
            made.append(f"{{at: {at}s, down: [{a}, {b}]}}")
            down.add((a, b))
        else:
            made.append(f"{{at: {at}s, link: [{a}, {b}], set: {{rate: {rng.randint(1, 40)}mbit}}}}")
    if rng.random() < 0.5:
        made.append("{at: 30s, partition: [[n-0, n-2], [n-1]]}")
        made.append("{at: 41s, heal: true}")
    return made


def _order(rng: random.Random, text: str) -> dict[str, Any]:
    link = list(rng.choice(_links(text)))
    return rng.choice(
        [
            {"link": link, "set": {"delay": f"{rng.randint(1, 99)}ms"}},
            {"link": link, "set": {"rate": f"{rng.randint(1, 40)}mbit"}, "oneway": True},
            {"down": link},
            {"up": link},
            {"up": "n-1"},
            {"partition": [["n-0", "n-1"], ["n-2"]]},
            {"heal": True},
        ]
    )


def _links(text: str) -> list[tuple[str, str]]:
    if text == RING:
        return [("n-0", "n-1"), ("n-1", "n-2"), ("n-2", "n-3"), ("n-0", "n-3")]
    return [("n-0", "left"), ("n-1", "left"), ("n-2", "right"), ("left", "right")]


# Files and words ---------------------------------------------------------------------------------


def test_orders_are_the_same_after_json_and_planned_actions_are_not_counted_twice() -> None:
    of = topology()
    links = Order(
        number=1, kind="links", by=BY_HAND, at_ns=SECOND, what=("x",),
        event={"at": "1s", "down": ["n-0", "n-1"]},
    )  # fmt: skip
    kill = Order(number=2, kind="node", by=BY_HAND, at_ns=2 * SECOND, node="n-1", verb="crash")
    planned = Order(number=3, kind="node", by=BY_PLAN, at_ns=3 * SECOND, node="n-2", verb="crash")
    assert [order_from_json(o.to_json()) for o in (links, kill)] == [links, kill]
    with pytest.raises(ValueError, match="not an order"):
        order_from_json({"number": 1})
    made = steps_of(of, [links, kill, planned])
    assert [s.at_ns // SECOND for s in made] == [1, 2]


WRONG = {
    "rate": ({"link": ["n-0", "n-1"], "set": {"rate": "5mbitt"}}, "--rate: .*unknown unit"),
    "no unit": ({"link": ["n-0", "n-1"], "set": {"delay": "80"}}, "--delay: .*no unit"),
    "order": ({"link": ["n-0", "n-1"], "set": {"order": "kep"}}, "--order: 'kep' is not allowed"),
    "node": ({"link": ["n-0", "n-11"], "set": {"rate": "5mbit"}}, "did you mean 'n-1'"),
    "no link": ({"down": ["n-0", "n-2"]}, "no link between 'n-0' and 'n-2'\n.*n-1, n-3"),
    "twice": ({"partition": [["n-0"], ["n-0", "n-1"]]}, "'n-0' is in two parts"),
    "one part": ({"partition": [["n-0", "n-1", "n-2", "n-3"]]}, "at least two parts"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_order_is_told_as_in_a_file(name: str) -> None:
    event, message = WRONG[name]
    with pytest.raises(ConfigError) as error:
        step(topology(), 1, **event)

    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_a_node_is_named() -> None:
    assert known_node(topology(), "n-2") == N2
    with pytest.raises(ConfigError, match="did you mean 'n-3'"):
        known_node(topology(), "n3")
