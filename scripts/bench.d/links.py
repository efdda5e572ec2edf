"""Links in namespaces, without containers: round trip, goodput, loss, jitter, shares, and cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from rows import Bench, Row

from node.config import Burst, PathSpec
from node.core.signals import LinkReading
from node.links.estimate import loss_weight
from node.links.report import TCP_SHARE, share_interval
from node.units import MILLISECOND
from tests.links.bed import TOLERANCE, Bed, bed, cpu_and_memory
from tests.links.bulk import shares
from tests.links.netns import why_not
from tests.links.packets import send

TRIES = 3
DELAY_MS = 20
RATES_MBIT = (1, 10, 50, 100, 500, 1000)
FAST_DELAY_MS = 5
"""At 1 Gbit/s. What is under way has to fit into TCP's receive window, 3 MB by Linux's default:
600 Mbit/s over 40 ms, there and back."""
TRIPS_MS = (1, 10, 40, 100, 200, 400)
COUNTS = 4
"""Times 5000 packets: 20,000."""
SENDERS = (2, 4, 8)
SHARE_S = 10.0
COST_S = 6.0
COST_MBIT = 50
CPU_PERCENT = 3.0
MEMORY_MIB = 25


def measured(net: Bed, *measures: str) -> LinkReading:
    reading = net.measure(*net.hosts, *measures)
    if reading.error is not None:
        raise RuntimeError(reading.error)
    return reading


def name(net: Bed) -> str:
    return str(net.state(net.hosts[0])["emulator"])


def within(figure: str, value: float, *, low: float, high: float, unit: str = "") -> Row:
    """A figure that has to be in a band; on an emulated machine the band is wider."""
    middle = (low + high) / 2
    low, high = (middle + TOLERANCE * (bound - middle) for bound in (low, high))
    return Row(
        figure=figure, value=value, unit=unit, target=f"{low:.5g} to {high:.5g}",
        holds=low <= value <= high,
    )  # fmt: skip


def rates() -> Iterator[Row]:
    """Goodput of one path alone; the median of a few."""
    for mbit in RATES_MBIT:
        delay_ms = FAST_DELAY_MS if mbit >= 1000 else DELAY_MS
        path = PathSpec(rate_bps=mbit * 10**6, delay_ns=delay_ms * MILLISECOND)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            seen = [measured(net, "rate").goodput_bps or 0.0 for _ in range(TRIES)]
            who = name(net)
        slack = 0.03 if mbit >= 1000 else 0.01
        value = statistics.median(seen) / (TCP_SHARE * mbit * 10**6)
        yield within(f"{who}, {mbit} Mbit/s: goodput / (0.956 x rate)", value,
                     low=1 - slack, high=1 + slack)  # fmt: skip


def trips() -> Iterator[Row]:
    """Median round trips, of an idle path and of one that is half full both ways."""
    for asked in TRIPS_MS:
        path = PathSpec(rate_bps=50_000_000, delay_ns=asked * MILLISECOND // 2)
        late = max(0.5, 0.01 * asked)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            readings = [measured(net, "rtt").rtt_ns or 0 for _ in range(TRIES)]
            idle = statistics.median(readings) / MILLISECOND
            busy = statistics.median(half_full(net, seconds=6.0))
            who = name(net)
        for how, value in (("idle", idle), ("half full", busy)):
            yield within(f"{who}, {how} path: round trip of {asked} ms", value,
                         low=asked - 0.1, high=asked + late, unit="ms")  # fmt: skip


def half_full(net: Bed, *, seconds: float) -> list[float]:
    """Round trips in ms while datagrams take half of the rate, both ways."""
    one, other = net.hosts
    for source, sink in ((one, other), (other, one)):
        sink.python("tests.links.run_packets", "sink", sink.address, "7300")
        source.python(
            "tests.links.run_packets", "source", sink.address, "7300",
            str(round(2000 * (seconds + 2))), "2000", "1514",
        )  # fmt: skip
    time.sleep(1.0)
    return net.round_trips(one, other.address, count=round(seconds / 0.0137), every_ms=13.7)


def losses() -> Iterator[Row]:
    """Single losses, and bursts of 4."""
    for title, path in (
        ("0.1 %", PathSpec(loss=0.001)),
        ("1 %", PathSpec(loss=0.01)),
        ("10 %", PathSpec(loss=0.1)),
        ("3.8 % in bursts of 4", PathSpec(burst=Burst(enter=0.01, leave=0.25))),
    ):
        whole = PathSpec(
            rate_bps=20_000_000, delay_ns=DELAY_MS * MILLISECOND, loss=path.loss, burst=path.burst
        )
        with bed(2, path=whole, access_bps=whole.rate_bps) as net:
            readings = [measured(net, "loss") for _ in range(COUNTS)]
            who = name(net)
        packets = sum(r.loss_packets or 0 for r in readings)
        seen = sum((r.loss or 0.0) * (r.loss_packets or 0) for r in readings) / packets
        low, high = share_interval(seen, packets / loss_weight(whole))
        yield Row(
            figure=f"{who}: loss of {packets} packets, asked {title}", value=100 * seen, unit="%",
            target=f"99.9 % interval {low:.3%} to {high:.3%} has {whole.loss_rate:.3%}",
            holds=low <= whole.loss_rate <= high,
        )  # fmt: skip


def jitters() -> Iterator[Row]:
    """The deviation of single packets, far enough apart not to push each other."""
    for sigma in (1, 3, 10):
        path = PathSpec(
            rate_bps=50_000_000, delay_ns=50 * MILLISECOND, jitter_ns=sigma * MILLISECOND
        )
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            pace = 1000 / (6 * sigma)
            came = send(*net.hosts, count=500, per_second=min(200, pace), wait_s=0.5)
            who = name(net)
        yield within(f"{who}: deviation of {sigma} ms of jitter / asked", came.sigma_ms / sigma,
                     low=0.85, high=1.15)  # fmt: skip


def incast() -> Iterator[Row]:
    """Several senders into one receiver's download link."""
    cap = 20_000_000
    path = PathSpec(rate_bps=cap, delay_ns=DELAY_MS * MILLISECOND // 2)
    for senders in SENDERS:
        with bed(senders + 1, path=path, access_bps=cap) as net:
            got = shares(net.hosts[0], net.hosts[1:], seconds=SHARE_S)
            who = name(net)
        fair = TCP_SHARE * cap / senders
        whole, worst = sum(got) / (TCP_SHARE * cap), max(abs(rate / fair - 1) for rate in got)
        what = f"{who}, {senders} senders into 20 Mbit/s for {SHARE_S:g} s"
        yield within(f"{what}: sum / (0.956 x cap)", whole, low=0.97, high=1.03)
        yield Row(figure=f"{what}: farthest from its share", value=100 * worst, unit="%",
                  target=f"<= {15 * TOLERANCE:g} %", holds=worst <= 0.15 * TOLERANCE)  # fmt: skip


def cost() -> Iterator[Row]:
    """CPU and memory of the agents of a node that receives and of one that sends, by /proc."""
    for delay_ms in (5, DELAY_MS, 100):
        path = PathSpec(rate_bps=COST_MBIT * 10**6, delay_ns=delay_ms * MILLISECOND)
        with bed(2, path=path, access_bps=path.rate_bps) as net:
            taken: dict[str, list[float]] = {"receiving": [], "sending": []}
            for _ in range(TRIES):
                for end, share in busy_share(net).items():
                    taken[end].append(share)
            memory = max(cpu_and_memory(agent.pid)[1] for agent in net.agents.values()) / 1024
            who = name(net)
        for end, values in taken.items():
            judged = delay_ms == DELAY_MS
            yield Row(
                figure=f"{who}: agent and delay line, {end} {COST_MBIT} Mbit/s over {delay_ms} ms",
                value=statistics.median(values), unit="% of a core",
                target=f"< {CPU_PERCENT:g} %" if judged else "",
                holds=statistics.median(values) < CPU_PERCENT if judged else None,
            )  # fmt: skip
        yield Row(figure=f"{who}: memory of an agent, {delay_ms} ms", value=memory, unit="MiB",
                  target=f"< {MEMORY_MIB} MiB", holds=memory < MEMORY_MIB)  # fmt: skip


def busy_share(net: Bed) -> dict[str, float]:
    """CPU of the agents in % of a core while one node sends to the other."""
    ends = dict(zip(("receiving", "sending"), net.hosts, strict=True))
    pids = {end: net.agents[host.name].pid for end, host in ends.items()}
    before, begin = {e: cpu_and_memory(pid)[0] for e, pid in pids.items()}, time.monotonic()
    shares(net.hosts[0], net.hosts[1:], seconds=COST_S)
    elapsed = time.monotonic() - begin
    return {e: 100 * (cpu_and_memory(pid)[0] - before[e]) / elapsed for e, pid in pids.items()}


def bench(part: Callable[[], Iterator[Row]]) -> Bench:
    def run() -> list[Row]:
        if (reason := why_not()) is not None:
            raise RuntimeError(f"links cannot be measured here: {reason}")
        return list(part())

    return run


PARTS = {
    "links-goodput": rates,
    "links-trips": trips,
    "links-loss": losses,
    "links-jitter": jitters,
    "links-shares": incast,
    "links-cost": cost,
}
BENCHES: dict[str, Bench] = {title: bench(part) for title, part in PARTS.items()}
