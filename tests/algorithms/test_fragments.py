"""Fragments of a model, against brute force: the mean over them, who gets which, what waits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.algorithms.fragments import Arrived, Inbox, cut, deal, fragment_mean
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Layout, Part, Span, resolve, take
from tests.algorithms.rig import name

LAYOUT = Layout.of({"w": (5, 3), "b": (4,)})
D = LAYOUT.size
SENDERS = [name(j) for j in range(12)]


def fragment(
    number: int, *, round_: int, value: float, count: int = 4, seed: int = 3
) -> PeerMessage:
    part = take(np.full(D, value, dtype=np.float32), Fragment(number, count, seed), LAYOUT)
    return PeerMessage(kind="fragment", round=round_, part=part)


# --- the counted mean


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 40)), max_size=25),
    st.integers(0, 2**32 - 1),
)
def test_the_mean_of_fragments_is_the_counted_mean_of_each_parameter(
    which: list[tuple[int, int, int]], draw: int
) -> None:
    """x[p] = (x[p] + sum v_m[p]) / (1 + #{m : p in m}), parameter by parameter."""
    rng = np.random.default_rng(draw)
    own = rng.normal(size=D).astype(np.float32)
    arrived: list[Arrived] = []
    for number, count, seed in which:
        where = Fragment(number % count, count, seed)
        values = rng.normal(size=resolve(where, LAYOUT).size).astype(np.float32)
        arrived.append((0, where, values))
    mean, coverage = fragment_mean(own, arrived, LAYOUT)
    heard = [[float(own[p])] for p in range(D)]
    for _, where, values in arrived:
        for p, value in zip(resolve(where, LAYOUT).tolist(), values.tolist(), strict=True):
            heard[p].append(value)
    expected = [sum(values) / len(values) for values in heard]
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-6)
    assert mean.dtype == np.float32
    assert coverage == sum(len(values) > 1 for values in heard) / D


@given(st.integers(1, 6), st.integers(0, 99))
def test_cutting_gives_every_parameter_to_one_fragment(count: int, seed: int) -> None:
    model = np.arange(D, dtype=np.float32)
    parts = cut(model, count=count, seed=seed, layout=LAYOUT)
    assert [part.where for part in parts] == [Fragment(i, count, seed) for i in range(count)]
    for part in parts:
        assert part.values.tolist() == model[resolve(part.where, LAYOUT)].tolist()
        assert not part.values.flags.writeable
    assert sorted(np.concatenate([part.values for part in parts])) == model.tolist()


# --- who gets what


@given(st.integers(1, 8), st.integers(0, 12), st.integers(1, 14), st.integers(0, 999))
def test_each_fragment_goes_to_as_many_different_peers_as_asked(
    fragments: int, peers: int, degree: int, seed: int
) -> None:
    pairs = deal(np.random.default_rng(seed), fragments=fragments, peers=peers, degree=degree)
    assert len(set(pairs)) == len(pairs) == fragments * min(degree, peers)
    per_fragment = Counter(fragment for fragment, _ in pairs)
    assert set(per_fragment.values()) <= {min(degree, peers)}
    assert {peer for _, peer in pairs} <= set(range(peers))


@pytest.mark.parametrize(("peers", "degree"), [(7, 2), (7, 6), (40, 5)])
def test_recipients_are_any_set_with_the_same_probability(peers: int, degree: int) -> None:
    """Each peer, and each pair of peers, as often as in a set drawn without replacement."""
    rng, draws = np.random.default_rng(6), 3000
    met = np.zeros((peers, peers))
    for _ in range(draws):
        to = [peer for _, peer in deal(rng, fragments=1, peers=peers, degree=degree)]
        met[np.ix_(to, to)] += 1
    one = degree / peers
    two = one * (degree - 1) / (peers - 1)
    same = np.eye(peers, dtype=bool)
    for count, p in ((met[same], one), (met[~same], two)):
        assert np.abs(count - draws * p).max() < 5 * np.sqrt(draws * p * (1 - p))


def test_recipients_and_their_order_are_drawn_evenly() -> None:
    rng, draws = np.random.default_rng(5), 4000
    pairs, firsts, together = Counter[tuple[int, int]](), Counter[int](), 0
    for _ in range(draws):
        dealt = deal(rng, fragments=3, peers=7, degree=2)
        pairs.update(dealt)
        firsts[dealt[0][0]] += 1
        chosen = [{peer for fragment, peer in dealt if fragment == k} for k in range(2)]
        together += chosen[0] == chosen[1]
    for count, p in (*((pairs[k, j], 2 / 7) for k in range(3) for j in range(7)),):
        assert abs(count - draws * p) < 5 * np.sqrt(draws * p * (1 - p))
    for fragment in range(3):
        assert abs(firsts[fragment] - draws / 3) < 5 * np.sqrt(draws * 2 / 9)
    # Independent of each other: of 21 pairs of peers two fragments hit the same one in 1/21.
    assert abs(together - draws / 21) < 5 * np.sqrt(draws / 21)


