"""Messages of several nodes that meet on links: what they get there, and when the next begins."""

from __future__ import annotations

import numpy as np
import pytest

from node.config import Pacing, PathSpec
from node.core.events import Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.outbox import chunk_bytes, window_bytes
from node.links.sizes import burst_bytes
from node.sim.interfaces import Access, Path, Sharing
from node.sim.wire import Parcel, head_bytes
from node.units import MILLISECOND, SECOND
from tests.sim.lines import TEN_MBIT, A, B, C, D, Lines, View, control, model

RATE = 10_000_000


def parcel(message: PeerMessage, spec: PathSpec = TEN_MBIT) -> Parcel:
    chunk = chunk_bytes(window_bytes(spec, spec))
    return Parcel(message.kind, values=message.model_bytes, head=head_bytes(message), chunk=chunk)


def takes(message: PeerMessage) -> int:
    return -(-parcel(message).wire * 8 * SECOND // RATE)


def arrivals(lines: Lines, at: NodeId) -> list[int]:
    return [when for when, _ in lines.at[at].received()]


def crowd(seed: int) -> list[int]:
    """How many messages of 30 nodes with equal links have come after each 30 ms."""
    names = tuple(NodeId(f"n{number:02}") for number in range(30))
    spec = PathSpec(rate_bps=60_000_000, delay_ns=MILLISECOND)
    rates = {f"{name}/{way}": 60_000_000 for name in names for way in ("up", "down")}
    lines = Lines(
        View(default=spec, rates=rates),
        nodes=names,
        sharing=Sharing.FAIR,
        unheard=frozenset({Sent}),
    )
    draw = np.random.default_rng(seed)
    for _ in range(40):
        for place, name in enumerate(names):
            other = (place + 1 + int(draw.integers(29))) % 30
            lines.at[name].send(names[other], model(9000))
    come = []
    for _ in range(4):
        lines.run(30 * MILLISECOND)
        come.append(sum(len(station.received()) for station in lines.at.values()))
    return come


def test_a_crowd_gets_as_much_through_as_with_exact_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than 48 messages that all meet each other: not one starves while it is short."""
    ours = [crowd(seed) for seed in range(3)]
    monkeypatch.setattr("node.sim.pipe.FAR", 1e-9)
    monkeypatch.setattr("node.sim.pipe.HOPS", 1000)
    exact = [crowd(seed) for seed in range(3)]
    for one, other in zip(ours, exact, strict=True):
        assert one == pytest.approx(other, rel=0.04)
    assert np.sum(ours) == pytest.approx(np.sum(exact), rel=0.015)


def test_the_next_message_begins_sooner_when_the_one_ahead_becomes_faster() -> None:
    lines = Lines(View(rates={"b/down": RATE}), nodes=(A, B, C, D), sharing=Sharing.FAIR)
    lines.at[C].send(B, model(25_000))
    lines.at[A].send(B, model(50_000))
    lines.at[A].send(D, model(5_000))
    lines.run(2 * SECOND)
    ahead, ((behind, _),) = max(arrivals(lines, B)), lines.at[D].received()
    assert behind <= ahead + takes(model(5_000))


def test_a_message_behind_one_that_was_cut_off_for_a_while_does_not_wait_for_its_end() -> None:
    specs: dict[tuple[NodeId, NodeId], PathSpec | None] = {(A, B): None, (B, A): None}
    lines = Lines(View(), sharing=Sharing.FAIR)
    lines.at[A].send(B, model(100_000))
    lines.run(20 * MILLISECOND)
    lines.network.change(View(specs=specs))
    lines.at[A].send(C, model(5_000))
    lines.run(20 * MILLISECOND)
    lines.network.change(View())
    lines.run(3 * SECOND)
    ((ahead, _),), ((behind, _),) = lines.at[B].received(), lines.at[C].received()
    assert behind <= ahead + takes(model(5_000))


def test_what_comes_from_one_peer_takes_from_what_goes_to_another() -> None:
    """Acknowledgements are sent on the same uplink."""
    times = []
    for busy in (False, True):
        lines = Lines(View(rates={"b/up": RATE, "b/down": RATE}), sharing=Sharing.FAIR)
        if busy:
            lines.at[C].send(B, model(200_000))
            lines.run(20 * MILLISECOND)
        began = lines.queue.now
        lines.at[B].send(A, model(100_000))
        lines.run(2 * SECOND)
        times.append(arrivals(lines, A)[0] - began)
    share = parcel(model(200_000)).back / parcel(model(200_000)).wire
    longer = share / (1 - share) * takes(model(100_000))
    assert times[1] - times[0] == pytest.approx(longer, rel=0.1)


def test_a_control_message_holds_up_what_goes_the_same_way() -> None:
    plain, beside = [], []
    for times, busy in ((plain, False), (beside, True)):
        lines = Lines(View(), sharing=Sharing.FAIR, pacing=Pacing.PARALLEL)
        began = lines.queue.now
        for target in (B, C):
            lines.at[A].send(target, model(50_000))
        if busy:
            for _ in range(50):
                lines.at[A].send(C, control())
        lines.run(2 * SECOND)
        times += [lines.at[to].received()[-1][0] - began for to in (B, C)]
    assert beside[0] == plain[0]
    assert beside[1] - plain[1] == pytest.approx(50 * takes(control()), abs=100)


class Star(View):
    """All meet in the middle; counts who asks for a path."""

    asked = 0

    def access(self, node: NodeId) -> Access:
        spec = self.specs.get((node, node), self.default)
        return Access(kind=spec, up=(f"{node}/up",), down=(f"{node}/down",))

    def path(self, source: NodeId, target: NodeId) -> Path | None:
        Star.asked += 1
        specs = [self.specs.get((end, end), self.default) for end in (source, target)]
        if None in specs:
            return None
        slowest = min((spec for spec in specs if spec), key=lambda spec: spec.rate_bps or 0)
        return Path(spec=slowest, links=(f"{source}/up", f"{target}/down"))

    def capacity(self, link: str) -> int:
        spec = self.specs.get((NodeId(link[0]), NodeId(link[0])), self.default)
        return RATE if spec is None else spec.rate_bps or RATE


def test_a_change_of_one_link_is_looked_at_by_those_whom_it_concerns() -> None:
    names = tuple(NodeId(name) for name in "abcdefghijklmnopqrst")
    lines = Lines(Star(), nodes=names, sharing=Sharing.FAIR)
    began = lines.queue.now
    for one, other in ((A, B), (C, D)):
        lines.at[one].send(other, model(100_000))
    lines.run(100 * MILLISECOND)
    Star.asked = 0
    slow = PathSpec(rate_bps=RATE // 2, delay_ns=10 * MILLISECOND)
    lines.network.change(Star(specs={(B, B): slow}))
    # Of 190 pairs: one for each two kinds of ends, there and back.
    assert Star.asked <= 8
    lines.run(2 * SECOND)
    (first,), (second,) = arrivals(lines, B), arrivals(lines, D)
    whole = takes(model(100_000))
    burst = burst_bytes(RATE) * 8 * SECOND // RATE
    assert second - began == pytest.approx(whole - burst + 10 * MILLISECOND, abs=10)
    assert first - began == pytest.approx(2 * whole - 90 * MILLISECOND, rel=0.01)
    lines.network.change(Star(specs={(B, B): None}))
    lines.run(10 * SECOND)
    assert {peer for _, peer, _ in lines.at[C].changes()} == {B}
    assert len(lines.at[B].changes()) == 19
