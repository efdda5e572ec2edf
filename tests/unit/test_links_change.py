"""Changes of links: the lines that make them lead where a fresh start would, and touch no more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import (
    AccessLink,
    Burst,
    Emulator,
    LinkChange,
    LinksConfig,
    PathChange,
    PathSpec,
    PeerLink,
    Replan,
    SharedLink,
    Slot,
    to_json,
)
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links import orders
from node.links.tc_change import after, alter, ceiling_commands, under
from node.links.tc_plan import IFB, LinkCommands, impaired, plan_commands
from node.units import MILLISECOND, SECOND

COORDINATOR = "10.9.255.250"
ACCESS = ("a", "b")
emulators = st.sampled_from([Emulator.NETEM, Emulator.NFQUEUE])
rates = st.none() | st.integers(8_000, 10**10)
shares = st.sampled_from([0.0, 0.01, 0.5])
paths = st.none() | st.builds(
    PathSpec,
    rate_bps=rates,
    delay_ns=st.integers(0, SECOND),
    jitter_ns=st.sampled_from([0, MILLISECOND]),
    loss=shares,
    corrupt=shares,
    reorder=shares,
    slot=st.none() | st.just(Slot(least_ns=1000, most_ns=2000)),
    burst=st.none() | st.just(Burst(enter=0.01, leave=0.3)),
)
ends = st.sampled_from([None, *ACCESS])


@st.composite
def cases(draw: st.DrawFn) -> tuple[LinksConfig, LinkChange]:
    names = [NodeId(f"n{i}") for i in range(draw(st.integers(1, 6)))]
    links = LinksConfig(
        up=tuple(AccessLink(name=name, rate_bps=draw(rates)) for name in ACCESS),
        down=tuple(AccessLink(name=name, rate_bps=draw(rates)) for name in ACCESS),
        peers=tuple(
            PeerLink(
                name=name, host=f"10.9.0.{i + 1}", port=7000, out=draw(paths), into=draw(paths),
                up=draw(ends), down=draw(ends),
            )
            for i, name in enumerate(names)
        ),
    )  # fmt: skip
    moved = draw(st.lists(st.sampled_from(names), unique=True))
    change = LinkChange(
        at_ns=0,
        peers=tuple(
            PathChange(name=name, out=draw(paths), into=draw(paths), up=draw(ends), down=draw(ends))
            for name in moved
        ),
        access=tuple(
            AccessLink(name=name, rate_bps=draw(rates))
            for name in draw(st.lists(st.sampled_from(ACCESS), unique=True))
        ),
    )
    return links, change


def plan(links: LinksConfig, emulator: Emulator) -> LinkCommands:
    return plan_commands(links, coordinator_host=COORDINATOR, emulator=emulator)


class Kernel:
    """What tc lines make of classes, queues and filters, with the kernel's own refusals."""

    def __init__(self) -> None:
        self.classes: dict[tuple[str, str], list[str]] = {}
        self.queues: dict[tuple[str, str], list[str]] = {}
        self.filters: dict[tuple[str, str], str] = {}

    def run(self, commands: Iterable[tuple[str, ...]]) -> None:
        for tc, kind, verb, *words in commands:
            if tc == "tc":
                getattr(self, f"_{kind}")(verb, words[1], words)

    def _class(self, verb: str, device: str, words: list[str]) -> None:
        key = (device, words[words.index("classid") + 1])
        if verb == "del":
            used = {flow for (where, _), flow in self.filters.items() if where == device}
            assert key[1] not in used, "HTB class in use"
            del self.classes[key]
            self.queues.pop(key, None)
            return
        assert (key in self.classes) is (verb == "change"), (verb, key)
        settings = [words[words.index("parent") + 1], *words[words.index("htb") :]]
        if verb == "change":
            assert settings[0] == self.classes[key][0], "a class cannot change its parent"
        self.classes[key] = settings

    def _qdisc(self, verb: str, device: str, words: list[str]) -> None:
        if "parent" not in words:
            return
        key = (device, words[words.index("parent") + 1])
        queue = words[words.index("parent") + (4 if "handle" in words else 2) :]
        there = self.queues.get(key)
        if verb == "add":
            assert there is None, "exists"
        elif verb == "change":
            assert there is not None
            assert there[0] == queue[0], "must match existing qdisc"
            queue = self._netem(there, queue)
        else:
            assert "handle" not in words, "must match existing qdisc"
        self.queues[key] = queue

    def _netem(self, there: list[str], queue: list[str]) -> list[str]:
        """netem keeps what is not named of some things (`netem_change`); zero is nothing."""
        if queue[0] != "netem":
            return queue
        for name in ("corrupt", "slot", "rate"):
            assert name not in there or name in queue, f"the kernel would keep {name}"
        text = " ".join(queue)
        for nothing in (" corrupt 0%", " slot 0us 0us", " rate 0bit", " reorder 0%"):
            text = text.replace(nothing, "")
        return text.split()

    def _filter(self, verb: str, device: str, words: list[str]) -> None:
        if "flowid" not in words or "handle" not in words:
            return
        key = (device, words[words.index("handle") + 1])
        assert (key in self.filters) is (verb == "replace"), (verb, key)
        self.filters[key] = words[words.index("flowid") + 1]

    def state(self) -> dict[str, Any]:
        return {"classes": self.classes, "queues": self.queues, "filters": self.filters}


