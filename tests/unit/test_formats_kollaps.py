"""Kollaps XML: what its elements come to in our terms (docs/kollaps.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.state import states
from node.config import PathSpec
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND

EXAMPLES = Path(__file__).parents[2] / "topologies" / "kollaps"
MS = MILLISECOND

TWO = '<service name="a" image="i"/><service name="b" image="i"/>'
STAR = """
<link origin="a" dest="s" latency="5" upload="10Mbps" download="20Mbps" network="n"/>
<link origin="b" dest="s" latency="7" upload="30Mbps" download="40Mbps" network="n"/>"""


def xml(
    *,
    services: str = TWO,
    links: str = STAR,
    dynamic: str = "",
    config: str = "",
    bridges: str = '<bridge name="s"/>',
) -> str:
    """A file; `dynamic` and `config` are left out where they are empty."""
    rest = f"<dynamic>{dynamic}</dynamic>" if dynamic else ""
    head = f"<config>{config}</config>" if config else ""
    return (
        f'<experiment boot="kollaps:2.0">{head}\n<services>{services}</services>\n'
        f"<bridges>{bridges}</bridges>\n<links>{links}</links>\n{rest}</experiment>"
    )


def parse(text: str, *overrides: str) -> Topology:
    return parse_topology(text.encode(), path=Path("test.xml"), overrides=overrides)


def path(topology: Topology, source: str, target: str) -> PathSpec:
    return topology.network.routes(NodeId(source))[NodeId(target)].spec


def names(topology: Topology) -> list[str]:
    return [node.name for node in topology.nodes]


def steps(topology: Topology) -> dict[float, tuple[str, ...]]:
    return {step.at_ns / SECOND: step.what for step in topology.timeline}


def whole(joins: str, events: str) -> str:
    """A <dynamic> in which `joins` are there from the start."""
    at_once = "".join(f'<schedule name="{n}" time="0" action="join"/>' for n in joins)
    return at_once + events


# Nodes and links ---------------------------------------------------------------------------------


def test_services_are_nodes_and_links_have_two_rates() -> None:
    topology = parse(xml())
    assert names(topology) == ["a", "b"]
    assert topology.network.bridges == ("s",)
    assert path(topology, "a", "b") == PathSpec(rate_bps=10_000_000, delay_ns=12 * MS)
    assert path(topology, "b", "a") == PathSpec(rate_bps=20_000_000, delay_ns=12 * MS)
    assert topology.overlay == {"a": ("b",), "b": ("a",)}


def test_jitter_adds_in_squares_and_drop_is_a_probability() -> None:
    links = STAR.replace('latency="5"', 'latency="5" jitter="0.3" drop="0.1"').replace(
        'latency="7"', 'latency="7" jitter="0.4" drop="0.1"'
    )
    spec = path(parse(xml(links=links)), "a", "b")
    assert spec.jitter_ns == 500_000
    assert spec.loss == pytest.approx(0.19)


def test_replicas_are_groups_and_every_one_has_its_link() -> None:
    services = TWO.replace('name="b"', 'name="b" replicas="3"')
    topology = parse(xml(services=services))
    assert names(topology) == ["a", "b-0", "b-1", "b-2"]
    assert path(topology, "b-1", "b-2").rate_bps == 30_000_000


def test_replicas_that_share_have_one_link_together() -> None:
    services = TWO.replace('name="b"', 'name="b" replicas="2" share="true"')
    topology = parse(xml(services=services))
    first, second = (topology.network.routes(NodeId("a"))[NodeId(n)] for n in ("b-0", "b-1"))
    assert first.links[:2] == second.links[:2]
    assert len(first.links) == 3
    assert path(topology, "a", "b-0") == PathSpec(rate_bps=10_000_000, delay_ns=12 * MS)


def test_links_between_the_replicas_of_a_service_go_both_ways() -> None:
    link = '<link origin="b" dest="b" latency="1" upload="9Mbps" network="n"/>'
    services = TWO.replace('name="b"', 'name="b" replicas="3"')
    topology = parse(xml(services=services, links=STAR + link))
    for source, target in (("b-0", "b-2"), ("b-2", "b-0"), ("b-1", "b-0")):
        assert path(topology, source, target) == PathSpec(rate_bps=9_000_000, delay_ns=MS)


def test_the_metric_is_in_a_child_of_config_whatever_its_tag() -> None:
    links = STAR + '<link origin="a" dest="b" latency="99" upload="1Mbps" network="n"/>'
    assert path(parse(xml(links=links)), "a", "b").delay_ns == 99 * MS
    config = '<anything shortest_path="latency"/><loop pool_period="0.1"/>'
    assert path(parse(xml(links=links, config=config)), "a", "b").delay_ns == 12 * MS


def test_the_supervisor_is_left_out_with_its_links_and_events() -> None:
    services = '<service name="board" image="i" supervisor="true" port="8088"/>' + TWO
    links = STAR + '<link origin="board" dest="s" latency="1" upload="1Mbps" network="n"/>'
    events = whole("ab", '<schedule name="board" time="3" action="leave"/>')
    topology = parse(xml(services=services, links=links, dynamic=events))
    assert names(topology) == ["a", "b"]
    assert not topology.timeline
    assert any("supervisor" in w.message and "board" in w.message for w in topology.warnings)


def test_active_paths_are_the_overlay() -> None:
    services = (
        '<service name="a" image="i" activepaths="[\'b\', \'c\']"/>'
        '<service name="b" image="i"/><service name="c" image="i" replicas="2"/>'
        '<service name="d" image="i" activepaths="[\'b\']"/>'
    )
    links = "".join(
        f'<link origin="{n}" dest="s" latency="1" upload="1Mbps" download="1Mbps" network="n"/>'
        for n in "abcd"
    )
    overlay = parse(xml(services=services, links=links)).overlay
    assert overlay["a"] == ("b", "c-0", "c-1")
    assert overlay["b"] == ("a", "c-0", "c-1", "d")  # b and c restrict nothing
    assert overlay["c-0"] == ("a", "b", "c-1")
    assert overlay["d"] == ("b",)


def test_names_are_adapted_and_the_warning_says_how() -> None:
    services = TWO.replace('name="a"', 'name="Fast_One"')
    links = STAR.replace('"a"', '"Fast_One"')
    topology = parse(xml(services=services, links=links))
    assert names(topology) == ["b", "fast-one"]
    assert any("'Fast_One' is 'fast-one'" in w.message for w in topology.warnings)


def test_what_only_kollaps_deploys_with_is_one_warning_with_its_line() -> None:
    services = '<service name="a" image="i" command="[\'x\']"/>\n<service name="b" image="i"/>'
    found = [w for w in parse(xml(services=services)).warnings if "not used" in w.message]
    assert [w.line for w in found] == [1]
    for key in ("boot", "image", "command", "network"):
        assert key in found[0].message


def test_sections_that_kollaps_lacks_have_stated_values_that_set_changes() -> None:
    topology = parse(xml())
    assert topology.file.algorithm.name == "divshare"
    assert topology.file.training.dataset == "digits"
    assert topology.file.stop.time == 60 * SECOND
    assert any("stop after 60s" in w.message for w in topology.warnings)
    changed = parse(xml(), "stop.time=90s", "algorithm.omega=0.25", "network.links[0].rate=1mbit")
    assert changed.file.stop.time == 90 * SECOND
    assert changed.file.algorithm.options == {"omega": 0.25}
    assert path(changed, "a", "b").rate_bps == 1_000_000


def test_a_run_goes_on_for_a_while_after_the_last_event() -> None:
    events = whole("ab", '<schedule name="a" time="100.5" action="crash"/>')
    assert parse(xml(dynamic=events)).file.stop.time == 111 * SECOND


# What happens ------------------------------------------------------------------------------------


def test_joins_say_how_many_replicas_there_are_and_who_is_late() -> None:
    events = (
        '<schedule name="a" time="0" action="join"/>'
        '<schedule name="b" time="0" action="join" amount="2"/>'
        '<schedule name="b" time="9" action="join"/>'
    )
    services = TWO.replace('name="b"', 'name="b" replicas="7"')
    topology = parse(xml(services=services, dynamic=events))
    assert names(topology) == ["a", "b-0", "b-1", "b-2"]
    assert steps(topology) == {9.0: ("join b-2",)}


@pytest.mark.parametrize(("reuse", "count"), [("true", 2), ("false", 3)])
def test_a_slot_is_taken_again_only_where_it_may_be(reuse: str, count: int) -> None:
    events = (
        '<schedule name="a" time="0" action="join"/>'
        '<schedule name="b" time="0" action="join" amount="2"/>'
        '<schedule name="b" time="5" action="crash"/>'
        '<schedule name="b" time="9" action="join"/>'
    )
    services = TWO.replace('name="b"', f'name="b" reuse="{reuse}"')
    topology = parse(xml(services=services, dynamic=events))
    assert len(topology.nodes) == 1 + count
    expected = "restart b-0" if reuse == "true" else "join b-2"
    assert steps(topology) == {5.0: ("crash b-0",), 9.0: (expected,)}


def test_leave_and_crash_of_all_replicas_are_of_the_group() -> None:
    events = (
        '<schedule name="a" time="0" action="join"/>'
        '<schedule name="b" time="0" action="join" amount="3"/>'
        '<schedule name="b" time="8" action="leave" amount="3"/>'
    )
    topology = parse(xml(dynamic=events))
    assert steps(topology) == {8.0: ("leave b",)}
    assert len(topology.timeline[0].actions) == 3


def test_disconnect_takes_the_paths_of_a_node_and_reconnect_brings_them_back() -> None:
    events = whole(
        "ab",
        '<schedule name="b" time="3" action="disconnect"/>'
        '<schedule name="b" time="6.5" action="reconnect"/>',
    )
    topology = parse(xml(dynamic=events))
    paths = {at: state.routes(NodeId("a")) for at, _, state in states(topology)}
    assert [at for at, found in paths.items() if not found] == [3 * SECOND]
    assert paths[6_500_000_000][NodeId("b")].spec == path(topology, "a", "b")


def test_a_change_of_a_link_with_download_is_for_both_ways() -> None:
    event = '<schedule origin="a" dest="s" time="4" latency="50" upload="1Mbps" download="2Mbps"/>'
    *_, (at, _, state) = states(parse(xml(dynamic=whole("ab", event))))
    assert at == 4 * SECOND
    there, back = (state.routes(NodeId(x))[NodeId(y)].spec for x, y in ("ab", "ba"))
    assert (there.rate_bps, there.delay_ns) == (1_000_000, 57 * MS)
    assert (back.rate_bps, back.delay_ns) == (2_000_000, 57 * MS)


def test_what_a_change_does_not_give_stays() -> None:
    event = '<schedule origin="a" dest="s" time="4" jitter="2" drop="0.5"/>'
    *_, (_, _, state) = states(parse(xml(dynamic=whole("ab", event))))
    spec = state.routes(NodeId("a"))[NodeId("b")].spec
    assert spec == PathSpec(rate_bps=10_000_000, delay_ns=12 * MS, jitter_ns=2 * MS, loss=0.5)


def test_a_bridge_that_leaves_takes_its_links_with_it() -> None:
    events = whole(
        "ab",
        '<schedule name="s" time="2" action="leave"/><schedule name="s" time="4" action="join"/>',
    )
    found = {at: bool(s.routes(NodeId("a"))) for at, _, s in states(parse(xml(dynamic=events)))}
    assert found[2 * SECOND] is False
    assert found[4 * SECOND] is True


def test_a_bridge_that_only_joins_is_not_there_before() -> None:
    events = whole("ab", '<schedule name="s" time="4" action="join"/>')
    found = {at: bool(s.routes(NodeId("a"))) for at, _, s in states(parse(xml(dynamic=events)))}
    assert found == {0: False, 4 * SECOND: True}


def test_a_link_that_joins_later_is_made_and_down_until_then() -> None:
    event = (
        '<schedule origin="a" dest="b" time="4" action="join" latency="1" upload="9Mbps"'
        ' download="8Mbps"/>'
    )
    found = {
        at: [state.routes(NodeId(x))[NodeId(y)].spec.rate_bps for x, y in ("ab", "ba")]
        for at, _, state in states(parse(xml(dynamic=whole("ab", event))))
    }
    assert found == {0: [10_000_000, 20_000_000], 4 * SECOND: [9_000_000, 8_000_000]}


# Whole files -------------------------------------------------------------------------------------


def figures(topology: Topology, source: str, target: str) -> tuple[float, float, float, float]:
    """Latency and jitter in ms, loss, rate in Mbit/s, as Kollaps would print them."""
    spec = path(topology, source, target)
    assert spec.rate_bps is not None
    return (
        spec.delay_ns / MS,
        spec.jitter_ns / MS,
        round(spec.loss, 6),
        spec.rate_bps / 1e6,
    )


def test_the_ping_example() -> None:
    topology = load_topology(EXAMPLES / "ping.xml")
    assert figures(topology, "near", "far") == (20, 0, 0, 40)
    assert figures(topology, "far", "near") == (20, 0, 0, 20)
    assert steps(topology) == {30.0: ("crash far",), 50.0: ("leave near",)}


def test_the_iperf_example() -> None:
    topology = load_topology(EXAMPLES / "iperf.xml")
    assert figures(topology, "client1", "server-2") == (18, 1.5, 0.002, 30)
    assert figures(topology, "client3", "server-0") == (20, 1.5, 0.002, 5)
    assert figures(topology, "server-0", "client3") == (20, 1.5, 0.002, 30)
    assert figures(topology, "client1", "client3") == (6, 0, 0, 100)
    assert figures(topology, "server-0", "server-1") == (2, 0, 0, 100)


def test_the_cache_example() -> None:
    topology = load_topology(EXAMPLES / "cache.xml")
    # 45 + 60 ms over the United States is less than the direct 130 ms.
    assert figures(topology, "cache-eu", "cache-asia") == (107, 5.96343, 0, 100)
    assert figures(topology, "user-eu-0", "cache-us") == (49, 3.25, 0, 40)
    assert figures(topology, "cache-us", "user-eu-0") == (51, 4.5, 0, 80)
    assert topology.overlay["user-asia"] == ("cache-asia",)


def test_the_dynamic_example() -> None:
    topology = load_topology(EXAMPLES / "dynamic.xml")
    assert names(topology) == ["boss", "worker-0", "worker-1", "worker-2"]
    seen = {}
    for at, _, state in states(topology):
        way = state.routes(NodeId("boss")).get(NodeId("worker-1"))
        if way is not None:
            spec = way.spec
            seen[at / SECOND] = (spec.delay_ns / MS, (spec.rate_bps or 0) / 1e6, len(way.links))
    assert seen[0.0] == (20, 40, 3)
    assert seen[5.0] == (35, 8, 3)
    assert seen[20.0] == (35, 8, 3)
    assert seen[22.0] == (70, 10, 4)  # over s3, as s1 > s2 is gone
    assert seen[26.0] == (35, 8, 3)
    assert "restart worker-0" in steps(topology)[35.0]
