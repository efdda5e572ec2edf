"""D-PSGD against its definition, and the maths of its averaging."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.averaging import metropolis_weights, weighted_mix
from node.config import Mode, StopConfig
from node.core.effects import Effect, Record, Send, Train
from node.core.events import (
    ModelAdopted,
    Received,
    ShareOpened,
    ShareSkipped,
    Started,
    TimerFired,
    Trained,
)
from node.core.exchange import DEADLINE
from node.core.ids import NodeId
from node.core.messages import PeerMessage, Scalar
from node.core.parts import IndexSet, Layout, Part, Span, Vector, Whole
from node.core.peer import Peer, PeerSetting
from node.errors import ConfigError
from node.units import SECOND

SIZE = 6
LAYOUT = Layout.of({"w": (SIZE,)})


Graph = tuple[int, set[frozenset[int]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph of 2 to 9 nodes with any edges, connected or not."""
    count = draw(st.integers(2, 9))
    pairs = [frozenset((i, j)) for i in range(count) for j in range(i)]
    return count, set(draw(st.lists(st.sampled_from(pairs), max_size=len(pairs))))


def neighbours(count: int, edges: set[frozenset[int]]) -> list[list[int]]:
    return [[j for j in range(count) if frozenset((i, j)) in edges] for i in range(count)]


def names(numbers: list[int]) -> tuple[NodeId, ...]:
    return tuple(NodeId(f"n-{i}") for i in numbers)


@given(graphs())
def test_weights_are_symmetric_and_doubly_stochastic(
    graph: tuple[int, set[frozenset[int]]],
) -> None:
    count, _ = graph
    near = neighbours(*graph)
    matrix = np.zeros((count, count))
    for i in range(count):
        degrees = {NodeId(str(j)): len(near[j]) for j in near[i]}
        for peer, weight in metropolis_weights(len(near[i]), degrees).items():
            matrix[i, int(peer)] = weight
        matrix[i, i] = 1 - matrix[i].sum()
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(matrix.sum(axis=0), 1)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert matrix.min() >= 0
    assert matrix.diagonal().min() > 0  # so that it mixes on every connected graph


@given(st.lists(st.floats(0, 0.2), max_size=5), st.integers(0, 2**32 - 1))
def test_a_mix_is_the_weighted_sum(weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=SIZE).astype(np.float32)
    models = [rng.normal(size=SIZE).astype(np.float32) for _ in weights]
    expected = (1 - sum(weights)) * own.astype(np.float64)
    for weight, model in zip(weights, models, strict=True):
        expected += weight * model
    mixed = weighted_mix(own, zip(weights, models, strict=True))
    assert mixed.dtype == np.float32
    assert np.allclose(mixed, expected, atol=1e-6)


@dataclass
class Net:
    """Machines in lockstep: all train, all share, by hand."""

    near: list[list[int]]
    peers: list[Peer] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.near)
        everybody = names(list(range(count)))
        for i in range(count):
            setting = PeerSetting(
                me=everybody[i],
                peers=tuple(name for name in everybody if name != everybody[i]),
                members=count,
                seed=3,
                layout=LAYOUT,
                stop=StopConfig(time_ns=100 * SECOND),
                mode=Mode.SYNC,
            )
            algorithm = algorithms.make("dpsgd", {"local_steps": 2})
            initial = np.zeros(SIZE, dtype=np.float32)
            self.peers.append(Peer(setting=setting, algorithm=algorithm, initial=initial))
            self.jobs.append(_job(self.peers[i].step(Started(), now=0)))

    def train(self, i: int, model: Vector) -> list[Effect]:
        event = Trained(job=self.jobs[i], parameters=model, loss=1.0, steps=2)
        return self.peers[i].step(event, now=1)

    def round(self, models: list[Vector]) -> None:
        """One round of all; the messages go back to front."""
        round_ = self.peers[0].round
        sent: list[tuple[int, Send]] = []
        for i, model in enumerate(models):
            self.train(i, model)
            opened = ShareOpened(round=round_, attempt=1, peers=names(self.near[i]))
            effects = self.peers[i].step(opened, now=2)
            sent += [(i, effect) for effect in effects if isinstance(effect, Send)]
            self._take(i, effects)
        for i, send in reversed(sent):
            to = int(send.target.removeprefix("n-"))
            event = Received(sender=NodeId(f"n-{i}"), message=send.message)
            self._take(to, self.peers[to].step(event, now=3))

    def _take(self, i: int, effects: list[Effect]) -> None:
        if any(isinstance(effect, Train) for effect in effects):
            self.jobs[i] = _job(effects)


def _job(effects: list[Effect]) -> int:
    (job,) = [effect.job for effect in effects if isinstance(effect, Train)]
    return job


@given(graphs(), st.integers(0, 2**32 - 1))
def test_a_round_keeps_the_mean_over_all_nodes(graph: Graph, seed: int) -> None:
    net = Net(neighbours(*graph))
    rng = np.random.default_rng(seed)
    models = [rng.normal(size=SIZE).astype(np.float32) for _ in net.peers]
    before = np.mean(models, axis=0)
    net.round(models)
    assert all(peer.round == 1 for peer in net.peers)
    after = np.mean([peer.parameters for peer in net.peers], axis=0)
    assert np.allclose(before, after, atol=1e-5)


