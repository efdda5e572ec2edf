"""The commands that set up links: what they contain, whatever the links are."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import AccessLink, Emulator, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.sizes import (
    FRAME,
    LINE_PACKETS,
    UNLIMITED_BPS,
    gso_segments,
    line_packets,
    netem_packets,
    queue_bytes,
)
from node.links.tc_plan import IFB, LinkCommands, impaired, plan_commands
from node.units import MILLISECOND, SECOND

COORDINATOR = "10.9.255.250"

rates = st.none() | st.integers(8_000, 10**10)
paths = st.none() | st.builds(
    PathSpec,
    rate_bps=rates,
    delay_ns=st.integers(0, 2 * SECOND),
    jitter_ns=st.integers(0, SECOND),
    loss=st.floats(0, 1),
)
emulators = st.sampled_from([Emulator.NETEM, Emulator.NFQUEUE])


@st.composite
def links(draw: st.DrawFn) -> LinksConfig:
    names = ("a", "b")
    access = tuple(AccessLink(name=name, rate_bps=draw(rates)) for name in names)
    hosts = draw(st.lists(st.integers(1, 0xFE00), max_size=20, unique=True))
    return LinksConfig(
        up=access,
        down=access,
        peers=tuple(
            PeerLink(
                name=NodeId(f"n{i}"),
                host=f"10.9.{host >> 8}.{host & 255}",
                port=7000,
                out=draw(paths),
                into=draw(paths),
                up=draw(st.sampled_from([None, *names])),
                down=draw(st.sampled_from([None, *names])),
            )
            for i, host in enumerate(hosts)
        ),
    )


def plan(of: LinksConfig, emulator: Emulator = Emulator.NFQUEUE) -> LinkCommands:
    return plan_commands(of, coordinator_host=COORDINATOR, emulator=emulator)


def texts(of: LinkCommands) -> list[str]:
    return [" ".join(argv) for argv in of.commands]


@given(links(), emulators)
def test_every_peer_has_a_class_and_a_filter_that_leads_to_it(
    config: LinksConfig, emulator: Emulator
) -> None:
    made = plan(config, emulator)
    commands = texts(made)
    wanted = {(p.name, device) for p in config.peers for device in ("eth0", IFB)}
    assert {(leaf.peer, leaf.device) for leaf in made.leaves} == wanted
    for leaf in made.leaves:
        side = "src" if leaf.device == IFB else "dst"
        (led,) = [
            c for c in commands if f"dev {leaf.device} " in c and f"{side} {leaf.host}/32" in c
        ]
        assert led.endswith(f"flowid {leaf.classid}")
        assert f":{int(leaf.host.rsplit('.', 1)[1]):x}: match" in led


@given(links(), emulators)
def test_a_class_without_a_path_holds_nothing(config: LinksConfig, emulator: Emulator) -> None:
    made = plan(config, emulator)
    paths = {(p.name, "eth0"): p.out for p in config.peers}
    paths |= {(p.name, IFB): p.into for p in config.peers}
    for leaf in made.leaves:
        (queue,) = [
            c for c in texts(made) if f"qdisc add dev {leaf.device} parent {leaf.classid} " in c
        ]
        assert queue.endswith(" ".join(leaf.queue))
        nothing = queue.endswith(": pfifo limit 0")
        assert nothing is (paths[leaf.peer, leaf.device] is None)


@given(links(), emulators)
def test_guarantees_stay_within_their_access_link(config: LinksConfig, emulator: Emulator) -> None:
    found: dict[tuple[str, str], int] = {}
    children: dict[tuple[str, str], int] = defaultdict(int)
    pattern = re.compile(
        r"tc class add dev (\S+) parent (\S+) classid (\S+) htb rate (\d+)bit ceil (\d+)bit"
        r" burst (\d+) cburst (\d+) quantum 1514"
    )
    for command in texts(plan(config, emulator)):
        if match := pattern.fullmatch(command):
            device, parent, classid = match[1], match[2], match[3]
            rate, ceiling, burst, cburst = map(int, match.groups()[3:])
            assert 8 <= rate <= ceiling
            assert min(burst, cburst) >= FRAME
            found[device, classid] = ceiling
            if parent != "1:":
                children[device, parent] += rate
                assert ceiling <= found[device, parent]
    for (device, parent), total in children.items():
        assert total <= found[device, parent]


@given(links(), emulators)
def test_unmatched_traffic_is_dropped_and_arp_and_the_coordinator_are_not(
    config: LinksConfig, emulator: Emulator
) -> None:
    commands = texts(plan(config, emulator))
    for device, side in (("eth0", "dst"), (IFB, "src")):
        assert f"tc qdisc add dev {device} root handle 1: htb default 3" in commands
        assert f"tc qdisc add dev {device} parent 1:3 handle 3: pfifo limit 0" in commands
        assert any(
            f"dev {device} " in c and f"{side} {COORDINATOR}/32 flowid 1:2" in c for c in commands
        )
        assert (
            f"tc filter add dev {device} parent 1: protocol arp prio 2 u32 match u32 0 0 flowid 1:2"
            in commands
        )
    assert not [c for c in commands if "ipv6" in c]


@given(links())
def test_the_delay_line_gets_what_netem_would_and_never_both(config: LinksConfig) -> None:
    queued, netem = plan(config), plan(config, Emulator.NETEM)
    wanted = [p.name for p in config.peers if impaired(p.into)]
    assert [delay.peer for delay in queued.delays] == [p.name for p in config.peers]
    assert len({delay.queue for delay in queued.delays}) == len(config.peers)
    assert [p.name for p in config.peers if p.host in queued.queues] == wanted
    assert not [c for c in texts(queued) if " netem " in c]
    assert netem.delays == ()
    assert not [c for c in texts(netem) if c.startswith("iptables")]
    assert len([c for c in texts(netem) if " netem " in c]) == sum(
        p.out is not None for p in config.peers
    )
    rules = [c for c in texts(queued) if "NFQUEUE" in c]
    assert len(rules) == len(wanted)
    assert not [c for c in rules if "bypass" in c]


@given(links(), emulators)
def test_words_are_single_and_rates_are_integers_with_a_unit(
    config: LinksConfig, emulator: Emulator
) -> None:
    for argv in plan(config, emulator).commands:
        assert argv[0] in ("ip", "tc", "iptables")
        assert all(word and not re.search(r"\s", word) for word in argv)
        for key in ("rate", "ceil"):
            if key in argv:
                assert re.fullmatch(r"\d+bit", argv[argv.index(key) + 1])


def one(path: PathSpec) -> LinksConfig:
    peer = PeerLink(name=NodeId("b"), host="10.9.0.2", port=1, out=path, into=path)
    return LinksConfig(peers=(peer,))


def test_netem_arguments() -> None:
    path = PathSpec(rate_bps=100_000_000, delay_ns=20_000_500, jitter_ns=MILLISECOND, loss=0.005)
    (line,) = [c for c in texts(plan(one(path), Emulator.NETEM)) if " netem " in c]
    # 24 ms at 100 Mbit/s are 1171 packets of 256 bytes; 100 ms of queue are 825 full ones.
    assert line == (
        "tc qdisc add dev eth0 parent 1:1000 handle 1000: netem limit 1996 delay 20000.500us 1000us"
        " distribution normal loss random 0.5% rate 100000000000bit"
    )


@pytest.mark.parametrize(("mbit", "segments"), [(1, 1), (50, 1), (100, 1), (200, 3), (1000, 16)])
def test_trains_are_short_where_paths_are_slow(mbit: int, segments: int) -> None:
    (peer,) = one(PathSpec(rate_bps=mbit * 10**6)).peers
    assert gso_segments([peer]) == segments


def test_trains_of_packets_that_may_be_lost_are_single_packets() -> None:
    assert gso_segments(one(PathSpec(rate_bps=10**9, loss=0.01)).peers) == 1
    assert gso_segments(one(PathSpec(rate_bps=None, jitter_ns=1)).peers) == 1
    assert gso_segments(one(PathSpec()).peers) is None


def test_a_path_without_a_rate_has_a_class_all_the_same() -> None:
    made = plan(one(PathSpec()))
    assert {leaf.rate_bps for leaf in made.leaves} == {UNLIMITED_BPS}


def test_queues_hold_a_tenth_of_a_second_or_a_round_trip() -> None:
    assert queue_bytes(rate_bps=100_000_000, rtt_ns=0) == 1_250_000
    assert queue_bytes(rate_bps=100_000_000, rtt_ns=200 * MILLISECOND) == 2_500_000
    assert queue_bytes(rate_bps=100_000, rtt_ns=0) == 64 * FRAME


@given(st.integers(8_000, 10**10), st.integers(0, SECOND))
def test_delays_hold_what_is_under_way(rate: int, delay: int) -> None:
    path = PathSpec(rate_bps=rate, delay_ns=delay)
    usual = 1.5 * rate * delay / (8 * FRAME * SECOND)  # emulation.md, section 5
    assert line_packets(path) >= min(LINE_PACKETS[1], usual)
    assert netem_packets(path, rtt_ns=2 * delay) >= min(LINE_PACKETS[1], usual)
    assert line_packets(path) >= 1000


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            LinksConfig(peers=(PeerLink(name=NodeId("b"), host="b.example", port=1),)),
            "not an IPv4 address",
        ),
        (
            LinksConfig(peers=(PeerLink(name=NodeId("b"), host=COORDINATOR, port=1),)),
            "same address",
        ),
        (
            LinksConfig(
                peers=(
                    PeerLink(name=NodeId("b"), host="10.9.0.2", port=1, out=PathSpec(), up="dsl"),
                )
            ),
            "no access link 'dsl'",
        ),
    ],
)
def test_wrong_links_are_configuration_errors(config: LinksConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        plan(config)


def test_the_same_links_give_the_same_commands() -> None:
    config = one(PathSpec(rate_bps=10**6, delay_ns=MILLISECOND))
    assert plan(config) == plan(config)
