"""The links of every node over a run: what changes for whom, what is shared, and with whom."""

from __future__ import annotations

import zlib
from base64 import b64encode
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.plan import BackendKind, Plan, make_plan, plan_from_json, plan_json
from deploy.plan_links import LinkPlan
from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.state import NetworkState, later, states
from node.config import (
    AccessLink,
    LinkChange,
    LinksConfig,
    NodeConfig,
    PathChange,
    PeerLink,
    SharedLink,
    from_json,
    to_json,
)
from node.core.ids import NodeId
from node.errors import ConfigError
from node.packing import PLAIN_MAX, PREFIX, pack, unpack
from node.units import MILLISECOND, SECOND

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
REST = "algorithm: {name: divshare}\nstop: {rounds: 1}\n"
DUMBBELL = """
nodes: {a: 2, b: 2, c: }
network:
  link: {rate: 50mbit, delay: 1ms}
  bridges: [w, e]
  links:
    - {from: a, to: w}
    - {from: c, to: w}
    - {from: b, to: e}
    - {from: w, to: e, rate: 20mbit}
"""


def parse(text: str, *events: str) -> Topology:
    listed = "events:\n" + "".join(f"  - {{{event}}}\n" for event in events) if events else ""
    return parse_topology((text + listed + REST).encode(), path=Path("t.yaml"))


def plan(topology: Topology, **options: object) -> Plan:
    return make_plan(
        topology,
        run_id="r",
        backend=BackendKind.DOCKER,
        subnet=IPv4Network("10.77.0.0/16"),
        **options,  # type: ignore[arg-type]
    )


def links(topology: Topology, name: str) -> LinksConfig:
    return next(node.config.links for node in plan(topology).nodes if node.name == name)


def peer(config: LinksConfig, name: str) -> PeerLink:
    return next(peer for peer in config.peers if peer.name == name)


# What is shared ----------------------------------------------------------------------------------


def names(topology: Topology) -> list[str]:
    return [link.name for link in LinkPlan.of(topology).shared]


def test_a_line_between_two_switches_is_shared() -> None:
    config = links(parse(DUMBBELL), "a-0")
    assert config.shared == (
        SharedLink(name="e>w", rate_bps=20_000_000), SharedLink(name="w>e", rate_bps=20_000_000)
    )  # fmt: skip
    assert peer(config, "b-1").shared == ("w>e",)
    assert peer(config, "a-1").shared == ()
    assert config.partners == ("a-1", "c")
    assert links(parse(DUMBBELL), "b-0").partners == ("b-1",)
    assert {links(parse(DUMBBELL), name).shared for name in ("a-1", "b-0", "c")} == {config.shared}


@pytest.mark.parametrize(
    ("old", "new", "shared"),
    [
        ("rate: 20mbit", "rate: unlimited", []),  # never a bottleneck
        # All that may come from a side goes through: 3 x 50 one way, 2 x 50 the other.
        ("rate: 20mbit", "rate: 150mbit", []),
        ("rate: 20mbit", "rate: 99mbit", ["e>w", "w>e"]),
        # From the west, no more comes than b's own links let through, however many send.
        ("rate: 20mbit", "rate: 100mbit", []),
        ("{from: b, to: e}", "{from: b, to: e, rate: 9mbit}", []),
        ("{from: b, to: e}", "{from: b, to: e, rate: 9mbit, back: {rate: 50mbit}}", ["w>e"]),
        ("rate: 20mbit", "rate: 20mbit, back: {rate: unlimited}", ["w>e"]),
    ],
)
def test_what_cannot_be_a_bottleneck_is_left_out(old: str, new: str, shared: list[str]) -> None:
    assert names(parse(DUMBBELL.replace(old, new))) == shared


def test_access_links_are_the_kernels() -> None:
    assert names(parse("nodes: 8\nnetwork: {shape: star, link: {rate: 10mbit}}\n")) == []
    assert names(parse("nodes: 8\nnetwork: {shape: full, link: {rate: 10mbit}}\n")) == []


