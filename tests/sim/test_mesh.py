"""Streams and the send queue: times of single messages, order, cancels, streams that break."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import Pacing, PathSpec
from node.core.effects import ConnectEdges, DropQueued, InFlight, Send
from node.core.events import EdgeSettled, Event, PeerChange, PeerChanged, Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.outbox import BACKGROUND_SHARE, Outbox, Outgoing, Priority, chunk_bytes, window_bytes
from node.links.sizes import burst_bytes
from node.sim.interfaces import Sharing
from node.sim.wire import Parcel, head_bytes
from node.units import MILLISECOND, SECOND
from tests.sim.ideal import sent
from tests.sim.lines import DEADLINES, TEN_MBIT, A, B, C, D, Lines, Station, View, control, model

RATE = 10_000_000
DELAY = 10 * MILLISECOND


def parcel(message: PeerMessage, spec: PathSpec = TEN_MBIT) -> Parcel:
    chunk = chunk_bytes(window_bytes(spec, spec))
    head = head_bytes(message)
    return Parcel(message.kind, values=message.model_bytes, head=head, chunk=chunk)


def takes(message: PeerMessage) -> int:
    """ns that a message takes to leave."""
    return -(-parcel(message).wire * 8 * SECOND // RATE)


def framing(message: PeerMessage) -> float:
    """Bytes on the wire for each that the window counts."""
    return parcel(message).wire / parcel(message).message


# --- times


def test_a_message_takes_its_bytes_over_the_rate_and_the_delay() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(10_000), key="k")
    lines.run(SECOND)
    assert lines.at[B].received() == [(began + takes(model(10_000)) + DELAY, "m")]
    acked = [at for at, event in lines.at[A].heard if isinstance(event, Sent)]
    assert acked == [began + takes(model(10_000)) + 2 * DELAY]


def test_messages_leave_one_behind_the_other_in_queue_order() -> None:
    lines = Lines(View())
    began, each = lines.queue.now, takes(model(10_000, kind="0"))
    for number, target in enumerate((B, C, B)):
        lines.at[A].send(target, model(10_000, kind=str(number)))
    lines.run(SECOND)
    assert lines.at[B].received() == [(began + each + DELAY, "0"), (began + 3 * each + DELAY, "2")]
    assert lines.at[C].received() == [(began + 2 * each + DELAY, "1")]


def test_with_parallel_pacing_peers_do_not_wait_for_each_other() -> None:
    lines = Lines(View(), pacing=Pacing.PARALLEL)
    began, each = lines.queue.now, takes(model(10_000))
    for target in (B, B, C):
        lines.at[A].send(target, model(10_000))
    lines.run(SECOND)
    assert [at for at, _ in lines.at[B].received()] == [
        began + each + DELAY, began + 2 * each + DELAY
    ]  # fmt: skip
    assert [at for at, _ in lines.at[C].received()] == [began + each + DELAY]


def test_a_small_model_stands_for_a_large_one() -> None:
    lines = Lines(View(), message_bytes=40_000)  # for 4,000
    began = lines.queue.now
    lines.at[A].send(B, model(1000))
    lines.run(SECOND)
    assert [at for at, _ in lines.at[B].received()] == [began + takes(model(10_000)) + DELAY]
    assert lines.at[A].mesh.traffic.model_delivered == 40_000
    assert lines.at[B].mesh.traffic.model_received == 40_000


def test_senders_to_one_peer_share_its_link_where_sharing_is_fair() -> None:
    view = View(rates={"c/down": RATE})
    lines = Lines(view, sharing=Sharing.FAIR)
    began, each = lines.queue.now, takes(model(10_000))
    for source in (A, B):
        lines.at[source].send(C, model(10_000))
    lines.run(SECOND)
    # An idle link has saved up a burst, which the first one has at once.
    burst = burst_bytes(RATE) * 8 * SECOND // RATE
    assert [at for at, _ in lines.at[C].received()] == [
        pytest.approx(began + 2 * (each - burst) + DELAY, abs=10),
        pytest.approx(began + 2 * each - burst + DELAY, abs=10),
    ]


def test_after_a_path_with_a_long_round_trip_one_with_a_short_one_waits_for_the_window() -> None:
    """As `Outbox` has it: the window of sequential pacing is over all peers together."""
    far = PathSpec(rate_bps=RATE, delay_ns=200 * MILLISECOND)
    near = PathSpec(rate_bps=RATE, delay_ns=MILLISECOND)
    lines = Lines(View(default=near, specs={(A, B): far, (B, A): far}))
    lines.run(SECOND)
    began = lines.queue.now
    lines.at[A].send(B, model(200_000))
    lines.at[A].send(C, model(1000))
    lines.run(3 * SECOND)
    left = began + round(parcel(model(200_000), far).wire * 8 * SECOND / RATE)
    ((arrived, _),) = lines.at[C].received()
    assert left + 370 * MILLISECOND < arrived < left + 400 * MILLISECOND
    real = sent([(B, model(200_000)), (C, model(1000))], {B: far, C: near})
    assert arrived == pytest.approx(began + real[1], abs=100_000)


# --- priorities


def test_control_messages_overtake_and_take_their_time_from_others() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(100_000))
    lines.at[A].send(C, control())
    lines.run(2 * SECOND)
    ((first, _),) = lines.at[C].received()
    ((second, _),) = lines.at[B].received()
    assert first == began + takes(control()) + DELAY
    assert second == pytest.approx(began + takes(model(100_000)) + takes(control()) + DELAY, abs=10)


def test_a_control_message_is_behind_what_the_transport_has_for_its_peer() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(100_000))
    lines.at[A].send(B, control())
    lines.run(2 * SECOND)
    (at, kind), *_ = lines.at[B].received()
    window = round(window_bytes(TEN_MBIT, TEN_MBIT) * framing(model(100_000)) * 8 * SECOND / RATE)
    assert kind == "c"
    assert at == pytest.approx(began + window + takes(control()) + DELAY, abs=10)


def test_background_messages_have_their_share_beside_others_and_all_of_it_alone() -> None:
    lines = Lines(View())
    background = model(100_000, kind="background")
    began = lines.queue.now
    lines.at[A].mesh.send(Send(target=C, message=background), priority=Priority.BACKGROUND)
    lines.at[A].send(B, model(100_000))
    lines.run(2 * SECOND)
    ((others, _),) = lines.at[B].received()
    ((own, _),) = lines.at[C].received()
    each = takes(model(100_000))
    assert others == pytest.approx(began + each / (1 - BACKGROUND_SHARE) + DELAY, rel=1e-6)
    assert own == pytest.approx(began + takes(model(100_000)) + takes(background) + DELAY, rel=1e-3)


def test_a_model_beside_a_background_message_to_the_same_peer_ends_with_its_node() -> None:
    lines = Lines(View(), sharing=Sharing.FAIR)
    mesh = lines.at[A].mesh
    mesh.send(Send(target=B, message=model(100_000, kind="model")))
    mesh.send(Send(target=B, message=model(500, kind="sync")), priority=Priority.BACKGROUND)
    lines.run(100 * MILLISECOND)
    assert [kind for _, kind in lines.at[B].received()] == ["sync"]
    mesh.close()
    lines.run(2 * SECOND)
    assert [kind for _, kind in lines.at[B].received()] == ["sync"]


# --- cancels


def test_a_cancel_takes_back_what_the_window_has_not_reached() -> None:
    """As many messages arrive as the real queue would have handed to the transport."""
    lines = Lines(View())
    messages = 20
    for number in range(messages):
        lines.at[A].send(B if number % 2 else C, model(9000, kind=str(number)), key=f"r/{number}")
    lines.run(100 * MILLISECOND)
    lines.at[A].mesh.drop(DropQueued(key_prefix="r/"))
    lines.run(2 * SECOND)
    arrived = len(lines.at[B].received()) + len(lines.at[C].received())
    traffic = lines.at[A].mesh.traffic
    assert arrived == handed(100 * MILLISECOND, [9000] * messages)
    assert traffic.model_delivered == arrived * 36_000
    assert traffic.cancelled == (messages - arrived) * 36_000
    assert lines.at[A].mesh.queued_model_bytes() == 0


def handed(after: int, values: list[int]) -> int:
    """How many messages `Outbox` has begun after so long, on a link that is ideal."""
    spec = TEN_MBIT
    box = Outbox(pacing=Pacing.SEQUENTIAL, window=lambda _: window_bytes(spec, spec))
    for number, size in enumerate(values):
        message = model(size, kind=str(number))
        whole = parcel(message)
        box.push(
            Outgoing(
                target=B, key="", size=whole.message, body=None,
                priority=Priority.MODEL, model_bytes=message.model_bytes,
            )
        )  # fmt: skip
    overhead = parcel(model(values[0])).wire / parcel(model(values[0])).message
    acks: list[tuple[float, int]] = []
    begun, free, now, total, acked = set(), 0.0, 0.0, 0, 0
    while True:
        while (chunk := box.next_chunk({B})) is not None:
            begun.add(chunk.item.number)
            total += chunk.length
            free = max(free, now) + chunk.length * overhead * 8 * SECOND / RATE
            acks.append((free + 2 * DELAY, total))
        if not acks or acks[0][0] > after:
            return len(begun)
        now, acked = acks.pop(0)
        box.acked(B, acked)


@given(st.integers(1, 400), st.integers(200, 40_000))
def test_what_a_cancel_takes_back_is_what_the_real_queue_would_take_back(
    after_ms: int, values: int
) -> None:
    """To a message: which chunk went last is a matter of a chunk's time."""
    lines = Lines(View(), nodes=(A, B))
    count = 2 + 60_000 // values
    for number in range(count):
        lines.at[A].send(B, model(values, kind=str(number)), key="k")
    lines.run(after_ms * MILLISECOND)
    lines.at[A].mesh.drop(DropQueued())
    lines.run(3 * SECOND)
    real = handed(after_ms * MILLISECOND, [values] * count)
    margin = 1 + chunk_bytes(window_bytes(TEN_MBIT, TEN_MBIT)) // (4 * values)
    assert abs(len(lines.at[B].received()) - real) <= margin


