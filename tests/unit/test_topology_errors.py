"""A wrong file: all that is wrong, each with line, key and remedy, and never a traceback."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.topology import Problem, TopologyErrors, load_topology, parse_topology, shapes
from node.errors import ConfigError

GOOD = """\
name: good
nodes: {a: 2, b: }
network: {shape: ring, link: {rate: 20mbit}}
algorithm: {name: divshare}
stop: {rounds: 3}
"""


def problems(text: str | bytes, *overrides: str) -> tuple[Problem, ...]:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(raw, path=Path("t.yaml"), overrides=overrides)
    assert caught.value.exit_status == 2
    return caught.value.problems


def only(text: str | bytes, *overrides: str) -> Problem:
    found = problems(text, *overrides)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_all_errors_at_once_with_their_lines() -> None:
    text = inspect.cleandoc("""
        name: Bad Name
        nodes:
          n: {replicas: 3, cpus: 0}
          m: {memory: 5}
        netwrok: 4
        network:
          bridges: [s1]
          links:
            - {from: n, to: s2, rate: 10MBps}
            - {from: n-9, to: s1}
            - {to: s1, dely: 4ms}
        overlay: {edges: [[n-0, n-7], [n-0]]}
        algorithm: {name: divsare, omga: 3}
        training: {dataset: digit, batch_size: 1.5, partition: {kind: shard}}
        stop: {accuracy: 95, rounds: }
        links: of
    """)
    found = [(p.line, p.column, p.key) for p in problems(text)]
    assert found == [
        (1, 7, "name"),
        (3, 26, "nodes.n.cpus"),
        (4, 15, "nodes.m.memory"),
        (5, 1, "netwrok"),
        (9, 21, "network.links[0].to"),
        (9, 31, "network.links[0].rate"),
        (10, 14, "network.links[1].from"),
        (11, 7, "network.links[2].from"),
        (11, 16, "network.links[2].dely"),
        (12, 25, "overlay.edges[0][1]"),
        (12, 31, "overlay.edges[1]"),
        (13, 19, "algorithm.name"),
        (14, 21, "training.dataset"),
        (14, 40, "training.batch_size"),
        (14, 63, "training.partition.kind"),
        (15, 18, "stop.accuracy"),
        (15, 22, "stop.rounds"),
        (16, 8, "links"),
    ]


def test_one_problem_reads_well() -> None:
    problem = only(changed("rate: 20mbit", "rate: 20"))
    assert str(problem) == (
        "t.yaml:3:37: network.link.rate: 20 has no unit: write a rate such as 10mbit"
    )
    problem = only(changed("rate: 20mbit", "rte: 20mbit"))
    assert str(problem) == (
        "t.yaml:3:31: network.link.rte: unknown key\n"
        "  did you mean 'rate'? keys here: rate, delay, jitter, loss, burst, duplicate, corrupt, "
        "reorder, order, queue, slot"
    )


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        # values
        ("20mbit", "20", "network.link.rate", "no unit"),
        ("20mbit", "20MBps", "network.link.rate", "unknown unit 'MBps'"),
        ("20mbit", "-1mbit", "network.link.rate", "not a rate"),
        ("20mbit", "1bit", "network.link.rate", "at least 1kbit"),
        ("20mbit", "900gbit", "network.link.rate", "at most 400gbit"),
        ("rate: 20mbit", "loss: 100%", "network.link.loss", "at most 99.9%"),
        ("rate: 20mbit", "loss: 0.01", "network.link.loss", "no unit"),
        ("rate: 20mbit", "delay: 10", "network.link.delay", "no unit"),
        ("rate: 20mbit", "delay: 2h", "network.link.delay", "at most 60s"),
        ("a: 2", "a: two", "nodes.a", "expected a mapping of keys, not 'two'"),
        ("a: 2", "a: 0", "nodes.a.replicas", "greater than or equal to 1"),
        ("a: 2", "a: 9999", "nodes", "at most 4096"),
        ("rounds: 3", "rounds: 1.5", "stop.rounds", "expected a whole number, not 1.5"),
        ("rounds: 3", "time: 0s", "stop.time", "above"),
        ("rounds: 3", "accuracy: 0.95", "stop.accuracy", "no unit"),
        # allowed words
        ("shape: ring", "shape: rnig", "network.shape", "'rnig' is not allowed"),
        ("divshare", "dpsgdd", "algorithm.name", "'dpsgdd' is not allowed"),
        # names
        ("b: ", "coordinator: ", "nodes.coordinator", "name of the coordinator"),
        ("b: ", "b_c: ", "nodes.b_c", "is not a name"),
        ("b: ", "B: ", "nodes.B", "is not a name"),
        ("b: ", "b-: ", "nodes.b-", "is not a name"),
        ("b: ", f"{'b' * 41}: ", f"nodes.{'b' * 41}", "is not a name"),
        ("b: ", "a-1: ", "nodes.a-1", "'a-1' comes from the group 'a' too"),
        ("name: good", "name: No good", "name", "is not a name"),
        # keys
        ("stop: {rounds: 3}", "", "stop", "missing"),
        ("rounds: 3", "", "stop", "at least one condition"),
        ("rounds: 3", "rounds: ", "stop.rounds", "no value"),
        ("rounds: 3", "rounds: 3, rounds: 4", "stop.rounds", "stands here twice"),
        ("nodes: {a: 2, b: }", "nodes: {}", "nodes", "must not be empty"),
        # together
        ("shape: ring", "shape: ring, degree: 3", "network.degree", "no such option"),
        ("shape: ring", "shape: random-regular", "network.degree", "needs it"),
        ("shape: ring", "shape: random-regular, degree: 3", "network.degree", "at most 2"),
        ("shape: ring", "shape: random-regular, degree: 1", "network.degree", "must be even"),
        ("shape: ring", "shape: small-world, degree: 1", "network.degree", "even degree"),
        ("shape: ring", "bridges: [s]", "network", "needs a `shape`"),
        ("shape: ring", "shape: ring, bridges: [s]", "network.bridges", "not both"),
        ("shape: ring", "shape: star", "nodes.switch", "name of the switch"),
        ("{name: divshare}", "{name: divshare, omga: 1}", "algorithm.omga", "unknown option"),
        ("{name: divshare}", "{name: divshare, omega: 7}", "algorithm.omega", "at most 1"),
        ("{name: divshare}", "{name: divshare, degree: x}", "algorithm.degree", "expected int"),
        (
            "name: good",
            "training: {partition: {kind: iid, alpha: 1.0}}",
            "training.partition.alpha",
            "only with `kind: dirichlet`",
        ),
        ("name: good", "deadlines: {lease: 600ms}", "deadlines.lease", "two heartbeats"),
        ("name: good", "overlay: {shape: ring, center: a-0}", "overlay.center", "only with"),
        ("name: good", "overlay: {shape: star, center: c}", "overlay.center", "no node 'c'"),
        ("name: good", "overlay: {edges: [[b, b]]}", "overlay.edges[0]", "to itself"),
        ("name: good", "overlay: {edges: [[a-0, a-1]]}", "overlay", "2 parts that never exchange"),
    ],
)
def test_what_is_refused(old: str, new: str, key: str, says: str) -> None:
    text = changed(old, new)
    if key == "nodes.switch":
        text = text.replace("b: ", "switch: ")
    problem = only(text)
    assert problem.key == key
    assert says in problem.message
    assert problem.line is not None


LINKS = """\
nodes: {a: , b: , c: }
network:
  bridges: [s]
  links:
    - {from: a, to: s}
    - {from: b, to: s}
    - {from: c, to: s}
