"""What flows should get of a network: held against what can be worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.verify.model import ACK_SHARE, Pair, Picture, Way, goodputs, unfit
from node.config import Burst, PathSpec, Slot
from node.core.ids import NodeId
from node.links.report import TCP_SHARE
from node.units import MILLISECOND

MBIT = 10**6


def pair(text: str) -> Pair:
    """`a>b`"""
    source, target = text.split(">")
    return NodeId(source), NodeId(target)


def picture(
    links: Mapping[str, tuple[float | None, float]], routes: Mapping[str, Sequence[str]]
) -> Picture:
    """Links as (Mbit/s, ms one-way); routes by pair, each also the other way round."""
    capacities = {
        name: None if rate is None else round(rate * MBIT) for name, (rate, _) in links.items()
    }
    ways = {}
    for ends, route in routes.items():
        back = [">".join(reversed(name.split(">"))) for name in reversed(route)]
        for who, names in ((pair(ends), route), (pair(ends)[::-1], back)):
            rates = [rate for name in names if (rate := capacities[name]) is not None]
            delay = round(sum(links[name][1] for name in names) * MILLISECOND)
            spec = PathSpec(rate_bps=min(rates, default=None), delay_ns=delay)
            ways[who] = Way(links=tuple(names), spec=spec)
    return Picture(ways=ways, capacities=capacities)


def both(links: Mapping[str, tuple[float | None, float]]) -> dict[str, tuple[float | None, float]]:
    """Every link the other way round, too."""
    return {**links, **{">".join(reversed(n.split(">"))): v for n, v in links.items()}}


def star(nodes: str, rate: float = 20, delay: float = 5) -> Picture:
    links = both({f"{node}>s": (rate, delay) for node in nodes})
    routes = {f"{a}>{b}": [f"{a}>s", f"s>{b}"] for a, b in itertools.combinations(nodes, 2)}
    return picture(links, routes)


def dumbbell(*, middle: float = 10, slow: float = 15) -> Picture:
    """a and b on the left, c and d on the right; b and d are further away."""
    delays = {"a": 5, "b": slow, "c": 5, "d": slow}
    links = {f"{n}>{'l' if n in 'ab' else 'r'}": (100.0, delays[n]) for n in "abcd"}
    routes = {f"{a}>{b}": [f"{a}>l", "l>r", f"r>{b}"] for a in "ab" for b in "cd"}
    return picture(both(links | {"l>r": (middle, 1)}), routes)


def got(network: Picture, pairs: str, **demands: float) -> dict[str, float]:
    """Mbit/s of payload over TCP's share of it: what each flow has on the wire."""
    wanted = [pair(text) for text in pairs.split()]
    told = {pair(">".join(name)): rate * MBIT * TCP_SHARE for name, rate in demands.items()}
    found = goodputs(network, wanted, demands=told)
    assert found is not None
    return {">".join(p): rate / TCP_SHARE / MBIT for p, rate in found.items()}


def test_one_flow_gets_its_path() -> None:
    assert got(star("ab"), "a>b") == {"a>b": pytest.approx(20)}


def test_both_ways_each_carry_the_acknowledgements_of_the_other() -> None:
    """Data and 66 bytes for every second packet of the way back fill the link: x (1 + share)."""
    flows = got(star("ab"), "a>b b>a")
    assert flows == {
        "a>b": pytest.approx(20 / (1 + ACK_SHARE)),
        "b>a": pytest.approx(20 / (1 + ACK_SHARE)),
    }
    assert pytest.approx(66 / 3028) == ACK_SHARE


def test_a_sender_divides_its_upload_evenly() -> None:
    """However long the paths are: the kernel takes turns."""
    network = picture(
        both({"a>s": (20, 1), "b>s": (100, 1), "c>s": (100, 100)}),
        {"a>b": ["a>s", "s>b"], "a>c": ["a>s", "s>c"]},
    )
    assert got(network, "a>b a>c") == {"a>b": pytest.approx(10), "a>c": pytest.approx(10)}


