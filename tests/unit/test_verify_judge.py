"""A timeline as segments, records as curves, and the two held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.checks import Judgement
from deploy.topology import Topology, parse_topology
from deploy.verify.judge import (
    Judged,
    document,
    findings,
    judge_events,
    judge_segments,
)
from deploy.verify.model import Pair, goodputs
from deploy.verify.readings import Throughput, firings, throughput
from deploy.verify.segments import SETTLE_NS, Load, choose, plan_load
from node.core.ids import NodeId
from node.links.report import TCP_SHARE
from node.units import MILLISECOND, SECOND
from tests.unit.runs import event

EVERY = 100 * MILLISECOND
A, B, C = (NodeId(f"n-{i}") for i in range(3))
ALL = [(a, b) for a in (A, B, C) for b in (A, B, C) if a != b]

STAR = """
name: star
nodes: 3
network: {shape: star, link: {rate: 20mbit, delay: 5ms}}
algorithm: {name: divshare, local_steps: 2}
stop: {time: 60s}
"""
EVENTS = """
events:
  - {at: 4s, link: [n-0, switch], set: {rate: 4mbit}}
  - {at: 8s, down: n-1}
  - {at: 12s, up: n-1}
"""


def load_of(text: str, *, pairs: int | None = None, until_ns: int | None = None) -> Load:
    return plan_load(topology(text), pairs=pairs, until_ns=until_ns)


def topology(text: str) -> Topology:
    return parse_topology(text.encode(), path=Path("star.yaml"))


Factor = Callable[[Pair, int], float]


def measured(load: Load, factor: Factor = lambda pair, number: 1.0) -> Throughput:
    """What would arrive if each flow got so many times what the model gives it in a segment."""
    count = load.time_ns // EVERY
    received: dict[Pair, list[float | None]] = {p: [0.0] * count for p in load.sample.pairs}
    for number, segment in enumerate(load.segments):
        rates = goodputs(segment.picture, load.sample.pairs)
        assert rates is not None
        for pair, rate in rates.items():
            for i in range(segment.begin_ns // EVERY, segment.end_ns // EVERY):
                received[pair][i] = rate * factor(pair, number) * EVERY / SECOND / 8
    return Throughput(every_ns=EVERY, received=received)


def judged(load: Load, curves: Throughput, *, emulator: str = "nfqueue") -> tuple[Judged, ...]:
    return judge_segments(load, curves, emulator=emulator)


def reasons(load: Load, curves: Throughput, *, emulator: str = "nfqueue") -> list[str]:
    found = findings(judged(load, curves, emulator=emulator), ())
    return [f"{f.judgement.value} {f.who}: {f.reason}" for f in found]


# Segments ----------------------------------------------------------------------------------------


def test_a_file_without_events_is_one_segment() -> None:
    load = load_of(STAR)
    (segment,) = load.segments
    assert (segment.begin_ns, segment.end_ns) == (0, load.time_ns)
    assert load.time_ns == 6 * SECOND
    assert list(load.sample.pairs) == ALL
    assert not load.sample.partial


def test_events_cut_the_time_into_segments() -> None:
    load = load_of(STAR + EVENTS)
    bounds = [(s.begin_ns // SECOND, s.end_ns // SECOND) for s in load.segments]
    assert bounds == [(0, 4), (4, 8), (8, 12), (12, 16)]
    rates = [segment.picture.ways[A, C].spec.rate_bps for segment in load.segments]
    assert rates == [20_000_000, 4_000_000, 4_000_000, 4_000_000]
    assert [(A, B) in segment.picture.ways for segment in load.segments] == [
        True,
        True,
        False,
        True,
    ]
    assert "n-1" in " ".join(load.segments[2].what)
    assert load.segments[3].gone_ns == {p: 4 * SECOND for p in ALL if B in p}


def test_later_events_are_left_out_and_counted() -> None:
    load = load_of(STAR + EVENTS, until_ns=9 * SECOND)
    assert [s.begin_ns // SECOND for s in load.segments] == [0, 4, 8]
    assert load.unplayed == 1
    stop = load_of(STAR.replace("60s", "5s") + EVENTS)
    assert [s.begin_ns // SECOND for s in stop.segments] == [0, 4]


def test_connections_are_made_anew_where_a_window_would_have_to_grow_a_lot() -> None:
    """200 ms and 50 Mbit/s are 860 packets; from 1 Mbit/s TCP would take many seconds to there."""
    far = STAR.replace("delay: 5ms", "delay: 50ms").replace("20mbit", "1mbit")
    far += "events: [{at: 5s, link: [n-0, switch], set: {rate: 50mbit}}, "
    far += "{at: 5s, link: [n-1, switch], set: {rate: 50mbit}}]\n"
    load = load_of(far)
    renewed = {(name, r.target) for name, many in load.renewals.items() for r in many}
    assert renewed == {(A, B), (B, A)}
    assert load.segments[1].settle_ns[A, B] > load.segments[1].settle_ns[A, C] == SETTLE_NS


def test_connections_are_made_anew_where_a_path_comes_back_or_holds_much_less() -> None:
    """From 20 to 4 Mbit/s 150 kB are under way where path and queue hold 107; from 20 to 16, not
    too much."""
    load = load_of(STAR + EVENTS)
    times = {r.at_ns for many in load.renewals.values() for r in many}
    assert times == {at * SECOND + 50 * MILLISECOND for at in (4, 12)}
    slower = load.segments[1].settle_ns
    assert slower[A, B] - SETTLE_NS > 300 * MILLISECOND, "what is queued passes first"
    assert slower[B, C] == SETTLE_NS
    assert {r.target for r in load.renewals[C]} == {A, B}
    assert not load_of(STAR + EVENTS.replace("4mbit", "16mbit"), until_ns=7 * SECOND).renewals


# The sample --------------------------------------------------------------------------------------


def test_a_sample_is_spread_over_the_nodes() -> None:
    names = [NodeId(f"n-{i}") for i in range(64)]
    sample = choose(names, joined=lambda pair: True, limit=192)
    assert (len(sample.pairs), sample.candidates) == (192, 64 * 63)
    assert sample.partial
    for name in names:
        assert sum(a == name for a, _ in sample.pairs) == 3
        assert sum(b == name for _, b in sample.pairs) == 3
    assert sample == choose(names, joined=lambda pair: True, limit=192)
    every = choose(names[:5], joined=lambda pair: True, limit=None)
    assert len(set(every.pairs)) == every.candidates == 20
    neighbours = choose(
        names, joined=lambda p: abs(names.index(p[0]) - names.index(p[1])) == 1, limit=500
    )
    assert neighbours.candidates == len(neighbours.pairs) == 126


# Flows and sums ----------------------------------------------------------------------------------


def test_what_the_model_expects_is_fine() -> None:
    load = load_of(STAR + EVENTS)
    assert reasons(load, measured(load)) == []
    segments = judged(load, measured(load))
    assert all(held.ok for segment in segments for held in segment.flows.values())
    full = set(segments[0].links)
    assert {"n-0>switch", "switch>n-2"} <= full


def test_one_flow_that_is_off_is_named_with_numbers() -> None:
    load = load_of(STAR)
    off = measured(load, lambda pair, _: 0.85 if pair == (A, B) else 1.0)
    found = reasons(load, off)
    (flow,) = [text for text in found if " flow n-" in text]
    assert flow.startswith(
        "invalid flow n-0 to n-1: 7.956 Mbit/s, expected 9.360 Mbit/s ± 10%: -15.0%"
    )
    assert "0 s to 6 s" in flow
    # Both of its links miss 15 % of one flow of two.
    assert sorted(
        text.split(":")[0] for text in found if " link n-" in text or " link s" in text
    ) == [
        "invalid link n-0>switch",
        "invalid link switch>n-1",
    ]


def test_a_sum_has_a_tighter_tolerance() -> None:
    load = load_of(STAR)
    found = reasons(load, measured(load, lambda pair, _: 0.93))
    assert not any("flow" in text.split(":")[0] for text in found)
    assert len(found) == 6
    assert "2 flows come to" in found[0]
    assert reasons(load, measured(load, lambda pair, _: 0.96)) == []


def test_an_event_that_did_not_happen_is_found() -> None:
    """The rate stays at 20 Mbit/s although 4 were asked for from 4 s on."""
    load = load_of(STAR + EVENTS)
    first = goodputs(load.segments[0].picture, load.sample.pairs)
    second = goodputs(load.segments[1].picture, load.sample.pairs)
    assert first is not None
    assert second is not None
    off = measured(load, lambda pair, i: first[pair] / second[pair] if i == 1 else 1.0)
    found = reasons(load, off)
    assert any("flow n-0 to n-1" in text and "4 s to 8 s" in text for text in found)
    assert not any("0 s to 4 s" in text for text in found)


def test_what_arrives_without_a_path_is_found() -> None:
    load = load_of(STAR + EVENTS)
    curves = measured(load)
    leak = {p: list(sizes) for p, sizes in curves.received.items()}
    for i in range(80, 120):
        leak[A, B][i] = 5000.0
    found = reasons(load, Throughput(every_ns=EVERY, received=leak))
    assert found == ["invalid flow n-0 to n-1: 0.400 Mbit/s where no path is (8 s to 12 s)"]


def test_a_rest_that_was_held_back_is_no_leak() -> None:
    load = load_of(STAR + EVENTS)
    rest = {p: list(sizes) for p, sizes in measured(load).received.items()}
    rest[A, B][95] = 20_000.0
    assert reasons(load, Throughput(every_ns=EVERY, received=rest)) == []


def test_settling_does_not_count() -> None:
    load = load_of(STAR + EVENTS)
    curves = {p: list(sizes) for p, sizes in measured(load).received.items()}
    for sizes in curves.values():
        sizes[40:50] = [0.0] * 10
    assert reasons(load, Throughput(every_ns=EVERY, received=curves)) == []


def test_a_path_with_loss_is_not_judged_and_its_rate_counts_as_its_demand() -> None:
    """a's upload loses packets: its flows take little, and c gets what they leave of b's link."""
    text = STAR.replace("nodes: 3", "nodes: {a: {}, b: {link: {rate: 20mbit}}, c: {}}")
    text = text.replace("{rate: 20mbit, delay", "{rate: 100mbit, delay")
    text += "events: [{at: 6s, link: [a, switch], oneway: true, set: {loss: 2%}}]\n"
    load = load_of(text)
    a, b, c = (NodeId(name) for name in "abc")
    ab, ac, cb, ba = (a, b), (a, c), (c, b), (b, a)
    picture = load.segments[1].picture
    second = goodputs(picture, load.sample.pairs, demands={ab: 1e6, ac: 1e6})
    greedy = goodputs(picture, load.sample.pairs)
    assert second is not None
    assert greedy is not None
    assert second[cb] > 1.7 * greedy[cb]
    curves = measured(load, lambda pair, i: second[pair] / greedy[pair] if i else 1.0)
    # The way back of flows to a loses acknowledgements: they are not judged either.
    flows = judged(load, curves)[1].flows
    assert "the path loses packets" in str(flows[ab].why)
    assert "the way back loses packets" in str(flows[ba].why)
    assert (flows[ab].ok, flows[ba].ok, flows[cb].ok) == (None, None, True)
    assert reasons(load, curves) == []
    faster = measured(load, lambda pair, i: 5.0 if (pair, i) == (ab, 1) else 1.0)
    assert any(
        "flow a to b" in text and "on a path of 20.000" in text for text in reasons(load, faster)
    )


def test_a_segment_that_is_too_short_is_not_judged() -> None:
    text = STAR + "events: [{at: 4s, down: n-1}, {at: 4.4s, up: n-1}]\n"
    load = load_of(text)
    segments = judged(load, measured(load))
    assert {held.ok for held in segments[1].flows.values()} == {None}
    assert "0.4 s are too short: 1.5 s are needed" in str(segments[1].flows[A, B].why)
    assert reasons(load, measured(load)) == []


def test_nothing_judged_is_not_valid() -> None:
    load = load_of(STAR.replace("delay: 5ms", "delay: 5ms, loss: 1%"))
    (text,) = reasons(load, measured(load))
    assert text.startswith("unknown None: no flow could be judged: ")
    assert "loses packets" in text
    unlimited = load_of(STAR.replace("rate: 20mbit, ", ""))
    curves = Throughput(every_ns=EVERY, received={p: [1e6] * 60 for p in unlimited.sample.pairs})
    assert "nothing limits its rate" in reasons(unlimited, curves)[0]


def test_what_was_not_recorded_is_not_judged() -> None:
    load = load_of(STAR)
    curves = measured(load)
    gone = {p: ([] if p[1] == C else sizes) for p, sizes in curves.received.items()}
    segments = judged(load, Throughput(every_ns=EVERY, received=gone))
    assert segments[0].flows[A, C].ok is None
    assert segments[0].flows[A, C].why == "its throughput was not recorded"
    assert segments[0].links["n-0>switch"].ok is None


def test_the_application_emulator_does_not_share_interior_links() -> None:
    text = """
