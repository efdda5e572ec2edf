"""Choco-SGD against Algorithm 2 of its paper, and what a lost difference does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.choco import Choco
from node.core.events import ModelAdopted
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Listed, RandomMask, resolve
from node.core.rng import derive_seed
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Quadratic, Rig, complete, name, ring, star, still

SIZE = 60
Matrix = np.ndarray[Any, Any]


def some(nodes: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=(nodes, SIZE)).astype(np.float32)


def rig(near: list[list[int]], **options: Any) -> Rig:
    train = options.pop("train", still)
    given_ = {"share": 0.2, "gamma": 0.3, **options}
    return Rig("choco", near=near, initial=some(len(near)), options=given_, train=train)


def state(made: Rig, i: int) -> Any:
    algorithm = made.algorithms[i]
    assert isinstance(algorithm, Choco)
    return algorithm._state


def mixing(near: list[list[int]]) -> Matrix:
    count = len(near)
    matrix = np.zeros((count, count))
    for i in range(count):
        for j in near[i]:
            matrix[i, j] = 1 / (1 + max(len(near[i]), len(near[j])))
        matrix[i, i] = 1 - matrix[i].sum()
    return matrix


class Watch:
    """Every x^ that its owner has had, by stamp; and that no replica is ever another."""

    def __init__(self, made: Rig) -> None:
        self.made = made
        self.had: dict[tuple[int, int], bytes] = {}

    def look(self) -> int:
        """Check all replicas; how many are up to date."""
        for i in sorted(self.made.live):
            own = state(self.made, i)
            if own.public is not None and own.stamp >= 0:
                self.had[i, own.stamp] = own.public.tobytes()
        fresh = 0
        for i in sorted(self.made.live):
            for peer, (stamp, replica) in state(self.made, i).replicas.items():
                owner = int(peer.removeprefix("n-"))
                known = self.had.get((owner, stamp))
                if known is None:  # its owner still waits for others in that round
                    assert stamp == self.made.round(owner)
                    known = state(self.made, owner).after.tobytes()
                assert known == replica.tobytes(), f"{i}'s replica of {peer} at {stamp}"
                fresh += stamp == state(self.made, owner).stamp
        return fresh


def run(made: Rig, *, rounds: int, watch: Watch | None = None) -> int:
    """Run and look at each step; how many replicas are up to date at the end."""
    watch = watch or Watch(made)
    while any(made.round(i) < rounds for i in made.live):
        assert made.step()
        watch.look()
    return watch.look()


def compressed(
    difference: Matrix, compression: str, share: float, i: int, k: int, made: Rig
) -> Matrix:
    q = np.zeros_like(difference)
    if compression == "top_k":
        chosen = np.argsort(-np.abs(difference))[: int(np.ceil(share * SIZE))]
    else:
        where = RandomMask(share, derive_seed(made.seed, "q", name(i), k))
        chosen = resolve(where, made.layout)
    q[chosen] = difference[chosen]
    return q


@pytest.mark.parametrize("compression", ["top_k", "random"])
def test_rounds_are_algorithm_2(compression: str) -> None:
    near, share, gamma = star(5), 0.2, 0.3
    task = Quadratic(some(5, 4), 0.1)
    made = rig(near, share=share, gamma=gamma, compression=compression, train=task, local_steps=1)
    x, public, matrix = made.models, np.zeros((5, SIZE)), mixing(near)
    for k in range(15):
        half = x - task.rate * (x - task.centres)
        for i in range(5):
            public[i] += compressed(half[i] - public[i], compression, share, i, k, made)
        x = half + gamma * (matrix @ public - public)
        made.run(rounds=k + 1)
        assert np.allclose(made.models, x, atol=1e-4)


def test_replicas_are_equal_everywhere_and_s_is_their_weighted_sum() -> None:
    near = ring(6)
    made = rig(near)
    matrix = mixing(near)
    for k in range(1, 8):
        before = made.models
        assert run(made, rounds=k) == 12  # all of them are up to date
        public = np.array([state(made, i).public for i in range(6)], dtype=np.float64)
        for i in range(6):
            held = {int(p.removeprefix("n-")): r for p, (_, r) in state(made, i).replicas.items()}
            s = matrix[i, i] * public[i] + sum(matrix[i, j] * held[j] for j in near[i])
            assert np.allclose(s, (matrix @ public)[i], atol=1e-6)
            assert np.allclose(made.models[i], before[i] + 0.3 * (s - public[i]), atol=1e-5)


@pytest.mark.parametrize(("compression", "rounds"), [("top_k", 20), ("random", 60)])
def test_it_keeps_the_mean_and_converges_to_it_at_a_linear_rate(
    compression: str, rounds: int
) -> None:
    made = rig(ring(6), compression=compression, share=0.3, gamma=0.4)
    mean = made.models.mean(axis=0)
    distances = []
    for k in range(4):
        made.run(rounds=k * rounds)
        assert np.allclose(made.models.mean(axis=0), mean, atol=1e-4)
        distances.append(made.distance)
    factors = np.array(distances[1:]) / np.array(distances[:-1])
    assert factors.max() < 0.5
    assert distances[-1] < 0.02 * distances[0]


def test_a_round_costs_the_kept_parameters_with_indices_or_without() -> None:
    made = rig(ring(6), share=0.13)
    made.run(rounds=4)
    assert made.bytes_by_kind() == {"difference": 4 * 12 * 8 * 8}  # ceil(0.13 * 60) = 8
    made = rig(ring(6), compression="random")
    made.run(rounds=4)
    kept = [
        resolve(RandomMask(0.2, derive_seed(1, "q", name(i), k)), made.layout).size
        for i in range(6)
        for k in range(4)
    ]
    assert made.bytes_by_kind() == {"difference": 2 * 4 * sum(kept)}


def test_a_lost_difference_costs_two_rounds_of_an_edge_and_one_whole_replica() -> None:
    near = ring(6)
    made = rig(near)
    made.fates = lambda s, t, m: Fate.LOST if (s, t, m.round) == (1, 2, 3) else Fate.ARRIVES
    run(made, rounds=9)
    used = [aggregate["models"] for aggregate in made.of(2, "aggregate")]
    assert used == [2, 2, 2, 1, 1, 2, 2, 2, 2]
    outdated = [aggregate["outdated"] for aggregate in made.of(2, "aggregate")]
    assert outdated == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    wholes = [(s, t, m.round) for s, t, m in made.sends if m.kind == "replica"]
    assert wholes == [(1, 2, 5)]
    assert made.bytes_by_kind()["replica"] == SIZE * 4
    matrix = mixing(near)
    before = made.models
    made.run(rounds=10)
    public = np.array([state(made, i).public for i in range(6)], dtype=np.float64)
    assert np.allclose(made.models, before + 0.3 * (matrix @ public - public), atol=1e-5)


def test_a_lost_replica_is_sent_again() -> None:
    made = rig(ring(6))
    lost = {(1, 2, 3), (1, 2, 5)}
    made.fates = lambda s, t, m: Fate.LOST if (s, t, m.round) in lost else Fate.ARRIVES
    assert run(made, rounds=12) == 12
    wholes = [(s, t, m.round) for s, t, m in made.sends if m.kind == "replica"]
    assert wholes == [(1, 2, 5), (1, 2, 7)]


def test_an_edge_that_was_away_begins_with_whole_replicas() -> None:
    made = rig(complete(4))
    made.cut.add(frozenset((0, 3)))
    run(made, rounds=4)
    assert name(3) not in state(made, 0).replicas
    made.cut.clear()
    assert run(made, rounds=8) == 12
    wholes = [(s, t, m.round) for s, t, m in made.sends if m.kind == "replica"]
    assert sorted(wholes) == [(0, 3, 4), (3, 0, 4)]


def test_who_goes_on_from_another_model_begins_with_zeros() -> None:
    made = rig(ring(5))
    watch = Watch(made)
    run(made, rounds=4, watch=watch)
    while 2 in made._offered or not made.pool:
        made.step()
    held = made.peers[1].parameters
    made.feed(2, ModelAdopted(round=made.round(2), parameters=held))
    assert state(made, 2).public is None
    assert run(made, rounds=10, watch=watch) == 10
    kinds = [(s, t, m.kind) for s, t, m in made.sends if m.kind == "replica"]
    assert {t for _, t, _ in kinds} == {2}  # the others know nothing of its replicas: it tells them


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["top_k", "random"]), st.floats(0.02, 0.5))
def test_no_replica_is_ever_wrong_whatever_is_lost(
    seed: int, compression: str, loss: float
) -> None:
    """A replica is what its owner's was at that stamp, at every step; and all are in the end."""
    draw = np.random.default_rng(seed)
    made = rig(complete(4), compression=compression)

    def fates(sender: int, target: int, message: PeerMessage) -> Fate:
        value = draw.random()
        return Fate.LOST if value < loss else Fate.TWICE if value > 0.9 else Fate.ARRIVES

    made.fates = fates
    watch = Watch(made)
    for k in range(1, 13):
        pair = frozenset(draw.choice(4, size=2, replace=False).tolist())
        made.cut = {pair} if draw.random() < 0.3 else set()
        if k == 6:
            made.kill(3)
        if k == 9:
            made.revive(3, model_of=0)
        run(made, rounds=k, watch=watch)
    made.cut.clear()
    made.fates = lambda *_: Fate.ARRIVES
    made.run(rounds=17)
    assert watch.look() == 12


@pytest.mark.parametrize(
    ("compression", "wrong"),
    [
        ("random", RandomMask(0.2, 5)),
        ("random", Listed(np.arange(12))),
        ("top_k", Listed(np.arange(11))),
        ("top_k", RandomMask(0.2, 5)),
    ],
)
def test_a_difference_of_other_parameters_than_q_keeps_is_refused(
    monkeypatch: pytest.MonkeyPatch, compression: str, wrong: IndexSet
) -> None:
    """Its receiver's replica would be another than the sender's, and nobody would know."""
    made = rig(complete(4), compression=compression)
    while state(made, 1).stamp != 2:
        made.step()
    monkeypatch.setattr(made.algorithms[1], "_kept", lambda ctx, difference: wrong)
    made.run(rounds=4)
    for i in (0, 2, 3):
        (refused,) = made.of(i, "refused")
        assert refused["sender"] == name(1)
        assert "not the parameters" in refused["reason"]
        stamp, _ = state(made, i).replicas[name(1)]
        assert stamp == 2  # of the round before
        assert made.of(i, "aggregate")[-1]["models"] == 2


@pytest.mark.parametrize("options", [{"share": 0}, {"gamma": 1.1}, {"compression": "zip"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        algorithms.make("choco", options)
