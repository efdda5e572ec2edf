"""DivShare's parts against brute force, and whole runs of it (tests/unit/test_divshare.py has its
handlers)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.algorithms.fragments import Arrived, Inbox, cut, deal, fragment_mean
from node.core.events import PeerChange, PeerChanged, Received
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Layout, Part, Span, resolve, take
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, complete, name, ring

LAYOUT = Layout.of({"w": (5, 3), "b": (4,)})
D = LAYOUT.size


def fragment(
    number: int, *, round_: int, value: float, count: int = 4, seed: int = 3
) -> PeerMessage:
    part = take(np.full(D, value, dtype=np.float32), Fragment(number, count, seed), LAYOUT)
    return PeerMessage(kind="fragment", round=round_, part=part)


def random_models(nodes: int, d: int = 12) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(nodes, d))


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
    inbox, own = Inbox(4), np.zeros(D, dtype=np.float32)
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
    inbox = Inbox(4)
    whole = PeerMessage(
        kind="x", round=0, part=Part(where=Span(0, 1), values=np.ones(1, np.float32))
    )
    assert inbox.put(name(1), PeerMessage(kind="hello", round=0)) == "hello: not one of 4 fragments"
    assert inbox.put(name(1), whole) is not None
    assert inbox.put(name(1), fragment(0, round_=0, value=1.0, count=5)) is not None
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
        inbox = Inbox(4)
        for sender, number, model in came:
            part = take(model, Fragment(number, 4, 3), LAYOUT)
            inbox.put(sender, PeerMessage(kind="fragment", round=1, part=part))
        results.add(inbox.mean(np.ones(D, np.float32), round_=1, layout=LAYOUT)[0].tobytes())
    assert len(results) == 1


# --- runs


@pytest.mark.parametrize("omega", [1.0, 0.3, 0.1])
def test_a_node_queues_degree_models_a_round_whatever_the_fragments(omega: float) -> None:
    options = {"omega": omega, "degree": 3}
    rig = Rig("divshare", near=complete(8), initial=random_models(8, 24), options=options)
    rig.run(rounds=6)
    queued = Counter[tuple[int, int]]()
    for sender, _, message in (*rig.sends, *rig.cancelled, *_waiting(rig)):
        queued[sender, message.round] += message.model_bytes
    rounds = {(i, r) for i in range(8) for r in range(rig.round(i))}
    assert set(queued) == rounds
    assert set(queued.values()) == {3 * 24 * 4}


def _waiting(rig: Rig) -> list[tuple[int, int, PeerMessage]]:
    return [
        (p.sender, p.node, p.send.message)
        for p in rig.pool
        if p.send is not None and isinstance(p.send.message, PeerMessage)
    ]


def test_nodes_come_together_though_messages_are_lost_doubled_and_out_of_order() -> None:
    draw = np.random.default_rng(1)
    fates = (Fate.ARRIVES, Fate.ARRIVES, Fate.LOST, Fate.TWICE)
    centres = random_models(8)
    rig = Rig(
        "divshare",
        near=complete(8),
        initial=np.zeros((8, 12)),
        options={"omega": 0.25, "degree": 3, "local_steps": 1},
        train=Quadratic(centres=centres, rate=0.05),
        order=Order.SHUFFLED,
        fates=lambda sender, target, message: fates[draw.integers(4)],
    )
    rig.run(rounds=150)
    assert np.abs(rig.models.mean(axis=0) - centres.mean(axis=0)).max() < 0.25
    alone = Rig(
        "divshare",
        near=complete(8),
        initial=np.zeros((8, 12)),
        options={"omega": 0.25, "degree": 3, "local_steps": 1},
        train=Quadratic(centres=centres, rate=0.05),
        fates=lambda sender, target, message: Fate.LOST,
    )
    alone.run(rounds=150)
    assert rig.distance < 0.2 * alone.distance
    assert all(isinstance(f["stale"], int) for f in rig.of(0, "aggregate"))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    def run(seed: int) -> bytes:
        rig = Rig(
            "divshare",
            near=complete(6),
            initial=random_models(6),
            options={"omega": 0.25, "degree": 2},
            order=Order.SHUFFLED,
            seed=seed,
        )
        rig.run(rounds=12)
        return rig.models.tobytes()

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_after_a_restart_a_peer_counts_from_its_first_round_again() -> None:
    rig = Rig("divshare", near=ring(4), initial=random_models(4), options={"omega": 0.25})
    part = take(rig.initial[1], Fragment(0, 4, 9), rig.layout)
    message = PeerMessage(kind="fragment", round=30, part=part)
    rig.feed(0, Received(sender=name(1), message=message))
    early = PeerMessage(kind="fragment", round=2, part=part)
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.LOST))
    rig.feed(0, PeerChanged(peer=name(1), change=PeerChange.CONNECTED))
    rig.feed(0, Received(sender=name(1), message=early))
    rig.run(rounds=1)
    first = rig.of(0, "aggregate")[0]
    assert (first["stale"], first["replaced"]) == (0, 1)