def test_senders_share_a_download_evenly() -> None:
    flows = got(star("abcde"), "b>a c>a d>a e>a")
    assert list(flows.values()) == [pytest.approx(5)] * 4


def test_what_a_slow_flow_leaves_goes_to_the_others() -> None:
    """Up 20 for two; the one to c is held down to 4 by c's download."""
    network = picture(
        both({"a>s": (20, 1), "b>s": (100, 1), "c>s": (4, 1)}),
        {"a>b": ["a>s", "s>b"], "a>c": ["a>s", "s>c"]},
    )
    assert got(network, "a>b a>c") == {"a>b": pytest.approx(16), "a>c": pytest.approx(4)}


def test_a_dumbbell_shares_its_middle_by_round_trip() -> None:
    """Round trips 22 and 62 ms: 10 Mbit/s in the ratio 62 to 22."""
    flows = got(dumbbell(), "a>c b>d")
    assert flows["a>c"] == pytest.approx(10 * 62 / 84)
    assert flows["b>d"] == pytest.approx(10 * 22 / 84)


def test_a_parking_lot() -> None:
    """One long flow over three links of 30, a short one on each; all links 5 ms, access 0.

    The long flow has a third of the weight of the short ones on each link: 30/4 and 3 * 30/4.
    """
    nodes = {"x": "1", "y": "4", "a": "1", "b": "2", "c": "3"}
    links: dict[str, tuple[float | None, float]] = {f"{n}>{b}": (1000, 0) for n, b in nodes.items()}
    links |= {"d>2": (1000, 0), "e>3": (1000, 0), "f>4": (1000, 0)}
    links |= {"1>2": (30, 5), "2>3": (30, 5), "3>4": (30, 5)}
    routes = {
        "x>y": ["x>1", "1>2", "2>3", "3>4", "4>y"],
        "a>d": ["a>1", "1>2", "2>d"],
        "b>e": ["b>2", "2>3", "3>e"],
        "c>f": ["c>3", "3>4", "4>f"],
    }
    flows = got(picture(both(links), routes), "x>y a>d b>e c>f")
    assert flows["x>y"] == pytest.approx(30 / 4)
    assert [flows[k] for k in ("a>d", "b>e", "c>f")] == [pytest.approx(30 * 3 / 4)] * 3


def test_what_an_access_link_holds_down_is_left_to_others_inside() -> None:
    """a's upload of 2 keeps it below its share of the middle: b gets the other 8 of 10."""
    links = both({"a>l": (2, 5), "b>l": (100, 15), "c>r": (100, 5), "d>r": (100, 15)})
    links |= both({"l>r": (10, 1)})
    routes = {"a>c": ["a>l", "l>r", "r>c"], "b>d": ["b>l", "l>r", "r>d"]}
    flows = got(picture(links, routes), "a>c b>d")
    assert flows == {"a>c": pytest.approx(2), "b>d": pytest.approx(8)}


def test_what_the_inside_holds_down_is_left_to_others_at_the_access() -> None:
    """a sends to c through a middle of 4, and to b beside it: of 20, b gets 16, not 10."""
    links = both({"a>l": (20, 5), "b>l": (100, 5), "c>r": (100, 5), "l>r": (4, 1)})
    routes = {"a>c": ["a>l", "l>r", "r>c"], "a>b": ["a>l", "l>b"]}
    flows = got(picture(links, routes), "a>c a>b")
    assert flows == {"a>c": pytest.approx(4), "a>b": pytest.approx(16)}


def test_a_flow_that_takes_less_leaves_the_rest() -> None:
    flows = got(dumbbell(), "a>c b>d", ac=1.0)
    assert flows == {"a>c": pytest.approx(1), "b>d": pytest.approx(9)}


def test_without_a_way_back_there_is_no_transfer() -> None:
    network = star("ab")
    one_way = Picture(
        ways={k: v for k, v in network.ways.items() if k == pair("a>b")},
        capacities=network.capacities,
    )
    assert got(one_way, "a>b") == {"a>b": 0.0}
    assert got(Picture(ways={}, capacities={}), "a>b") == {"a>b": 0.0}


