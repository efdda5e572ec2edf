"""From one format to another and back: the same network, overlay and timeline."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli import cli
from deploy.convert import convert
from deploy.topology import Topology, load_topology, parse_topology
from deploy.topology.formats.kollaps_writer import to_kollaps
from deploy.topology.formats.yaml_writer import to_data, to_yaml
from node.errors import ConfigError
from tests.unit.test_formats_kollaps import STAR, TWO, whole, xml

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
KOLLAPS = sorted((TOPOLOGIES / "kollaps").glob("*.xml"))
OTHERS = [TOPOLOGIES / "abilene.graphml", TOPOLOGIES / "regions.csv"]


def from_xml(text: str) -> Topology:
    return parse_topology(text.encode(), path=Path("test.xml"))


def from_yaml(text: str) -> Topology:
    return parse_topology(text.encode(), path=Path("test.yaml"))


def happening(topology: Topology) -> list[tuple[int, list[str]]]:
    """The timeline, simultaneous actions in an order that says nothing."""
    return [(step.at_ns, sorted(map(repr, step.actions))) for step in topology.timeline]


def assert_same(one: Topology, other: Topology) -> None:
    assert one.network == other.network
    assert one.overlay == other.overlay
    assert happening(one) == happening(other)


def there_and_back(first: Topology) -> None:
    """XML (as read) -> YAML -> XML -> YAML."""
    second = from_yaml(to_yaml(first.file))
    assert second.file == first.file
    text, _ = to_kollaps(second, image="app:1", source="test.yaml")
    third = from_xml(text)
    assert_same(first, third)
    assert_same(first, from_yaml(to_yaml(third.file)))


# Round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", KOLLAPS, ids=lambda path: path.stem)
def test_the_examples_go_there_and_back(path: Path) -> None:
    there_and_back(load_topology(path))


@st.composite
def kollaps_files(draw: st.DrawFn) -> str:
    """Services on a tree of bridges, with links of all kinds and events that can happen."""

    def chance(percent: int) -> bool:
        return draw(st.integers(0, 99)) < percent

    def values(*, change: bool) -> str:
        given = []
        if not change or chance(50):
            given.append(f'latency="{draw(st.integers(0, 4000)) / 16}"')
        if not change or chance(50) or not given:
            given.append(f'upload="{draw(st.integers(1, 900))}{draw(st.sampled_from("KM"))}bps"')
        if chance(30):
            given.append(f'jitter="{draw(st.integers(0, 80)) / 8}"')
        if chance(30):
            given.append(f'drop="{draw(st.integers(0, 900)) / 1000}"')
        if chance(60):
            given.append(f'download="{draw(st.integers(1, 900))}Mbps"')
        return " ".join(given)

    bridges = [f"s{i}" for i in range(draw(st.integers(1, 4)))]
    services = [f"c{i}" for i in range(draw(st.integers(2, 4)))]
    replicas = {name: draw(st.integers(1, 3)) for name in services}
    ends = [(a, draw(st.sampled_from(bridges))) for a in services]
    ends += [(b, bridges[draw(st.integers(0, i))]) for i, b in enumerate(bridges[1:])]
    if chance(30):  # services with several links, which forward
        ends.append((services[0], services[1]))
    links, both = [], []
    for a, b in ends:
        text = values(change=False)
        links.append(f'<link origin="{a}" dest="{b}" {text} network="n"/>')
        if "download" in text:
            both.append((b, a))
        else:  # a way back, so that all is connected
            back = re.sub(r'download="\w+"', "", values(change=False))
            links.append(f'<link origin="{b}" dest="{a}" {back} network="n"/>')
            both.append((b, a))
    events, dynamic = [], ""
    ways = ends + both
    for _ in range(draw(st.integers(0, 6))):
        time = f'time="{draw(st.integers(0, 160)) / 8}"'
        a, b = draw(st.sampled_from(ways))
        match draw(st.sampled_from(["change", "link", "bridge"])):
            case "change":
                events.append(f'<schedule origin="{a}" dest="{b}" {time} {values(change=True)}/>')
            case "link":
                action = draw(st.sampled_from(["join", "leave"]))
                events.append(f'<schedule origin="{a}" dest="{b}" {time} action="{action}"/>')
            case "bridge":
                action = draw(st.sampled_from(["join", "leave"]))
                name = draw(st.sampled_from(bridges))
                events.append(f'<schedule name="{name}" {time} action="{action}"/>')
    for name in services if events or chance(50) else ():
        events += draw(service_events(name, replicas[name]))
    if events:
        dynamic = "\n".join(draw(st.permutations(events)))
    attributes = {
        name: (f'replicas="{replicas[name]}"', 'share="true"' if chance(30) else "")
        for name in services
    }
    return xml(
        services="".join(
            f'<service name="{n}" image="i" {" ".join(attributes[n])}/>' for n in services
        ),
        links="\n".join(links),
        bridges="".join(f'<bridge name="{b}"/>' for b in bridges),
        dynamic=dynamic,
        config='<c shortest_path="latency"/>' if chance(50) else "",
    )


@st.composite
def service_events(draw: st.DrawFn, name: str, replicas: int) -> list[str]:
    """What can happen to a service, in time: the numbers add up."""
    here, disconnected, gone, clock = 0, 0, replicas, 0.0
    made = []
    if draw(st.booleans()):
        made.append(("join", replicas, 0.0))
        here, gone = replicas, 0
    for _ in range(draw(st.integers(0, 5))):
        clock += draw(st.sampled_from([0.25, 1.0, 3.5]))
        possible = {"join": gone, "leave": here - disconnected, "crash": here - disconnected}
        possible |= {"disconnect": here - disconnected, "reconnect": disconnected}
        actions = sorted(action for action, most in possible.items() if most)
        action = draw(st.sampled_from(actions))
        amount = draw(st.integers(1, possible[action]))
        made.append((action, amount, clock))
        here += {"join": amount, "leave": -amount, "crash": -amount}.get(action, 0)
        gone -= {"join": amount, "leave": -amount, "crash": -amount}.get(action, 0)
        disconnected += {"disconnect": amount, "reconnect": -amount}.get(action, 0)
    if not any(action == "join" for action, _, _ in made):
        made = []  # without a join all of them are there, and the numbers are others
    return [
        f'<schedule name="{name}" time="{time}" action="{action}" amount="{amount}"/>'
        for action, amount, time in made
    ]


@settings(max_examples=80, deadline=None)
@given(kollaps_files())
def test_any_kollaps_file_goes_there_and_back(text: str) -> None:
    there_and_back(from_xml(text))


@pytest.mark.parametrize("name", ["ring", "star", "line"])
def test_our_own_files_stay_the_same_as_yaml(name: str) -> None:
    first = load_topology(TOPOLOGIES / f"{name}.yaml")
    second = from_yaml(to_yaml(first.file, source="a file"))
    assert second.file == first.file
    assert_same(first, second)


def test_what_is_not_given_stays_away_and_what_is_given_stays() -> None:
    text = (
        "nodes: {a: {link: {delay: 0ms}}, b: 1, c: }\n"
        "network: {shape: star, link: {rate: 5mbit, delay: 3ms}}\n"
        'algorithm: {name: divshare, omega: 0.5}\nstop: {rounds: 3}\nname: "on"\n'
    )
    data = to_data(from_yaml(text).file)
    expected: dict[str, Any] = {
        "name": "on",
        "nodes": {"a": {"link": {"delay": "0ms"}}, "b": 1, "c": None},
        "network": {"shape": "star", "link": {"rate": "5mbit", "delay": "3ms"}},
        "algorithm": {"name": "divshare", "omega": 0.5},
        "stop": {"rounds": 3},
    }
    assert data == expected


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.suffix)
def test_graphs_and_matrices_become_yaml(path: Path) -> None:
    first = load_topology(path)
    assert_same(first, from_yaml(to_yaml(first.file)))


# To Kollaps --------------------------------------------------------------------------------------


def kollaps(yaml: str) -> tuple[str, list[str]]:
    rest = "\nalgorithm: {name: divshare}\nstop: {rounds: 3}\n"
    return to_kollaps(from_yaml(yaml + rest), image="app:1", source="a--b.yaml")


def test_groups_stay_replicas_where_the_file_lists_its_links() -> None:
    text, _ = kollaps(
        "nodes: {a: , b: {replicas: 3, share: true}}\n"
        "network: {bridges: [s], link: {rate: 5mbit}, links: [{from: a, to: s, delay: 1ms},"
        " {from: b, to: s, delay: 2ms, back: {rate: 1500kbit}}]}\n"
        "events: [{at: 3s, crash: b-0}, {at: 4s, leave: b-1}, {at: 9s, down: [a, s]}]"
    )
    assert '<service name="b" image="app:1" replicas="3" share="true" />' in text
    assert '<schedule name="b" time="0" action="join" amount="3" />' in text
    assert 'upload="5Mbps" download="1500Kbps"' in text
    assert_same(from_xml(text), from_xml(text))


def test_shapes_become_single_links() -> None:
    text, warnings = kollaps(
        "nodes: {n: {replicas: 3, cpus: 0.5}}\n"
        "network: {shape: star, link: {rate: 5mbit, delay: 1ms}}"
    )
    assert text.count("<service ") == text.count("<link ") == 3
    assert '<bridge name="switch" />' in text
    assert any("algorithm, stop, nodes.cpus" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("nodes: 3\nnetwork: {shape: star, link: {duplicate: 1%}}", "Kollaps cannot say duplicate"),
        ("nodes: 3\nnetwork: {shape: star, link: {rate: 1500bit}}", "no whole number of Kbps"),
        ("nodes: 4\nnetwork: {shape: line, link: {rate: 1mbit}}", "put bridges between the nodes"),
        (
            "nodes: 3\nnetwork: {shape: star, link: {rate: 1mbit}}\n"
            "events: [{at: 1s, partition: [[n-0], [n-1, n-2]]}, {at: 2s, heal: true}]",
            "Kollaps cannot say partitions",
        ),
    ],
)
def test_what_would_change_the_network_is_an_error_by_name(yaml: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        kollaps(yaml)


def test_what_does_not_change_the_network_is_a_warning_by_name() -> None:
    text, warnings = kollaps(
        "nodes: 3\nnetwork: {shape: star}\n"
        "events: [{at: 1s, pause: n-0}, {at: 2s, resume: n-0}, {at: 3s, restart: n-1}]"
    )
    assert any("pause, resume" in warning for warning in warnings)
    assert any("no unlimited rates" in warning for warning in warnings)
    assert text.count('action="crash"') == 1
    assert 'upload="400Gbps"' in text


def test_an_overlay_of_edges_becomes_active_paths() -> None:
    text, _ = kollaps("nodes: 4\nnetwork: {shape: star, link: {rate: 1mbit}}\noverlay: ring")
    assert """activepaths="['n-1','n-3']\"""" in text


