"""What is done to single packets: lost in bursts, late, out of order, twice, broken; or refused."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from node.config import Burst, Emulator, PathSpec, Slot
from node.links.estimate import loss_weight
from node.links.kernel import Capabilities
from node.links.report import share_interval
from node.units import MILLISECOND
from tests.links.bed import Bed, bed
from tests.links.netns import Host
from tests.links.packets import Arrived, send

pytestmark = pytest.mark.links

PATH = PathSpec(rate_bps=50_000_000, delay_ns=20 * MILLISECOND)
TRIES = 3


def one_way(path: PathSpec) -> Callable[[Host, Host], PathSpec]:
    """This path from n0; the plain one back."""
    return lambda a, _: path if a.name == "n0" else PATH


def arrived(net: Bed, *, count: int = 4000, per_second: float = 2000, size: int = 64) -> Arrived:
    return send(
        net.hosts[0], net.hosts[1], count=count, per_second=per_second, size=size, wait_s=0.3
    )


@pytest.fixture
def netem(able: Capabilities) -> None:
    if not able.netem:
        pytest.skip("this kernel has no netem")


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_losses_come_in_bursts_as_long_as_asked(emulator: Emulator, loss: float) -> None:
    burst = Burst(enter=0.01, leave=0.25)
    path = replace(PATH, burst=burst, loss=loss)
    with bed(2, path=one_way(path), emulator=emulator) as net:
        seen = arrived(net, count=20_000, per_second=5000)
    low, high = share_interval(seen.loss, seen.count / loss_weight(path))
    assert low <= path.loss_rate <= high
    if not loss:
        # A geometric distribution of mean 4 deviates by 3.5; there are about 190 bursts.
        assert statistics.mean(seen.bursts) == pytest.approx(1 / burst.leave, rel=0.3)
        assert max(seen.bursts) > 8
    assert seen.overtaken == 0


def test_jitter_keeps_the_order_by_default(emulator: Emulator, tolerance: float) -> None:
    path = replace(PATH, jitter_ns=3 * MILLISECOND)
    with bed(2, path=one_way(path), emulator=emulator) as net:
        close = arrived(net, count=2000, per_second=1000)
        assert close.overtaken == 0
        assert close.loss == 0
        for _ in range(TRIES):
            apart = arrived(net, count=300, per_second=60)
            if abs(apart.sigma_ms / 3 - 1) <= 0.15:
                break
        assert apart.sigma_ms == pytest.approx(3, rel=0.15 * tolerance)
        assert statistics.median(apart.ms) == pytest.approx(20, abs=1 * tolerance)


def test_jitter_may_change_the_order(emulator: Emulator, tolerance: float) -> None:
    path = replace(PATH, jitter_ns=5 * MILLISECOND, ordered=False)
    with bed(2, path=one_way(path), emulator=emulator) as net:
        seen = arrived(net, count=3000, per_second=1000)
    assert seen.loss == 0
    assert seen.overtaken > 0.3
    assert seen.sigma_ms == pytest.approx(5, rel=0.15 * tolerance)
    assert statistics.median(seen.ms) == pytest.approx(20, abs=1 * tolerance)


def test_a_share_is_sent_ahead(emulator: Emulator, tolerance: float) -> None:
    path = replace(PATH, reorder=0.2)
    with bed(2, path=one_way(path), emulator=emulator) as net:
        seen = arrived(net, count=3000, per_second=500)
        report = net.judged(*net.hosts, "rtt")
        assert report.ok, report.why
    ahead = [ms for ms in seen.ms if ms < 10]
    assert len(ahead) / len(seen.ms) == pytest.approx(0.2, abs=0.03)
    assert statistics.median(ahead) < 2 * tolerance
    assert statistics.median(ms for ms in seen.ms if ms >= 10) == pytest.approx(
        20, abs=0.5 * tolerance
    )


def test_a_queue_holds_what_was_asked(emulator: Emulator) -> None:
    """Of a volley, what the queue has no room for is dropped."""
    if emulator is Emulator.NETEM:
        pytest.skip("netem counts the packets of its delay and of the queue together")
    path = replace(PATH, rate_bps=10_000_000, queue_bytes=30_280)
    with bed(2, path=one_way(path), emulator=emulator) as net:
        seen = arrived(net, count=200, per_second=1e6, size=1514)
    assert 20 <= len(seen.numbers) <= 32
    assert max(seen.ms) - min(seen.ms) == pytest.approx(20 * 1.211, rel=0.25)


def test_packets_come_twice(netem: None) -> None:
    path = replace(PATH, duplicate=0.1)
    with bed(2, path=one_way(path), emulator=Emulator.NETEM) as net:
        seen = arrived(net)
        report = net.judged(*net.hosts, "rtt", "loss")
        assert report.ok, report.why
    low, high = share_interval(seen.twice, seen.count)
    assert low <= 0.1 <= high
    assert seen.loss == 0


def test_a_kernel_that_sends_nothing_twice_beside_others_says_so(
    netem: None, able: Capabilities
) -> None:
    with bed(3, path=replace(PATH, duplicate=0.1), emulator=Emulator.NETEM, agents=False) as net:
        agent = net.start_agent(net.hosts[0])
        if able.netem_duplicate:
            assert agent.poll() is None
            return
        _, err = agent.communicate(timeout=20)
        assert agent.returncode == 3
        assert err.startswith("error: `duplicate` cannot be emulated on this kernel")


def test_broken_packets_are_dropped_by_the_receiver(netem: None) -> None:
    path = replace(PATH, corrupt=0.1)
    with bed(2, path=one_way(path), emulator=Emulator.NETEM) as net:
        seen = arrived(net)
        report = net.judged(*net.hosts, "loss")
        assert report.ok, report.why
    low, high = share_interval(seen.loss, seen.count)
    assert low <= 0.1
    assert high >= 0.08


def test_packets_leave_in_slots(netem: None) -> None:
    path = replace(PATH, slot=Slot(least_ns=30 * MILLISECOND, most_ns=40 * MILLISECOND))
    with bed(2, path=one_way(path), emulator=Emulator.NETEM) as net:
        seen = arrived(net, count=1000, per_second=1000)
    at = sorted(number + ms for number, ms in zip(seen.numbers, seen.ms, strict=True))
    pauses = [b - a for a, b in itertools.pairwise(at) if b - a > 15]
    assert len(pauses) >= 15
    assert seen.loss == 0
    assert seen.overtaken == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("duplicate", replace(PATH, duplicate=0.01)),
        ("corrupt", replace(PATH, corrupt=0.01)),
        ("slot", replace(PATH, slot=Slot(least_ns=MILLISECOND, most_ns=MILLISECOND))),
    ],
)
def test_what_the_delay_line_cannot_do_is_refused_by_name(
    able: Capabilities, name: str, path: PathSpec
) -> None:
    if not able.nfqueue:
        pytest.skip("this kernel has no nfqueue")
    with bed(2, path=path, emulator=Emulator.NFQUEUE, agents=False) as net:
        agent = net.start_agent(net.hosts[0])
        _, err = agent.communicate(timeout=20)
        assert agent.returncode == 2
        assert err.startswith(
            f"error: the path from n0 to n1: `{name}` cannot be emulated by `nfqueue`\n"
        )
        assert "--emulator netem" in err
        (event,) = net.events(net.hosts[0], "error")
        assert name in event["message"]
