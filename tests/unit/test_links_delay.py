"""The delay of one source: due times, order, losses single and in bursts, against mathematics."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Burst, PathSpec
from node.links.delay import Line
from node.units import MILLISECOND, Nanos


def line(path: PathSpec | None, *, seed: int = 0) -> Line:
    return Line(path, streams=lambda purpose: random.Random(f"{seed}/{purpose}"))


def ms(delay: float, **more: object) -> PathSpec:
    return PathSpec(delay_ns=round(delay * MILLISECOND), **more)  # type: ignore[arg-type]


def drain(of: Line) -> list[tuple[Nanos, list[int]]]:
    """All that leaves, at the times at which the line asks to be looked at; a batch in full."""
    left = []
    waiting = [packet for _, packet in of.held]
    while (now := of.next_due()) is not None:
        released = of.release(now=now)
        assert released is not None
        single, upto, due = released
        assert due == now
        gone = single + [p for p in waiting if upto is not None and p <= upto and p not in single]
        waiting = [p for p in waiting if p not in gone]
        left.append((now, gone))
    assert not waiting
    return left


def test_a_packet_is_due_after_the_delay_and_not_before() -> None:
    path = line(ms(20))
    assert path.next_due() is None
    assert path.arrive(1, 1, at=0, until=0) == []
    assert path.next_due() == 20 * MILLISECOND
    assert path.release(now=20 * MILLISECOND - 1) is None
    assert path.release(now=20 * MILLISECOND) == ([], 1, 20 * MILLISECOND)
    assert path.next_due() is None


def test_a_run_leaves_as_evenly_as_it_came() -> None:
    path = line(ms(10))
    path.arrive(1, 5, at=0, until=4 * MILLISECOND)
    assert path.release(now=12 * MILLISECOND) == ([], 3, 10 * MILLISECOND)
    assert path.next_due() == 13 * MILLISECOND
    assert path.release(now=13 * MILLISECOND - 1) is None
    assert path.release(now=99 * MILLISECOND) == ([], 5, 13 * MILLISECOND)
    assert len(path) == 0


def test_a_changed_delay_is_for_those_that_come_and_keeps_the_order() -> None:
    path = line(ms(50))
    path.arrive(1, 1, at=0, until=0)
    path.path = ms(1)
    path.arrive(2, 3, at=MILLISECOND, until=2 * MILLISECOND)
    assert path.release(now=40 * MILLISECOND) is None
    assert path.release(now=50 * MILLISECOND) == ([], 3, 50 * MILLISECOND)


def test_without_a_path_all_that_is_held_and_all_that_comes_is_dropped() -> None:
    path = line(ms(50))
    path.arrive(1, 4, at=0, until=MILLISECOND)
    path.path = None
    assert path.next_due() is None
    assert path.arrive(5, 6, at=MILLISECOND, until=MILLISECOND) == [5, 6]
    assert (path.packets, path.lost, path.cut) == (6, 0, 2)
    path.path = ms(50)
    assert path.arrive(7, 7, at=0, until=0) == []


def test_a_changed_order_does_not_take_waiting_packets_along() -> None:
    """Unordered packets that wait stay, whatever of the ordered ones behind them is due."""
    path = line(ms(50, jitter_ns=MILLISECOND, ordered=False))
    path.arrive(1, 3, at=0, until=0)
    path.path = ms(5)
    path.arrive(4, 6, at=0, until=0)
    assert path.release(now=10 * MILLISECOND) == ([4, 5, 6], None, 5 * MILLISECOND)
    assert sorted(p for _, some in drain(path) for p in some) == [1, 2, 3]


paths = st.builds(
    PathSpec,
    delay_ns=st.integers(0, 20 * MILLISECOND),
    jitter_ns=st.just(0) | st.integers(0, 20 * MILLISECOND),
    loss=st.just(0.0) | st.floats(0, 1),
    burst=st.none() | st.builds(Burst, enter=st.floats(0.01, 1), leave=st.floats(0.01, 1)),
    reorder=st.just(0.0) | st.floats(0, 1),
    ordered=st.booleans(),
)
runs = st.lists(
    st.tuples(st.integers(0, 10 * MILLISECOND), st.integers(1, 5), st.integers(0, 3 * MILLISECOND)),
    max_size=20,
)


@given(paths, runs, st.integers(0, 99))
def test_nothing_is_early_or_twice_and_order_is_kept_where_it_is_asked_for(
    spec: PathSpec, came: list[tuple[Nanos, int, Nanos]], seed: int
) -> None:
    path = line(spec, seed=seed)
    now, number, arrived, lost = 0, 1, {}, set()
    for gap, count, length in came:
        at, now = now + gap, now + gap + (length if count > 1 else 0)
        lost |= set(path.arrive(number, number + count - 1, at=at, until=now))
        for i in range(count):
            arrived[number + i] = at + (now - at) * i // max(1, count - 1)
        number += count
    left = [(at, packet) for at, some in drain(path) for packet in some if packet not in lost]
    assert sorted(packet for _, packet in left) == sorted(set(arrived) - lost)
    fixed = spec.delay_ns if not spec.jitter_ns and not spec.reorder else 0
    assert all(at >= arrived[packet] + fixed for at, packet in left)
    if not spec.reorder and (spec.ordered or not spec.jitter_ns):
        assert [packet for _, packet in left] == sorted(set(arrived) - lost)
    assert path.packets == len(arrived)
    assert path.lost == len(lost)


def test_losses_and_jitter_are_as_asked_and_the_same_for_the_same_seed() -> None:
    def play() -> tuple[int, list[int]]:
        path = line(ms(50, jitter_ns=5 * MILLISECOND, loss=0.1), seed=7)
        gap = 100 * MILLISECOND
        for packet in range(20_000):
            path.arrive(packet, packet, at=packet * gap, until=packet * gap)
        return path.lost, [due - p * gap for due, p in path.held]

    lost, delays = play()
    assert abs(lost / 20_000 - 0.1) < 0.007
    assert abs(statistics.mean(delays) / MILLISECOND - 50) < 0.2
    assert abs(statistics.stdev(delays) / MILLISECOND - 5) < 0.15
    assert play() == (lost, delays)


@pytest.mark.parametrize(
    "burst",
    [
        Burst(enter=0.01, leave=0.25),
        Burst(enter=0.002, leave=0.1, bad=0.7, good=0.01),
        Burst(enter=0.3, leave=0.6, bad=0.5),
    ],
)
def test_bursts_have_the_share_and_the_length_of_the_gilbert_elliott_chain(burst: Burst) -> None:
    """Long-run loss, how often a lost packet is followed by another, and runs of lost packets."""
    count = 400_000
    path = line(PathSpec(burst=burst), seed=3)
    lost = [False] * (count + 1)
    for first in range(1, count + 1, 50):
        for packet in path.arrive(first, first + 49, at=0, until=0):
            lost[packet] = True
    share = burst.enter / (burst.enter + burst.leave)
    # Chance that a packet and the next are both lost: over the states of the first and the second.
    states = {True: (share, burst.bad), False: (1 - share, burst.good)}
    step = {True: {False: burst.leave}, False: {True: burst.enter}}
    both = sum(
        weight * here * chance * states[after][1]
        for before, (weight, here) in states.items()
        for after, chance in ((not before, step[before][not before]),
                              (before, 1 - step[before][not before]))
    )  # fmt: skip
    seen_loss = sum(lost) / count
    seen_both = sum(a and b for a, b in itertools.pairwise(lost)) / count
    # Deviations of a correlated sample: the chain forgets like (1 - enter - leave)^n.
    memory = (1 + abs(1 - burst.enter - burst.leave)) / (burst.enter + burst.leave)
    slack = 4 * math.sqrt(burst.loss * (1 - burst.loss) * max(1.0, memory) / count)
    assert seen_loss == pytest.approx(burst.loss, abs=slack)
    assert seen_both == pytest.approx(both, abs=slack)
    lengths = [len(list(run)) for state, run in itertools.groupby(lost) if state]
    assert statistics.mean(lengths) == pytest.approx(burst.loss / (burst.loss - both), rel=0.05)


def test_random_losses_come_on_top_of_bursts() -> None:
    spec = PathSpec(loss=0.05, burst=Burst(enter=0.02, leave=0.2))
    path = line(spec)
    for first in range(1, 100_001, 100):
        path.arrive(first, first + 99, at=0, until=0)
    assert path.lost / 100_000 == pytest.approx(spec.loss_rate, abs=0.008)


def test_one_stream_of_chance_does_not_shift_another() -> None:
    """The same packets are lost with and without jitter."""
    losses = []
    for spec in (PathSpec(loss=0.2), ms(9, jitter_ns=MILLISECOND, loss=0.2, reorder=0.5)):
        path = line(spec)
        losses.append([p for n in range(100) for p in path.arrive(n, n, at=n, until=n)])
    assert losses[0] == losses[1] != []


def test_the_share_that_is_reordered_leaves_at_once() -> None:
    path = line(ms(50, reorder=0.25))
    path.arrive(1, 10_000, at=0, until=0)
    released = path.release(now=0)
    assert released is not None
    single, upto, _ = released
    assert upto is None
    assert len(single) / 10_000 == pytest.approx(0.25, abs=0.02)
    assert path.next_due() == 50 * MILLISECOND
