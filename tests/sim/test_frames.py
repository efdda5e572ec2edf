"""Nodes that all send to each other at once, held against the real send queues packet by packet."""

from __future__ import annotations

from statistics import fmean

import pytest

from node.config import PathSpec
from node.core.events import Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.sim.interfaces import Sharing
from node.units import MILLISECOND, SECOND, Nanos
from tests.sim.frames import Switch
from tests.sim.lines import Lines, View, model


def path(mbit: float, delay_ms: float) -> PathSpec:
    return PathSpec(rate_bps=round(mbit * 1e6), delay_ns=round(delay_ms * MILLISECOND))


def simulated(
    spec: PathSpec, sends: list[list[tuple[int, PeerMessage]]]
) -> tuple[Lines, list[NodeId], Nanos]:
    names = [NodeId(chr(ord("a") + place)) for place in range(len(sends))]
    rate = spec.rate_bps
    assert rate is not None
    rates = {f"{name}/{way}": rate for name in names for way in ("up", "down")}
    lines = Lines(View(default=spec, rates=rates), nodes=tuple(names), sharing=Sharing.FAIR)
    began = lines.queue.now
    for name, messages in zip(names, sends, strict=True):
        for target, message in messages:
            lines.at[name].send(names[target], message, key="k")
    lines.run(100 * SECOND)
    return lines, names, began


def to_all(nodes: int, size: int) -> list[list[tuple[int, PeerMessage]]]:
    """Each to all others in the same order, so that they meet at one receiver after the other."""
    return [
        [(target, model(size // 4)) for target in range(nodes) if target != node]
        for node in range(nodes)
    ]


CASES = [
    # Nodes, what lies between them, bytes of a message, and how far apart the times may be.
    (2, path(4, 10), 36_000, 0.1),
    (2, path(3, 10), 200_000, 0.1),
    (3, path(3, 10), 36_000, 0.1),
    (3, path(3, 10), 200_000, 0.1),
    (4, path(20, 10), 100_000, 0.1),
    (4, path(2, 2), 20_000, 0.15),
    (5, path(10, 40), 100_000, 0.1),
    (5, path(60, 10), 800_000, 0.1),
    (6, path(10, 2), 36_000, 0.12),
    (6, path(10, 2), 8000, 0.12),
    (6, path(10, 20), 3000, 0.1),
    (8, path(3, 10), 40_000, 0.1),
    (8, path(3, 10), 200_000, 0.1),
    (8, path(20, 1), 350_000, 0.1),
    # A quarter of the window is a burst here. HTB saves it up also where a link is half full.
    (8, path(60, 0.5), 36_000, 0.25),
]


@pytest.mark.parametrize(("nodes", "spec", "size", "close"), CASES)
def test_all_to_all_takes_as_long_as_packet_by_packet(
    nodes: int, spec: PathSpec, size: int, close: float
) -> None:
    """Windows, chunks, shared links, acknowledgements behind data: until the last node has all,
    and on average. It takes up to three times what the links alone would."""
    switch = Switch(spec, to_all(nodes, size))
    switch.run()
    real = sorted(node.arrived[-1] for node in switch.nodes)
    lines, names, began = simulated(spec, to_all(nodes, size))
    ours = sorted(lines.at[name].received()[-1][0] - began for name in names)
    assert all(len(lines.at[name].received()) == nodes - 1 for name in names)
    assert ours[-1] == pytest.approx(real[-1], rel=close)
    assert fmean(ours) == pytest.approx(fmean(real), rel=close)


def test_two_that_send_to_each_other_hear_of_it_as_late_as_packet_by_packet() -> None:
    """Acknowledgements wait behind what the transport holds, here about half of the window's slack,
    which leaves a link idle now and then."""
    spec = path(4, 10)
    sends = [[(1 - node, model(9000)) for _ in range(30)] for node in range(2)]
    switch = Switch(spec, sends)
    switch.run()
    lines, names, began = simulated(spec, sends)
    waits: list[float] = []
    for one, other in ((0, 1), (1, 0)):
        came = [at for at, _ in lines.at[names[other]].received()]
        heard = [at for at, event in lines.at[names[one]].heard if isinstance(event, Sent)]
        waits.append(fmean(b - a for a, b in zip(came[5:25], heard[5:25], strict=True)))
        real = switch.nodes[other].arrived
        assert came[-1] - began == pytest.approx(real[-1], rel=0.15)
    theirs = fmean(
        b - a
        for one, other in ((0, 1), (1, 0))
        for a, b in zip(
            switch.nodes[other].arrived[5:25], switch.nodes[one].heard[5:25], strict=True
        )
    )
    assert fmean(waits) == pytest.approx(theirs, rel=0.2)
