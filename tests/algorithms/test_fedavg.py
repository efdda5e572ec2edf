"""FedAvg against its definition, and its single point of failure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from node import algorithms
from node.core.events import Received, Trained
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Span, Vector, Whole
from node.errors import ConfigError
from node.units import SECOND
from tests.algorithms.rig import (
    Fate,
    Order,
    Quadratic,
    Rig,
    always,
    complete,
    name,
    ring,
    star,
)

SIZE = 7


def some(nodes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(nodes, SIZE)).astype(np.float32)


TASK = Quadratic(some(5, 3) * 3, 0.2)


def rig(count: int = 5, **more: Any) -> Rig:
    options = {"local_steps": 1, "deadline": "30s", **more.pop("options", {})}
    given = {"near": star(count), "initial": some(count), "train": TASK, **more}
    return Rig("fedavg", options=options, **given)


def until(made: Rig, rounds: int, *, server: int = 0) -> None:
    """Until the server has ended so many rounds."""
    while made.round(server) < rounds:
        assert made.step(), f"nothing happens any more in round {made.round(server)}"


@pytest.mark.parametrize("order", Order)
def test_a_round_is_the_mean_of_the_clients_weighted_by_samples(order: Order) -> None:
    samples = [1000, 10, 20, 30, 40]  # the server's own are not used
    made = rig(samples=samples, order=order)
    w = made.initial[0].astype(np.float64)
    for k in range(1, 6):
        trained = [w - TASK.rate * (w - TASK.centres[i]) for i in range(1, 5)]
        w = sum(n / 100 * each for n, each in zip(samples[1:], trained, strict=True))
        until(made, k)
        assert np.allclose(made.models[0], w, atol=1e-5)
    aggregates = made.of(0, "aggregate")
    assert [a["models"] for a in aggregates] == [4] * 5
    assert [a["samples"] for a in aggregates] == [100] * 5


def test_it_converges_to_the_weighted_optimum() -> None:
    samples = [1, 10, 20, 30, 40]
    made = rig(samples=samples)
    until(made, 80)
    weights = np.array(samples[1:]) / 100
    assert np.allclose(made.models[0], weights @ TASK.centres[1:], atol=1e-4)


def test_a_round_costs_a_model_down_and_up_for_each_client_that_is_drawn() -> None:
    made = rig(11, initial=some(11), train=lambda *a: a[1].copy(), options={"fraction": 0.3})
    made.run(rounds=6)
    kinds = Counter((m.kind, m.round) for _, _, m in made.sends)
    for round_ in range(6):
        assert kinds["global", round_] == 3
        assert kinds["update", round_] == 3
        assert kinds["round", round_] == 7  # a word, without a model
    size = SIZE * 4
    bytes_ = sum(m.model_bytes for _, _, m in made.sends if m.round < 6)
    assert bytes_ == 6 * 2 * 3 * size
    assert all(m.model_bytes == 0 for _, _, m in made.sends if m.kind == "round")


def test_clients_are_drawn_uniformly_anew_in_each_round_and_from_the_seed() -> None:
    def drawn(seed: int) -> list[frozenset[int]]:
        made = rig(
            9, initial=some(9), train=lambda *a: a[1].copy(), seed=seed, options={"fraction": 0.25}
        )
        until(made, 200)
        return [
            frozenset(t for _, t, m in made.sends if m.kind == "global" and m.round == k)
            for k in range(200)
        ]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    count = Counter(client for round_ in first for client in round_)
    assert set(map(len, first)) == {2}
    assert set(count) == set(range(1, 9))
    assert all(abs(c - 50) < 5 * np.sqrt(200 * 0.25 * 0.75) for c in count.values())


def test_every_node_counts_the_server_s_rounds_and_so_all_stop_after_them() -> None:
    made = rig(9, initial=some(9), train=lambda *a: a[1].copy(), options={"fraction": 0.1}, stop=10)
    made.drain()
    assert {made.round(i) for i in range(9)} == {10}
    assert set(made.finished) == set(range(9))


def test_a_client_holds_the_last_global_model_that_it_got() -> None:
    made = rig()
    made.run(rounds=3)
    down = [m for _, t, m in made.sends if m.kind == "global" and t == 2]
    assert down[-1].part is not None
    assert np.array_equal(made.peers[2].parameters, down[-1].part.values)


def test_killing_the_server_ends_all_progress() -> None:
    made = rig()
    made.run(rounds=3)
    made.kill(0)
    while made.step():
        pass
    rounds = [made.round(i) for i in range(1, 5)]
    sends = len(made.sends)
    assert not made.step()
    assert max(rounds) <= 4
    assert len(made.sends) == sends
    assert not any(key for timers in made.timers for key in timers if "time-limit" not in key)


def test_without_a_client_that_died_it_goes_on_at_once() -> None:
    made = rig()
    made.run(rounds=2)
    made.kill(4)
    until(made, 6)
    assert made.now == 0  # no deadline passed
    assert made.of(0, "aggregate")[-1]["models"] == 3
    made.revive(4, model_of=1)
    until(made, 9)
    assert made.of(0, "aggregate")[-1]["models"] == 4


def test_a_silent_client_is_waited_for_until_the_deadline_and_left_out() -> None:
    made = rig(samples=[1] * 5)
    made.fates = lambda s, _, m: (
        Fate.LOST if s == 3 and m.kind == "update" and m.round == 0 else Fate.ARRIVES
    )
    w = made.initial[0].astype(np.float64)
    until(made, 1)
    assert made.now == 30 * SECOND
    trained = [w - TASK.rate * (w - TASK.centres[i]) for i in (1, 2, 4)]
    assert np.allclose(made.models[0], np.mean(trained, axis=0), atol=1e-5)
    (aggregate,) = made.of(0, "aggregate")
    assert (aggregate["models"], aggregate["silent"], aggregate["tries"]) == (3, 1, 1)
    until(made, 2)
    assert made.now == 30 * SECOND
    assert made.of(0, "aggregate")[1]["models"] == 4


def test_a_model_that_could_not_be_sent_is_not_waited_for() -> None:
    made = rig()
    made.fates = lambda _, t, m: Fate.FAILS if t == 3 and m.round == 0 else Fate.ARRIVES
    until(made, 1)
    assert made.now == 0
    assert made.of(0, "aggregate")[0]["models"] == 3


def test_when_nobody_answers_the_round_is_tried_again_with_another_draw() -> None:
    made = rig(9, initial=some(9), train=lambda *a: a[1].copy(), options={"fraction": 0.25})
    drawn: list[int] = []

    def fates(_: int, target: int, message: PeerMessage) -> Fate:
        if message.kind == "global" and message.round == 0:
            drawn.append(target)
            return Fate.LOST if len(drawn) <= 4 else Fate.ARRIVES
        return Fate.ARRIVES

    made.fates = fates
    until(made, 1)
    assert made.now == 60 * SECOND
    (aggregate,) = made.of(0, "aggregate")
    assert (aggregate["models"], aggregate["tries"]) == (2, 3)
    assert len({frozenset(drawn[k : k + 2]) for k in (0, 2, 4)}) > 1
    retries = made.of(0, "retry")
    assert [(r["round"], r["tries"], r["silent"]) for r in retries] == [(0, 1, 2), (0, 2, 2)]


def test_a_round_trip_longer_than_the_deadline_slows_rounds_and_stops_none() -> None:
    """Each update comes after the server has tried again, as through a hub that is too slow."""
    made = rig()
    w = made.initial[0].astype(np.float64)
    under_way: list[Any] = []
    while made.round(0) < 4:
        for pending in [p for p in made.pool if p.send is not None and p.sender != 0]:
            made.pool.remove(pending)
            under_way.append(pending)
        if made.pool:
            made.step()
            continue
        arrived, under_way = under_way, []
        assert made.step()  # the deadline
        for pending in arrived:
            made.feed(0, pending.event)
        assert made.now < 20 * 30 * SECOND, f"stuck in round {made.round(0)}"
    for _ in range(4):
        trained = [w - TASK.rate * (w - TASK.centres[i]) for i in range(1, 5)]
        w = np.mean(trained, axis=0)
    assert np.allclose(made.models[0], w, atol=1e-5)
    assert [a["models"] for a in made.of(0, "aggregate")] == [4] * 4
    assert [r["round"] for r in made.of(0, "retry")] == [0, 1, 2, 3]


def test_a_client_that_is_asked_again_goes_on_with_what_it_trains() -> None:
    jobs: list[int] = []

    def train(node: int, parameters: Vector, steps: int) -> Vector:
        jobs.append(node)
        return TASK(node, parameters, steps)

    made = rig(2, near=[[1], [0]], initial=some(2), train=train)
    while not jobs:
        made.step()
    (training,) = [p for p in made.pool if p.send is None and isinstance(p.event, Trained)]
    made.pool.clear()
    for tries in (1, 2, 3):
        made.step()  # the deadline
        made.deliver()
        assert made.of(0, "retry")[-1]["tries"] == tries
    made.pool.append(training)
    until(made, 1)
    assert jobs == [1]
    (aggregate,) = made.of(0, "aggregate")
    assert (aggregate["models"], aggregate["tries"], aggregate["late"]) == (1, 4, 0)


def test_when_the_only_client_that_was_drawn_dies_another_is_drawn_at_once() -> None:
    made = rig(9, initial=some(9), train=lambda *a: a[1].copy(), options={"fraction": 0.1})
    (first,) = [p.node for p in made.pool if p.send is not None and p.send.message.part is not None]
    made.kill(first)
    until(made, 1)
    assert made.now == 0
    assert made.of(0, "retry") == [{"round": 0, "tries": 1, "silent": 0}]
    (aggregate,) = made.of(0, "aggregate")
    assert (aggregate["models"], aggregate["tries"]) == (1, 2)


def test_where_nothing_can_be_sent_to_anybody_it_tries_each_once_a_deadline() -> None:
    made = rig(5, options={"fraction": 0.25})
    made.fates = lambda s, _, m: Fate.FAILS if s == 0 and m.part is not None else Fate.ARRIVES
    made.drain()
    assert made.now == 0
    tried = [t for _, t, m in made.sends if m.kind == "global"]
    assert sorted(tried) == [1, 2, 3, 4]
    made.fates = always
    until(made, 1)
    assert made.now == 30 * SECOND
    assert made.of(0, "aggregate")[0]["models"] == 1


def test_what_comes_too_late_is_dropped_and_counted() -> None:
    made = rig()
    held: list[PeerMessage] = []

    def fates(sender: int, _: int, message: PeerMessage) -> Fate:
        if sender == 2 and message.round == 0:
            held.append(message)
            return Fate.LOST
        return Fate.ARRIVES

    made.fates = fates
    until(made, 1)
    before = made.models[0]
    made.feed(0, Received(sender=name(2), message=held[0]))
    assert np.array_equal(made.models[0], before)
    until(made, 2)
    assert made.of(0, "aggregate")[1]["late"] == 1


def test_a_slow_client_drops_its_result_when_a_newer_model_has_come() -> None:
    """It trains from the newest; the server has given the old round up for it."""
    made = rig()
    slow: list[Any] = []
    while made.round(0) < 3:
        for pending in [p for p in made.pool if p.node == 1 and p.send is None]:
            made.pool.remove(pending)
            slow.append(pending)
        assert made.step()
    assert made.of(0, "aggregate")[0]["silent"] == 1
    made.pool.extend(slow)
    until(made, 4)
    assert made.of(0, "aggregate")[3]["models"] == 4
    updates = [m.round for s, _, m in made.sends if s == 1 and m.kind == "update"]
    assert updates == [3]


# --- who is the server


def overlay(near: list[list[int]]) -> dict[NodeId, tuple[NodeId, ...]]:
    return {name(i): tuple(name(j) for j in others) for i, others in enumerate(near)}


@pytest.mark.parametrize("hub", [0, 3])
def test_the_server_is_the_hub(hub: int) -> None:
    near = [[j for j in range(5) if j != i] if i == hub else [hub] for i in range(5)]
    made = rig(near=near)
    until(made, 2, server=hub)
    assert {s for s, _, m in made.sends if m.kind == "global"} == {hub}


def test_of_two_the_first_is_the_server_and_an_option_may_name_another() -> None:
    for options, server in (({}, 0), ({"server": name(1)}, 1)):
        made = rig(2, near=[[1], [0]], initial=some(2), options=options)
        until(made, 2, server=server)
        assert {s for s, _, m in made.sends if m.kind == "global"} == {server}


def test_with_a_named_server_clients_may_be_neighbours_of_each_other() -> None:
    made = rig(near=complete(5), options={"server": name(2)})
    until(made, 3, server=2)
    assert {frozenset((s, t)) & {2} for s, t, _ in made.sends} == {frozenset({2})}


@pytest.mark.parametrize(
    ("near", "options", "text"),
    [
        (ring(5), {}, "needs `overlay: star`, or the option `server`"),
        (complete(5), {}, "needs `overlay: star`, or the option `server`"),
        (ring(5), {"server": "n-000"}, "server n-000 has no edge to n-002"),
        (star(5), {"server": "nobody"}, "server 'nobody' is no node"),
    ],
)
def test_an_overlay_without_a_server_for_all_is_refused(
    near: list[list[int]], options: dict[str, str], text: str
) -> None:
    kind = algorithms.find("fedavg")
    with pytest.raises(ValueError, match=text):
        kind.check_overlay(kind.Config(**options), overlay(near))
    kind.check_overlay(kind.Config(), overlay(star(5)))
    kind.check_overlay(kind.Config(server="n-001"), overlay(complete(5)))


# --- messages and options


WHOLE = Part(where=Whole(), values=np.zeros(SIZE, dtype=np.float32))
SHARD = Part(where=Span(0, 2), values=np.zeros(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("to", "sender", "message", "reason"),
    [
        (0, 1, PeerMessage(kind="global", round=0, part=WHOLE), "not what a cl"),
        (0, 1, PeerMessage(kind="hello", round=0, part=WHOLE), "not what a client says"),
        (0, 1, PeerMessage(kind="update", round=0, part=WHOLE), "None samples"),
        (
            0,
            1,
            PeerMessage(kind="update", round=0, part=WHOLE, fields={"samples": 0}),
            "0 samples",
        ),
        (
            0,
            1,
            PeerMessage(kind="update", round=0, part=SHARD, fields={"samples": 1}),
            "not a whole model",
        ),
        (1, 0, PeerMessage(kind="global", round=0), "not a whole model"),
        (1, 0, PeerMessage(kind="update", round=0, part=WHOLE), "not what the"),
    ],
)
def test_what_is_no_message_of_fedavg_is_refused(
    to: int, sender: int, message: PeerMessage, reason: str
) -> None:
    made = rig()
    made.feed(to, Received(sender=name(sender), message=message))
    (refused,) = made.of(to, "refused")
    assert reason in refused["reason"]


def test_epochs_are_passes_over_the_client_s_own_samples() -> None:
    steps: dict[int, set[int]] = {}

    def train(node: int, parameters: Vector, count: int) -> Vector:
        steps.setdefault(node, set()).add(count)
        return parameters.copy()

    made = rig(samples=[1, 10, 20, 33, 40], train=train, options={"epochs": 2}, batch_size=10)
    until(made, 2)
    assert steps == {1: {2}, 2: {4}, 3: {7}, 4: {8}}


@pytest.mark.parametrize(
    "options", [{"fraction": 0}, {"epochs": -1.0}, {"deadline": "soon"}, {"deadline": "0s"}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        algorithms.make("fedavg", options)