def test_a_cancel_may_cut_off_what_is_leaving() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(100_000), key="r")
    lines.run(50 * MILLISECOND)
    lines.at[A].mesh.drop(DropQueued(key_prefix="r", in_flight=InFlight.ABORT))
    lines.at[A].send(C, model(1000))
    lines.run(2 * SECOND)
    assert lines.at[B].received() == []
    assert lines.at[A].sent() == [""]
    traffic = lines.at[A].mesh.traffic
    # What the transport has is sent in vain: 50 ms of the link and a window.
    window = window_bytes(TEN_MBIT, TEN_MBIT) * framing(model(100_000))
    gone = RATE // 20 // 8 + window - RATE // 50 // 8
    share = 400_000 / parcel(model(100_000)).wire
    assert 400_000 - traffic.cancelled == pytest.approx(gone * share, rel=0.01)
    assert traffic.model_sent == 400_000 - traffic.cancelled + 4000
    ((at, _),) = lines.at[C].received()
    left = began + gone * 8 * SECOND / RATE
    assert at == pytest.approx(left + takes(model(1000)) + DELAY, rel=1e-3)


def test_cancels_and_supersedes_go_by_key() -> None:
    lines = Lines(View())
    node = lines.at[A]
    node.send(B, model(100_000, kind="leaving"), key="r/0")
    node.send(B, model(1000, kind="stays"), key="s/1")
    node.send(B, model(1000, kind="goes"), key="r/1")
    node.send(B, model(1000, kind="old"), key="model")
    node.send(C, model(1000, kind="other's"), key="model")
    node.mesh.send(Send(target=B, message=model(1000, kind="new"), key="model", supersedes=True))
    node.mesh.drop(DropQueued(key_prefix="r/"))
    lines.run(2 * SECOND)
    assert [kind for _, kind in lines.at[B].received()] == ["leaving", "stays", "new"]
    assert [kind for _, kind in lines.at[C].received()] == ["other's"]


