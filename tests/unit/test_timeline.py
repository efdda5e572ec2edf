"""The timeline: events of the file become explicit steps, and steps states of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.events import actions
from deploy.topology.model import Event, LinkOptions
from deploy.topology.names import EventError
from deploy.topology.network import Network
from deploy.topology.state import NetworkState, states
from deploy.topology.timeline import (
    Heal,
    LinkDown,
    LinkUp,
    NodeAction,
    Partition,
    SetLink,
)
from node.config import PathSpec
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
SITES = """
nodes: {west: 2, east: 3, alone: }
network:
  link: {rate: 50mbit, delay: 1ms}
  bridges: [w, e]
  links:
    - {from: west, to: w}
    - {from: east, to: e}
    - {from: alone, to: e}
    - {from: w, to: e, rate: 8mbit, delay: 40ms, back: {rate: 4mbit}}
algorithm: {name: divshare}
stop: {rounds: 1}
"""


def sites(*events: str, seed: int = 1) -> Topology:
    listed = "".join(f"  - {{{event}}}\n" for event in events)
    text = f"seed: {seed}\n{SITES}events:\n{listed}" if events else SITES
    return parse_topology(text.encode(), path=Path("t.yaml"))


def happenings(topology: Topology) -> list[tuple[float, str]]:
    """When, and what, in words."""
    return [(step.at_ns / SECOND, "; ".join(step.what)) for step in topology.timeline]


def at(topology: Topology, seconds: float) -> NetworkState:
    """The network at a time."""
    found = [state for at_ns, _, state in states(topology) if at_ns <= seconds * SECOND]
    return found[-1]


def start(topology: Topology) -> NetworkState:
    """The network before anything has happened."""
    return NetworkState.initial(topology.network, topology.standby)


def reached(state: NetworkState, source: str) -> set[str]:
    return {*state.routes(NodeId(source))}


def path(state: NetworkState, source: str, target: str) -> PathSpec:
    return state.routes(NodeId(source))[NodeId(target)].spec


# Links -------------------------------------------------------------------------------------------


def test_a_link_changes_in_what_is_given_and_stays_as_it_was_in_the_rest() -> None:
    topology = sites(
        "at: 5s, link: [w, e], set: {rate: 2mbit}, back: {delay: 9ms}",
        "at: 6s, link: [w, e], set: {loss: 1%}, oneway: true",
    )
    assert path(at(topology, 0), "west-0", "east-0").rate_bps == 8_000_000
    there, back = (
        path(at(topology, 5), *ends) for ends in (("west-0", "alone"), ("alone", "west-0"))
    )
    assert (there.rate_bps, there.delay_ns) == (2_000_000, 42 * MILLISECOND)
    assert (back.rate_bps, back.delay_ns) == (2_000_000, 11 * MILLISECOND)
    assert path(at(topology, 6), "west-0", "east-0").loss == 0.01
    assert path(at(topology, 6), "east-0", "west-0").loss == 0


def test_what_is_set_while_a_link_is_down_holds_when_it_is_back() -> None:
    topology = sites(
        "at: 1s, down: [w, e]", "at: 2s, link: [w, e], set: {rate: 3mbit}", "at: 3s, up: [e, w]"
    )
    assert reached(at(topology, 2), "west-0") == {"west-1"}
    assert path(at(topology, 3), "west-0", "east-0").rate_bps == 3_000_000


def test_every_property_of_a_link_can_be_set() -> None:
    given = (
        "rate: 1mbit, delay: 2ms, jitter: 3ms, loss: 4%, duplicate: 5%, corrupt: 6%, reorder: 7%,"
        " order: free, queue: 64KiB, burst: {enter: 1%, leave: 50%}, slot: {least: 1ms, most: 2ms}"
    )
    topology = sites(f"at: 1s, link: [w, e], set: {{{given}}}, oneway: true")
    spec = at(topology, 1).network.spec("w", "e")
    assert spec is not None
    assert spec.burst is not None
    assert spec.slot is not None
    assert (spec.burst.enter, spec.burst.leave, spec.burst.bad) == (0.01, 0.5, 1.0)
    assert (spec.slot.least_ns, spec.slot.most_ns) == (MILLISECOND, 2 * MILLISECOND)
    assert spec == PathSpec(
        rate_bps=1_000_000,
        delay_ns=2 * MILLISECOND,
        jitter_ns=3 * MILLISECOND,
        loss=0.04,
        burst=spec.burst,
        duplicate=0.05,
        corrupt=0.06,
        reorder=0.07,
        ordered=False,
        queue_bytes=65536,
        slot=spec.slot,
    )


def test_a_bridge_that_is_down_takes_all_its_links_with_it() -> None:
    topology = sites("at: 1s, down: e", "at: 2s, up: e")
    assert {link.name for link in at(topology, 1).network.links} == {
        "west-0>w", "w>west-0", "west-1>w", "w>west-1"
    }  # fmt: skip
    assert at(topology, 2) == at(topology, 0)


def test_a_link_is_back_when_nobody_holds_it_down_any_more() -> None:
    topology = sites(
        "at: 1s, down: [w, e]", "at: 2s, down: e", "at: 3s, up: [w, e]", "at: 4s, up: e"
    )
    assert "east-0" not in reached(at(topology, 3), "west-0")
    assert "east-0" in reached(at(topology, 4), "west-0")


def test_a_group_that_is_down_may_come_back_node_by_node() -> None:
    topology = sites("at: 1s, down: east", "at: 2s, up: east-1")
    assert reached(at(topology, 2), "alone") == {"west-0", "west-1", "east-1"}


def test_groups_at_the_ends_stand_for_all_their_links() -> None:
    topology = sites("at: 1s, link: [w, west], set: {rate: 1mbit}")
    assert [
        (action.source, action.target)
        for action in topology.timeline[0].actions
        if isinstance(action, SetLink)
    ] == [("w", "west-0"), ("west-0", "w"), ("w", "west-1"), ("west-1", "w")]


# Partitions --------------------------------------------------------------------------------------


def test_no_path_leads_from_one_part_to_another() -> None:
    topology = sites("at: 1s, partition: [[west-0, east-0], [west-1]]", "at: 2s, heal: true")
    state = at(topology, 1)
    assert reached(state, "west-0") == {"east-0"}
    assert reached(state, "west-1") == set()
    assert reached(state, "alone") == {"east-1", "east-2"}  # those that are not named
    assert at(topology, 2) == at(topology, 0)


def test_nothing_passes_through_a_router_of_another_part() -> None:
    text = (
        "nodes: {a: , b: {forwards: true}, c: }\nnetwork: {shape: line}\noverlay: ring\n"
        "events: [{at: 1s, partition: [[b]]}]\n"
        "algorithm: {name: divshare}\nstop: {rounds: 1}\n"
    )
    topology = parse_topology(text.encode(), path=Path("t.yaml"))
    assert reached(at(topology, 0), "a") == {"b", "c"}
    assert reached(at(topology, 1), "a") == set()


# Nodes -------------------------------------------------------------------------------------------


def test_who_joins_has_no_paths_before() -> None:
    topology = sites("at: 3s, join: alone", "at: 0s, join: west-0")
    assert reached(at(topology, 0), "alone") == set()
    assert "alone" not in reached(at(topology, 2), "east-0")
    assert "alone" in reached(at(topology, 3), "east-0")
    [_, _, first] = next(iter(states(topology)))
    assert "west-0" in reached(first, "west-1")  # at 0 is from the start


def test_who_leaves_or_crashes_keeps_its_links_so_that_its_peers_hear_that_it_is_gone() -> None:
    topology = sites("at: 1s, leave: alone", "at: 1s, crash: west-1", "at: 2s, restart: alone")
    assert at(topology, 1).dead == {"alone", "west-1"}
    for gone in ("alone", "west-1"):
        assert gone in reached(at(topology, 1), "west-0")
    assert at(topology, 2).dead == {"west-1"}


def test_a_router_that_is_dead_forwards_nothing() -> None:
    text = (
        "nodes: {a: , b: {forwards: true}, c: }\nnetwork: {shape: line}\noverlay: ring\n"
        "events: [{at: 1s, crash: b}, {at: 2s, restart: b}]\n"
        "algorithm: {name: divshare}\nstop: {rounds: 1}\n"
    )
    topology = parse_topology(text.encode(), path=Path("t.yaml"))
    assert reached(at(topology, 1), "a") == {"b"}
    assert at(topology, 2) == at(topology, 0)


def drawn(topology: Topology, verb: str) -> list[str]:
    return [
        action.node
        for step in topology.timeline
        for action in step.actions
        if isinstance(action, NodeAction) and action.verb == verb
    ]


def test_so_many_of_a_group_are_drawn_and_never_the_same_twice() -> None:
    topology = sites("at: 1s, crash: east, count: 2", "at: 2s, crash: east, count: 1")
    assert sorted(drawn(topology, "crash")) == ["east-0", "east-1", "east-2"]
    seeds = {
        tuple(drawn(sites("at: 1s, crash: east, count: 1", seed=s), "crash")) for s in range(9)
    }
    assert len(seeds) > 1


def test_so_many_of_a_group_wait_until_they_join() -> None:
    topology = sites("at: 1s, join: east, count: 1", "at: 2s, join: east, count: 1")
    first, second = drawn(topology, "join")
    assert first != second
    [_, _, start] = next(iter(states(topology)))
    assert start.absent == {first, second}


# Flapping and churn ------------------------------------------------------------------------------


def test_a_flapping_link_is_down_for_a_while_in_every_period() -> None:
    topology = sites("from: 1s, until: 6s, flap: [w, e], every: 2s, for: 500ms")
    assert [when for when, _ in happenings(topology)] == [1, 1.5, 3, 3.5, 5, 5.5]
    assert happenings(topology)[:2] == [(1, "w - e down (flap)"), (1.5, "w - e up (flap)")]
    assert at(topology, 9) == at(topology, 0)


def test_a_link_that_is_down_for_whole_periods_stays_down() -> None:
    topology = sites("from: 1s, until: 5s, flap: [w, e], every: 2s, for: 2s")
    assert happenings(topology) == [(1, "w - e down (flap)"), (5, "w - e up (flap)")]


def test_random_flapping_has_the_asked_means() -> None:
    topology = sites("from: 0s, until: 4000s, flap: [w, e], every: 2s, for: 500ms, random: true")
    when = [step.at_ns for step in topology.timeline]
    downs = [up - down for down, up in zip(when[::2], when[1::2], strict=True)]
    ups = [down - up for up, down in zip([0, *when[1::2]], when[::2], strict=False)]
    assert len(downs) > 1500
    # The mean of n exponential draws has a standard deviation of mean / sqrt(n): 5 of them.
    assert sum(downs) / len(downs) / SECOND == pytest.approx(0.5, rel=0.13)
    assert sum(ups) / len(ups) / SECOND == pytest.approx(1.5, rel=0.13)


def test_churn_takes_its_share_of_the_group_off_the_network() -> None:
    topology = sites("from: 0s, until: 100s, churn: east, share: 67%, every: 10s, for: 4s")
    gone = []
    for at_ns, what, state in states(topology):
        if what:
            off = {n for n in ("east-0", "east-1", "east-2") if not reached(state, n)}
            assert len(off) == (2 if at_ns % (10 * SECOND) == 0 else 0)
            gone.append(frozenset(off))
    assert len(topology.timeline) == 20
    assert len({*gone}) > 2  # not the same ones each time
    assert at(topology, 200) == start(topology)


def test_one_event_more_leaves_what_others_draw_as_it_was() -> None:
    alone = sites("from: 0s, until: 60s, churn: east, share: 40%, every: 9s, for: 4s")
    both = sites(
        "from: 0s, until: 60s, flap: [w, e], every: 5s, for: 1s, random: true",
        "from: 0s, until: 60s, churn: east, share: 40%, every: 9s, for: 4s",
    )
    told = [entry for entry in happenings(both) if "churn" in entry[1]]
    assert [(when, what.split("; ")[-1]) for when, what in told] == happenings(alone)


# Order -------------------------------------------------------------------------------------------


def test_simultaneous_events_are_one_step_in_the_order_of_the_file() -> None:
    topology = sites(
        "at: 9s, heal: true",
        "at: 5s, link: [w, e], set: {rate: 1mbit}",
        "at: 5s, partition: [[west]]",
        "at: 5s, link: [w, e], set: {rate: 2mbit}",
    )
    assert [step.at_ns for step in topology.timeline] == [5 * SECOND, 9 * SECOND]
    first = topology.timeline[0]
    assert first.what == ("w - e: rate 1mbit", "partition west", "w - e: rate 2mbit")
    kinds = [type(action) for action in first.actions]
    assert kinds == [SetLink, SetLink, Partition, SetLink, SetLink]
    assert path(at(topology, 9), "west-0", "east-0").rate_bps == 2_000_000


def test_one_event_by_hand_is_the_same_as_in_a_file() -> None:
    topology = sites()
    event = Event.model_validate({"at": "0s", "down": ("w", "e")})
    made = actions(event, topology.file, topology.network)
    assert made == (LinkDown(source="w", target="e"), LinkDown(source="e", target="w"))
    wrong = Event.model_validate({"at": "0s", "down": ("w", "west-9")})
    with pytest.raises(EventError, match="no node, group or bridge 'west-9'"):
        actions(wrong, topology.file, topology.network)


def test_an_unknown_link_is_refused() -> None:
    with pytest.raises(ValueError, match="no link w > alone"):
        NetworkState.initial(sites().network).after([LinkDown(source="w", target="alone")])


# Properties --------------------------------------------------------------------------------------

VERTICES = ["west-0", "west-1", "east-0", "w", "e", "west", "east", "alone"]
moments = st.integers(0, 50)


@st.composite
def entries(draw: st.DrawFn) -> list[str]:
    """Events that undo themselves in the end: whatever was is over at 200 s."""
    found = []
    for i in range(draw(st.integers(1, 5))):
        begin = draw(moments)
        end = begin + draw(st.integers(1, 50))
        match draw(st.sampled_from(["flap", "churn", "down", "link"])):
            case "flap":
                every, lasting = draw(st.integers(2, 9)), draw(st.integers(1, 2))
                found.append(
                    f"from: {begin}s, until: {end}s, flap: {draw(st.sampled_from(VERTICES))},"
                    f" every: {every}s, for: {lasting}s,"
                    f" random: {str(draw(st.booleans())).lower()}"
                )
            case "churn":
                group, share = draw(st.sampled_from(["west", "east"])), draw(st.integers(1, 100))
                lasting = draw(st.integers(1, 3))
                found.append(
                    f"from: {begin}s, until: {end}s, churn: {group}, share: {share}%,"
                    f" every: 3s, for: {lasting}s"
                )
            case "down":
                # A vertex of its own for each, so that no two downs are about the same.
                found += [f"at: {begin}s, down: {VERTICES[i]}", f"at: {end}s, up: {VERTICES[i]}"]
            case "link":
                found += [
                    f"at: {begin}s, link: [w, e], set: {{loss: {draw(st.integers(1, 9))}%}}",
                    "at: 150s, link: [w, e], set: {loss: 0%}",
                ]
    if draw(st.booleans()):
        found += ["at: 3s, partition: [[west-0, east-1], [alone]]", "at: 9s, heal: true"]
    return found


def names(network: Network) -> set[str]:
    return {link.name for link in network.links}


@settings(deadline=None, max_examples=60)
@given(entries(), st.randoms(use_true_random=False))
def test_whatever_happens_the_timeline_is_in_order_and_ends_where_it_began(
    listed: list[str], rng: object
) -> None:
    down = {entry.rpartition("down: ")[2] for entry in listed if "down: " in entry}
    if ("west" in down and {"west-0", "west-1"} & down) or ("east" in down and "east-0" in down):
        return  # `up: west` lifts what `down: west-0` holds: the second `up` would be an error
    topology = sites(*listed)
    assert topology.timeline == sites(*listed).timeline
    when = [step.at_ns for step in topology.timeline]
    assert when == sorted(set(when))
    every = list(states(topology))
    whole = names(topology.network)
    for _, _, state in every:
        assert names(state.network) <= whole
        for node in topology.network.nodes:
            part = state.part(node)
            assert part is None or {*state.routes(node)} <= part
            for route in state.routes(node).values():
                assert {link.name for link in route.links} <= names(state.network)
    assert every[-1][2] == every[0][2]
    assert every[-1][2].network.links == topology.network.links
    held = 0
    for step in topology.timeline:
        for action in step.actions:
            held += isinstance(action, LinkDown) - isinstance(action, LinkUp)
    assert held == 0  # each hold is let go of


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(VERTICES[:5]), min_size=1, max_size=4, unique=True))
def test_what_goes_down_in_any_order_comes_back_in_any_order(down: list[str]) -> None:
    events = [f"at: {i}s, down: {name}" for i, name in enumerate(down)]
    events += [f"at: {9 + i}s, up: {name}" for i, name in enumerate(sorted(down))]
    topology = sites(*events)
    assert at(topology, 99) == start(topology)
    assert at(topology, 8).network.links == tuple(
        link for link in topology.network.links if not {link.source, link.target} & {*down}
    )


def test_options_by_hand_keep_what_they_do_not_give() -> None:
    before = NetworkState.initial(sites().network)
    change = SetLink(source="w", target="e", options=LinkOptions.model_validate({"loss": "2%"}))
    after = before.after([change, Heal()])
    spec = after.network.spec("w", "e")
    assert spec == PathSpec(rate_bps=8_000_000, delay_ns=40 * MILLISECOND, loss=0.02)
    assert after.changed_links(before) == {("w", "e"): spec}
    assert before.network.spec("w", "e") != spec  # a state never changes


def test_the_example_plays_as_its_comments_say() -> None:
    topology = load_topology(TOPOLOGIES / "partition.yaml")
    assert reached(at(topology, 10), "west-0") == {"west-1"}
    assert reached(at(topology, 10), "east-0") == {"east-1"}
    assert at(topology, 14) == at(topology, 0)
    assert at(topology, 60) == at(topology, 0)
