"""A single merge: schedules, pulls, what the merge gives and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.single_merge import SingleMerge, _draw
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Order, Quadratic, Rig, complete, name, ring

SIZE = 4


def config(**options: Any) -> SingleMerge.Config:
    return algorithms.configure(SingleMerge, options)


def rig(count: int, *, rounds: int, seed: int = 1, **options: Any) -> Rig:
    initial = np.random.default_rng(3).normal(size=(count, SIZE))
    return Rig(
        "single-merge",
        near=complete(count),
        initial=initial,
        options={"rounds": rounds, **options},
        order=Order.SHUFFLED,
        seed=seed,
    )


def sent_in(made: Rig, round_: int) -> list[tuple[int, int]]:
    return [(i, j) for i, j, message in made.sends if message.round == round_]


# --- schedules


def repository(schedule: str, done: int, total: int, o: SingleMerge.Config, end: float) -> float:
    """`compute_r` of the repository, after `done` of `total` steps, from step 0 on."""
    if schedule == "fixed":
        return o.r_start
    if done >= total:
        return end
    progress = done / total
    if schedule == "truncate":
        return o.r_start if progress < o.point else end
    return end if o.point <= progress < o.point + o.window else o.r_start


@given(
    st.sampled_from(["truncate", "truncate_v2", "fixed"]),
    st.integers(1, 60),
    st.floats(0, 1),
    st.floats(0, 0.5),
)
def test_schedules_are_the_repository_s(
    schedule: str, rounds: int, point: float, window: float
) -> None:
    made = config(schedule=schedule, rounds=rounds, point=point, window=window, r_end=9)
    for round_ in range(rounds):
        expected = repository(schedule, round_ + 1, rounds, made, 9.0)
        assert made.pulls(round_, members=32) == expected


def test_the_default_is_one_merge_in_the_last_round() -> None:
    made = config(rounds=300)
    assert [made.pulls(r, members=32) for r in range(300)] == [0.2] * 299 + [31]


def test_nobody_pulls_more_than_there_are() -> None:
    made = config(rounds=10, r_start=20.0, r_end=40.0)
    assert made.pulls(0, members=5) == made.pulls(9, members=5) == 4


# --- pulls


@pytest.mark.parametrize("r", [0.0, 0.2, 1.0, 2.7])
def test_a_node_pulls_r_others_a_round_on_average_and_evenly(r: float) -> None:
    rounds, members = 500, 12
    count = np.zeros((members, members))
    for round_ in range(rounds):
        for node, pulled in enumerate(_draw(7, round_, members, r)):
            assert len(pulled) in (int(r), int(np.ceil(r)))
            for other in pulled:
                count[node, other] += 1
    assert not count.diagonal().any()
    share = r / (members - 1)
    spread = np.sqrt(rounds * share * (1 - share))
    others = count[~np.eye(members, dtype=bool)]
    assert (np.abs(others - rounds * share) <= 5 * spread).all()
    total = rounds * members * r
    rest = r - int(r)
    assert abs(count.sum() - total) <= 5 * np.sqrt(rounds * members * rest * (1 - rest))


def test_a_round_is_the_plain_mean_over_a_node_and_those_it_pulled() -> None:
    rounds, count = 6, 8
    made = Rig(
        "single-merge",
        near=complete(count),
        initial=np.eye(count),
        options={"rounds": rounds, "schedule": "fixed", "r_start": 1.5},
    )
    expected = np.eye(count)
    for done in range(rounds):
        made.run(rounds=done + 1)
        matrix = np.eye(count)
        for sender, target in sent_in(made, done):
            matrix[target, sender] = 1
        assert matrix.sum() > count
        expected = matrix / matrix.sum(axis=1, keepdims=True) @ expected
        np.testing.assert_allclose(made.models, expected, atol=1e-6)
    np.testing.assert_allclose(made.models.sum(axis=1), 1.0, atol=1e-6)  # row-stochastic


def test_a_pull_that_is_lost_is_not_counted() -> None:
    """The mean over the own model and those that came; nothing is pulled in its place."""
    lost = min(_draw(1, 0, 6, 3.0)[2])
    made = Rig(
        "single-merge",
        near=complete(6),
        initial=np.eye(6),
        options={"rounds": 9, "schedule": "fixed", "r_start": 3.0},
        fates=lambda sender, target, message: (
            Fate.LOST if (sender, target) == (lost, 2) else Fate.ARRIVES
        ),
        seed=1,
    )
    made.run(rounds=1)
    assert len(made.sends) == 6 * 3
    matrix = np.eye(6)
    for sender, target in sent_in(made, 0):
        matrix[target, sender] = (sender, target) != (lost, 2)
    assert matrix.sum(axis=1).tolist() == [4, 4, 3, 4, 4, 4]
    np.testing.assert_allclose(made.models, matrix / matrix.sum(axis=1, keepdims=True), atol=1e-6)
    (aggregate,) = made.of(2, "aggregate")
    assert (aggregate["models"], aggregate["pulled"]) == (2, 3)
    (share,) = made.of(2, "share")
    assert share["missing"] == [name(lost)]


def test_without_pulls_nothing_is_sent_and_nobody_waits() -> None:
    made = rig(5, rounds=10, r_start=0.0, schedule="fixed")
    made.run(rounds=10)
    assert made.sends == []
    np.testing.assert_array_equal(made.models, made.initial)


# --- the merge


def test_after_the_merge_all_hold_the_mean_of_all_and_it_costs_what_it_costs() -> None:
    centres = np.random.default_rng(2).normal(size=(9, SIZE)).astype(np.float32)
    made = Rig(
        "single-merge",
        near=complete(9),
        initial=np.zeros((9, SIZE)),
        options={"rounds": 20, "local_steps": 3},
        train=Quadratic(centres=centres, rate=0.1),
        order=Order.SHUFFLED,
    )
    made.run(rounds=19)
    before = np.array([made.train(i, made.peers[i].parameters, 3) for i in range(9)], np.float64)
    apart = made.distance
    assert apart > 0.1
    sparse = len(made.sends)
    assert sparse < 0.2 * 9 * 19 * 2
    made.run(rounds=20)
    np.testing.assert_allclose(made.models, np.tile(before.mean(axis=0), (9, 1)), atol=1e-6)
    assert made.distance < 1e-6
    merge = [message.model_bytes for _, _, message in made.sends if message.round == 19]
    assert sum(merge) == 9 * 8 * SIZE * 4  # each to all others, for real
    assert made.of(0, "aggregate")[-1]["models"] == made.of(0, "aggregate")[-1]["pulled"] == 8


def test_a_window_merges_there_and_at_the_end() -> None:
    made = rig(5, rounds=20, schedule="truncate_v2", point=0.5, window=0.1, r_start=0.0)
    made.run(rounds=20)
    dense = [round_ for round_ in range(20) if len(sent_in(made, round_)) == 20]
    assert dense == [9, 10, 19]
    assert len(made.sends) == 3 * 20


def test_who_is_gone_is_no_part_of_the_merge() -> None:
    made = rig(5, rounds=6, r_start=0.0)
    made.run(rounds=3)
    made.kill(2)
    made.run(rounds=6)
    mean = np.delete(made.initial.astype(np.float64), 2, axis=0).mean(axis=0)
    np.testing.assert_allclose(made.models, np.tile(mean, (4, 1)), atol=1e-6)


def test_the_same_seed_gives_the_same_pulls_and_bytes() -> None:
    def run(seed: int) -> tuple[bytes, list[tuple[int, int, int]]]:
        made = rig(8, rounds=30, seed=seed, schedule="fixed", r_start=0.5)
        made.run(rounds=30)
        pulls = sorted((message.round, i, j) for i, j, message in made.sends)
        return made.models.tobytes(), pulls

    assert run(1) == run(1)
    assert run(1)[1] != run(2)[1]


# --- what it needs


def test_it_needs_an_overlay_of_all_with_all() -> None:
    def overlay(near: list[list[int]]) -> dict[Any, Any]:
        return {name(i): tuple(map(name, others)) for i, others in enumerate(near)}

    SingleMerge.check_overlay(config(rounds=5), overlay(complete(5)))
    with pytest.raises(ValueError, match="all with all; n-000 has 2 of 4"):
        SingleMerge.check_overlay(config(rounds=5), overlay(ring(5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rounds"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"rounds": 5, "r_start": -0.1}, "r_start must not be negative"),
        ({"rounds": 5, "r_end": -1}, "r_end must not be negative"),
        ({"rounds": 5, "point": 1.5}, "point must be from 0 to 1"),
        ({"rounds": 5, "window": -0.5}, "window must be from 0 to 1"),
        ({"rounds": 5, "schedule": "linear"}, "truncate, truncate_v2, fixed"),
        ({"rounds": 5, "local_steps": 0}, "local_steps must be at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make("single-merge", options)