def test_what_nothing_limits_is_infinite() -> None:
    network = picture(both({"a>b": (None, 1)}), {"a>b": ["a>b"]})
    assert got(network, "a>b") == {"a>b": math.inf}


@settings(deadline=None, max_examples=60)
@given(
    rates=st.lists(st.integers(1, 50), min_size=4, max_size=4),
    delays=st.lists(st.integers(1, 80), min_size=4, max_size=4),
    middle=st.integers(1, 100),
)
def test_no_link_is_overfull_and_every_flow_has_a_reason(
    rates: list[int], delays: list[int], middle: int
) -> None:
    """Whatever the network: capacities hold, and each flow has a full link or its path's rate."""
    ends = {"a": "l", "b": "l", "c": "r", "d": "r"}
    links = {
        f"{n}>{at}": (float(rate), float(delay))
        for (n, at), rate, delay in zip(ends.items(), rates, delays, strict=True)
    }
    routes = {f"{a}>{b}": [f"{a}>l", "l>r", f"r>{b}"] for a in "ab" for b in "cd"}
    network = picture(both(links | {"l>r": (float(middle), 1.0)}), routes)
    flows = {pair(name): rate for name, rate in got(network, "a>c a>d b>c b>d").items()}
    used = dict.fromkeys(network.capacities, 0.0)
    for who, rate in flows.items():
        for name in network.ways[who].links:
            used[name] += rate
        for name in network.ways[who[::-1]].links:
            used[name] += rate * ACK_SHARE
    for name, load in used.items():
        assert load <= (network.capacities[name] or 0) / MBIT * (1 + 1e-6)
    for who, rate in flows.items():
        full = [
            used[name] >= (network.capacities[name] or 0) / MBIT * (1 - 1e-6)
            for name in network.ways[who].links
        ]
        own = (network.ways[who].spec.rate_bps or 0) / MBIT
        assert any(full) or rate >= own * (1 - 1e-6)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (PathSpec(rate_bps=MBIT, loss=0.01), "loses packets"),
        (PathSpec(rate_bps=MBIT, burst=Burst(enter=0.1, leave=0.5)), "loses packets"),
        (PathSpec(rate_bps=MBIT, corrupt=0.01), "corrupts"),
        (PathSpec(rate_bps=MBIT, duplicate=0.01), "duplicates"),
        (PathSpec(rate_bps=MBIT, reorder=0.01), "reorders"),
        (PathSpec(rate_bps=MBIT, jitter_ns=MILLISECOND, ordered=False), "reorders"),
        (PathSpec(rate_bps=MBIT, slot=Slot(least_ns=1, most_ns=2)), "batches"),
        (
            PathSpec(rate_bps=100 * MBIT, delay_ns=50 * MILLISECOND, queue_bytes=10_000),
            "too short for TCP to fill 100 Mbit/s with a round trip of 50 ms",
        ),
    ],
)
def test_what_tcp_cannot_tell_is_named(spec: PathSpec, why: str) -> None:
    good = Way(links=("a>b",), spec=PathSpec(rate_bps=MBIT))
    bad = Way(links=("a>b",), spec=spec)
    there = Picture(ways={pair("a>b"): bad, pair("b>a"): good}, capacities={"a>b": None})
    assert why in str(unfit(there, pair("a>b")))
    if spec.queue_bytes is None:
        back = unfit(there, pair("b>a"))
        assert back is not None
        assert "the way back" in back
    assert unfit(star("ab"), pair("a>b")) is None
    jitter = PathSpec(rate_bps=MBIT, jitter_ns=MILLISECOND)
    fine = Picture(
        ways={pair("a>b"): Way(links=("a>b",), spec=jitter), pair("b>a"): good},
        capacities={"a>b": None},
    )
    assert unfit(fine, pair("a>b")) is None
