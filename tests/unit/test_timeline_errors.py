"""What is wrong with `events:` is said all at once, each with its place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.topology import TopologyErrors, parse_topology

BASE = """\
nodes: {west: 2, east: 3, alone: }
network:
  bridges: [w, e]
  links: [{from: west, to: w}, {from: east, to: e}, {from: alone, to: e}, {from: w, to: e}]
algorithm: {name: divshare}
stop: {rounds: 1}
"""


def problems(*events: str, base: str = BASE) -> list[str]:
    """What is said, with the file's name and line left out where it is the event's own line."""
    text = base + "events:\n" + "".join(f"  - {{{event}}}\n" for event in events)
    with pytest.raises(TopologyErrors) as raised:
        parse_topology(text.encode(), path=Path("t.yaml"))
    return [str(problem) for problem in raised.value.problems]


def only(*events: str, base: str = BASE) -> str:
    [problem] = problems(*events, base=base)
    return problem


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("at: 1s", "an event has one action"),
        ("at: 1s, heal: true, crash: alone", "one action, and here are 2: heal, crash"),
        ("down: [w, e]", "at: this key is missing"),
        ("at: 1s, down: [w, e], set: {rate: 1mbit}", "set: means nothing for `down`"),
        ("flap: [w, e], until: 9s, every: 1s, for: 1s", "from: this key is missing"),
        ("from: 1s, until: 9s, churn: west, every: 2s, for: 1s", "share: this key is missing"),
        ("from: 9s, until: 9s, flap: w, every: 2s, for: 1s", "until: must be after `from`"),
        ("from: 1s, until: 9s, flap: w, every: 2s, for: 3s", "for: must not be longer than"),
        ("from: 1s, until: 9s, churn: west, share: 0%, every: 2s, for: 1s", "above 0%"),
        ("at: 1s, link: [w, e]", "set: says nothing that is to change"),
        ("at: 1s, link: [w, e], set: {}", "set: says nothing that is to change"),
        ("at: 1s, link: [w, e], set: {rate: 1mbit}, back: {delay: 1ms}, oneway: true", "no way"),
        ("at: 1s, down: w, oneway: true", "oneway: means something only for a link"),
        ("at: 1s, partition: []", "partition: names no parts"),
        ("at: 1s, partition: [[west], []]", "partition[1]: a part without nodes"),
        ("at: 1s, partition: [[west], [alone, west-1]]", "[1][1]: 'west-1' is in two parts"),
        ("at: 1s, partition: [[west, east, alone]]", "at least two parts"),
        ("at: 1s, partition: [[w]]", "partition[0][0]: 'w' is a bridge"),
        ("at: 1s, crash: alone, count: 1", "count: 'alone' is one node; a count is of a group"),
        ("at: 1s, crash: west, count: 3", "count: the group 'west' has 2 nodes"),
        ("at: 1s, crash: e", "crash: 'e' is a bridge; crash is for nodes and groups"),
        ("at: 1s, link: [w, e], set: {rate: 5}", "5 has no unit"),
        ("at: 1s, link: [w, e], set: {slot: {least: 2ms, most: 1ms}}", "not be longer than `most`"),
        ("at: 1s, down: [w, west-0, e]", "expected a name, or a link by its two ends"),
        ("at: 1s, down: [w]", "expected two names, such as [w, b]"),
        ("at: 1s, down: W", "'W' is not a name"),
        ("at: 1s, link: [w], set: {rate: 1mbit}", "link: expected two names, such as [a, b]"),
        ("at: 1s, heal: false", "heal: False is not allowed"),
        ("at: 1s, dwon: w", "did you mean 'down'?"),
        ("at: 1, down: w", "1 has no unit"),
    ],
)  # fmt: skip
def test_keys_and_values_that_do_not_fit(event: str, said: str) -> None:
    problem = only(event)
    assert said in problem
    assert problem.startswith("t.yaml:8:")
    assert "events[0]" in problem


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("at: 1s, down: [w, eat]", "no node, group or bridge 'eat'\n  did you mean 'east'?"),
        ("at: 1s, down: wests", "did you mean 'west'?"),
        ("at: 1s, join: aloen", "there is no node or group 'aloen'\n  did you mean 'alone'?"),
        ("at: 1s, partition: [[west], [est-1]]", "partition[1][0]"),
        ("at: 1s, down: [west, e]", "no link between 'west' and 'e'\n  west is linked with: w"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing(event: str, said: str) -> None:
    assert said in only(event)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["at: 1s, up: [w, e]"], "w - e is not down at 1s"),
        (["at: 2s, down: [w, e]", "at: 1s, up: [w, e]"], "events[1].up: w - e is not down at 1s"),
        (["at: 1s, down: w", "at: 2s, up: [w, e]"], "w - e is not down at 2s"),
        (["at: 1s, down: w", "at: 2s, down: w"], "w is down already at 2s"),
        (["at: 1s, heal: true"], "there is no partition to heal at 1s"),
        (["at: 1s, crash: alone", "at: 2s, crash: alone"], "alone has crashed at 2s"),
        (
            ["at: 1s, leave: alone", "at: 2s, pause: alone"],
            "alone has left at 2s\n  then it can only restart",
        ),
        (["at: 1s, resume: alone"], "alone is running at 1s"),
        (["at: 1s, pause: alone", "at: 2s, join: alone"], "alone has not joined yet at 1s"),
        (
            ["at: 1s, crash: east, count: 2", "at: 2s, pause: east, count: 2"],
            "only 1 of east can pause at 2s, not 2",
        ),
        (["from: 0s, until: 700h, flap: w, every: 2ms, for: 1ms"], "more than 20,000 times"),
    ],
)  # fmt: skip
def test_what_cannot_happen_by_then(events: list[str], said: str) -> None:
    assert said in problems(*events)[0]


def test_all_is_said_at_once() -> None:
    said = problems(
        "at: 1s, down: wst", "at: 1s", "at: 1s, crash: nobody", "from: 1s, flap: w", "at: 1s, up: e"
    )
    assert [problem.split(":")[1] for problem in said] == ["8", "9", "10", "11", "11", "11"]
    again = problems("at: 1s, up: w", "at: 1s, up: e")  # right as far as can be told without paths
    assert [problem.split(":")[1] for problem in again] == ["8", "9"]


def test_too_many_links_go_down_to_be_listed() -> None:
    base = (
        "nodes: 300\nnetwork: {shape: full}\noverlay: ring\n"
        + BASE.partition("algo")[1]
        + ("rithm: {name: divshare}\nstop: {rounds: 1}\n")
    )
    said = only("from: 0s, until: 1h, churn: n, share: 50%, every: 2s, for: 1s", base=base)
    assert "more than 500,000 links that go down or up" in said


# What one path cannot have twice -----------------------------------------------------------------

TWO_LINES = """\
nodes: {a: , b: , c: }
network:
  bridges: [s, t]
  links:
    - {from: a, to: s}
    - {from: s, to: t, burst: {enter: 1%, leave: 50%}}
    - {from: t, to: b}
    - {from: t, to: c}
