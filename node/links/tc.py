"""Runs tc, ip and iptables, and reads back what the kernel made of it.

A constant number of processes however many peers there are: consecutive commands of one tool go
through its batch mode. What cannot be read is an error, never "there is nothing".
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links import read_netem, rules
from node.links.sizes import UNLIMITED_BPS
from node.links.tc_plan import IFB, Leaf, LinkCommands
from node.links.tree import DROP, NOTHING, Argv

TIMEOUT_S: Final = 30.0
_FAILED_LINE = re.compile(r"(?:Command failed -:|line )(\d+)")
_CLASS = re.compile(r"class htb (?P<classid>\S+) .*?rate (?P<rate>\S+) ceil (?P<ceil>\S+)")
_UNITS: Final = {"bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9, "Tbit": 10**12}
_RATE_PRECISION: Final = 0.001
"""tc prints at least four digits of a rate."""


def apply(plan: LinkCommands, *, iptables: str = "iptables") -> None:
    """Run the plan's commands in order.

    Args:
        iptables: the variant that works here (`iptables`, `iptables-legacy`).
    Raises:
        EnvironmentFault: naming the command that failed and what the tool said.
    """
    for tool, group in itertools.groupby(plan.commands, key=lambda argv: argv[0]):
        commands = list(group)
        if tool == "iptables":
            _batch([f"{iptables}-restore", "--noflush"], commands, start="*filter", end="COMMIT")
        else:
            _batch([tool, "-batch", "-"], commands)


def teardown(device: str, *, iptables: str | None = "iptables") -> None:
    """Take away what `apply` set up, as far as it is there. Raises EnvironmentFault."""
    for qdisc in _show_json(["tc", "-j", "qdisc", "show", "dev", device]):
        if qdisc.get("kind") == "htb" and qdisc.get("root"):
            output(["tc", "qdisc", "del", "dev", device, "root"])
        elif qdisc.get("kind") == "ingress":
            output(["tc", "qdisc", "del", "dev", device, "ingress"])
    if any(link.get("ifname") == IFB for link in _show_json(["ip", "-j", "link", "show"])):
        output(["ip", "link", "del", IFB])
    if iptables is not None:
        text = rules.removal(device, listing=output([iptables, "-S"]))
        if text is not None:
            done = run([f"{iptables}-restore", "--noflush"], text=text)
            _expect(done.returncode == 0, f"iptables-restore: {done.stderr.strip()}")


def device_of(host: str) -> str:
    """The interface that has this IPv4 address. Raises EnvironmentFault if none has."""
    for link in _show_json(["ip", "-j", "-4", "addr", "show"]):
        if any(address.get("local") == host for address in link.get("addr_info", [])):
            return str(link["ifname"])
    raise EnvironmentFault(
        f"no interface of this container has the address {host}",
        remedy="the plan and the container network differ: start the run with `deploy up`",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One direction of one peer as read back; None where this side does not set it."""

    rate_bps: int | None = None
    delay_ms: float | None = None
    jitter_ms: float | None = None
    loss: float | None = None


def read_back(
    plan: LinkCommands, *, iptables: str = "iptables"
) -> dict[tuple[NodeId, str], Applied]:
    """What is in force, by (peer, `out` or `into`), compared with the plan.

    Rates come from the classes, delay, jitter and loss from netem; with the nfqueue emulator the
    rules that lead to the delay line are checked here and its values by `nfqueue.read_back`.
    Raises:
        EnvironmentFault: the kernel has something else than was asked for, or cannot be read.
    """
    applied: dict[tuple[NodeId, str], Applied] = {}
    for device in (plan.device, IFB):
        leaves = [leaf for leaf in plan.leaves if leaf.device == device]
        applied |= _read_tree(device, leaves)
    _check_redirect(plan.device)
    if plan.queues:
        _check_rules(plan, iptables=iptables)
    return applied


def _read_tree(device: str, leaves: Sequence[Leaf]) -> dict[tuple[NodeId, str], Applied]:
    qdiscs = _show_json(["tc", "-j", "qdisc", "show", "dev", device])
    classes = dict(_classes(output(["tc", "class", "show", "dev", device])))
    flows = _flows(_show_json(["tc", "-j", "filter", "show", "dev", device]))
    root = next((q for q in qdiscs if q.get("root")), {})
    by_parent = {q.get("parent"): q for q in qdiscs}
    drop = by_parent.get(f"1:{DROP:x}", {})
    _expect(
        root.get("kind") == "htb"
        and root.get("options", {}).get("default") == f"{DROP:#x}"
        and drop.get("kind") == "pfifo"
        and drop.get("options", {}).get("limit") == 0,
        f"unmatched traffic on {device} is not refused",
    )
    applied = {}
    for leaf in leaves:
        where = f"{leaf.peer} on {device}"
        rate = classes.get(leaf.classid)
        _expect(rate is not None, f"{where}: class {leaf.classid} is missing")
        asked = leaf.rate_bps
        _expect(
            same_rate(rate or 0, asked) or (leaf.varies and (rate or 0) < asked),
            f"{where}: the rate is {rate} bit/s, asked was {asked}",
        )
        _expect(
            flows.get(leaf.host) == leaf.classid, f"{where}: {leaf.host} is not led to its class"
        )
        netem = _read_queue(leaf, by_parent.get(leaf.classid, {}), where)
        if leaf.queue == NOTHING:
            continue
        applied[leaf.peer, "into" if device == IFB else "out"] = Applied(
            rate_bps=rate if asked < UNLIMITED_BPS else None, **netem
        )
    return applied


def same_rate(seen: int, asked: int) -> bool:
    """Whether a rate that tc printed is the one asked for, as far as its digits tell."""
    return abs(seen - asked) <= max(8, asked * _RATE_PRECISION)