@given(cases(), emulators)
def test_a_change_leads_where_a_fresh_start_would(
    case: tuple[LinksConfig, LinkChange], emulator: Emulator
) -> None:
    links, change = case
    before, new = plan(links, emulator), after(links, change)
    altered = alter(before, new, coordinator_host=COORDINATOR)
    changed, fresh = Kernel(), Kernel()
    changed.run(before.commands)
    changed.run(altered.commands)
    fresh.run(plan(new, emulator).commands)
    assert changed.state() == fresh.state()
    wanted = plan(new, emulator)
    assert altered.plan.leaves == wanted.leaves
    assert altered.plan.trees == wanted.trees
    assert altered.plan.delays == wanted.delays
    assert wanted.queues.items() <= altered.plan.queues.items()
    assert [d for d in wanted.delays if d not in before.delays] == [
        d for d in altered.delays if d in wanted.delays
    ]


@given(cases(), emulators)
def test_a_change_touches_no_peer_that_it_is_not_about(
    case: tuple[LinksConfig, LinkChange], emulator: Emulator
) -> None:
    links, change = case
    change = replace(change, access=())
    before, new = plan(links, emulator), after(links, change)
    altered = alter(before, new, coordinator_host=COORDINATOR)
    moved = [(p.up, p.down) for p in links.peers] != [(p.up, p.down) for p in new.peers]
    if moved:
        return  # their guarantees are divided anew
    assert set(altered.peers) <= {entry.name for entry in change.peers}
    own = {leaf.classid for leaf in before.leaves if leaf.peer in altered.peers}
    for command in altered.commands:
        named = [word for word in command if word.startswith("1:") and len(word) > 4]
        assert set(named) <= own


@given(cases(), emulators)
def test_no_change_is_no_command(case: tuple[LinksConfig, LinkChange], emulator: Emulator) -> None:
    links, _ = case
    altered = alter(plan(links, emulator), links, coordinator_host=COORDINATOR)
    assert altered.commands == ()
    assert altered.delays == ()
    assert altered.peers == ()


def one(path: PathSpec | None, **more: Any) -> LinksConfig:
    peer = PeerLink(name=NodeId("b"), host="10.9.0.2", port=1, out=path, into=path, up="dsl")
    return LinksConfig(peers=(peer,), up=(AccessLink(name="dsl"),), **more)


def lines(before: LinksConfig, change: LinkChange, emulator: Emulator) -> list[str]:
    made = alter(plan(before, emulator), after(before, change), coordinator_host=COORDINATOR)
    return [" ".join(command) for command in made.commands]


PATH = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND)


def to(path: PathSpec | None, **more: Any) -> LinkChange:
    entry = PathChange(name=NodeId("b"), out=path, into=path, up="dsl" if path else None)
    return LinkChange(at_ns=0, peers=(entry,), **more)


def test_the_lines_of_a_rate() -> None:
    assert lines(one(PATH), to(replace(PATH, rate_bps=5_000_000)), Emulator.NFQUEUE) == [
        "tc class change dev eth0 parent 1:10 classid 1:1000 htb rate 5000000bit ceil 5000000bit"
        " burst 1600 cburst 1600 quantum 1514",
        "tc qdisc change dev eth0 parent 1:1000 bfifo limit 96896",
    ]


def test_a_path_that_goes_loses_its_queue_on_both_sides_and_stays_where_it_was() -> None:
    gone = to(None)
    for emulator in (Emulator.NFQUEUE, Emulator.NETEM):
        made = lines(one(PATH), gone, emulator)
        assert "tc qdisc replace dev eth0 parent 1:1000 pfifo limit 0" in made
        assert f"tc qdisc replace dev {IFB} parent 1:1000 pfifo limit 0" in made
        assert not [line for line in made if " class del " in line or " filter " in line]
    assert after(one(PATH), gone).peers[0].up == "dsl"
    delays = alter(
        plan(one(PATH), Emulator.NFQUEUE), after(one(PATH), gone), coordinator_host=COORDINATOR
    ).delays
    assert [delay.path for delay in delays] == [None]


