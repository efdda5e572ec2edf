"""The iptables rules that hand each source's packets to its own queue (pure).

    INPUT -> PEERBED -> by two bits of the source address -> ... -> NFQUEUE of the source

A tree: a packet meets about 1.25 rules for each doubling of the number of sources, not half of all
of them. iptables masks an address with any bits, so whichever two divide the sources most evenly
are taken. No `--queue-bypass`: without a reader the packets are dropped, not let through at once.

It does not run anything: `tc.py`.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

Argv = tuple[str, ...]

CHAIN: Final = "PEERBED"
LEAVES: Final = 4
"""Sources that are looked for one after the other. Two bits a level cost least: on average 2.5
rules for a factor of 4; one bit costs 1.5 for a factor of 2, three 4.5 for a factor of 8."""

_OURS: Final = re.compile(rf"-N ({CHAIN}(?:-\d+)?)$", re.MULTILINE)


def commands(
    device: str, queues: Mapping[str, int], *, control_port: int | None = None
) -> Iterator[Argv]:
    """The command lines that set all rules up, for one `iptables-restore`; none for no queues.

    Args:
        queues: queue number of each source, by its IPv4 address.
        control_port: of UDP that is not to wait: what link agents tell each other.
    """
    if queues:
        for chain, rules in _tree(queues, control_port).items():
            yield "iptables", "-N", chain
            for rule in rules:
                yield "iptables", "-A", chain, *rule.split()
        yield "iptables", "-A", "INPUT", "-i", device, "-j", CHAIN


def replacement(queues: Mapping[str, int], *, listing: str, control_port: int | None = None) -> str:
    """What `iptables-restore --noflush` reads to have these sources instead of those before.

    The kernel takes it as a whole: no packet passes by in between.

    Args:
        listing: what `iptables -S` says now; the chains are there already.
    """
    tree = _tree(queues, control_port)
    before = chains(listing)
    lines = [f":{chain} - [0:0]" for chain in dict.fromkeys([*before, *tree])]
    lines += [f"-A {chain} {rule}" for chain, rules in tree.items() for rule in rules]
    lines += [f"-X {chain}" for chain in before if chain not in tree]
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def removal(device: str, *, listing: str) -> str | None:
    """What `iptables-restore --noflush` reads to take all of ours away; None if there is none."""
    found = chains(listing)
    if not found:
        return None
    jump = f"-D INPUT -i {device} -j {CHAIN}"
    lines = [jump] if f"-A{jump[2:]}" in listing.splitlines() else []
    lines += [f"-F {chain}" for chain in found] + [f"-X {chain}" for chain in found]
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def chains(listing: str) -> list[str]:
    """Our chains in what `iptables -S` says."""
    return _OURS.findall(listing)


def missing(
    listing: str, device: str, queues: Mapping[str, int], *, control_port: int | None = None
) -> str | None:
    """The first of our rules that is not in what `iptables -S` says, or is one too many.

    Within a chain the order counts, too. None if all is as `commands` has it.
    """
    if not queues:
        return None
    seen: dict[str, list[str]] = {}
    for line in listing.splitlines():
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if verb == "-A":
            seen.setdefault(chain, []).append(rule)
    if (jump := f"-i {device} -j {CHAIN}") not in seen.get("INPUT", []):
        return f"-A INPUT {jump}"
    for chain, rules in _tree(queues, control_port).items():
        there = seen.get(chain, [])
        for number, rule in enumerate(rules):
            if number >= len(there) or there[number] != rule:
                return f"-A {chain} {rule}"
        if len(there) > len(rules):
            return f"nothing after {chain} {rules[-1]}, but there is {there[len(rules)]}"
    return None


def _tree(queues: Mapping[str, int], control_port: int | None) -> dict[str, list[str]]:
    """The rules of each chain, in order, a chain before those that lead to it."""
    made: dict[str, list[str]] = {CHAIN: []}
    sources = sorted((int(ipaddress.IPv4Address(host)), queue) for host, queue in queues.items())
    top = [] if control_port is None else [f"-p udp -m udp --dport {control_port} -j RETURN"]
    made[CHAIN] = top + _branch(sources, made)
    return dict(reversed(made.items()))


def _branch(sources: Sequence[tuple[int, int]], made: dict[str, list[str]]) -> list[str]:
    """The rules that tell these sources apart; chains that it takes are added to `made`."""
    if len(sources) <= LEAVES:
        return [
            f"-s {ipaddress.IPv4Address(source)}/32 -j NFQUEUE --queue-num {queue}"
            for source, queue in sources
        ]
    mask = _dividing_bits([source for source, _ in sources])
    parts: dict[int, list[tuple[int, int]]] = {}
    for source, queue in sources:
        parts.setdefault(source & mask, []).append((source, queue))
    rules = []
    for bits, part in sorted(parts.items()):
        name = f"{CHAIN}-{len(made)}"
        made[name] = []  # its number is taken
        rules.append(f"-s {ipaddress.IPv4Address(bits)}/{ipaddress.IPv4Address(mask)} -g {name}")
        made[name] = _branch(part, made)
    return rules


def _dividing_bits(sources: Sequence[int]) -> int:
    """Two bits that leave few together: the best one, then the best one beside it."""
    mask = 0
    for _ in range(2):
        best = min(range(32), key=lambda bit: (_most(sources, mask | 1 << bit), bit))
        mask |= 1 << best
    return mask


def _most(sources: Sequence[int], mask: int) -> int:
    return max(Counter(source & mask for source in sources).values())
