"""Transfers side by side: who gets how much of a link."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from tests.links.netns import Host

PORT = 7100


def _sink(host: Host, *, sources: int, seconds: float) -> subprocess.Popen[str]:
    process = host.python(
        "tests.links.run_bulk", "sink", host.address, str(PORT), str(sources), str(seconds)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def _transfers(
    ends: Sequence[tuple[Host, Host]], sinks: Sequence[subprocess.Popen[str]]
) -> list[dict[str, float]]:
    """What the sinks say when all (source, target) have sent for a while."""
    sources = [a.python("tests.links.run_bulk", "source", b.address, str(PORT)) for a, b in ends]
    said = [json.loads(sink.stdout.readline() or "{}") for sink in sinks if sink.stdout]
    for process in (*sources, *sinks):
        process.kill()
        process.communicate()
    return said


def shares(receiver: Host, senders: Sequence[Host], *, seconds: float) -> list[float]:
    """Payload bit/s of each sender when all send to one receiver."""
    sink = _sink(receiver, sources=len(senders), seconds=seconds)
    (rates,) = _transfers([(sender, receiver) for sender in senders], [sink])
    return [rates[sender.address] for sender in senders]


def one_to_many(sender: Host, receivers: Sequence[Host], *, seconds: float) -> list[float]:
    """Payload bit/s that each receiver gets when one sends to all."""
    sinks = [_sink(receiver, sources=1, seconds=seconds) for receiver in receivers]
    said = _transfers([(sender, receiver) for receiver in receivers], sinks)
    return [rates[sender.address] for rates in said]
