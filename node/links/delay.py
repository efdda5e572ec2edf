"""The delay of one source's packets: when each is due, and which are lost (pure).

Packets are only numbers here, in the order of their arrival; the kernel holds them. They leave in
that order, whatever the jitter: a path does not reorder. Time and randomness come in from outside.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from node.links.tc_plan import Delay
from node.units import Nanos


class Randomness(Protocol):
    """What a line needs of `random.Random`."""

    def random(self) -> float: ...
    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float: ...


class Line:
    """The packets of one source on their way through its delay.

    Attributes:
        delay: what happens to packets that arrive now; set it anew to change that, those on their
            way keep their times.
        held: (due, packet) in the order of arrival, due times never decreasing.
        packets, lost: how many came in, and how many of them were drawn to be lost.
    """

    __slots__ = ("_random", "delay", "held", "lost", "packets")

    def __init__(self, delay: Delay, *, randomness: Randomness) -> None:
        self.held: deque[tuple[Nanos, int]] = deque()
        self.packets = 0
        self.lost = 0
        self.delay = delay
        self._random = randomness

    def arrive(self, packet: int, *, at: Nanos) -> bool:
        """A packet came in at this time; False if it is to be dropped."""
        self.packets += 1
        delay = self.delay
        if delay.loss and self._random.random() < delay.loss:
            self.lost += 1
            return False
        due = at + delay.delay_ns
        if delay.jitter_ns:
            due = max(at, due + round(self._random.gauss(0.0, delay.jitter_ns)))
        if self.held and due < self.held[-1][0]:
            due = self.held[-1][0]
        self.held.append((due, packet))
        return True

    def next_due(self) -> Nanos | None:
        """When the first packet is to leave; None when there is none."""
        return self.held[0][0] if self.held else None

    def release(self, *, now: Nanos) -> tuple[int, Nanos] | None:
        """The last packet that is due, with the time at which the first was; None if none is."""
        held = self.held
        if not held or held[0][0] > now:
            return None
        first, packet = held.popleft()
        while held and held[0][0] <= now:
            packet = held.popleft()[1]
        return packet, first
