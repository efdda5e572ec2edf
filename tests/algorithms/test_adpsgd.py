"""AD-PSGD: pairwise, atomic, doubly stochastic; whatever gets lost, no half of an average does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.plan import BackendKind, make_plan, plan_from_json, plan_json
from deploy.topology import parse_topology
from node import algorithms
from node.algorithms.adpsgd import ADPSGD, two_sides
from node.algorithms.common import whole_model
from node.core.effects import Send
from node.core.events import (
    PeerChange,
    PeerChanged,
    Received,
    SendFailed,
    TimerFired,
    Trained,
)
from node.core.messages import PeerMessage
from node.core.parts import Part, Whole
from node.errors import ConfigError
from tests.algorithms.rig import (
    Fate,
    Order,
    Quadratic,
    Rig,
    always,
    complete,
    name,
    number,
    ring,
    star,
    still,
)

SIZE = 3


def of(rig: Rig, i: int) -> ADPSGD:
    algorithm = rig.algorithms[i]
    assert isinstance(algorithm, ADPSGD)
    return algorithm


def owed(rig: Rig) -> np.ndarray[Any, Any]:
    """What active nodes still have to add for exchanges that their partners have done."""
    total = np.zeros(rig.initial.shape[1])
    for i in sorted(rig.live):
        for peer, exchange in of(rig, i)._open.items():
            if (partner := number(peer)) not in rig.live:
                continue
            answer = of(rig, partner)._answers.get(name(i))
            if answer is not None and answer.number == exchange.number and answer.message:
                theirs = whole_model(answer.message)
                assert theirs is not None
                total += (theirs.astype(np.float64) - exchange.sent) / 2
    return total


def settle(rig: Rig) -> None:
    """Let all that is under way arrive and timers fire, without new exchanges or training."""
    for i in rig.live:
        of(rig, i)._partners = ()
    for _ in range(100_000):
        rig.pool = [pending for pending in rig.pool if not isinstance(pending.event, Trained)]
        going = rig.live - set(rig.finished)
        if not rig.pool and not any(of(rig, i)._open for i in going):
            return
        rig.step()
    raise AssertionError("something stays open")


def overlay(near: list[list[int]]) -> dict[Any, Any]:
    return {name(i): tuple(map(name, others)) for i, others in enumerate(near)}


def unit_rig(near: list[list[int]], **more: Any) -> Rig:
    """Node i starts from e_i and nobody trains: the models are the rows of the mixing matrix."""
    return Rig("adpsgd", near=near, initial=np.eye(len(near)), train=still, **more)


# --- roles


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_a_bipartite_overlay_gets_its_own_colouring(n: int, seed: int) -> None:
    graph = nx.bipartite.random_graph(n, n, 0.4, seed=seed)
    order = np.random.default_rng(seed).permutation(2 * n).tolist()
    named = nx.relabel_nodes(graph, dict(enumerate(order)))  # no side comes first by name
    active = two_sides(overlay([sorted(named[i]) for i in range(2 * n)]))
    assert all(active[name(i)] != active[name(j)] for i, j in named.edges)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 14), st.floats(0.1, 1.0), st.integers(0, 10**6))
def test_elsewhere_half_of_the_edges_are_used_and_connect_all(n: int, p: float, seed: int) -> None:
    graph = nx.gnp_random_graph(n, p, seed=seed)
    near = [sorted(graph[i]) for i in range(n)]
    active = two_sides(overlay(near))
    used = nx.Graph([(i, j) for i, j in graph.edges if active[name(i)] != active[name(j)]])
    used.add_nodes_from(graph)
    assert 2 * used.number_of_edges() >= graph.number_of_edges()
    assert _parts(used) == _parts(graph)


def _parts(graph: Any) -> list[list[int]]:
    return sorted(sorted(part) for part in nx.connected_components(graph))


@pytest.mark.parametrize("n", [2, 7, 60])
def test_of_an_overlay_of_all_with_all_every_second_node_is_active(n: int) -> None:
    assert list(two_sides(overlay(complete(n))).values()) == [i % 2 == 0 for i in range(n)]


def test_each_node_is_told_its_partners_and_a_file_must_not() -> None:
    kind = algorithms.find("adpsgd")
    config = algorithms.configure(kind, {})
    told = kind.options_by_node(config, overlay(star(4)))
    assert told[name(0)] == {"partners": "n-001 n-002 n-003"}
    assert told[name(1)] == {"partners": ""}
    kind.check_overlay(config, overlay(star(4)))
    with pytest.raises(ValueError, match="follows from the overlay"):
        kind.check_overlay(algorithms.configure(kind, {"partners": "n-001"}), overlay(star(4)))


def test_active_nodes_ask_passive_ones_and_nobody_else() -> None:
    rig = unit_rig(complete(7), order=Order.SHUFFLED)
    rig.run(rounds=60)
    active = two_sides(overlay(complete(7)))
    for sender, target, message in rig.sends:
        asks = message.kind in ("request", "done", "ask")
        assert (active[name(sender)], active[name(target)]) == (asks, not asks)
    asked = {(i, j) for i, j, message in rig.sends if message.kind == "request"}
    assert asked == {(i, j) for i in (0, 2, 4, 6) for j in (1, 3, 5)}


# --- the average


def test_an_exchange_averages_two_models_exactly() -> None:
    rig = Rig("adpsgd", near=[[1], [0]], initial=np.array([[2.0] * SIZE, [8.0] * SIZE]))
    while rig.of(0, "aggregate") == [] or not rig.of(0, "aggregate")[-1]["models"]:
        rig.step()
    assert rig.models.tolist() == [[5.0] * SIZE] * 2


@pytest.mark.parametrize("trained_first", [True, False])
def test_what_was_trained_meanwhile_is_added_to_the_average(trained_first: bool) -> None:
    """x_i = 2 trains by 3 while it exchanges with x_j = 8: (2 + 8) / 2 + 3 in either order."""
    rig = Rig("adpsgd", near=[[1], [0]], initial=np.array([[2.0] * SIZE, [8.0] * SIZE]))
    (request,) = [p for p in rig.pool if p.send is not None]
    job = next(p.event.job for p in rig.pool if p.node == 0 and isinstance(p.event, Trained))
    values = np.full(SIZE, 5.0, dtype=np.float32)
    values.flags.writeable = False
    done = Trained(job=job, parameters=values, loss=1.0, steps=1)
    rig.pool.clear()
    if trained_first:
        rig.feed(0, done)
        assert set(rig.models[0].tolist()) == {5.0}
    rig.feed(1, request.event)
    assert set(rig.models[1].tolist()) == {5.0}  # at once
    (answer,) = [p for p in rig.pool if p.send is not None and p.sender == 1]
    assert answer.send.message.part.values.tolist() == [8.0] * SIZE  # as it was before
    rig.feed(0, answer.event)
    if not trained_first:
        assert set(rig.models[0].tolist()) == {5.0}
        rig.feed(0, done)
    assert set(rig.models[0].tolist()) == {8.0}
    assert rig.models.mean() == pytest.approx((2 + 8 + 3) / 2)


@pytest.mark.parametrize("pace", ["round", "continuous"])
def test_an_exchange_costs_two_models_and_the_words_about_it_nothing(pace: str) -> None:
    rig = unit_rig(complete(7), order=Order.SHUFFLED, options={"pace": pace})
    rig.run(rounds=30)
    settle(rig)
    taken = Counter(message.kind for _, _, message in rig.sends)
    exchanges = taken["done"]
    assert exchanges > 30
    size = 7 * 4
    assert rig.bytes_by_kind() == {
        "request": exchanges * size,
        "answer": exchanges * size,
        "done": 0,
    }
    ended = (fields for i in range(7) for fields in rig.of(i, "aggregate"))
    counted = sum(f["models"] for f in ended) + sum(of(rig, i)._counts["models"] for i in range(7))
    assert counted == 2 * exchanges  # both ends count it


def test_one_exchange_at_a_time_at_most_one_a_round() -> None:
    rig = unit_rig(complete(6), order=Order.SHUFFLED)
    for _ in range(3000):
        rig.step()
        for i in range(6):
            assert len(of(rig, i)._open) <= 1
    for i in (0, 2, 4):
        asked = sum(sender == i and m.kind == "request" for sender, _, m in rig.sends)
        assert 0 < asked <= rig.round(i) + 1


def test_continuous_exchanges_do_not_wait_for_training() -> None:
    rig = unit_rig(complete(4), options={"pace": "continuous"})
    rig.pool = [p for p in rig.pool if not isinstance(p.event, Trained)]
    for _ in range(300):
        rig.step()
    assert sum(message.kind == "request" for _, _, message in rig.sends) > 50
    np.testing.assert_allclose(rig.models, 0.25, atol=0.01)


# --- the sum


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["ring", "complete", "star"]),
    st.sampled_from(["round", "continuous"]),
    st.floats(0.0, 0.4),
)
def test_the_sum_is_kept_at_every_step_in_any_interleaving_with_any_loss(
    seed: int, shape: str, pace: str, bad: float
) -> None:
    near = {"ring": ring(6), "complete": complete(6), "star": star(6)}[shape]
    draw = np.random.default_rng(seed)
    fates = (Fate.LOST, Fate.FAILS, Fate.TWICE)

    def fate(sender: int, target: int, message: PeerMessage) -> Fate:
        return fates[draw.integers(3)] if draw.random() < bad else Fate.ARRIVES

    rig = unit_rig(near, order=Order.SHUFFLED, fates=fate, seed=seed, options={"pace": pace})
    total = rig.initial.sum(axis=0)
    for _ in range(400):
        rig.step()
        np.testing.assert_allclose(rig.models.sum(axis=0) + owed(rig), total, atol=1e-4)
    rig.fates = lambda sender, target, message: Fate.ARRIVES
    settle(rig)
    np.testing.assert_allclose(rig.models.sum(axis=0), total, atol=1e-4)
    np.testing.assert_allclose(rig.models.sum(axis=1), 1.0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["round", "continuous"]))
def test_the_mixing_matrix_is_doubly_stochastic(seed: int, pace: str) -> None:
    rig = unit_rig(complete(7), order=Order.SHUFFLED, seed=seed, options={"pace": pace})
    for _ in range(300):
        rig.step()
        assert rig.models.min() > -1e-6
    settle(rig)
    np.testing.assert_allclose(rig.models.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(rig.models.sum(axis=1), 1.0, atol=1e-5)
    assert rig.distance < 0.5  # of 0.93 at the start


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["ring", "complete", "star"]),
    st.sampled_from(["round", "continuous"]),
    st.floats(0.0, 0.3),
)
def test_the_sum_is_kept_when_nodes_die_come_back_and_end_at_different_times(
    seed: int, shape: str, pace: str, bad: float
) -> None:
    """What a node takes with it when it dies, and brings when it comes, is all that changes it."""
    near = {"ring": ring(6), "complete": complete(6), "star": star(6)}[shape]
    draw = np.random.default_rng(seed)
    fates = (Fate.LOST, Fate.FAILS, Fate.TWICE)
    rig = unit_rig(near, order=Order.SHUFFLED, seed=seed, stop=9, options={"pace": pace})
    rig.fates = lambda *_: fates[draw.integers(3)] if draw.random() < bad else Fate.ARRIVES
    victim = int(draw.integers(6))
    total = rig.initial.sum(axis=0)
    for step in range(600):
        if step in (60, 110):
            if step == 60:
                rig.kill(victim)
            else:
                rig.now += 10**9  # a new life numbers its exchanges by the run clock
                rig.revive(victim, model_of=(victim + 1) % 6)
            total = rig.models.sum(axis=0) + owed(rig)
        if not rig.step():
            break
        np.testing.assert_allclose(rig.models.sum(axis=0) + owed(rig), total, atol=1e-4)
    rig.fates = always
    settle(rig)
    np.testing.assert_allclose(rig.models.sum(axis=0) + owed(rig), total, atol=1e-4)
    for i in rig.finished:
        np.testing.assert_array_equal(rig.finished[i], rig.peers[i].parameters)


def test_training_moves_the_mean_by_what_was_trained_and_no_more() -> None:
    """Every job adds 1 to every parameter: the sum is what it was plus the number of jobs."""
    rig = Rig(
        "adpsgd",
        near=ring(6),
        initial=np.zeros((6, SIZE)),
        train=lambda node, parameters, steps: parameters + np.float32(1),
        order=Order.SHUFFLED,
    )
    for _ in range(2000):
        rig.step()
        jobs = sum(rig.round(i) for i in range(6))
        np.testing.assert_allclose(rig.models.sum(axis=0) + owed(rig), jobs, rtol=1e-5)


# --- what gets lost


def pair(fates: Any = None, **options: Any) -> Rig:
    """Node 0 is active, 1 and 2 are passive; no training but what a test gives."""
    rig = Rig(
        "adpsgd",
        near=star(3),
        initial=np.array([[0.0] * SIZE, [8.0] * SIZE, [8.0] * SIZE]),
        options=options,
        **({"fates": fates} if fates else {}),
    )
    rig.pool = [p for p in rig.pool if p.send is not None]
    return rig


def value(rig: Rig, i: int) -> float:
    (one,) = set(rig.peers[i].parameters.tolist())
    return float(one)


def kinds(rig: Rig) -> list[str]:
    return [message.kind for _, _, message in rig.sends]


def partner(rig: Rig) -> int:
    (pending,) = rig.pool
    return pending.node


def test_a_lost_request_changes_nothing_on_either_side() -> None:
    rig = pair(lambda i, j, m: Fate.LOST if m.kind == "request" else Fate.ARRIVES)
    first = partner(rig)
    rig.drain()
    assert not rig.pool
    assert kinds(rig) == ["request"]  # nobody asks before the time
    rig.step()  # the timer
    assert rig.now == 60 * 10**9
    rig.drain()
    assert kinds(rig) == ["request", "ask", "void"]
    assert (value(rig, 0), value(rig, first)) == (0.0, 8.0)
    assert not of(rig, 0)._open


def test_a_lost_answer_is_asked_for_and_sent_again() -> None:
    lost = iter([Fate.LOST])
    rig = pair(lambda i, j, m: next(lost, Fate.ARRIVES) if m.kind == "answer" else Fate.ARRIVES)
    first = partner(rig)
    rig.drain()
    assert (value(rig, 0), value(rig, first)) == (0.0, 4.0)  # half done, and known to be
    assert len(of(rig, 0)._open) == 1
    rig.step()
    rig.drain()
    assert kinds(rig) == ["request", "answer", "ask", "answer", "done"]
    assert (value(rig, 0), value(rig, first)) == (4.0, 4.0)
    kept = of(rig, first)._answers[name(0)]
    assert (kept.message, kept.theirs) == (None, None)  # nothing is


def test_a_request_that_comes_after_it_was_asked_for_is_refused_for_good() -> None:
    """Control messages overtake models: the ask can be there first."""
    rig = pair()
    first = partner(rig)
    request = rig.pool.pop()
    rig.step()
    rig.drain()
    assert kinds(rig) == ["ask", "void"]
    rig.feed(first, request.event)
    assert not rig.pool
    assert (value(rig, 0), value(rig, first)) == (0.0, 8.0)


def test_a_request_or_an_answer_that_comes_twice_counts_once() -> None:
    rig = pair(lambda i, j, m: Fate.TWICE)
    first = partner(rig)
    rig.drain()
    assert (value(rig, 0), value(rig, first)) == (4.0, 4.0)
    assert not of(rig, 0)._open


def test_while_a_partner_is_gone_others_are_asked_and_it_is_settled_when_it_is_back() -> None:
    rig = pair(lambda i, j, m: Fate.LOST if m.kind == "answer" else Fate.ARRIVES)
    first = partner(rig)
    other = 3 - first
    rig.drain()
    rig.feed(0, PeerChanged(peer=name(first), change=PeerChange.LOST))
    rig.fates = lambda i, j, m: Fate.ARRIVES
    _round(rig)
    rig.drain()
    assert (value(rig, 0), value(rig, first), value(rig, other)) == (4.0, 4.0, 4.0)
    _round(rig)
    assert rig.of(0, "aggregate")[-1]["open"] == 1
    rig.drain()
    rig.feed(0, PeerChanged(peer=name(first), change=PeerChange.CONNECTED))
    rig.drain()
    # Late: the difference of the models as they were, (8 - 0) / 2, so that the sum is 16 again.
    assert (value(rig, 0), value(rig, first), value(rig, other)) == (8.0, 4.0, 4.0)
    _round(rig)
    assert rig.of(0, "aggregate")[-1]["late"] == 1
    assert sum(value(rig, i) for i in range(3)) == 16.0


def _round(rig: Rig) -> None:
    """Node 0 ends a round of training that has changed nothing; nothing else trains."""
    values = of(rig, 0)._start
    assert values is not None
    job = rig.round(0) + 1
    rig.feed(0, Trained(job=job, parameters=values, loss=1.0, steps=1))
    rig.pool = [p for p in rig.pool if p.send is not None]


def test_a_partner_that_was_started_again_says_that_there_is_no_answer() -> None:
    rig = pair(lambda i, j, m: Fate.LOST if m.kind == "answer" else Fate.ARRIVES)
    first = partner(rig)
    rig.drain()
    rig.kill(first)
    rig.revive(first, model_of=0)
    rig.pool = [p for p in rig.pool if p.send is not None]
    rig.drain()
    assert kinds(rig)[-2:] == ["ask", "void"]
    assert (value(rig, 0), value(rig, first)) == (0.0, 0.0)
    assert not of(rig, 0)._open


def test_an_active_node_that_was_started_again_is_answered_though_it_counts_anew() -> None:
    rig = pair()
    rig.drain()
    for _ in range(8):
        _round(rig)
        rig.drain()
    rig.now = 0
    rig.kill(0)
    rig.revive(0, model_of=1)
    rig.pool = [p for p in rig.pool if p.send is not None]
    done = len(rig.sends)
    for _ in range(4):
        rig.drain()
        if of(rig, 0)._open:
            rig.step()
            rig.drain()
        _round(rig)
    assert "answer" in kinds(rig)[done:]


def test_a_request_that_failed_is_asked_about_at_once() -> None:
    rig = pair()
    (request,) = rig.pool
    assert request.send is not None
    first = request.node
    rig.pool.clear()
    failed = SendFailed(target=name(first), key=request.send.key, reason="it broke")
    effects = rig.feed(0, failed)
    (ask,) = [effect for effect in effects if isinstance(effect, Send)]
    assert isinstance(ask.message, PeerMessage)
    assert (ask.target, ask.message.kind) == (name(first), "ask")


def test_a_request_that_is_still_queued_when_it_is_asked_about_is_not_sent() -> None:
    """The question overtakes it, and the partner refuses what comes after that."""
    rig = pair(timeout_s=10.0)
    (first,) = rig.pool
    rig.feed(0, PeerChanged(peer=name(first.node), change=PeerChange.LOST))
    rig.now = 10**9  # its number begins with the digit that is the number of the first
    _round(rig)  # asks the other one
    (_, other) = rig.pool
    assert other.node == 3 - first.node
    rig.now = 4 * 10**9
    rig.feed(0, PeerChanged(peer=name(first.node), change=PeerChange.CONNECTED))
    assert [message for _, _, message in rig.cancelled] == [first.send.message]
    assert [pending.send.message.kind for pending in rig.pool] == ["request", "ask"]
    assert rig.pool[0] is other  # of another exchange: it stays
    rig.pool.remove(other)
    rig.drain()
    assert kinds(rig) == ["ask", "void"]
    assert not rig.bytes_by_kind().total()
    rig.pool.append(other)
    rig.now = 11 * 10**9
    rig.feed(0, TimerFired(key="algorithm/overdue"))
    assert len(rig.cancelled) == 2
    rig.drain()
    assert kinds(rig) == ["ask", "void"] * 2
    assert not of(rig, 0)._open
    assert [value(rig, i) for i in range(3)] == [0.0, 8.0, 8.0]


# --- who has ended


def _ends(rig: Rig, i: int) -> None:
    """A passive node ends its rounds, training nothing."""
    while i not in rig.finished:
        start = of(rig, i)._start
        assert start is not None
        rig.feed(i, Trained(job=rig.round(i) + 1, parameters=start, loss=1.0, steps=1))
        for pending in [p for p in rig.pool if p.send is None and p.node == i]:
            rig.pool.remove(pending)
            rig.feed(i, pending.event)


def test_a_partner_that_has_ended_says_so_and_is_asked_once() -> None:
    rig = Rig(
        "adpsgd",
        near=star(3),
        initial=np.array([[0.0] * SIZE, [8.0] * SIZE, [8.0] * SIZE]),
        options={"pace": "continuous"},
        stop=5,
    )
    rig.pool = [p for p in rig.pool if p.send is not None]
    first = partner(rig)
    _ends(rig, first)
    for _ in range(20):
        rig.step()
    assert rig.now == 0  # nobody waited for the time to be over
    asked = [target for _, target, message in rig.sends if message.kind == "request"]
    assert asked.count(first) == 1
    assert len(asked) > 5
    assert value(rig, first) == 8.0
    assert rig.models[:, 0].sum() == 16.0
    _ends(rig, 3 - first)
    rig.drain()
    assert rig.now == 0
    assert not of(rig, 0)._open


def test_an_answer_to_one_that_has_ended_is_undone() -> None:
    rig = Rig("adpsgd", near=star(2), initial=np.array([[0.0] * SIZE, [8.0] * SIZE]), stop=1)
    rig.fates = lambda i, j, m: Fate.TWICE
    (job,) = [p.event for p in rig.pool if p.node == 0 and isinstance(p.event, Trained)]
    (request,) = [p for p in rig.pool if p.send is not None]
    rig.pool.clear()
    rig.feed(1, request.event)
    assert value(rig, 1) == 4.0
    held, rig.pool = rig.pool, []
    rig.feed(0, job)
    rig.pool = [p for p in rig.pool if p.send is None]  # what it would begin now is not asked here
    rig.drain()
    assert set(rig.finished) == {0}
    rig.pool = held
    rig.deliver()
    assert kinds(rig) == ["answer", "undo", "undo"]
    assert (value(rig, 0), value(rig, 1)) == (0.0, 8.0)
    assert rig.finished[0].tolist() == [0.0] * SIZE
    assert of(rig, 1)._counts["undone"] == 1


def test_an_answer_that_was_taken_is_not_undone_when_it_comes_again_after_the_end() -> None:
    rig = Rig("adpsgd", near=star(2), initial=np.array([[0.0] * SIZE, [8.0] * SIZE]), stop=1)
    (job,) = [p.event for p in rig.pool if p.node == 0 and isinstance(p.event, Trained)]
    rig.pool = [p for p in rig.pool if p.send is not None]
    rig.step()
    (answer,) = rig.pool
    rig.fates = lambda i, j, m: Fate.LOST if m.kind == "done" else Fate.ARRIVES
    rig.deliver()
    assert of(rig, 1)._answers[name(0)].message is not None  # it does not know
    rig.feed(0, job)
    rig.pool = [p for p in rig.pool if p.send is None]
    rig.drain()
    rig.fates = always
    rig.feed(0, answer.event)
    rig.deliver()
    assert kinds(rig) == ["request", "answer", "done", "done"]
    assert of(rig, 1)._answers[name(0)].message is None
    assert (value(rig, 0), value(rig, 1)) == (4.0, 4.0)


def test_one_that_has_ended_still_gives_the_answer_that_it_owes() -> None:
    """It has taken its half before its end; the answer was lost."""
    lost = iter([Fate.LOST])
    rig = Rig(
        "adpsgd",
        near=star(2),
        initial=np.array([[0.0] * SIZE, [8.0] * SIZE]),
        stop=2,
        fates=lambda i, j, m: next(lost, Fate.ARRIVES) if m.kind == "answer" else Fate.ARRIVES,
    )
    rig.pool = [p for p in rig.pool if p.send is not None]
    rig.drain()
    _ends(rig, 1)
    assert rig.finished[1].tolist() == [4.0] * SIZE
    assert rig.step()  # the timer
    rig.deliver()
    assert kinds(rig) == ["request", "answer", "ask", "answer", "done"]
    assert (value(rig, 0), value(rig, 1)) == (4.0, 4.0)
    assert of(rig, 1)._answers[name(0)].message is None


def test_a_new_exchange_does_not_put_off_asking_about_an_old_one() -> None:
    rig = pair(lambda i, j, m: Fate.LOST if m.kind == "request" else Fate.ARRIVES, timeout_s=10.0)
    first = partner(rig)
    rig.drain()
    rig.feed(0, PeerChanged(peer=name(first), change=PeerChange.LOST))
    rig.feed(0, PeerChanged(peer=name(first), change=PeerChange.CONNECTED))
    rig.pool.clear()  # the ask that this makes is lost too
    rig.now = 4 * 10**9
    _round(rig)
    rig.drain()
    assert len(of(rig, 0)._open) == 2
    rig.step()
    assert rig.now == 10 * 10**9
    asked = [pending.node for pending in rig.pool]
    assert asked == [first]


def test_what_is_no_message_of_it_is_refused() -> None:
    rig = pair()
    part = Part(where=Whole(), values=np.ones(SIZE, dtype=np.float32))
    for receiver, kind, model, fields in (
        (1, "request", None, {"number": 1}),
        (1, "request", part, {}),
        (1, "hello", part, {"number": 1}),
        (0, "request", part, {"number": 1}),
        (1, "answer", part, {"number": 1}),
    ):
        message = PeerMessage(kind=kind, round=0, part=model, fields=fields)
        rig.feed(receiver, Received(sender=name(1 - receiver), message=message))
    assert len(rig.of(0, "refused") + rig.of(1, "refused")) == 5
    assert (value(rig, 0), value(rig, 1)) == (0.0, 8.0)


# --- runs


def test_nodes_learn_together_and_the_same_seed_gives_the_same_bytes() -> None:
    centres = np.random.default_rng(2).normal(size=(8, SIZE))

    def run(seed: int) -> Rig:
        rig = Rig(
            "adpsgd",
            near=complete(8),
            initial=np.zeros((8, SIZE)),
            options={"local_steps": 1},
            train=Quadratic(centres=centres, rate=0.05),
            order=Order.SHUFFLED,
            seed=seed,
        )
        rig.run(rounds=200)
        return rig

    one = run(1)
    apart = centres - centres.mean(axis=0)
    assert one.distance < 0.5 * np.sqrt((apart**2).sum(axis=1).mean())
    assert np.abs(one.models.mean(axis=0) - centres.mean(axis=0)).max() < 0.25
    assert one.models.tobytes() == run(1).models.tobytes()
    assert one.models.tobytes() != run(2).models.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0.0}, "timeout_s must be above 0"),
        ({"local_steps": 0}, "local_steps must be at least 1"),
        ({"pace": "fast"}, "round, continuous"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make("adpsgd", options)


def test_a_plan_tells_each_node_its_partners() -> None:
    text = b"""
nodes: {n: 4}
network: {shape: ring, link: {rate: 10mbit, delay: 1ms}}
algorithm: {name: adpsgd, local_steps: 4}
stop: {rounds: 3}
"""
    topology = parse_topology(text, path=Path("/somewhere/test.yaml"))
    plan = make_plan(topology, run_id="r1", backend=BackendKind.SIM)
    told = {node.name: node.config.algorithm.options for node in plan.nodes}
    assert {name: options["partners"] for name, options in told.items()} == {
        "n-0": "n-1 n-3",
        "n-1": "",
        "n-2": "n-1 n-3",
        "n-3": "",
    }
    assert all(options["local_steps"] == 4 for options in told.values())
    assert plan_from_json(plan_json(plan)) == plan