scripts = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([B, C]), st.integers(0, 30_000)),
        st.tuples(st.just("control"), st.sampled_from([B, C]), st.just(0)),
        st.tuples(st.just("drop"), st.sampled_from([B, C]), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.just(B), st.integers(1, 300)),
        st.tuples(st.just("cut"), st.sampled_from([B, C]), st.just(0)),
        st.tuples(st.just("heal"), st.sampled_from([B, C]), st.just(0)),
        st.tuples(st.just("restart"), st.sampled_from([B, C]), st.just(0)),
        st.tuples(st.just("freeze"), st.sampled_from([B, C]), st.just(0)),
        st.tuples(st.just("thaw"), st.sampled_from([B, C]), st.just(0)),
    ),
    max_size=30,
)


@given(scripts, st.sampled_from(list(Pacing)), st.sampled_from(list(Sharing)))
def test_every_message_ends_exactly_once_in_order(
    script: list[tuple[str, NodeId, int]], pacing: Pacing, sharing: Sharing
) -> None:
    """Sent, failed or cancelled; and what arrives does so in the order of the queue."""
    specs: dict[tuple[NodeId, NodeId], PathSpec | None] = {}
    rates = {"a/up": RATE, "b/down": RATE, "c/down": RATE}
    lines = Lines(View(specs=specs, rates=rates), pacing=pacing, sharing=sharing)
    node, number, frozen = lines.at[A], 0, set()
    received: list[tuple[NodeId, int]] = []
    for what, peer, amount in script:
        if what in ("send", "control"):
            kind = str(number)
            message = control(kind) if what == "control" else model(amount, kind=kind)
            node.send(peer, message, key=kind)
            number += 1
        elif what == "drop":
            node.mesh.drop(DropQueued(in_flight=list(InFlight)[amount]))
        elif what == "wait":
            lines.run(amount * MILLISECOND)
        elif what in ("cut", "heal"):
            specs[A, peer] = None if what == "cut" else TEN_MBIT
            lines.network.change(View(specs=dict(specs), rates=rates))
        elif what == "restart" and peer not in frozen:
            received += [(peer, int(kind)) for _, kind in lines.at[peer].received()]
            lines.at[peer].mesh.close()
            lines.run(5 * MILLISECOND)
            lines.at[peer] = lines.station(peer)
            lines.at[peer].mesh.connect([A])
        elif what == "freeze":
            frozen.add(peer)
            lines.network.freeze(peer)
        elif what == "thaw":
            frozen.discard(peer)
            lines.network.thaw(peer)
    for peer in (B, C):
        lines.network.thaw(peer)
    lines.network.change(View(rates=rates))
    lines.run(60 * SECOND)
    for peer in (B, C):
        received += [(peer, int(kind)) for _, kind in lines.at[peer].received()]
    check_fates(lines, number, received)


