"""Datagrams one by one: which came, when, in which order."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from dataclasses import dataclass

from tests.links.netns import Host

PORT = 7200


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What came of `count` datagrams: numbers and ms on the way, in the order of arrival."""

    count: int
    numbers: list[int]
    ms: list[float]

    @property
    def loss(self) -> float:
        return 1 - len(set(self.numbers)) / self.count

    @property
    def twice(self) -> float:
        return (len(self.numbers) - len(set(self.numbers))) / self.count

    @property
    def overtaken(self) -> float:
        """Share of those that came behind one that was sent later."""
        newest = itertools.accumulate(self.numbers, max)
        behind = sum(number < most for number, most in zip(self.numbers, newest, strict=True))
        return behind / max(1, len(self.numbers))

    @property
    def bursts(self) -> list[int]:
        """Lengths of the runs of lost packets."""
        came = set(self.numbers)
        lost = (number not in came for number in range(self.count))
        return [len(list(run)) for gone, run in itertools.groupby(lost) if gone]

    @property
    def sigma_ms(self) -> float:
        """Standard deviation without stalls of this machine: from the middle 80 %."""
        low, high = statistics.quantiles(self.ms, n=10)[::8]
        return (high - low) / (2 * statistics.NormalDist().inv_cdf(0.9))


def send(
    sender: Host, receiver: Host, *, count: int, per_second: float, size: int = 64, wait_s: float
) -> Arrived:
    """Send datagrams of `size` bytes on the wire and wait so long for the last."""
    sink = receiver.python("tests.links.run_packets", "sink", receiver.address, str(PORT))
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n", sink.communicate()[1]
    arguments = map(str, (PORT, count, per_second, size))
    sender.run(
        *sender.interpreter("tests.links.run_packets", "source", receiver.address, *arguments)
    )
    time.sleep(wait_s)  # nothing tells when the last of them is lost
    out, _ = sink.communicate(timeout=20)
    came = json.loads(out)
    return Arrived(count=count, numbers=[n for n, _ in came], ms=[ms for _, ms in came])
