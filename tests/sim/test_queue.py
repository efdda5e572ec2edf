"""One total order: by time, then by when a call was queued."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.sim.queue import EventQueue


class Log:
    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue
        self.calls: list[tuple[int, int]] = []

    def note(self, number: int) -> None:
        self.calls.append((self.queue.now, number))

    def note_and_queue(self, number: int, delays: list[int]) -> None:
        self.note(number)
        for place, delay in enumerate(delays):
            self.queue.after(delay, self.note, number * 100 + place)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_calls_come_by_time_and_then_in_the_order_in_which_they_were_queued(
    times: list[int],
) -> None:
    queue = EventQueue()
    log = Log(queue)
    for number, time in enumerate(times):
        queue.at(time, log.note, number)
    assert queue.run() == len(times)
    assert log.calls == sorted((time, number) for number, time in enumerate(times))


def test_a_call_may_queue_others_also_for_the_present() -> None:
    queue = EventQueue()
    log = Log(queue)
    queue.at(1, log.note_and_queue, 1, [0, 3])
    queue.at(1, log.note, 2)
    queue.run()
    assert log.calls == [(1, 1), (1, 2), (1, 100), (4, 101)]


def test_the_present_stands_at_the_bound() -> None:
    queue = EventQueue()
    log = Log(queue)
    for time in (1, 5, 9):
        queue.at(time, log.note, time)
    assert queue.run(until=5) == 2
    assert (queue.now, queue.next, len(queue)) == (5, 9, 1)
    assert queue.run(until=7) == 0
    assert queue.now == 7
    assert queue.run(limit=1) == 1
    assert (queue.now, queue.next) == (9, None)


def test_a_limit_leaves_the_present_at_the_last_call() -> None:
    queue = EventQueue()
    log = Log(queue)
    for time in (1, 2, 3):
        queue.at(time, log.note, time)
    assert queue.run(until=10, limit=2) == 2
    assert queue.now == 2
    assert queue.run(until=10) == 1
    assert queue.now == 10


def test_what_is_over_is_over() -> None:
    queue = EventQueue()
    log = Log(queue)
    queue.at(5, log.note, 1)
    queue.run()
    with pytest.raises(ValueError, match="it is 5 ns already"):
        queue.at(4, log.note, 2)
    with pytest.raises(ValueError, match="already"):
        queue.after(-1, log.note, 2)
