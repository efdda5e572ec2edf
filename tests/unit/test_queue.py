"""Application-level links: never early, in order, nothing lost unasked, and the rates asked for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import AccessLink, Burst, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.core.rng import stream
from node.links.queue import (
    AccessQueue,
    Delivered,
    LinkQueue,
    LinkSet,
    egress,
    ingress,
    segments,
    wire_bytes,
)
from node.units import MILLISECOND, SECOND, Nanos

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def path(spec: PathSpec, access: AccessQueue | None = None, seed: int = 1) -> LinkQueue:
    return LinkQueue(spec=spec, rng=stream(seed, "link"), access=access or AccessQueue())


def drain(links: LinkSet) -> list[tuple[Nanos, NodeId, Delivered]]:
    """Everything that comes out, at the times at which the links ask to be looked at."""
    out = []
    last = 0
    while (now := links.next_due()) is not None:
        assert now >= last, "time does not go back"
        last = now
        out.extend((now, peer, frame) for peer, frame in links.dequeue(now=now))
    return out


specs = st.builds(
    PathSpec,
    rate_bps=st.none() | st.integers(10_000, 10**9),
    delay_ns=st.integers(0, SECOND),
    jitter_ns=st.just(0) | st.integers(0, 100 * MILLISECOND),
    loss=st.just(0.0) | st.floats(0, 0.5),
    burst=st.none() | st.builds(Burst, enter=st.floats(0.01, 0.5), leave=st.floats(0.1, 1)),
)
arrivals = st.lists(
    st.tuples(
        st.integers(0, 50 * MILLISECOND),
        st.sampled_from([A, B, C]),
        st.integers(1, 70_000),
        st.sampled_from(Delivery),
    ),
    min_size=1,
    max_size=40,
)


@given(st.tuples(specs, specs, specs), arrivals, st.none() | st.integers(10_000, 10**9))
def test_links_keep_their_promises(
    three: tuple[PathSpec, PathSpec, PathSpec],
    gaps: Sequence[tuple[Nanos, NodeId, int, Delivery]],
    access_bps: int | None,
) -> None:
    access = AccessQueue(access_bps)
    by_peer = dict(zip((A, B, C), three, strict=True))
    links = LinkSet({peer: path(spec, access) for peer, spec in by_peer.items()})
    put: dict[NodeId, list[tuple[Nanos, int, Delivery]]] = {A: [], B: [], C: []}
    now, out = 0, []
    for gap, peer, size, delivery in gaps:
        now += gap
        out.extend(links.dequeue(now=now))
        links.enqueue(peer, size, now=now, delivery=delivery, item=(len(put[peer]), now, size))
        put[peer].append((now, size, delivery))
    out.extend((peer, frame) for _, peer, frame in drain(links))
    assert len(links) == 0
    for peer, spec in by_peer.items():
        mine = [frame for target, frame in out if target == peer]
        assert [frame.item[0] for frame in mine] == list(range(len(put[peer]))), "each once, FIFO"
        assert all(a.due <= b.due for a, b in itertools.pairwise(mine))
        for frame, (at, size, delivery) in zip(mine, put[peer], strict=True):
            slowest = min(filter(None, (spec.rate_bps, access_bps)), default=None)
            taken = wire_bytes(size) * 8 * SECOND // slowest if slowest else 0
            delay = spec.delay_ns if not spec.jitter_ns else 0
            assert frame.due >= at + taken + delay, "never early"
            assert not frame.lost or (spec.loss_rate and delivery is Delivery.DATAGRAM)


@pytest.mark.parametrize("rate", [10**6, 20 * 10**6, 200 * 10**6])
@pytest.mark.parametrize("size", [100, 4096, 9300, 65536])
def test_rate_over_a_long_time(rate: int, size: int) -> None:
    links = LinkSet({A: path(PathSpec(rate_bps=rate, delay_ns=10 * MILLISECOND))})
    count = 200
    for number in range(count):
        links.enqueue(A, size, now=0, item=number)
    (*_, (end, _, _)) = drain(links)
    wire_bps = count * wire_bytes(size) * 8 * SECOND / (end - 10 * MILLISECOND)
    assert wire_bps == pytest.approx(rate, rel=0.001)
    if size > 4096:
        goodput = count * size * 8 * SECOND / (end - 10 * MILLISECOND)
        assert goodput == pytest.approx(0.956 * rate, rel=0.01)


def test_late_polling_does_not_slow_a_link_down() -> None:
    links = LinkSet({A: path(PathSpec(rate_bps=10**7))})
    for number in range(1000):
        links.enqueue(A, 1448, now=0, item=number)
    now, got = 0, 0
    while len(links):
        now += 7 * MILLISECOND  # whenever the loop comes round
        got += len(links.dequeue(now=now))
        assert abs(got * 1514 * 8 / 10**7 - now / SECOND) <= 0.0013 or got == 1000
    assert got == 1000


def test_paths_share_an_access_link() -> None:
    access = AccessQueue(10**7)
    spec = PathSpec(rate_bps=10**7)
    links = LinkSet({A: path(spec, access), B: path(spec, access)})
    for number in range(100):
        links.enqueue(A, 10_000, now=0, item=number)
    for number in range(100):
        links.enqueue(B, 10_000, now=0, item=number)
    out = drain(links)
    assert out[-1][0] == pytest.approx(200 * wire_bytes(10_000) * 8 * 100, rel=0.001)
    half = [peer for _, peer, _ in out[:100]]
    assert 49 <= half.count(A) <= 51, "in turn, though all of A's came first"


def test_a_slow_path_leaves_the_access_link_to_others() -> None:
    access = AccessQueue(10**7)
    slow, fast = PathSpec(rate_bps=10**6), PathSpec(rate_bps=10**7)
    links = LinkSet({A: path(slow, access), B: path(fast, access)})
    for number in range(50):
        links.enqueue(A, 10_000, now=0, item=number)
        links.enqueue(B, 10_000, now=0, item=number)
    end_of_b = max(at for at, peer, _ in drain(links) if peer == B)
    frame_ns = wire_bytes(10_000) * 8 * 100
    # B has nine tenths of the link: it never waits for A's backlog, only for A's frames.
    assert end_of_b <= 50 * frame_ns * 10 / 9 + frame_ns


def test_an_acknowledgement_waits_for_a_packet_not_for_a_frame() -> None:
    access = AccessQueue(10**7)
    links = LinkSet({A: path(PathSpec(), access), B: path(PathSpec(), access)})
    links.enqueue(A, 60_000, now=0)
    links.enqueue(B, 20, now=MILLISECOND, item="ack")
    (at, peer, _), (end, _, _) = drain(links)
    assert peer == B
    assert at <= MILLISECOND + 2 * 1514 * 800 + wire_bytes(20) * 800
    assert end == pytest.approx((wire_bytes(60_000) + wire_bytes(20)) * 800, rel=0.001)


def test_a_download_link_holds_only_what_comes_too_fast() -> None:
    """Two senders at half the rate each pass; at the full rate each, they share it."""
    for spacing, late in ((2, False), (1, True)):
        access = AccessQueue(10**7)
        links = LinkSet(
            {
                peer: LinkQueue(spec=PathSpec(), rng=stream(1, peer), access=access, through=True)
                for peer in (A, B)
            }
        )
        frame_ns = wire_bytes(10_000) * 800
        delays = []
        for number in range(1, 51):
            now = number * spacing * frame_ns
            for _, frame in links.dequeue(now=now):
                delays.append(frame.due - frame.item)
            links.enqueue(A, 10_000, now=now, item=now)
            links.enqueue(B, 10_000, now=now, item=now)
        delays += [frame.due - frame.item for _, _, frame in drain(links)]
        assert len(delays) == 100
        assert (max(delays) > 20 * frame_ns) == late
        if not late:
            assert max(delays) <= frame_ns


def test_loss_of_datagrams() -> None:
    links = LinkSet({A: path(PathSpec(loss=0.02))})
    for number in range(20_000):
        links.enqueue(A, 1000, now=number, delivery=Delivery.DATAGRAM, item=number)
    lost = sum(frame.lost for _, _, frame in drain(links))
    assert lost == pytest.approx(0.02 * 20_000, abs=4 * (0.02 * 0.98 * 20_000) ** 0.5)
    assert links.paths[A].counters.frames_lost == lost


def test_datagrams_are_lost_in_bursts() -> None:
    """As many as the chain loses in the long run, and as many in a row as it stays bad."""
    burst = Burst(enter=0.01, leave=0.2)
    links = LinkSet({A: path(PathSpec(burst=burst))})
    for number in range(50_000):
        links.enqueue(A, 100, now=0, delivery=Delivery.DATAGRAM, item=number)
    lost = [frame.lost for _, _, frame in drain(links)]
    assert sum(lost) / len(lost) == pytest.approx(burst.loss, rel=0.15)
    runs = [len(list(run)) for gone, run in itertools.groupby(lost) if gone]
    assert sum(runs) / len(runs) == pytest.approx(1 / burst.leave, rel=0.1)


def test_reliable_frames_come_through_bursts_late() -> None:
    spec = PathSpec(delay_ns=20 * MILLISECOND, burst=Burst(enter=0.02, leave=0.5))
    links = LinkSet({A: path(spec)})
    for number in range(500):
        links.enqueue(A, 1448, now=number * SECOND, item=number)
    out = drain(links)
    assert [frame.item for _, _, frame in out] == list(range(500))
    late = [at - frame.item * SECOND - spec.delay_ns for at, _, frame in out]
    assert 0 < sum(delay > 0 for delay in late) < 100
    assert min(delay for delay in late if delay) >= 2 * spec.delay_ns


def test_loss_of_reliable_frames_is_delay_and_bytes() -> None:
    spec = PathSpec(rate_bps=10**7, delay_ns=20 * MILLISECOND, loss=0.05)
    queue = path(spec)
    links = LinkSet({A: queue})
    extra = []
    for number in range(2000):
        at = number * 10 * SECOND
        links.enqueue(A, 1448, now=at, item=number)
        (due, _, frame) = drain(links)[0]
        assert not frame.lost
        extra.append(due - at - 20 * MILLISECOND - 1514 * 800)
    retransmitted = [e for e in extra if e > 0]
    assert len(retransmitted) == pytest.approx(100, abs=40)
    # One round trip and the copy's own time, unless the copy is lost as well.
    assert sorted(retransmitted)[0] == 40 * MILLISECOND + 1514 * 800
    assert sum(e < 42 * MILLISECOND for e in retransmitted) >= 0.85 * len(retransmitted)
    copies = queue.counters.wire_bytes / 1514 - 2000
    assert copies == pytest.approx(0.05 * 2000 / 0.95, abs=45)


def test_jitter_spreads_without_reordering() -> None:
    spec = PathSpec(delay_ns=50 * MILLISECOND, jitter_ns=5 * MILLISECOND)
    links = LinkSet({A: path(spec)})
    delays = []
    for number in range(4000):
        at = number * SECOND
        links.enqueue(A, 100, now=at, item=number)
        delays.append(drain(links)[0][0] - at)
    assert np.mean(delays) == pytest.approx(50 * MILLISECOND, rel=0.02)
    assert np.std(delays) == pytest.approx(5 * MILLISECOND, rel=0.1)


def test_a_change_holds_from_the_next_frame_on() -> None:
    queue = path(PathSpec(rate_bps=10**6, delay_ns=100 * MILLISECOND))
    links = LinkSet({A: queue})
    links.enqueue(A, 1448, now=0, item=0)
    links.enqueue(A, 1448, now=0, item=1)
    queue.change(PathSpec(rate_bps=10**7, delay_ns=0))
    first, second = (at for at, _, _ in drain(links))
    assert first == 1514 * 8000 + 100 * MILLISECOND
    assert second == first, "what is under way is not overtaken"


def test_links_of_a_node() -> None:
    config = LinksConfig(
        up=(AccessLink(name="eth0", rate_bps=10**7),),
        down=(AccessLink(name="eth0", rate_bps=5 * 10**6),),
        peers=(
            PeerLink(
                name=A, host="-", port=1, out=PathSpec(), into=PathSpec(), up="eth0", down="eth0"
            ),
            PeerLink(
                name=B, host="-", port=1, out=PathSpec(), into=PathSpec(), up="eth0", down="eth0"
            ),
            PeerLink(name=C, host="-", port=1),
        ),
    )
    out, into = egress(config, seed=1, me=C), ingress(config, seed=1, me=C)
    assert set(out.paths) == set(into.paths) == {A, B}, "no path, no queue"
    assert out.paths[A].access is out.paths[B].access
    assert (out.paths[A].access.rate_bps, into.paths[A].access.rate_bps) == (10**7, 5 * 10**6)
    for peer in (A, B):
        into.enqueue(peer, 50_000, now=SECOND, item=None)
    # The first came no faster than the link is; the second had to wait for it.
    held = drain(into)[-1][0] - SECOND
    assert held == pytest.approx(wire_bytes(50_000) * 1600, rel=0.01)
    with pytest.raises(KeyError):
        out.enqueue(C, 1, now=0)


def test_the_same_seed_draws_the_same() -> None:
    spec = PathSpec(delay_ns=MILLISECOND, jitter_ns=MILLISECOND, loss=0.1)
    runs = []
    for seed in (1, 1, 2):
        links = LinkSet({A: path(spec, seed=seed)})
        for number in range(100):
            links.enqueue(A, 5000, now=number * MILLISECOND, item=number)
        runs.append([(at, frame.item) for at, _, frame in drain(links)])
    assert runs[0] == runs[1] != runs[2]


def test_segments() -> None:
    assert [segments(n) for n in (0, 1, 1448, 1449, 14480)] == [1, 1, 1, 2, 10]
    assert dataclasses.replace(PathSpec(), loss=1.0).loss == 1.0


def test_what_waits_counts_as_sent() -> None:
    queue = path(PathSpec(rate_bps=10**6))
    links = LinkSet({A: queue})
    for _ in range(3):
        links.enqueue(A, 1448, now=0)
    assert queue.counters.wire_bytes == 1514, "on its way"
    assert queue.wire_bytes == 3 * 1514
    drain(links)
    assert queue.wire_bytes == queue.counters.wire_bytes == 3 * 1514


def test_certain_loss_ends() -> None:
    links = LinkSet({A: path(PathSpec(loss=1.0))})
    links.enqueue(A, 1000, now=0, item=0)
    assert drain(links)[0][0] < 60 * SECOND
