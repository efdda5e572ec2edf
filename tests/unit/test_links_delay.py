"""The delay of one source: due times, order, losses."""

from __future__ import annotations

import random
import statistics

from hypothesis import given
from hypothesis import strategies as st

from node.core.ids import NodeId
from node.links.delay import Line
from node.links.tc_plan import Delay
from node.units import MILLISECOND


def line(*, delay_ms: float = 0, jitter_ms: float = 0, loss: float = 0, seed: int = 0) -> Line:
    return Line(
        Delay(
            peer=NodeId("a"),
            host="10.0.0.2",
            queue=0,
            limit=1000,
            delay_ns=round(delay_ms * MILLISECOND),
            jitter_ns=round(jitter_ms * MILLISECOND),
            loss=loss,
        ),
        randomness=random.Random(seed),
    )


def test_a_packet_is_due_after_the_delay_and_not_before() -> None:
    path = line(delay_ms=20)
    assert path.next_due() is None
    assert path.arrive(1, at=0)
    assert path.next_due() == 20 * MILLISECOND
    assert path.release(now=20 * MILLISECOND - 1) is None
    assert path.release(now=20 * MILLISECOND) == (1, 20 * MILLISECOND)
    assert path.next_due() is None


def test_all_that_is_due_leaves_with_the_last_of_them() -> None:
    path = line(delay_ms=10)
    for packet in range(1, 6):
        path.arrive(packet, at=packet * MILLISECOND)
    assert path.release(now=13 * MILLISECOND) == (3, 11 * MILLISECOND)
    assert path.release(now=13 * MILLISECOND) is None
    assert path.release(now=99 * MILLISECOND) == (5, 14 * MILLISECOND)


def test_a_changed_delay_is_for_those_that_come_and_keeps_the_order() -> None:
    path = line(delay_ms=50)
    path.arrive(1, at=0)
    path.delay = line(delay_ms=1).delay
    path.arrive(2, at=MILLISECOND)
    assert path.release(now=40 * MILLISECOND) is None
    assert path.release(now=50 * MILLISECOND) == (2, 50 * MILLISECOND)


@given(
    st.lists(st.integers(0, 10 * MILLISECOND), max_size=50),
    st.floats(0, 20),
    st.floats(0, 20),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_packets_keep_their_order_and_none_comes_before_it_arrived(
    gaps: list[int], delay_ms: float, jitter_ms: float, loss: float, seed: int
) -> None:
    path = line(delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss, seed=seed)
    now, arrived = 0, {}
    for packet, gap in enumerate(gaps):
        now += gap
        if path.arrive(packet, at=now):
            arrived[packet] = now
    assert [packet for _, packet in path.held] == sorted(arrived)
    dues = [due for due, _ in path.held]
    assert dues == sorted(dues)
    assert all(due >= arrived[packet] for due, packet in path.held)
    assert path.packets == len(gaps)
    assert path.lost == len(gaps) - len(arrived)


def test_losses_and_jitter_are_as_asked_and_the_same_for_the_same_seed() -> None:
    def play() -> tuple[int, list[int]]:
        path = line(delay_ms=50, jitter_ms=5, loss=0.1, seed=7)
        for packet in range(20_000):
            path.arrive(packet, at=packet * 100 * MILLISECOND)
        return path.lost, [due - p * 100 * MILLISECOND for due, p in path.held]

    lost, delays = play()
    assert abs(lost / 20_000 - 0.1) < 0.007
    assert abs(statistics.mean(delays) / MILLISECOND - 50) < 0.2
    assert abs(statistics.stdev(delays) / MILLISECOND - 5) < 0.15
    assert play() == (lost, delays)