def check_fates(lines: Lines, number: int, received: list[tuple[NodeId, int]]) -> None:
    node = lines.at[A]
    sent, failed = [int(key) for key in node.sent()], [int(key) for _, key in node.failed()]
    assert len(sent) == len(set(sent))
    assert len(failed) == len(set(failed))
    assert not set(sent) & set(failed)
    assert set(sent) <= {kind for _, kind in received}, "what is acknowledged has arrived"
    assert len(received) == len(set(received))
    assert node.mesh.queued_model_bytes() == 0
    traffic = node.mesh.traffic
    whole = traffic.model_delivered + traffic.cancelled
    whole += sum(count.lost for count in traffic.kinds.values())
    assert whole <= traffic.model_sent + traffic.cancelled
    assert all(lines.at[peer].mesh.stream_up(A) for peer in (B, C))


# --- streams


def without(*pairs: tuple[NodeId, NodeId]) -> Mapping[tuple[NodeId, NodeId], PathSpec | None]:
    return dict.fromkeys((*pairs, *(pair[::-1] for pair in pairs)))


def test_a_short_cut_holds_everything_up_and_loses_nothing() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(100_000, kind="held"))
    lines.at[A].send(C, model(1000, kind="behind"))
    lines.run(100 * MILLISECOND)
    lines.network.change(View(specs=without((A, B))))
    lines.run(SECOND)
    assert lines.at[C].received() == [], "sequential pacing waits for what the window is full of"
    lines.network.change(View())
    lines.run(3 * SECOND)
    ((at, _),) = lines.at[B].received()
    # TCP has tried again 0.2, 0.6 and 1.4 s after the cut began.
    assert at == pytest.approx(
        began + takes(model(100_000, kind="held")) + 1400 * MILLISECOND + DELAY, abs=MILLISECOND
    )
    assert len(lines.at[C].received()) == 1
    assert lines.at[A].failed() == []
    assert lines.at[A].changes() == []