algorithm: {name: divshare}
stop: {rounds: 1}
"""


def test_two_bursts_on_one_path_are_named_with_their_line() -> None:
    text = TWO_LINES.replace("{from: t, to: b}", "{from: t, to: b, burst: {enter: 2%, leave: 9%}}")
    with pytest.raises(TopologyErrors) as raised:
        parse_topology(text.encode(), path=Path("t.yaml"))
    assert str(raised.value) == (
        "t.yaml:7:31: network.links[2].burst: two links with a `burst` on one path: s > t and t > b"
        " on a > s > t > b\n  a path can have one `burst`: give it to fewer links"
    )


def test_two_bursts_that_meet_later_are_found_too() -> None:
    said = only(
        "at: 4s, link: [a, s], set: {burst: {enter: 1%, leave: 50%}}, oneway: true",
        base=TWO_LINES,
    )
    assert said.startswith("t.yaml:")
    assert (
        "two links with a `burst` on one path at 4s (a > s: burst {enter: 1%, leave: 50%})" in said
    )


def test_one_burst_on_each_path_is_fine() -> None:
    text = TWO_LINES.replace(
        "links:\n", "links:\n    - {from: b, to: c, burst: {enter: 1%, leave: 9%}}\n"
    )
    assert parse_topology(text.encode(), path=Path("t.yaml")).timeline == ()


def test_batches_at_both_ends_of_a_star_are_refused() -> None:
    text = (
        "nodes: 3\nnetwork: {shape: star, link: {slot: {least: 1ms, most: 2ms}}}\n"
        "algorithm: {name: divshare}\nstop: {rounds: 1}\n"
    )
    with pytest.raises(TopologyErrors, match=r"t.yaml:2:.*two links with a `slot` on one path"):
        parse_topology(text.encode(), path=Path("t.yaml"))
    up_only = (
        text.replace("link: {slot", "link: {}}\nx: {slot")
        .replace(
            "network: {shape: star, link: {}}\nx: {slot: {least: 1ms, most: 2ms}}}",
            "network: {shape: star}",
        )
        .replace(
            "nodes: 3", "nodes: {n: {replicas: 3, link: {up: {slot: {least: 1ms, most: 2ms}}}}}"
        )
    )
    parse_topology(up_only.encode(), path=Path("t.yaml"))