def test_what_one_node_sends_to_several_is_shared_too() -> None:
    text = DUMBBELL.replace("a: 2, b: 2, c: ", "a: {replicas: 1}, b: 2, c: {replicas: 1}")
    alone = text.replace(", c: {replicas: 1}", "").replace("    - {from: c, to: w}\n", "")
    found = LinkPlan.of(parse(alone))
    assert [link.name for link in found.shared] == ["e>w", "w>e"]
    assert found.partners(NodeId("a-0")) == ()


def test_a_line_that_becomes_a_bottleneck_later_is_shared_from_the_start() -> None:
    topology = parse(
        DUMBBELL.replace("rate: 20mbit", "rate: 200mbit"),
        "at: 5s, link: [w, e], set: {rate: 5mbit}, oneway: true",
    )
    config = links(topology, "a-0")
    assert config.shared == (SharedLink(name="w>e", rate_bps=200_000_000),)
    assert config.changes[0].shared == (SharedLink(name="w>e", rate_bps=5_000_000),)
    assert links(topology, "b-0").changes[0].shared == config.changes[0].shared


def test_the_common_link_of_a_group_that_shares() -> None:
    text = (
        "nodes: {g: {replicas: 2, share: true}, b: }\nnetwork:\n  bridges: [s]\n"
        "  links: [{from: g, to: s, rate: 5mbit}, {from: b, to: s, rate: 50mbit}]\n"
    )
    assert names(parse(text)) == ["g-share>s", "s>g-share"]


def test_a_link_that_a_router_carries_others_over_is_shared() -> None:
    nodes = "nodes: {a: , b: {forwards: true}, c: {forwards: true}, d: }"
    found = LinkPlan.of(parse(nodes + "\nnetwork: {shape: line, link: {rate: 9mbit}}\n"))
    # Of a > b, a's kernel sees all, and of c > d that of d. Paths of a and b meet on b > c, and
    # some of them go on to d.
    assert [link.name for link in found.shared] == ["b>c", "c>b"]
    assert found.path(NodeId("a"), NodeId("d")).shared == ("b>c",)
    assert found.path(NodeId("b"), NodeId("c")).shared == ("b>c",)
    assert found.partners(NodeId("b")) == ("a",)


# What changes ------------------------------------------------------------------------------------


def test_a_node_is_told_what_differs_for_it() -> None:
    topology = parse(DUMBBELL, "at: 5s, link: [a-0, w], set: {rate: 2mbit}, oneway: true")
    [change] = links(topology, "a-0").changes
    assert (change.at_ns, change.what) == (5 * SECOND, ("a-0 > w: rate 2mbit",))
    assert change.access == (AccessLink(name="a-0>w", rate_bps=2_000_000),)
    assert [path.name for path in change.peers] == ["a-1", "b-0", "b-1", "c"]
    assert {path.out.rate_bps for path in change.peers if path.out} == {2_000_000}
    [other] = links(topology, "b-0").changes
    assert other.access == ()
    [path] = other.peers
    assert path.into is not None
    assert (path.name, path.into.rate_bps) == ("a-0", 2_000_000)
    assert path.up == "b-0>e"  # all of the path's fields, also those that stay


def test_who_is_not_concerned_is_told_nothing() -> None:
    topology = parse(DUMBBELL, "at: 5s, link: [w, e], set: {loss: 1%}")
    assert [path.name for path in links(topology, "a-0").changes[0].peers] == ["b-0", "b-1"]
    slow = DUMBBELL.replace("rate: 20mbit", "rate: 20mbit, delay: 3ms")
    same = parse(slow, "at: 5s, link: [w, e], set: {delay: 3ms}", "at: 6s, crash: a, count: 1")
    assert links(same, "a-0").changes == ()


def test_paths_go_and_come_back_with_their_links() -> None:
    topology = parse(DUMBBELL, "at: 5s, down: a-0", "at: 9s, up: a-0")
    gone, back = links(topology, "a-0").changes
    assert all(path == PathChange(name=path.name) for path in gone.peers)
    assert peer(links(topology, "a-0"), "b-0").up == "a-0>w"
    assert {path.up for path in back.peers} == {"a-0>w"}
    assert [path.shared for path in back.peers if path.name == "b-0"] == [("w>e",)]


