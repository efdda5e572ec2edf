"""Where Kollaps' two parsers disagree or are wrong: what is decided, and that it is said
(docs/kollaps.md, traps 1 to 8)."""

from __future__ import annotations

import pytest

from deploy.topology import TopologyErrors
from deploy.topology.state import states
from node.core.ids import NodeId
from node.units import SECOND
from tests.unit.test_formats_kollaps import STAR, TWO, names, parse, path, steps, whole, xml


def warned(text: str, words: str) -> list[int | None]:
    """The lines of the warnings that have these words in them."""
    return [w.line for w in parse(text).warnings if words in w.message]


ONE_WAY = "one-way, as to Kollaps' emulation core"
ALONE = """
<link origin="a" dest="s" latency="5" upload="10Mbps" network="n"/>
<link origin="s" dest="a" latency="6" upload="20Mbps" network="n"/>
<link origin="b" dest="s" latency="7" upload="30Mbps" download="40Mbps" network="n"/>"""


def test_trap_1_a_link_without_download_is_one_way() -> None:
    topology = parse(xml(links=ALONE))
    assert path(topology, "a", "b").delay_ns == 12_000_000
    assert path(topology, "b", "a").delay_ns == 13_000_000
    assert not warned(xml(links=ALONE), ONE_WAY)  # both parsers agree on what is meant
    more = '\n<link origin="a" dest="b" latency="1" upload="1Mbps" network="n"/>'
    text = xml(links=ALONE + more)
    assert path(parse(text), "a", "b").delay_ns == 1_000_000
    assert path(parse(text), "b", "a").delay_ns == 13_000_000
    assert warned(text, ONE_WAY) == [8]


def test_trap_1_the_warning_is_part_of_the_error_that_follows_from_it() -> None:
    links = ALONE.replace('<link origin="s" dest="a" latency="6" upload="20Mbps" network="n"/>', "")
    with pytest.raises(TopologyErrors) as caught:
        parse(xml(links=links))
    assert "the overlay falls into 2 parts" in str(caught.value)
    assert ONE_WAY in str(caught.value)


def test_trap_2_a_service_without_a_join_is_there_from_the_start() -> None:
    text = xml(dynamic=whole("a", '<schedule name="a" time="9" action="crash"/>'))
    assert names(parse(text)) == ["a", "b"]
    assert steps(parse(text)) == {9.0: ("crash a",)}
    assert warned(text, "no join of b") == [2]
    assert not warned(xml(), "no join")  # without <dynamic> all start
    assert not warned(xml(dynamic=whole("ab", "")), "no join")


@pytest.mark.parametrize("rate", ["1.5Gbps", "10", "10mbps", "0Mbps", "10 Mbps", "1e3Mbps", "fast"])
def test_trap_3_a_rate_is_a_whole_number_and_a_unit(rate: str) -> None:
    with pytest.raises(TopologyErrors) as caught:
        parse(xml(links=STAR.replace("10Mbps", rate)))
    assert [p.line for p in caught.value.problems] == [5]
    assert "upload" in caught.value.problems[0].message


def test_trap_4_what_is_disconnected_can_be_reconnected() -> None:
    events = whole(
        "ab",
        '\n<schedule name="b" time="3" action="disconnect"/>'
        '\n<schedule name="b" time="6" action="reconnect"/>',
    )
    text = xml(dynamic=events)
    assert steps(parse(text)) == {3.0: ("b down",), 6.0: ("b up",)}
    assert warned(text, "Kollaps refuses this by mistake") == [9]


def test_trap_4_more_than_is_disconnected_cannot_be() -> None:
    events = whole("ab", '<schedule name="b" time="6" action="reconnect"/>')
    with pytest.raises(TopologyErrors, match="reconnects 1 replicas where only 0 are"):
        parse(xml(dynamic=events))