def test_a_long_cut_breaks_the_stream_at_both_ends_and_it_is_dialled_again() -> None:
    lines = Lines(View())
    lines.at[A].send(B, model(100_000), key="leaving")
    lines.at[A].send(B, model(1000), key="waiting")
    lines.run(100 * MILLISECOND)
    cut = lines.queue.now
    lines.network.change(View(specs=without((A, B))))
    lines.run(10 * SECOND)
    gone = cut + DEADLINES.peer_ns
    assert lines.at[A].changes() == [(gone, B, "lost")]
    assert lines.at[B].changes() == [(gone, A, "lost")]
    assert lines.at[A].failed() == [(gone, "leaving"), (gone + DEADLINES.peer_ns, "waiting")]
    assert not lines.at[A].mesh.stream_up(B)
    assert not lines.at[A].mesh.has_path(B)
    lines.network.change(View())
    lines.run(SECOND)
    assert [change for _, _, change in lines.at[A].changes()] == ["lost", "connected"]
    assert lines.at[B].mesh.stream_up(A)


def test_a_process_that_dies_is_heard_of_and_its_next_life_is_dialled() -> None:
    lines = Lines(View())
    lines.at[A].send(B, model(100_000), key="k")
    lines.run(50 * MILLISECOND)
    died = lines.queue.now
    lines.at[B].mesh.close()
    lines.run(SECOND)
    assert lines.at[A].changes() == [(died + DELAY, B, "lost")]
    assert lines.at[A].failed() == [(died + DELAY, "k")]
    old, lines.at[B] = lines.at[B], lines.station(B)
    lines.run(3 * SECOND)
    assert [change for _, _, change in lines.at[A].changes()] == ["lost", "connected"]
    assert lines.at[B].mesh.stream_up(A)
    lines.at[A].send(B, model(10))
    lines.run(SECOND)
    assert len(lines.at[B].received()) == 1
    assert old.received() == []


def test_a_life_that_ended_in_a_cut_is_found_out_when_the_cut_is_over() -> None:
    lines = Lines(View())
    lines.network.change(View(specs=without((A, B))))
    lines.run(100 * MILLISECOND)
    lines.at[B].mesh.close()
    lines.run(100 * MILLISECOND)
    lines.at[B] = lines.station(B)
    lines.network.change(View())
    lines.run(2 * SECOND)
    assert [change for _, _, change in lines.at[A].changes()] == ["lost", "connected"]
    assert lines.at[B].mesh.stream_up(A)


class Greeter(Station):
    """Says something to every peer as soon as there is a stream."""

    def from_mesh(self, event: Event) -> None:
        super().from_mesh(event)
        if isinstance(event, PeerChanged) and event.change is PeerChange.CONNECTED:
            self.send(event.peer, control("hello"))


def test_what_is_said_at_the_first_moment_of_a_stream_arrives() -> None:
    lines = Lines(View(), nodes=(A, B))
    for name in (A, B):
        lines.at[name].mesh.close()
    lines.run(SECOND)
    for name in (A, B):
        lines.at[name] = Greeter(lines.network, name, pacing=Pacing.PARALLEL, unheard=frozenset())
    lines.at[A].mesh.connect([B])
    lines.run(SECOND)
    for name in (A, B):
        assert [kind for _, kind in lines.at[name].received()] == ["hello"]


def test_a_node_that_stands_still_hears_everything_afterwards() -> None:
    lines = Lines(View())
    lines.at[A].send(B, model(1000))
    lines.run(5 * MILLISECOND)
    lines.network.freeze(B)
    lines.run(SECOND)
    assert lines.at[B].received() == []
    thawed = lines.queue.now
    lines.network.thaw(B)
    lines.run(SECOND)
    assert lines.at[B].received() == [(thawed, "m")]
    assert lines.at[A].failed() == []