# The command -------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["convert", *arguments], standalone_mode=False)
    status = result.return_value if result.exception is None else result.exception
    return status, result.stdout, result.stderr


def test_convert_writes_a_file_and_refuses_to_overwrite_it(tmp_path: Path) -> None:
    source, target = tmp_path / "a.xml", tmp_path / "b.yaml"
    source.write_text(xml(dynamic=whole("ab", '<schedule name="s" time="1" action="leave"/>')))
    status, out, err = run(str(source), str(target))
    assert status == 0
    assert "2 nodes, 4 directed links, 1 steps" in out
    assert f"warning: {source}:1:1: not used here: boot, image, network" in err
    assert_same(load_topology(source), load_topology(target))
    target.write_text("mine")
    status, _, _ = run(str(source), str(target))
    assert isinstance(status, ConfigError)
    assert "is there already" in str(status)
    assert target.read_text() == "mine"
    assert run(str(source), str(target), "--force")[0] == 0
    assert target.read_text().startswith("# From a.xml")


def test_convert_prints_yaml_without_a_target() -> None:
    status, out, _ = run(str(TOPOLOGIES / "regions.csv"), "--set", "network.link.rate=5mbit")
    assert status == 0
    assert from_yaml(out).network.links[0].spec.rate_bps == 5_000_000


