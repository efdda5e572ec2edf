"""Epidemic Learning against its definition: who gets what, and how it mixes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.epidemic import _local, _oracle
from node.core.ids import NodeId
from node.errors import ConfigError
from tests.algorithms.rig import Fate, Rig, complete, name, ring

SIZE = 5


def names(count: int) -> tuple[NodeId, ...]:
    return tuple(name(i) for i in range(count))


def rig(count: int, *, seed: int = 1, **options: Any) -> Rig:
    initial = np.random.default_rng(seed).normal(size=(count, SIZE))
    return Rig("epidemic", near=complete(count), initial=initial, options=options, seed=seed)


def matrix_of(made: Rig, round_: int) -> np.ndarray[Any, Any]:
    """W of a round from the messages alone: the mean over own and received."""
    count = len(made.near)
    matrix = np.eye(count)
    for sender, target, message in made.sends:
        if message.round == round_:
            matrix[target, sender] = 1
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


# --- the draws


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 5), st.integers(0, 100))
def test_local_each_sends_to_s_distinct_others(n: int, s: int, round_: int, seed: int) -> None:
    draw = _local(seed, round_, names(n), names(n), s)
    for node, (targets, sources) in draw.items():
        assert len(targets) == len(set(targets)) == min(s, n - 1)
        assert node not in targets
        assert all(node in draw[source][0] for source in sources)
    assert sum(len(sources) for _, sources in draw.values()) == n * min(s, n - 1)


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 5), st.integers(0, 100))
def test_the_oracle_s_graph_is_regular_and_simple(n: int, s: int, round_: int, seed: int) -> None:
    draw = _oracle(seed, round_, names(n), names(n), s)
    degree = min(s, n - 1)
    if s < n - 1 and s % 2 and n % 2:  # there is no such graph
        degree = max(1, s - 1)
    alone = [node for node, (targets, _) in draw.items() if not targets]
    assert len(alone) == (s == 1 and n % 2)  # a matching
    for node, (targets, sources) in draw.items():
        assert targets == sources
        assert len(set(targets)) == (degree if node not in alone else 0)
        assert node not in targets
        assert all(node in draw[target][0] for target in targets)


def test_pairs_of_an_odd_number_leave_out_each_as_often() -> None:
    n, rounds = 7, 2100
    alone: Counter[NodeId] = Counter()
    pairs: Counter[frozenset[NodeId]] = Counter()
    for round_ in range(rounds):
        draw = _oracle(7, round_, names(n), names(n), 1)
        alone.update(node for node, (targets, _) in draw.items() if not targets)
        pairs.update({frozenset((node, *ends)) for node, (ends, _) in draw.items() if ends})
    assert sum(alone.values()) == rounds
    assert sum(pairs.values()) == 3 * rounds
    assert all(abs(alone[node] - 300) < 5 * np.sqrt(300 * 6 / 7) for node in names(n))
    assert len(pairs) == 21
    assert all(abs(count - 300) < 5 * np.sqrt(300 * 6 / 7) for count in pairs.values())


def test_a_pair_of_three_averages_and_who_is_left_out_keeps_its_model() -> None:
    made = rig(4, variant="oracle", degree=1)
    made.run(rounds=1)
    made.kill(3)
    for round_ in range(1, 6):
        before = made.models
        made.run(rounds=round_ + 1)
        (pair,) = {frozenset((s, t)) for s, t, m in made.sends if m.round == round_}
        (left,) = {0, 1, 2} - pair
        expected = before.copy()
        expected[sorted(pair)] = before[sorted(pair)].mean(axis=0)
        np.testing.assert_allclose(made.models, expected, atol=1e-6)
        assert np.array_equal(made.models[left], before[left])


def test_local_in_degrees_are_binomial_and_all_pairs_are_as_likely() -> None:
    n, s, rounds = 12, 3, 2000
    pairs: Counter[tuple[NodeId, NodeId]] = Counter()
    came: list[int] = []
    for round_ in range(rounds):
        draw = _local(7, round_, names(n), names(n), s)
        pairs.update((node, target) for node, (targets, _) in draw.items() for target in targets)
        came.extend(len(sources) for _, sources in draw.values())
    p = s / (n - 1)
    assert np.mean(came) == s
    assert np.var(came) == pytest.approx((n - 1) * p * (1 - p), rel=0.05)
    assert came.count(0) / len(came) == pytest.approx((1 - p) ** (n - 1), rel=0.1)
    assert len(pairs) == n * (n - 1)
    five_sigma = 5 * np.sqrt(rounds * p * (1 - p))
    assert all(abs(count - rounds * p) < five_sigma for count in pairs.values())


@pytest.mark.parametrize(("n", "s"), [(12, 3), (9, 4), (16, 4), (6, 5)])
def test_the_oracle_mixes_in_expectation_as_any_regular_graph(n: int, s: int) -> None:
    """E W^T W, and with it the expected decrease of the distance: the paper's analysis needs it."""
    rounds = 3000
    second = np.zeros((n, n))
    for round_ in range(rounds):
        draw = _oracle(3, round_, names(n), names(n), s)
        w = np.eye(n)
        for i, node in enumerate(names(n)):
            for target in draw[node][0]:
                w[i, int(target.removeprefix("n-"))] = 1
        w /= s + 1
        second += w.T @ w / rounds
    rate = (n - 1 - s) / ((s + 1) * (n - 1))
    expected = rate * np.eye(n) + (1 - rate) / n
    assert np.allclose(second, expected, atol=0.02)
    assert np.trace(second) == pytest.approx(n / (s + 1))  # exactly, whatever was drawn