algorithm: {name: divshare}
stop: {rounds: 3}
"""


@pytest.mark.parametrize(
    ("entry", "line", "key", "says"),
    [
        ("{from: a, to: s}", 8, "network.links[3]", "second link between 'a' and 's'"),
        ("{from: s, to: a}", 8, "network.links[3]", "second link"),
        ("{from: a, to: a}", 8, "network.links[3]", "from 'a' to itself"),
        ("{from: a, to: x}", 8, "network.links[3].to", "no node, group or bridge 'x'"),
        ("{from: a}", 8, "network.links[3].to", "missing"),
        (
            "{from: a, to: b, oneway: true, back: {rate: 1mbit}}",
            8,
            "network.links[3].back",
            "no way",
        ),
        ("{from: a, to: b, oneway: yes}", 8, "network.links[3].oneway", "true or false"),
    ],
)
def test_wrong_links(entry: str, line: int, key: str, says: str) -> None:
    problem = only(LINKS.replace("algorithm:", f"    - {entry}\nalgorithm:"))
    assert (problem.line, problem.key) == (line, key)
    assert says in problem.message


def test_bridges_are_named_once_and_apart_from_nodes() -> None:
    assert "a node too" in only(LINKS.replace("[s]", "[s, a]")).message
    assert "twice" in only(LINKS.replace("[s]", "[s, s]")).message


def test_an_exchange_without_a_path_names_the_pair() -> None:
    text = LINKS.replace("    - {from: c, to: s}\n", "    - {from: c, to: s, oneway: true}\n")
    found = problems(text + "overlay: full\n")
    assert [p.message for p in found] == [
        "a and c are to exchange, but the network has no path a -> c",
        "b and c are to exchange, but the network has no path b -> c",
    ]
    assert all(p.key == "overlay" and p.line == 10 for p in found)


def test_a_random_graph_that_does_not_connect_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_TRIES", 1)
    text = changed("a: 2, b: ", "a: 400").replace("shape: ring", "shape: random-regular, degree: 2")
    problem = only(text)
    assert (problem.key, problem.line) == ("network.shape", 3)
    assert "none of them connected" in problem.message


def test_thousands_of_mistakes_are_told_briefly() -> None:
    links = "".join(f"    - {{from: a, to: x{i}}}\n" for i in range(2000))
    found = problems(LINKS.replace("algorithm:", f"{links}algorithm:"))
    assert len(found) <= 60


# Files that are no topology ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "line", "says"),
    [
        (b"", None, "empty"),
        (b"# only a comment\n", None, "empty"),
        (b"- a\n- b\n", None, "must be a mapping"),
        (b"a: 1\n\tb: 2\n", 2, "\\t"),
        (b"a: [1\n", 2, "expected ',' or ']'"),
        (b"a: b: c\n", 1, "mapping values are not allowed here"),
        (b"a: 1\n---\nb: 1\n", 2, "another document"),
        (b"a: *x\n", 1, "undefined alias"),
        (b"name: x\n\nseed: \x07\n", 3, "#x07 is not allowed"),
        (b"\x7fELF\x00\x01\xff\xfe", None, "not a text file"),
        (b"[" * 3000, None, "nested too deeply"),
        (b"a: &a [*a]\n", 1, "nested too deeply, or an alias of what it stands in"),
        (b"#" * (2 << 20), None, "more than 1 MiB"),
    ],
)
def test_what_is_no_topology_file_at_all(raw: bytes, line: int | None, says: str) -> None:
    problem = only(raw)
    assert says in problem.message
    assert problem.line == line


def test_a_tab_is_named() -> None:
    assert only(b"a: 1\n\tb: 2\n").hint == "a tab: indent with spaces"


def test_tags_are_not_followed() -> None:
    problem = only(GOOD + "seed: !!python/object/apply:os.system [true]\n")
    assert problem.key == "seed"
    problem = only(GOOD + "seed: !!python/name:os.system x\n")
    assert "is not supported" in problem.message


@pytest.mark.timeout(20)
def test_a_bomb_of_aliases_is_defused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "more than 100000 values" in only("\n".join(lines)).message


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "ring.yaml").write_text(GOOD)
    with pytest.raises(
        ConfigError, match=r"rng\.yaml: there is no such file\n.*did you mean .*ring"
    ):
        load_topology(tmp_path / "rng.yaml")


@pytest.mark.parametrize(
    ("path", "says"), [(".", "is a folder"), ("/dev/null", "not a plain file"), ("a\0b", "cannot")]
)
def test_what_is_no_file(path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_topology(Path(path))


# --set -------------------------------------------------------------------------------------------


def test_set_is_checked_like_the_file_and_named_instead_of_a_line() -> None:
    problem = only(GOOD, "network.link.rate=5")
    assert str(problem) == (
        "--set network.link.rate=5: network.link.rate: 5 has no unit: write a rate such as 10mbit"
    )
    assert problem.line is None


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("seed", "write --set KEY=VALUE"),
        ("=3", "write --set KEY=VALUE"),
        ("a..b=3", "write --set KEY=VALUE"),
        ("seed=", "empty"),
        ("stop=[", "not valid YAML"),
        ("netwrok.link.rate=5mbit", "unknown key"),
        ("seed.x=3", "expected a whole number"),
        ("name.x=3", "has no 'x' in it"),
        ("network.links.0.rate=5mbit", "has no"),
        ("algorithm.omega=7", "at most 1"),
        ("nodes.a.replicas=none", "a whole number"),
    ],
)
def test_wrong_options(option: str, says: str) -> None:
    found = problems(GOOD, option)
    assert any(says in p.message for p in found)
    assert any(f"--set {option}" in p.file for p in found)


def test_file_and_options_are_judged_together() -> None:
    found = problems(changed("rate: 20mbit", "rate: 20"), "stop.rounds=x", "seed=-1")
    assert {(p.key, p.line) for p in found} == {
        ("network.link.rate", 3),
        ("stop.rounds", None),
        ("seed", None),
    }


# Whatever else -----------------------------------------------------------------------------------

WORDS = ["nodes", "network", "shape", "ring", "links", "from", "a", "3", "20mbit", "-1", "off"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = [
    "name", "seed", "nodes", "nodes.a", "nodes.a.replicas", "nodes.a.link", "network",
    "network.shape", "network.link", "network.link.rate", "network.links", "network.bridges",
    "network.degree", "overlay", "overlay.edges", "overlay.center", "algorithm", "algorithm.name",
    "algorithm.omega", "training", "training.partition", "stop", "stop.rounds", "links",
    "deadlines",
]  # fmt: skip


def attempt(raw: bytes, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """What is wrong with it, which may be nothing; anything but TopologyErrors passes through."""
    try:
        parse_topology(raw, path=Path("t.yaml"), overrides=overrides)
    except TopologyErrors as error:
        return error.problems or pytest.fail("an error that names nothing")
    return ()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(KEYS), values), min_size=1, max_size=4))
def test_no_value_anywhere_ends_in_a_traceback(changes: list[tuple[str, object]]) -> None:
    options = [f"{key}={json.dumps(value)}" for key, value in changes]
    assert all(p.message for p in attempt(GOOD.encode(), options))


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.text(max_size=3), st.integers(0, 4))
def test_no_slip_of_the_finger_ends_in_a_traceback(at: int, typed: str, deleted: int) -> None:
    text = GOOD[:at] + typed + GOOD[at + deleted :]
    assert all(p.message for p in attempt(text.encode(errors="replace")))


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_no_bytes_end_in_a_traceback(raw: bytes) -> None:
    assert attempt(raw)
