"""The send queue: order, window, cancel, and no byte unaccounted for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Pacing, PathSpec
from node.core.effects import InFlight
from node.core.ids import NodeId
from node.core.outbox import (
    BACKGROUND_SHARE,
    SLACK,
    Chunk,
    Outbox,
    Outgoing,
    Priority,
    window_bytes,
)

A, B = NodeId("a"), NodeId("b")
BOTH = {A, B}
WINDOW = 64 * 1024


def outbox(pacing: Pacing = Pacing.SEQUENTIAL, window: int = WINDOW) -> Outbox:
    return Outbox(pacing=pacing, window=lambda _: window)


def message(
    target: NodeId, size: int, *, key: str = "k", priority: Priority = Priority.MODEL
) -> Outgoing:
    return Outgoing(
        target=target, key=key, size=size, body=b"", priority=priority, model_bytes=size
    )


def background(target: NodeId, size: int, *, key: str = "k") -> Outgoing:
    return message(target, size, key=key, priority=Priority.BACKGROUND)


def write_all(box: Outbox, connected: set[NodeId] = BOTH) -> list[Chunk]:
    chunks = []
    while (chunk := box.next_chunk(connected)) is not None:
        chunks.append(chunk)
    return chunks


def test_the_window_is_the_bandwidth_delay_product_and_a_little() -> None:
    path = PathSpec(rate_bps=20_000_000, delay_ns=10_000_000)
    assert window_bytes(path, path) == 50_000 + SLACK
    # What a cancel cannot take back must stay below 64 KiB plus one bandwidth-delay product.
    assert SLACK < 64 * 1024


def test_no_more_than_the_window_leaves_unacknowledged() -> None:
    box = outbox()
    box.push(message(A, 10 * WINDOW))
    chunks = write_all(box)
    assert sum(chunk.length for chunk in chunks) == box.unacked(A) <= WINDOW
    box.acked(A, 20_000)
    assert sum(chunk.length for chunk in write_all(box)) <= 20_000


def test_sequential_pacing_holds_one_window_over_all_peers() -> None:
    box = outbox()
    box.push(message(A, WINDOW))
    box.push(message(B, WINDOW))
    chunks = write_all(box)
    assert {chunk.item.target for chunk in chunks} == {A}
    box.acked(A, WINDOW)
    assert {chunk.item.target for chunk in write_all(box)} == {B}


def test_parallel_pacing_fills_every_peers_window() -> None:
    box = outbox(Pacing.PARALLEL)
    box.push(message(A, WINDOW))
    box.push(message(B, WINDOW))
    assert {chunk.item.target for chunk in write_all(box)} == {A, B}


def test_a_control_message_overtakes_a_model() -> None:
    box = outbox()
    box.push(message(A, 10 * WINDOW))
    write_all(box)
    box.push(message(A, 100, priority=Priority.CONTROL))
    chunk = box.next_chunk(BOTH)
    assert chunk is not None
    assert chunk.item.priority is Priority.CONTROL
    assert chunk.last


def test_an_unreachable_peer_does_not_block_the_others() -> None:
    box = outbox()
    box.push(message(A, 100))
    box.push(message(B, 100))
    assert [chunk.item.target for chunk in write_all(box, {B})] == [B]
    assert [chunk.item.target for chunk in write_all(box)] == [A]


def test_cancel_takes_back_what_was_not_begun_and_finishes_the_rest() -> None:
    box = outbox()
    begun, waiting = message(A, 2 * WINDOW, key="r/1"), message(B, 10, key="r/1")
    later, control = message(B, 10, key="r/2"), message(B, 10, key="r/1", priority=Priority.CONTROL)
    for item in (begun, waiting, later):
        box.push(item)
    write_all(box)
    box.push(control)
    dropped = box.drop(key_prefix="r/1", in_flight=InFlight.FINISH)
    assert dropped.queued == (waiting,)
    assert dropped.aborted == ()
    assert list(box.queued()) == [control, begun, later]


def test_cancel_can_cut_off_the_message_in_flight() -> None:
    box = outbox()
    begun = message(A, 2 * WINDOW, key="r/1")
    box.push(begun)
    write_all(box)
    dropped = box.drop(key_prefix="r/", in_flight=InFlight.ABORT)
    assert dropped.aborted == (begun,)
    assert box.next_chunk(BOTH) is None
    assert box.acked(A, box.unacked(A)) == ()


def test_supersede_replaces_only_what_was_not_begun() -> None:
    box = outbox()
    first, second, third = (message(A, 2 * WINDOW, key="model") for _ in range(3))
    box.push(first)
    write_all(box)
    assert box.push(second, supersedes=True) == ()
    assert box.push(third, supersedes=True) == (second,)
    assert list(box.queued()) == [first, third]


def test_a_broken_stream_fails_what_the_peer_may_lack() -> None:
    box = outbox(window=8192)
    whole, begun, waiting = message(A, 500), message(A, 50_000), message(A, 10)
    for item in (whole, begun, waiting):
        box.push(item)
    write_all(box)
    assert set(box.disconnected(A)) == {whole, begun}
    assert list(box.queued()) == [waiting]
    assert [chunk.item for chunk in write_all(box)] == [waiting]
    assert box.acked(A, 10) == (waiting,)


def test_an_impossible_acknowledgement_is_refused() -> None:
    box = outbox()
    box.push(message(A, 100))
    write_all(box)
    with pytest.raises(ValueError, match="acknowledges 101"):
        box.acked(A, 101)
    box.acked(A, 60)
    with pytest.raises(ValueError, match="acknowledges 59"):
        box.acked(A, 59)


# --- background messages


def carried(
    box: Outbox, *, rounds: int, refill: bool, acked: dict[NodeId, int] | None = None
) -> dict[Priority, int]:
    """Bytes written by priority, when every peer acknowledges all of it `rounds` times."""
    total = dict.fromkeys(Priority, 0)
    acked = acked if acked is not None else dict.fromkeys(BOTH, 0)
    for _ in range(rounds):
        while (chunk := box.next_chunk(BOTH)) is not None:
            total[chunk.item.priority] += chunk.length
            if refill and chunk.last and chunk.item.priority is Priority.MODEL:
                box.push(message(chunk.item.target, chunk.item.size))
        for target in BOTH:
            acked[target] += box.unacked(target)
            box.acked(target, acked[target])
    return total


@pytest.mark.parametrize("pacing", Pacing)
@pytest.mark.parametrize("target", [A, B])
def test_background_messages_get_their_share_beside_others(pacing: Pacing, target: NodeId) -> None:
    box = outbox(pacing)
    box.push(message(A, 3 * WINDOW))
    box.push(background(target, 100 * WINDOW))
    total = carried(box, rounds=200, refill=True)
    share = total[Priority.BACKGROUND] / sum(total.values())
    assert share == pytest.approx(BACKGROUND_SHARE, abs=0.01)


@pytest.mark.parametrize("pacing", Pacing)
def test_background_messages_get_the_whole_link_when_nothing_else_is_sent(pacing: Pacing) -> None:
    box = outbox(pacing)
    box.push(background(A, 20 * WINDOW))
    assert sum(chunk.length for chunk in write_all(box)) > 0.85 * WINDOW
    assert box.unacked(A) <= WINDOW, "window rules hold"
    assert carried(box, rounds=25, refill=False)[Priority.BACKGROUND] > 18 * WINDOW


def test_others_overtake_a_background_message_that_has_begun() -> None:
    box = outbox()
    box.push(background(A, 20 * WINDOW))
    write_all(box)
    box.push(message(A, 1000))
    box.acked(A, WINDOW // 2)
    chunk = box.next_chunk(BOTH)
    assert chunk is not None
    assert chunk.item.priority is Priority.MODEL
    assert chunk.last


def test_what_waits_for_an_unreachable_peer_does_not_slow_background_messages() -> None:
    box = outbox()
    box.push(message(B, 10 * WINDOW))
    box.push(background(A, 10 * WINDOW))
    chunks = write_all(box, {A})
    assert sum(chunk.length for chunk in chunks) > 0.85 * WINDOW


def test_no_share_is_saved_up_while_there_is_nothing_to_send() -> None:
    box = outbox()
    box.push(message(A, 3 * WINDOW))
    acked = dict.fromkeys(BOTH, 0)
    carried(box, rounds=100, refill=True, acked=acked)
    box.push(background(A, 3 * WINDOW))
    total = carried(box, rounds=2, refill=True, acked=acked)
    assert total[Priority.BACKGROUND] <= 0.1 * sum(total.values())


@pytest.mark.parametrize("in_flight", InFlight)
def test_an_algorithm_cannot_cancel_background_messages(in_flight: InFlight) -> None:
    box = outbox()
    begun, waiting = background(A, 2 * WINDOW, key="r/1"), background(A, 10, key="r/1")
    box.push(begun)
    box.push(waiting)
    write_all(box)
    dropped = box.drop(key_prefix="", in_flight=in_flight)
    assert not dropped.queued
    assert not dropped.aborted
    assert list(box.queued()) == [begun, waiting]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from([A, B]), st.integers(1, 3 * WINDOW)),
        st.tuples(st.just("push-control"), st.sampled_from([A, B]), st.integers(1, 500)),
        st.tuples(st.just("push-background"), st.sampled_from([A, B]), st.integers(1, 3 * WINDOW)),
        st.tuples(st.just("write"), st.just(A), st.integers(1, 20)),
        st.tuples(st.just("ack"), st.sampled_from([A, B]), st.integers(0, 100)),
        st.tuples(st.just("break"), st.sampled_from([A, B]), st.just(0)),
        st.tuples(st.just("drop"), st.just(A), st.integers(0, 1)),
    ),
    max_size=60,
)


@given(steps, st.sampled_from(list(Pacing)))
def test_every_message_ends_exactly_once_in_order(
    script: list[tuple[str, NodeId, int]], pacing: Pacing
) -> None:
    """Each pushed message is completed, failed, cancelled or still there; per peer in order."""
    kinds = {
        "push": Priority.MODEL,
        "push-control": Priority.CONTROL,
        "push-background": Priority.BACKGROUND,
    }
    box = outbox(pacing)
    pushed: list[Outgoing] = []
    ended: list[Outgoing] = []
    written = {A: 0, B: 0}
    acked = {A: 0, B: 0}
    completed: dict[tuple[NodeId, Priority], list[int]] = {}

    def complete(target: NodeId, total: int) -> None:
        acked[target] = total
        for item in box.acked(target, total):
            ended.append(item)
            completed.setdefault((target, item.priority), []).append(item.number)

    for what, target, amount in script:
        if what.startswith("push"):
            item = message(target, amount, priority=kinds[what])
            pushed.append(item)
            box.push(item)
        elif what == "write":
            for _ in range(amount):
                chunk = box.next_chunk(BOTH)
                if chunk is None:
                    break
                assert chunk.offset + chunk.length <= chunk.item.size
                written[chunk.item.target] += chunk.length
        elif what == "ack":
            pending = written[target] - acked[target]
            complete(target, acked[target] + pending * amount // 100)
        elif what == "break":
            ended.extend(box.disconnected(target))
            written[target] = acked[target] = 0
        elif what == "drop":
            dropped = box.drop(key_prefix="", in_flight=list(InFlight)[amount])
            ended.extend((*dropped.queued, *dropped.aborted))
    for _ in range(1000):
        if box.next_chunk(BOTH) is None and not any(box.unacked(t) for t in BOTH):
            break
        for target in BOTH:
            complete(target, acked[target] + box.unacked(target))
    assert sorted(item.number for item in ended) == [item.number for item in pushed]
    for numbers in completed.values():
        assert numbers == sorted(numbers)