def _read_queue(leaf: Leaf, qdisc: Mapping[str, Any], where: str) -> dict[str, float]:
    kind = leaf.queue[0]
    _expect(qdisc.get("kind") == kind, f"{where}: its queue is {qdisc.get('kind')}, not {kind}")
    if leaf.queue == NOTHING:
        limit = qdisc.get("options", {}).get("limit")
        _expect(limit == 0, f"{where}: {limit} packets pass, there is no path")
    if leaf.netem is None:
        return {}
    options = qdisc.get("options", {})
    wrong = read_netem.difference(options, leaf.netem, limit=int(leaf.queue[2]))
    _expect(wrong is None, f"{where}: {wrong}")
    return read_netem.in_force(options)


def _classes(text: str) -> Iterator[tuple[str, int]]:
    """(class, ceiling in bit/s) of HTB classes; iproute2 6.1 prints them in no other way."""
    for line in text.splitlines():
        if match := _CLASS.match(line):
            yield match["classid"], parse_rate(match["ceil"])


def parse_rate(text: str) -> int:
    """A rate as tc prints it (`12345Kbit`) in bit/s. Raises EnvironmentFault."""
    match = re.fullmatch(r"(\d+)([KMGT]?bit)", text)
    if match is None:
        raise EnvironmentFault(f"tc printed a rate that is not understood: {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _flows(filters: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Host address -> class, of the exact matches on an address."""
    flows = {}
    for entry in filters:
        options = entry.get("options", {})
        match = options.get("match", {})
        if match.get("mask") == "ffffffff" and "flowid" in options:
            flows[str(ipaddress.IPv4Address(int(match["value"], 16)))] = str(options["flowid"])
    return flows


def _check_redirect(device: str) -> None:
    filters = _show_json(["tc", "-j", "filter", "show", "dev", device, "parent", "ffff:"])
    actions = [a for f in filters for a in f.get("options", {}).get("actions", [])]
    _expect(
        any(a.get("kind") == "mirred" and a.get("to_dev") == IFB for a in actions),
        f"what arrives on {device} does not pass the download queues",
    )


def _check_rules(plan: LinkCommands, *, iptables: str) -> None:
    there = output([iptables, "-S"])
    port = plan.trees[1].exchange
    lacking = rules.missing(there, plan.device, plan.queues, control_port=port)
    _expect(lacking is None, f"the iptables rule is missing: {lacking}")


def replace_rules(plan: LinkCommands, *, iptables: str) -> None:
    """Hand the packets of exactly the plan's sources to their queues. Raises EnvironmentFault."""
    listing, port = output([iptables, "-S"]), plan.trees[1].exchange
    if rules.CHAIN in rules.chains(listing):
        text = rules.replacement(plan.queues, listing=listing, control_port=port)
        done = run([f"{iptables}-restore", "--noflush"], text=text)
        _expect(done.returncode == 0, f"iptables-restore: {done.stderr.strip()}")
    else:
        commands = list(rules.commands(plan.device, plan.queues, control_port=port))
        _batch([f"{iptables}-restore", "--noflush"], commands, start="*filter", end="COMMIT")


def statistics(plan: LinkCommands) -> dict[str, dict[str, int]]:
    """Bytes, packets and drops of each peer's classes, and what was refused. Never raises."""
    found: dict[str, dict[str, int]] = {}
    names = {(leaf.device, leaf.classid): leaf.peer for leaf in plan.leaves}
    for device, side in ((plan.device, "out"), (IFB, "into")):
        with contextlib.suppress(EnvironmentFault):
            for qdisc in _show_json(["tc", "-s", "-j", "qdisc", "show", "dev", device]):
                parent = str(qdisc.get("parent", ""))
                name = "refused" if parent == f"1:{DROP:x}" else names.get((device, parent))
                if name is not None:
                    found.setdefault(name, {}).update(
                        {f"{side}_{key}": int(qdisc[key]) for key in ("bytes", "packets", "drops")}
                    )
    return found


def _expect(holds: object, message: str) -> None:
    if not holds:
        raise EnvironmentFault(
            f"a link cannot be set: {message}",
            remedy="the kernel did not take what tc was told; `deploy doctor` says what it lacks",
        )


def _batch(
    argv: Sequence[str],
    commands: Sequence[Argv],
    *,
    start: str | None = None,
    end: str | None = None,
) -> None:
    lines = [" ".join(command[1:]) for command in commands]
    whole = ([start] if start else []) + lines + ([end] if end else [])
    done = run(argv, text="\n".join(whole) + "\n")
    if done.returncode:
        match = _FAILED_LINE.search(done.stderr)
        index = int(match[1]) - (2 if start else 1) if match else -1
        culprit = " ".join(commands[index] if 0 <= index < len(commands) else argv)
        raise EnvironmentFault(
            f"`{culprit}` failed: {done.stderr.strip()}",
            remedy="the container needs NET_ADMIN; `deploy doctor` says what the kernel lacks",
        )


def output(argv: Sequence[str]) -> str:
    """What a command prints. Raises EnvironmentFault when it fails."""
    done = run(argv)
    if done.returncode:
        raise EnvironmentFault(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout


def run(argv: Sequence[str], *, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, at most `TIMEOUT_S`. Raises EnvironmentFault if it cannot start."""
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"{argv[0]} is not installed", remedy="the node image needs iproute2 and iptables"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(f"`{' '.join(argv)}` did not end in {TIMEOUT_S:g} s") from error


def _show_json(argv: Sequence[str]) -> list[dict[str, Any]]:
    text = output(argv)
    try:
        found = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise EnvironmentFault(f"`{' '.join(argv)}` printed no JSON: {error}") from error
    return [entry for entry in found if isinstance(entry, dict)]