def test_shares_of_interior_links_are_ceilings_and_nothing_else() -> None:
    made = plan(one(PATH), Emulator.NFQUEUE)
    b = NodeId("b")
    (down,) = ceiling_commands(made, {}, {b: 3_000_000})
    assert " ".join(down) == (
        "tc class change dev eth0 parent 1:10 classid 1:1000 htb rate 3000000bit ceil 3000000bit"
        " burst 1600 cburst 1600 quantum 1514"
    )
    assert not list(ceiling_commands(made, {b: 3_000_000}, {b: 3_000_000}))
    (up,) = ceiling_commands(made, {b: 3_000_000}, {})
    assert "ceil 10000000bit" in " ".join(up)
    assert not list(ceiling_commands(made, {}, {b: 20_000_000}))  # the path's own rate is less


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (LinkChange(at_ns=0, peers=(PathChange(name=NodeId("x")),)), "no peer 'x'"),
        (LinkChange(at_ns=0, access=(AccessLink(name="x"),)), "no access link 'x'"),
        (LinkChange(at_ns=0, shared=(SharedLink(name="x"),)), "no shared link 'x'"),
        (LinkChange(at_ns=0, access=(AccessLink(name="dsl", rate_bps=0),)), "rate 0"),
        (to(replace(PATH, rate_bps=10**15)), "the rate"),
        (to(replace(PATH, delay_ns=-1)), "the delay -1"),
        (to(replace(PATH, jitter_ns=10**18)), "the jitter"),
        (to(replace(PATH, loss=1.5)), "the loss 1.5"),
        (to(replace(PATH, loss=float("nan"))), "the loss nan"),
        (to(replace(PATH, queue_bytes=0)), "the queue 0"),
        (to(replace(PATH, burst=Burst(enter=0.0, leave=0.0))), "burst"),
        (to(replace(PATH, slot=Slot(least_ns=5, most_ns=1))), "slot"),
    ],
)
def test_changes_that_cannot_be_are_refused(change: LinkChange, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        after(one(PATH), change)


def test_an_order_extends_the_shared_links_and_checks_all_that_it_brings() -> None:
    links = one(PATH, shared=(SharedLink(name="m", rate_bps=5),))
    order = Replan(
        at_ns=0,
        shared=(SharedLink(name="m", rate_bps=9), SharedLink(name="k", rate_bps=10**6)),
        partners=(NodeId("b"),),
        changes=(to(PATH, shared=(SharedLink(name="k", rate_bps=10**7),)),),
    )
    new = under(links, order)
    assert new.shared == (SharedLink(name="m", rate_bps=5), SharedLink(name="k", rate_bps=10**6))
    assert new.partners == (NodeId("b"),)
    for bad in (
        replace(order, shared=order.shared[1:]),
        replace(order, partners=(NodeId("x"),)),
        replace(order, changes=(to(replace(PATH, loss=2.0)),)),
    ):
        with pytest.raises(ConfigError):
            under(links, bad)


def test_orders_are_read_and_what_is_none_is_refused() -> None:
    now = 1_700_000_000 * SECOND
    assert orders.parse(b'{"start": 1700000000000000001}', now_wall=now) == now + 1
    replan = Replan(at_ns=5, changes=(to(PATH),))
    text = json.dumps({"change": json.loads(to_json(replan))}).encode()
    assert orders.parse(text, now_wall=now) == replan
    for bad in (
        b"", b"{}", b"[]", b"7", b'{"start": "now"}', b'{"start": true}', b'{"start": 12}',
        b'{"start": 1700000000000000001, "x": 1}', b'{"change": {"at_ns": -1}}',
        b'{"change": {"at_ns": 1e99}}', b'{"change": {}}', b'{"change": {"at_ns": 1, "y": 2}}',
        b'{"change": {"at_ns": 1, "changes": [{"at_ns": 99999999999999999999999}]}}',
        b"[" * 200_000, b'{"start": ' + b"9" * 5000 + b"}", b"\xff\x00", b"x" * (5 * 2**20),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            orders.parse(bad, now_wall=now)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(noise: bytes) -> None:
    for line in orders.Lines().take(noise + b"\n"):
        with pytest.raises(ConfigError):
            orders.parse(line, now_wall=0)


@given(st.lists(st.integers(1, 50), max_size=30), st.lists(st.binary(max_size=40), max_size=10))
def test_lines_are_whole_however_they_arrive(cuts: list[int], made: list[bytes]) -> None:
    made = [line.replace(b"\n", b"-") for line in made]
    data, lines_, reader = b"".join(line + b"\n" for line in made), [], orders.Lines()
    for cut in [*cuts, len(data)]:
        lines_ += reader.take(data[:cut])
        data = data[cut:]
    assert lines_ == made


def test_a_line_without_an_end_is_given_up_once() -> None:
    reader = orders.Lines()
    pieces = [reader.take(b"x" * 10**6) for _ in range(12)]
    assert sum(map(len, pieces)) == 1
    assert reader.take(b"rest\n{}\n") == [b"{}"]


def test_what_the_delay_line_has_to_do() -> None:
    assert not impaired(None)
    assert not impaired(PathSpec(rate_bps=10**6))
    for path in (PathSpec(delay_ns=1), PathSpec(loss=0.1), PathSpec(burst=Burst(enter=1, leave=1))):
        assert impaired(path)