DRAWS = st.sampled_from([_local, _oracle])


@settings(max_examples=50)
@given(st.integers(6, 20), st.integers(2, 4), st.integers(0, 50), DRAWS)
def test_who_sees_one_peer_less_differs_in_few_choices(
    n: int, s: int, seed: int, draw: Any
) -> None:
    """Views of a round may differ by a connection that was given up."""
    everyone = names(n)
    without = tuple(node for node in everyone if node != name(2))
    full, less = draw(seed, 0, everyone, everyone, s), draw(seed, 0, everyone, without, s)
    for node in without:
        changed = set(less[node][0]) - set(full[node][0])
        assert len(changed) <= (1 if draw is _local else 2)


# --- rounds


@pytest.mark.parametrize("variant", ["local", "oracle"])
def test_a_round_is_the_mean_of_own_and_received(variant: str) -> None:
    made = rig(9, variant=variant, degree=4)
    for round_ in range(6):
        before = made.models
        made.run(rounds=round_ + 1)
        matrix = matrix_of(made, round_)
        assert np.allclose(made.models, matrix @ before, atol=1e-5)
        stochastic = np.allclose(matrix.sum(axis=0), 1)
        assert stochastic == (variant == "oracle")  # local is row-stochastic only
        if variant == "oracle":
            assert np.allclose(made.models.mean(axis=0), before.mean(axis=0), atol=1e-5)
    assert all(not made.of(i, "share")[r]["missing"] for i in range(9) for r in range(6))
    assert all(not made.of(i, "share")[r]["unexpected"] for i in range(9) for r in range(6))


@pytest.mark.parametrize("variant", ["local", "oracle"])
def test_a_round_costs_s_models_a_node_and_no_other_message(variant: str) -> None:
    made = rig(8, variant=variant, degree=3)
    made.run(rounds=5)
    assert len(made.sends) == 5 * 8 * 3
    assert made.bytes_by_kind() == {"model": 5 * 8 * 3 * SIZE * 4}