# --- what waits


def test_what_is_older_than_the_newest_round_of_its_sender_is_stale() -> None:
    inbox, own = Inbox(4, SENDERS), np.zeros(D, dtype=np.float32)
    inbox.put(name(1), fragment(0, round_=5, value=1.0))
    inbox.put(name(1), fragment(1, round_=4, value=9.0))  # its sender has cancelled that round
    inbox.put(name(2), fragment(1, round_=4, value=3.0))  # another sender's round is its own
    inbox.put(name(1), fragment(2, round_=5, value=1.0))
    model, counts = inbox.mean(own, round_=6, layout=LAYOUT)
    assert (counts["fragments"], counts["stale"], counts["replaced"]) == (3, 1, 0)
    assert counts["age_mean"] == pytest.approx((1 + 2 + 1) / 3)
    for number, expected in ((0, 0.5), (1, 1.5), (2, 0.5), (3, 0.0)):
        assert set(model[resolve(Fragment(number, 4, 3), LAYOUT)].tolist()) == {expected}


def test_what_is_no_fragment_of_this_size_is_refused() -> None:
    inbox = Inbox(4, SENDERS)
    whole = PeerMessage(
        kind="x", round=0, part=Part(where=Span(0, 1), values=np.ones(1, np.float32))
    )
    assert inbox.put(name(1), PeerMessage(kind="hello", round=0)) == "hello: not one of 4 fragments"
    assert inbox.put(name(1), whole) is not None
    assert inbox.put(name(1), fragment(0, round_=0, value=1.0, count=5)) is not None
    assert inbox.put(name(12), fragment(0, round_=0, value=1.0)) is not None  # no neighbour
    assert inbox.put(name(1), fragment(0, round_=0, value=1.0)) is None


def test_the_order_of_arrival_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(3)
    came = []
    for number in range(4):
        # Large values that cancel each other: the order of a sum shows even in float64.
        large = (rng.normal(size=D) * 1e17).astype(np.float32)
        small = [rng.normal(size=D).astype(np.float32) for _ in range(9)]
        models = enumerate([large, *small, -large])
        came += [(name(sender), number, model) for sender, model in models]
    results = set()
    for _ in range(5):
        rng.shuffle(came)
        inbox = Inbox(4, SENDERS)
        for sender, number, model in came:
            part = take(model, Fragment(number, 4, 3), LAYOUT)
            inbox.put(sender, PeerMessage(kind="fragment", round=1, part=part))
        results.add(inbox.mean(np.ones(D, np.float32), round_=1, layout=LAYOUT)[0].tobytes())
    assert len(results) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 10), st.integers(0, 3), st.booleans()),
        max_size=40,
    )
)
def test_what_waits_is_what_a_plain_record_of_all_that_came_says(
    events: list[tuple[int, int, int, bool]],
) -> None:
    """Eleven fragments, so that their bits take more than a byte; a flag averages what waits."""
    inbox, own = Inbox(11, SENDERS), np.zeros(D, dtype=np.float32)
    newest: dict[int, int] = {}
    came: set[tuple[int, int, int]] = set()
    waiting: dict[tuple[int, int], int] = {}
    stale = replaced = 0
    for sender, number, round_, average in events:
        part = take(np.ones(D, dtype=np.float32), Fragment(number, 11, 3), LAYOUT)
        inbox.put(name(sender), PeerMessage(kind="fragment", round=round_, part=part))
        if round_ < newest.get(sender, -1) or (sender, number, round_) in came:
            stale += 1
        else:
            newest[sender] = round_
            came.add((sender, number, round_))
            replaced += (sender, number) in waiting
            waiting[sender, number] = round_
        if average:
            _, counts = inbox.mean(own, round_=9, layout=LAYOUT)
            assert counts["fragments"] == len(waiting)
            assert (counts["stale"], counts["replaced"]) == (stale, replaced)
            if waiting:
                assert counts["age_mean"] == pytest.approx(9 - np.mean(list(waiting.values())))
            waiting.clear()
            stale = replaced = 0