def test_convert_refuses_what_it_cannot_write_and_its_own_source(tmp_path: Path) -> None:
    source = tmp_path / "a.xml"
    source.write_text(xml())
    for target, reason in ((tmp_path / "b.graphml", "cannot write"), (source, "to read from")):
        with pytest.raises(ConfigError, match=reason):
            convert(source, target, sets=(), image=None, force=True)
    with pytest.raises(ConfigError, match="there is no such file"):
        convert(tmp_path / "no.xml", None, sets=(), image=None, force=False)
    assert list(tmp_path.iterdir()) == [source]


def test_validate_shows_warnings_and_says_them_in_json(tmp_path: Path) -> None:
    source = tmp_path / "a.xml"
    source.write_text(xml(services=TWO, links=STAR))
    result = CliRunner().invoke(cli, ["validate", str(source)], standalone_mode=False)
    assert f"warning: {source}:1:1: not used here" in result.stderr
    result = CliRunner().invoke(cli, ["validate", "--json", str(source)], standalone_mode=False)
    assert '"warnings": [' in result.stdout
    assert not result.stderr


def test_a_run_folder_gets_yaml_whatever_was_read() -> None:
    for path in itertools.chain(KOLLAPS, OTHERS):
        topology = load_topology(path)
        assert_same(topology, from_yaml(topology.yaml))
    ring = load_topology(TOPOLOGIES / "ring.yaml")
    assert ring.yaml == (TOPOLOGIES / "ring.yaml").read_text()