name: dumbbell
nodes: {a: 2, b: 2}
network:
  bridges: [l, r]
  link: {rate: 100mbit, delay: 5ms}
  links: [{from: a, to: l}, {from: b, to: r}, {from: l, to: r, rate: 10mbit}]
algorithm: {name: divshare, local_steps: 2}
stop: {time: 60s}
"""
    load = load_of(text)
    kernel = judged(load, measured(load))[0]
    local = judged(load, measured(load), emulator="application")[0]
    across = (NodeId("a-0"), NodeId("b-0"))
    assert kernel.flows[across].ok is True
    assert local.flows[across].ok is None
    assert "does not share the interior link l>r" in str(local.flows[across].why)
    assert "l>r" in kernel.links
    expected = kernel.links["l>r"].expected_bps
    assert expected == pytest.approx(10e6 * TCP_SHARE, rel=0.03)


# Records -----------------------------------------------------------------------------------------


def test_records_become_curves() -> None:
    records = {
        "n-1": [
            event("n-1", "throughput", 1.0, begin=0.0, every=0.1, **{"from": {"n-0": [10, 20]}}),
            event("n-1", "throughput", 2.0, begin=0.2, every=0.1, **{"from": {"n-2": [5]}}),
            event("n-1", "throughput", 2.0, begin="x", every=0.1, **{"from": {"n-2": [5]}}),
        ],
    }
    curves = throughput(records, [(A, B), (C, B), (B, A)], every_ns=EVERY)
    assert list(curves.received[A, B]) == [10, 20, 0]
    assert list(curves.received[C, B]) == [0, 0, 5]
    assert list(curves.received[B, A]) == []
    assert curves.mean_bps((A, B), 0, 200 * MILLISECOND) == pytest.approx(8 * 30 / 0.2)
    assert curves.mean_bps((A, B), 50 * MILLISECOND, 250 * MILLISECOND) == pytest.approx(
        8 * 20 / 0.1
    )
    assert curves.mean_bps((A, B), 0, SECOND) is None
    assert curves.mean_bps((A, B), 0, 50 * MILLISECOND) is None


def fired(at: float, t: float | None, **fields: Any) -> dict[str, Any]:
    late = None if t is None else 1000 * (t - at)
    return dict(event("x", "link", t, at=at, late_ms=late, what=["w"], **{"error": None, **fields}))


def held(nodes: Mapping[str, list[dict[str, Any]]]) -> str | None:
    planned = {NodeId(name): {4 * SECOND: ("down n-1",)} for name in nodes}
    (one,) = judge_events(firings(planned, nodes))
    assert one.ok == (one.why is None)
    return one.why


def test_events_are_in_force_everywhere_at_once() -> None:
    assert held({"n-0": [fired(4.0, 4.002)], "n-1": [fired(4.0, 4.021)]}) is None
    assert held({"n-0": [fired(4.0, 4.002)], "n-1": [fired(4.0, 4.023)]}) == (
        "21 ms between the nodes (limit 20 ms)"
    )
    late = held({"n-0": [fired(4.0, 4.065)], "n-1": [fired(4.0, 4.060)]})
    assert late == "65 ms late on n-0 (limit 50 ms)"
    assert held({"n-0": [fired(4.0, 4.0)], "n-1": [fired(3.0, 3.0)]}) == "not applied on n-1"
    wrong = held({"n-0": [fired(4.0, 4.0, error="rate 5 instead of 4")], "n-1": [fired(4.0, 4.0)]})
    assert wrong == "not as asked: n-0: rate 5 instead of 4"


def test_an_event_that_is_off_is_a_reason() -> None:
    load = load_of(STAR + EVENTS)
    segments = judged(load, measured(load))
    planned = {A: {4 * SECOND: ("down n-1",)}, B: {4 * SECOND: ("down n-1",)}}
    events = judge_events(firings(planned, {"n-0": [fired(4.0, 4.0)]}))
    (finding,) = findings(segments, events)
    assert finding.judgement is Judgement.INVALID
    assert (finding.who, finding.reason) == ("at 4 s, down n-1", "not applied on n-1")
    content = document(load, segments, events, emulator="nfqueue", notes=["n"])
    assert content["ok"] is False
    assert content["notes"] == ["n"]
    assert content["events"][0]["why"] == "not applied on n-1"
    flow = content["segments"][2]["flows"][0]
    assert (flow["from"], flow["to"], flow["ok"]) == ("n-0", "n-1", True)
    assert flow["asked_bps"] is None
    assert flow["expected_bps"] == 0
