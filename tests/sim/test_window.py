"""The window over all peers: messages are handed out as the real send queue hands them out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import Pacing, PathSpec
from node.core.effects import DropQueued, InFlight
from node.core.ids import NodeId
from node.core.outbox import Outbox, Outgoing, Priority, chunk_bytes, window_bytes
from node.sim.interfaces import Sharing
from node.sim.wire import Parcel, head_bytes
from node.units import MILLISECOND, SECOND, Nanos
from tests.sim.ideal import sent
from tests.sim.lines import A, B, C, Lines, View, control, model

SLOW = PathSpec(rate_bps=4_000_000, delay_ns=10 * MILLISECOND)
paths = st.builds(
    PathSpec,
    rate_bps=st.integers(2_000_000, 60_000_000),
    delay_ns=st.integers(MILLISECOND, 60 * MILLISECOND),
)


def lines(specs: Mapping[NodeId, PathSpec]) -> Lines:
    """A sends to others, each on a link of its own."""
    both = {pair: spec for to, spec in specs.items() for pair in ((A, to), (to, A))}
    return Lines(View(specs=both), sharing=Sharing.FAIR)


def simulated(specs: Mapping[NodeId, PathSpec], sizes: list[int], targets: str) -> list[Nanos]:
    """When each of A's messages has arrived."""
    world = lines(specs)
    began = world.queue.now
    for number, (size, to) in enumerate(zip(sizes, targets, strict=True)):
        world.at[A].send(NodeId(to), model(size // 4, kind=f"{number:03}"))
    world.run(1000 * SECOND)
    found = {kind: at - began for to in specs for at, kind in world.at[to].received()}
    return [found[f"{number:03}"] for number in range(len(sizes))]


def real(specs: Mapping[NodeId, PathSpec], sizes: list[int], targets: str) -> list[Nanos]:
    return sent(
        [
            (NodeId(to), model(size // 4, kind=f"{number:03}"))
            for number, (size, to) in enumerate(zip(sizes, targets, strict=True))
        ],
        specs,
    )


@given(paths, paths, st.integers(1, 40), st.data())
def test_messages_of_a_chunk_arrive_when_they_would_from_the_real_queue(
    one: PathSpec, other: PathSpec, count: int, data: st.DataObject
) -> None:
    """To the rounding: what is handed out, when, and what waits is the same."""
    specs = {B: one, C: other}
    sizes = data.draw(st.lists(st.integers(100, 4000), min_size=count, max_size=count))
    targets = data.draw(st.text("bc", min_size=count, max_size=count))
    ours, theirs = simulated(specs, sizes, targets), real(specs, sizes, targets)
    assert ours == pytest.approx(theirs, abs=1000 * count)


@settings(max_examples=60)
@given(paths, paths, st.integers(4000, 400_000), st.data())
def test_larger_messages_are_delivered_as_fast_as_from_the_real_queue(
    one: PathSpec, other: PathSpec, size: int, data: st.DataObject
) -> None:
    """To three per cent and half a round trip, also behind one on a slower and longer path, whose
    acknowledgements hold them up chunk by chunk."""
    specs = {B: one, C: other}
    count = min(60, max(6, 1_000_000 // size))
    targets = data.draw(st.text("bc", min_size=count, max_size=count))
    ours, theirs = (way(specs, [size] * count, targets) for way in (simulated, real))
    half = max(one.delay_ns, other.delay_ns)
    assert abs(max(ours) - max(theirs)) <= 0.03 * max(theirs) + half


@pytest.mark.parametrize("size", [8000, 36_000, 100_000, 400_000])
@pytest.mark.parametrize("rates", [(4, 4), (4, 20), (60, 12)])
def test_what_is_delivered_in_a_second_is_right_to_three_per_cent(
    size: int, rates: tuple[int, int]
) -> None:
    one, other = (PathSpec(rate_bps=rate * 1_000_000, delay_ns=10 * MILLISECOND) for rate in rates)
    specs = {B: one, C: other}
    count = max(12, 2_000_000 // size)
    targets = "".join("bbcbcc"[number % 6] for number in range(count))
    ours, theirs = (way(specs, [size] * count, targets) for way in (simulated, real))
    assert max(ours) == pytest.approx(max(theirs), rel=0.03)
    late = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert abs(sum(late)) / count < 0.03 * max(theirs)


def test_small_messages_to_different_peers_leave_side_by_side() -> None:
    world = lines({B: SLOW, C: SLOW})
    began = world.queue.now
    for to in (B, B, C):
        world.at[A].send(to, model(900))
    world.run(SECOND)
    ((alone, _),) = world.at[C].received()
    assert alone == world.at[B].received()[0][0]
    assert alone - began < world.at[B].received()[1][0] - began


def test_a_message_begins_when_the_window_has_room_for_a_chunk() -> None:
    """Of a larger one before it, to another peer, that much has to be acknowledged."""
    world = lines({B: SLOW, C: SLOW})
    began = world.queue.now
    world.at[A].send(B, model(20_000))
    world.at[A].send(C, model(100))
    world.run(SECOND)
    window = window_bytes(SLOW, SLOW)
    small = Parcel("m", values=400, head=head_bytes(model(100)), chunk=chunk_bytes(window))
    large = Parcel("m", values=80_000, head=head_bytes(model(1)), chunk=chunk_bytes(window))
    # What is over, in whole chunks, has to leave and be acknowledged.
    over = large.message - (window - small.message)
    chunks = -(-over // chunk_bytes(window)) * chunk_bytes(window)
    leaves = chunks * large.wire / large.message * 8 * SECOND / 4_000_000 + SLOW.delay_ns * 2
    own = small.wire * 8 * SECOND / 4_000_000 + SLOW.delay_ns
    ((at, _),) = world.at[C].received()
    assert at - began == pytest.approx(leaves + own, abs=5 * MILLISECOND)


def test_acknowledgements_wait_behind_what_the_other_end_sends() -> None:
    alone, beside = [], []
    for times, busy in ((alone, False), (beside, True)):
        world = lines({B: SLOW, C: SLOW})
        began = world.queue.now
        if busy:
            world.at[B].send(A, model(7000, kind="back"))
        world.at[A].send(B, model(100), key="k")
        world.run(20 * MILLISECOND)
        assert [kind for _, kind in world.at[B].received()] == ["m"]
        while not world.at[A].sent():
            world.run(MILLISECOND)
        times.append(world.queue.now - began)
    # 28,000 bytes of values take 59 ms with all that is around them.
    assert alone[0] < 23 * MILLISECOND
    assert 65 * MILLISECOND < beside[0] < 75 * MILLISECOND


def handed(after: Nanos, size: int, count: int) -> int:
    """How many messages `Outbox` has begun after so long, to one peer on an ideal link."""
    message = model(size)
    window = window_bytes(SLOW, SLOW)
    parcel = Parcel("m", values=4 * size, head=head_bytes(message), chunk=chunk_bytes(window))
    box = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda _: window)
    for _ in range(count):
        box.push(
            Outgoing(
                target=B, key="", size=parcel.message, body=None,
                priority=Priority.MODEL, model_bytes=4 * size,
            )
        )  # fmt: skip
    acks: list[tuple[float, int]] = []
    begun, free, now, total = set(), 0.0, 0.0, 0
    while True:
        while (chunk := box.next_chunk({B})) is not None:
            begun.add(chunk.item.number)
            total += chunk.length
            free = max(free, now) + chunk.length * parcel.wire / parcel.message * 2000
            acks.append((free + 2 * SLOW.delay_ns, total))
        if not acks or acks[0][0] > after:
            return len(begun)
        now, got = acks.pop(0)
        box.acked(B, got)


@given(st.integers(1, 400), st.integers(200, 40_000))
def test_a_cancel_takes_back_what_the_real_queue_would_take_back(after_ms: int, size: int) -> None:
    """To a message of a chunk: which chunk went last is a matter of a chunk's time."""
    world = lines({B: SLOW, C: SLOW})
    count = 2 + 60_000 // size
    for _ in range(count):
        world.at[A].send(B, model(size))
    world.run(after_ms * MILLISECOND)
    world.at[A].mesh.drop(DropQueued())
    world.run(3 * SECOND)
    margin = 1 + chunk_bytes(window_bytes(SLOW, SLOW)) // (4 * size)
    arrived = len(world.at[B].received())
    assert abs(arrived - handed(after_ms * MILLISECOND, size, count)) <= margin


def test_of_what_is_cut_off_no_more_leaves_than_was_handed_out() -> None:
    world = lines({B: SLOW, C: SLOW})
    began = world.queue.now
    world.at[A].send(B, model(100_000), key="r")
    world.run(100 * MILLISECOND)
    world.at[A].mesh.drop(DropQueued(key_prefix="r", in_flight=InFlight.ABORT))
    world.at[A].send(B, model(1000, kind="next"))
    world.run(2 * SECOND)
    ((at, kind),) = world.at[B].received()
    assert kind == "next"
    # 80 ms of acknowledged bytes and a window; then its own 4,000.
    gone = 80 * MILLISECOND + window_bytes(SLOW, SLOW) * 2000
    assert at - began == pytest.approx(gone + 4300 * 2000 + SLOW.delay_ns, rel=0.1)
    traffic = world.at[A].mesh.traffic
    assert traffic.model_sent + traffic.cancelled == 404_000
    assert traffic.model_sent == pytest.approx(4000 + 0.93 * gone / 2000, rel=0.05)


def test_a_stream_that_breaks_leaves_the_window_to_others() -> None:
    world = lines({B: SLOW, C: SLOW})
    node = world.at[A]
    node.send(B, model(40_000), key="large")
    node.send(B, model(1000), key="behind")
    node.send(C, model(1000), key="other")
    world.run(20 * MILLISECOND)
    assert node.mesh.queued_model_bytes() == 8000
    world.at[B].mesh.close()
    world.run(300 * MILLISECOND)
    assert [key for _, key in node.failed()] == ["large"]
    assert [kind for _, kind in world.at[C].received()] == ["m"]
    assert node.sent() == ["other"]


def test_control_messages_do_not_wait_for_the_window() -> None:
    world = lines({B: SLOW, C: SLOW})
    began = world.queue.now
    world.at[A].send(B, model(100_000))
    world.at[A].send(C, model(100))
    world.at[A].send(C, control())
    world.run(100 * MILLISECOND)
    assert [kind for _, kind in world.at[C].received()] == ["c"]
    assert world.at[C].received()[0][0] - began < 11 * MILLISECOND
