"""The rules that lead each source to its queue: right for every source, few for each packet."""

from __future__ import annotations

import ipaddress
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.links.rules import CHAIN, chains, commands, missing, removal, replacement

hosts = st.lists(st.integers(1, 2**32 - 2), max_size=60, unique=True)


def queues_of(sources: list[int]) -> dict[str, int]:
    return {str(ipaddress.IPv4Address(source)): n for n, source in enumerate(sources)}


def listing(queues: dict[str, int], *, control_port: int | None = None) -> str:
    """What `iptables -S` would say after the commands."""
    made = [" ".join(argv[1:]) for argv in commands("eth0", queues, control_port=control_port)]
    return "-P INPUT ACCEPT\n" + "\n".join(sorted(made, key=lambda line: line[:2] != "-N"))


def walk(text: str, source: int) -> tuple[int | None, int]:
    """(queue that a packet from there ends in, rules that it met)."""
    rules: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            rules.setdefault(line.split()[1], []).append(line)
    chain, met, i = CHAIN, 0, 0
    while i < len(rules.get(chain, [])):
        words = rules[chain][i].split()
        met, i = met + 1, i + 1
        if "-s" not in words:
            continue  # only of UDP to one port
        address, _, mask = words[words.index("-s") + 1].partition("/")
        bits = 2**32 - 1 if mask == "32" else int(ipaddress.IPv4Address(mask))
        if source & bits != int(ipaddress.IPv4Address(address)):
            continue
        if "--queue-num" in words:
            return int(words[-1]), met
        chain, i = words[-1], 0
    return None, met


@given(hosts, hosts)
def test_every_source_ends_in_its_queue_and_no_other_does(
    sources: list[int], others: list[int]
) -> None:
    queues = queues_of(sources)
    text = listing(queues)
    for number, source in enumerate(sources):
        assert walk(text, source)[0] == number
    for other in set(others) - set(sources):
        assert walk(text, other)[0] is None


@pytest.mark.parametrize("count", [1, 4, 16, 64, 256, 4096])
def test_a_packet_meets_few_rules_however_many_sources_there_are(count: int) -> None:
    first = int(ipaddress.IPv4Address("10.200.0.2"))
    sources = list(range(first, first + count))
    text = listing(queues_of(sources))
    met = [walk(text, source)[1] for source in sources[:: 1 if count < 1000 else 37]]
    assert max(met) <= 4 * max(1, math.ceil(math.log(count, 4)))
    assert sum(met) / len(met) <= 2.6 * max(1, math.ceil(math.log(count, 4)))


@given(hosts)
def test_chains_are_there_before_they_are_led_to(sources: list[int]) -> None:
    made = set()
    for argv in commands("eth0", queues_of(sources), control_port=7002):
        if argv[1] == "-N":
            made.add(argv[2])
        elif "-g" in argv or argv[-1].startswith(CHAIN):
            assert argv[-1] in made
    assert (CHAIN in made) is bool(sources)


@given(hosts, st.none() | st.integers(1, 65535), st.randoms())
def test_reading_back_finds_what_is_missing_or_too_much(
    sources: list[int], port: int | None, chance: random.Random
) -> None:
    queues = queues_of(sources)
    text = listing(queues, control_port=port)
    assert missing(text, "eth0", queues, control_port=port) is None
    if sources:
        line = chance.choice([line for line in text.splitlines() if line.startswith("-A ")])
        without = "\n".join(other for other in text.splitlines() if other != line)
        assert missing(without, "eth0", queues, control_port=port) is not None
        bypass = text.replace(f"-N {CHAIN}\n", f"-N {CHAIN}\n-A {CHAIN} -j ACCEPT\n")
        assert missing(bypass, "eth0", queues, control_port=port) is not None


def test_the_agents_own_port_is_not_queued() -> None:
    lines = listing({"10.0.0.2": 0}, control_port=7002).splitlines()
    top = [line for line in lines if line.startswith(f"-A {CHAIN} ")]
    assert top[0] == f"-A {CHAIN} -p udp -m udp --dport 7002 -j RETURN"


def test_a_replacement_takes_old_chains_away_and_a_removal_all() -> None:
    many, few = queues_of(list(range(1, 21))), queues_of([1, 2])
    text = replacement(few, listing=listing(many))
    lines = text.splitlines()
    assert lines[0] == "*filter"
    assert lines[-1] == "COMMIT"
    assert {line[3:] for line in lines if line.startswith("-X ")} == set(chains(listing(many))) - {
        CHAIN
    }
    assert f"-A {CHAIN} -s 0.0.0.1/32 -j NFQUEUE --queue-num 0" in lines
    assert removal("eth0", listing="-P INPUT ACCEPT\n-N PEERBED-PROBE") is None
    gone = removal("eth0", listing=listing(many))
    assert gone is not None
    assert gone.splitlines()[1] == f"-D INPUT -i eth0 -j {CHAIN}"
    assert gone.count("-X ") == len(chains(listing(many)))
