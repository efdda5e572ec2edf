"""What becomes of messages on a path that loses, delays unevenly, doubles or reorders (pure).

A reliable message is a piece of a TCP stream: what is lost of it comes later, and the stream is no
faster than TCP's congestion control lets it be with that loss. A datagram is lost if a packet of it
is. Times are drawn for a message, not for each packet.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from node.config import Burst, PathSpec
from node.links.impair import loss_chain
from node.links.sizes import FRAME
from node.units import MILLISECOND, SECOND, Nanos

RTO_NS: Final = 200 * MILLISECOND
"""Linux's least retransmission timeout, on top of a round trip."""
PROBE_NS: Final = 8 * MILLISECOND
"""What Linux adds to the two round trips after which it probes for a lost tail (RFC 8985, 7.2)."""
_REORDERING: Final = 3
"""With so many packets behind it a lost one is sent again at once, with fewer a quarter of a round
trip later (RFC 8985, 6.2)."""
_JITTERED_MAX: Final = 64
"""So many of the last packets may be the one that comes last."""


class Fate:
    """See the module.

    Attributes:
        rate: bit/s that a stream has at most.
    """

    __slots__ = ("_chain", "_gap", "_loss", "_path", "_survival", "_trip", "rate")

    def __init__(self, path: PathSpec, *, rate: float, trip: Nanos) -> None:
        self._path = path
        self._trip = trip
        self._loss = 1 - (1 - path.loss_rate) * (1 - path.corrupt)
        self._chain = _chain(path)
        self._survival: dict[int, float] = {}
        self.rate = min(rate, tcp_rate(self._events(), trip=trip))
        self._gap = 8 * SECOND * FRAME / self.rate

    @staticmethod
    def of(path: PathSpec, *, rate: float, trip: Nanos) -> Fate | None:
        """None: messages arrive as they are sent."""
        even = not (path.jitter_ns or path.loss_rate or path.corrupt or path.duplicate)
        if even and not path.reorder and path.slot is None:
            return None
        return Fate(path, rate=rate, trip=trip)

    def extra(self, rng: np.random.Generator, *, packets: int, datagram: bool) -> tuple[Nanos, ...]:
        """By how much later than the path's delay a message arrives, below 0 for earlier.

        Once for each time that it does: never, if it is lost; twice, if it is doubled.
        """
        path = self._path
        late = self._jitter(rng, packets) if path.jitter_ns else 0.0
        if path.slot is not None:
            late += rng.random() * rng.uniform(path.slot.least_ns, path.slot.most_ns)
        if not datagram:
            return (round(late + (self._recovery(rng, packets) if self._loss else 0.0)),)
        if self._loss and rng.random() >= self.survival(packets):
            return ()
        if path.reorder and rng.random() < path.reorder**packets:
            late = -path.delay_ns
        twice = path.duplicate and rng.random() < path.duplicate**packets
        return (round(late),) * (2 if twice else 1)

    def survival(self, packets: int) -> float:
        """The chance that none of so many packets in a row is lost."""
        known = self._survival.get(packets)
        if known is None:
            known = self._survival[packets] = self._survive(packets)
        return known

    def _survive(self, packets: int) -> float:
        chain = self._chain
        if chain is None:
            return float((1 - self._loss) ** packets)
        bad = chain.enter / (chain.enter + chain.leave)
        kept = np.array([1 - chain.good, 1 - chain.bad])
        steps = np.array([[1 - chain.enter, chain.enter], [chain.leave, 1 - chain.leave]])
        # A packet is kept or lost in the state that the chain is in, which then goes on.
        through = np.linalg.matrix_power(kept[:, None] * steps, packets)
        return float(np.array([1 - bad, bad]) @ through @ np.ones(2))

    def _events(self) -> float:
        """Losses for each packet, those of one burst counted once: TCP slows down once for them."""
        chain = self._chain
        if chain is None:
            return self._loss
        bursts = chain.enter * chain.leave / (chain.enter + chain.leave)
        return min(self._loss, chain.good + bursts * chain.bad)

    def _jitter(self, rng: np.random.Generator, packets: int) -> float:
        """The last packet to come is not always the last to be sent."""
        sigma = self._path.jitter_ns
        count = min(packets, 1 + math.ceil(4 * sigma / self._gap), _JITTERED_MAX)
        if count == 1:
            return sigma * float(rng.standard_normal())
        return float((sigma * rng.standard_normal(count) - self._gap * np.arange(count)).max())

    def _recovery(self, rng: np.random.Generator, packets: int) -> float:
        """How long the end of a message waits for packets that were lost before it.

        What was lost more than a round trip before the end is there by then.
        """
        tail = min(packets, 1 + math.ceil(self._trip / self._gap))
        if self._chain is None:
            lost = int(rng.binomial(tail, self._loss))
        else:
            lost = int(rng.random() >= self.survival(tail))
        longest = 0.0
        for _ in range(lost):
            behind = int(rng.integers(tail))
            longest = max(longest, self._repair(packets, behind) + self._again(rng))
        return longest

    def _repair(self, packets: int, behind: int) -> float:
        """From the arrival of a message's end without it to that of a packet that was lost with so
        many `behind` it."""
        if packets == 1:
            return self._trip + RTO_NS
        if behind == 0:
            return 2 * self._trip + PROBE_NS
        wait = 1.0 if behind >= _REORDERING else 1.25
        return max(0.0, wait * self._trip + (min(behind, _REORDERING) - behind) * self._gap)

    def _again(self, rng: np.random.Generator) -> float:
        """What is sent again may be lost again, and waits for a timeout then."""
        wait, timeout = 0.0, float(RTO_NS + self._trip)
        while rng.random() < self._loss:
            wait += timeout
            timeout *= 2
        return wait


def tcp_rate(loss: float, *, trip: Nanos) -> float:
    """bit/s, frames included, of one stream with this share of loss events; infinity without any.

    The response function of CUBIC and, where that is more, of Reno, which CUBIC never falls below
    (RFC 8312, sections 4.2 and 5.1; Mathis et al. 1997): packets under way on average.
    """
    if loss <= 0 or trip <= 0:
        return math.inf
    seconds = trip / SECOND
    reno = math.sqrt(1.5 / loss)
    cubic = (0.4 * 3.7 / 1.2) ** 0.25 * (seconds / loss) ** 0.75
    return float(max(reno, cubic) * 8 * FRAME / seconds)


def _chain(path: PathSpec) -> Burst | None:
    chain = loss_chain(path)
    if chain is None or not path.corrupt:
        return chain
    good, bad = (1 - (1 - share) * (1 - path.corrupt) for share in (chain.good, chain.bad))
    return Burst(enter=chain.enter, leave=chain.leave, bad=bad, good=good)