def test_a_node_that_joins_later_is_there_without_paths() -> None:
    topology = parse(DUMBBELL, "at: 5s, join: c")
    made = plan(topology)
    config = next(node.config.links for node in made.nodes if node.name == "c")
    assert {path.out for path in config.peers} == {None}
    assert config.up == (AccessLink(name="c>w", rate_bps=50_000_000),)
    assert all(path.out for path in config.changes[0].peers)
    assert "c" not in {pair.source for pair in made.coordinator.pairs}
    assert [(a.at_ns, a.node, a.verb) for a in made.actions] == [(5 * SECOND, "c", "join")]


def test_what_the_backend_does_is_in_the_plan() -> None:
    topology = parse(
        DUMBBELL,
        "at: 5s, pause: a",
        "at: 7s, resume: a-1",
        "at: 7s, leave: c",
        "at: 9s, restart: c",
    )
    told = [(a.at_ns // SECOND, a.verb, a.node, a.what) for a in plan(topology).actions]
    assert told == [
        (5, "pause", "a-0", "pause a-0"),
        (5, "pause", "a-1", "pause a-1"),
        (7, "resume", "a-1", "resume a-1"),
        (7, "leave", "c", "leave c"),
        (9, "restart", "c", "restart c"),
    ]
    assert plan_from_json(plan_json(plan(topology))) == plan(topology)


def test_changes_by_hand_go_on_from_any_state() -> None:
    """What `deploy link down` needs: a new plan from now on, and the rest of the timeline."""
    topology = parse(DUMBBELL, "at: 5s, link: [w, e], set: {rate: 5mbit}", "at: 9s, down: c")
    before = list(states(topology))[1][2]
    now = before.after(())
    cut = parse(DUMBBELL, "at: 0s, down: [a-0, w]").timeline[0].actions
    rest = [step for step in topology.timeline if step.at_ns > 6 * SECOND]
    made = LinkPlan(
        [(6 * SECOND, (), before), (6 * SECOND, ("down",), now.after(cut)),
         *later(now.after(cut), rest)],
        shared=LinkPlan.of(topology).shared,
    )  # fmt: skip
    assert [link.name for link in made.shared] == ["e>w", "w>e"]
    changes = made.changes(NodeId("a-0"))
    assert [(c.at_ns // SECOND, len(c.peers)) for c in changes] == [(6, 4)]
    assert [c.at_ns // SECOND for c in made.changes(NodeId("b-0"))] == [6, 9]


def replayed(config: LinksConfig) -> list[tuple[int, dict[str, PathChange], dict[str, int | None]]]:
    """All that a node is told, put together: after each change, all of its paths and rates."""
    fields = ("out", "into", "up", "down", "shared")
    paths = {
        p.name: PathChange(name=p.name, **{f: getattr(p, f) for f in fields}) for p in config.peers
    }
    rates = {link.name: link.rate_bps for link in (*config.up, *config.down, *config.shared)}
    found = [(-1, dict(paths), dict(rates))]
    for change in config.changes:
        paths |= {path.name: path for path in change.peers}
        rates |= {link.name: link.rate_bps for link in (*change.access, *change.shared)}
        found.append((change.at_ns, dict(paths), dict(rates)))
    return found


EVENTS = [
    "at: 1s, link: [w, e], set: {rate: 5mbit, delay: 9ms}",
    "at: 1s, down: a-0",
    "at: 2s, link: [a, w], set: {rate: 3mbit}",
    "at: 2s, partition: [[a], [c]]",
    "at: 3s, up: a-0",
    "at: 4s, heal: true",
    "at: 4s, leave: c",
    "from: 1s, until: 8s, flap: [b, e], every: 2s, for: 1s",
    "from: 1s, until: 8s, churn: a, share: 50%, every: 3s, for: 1s",
    "at: 6s, link: [w, e], set: {rate: unlimited}",
    "at: 5s, join: b-1",
]
PAIRS = {"at: 1s, down: a-0": EVENTS[4], "at: 2s, partition: [[a], [c]]": EVENTS[5]}


@settings(deadline=None, max_examples=40)
@given(st.sets(st.sampled_from([e for e in EVENTS if e not in PAIRS.values()]), min_size=1))
def test_what_a_node_is_told_adds_up_to_the_state_of_the_network(chosen: set[str]) -> None:
    listed = [e for e in EVENTS if e in chosen or e in {PAIRS.get(c) for c in chosen}]
    topology = parse(DUMBBELL, *listed)
    whole = LinkPlan.of(topology)
    every = list(states(topology))
    for node in plan(topology).nodes:
        told = replayed(node.config.links)
        assert all(change.peers or change.access or change.shared
                   for change in node.config.links.changes)  # fmt: skip
        for i, (at_ns, _, state) in enumerate(every):
            last = [entry for entry in told if entry[0] <= (at_ns if i else -1)][-1]
            check_state(last, state, node.name, {link.name for link in whole.shared})


def check_state(
    told: tuple[int, dict[str, PathChange], dict[str, int | None]],
    state: NetworkState,
    node: NodeId,
    shared: set[str],
) -> None:
    _, paths, rates = told
    out = state.routes(node)
    for other, path in paths.items():
        way, back = out.get(NodeId(other)), state.routes(NodeId(other)).get(node)
        assert path == PathChange(
            name=NodeId(other),
            out=way.spec if way else None,
            into=back.spec if back else None,
            up=way.links[0].name if way else None,
            down=back.links[-1].name if back else None,
            shared=tuple(k.name for k in way.links if k.name in shared) if way else (),
        )
    specs = {(a, b): spec for (a, b), spec in state.altered}
    for link in state.base.links:
        if link.name in rates:
            spec = specs.get((link.source, link.target), link.spec)
            assert rates[link.name] == spec.rate_bps


# Packing -----------------------------------------------------------------------------------------


def test_a_long_configuration_is_packed_and_read_back() -> None:
    change = LinkChange(at_ns=1, what=("x" * 500,))
    config = plan(parse(DUMBBELL)).nodes[0].config
    assert pack(to_json(config)) == to_json(config)  # short: as it is
    long = replace(config, links=replace(config.links, changes=(change,) * 400))
    text = to_json(long)
    assert len(text) > PLAIN_MAX
    assert len(pack(text)) < len(text) / 10
    assert from_json(NodeConfig, unpack(pack(text))) == long
    assert pack(text) == pack(text)


@given(st.text(max_size=300), st.integers(1, 2000))
def test_any_text_comes_back(text: str, times: int) -> None:
    assert unpack(pack(text * times)) == text * times or (text * times).startswith(PREFIX)


@pytest.mark.parametrize(
    "rest", ["", "!", "abcd", b64encode(zlib.compress(b"x" * 99)[:-9]).decode()]
)
def test_what_was_not_packed_is_refused(rest: str) -> None:
    with pytest.raises(ConfigError, match="not a packed text"):
        unpack(PREFIX + rest)


def test_64_nodes_with_100_flaps_fit_into_the_environment() -> None:
    topology = parse(
        "nodes: 64\nnetwork: {shape: star, link: {rate: 10mbit, delay: 1ms}}\n",
        "from: 0s, until: 100s, flap: n-3, every: 1s, for: 500ms",
    )
    made = plan(topology)
    assert len(made.nodes[3].config.links.changes) == 200
    texts = [to_json(node.config) for node in made.nodes]
    assert max(map(len, texts)) > 128 * 1024  # would not fit as they are
    assert max(len(pack(text)) for text in texts if len(text) > PLAIN_MAX) < 32 * 1024
    assert len(pack(to_json(made.coordinator))) <= PLAIN_MAX


def test_the_examples_share_what_their_comments_say() -> None:
    dumbbell = LinkPlan.of(load_topology(TOPOLOGIES / "dumbbell.yaml"))
    assert {link.name: link.rate_bps for link in dumbbell.shared} == {
        "left>right": 20_000_000, "right>left": 20_000_000
    }  # fmt: skip
    short, long = (dumbbell.path(NodeId(f"near-{i}"), NodeId(f"far-{i}")) for i in (0, 1))
    delays = [
        path.out.delay_ns + path.into.delay_ns for path in (short, long) if path.out and path.into
    ]
    assert delays == [40 * MILLISECOND, 120 * MILLISECOND]
    parking = LinkPlan.of(load_topology(TOPOLOGIES / "parking-lot.yaml"))
    assert [link.name for link in parking.shared] == ["a>b", "b>a", "b>c", "c>b"]
    assert parking.path(NodeId("long-0"), NodeId("long-1")).shared == ("a>b", "b>c")
