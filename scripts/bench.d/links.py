"""Links in namespaces, without containers: round trip, goodput, loss, and what the agent costs."""

from __future__ import annotations

import time

from rows import Bench, Row

from node.config import PathSpec
from node.core.signals import LinkReading
from node.links.report import TCP_SHARE, wilson
from node.units import MILLISECOND
from tests.links.bed import Bed, bed, cpu_and_memory
from tests.links.bulk import shares
from tests.links.netns import why_not

TRIES = 3
DELAY_MS = 20


def _measured(net: Bed, *measures: str) -> LinkReading:
    reading = net.measure(*net.hosts, *measures)
    if reading.error is not None:
        raise RuntimeError(reading.error)
    return reading


def rates() -> list[Row]:
    """Round trip and goodput of one path at a time."""
    rows = []
    for mbit in (1, 10, 50, 100, 200):
        path = PathSpec(rate_bps=mbit * 10**6, delay_ns=DELAY_MS * MILLISECOND)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            readings = [_measured(net, "rtt", "rate") for _ in range(TRIES)]
            emulator = net.state(net.hosts[0])["emulator"]
        ideal = TCP_SHARE * mbit * 10**6
        trips = [(r.rtt_ns or 0) / MILLISECOND for r in readings]
        shares_ = sorted((r.goodput_bps or 0.0) / ideal for r in readings)
        asked = 2 * DELAY_MS
        slack = 1 + 0.02 * asked
        rows += [
            Row(figure=f"{emulator}, {mbit} Mbit/s: median round trip", unit="ms",
                value=sorted(trips)[TRIES // 2], target=f"{asked} ± {slack:g} ms",
                holds=abs(sorted(trips)[TRIES // 2] - asked) <= slack),
            Row(figure=f"{emulator}, {mbit} Mbit/s: goodput / (0.956 x rate)",
                value=shares_[TRIES // 2], target="1 ± 0.03",
                holds=abs(shares_[TRIES // 2] - 1) <= 0.03),
        ]  # fmt: skip
    return rows


def losses() -> list[Row]:
    rows = []
    for loss in (0.001, 0.01, 0.1):
        path = PathSpec(rate_bps=20_000_000, delay_ns=DELAY_MS * MILLISECOND, loss=loss)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            readings = [_measured(net, "loss") for _ in range(TRIES)]
        packets = sum(r.loss_packets or 0 for r in readings)
        lost = sum(round((r.loss or 0.0) * (r.loss_packets or 0)) for r in readings)
        low, high = wilson(lost, packets)
        rows.append(
            Row(figure=f"loss of {packets} packets, asked {loss:.1%}", value=100 * lost / packets,
                unit="%", target=f"99 % interval {low:.3%} to {high:.3%} contains it",
                holds=low <= loss <= high)
        )  # fmt: skip
    return rows


def incast() -> list[Row]:
    """Several senders into one receiver's download link."""
    rows = []
    cap = 20_000_000
    path = PathSpec(rate_bps=cap, delay_ns=DELAY_MS * MILLISECOND // 2)
    for senders in (2, 4):
        with bed(senders + 1, path=path, access_bps=cap) as net:
            got = shares(net.hosts[0], net.hosts[1:], seconds=5)
        fair = TCP_SHARE * cap / senders
        whole, worst = sum(got) / (TCP_SHARE * cap), max(abs(rate / fair - 1) for rate in got)
        rows += [
            Row(figure=f"{senders} senders into 20 Mbit/s: sum / (0.956 x cap)", value=whole,
                target="1 ± 0.03", holds=abs(whole - 1) <= 0.03),
            Row(figure=f"{senders} senders into 20 Mbit/s: farthest from its share",
                value=100 * worst, unit="%", target="<= 15 %", holds=worst <= 0.15),
        ]  # fmt: skip
    return rows


def cost() -> list[Row]:
    """CPU and memory of the agent of a node that receives."""
    rows = []
    for mbit in (50, 100):
        path = PathSpec(rate_bps=mbit * 10**6, delay_ns=DELAY_MS * MILLISECOND)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            agent = net.agents[net.hosts[0].name].pid
            before, begin = cpu_and_memory(agent)[0], time.monotonic()
            shares(net.hosts[0], net.hosts[1:], seconds=5)
            after, resident = cpu_and_memory(agent)
            cpu = 100 * (after - before) / (time.monotonic() - begin)
        rows += [
            Row(figure=f"agent and delay line, receiving {mbit} Mbit/s: CPU", value=cpu,
                unit="% of a core"),
            Row(figure=f"agent and delay line, receiving {mbit} Mbit/s: memory",
                value=resident / 1024, unit="MiB", target="< 25 MiB", holds=resident < 25 * 1024),
        ]  # fmt: skip
    return rows


def links() -> list[Row]:
    if (reason := why_not()) is not None:
        raise RuntimeError(f"links cannot be measured here: {reason}")
    return [*rates(), *losses(), *incast(), *cost()]


BENCHES: dict[str, Bench] = {"links": links}