@pytest.mark.parametrize("apart", [0, 0.25])
def test_trap_5_events_happen_at_their_own_time(apart: float) -> None:
    events = whole(
        "ab",
        '\n<schedule origin="a" dest="s" time="3" upload="5Mbps" download="5Mbps"/>'
        f'\n<schedule origin="b" dest="s" time="{3 + apart}" upload="4Mbps" download="4Mbps"/>',
    )
    text = xml(dynamic=events)
    assert [step.at_ns / SECOND for step in parse(text).timeline] == sorted({3.0, 3.0 + apart})
    assert warned(text, "2 changes of links fall within half a second") == [8]


def test_trap_5_events_that_are_apart_are_no_matter() -> None:
    events = whole(
        "ab",
        '<schedule origin="a" dest="s" time="3" upload="5Mbps" download="5Mbps"/>'
        '<schedule origin="b" dest="s" time="3.5" upload="4Mbps" download="4Mbps"/>',
    )
    assert not warned(xml(dynamic=events), "half a second")


def test_trap_6_events_apply_in_order_of_time() -> None:
    events = whole(
        "ab",
        '\n<schedule origin="a" dest="s" time="8" upload="8Mbps" download="8Mbps"/>'
        '\n<schedule origin="a" dest="s" time="4" upload="4Mbps" download="4Mbps"/>',
    )
    text = xml(dynamic=events)
    rates = {
        at / SECOND: state.routes(NodeId("a"))[NodeId("b")].spec.rate_bps
        for at, _, state in states(parse(text))
    }
    assert rates == {0.0: 10_000_000, 4.0: 4_000_000, 8.0: 8_000_000}
    assert warned(text, "after a later one in the file") == [9]


def test_trap_7_a_change_finds_the_link_that_replicas_share() -> None:
    services = TWO.replace('name="b"', 'name="b" replicas="2" share="true"')
    events = (
        '<schedule name="a" time="0" action="join"/>'
        '<schedule name="b" time="0" action="join" amount="2"/>'
        '\n<schedule origin="b" dest="s" time="4" upload="1Mbps" download="2Mbps"/>'
    )
    text = xml(services=services, dynamic=events)
    *_, (_, _, state) = states(parse(text))
    for node in ("b-0", "b-1"):
        assert state.routes(NodeId(node))[NodeId("a")].spec.rate_bps == 1_000_000
        assert state.routes(NodeId("a"))[NodeId(node)].spec.rate_bps == 2_000_000
    assert warned(text, "a link that replicas share") == [8]


def test_trap_8_a_change_without_download_is_for_one_way() -> None:
    events = whole("ab", '\n<schedule origin="a" dest="s" time="4" latency="50" upload="1Mbps"/>')
    text = xml(dynamic=events)
    *_, (_, _, state) = states(parse(text))
    there, back = (state.routes(NodeId(x))[NodeId(y)].spec for x, y in ("ab", "ba"))
    assert (there.rate_bps, there.delay_ns) == (1_000_000, 57_000_000)
    assert back == path(parse(text), "b", "a")
    assert warned(text, "changes in this direction only") == [8]


def test_leave_and_join_of_a_link_are_for_one_way() -> None:
    text = xml(dynamic=whole("ab", '<schedule origin="a" dest="s" time="4" action="leave"/>'))
    *_, (_, _, state) = states(parse(text))
    assert not state.routes(NodeId("a"))
    assert state.routes(NodeId("b"))
    assert warned(text, "changes in this direction only")


def test_services_with_several_links_forward_as_in_kollaps() -> None:
    services = TWO + '<service name="c" image="i"/>'
    links = "".join(
        f'<link origin="{a}" dest="{b}" latency="1" upload="1Mbps" download="1Mbps" network="n"/>'
        for a, b in ("ab", "bc")
    )
    text = xml(services=services, links=links, bridges="")
    route = parse(text).network.routes(NodeId("a"))[NodeId("c")]
    assert route.vertices == ("a", "b", "c")
    assert warned(text, "b: linked to more than one neighbour")
    assert not warned(xml(), "linked to more than one neighbour")
