"""The delay of one source's packets: when each is due, and which are lost (pure).

Packets are only numbers here, in the order of their arrival; the kernel holds them. They come in
runs, as they were read: numbers in a row that arrived evenly between two times. Time and randomness
come in from outside.

    ordered (the usual)   due times never decrease, whatever the jitter: a path does not reorder
    unordered             each packet leaves at its own time
    reordered share       leaves at once, before those that wait
"""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from node.config import PathSpec
from node.links.impair import lose
from node.units import Nanos


class Randomness(Protocol):
    """What a line needs of `random.Random`."""

    def random(self) -> float: ...
    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float: ...


Streams = Callable[[str], Randomness]
"""A stream of random numbers for each purpose, so that one does not shift another."""


Run = tuple[Nanos, Nanos, int, int]
"""Packets in a row: when the first and the last are due, evenly in between, and their numbers."""

Release = tuple[list[int], int | None, Nanos]
"""What is to leave: packets by themselves, first; the last one that leaves with all that came
before it, None for none; when the first of them was due. Plain tuples: many are made."""


class Line:
    """The packets of one source on their way through its delay.

    Attributes:
        packets, lost, cut: how many came in, were drawn to be lost, or had no path.
    """

    __slots__ = (
        "_bad", "_burst", "_jitter", "_loose", "_loss", "_path", "_reorder", "_rigid", "_runs",
        "cut", "lost", "packets",
    )  # fmt: skip

    def __init__(self, path: PathSpec | None, *, streams: Streams) -> None:
        self._runs: deque[Run] = deque()
        self._loose: list[tuple[Nanos, int]] = []
        self._bad = False
        self.packets = self.lost = self.cut = 0
        self._loss, self._burst = streams("loss"), streams("burst")
        self._jitter, self._reorder = streams("jitter"), streams("reorder")
        self.path = path

    @property
    def path(self) -> PathSpec | None:
        """What happens to packets that arrive now; None: all are dropped."""
        return self._path

    @path.setter
    def path(self, path: PathSpec | None) -> None:
        """Those on their way keep their times; without a path they are gone."""
        self._path = path
        self._rigid = path is None or not (path.jitter_ns or path.reorder)
        if path is None:
            self._runs.clear()
            self._loose.clear()
        if path is None or path.burst is None:
            self._bad = False

    def arrive(self, packet: int, last: int, *, at: Nanos, until: Nanos) -> list[int]:
        """Packets `packet` to `last` came in, evenly between these times; those to be dropped."""
        count = last - packet + 1
        self.packets += count
        path = self._path
        if path is None:
            self.cut += count
            return list(range(packet, last + 1))
        lost = self._losses(path, packet, count) if path.loss or path.burst is not None else []
        self.lost += len(lost)
        if self._rigid:
            self._hold(at + path.delay_ns, until + path.delay_ns, packet, last)
            return lost
        gone = set(lost)
        for number in range(packet, last + 1):
            if number not in gone:
                came = at + (until - at) * (number - packet) // max(1, count - 1)
                self._scatter(path, number, came)
        return lost

    def _losses(self, path: PathSpec, packet: int, count: int) -> list[int]:
        """Which of these packets are lost, by one of the two ways or both."""
        lost = set()
        if path.loss:
            draw = self._loss.random
            lost = {packet + i for i in range(count) if draw() < path.loss}
        if path.burst is not None:
            burst, self._bad = lose(path.burst, bad=self._bad, count=count, draw=self._burst.random)
            lost.update(packet + i for i in burst)
        return sorted(lost)

    def _scatter(self, path: PathSpec, packet: int, at: Nanos) -> None:
        """A packet that has a time of its own."""
        if path.reorder and self._reorder.random() < path.reorder:
            heapq.heappush(self._loose, (at, packet))
            return
        due = at + path.delay_ns
        if path.jitter_ns:
            due = max(at, due + round(self._jitter.gauss(0.0, path.jitter_ns)))
        if path.ordered:
            self._hold(due, due, packet, packet)
        else:
            heapq.heappush(self._loose, (due, packet))

    def _hold(self, due: Nanos, last_due: Nanos, packet: int, last: int) -> None:
        if packet == last:
            due = last_due
        if self._runs and (behind := self._runs[-1][1]) > due:
            due, last_due = behind, max(behind, last_due)
        self._runs.append((due, last_due, packet, last))

    def next_due(self) -> Nanos | None:
        """When the first packet is to leave; None when there is none."""
        runs, loose = self._runs, self._loose
        if not loose:
            return runs[0][0] if runs else None
        return min(loose[0][0], runs[0][0]) if runs else loose[0][0]

    def release(self, *, now: Nanos) -> Release | None:
        """What is due; None if nothing is."""
        due = self.next_due()
        if due is None or due > now:
            return None
        if not self._loose:
            return [], self._take(now)[1], due
        single = []
        while self._loose and self._loose[0][0] <= now:
            single.append(heapq.heappop(self._loose)[1])
        if not self._loose:
            return single, self._take(now)[1], due
        # What leaves "with all before it" would take along the loose ones that still wait.
        while (taken := self._take(now, most=1))[1] is not None:
            single += range(taken[0], taken[1] + 1)
        return single, None, due

    def _take(self, now: Nanos, *, most: int = sys.maxsize) -> tuple[int, int | None]:
        """Take what is due of so many runs; the first packet and the last, None if none is due."""
        runs = self._runs
        begin, upto = runs[0][2] if runs else 0, None
        while most and runs and runs[0][0] <= now:
            most -= 1
            due, last_due, packet, last = runs[0]
            if last_due <= now:
                runs.popleft()
                upto = last
                continue
            spread, gaps = last_due - due, last - packet
            upto = packet + (now - due) * gaps // spread
            first = upto + 1
            runs[0] = due - (-spread * (first - packet) // gaps), last_due, first, last
        return begin, upto

    @property
    def held(self) -> Iterator[tuple[Nanos, int]]:
        """(due, packet) of all that wait, those that keep their order first."""
        for due, last_due, packet, last in self._runs:
            for number in range(packet, last + 1):
                yield due + (last_due - due) * (number - packet) // max(1, last - packet), number
        yield from sorted(self._loose)

    def __len__(self) -> int:
        return sum(last - packet + 1 for _, _, packet, last in self._runs) + len(self._loose)
