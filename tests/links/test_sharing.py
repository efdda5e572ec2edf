"""Interior links that no kernel sees whole are shared by what the agents compute: with real TCP.

Six steps a topology; after each, from one second on, every flow has its weighted max-min share
within 10 % and every full link is full within 5 %.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from node.config import Emulator, LinkChange, LinksConfig, PathSpec, SharedLink
from node.links.report import TCP_SHARE
from node.links.sharing import Flow, max_min, weight_of
from node.units import MILLISECOND, SECOND
from tests.links.bed import RELAY, Bed, bed
from tests.links.netns import Host

pytestmark = pytest.mark.links

PORT = 7200
SETTLE_S = 1.0
WINDOW_S = 2.5
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Interior:
    """The inside of a network of which hosts are the ends.

    Args:
        mbit: rate of every interior link.
        routes: links between two hosts (both ways), and the one-way delay; others are free.
    """

    mbit: Mapping[str, float]
    routes: Mapping[tuple[str, str], tuple[tuple[str, ...], float]]

    def between(self, a: str, b: str) -> tuple[tuple[str, ...], float]:
        return self.routes.get((a, b)) or self.routes.get((b, a)) or ((), 5.0)

    def path(self, a: Host, b: Host) -> PathSpec:
        links, delay_ms = self.between(a.name, b.name)
        rates = [round(self.mbit[link] * 1e6) for link in links]
        return PathSpec(rate_bps=min(rates, default=None), delay_ns=round(delay_ms * MILLISECOND))

    def adapt(
        self, steps: Sequence[tuple[float, Mapping[str, float]]]
    ) -> Callable[[Host, LinksConfig], LinksConfig]:
        """The links of a host, with changes of interior links (s, new Mbit/s) planned.

        Rates of paths stay: what a link has less, its share has less.
        """
        shared = tuple(
            SharedLink(name=f"{name}{way}", rate_bps=round(mbit * 1e6))
            for name, mbit in self.mbit.items()
            for way in "><"
        )

        def crossed(a: str, b: str) -> tuple[str, ...]:
            way = ">" if (a, b) in self.routes else "<"
            return tuple(f"{name}{way}" for name in self.between(a, b)[0])

        def links(host: Host, plain: LinksConfig) -> LinksConfig:
            return replace(
                plain,
                shared=shared,
                partners=tuple(peer.name for peer in plain.peers),
                peers=tuple(
                    replace(peer, shared=crossed(host.name, peer.name)) for peer in plain.peers
                ),
                changes=tuple(
                    LinkChange(
                        at_ns=round(at * SECOND),
                        what=(f"{dict(change)}",),
                        shared=tuple(
                            SharedLink(name=f"{name}{way}", rate_bps=round(mbit * 1e6))
                            for name, mbit in change.items()
                            for way in "><"
                        ),
                    )
                    for at, change in steps
                ),
            )

        return links


@dataclass(slots=True, kw_only=True)
class Flows:
    """Bulk transfers between hosts."""

    net: Bed
    sinks: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    waiting: dict[tuple[str, str], list[subprocess.Popen[str]]] = field(default_factory=dict)
    running: dict[tuple[str, str], subprocess.Popen[str]] = field(default_factory=dict)

    def host(self, name: str) -> Host:
        return next(host for host in self.net.hosts if host.name == name)

    def prepare(self, ends: Sequence[tuple[str, str]]) -> None:
        """Start the processes of these flows; a start takes a core for a while."""
        for b in {b for _, b in ends} - set(self.sinks):
            host = self.host(b)
            self.sinks[b] = host.python("tests.links.run_flows", "sink", host.address, str(PORT))
        for a, b in ends:
            source = self.host(a).python(
                "tests.links.run_flows", "source", self.host(b).address, str(PORT)
            )
            self.waiting.setdefault((a, b), []).append(source)
        for process in (*self.sinks.values(), *(p for some in self.waiting.values() for p in some)):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def start(self, a: str, b: str) -> None:
        source = self.waiting[a, b].pop()
        assert source.stdin is not None
        source.stdin.write("\n")
        source.stdin.flush()
        self.running[a, b] = source

    def stop(self, a: str, b: str) -> None:
        process = self.running.pop((a, b))
        process.kill()
        process.communicate()

    def rates(self, begin: float, end: float) -> dict[tuple[str, str], float]:
        """Payload bit/s of every flow that runs, between two moments."""
        found = {}
        for a, b in self.running:
            sink = self.sinks[b]
            assert sink.stdin is not None
            assert sink.stdout is not None
            sink.stdin.write("\n")
            sink.stdin.flush()
            curve = json.loads(sink.stdout.readline()).get(self.host(a).address, [])
            inside = [(t, size) for t, size in curve if begin <= t <= end]
            if len(inside) < 2:
                found[a, b] = 0.0
                continue
            found[a, b] = 8 * (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
        return found


def model(
    interior: Interior, mbit: Mapping[str, float], flows: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], float]:
    """The payload that each flow should get."""
    wanted = {}
    for a, b in flows:
        links, delay_ms = interior.between(a, b)
        wanted[f"{a}>{b}"] = Flow(
            key=f"{a}>{b}",
            links=links,
            weight=weight_of(round(2 * delay_ms * MILLISECOND)),
            demand_bps=min(interior.mbit[link] for link in links) * 1e6,
        )
    rates = max_min(list(wanted.values()), {name: rate * 1e6 for name, rate in mbit.items()})
    return {(a, b): rates[f"{a}>{b}"] * TCP_SHARE for a, b in flows}


Step = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], Mapping[str, float]]
"""Flows that start, flows that stop, links that change."""


def play(interior: Interior, hosts: int, steps: Sequence[Step], emulator: Emulator) -> list[str]:
    """Run a timeline; what of it was not as the model says, and a table of all for people."""
    lasts = SETTLE_S + WINDOW_S
    times = [0.5 + number * lasts for number in range(len(steps))]
    planned = [(at, change) for at, (_, _, change) in zip(times, steps, strict=True) if change]
    misses: list[str] = []
    with bed(
        hosts, path=interior.path, emulator=emulator, adapt=interior.adapt(planned), child=RELAY
    ) as net:
        flows = Flows(net=net)
        flows.prepare([ends for starts, _, _ in steps for ends in starts])
        mbit = dict(interior.mbit)
        zero = net.begin(in_s=0.2)
        for number, (at, (starts, stops, change)) in enumerate(zip(times, steps, strict=True)):
            _wait_for(zero + at)
            mbit |= change
            for a, b in stops:
                flows.stop(a, b)
            for a, b in starts:
                flows.start(a, b)
            begin = zero + at + SETTLE_S
            _wait_for(begin + WINDOW_S)
            seen = flows.rates(begin, begin + WINDOW_S)
            misses += _judge(interior, number, seen, model(interior, mbit, list(seen)), mbit)
    return misses


def _wait_for(moment: float) -> None:
    """The steps of a timeline have their times; there is no condition to wait for."""
    time.sleep(max(0.0, moment - time.monotonic()))


def _judge(
    interior: Interior,
    number: int,
    seen: Mapping[tuple[str, str], float],
    fair: Mapping[tuple[str, str], float],
    mbit: Mapping[str, float],
) -> Iterator[str]:
    for (a, b), rate in fair.items():
        off = seen[a, b] / rate - 1
        print(f"step {number + 1}: {a}>{b} {seen[a, b] / 1e6:.2f} of {rate / 1e6:.2f}, {off:+.1%}")
        if abs(off) > 0.10:
            yield f"step {number + 1}: {a}>{b} is {off:+.1%} off its share"
    for link, capacity in mbit.items():
        on = [ends for ends in fair if link in interior.between(*ends)[0]]
        full = capacity * 1e6 * TCP_SHARE
        total, should = sum(seen[e] for e in on), sum(fair[e] for e in on)
        if should < 0.999 * full:
            continue
        print(f"step {number + 1}: {link} carries {total / 1e6:.2f} of {full / 1e6:.2f}")
        if abs(total / full - 1) > 0.05:
            yield f"step {number + 1}: {link} carries {total / full - 1:+.1%}"


def held(interior: Interior, hosts: int, steps: Sequence[Step], emulator: Emulator) -> None:
    """Up to three times, with all that was seen shown."""
    for number in range(1, TRIES + 1):
        misses = play(interior, hosts, steps, emulator)
        if not misses:
            return
        print(f"try {number} of {TRIES}: {'; '.join(misses)}")
    pytest.fail("; ".join(misses))


def test_dumbbell(emulator: Emulator) -> None:
    """Three pairs with round trips of 20, 20 and 60 ms through one link."""
    interior = Interior(
        mbit={"mid": 30.0},
        routes={
            ("n0", "n3"): (("mid",), 10.0),
            ("n1", "n4"): (("mid",), 10.0),
            ("n2", "n5"): (("mid",), 30.0),
        },
    )
    one, two, far = ("n0", "n3"), ("n1", "n4"), ("n2", "n5")
    steps: list[Step] = [
        ((one,), (), {}),
        ((far,), (), {}),
        ((two,), (), {}),
        ((), (), {"mid": 12.0}),
        ((), (one,), {}),
        ((), (), {"mid": 24.0}),
    ]
    held(interior, 6, steps, emulator)


def test_parking_lot(emulator: Emulator) -> None:
    """One flow over three links in a row, and one over each; links change and flows go."""
    interior = Interior(
        mbit={"first": 20.0, "second": 12.0, "third": 30.0},
        routes={
            ("n0", "n1"): (("first", "second", "third"), 20.0),
            ("n2", "n3"): (("first",), 10.0),
            ("n4", "n5"): (("second",), 10.0),
            ("n6", "n7"): (("third",), 10.0),
        },
    )
    long, first, second, third = ("n0", "n1"), ("n2", "n3"), ("n4", "n5"), ("n6", "n7")
    steps: list[Step] = [
        ((long,), (), {}),
        ((first, second), (), {}),
        ((third,), (), {}),
        ((), (), {"second": 6.0}),
        ((), (second,), {}),
        ((second,), (long,), {}),
    ]
    held(interior, 8, steps, emulator)