def test_the_graph_is_new_in_each_round_and_the_same_for_the_same_seed() -> None:
    def graphs(seed: int) -> list[np.ndarray[Any, Any]]:
        made = rig(8, seed=seed, degree=2)
        made.run(rounds=4)
        return [matrix_of(made, round_) for round_ in range(4)]

    first, again, other = graphs(1), graphs(1), graphs(2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({graph.tobytes() for graph in first}) == 4


def test_the_distance_shrinks_at_the_rate_of_the_analysis() -> None:
    n, s, rounds = 16, 3, 4
    ratios = []
    for seed in range(60):
        made = rig(n, seed=seed, variant="oracle", degree=s)
        start = made.distance
        made.run(rounds=rounds)
        ratios.append((made.distance / start) ** 2)
    expected = ((n - 1 - s) / ((s + 1) * (n - 1))) ** rounds
    assert np.mean(ratios) == pytest.approx(expected, rel=0.15)


def test_a_lost_message_is_not_counted_by_local_and_kept_by_the_oracle() -> None:
    for variant in ("local", "oracle"):
        made = rig(6, variant=variant, degree=2)
        made.fates = lambda _, target, __: Fate.LOST if target == 3 else Fate.ARRIVES
        before = made.models
        made.run(rounds=1)
        assert np.allclose(made.models[3], before[3], atol=1e-6)
        (share,) = made.of(3, "share")
        assert len(share["missing"]) == sum(target == 3 for _, target, _ in made.sends)


def test_the_oracle_keeps_the_weight_of_one_lost_message() -> None:
    made = rig(6, variant="oracle", degree=2)
    once = [True]
    made.fates = lambda _, target, __: (
        Fate.LOST if target == 3 and once and once.pop() else Fate.ARRIVES
    )
    made.run(rounds=1)
    (aggregate,) = made.of(3, "aggregate")
    assert aggregate["models"] == 1
    assert aggregate["own_weight"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("variant", ["local", "oracle"])
def test_a_connection_that_was_given_up_spoils_few_messages(variant: str) -> None:
    """`unreachable: edges`: its two ends draw over one peer less than the others."""
    whole, made = (rig(10, variant=variant, degree=3) for _ in range(2))
    made.cut.add(frozenset((1, 4)))
    for each in (whole, made):
        each.run(rounds=30)
    shares = [share for i in range(10) for share in made.of(i, "share")]
    missing = sum(len(share["missing"]) for share in shares)
    unexpected = sum(share["unexpected"] for share in shares)
    used = sum(len(share["received"]) for share in shares)
    # The two ends draw one another in a fifth or so of the rounds; each time a message or two.
    assert 0 < missing + unexpected < 0.15 * len(whole.sends)
    assert used > 0.85 * len(whole.sends)
    pairs = {(sender, target) for sender, target, _ in made.sends}
    assert not pairs & {(1, 4), (4, 1)}


def test_a_peer_that_left_is_drawn_by_nobody() -> None:
    made = rig(8, degree=3)
    made.run(rounds=2)
    made.kill(5)
    made.run(rounds=6)
    later = [(s, t) for s, t, message in made.sends if message.round >= 3]
    assert later
    assert all(5 not in pair for pair in later)
    senders = Counter(s for s, _ in later if s != 5)
    assert set(senders.values()) == {3 * 3}


def test_the_default_degree_is_the_paper_s() -> None:
    made = rig(10)
    made.run(rounds=1)
    assert len(made.sends) == 10 * 4  # ceil(log2(10))


def test_it_needs_an_overlay_of_all_with_all() -> None:
    kind = algorithms.find("epidemic")
    near = {name(i): tuple(name(j) for j in others) for i, others in enumerate(ring(5))}
    with pytest.raises(ValueError, match=r"n-000 has 2 of 4 neighbours: set `overlay: full`"):
        kind.check_overlay(kind.Config(), near)
    near = {name(i): tuple(name(j) for j in others) for i, others in enumerate(complete(5))}
    kind.check_overlay(kind.Config(), near)


@pytest.mark.parametrize("options", [{"degree": 0}, {"variant": "other"}, {"local_steps": 0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        algorithms.make("epidemic", options)