def test_rounds_without_training_bring_all_to_the_mean() -> None:
    ring = Net([[(i - 1) % 6, (i + 1) % 6] for i in range(6)])
    models = [np.full(SIZE, i, dtype=np.float32) for i in range(6)]
    for _ in range(60):
        ring.round(models)
        models = [peer.parameters for peer in ring.peers]
    assert np.allclose(models, 2.5, atol=1e-3)


def test_a_star_mixes_by_the_larger_degree() -> None:
    star = Net([[1, 2, 3], [0], [0], [0]])
    star.round([np.full(SIZE, value, dtype=np.float32) for value in (0, 4, 8, 12)])
    # Every edge has the weight 1 / (1 + 3): the hub keeps a quarter of itself.
    assert [float(peer.parameters[0]) for peer in star.peers] == [6.0, 3.0, 6.0, 9.0]


# --- one node


ME, A, B = NodeId("n-0"), NodeId("n-1"), NodeId("n-2")


def one() -> Net:
    return Net([[1, 2], [0], [0]])


def model(value: float, *, where: IndexSet | None = None, **fields: Scalar) -> PeerMessage:
    size = SIZE if where is None else where.stop - where.start  # type: ignore[union-attr]
    part = Part(where=where or Whole(), values=np.full(size, value, dtype=np.float32))
    return PeerMessage(kind="model", round=0, attempt=1, part=part, fields=fields or {"degree": 1})


def share(net: Net, *messages: tuple[NodeId, PeerMessage]) -> list[Effect]:
    """A round of node 0, which trained to 9 and shares with two peers, to the deadline."""
    net.train(0, np.full(SIZE, 9, dtype=np.float32))
    peer = net.peers[0]
    peer.step(ShareOpened(round=0, attempt=1, peers=(A, B)), now=2)
    effects: list[Effect] = []
    for sender, message in messages:
        effects += peer.step(Received(sender=sender, message=message), now=3)
    if peer.round == 0:
        effects += peer.step(TimerFired(key=DEADLINE), now=4)
    return effects


def test_the_weight_of_a_missing_peer_goes_to_the_own_model() -> None:
    net = one()
    share(net, (A, model(0.0)))
    # Own degree 2, so each edge weighs 1/3: a third of A, the rest of the own model.
    assert net.peers[0].parameters.tolist() == [6.0] * SIZE


def test_a_skipped_round_keeps_what_was_trained() -> None:
    net = one()
    net.train(0, np.full(SIZE, 9, dtype=np.float32))
    effects = net.peers[0].step(ShareSkipped(round=0), now=2)
    assert net.peers[0].parameters.tolist() == [9.0] * SIZE
    assert net.peers[0].round == 1
    assert [effect.steps for effect in effects if isinstance(effect, Train)] == [2]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (model(0.0, degree=0), "degree 0 among 3 members"),
        (model(0.0, degree=3), "degree 3 among 3 members"),
        (model(0.0, degree="2"), "degree '2'"),
        (model(0.0, other=1), "degree None"),
        (model(0.0, where=Span(0, SIZE)), "not a whole model"),
        (PeerMessage(kind="model", round=0, attempt=1, fields={"degree": 1}), "not a whole model"),
    ],
)
def test_what_is_no_model_of_this_round_is_refused_and_its_weight_kept(
    message: PeerMessage, reason: str
) -> None:
    net = one()
    effects = share(net, (A, message), (B, model(9.0)))
    assert net.peers[0].parameters.tolist() == [9.0] * SIZE
    refused = [e for e in effects if isinstance(e, Record) and e.kind == "refused"]
    assert [reason in str(record.fields["reason"]) for record in refused] == [True]


def test_the_message_is_the_trained_model_with_this_round_s_degree() -> None:
    net = one()
    net.train(0, np.full(SIZE, 9, dtype=np.float32))
    effects = net.peers[0].step(ShareOpened(round=0, attempt=4, peers=(A, B)), now=2)
    sent = [effect for effect in effects if isinstance(effect, Send)]
    assert [(s.target, s.message.fields, s.message.attempt) for s in sent] == [
        (A, {"degree": 2}, 4),
        (B, {"degree": 2}, 4),
    ]
    assert sent[0].message.part.values.tolist() == [9.0] * SIZE


def test_between_two_averages_the_node_s_model_is_the_last_average() -> None:
    net = one()
    net.train(0, np.full(SIZE, 9, dtype=np.float32))
    assert not net.peers[0].parameters.any()
    held, snapshot = net.peers[0].aggregated
    assert held == 0
    assert not snapshot.any()


def test_an_adopted_model_is_trained_from() -> None:
    net = one()
    net.train(0, np.full(SIZE, 9, dtype=np.float32))
    adopted = ModelAdopted(round=8, parameters=np.full(SIZE, 5, dtype=np.float32))
    (train,) = [e for e in net.peers[0].step(adopted, now=2) if isinstance(e, Train)]
    assert train.parameters.tolist() == [5.0] * SIZE
    assert net.peers[0].round == 8


def test_it_runs_in_synchronous_rounds_only_and_divshare_in_none() -> None:
    assert algorithms.find("dpsgd").MODES == (Mode.SYNC,)
    assert algorithms.find("divshare").MODES == (Mode.ASYNC,)


def test_a_round_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="local_steps must be at least 1"):
        algorithms.make("dpsgd", {"local_steps": 0})