def test_peers_give_up_a_node_that_stands_still_for_too_long() -> None:
    lines = Lines(View())
    frozen = lines.queue.now
    lines.network.freeze(B)
    lines.at[A].send(B, model(1000), key="k")
    lines.run(4 * SECOND)
    gone = frozen + DEADLINES.peer_ns
    assert lines.at[A].changes() == [(gone, B, "lost")]
    assert lines.at[A].failed() == [(gone, "k")]
    assert lines.at[B].changes() == []
    lines.network.thaw(B)
    lines.run(3 * SECOND)
    assert {change for _, peer, change in lines.at[B].changes() if peer == A} == {
        "lost",
        "connected",
    }
    assert lines.at[A].mesh.stream_up(B)


def test_a_slower_network_slows_down_what_is_leaving() -> None:
    lines = Lines(View())
    began = lines.queue.now
    lines.at[A].send(B, model(100_000))
    half = takes(model(100_000)) // 2
    lines.run(half)
    slow = PathSpec(rate_bps=RATE // 2, delay_ns=DELAY)
    lines.network.change(View(default=slow))
    lines.run(3 * SECOND)
    # The rest of it is in the smaller chunks of the slower path.
    rest = half * parcel(model(100_000), slow).wire / parcel(model(100_000)).wire
    assert [at for at, _ in lines.at[B].received()] == [
        pytest.approx(began + half + 2 * rest + DELAY, abs=10)
    ]


# --- edges


def settled(lines: Lines, at: NodeId) -> list[tuple[NodeId, str | None]]:
    return [
        (event.peer, event.error)
        for _, event in lines.at[at].heard
        if isinstance(event, EdgeSettled)
    ]


def test_every_edge_is_settled_once() -> None:
    lines = Lines(View(specs=without((A, D))), nodes=(A, B, C, D))
    lines.at[C].mesh.close()
    lines.run(SECOND)
    lines.at[A].mesh.connect_edges(ConnectEdges(round=1, attempt=1, peers=(B, C, D)))
    lines.run(10 * SECOND)
    found = dict(settled(lines, A))
    assert found[B] is None
    assert found[C] == "no stream to c within 4s"
    assert found[D] == "no path to d in the link plan"
    assert len(settled(lines, A)) == 3


def test_a_stream_is_closed_and_dialled_anew_where_that_is_asked_for() -> None:
    lines = Lines(View())
    lines.at[A].mesh.connect_edges(ConnectEdges(round=1, attempt=1, peers=(B,), anew=(B,)))
    lines.run(SECOND)
    assert settled(lines, A) == [(B, None)]
    for here, there in ((A, B), (B, A)):
        changes = [change for _, peer, change in lines.at[here].changes() if peer == there]
        assert changes == ["lost", "connected"]


def test_a_spare_edge_is_settled_if_there_is_a_stream() -> None:
    lines = Lines(View())
    lines.at[C].mesh.close()
    lines.run(SECOND)
    order = ConnectEdges(round=1, attempt=1, peers=(), spare=(B, C))
    lines.at[A].mesh.connect_edges(order)
    lines.run(10 * SECOND)
    assert dict(settled(lines, A)) == {B: None, C: "no stream to c, and none was asked for"}


# --- determinism


def test_events_that_nobody_listens_to_are_not_made() -> None:
    lines = Lines(View(), unheard=frozenset({Sent}))
    lines.at[A].send(B, model(10), key="k")
    lines.run(SECOND)
    assert lines.at[A].sent() == []
    assert lines.at[A].mesh.traffic.model_delivered == 40


def test_the_same_seed_gives_the_same_run() -> None:
    lossy = PathSpec(rate_bps=RATE, delay_ns=DELAY, jitter_ns=3 * MILLISECOND, loss=0.02)

    def run(seed: int) -> list[tuple[int, str]]:
        lines = Lines(View(default=lossy), seed=seed)
        for number in range(50):
            lines.at[A].send((B, C)[number % 2], model(5000, kind=str(number)))
        lines.run(20 * SECOND)
        return lines.at[B].received() + lines.at[C].received()

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert len(run(1)) == 50
