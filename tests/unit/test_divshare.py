"""DivShare against its definition (algorithms of the paper and the artifact)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import algorithms
from node.algorithms.averaging import counted_mean
from node.config import StopConfig
from node.core.effects import DropQueued, Effect, Record, Send, Train
from node.core.events import PeerChange, PeerChanged, Received, Started, Trained
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Layout, Vector, resolve, take
from node.core.peer import Peer, PeerSetting
from node.core.rng import derive_seed
from node.errors import ConfigError
from node.units import SECOND

LAYOUT = Layout.of({"w": (7, 11), "b": (13,)})
NAMES = tuple(NodeId(f"n-{i}") for i in range(9))
SEED = derive_seed(5, "fragments")


def peer(me: int = 0, **options: object) -> Peer:
    setting = PeerSetting(
        me=NAMES[me],
        peers=tuple(name for name in NAMES if name != NAMES[me]),
        members=len(NAMES),
        seed=5,
        layout=LAYOUT,
        stop=StopConfig(time_ns=60 * SECOND),
    )
    algorithm = algorithms.make("divshare", {"omega": 0.2, "degree": 3, **options})
    return Peer(setting=setting, algorithm=algorithm, initial=np.zeros(90, dtype=np.float32))


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def train(machine: Peer, model: Vector, job: int) -> list[Effect]:
    return machine.step(Trained(job=job, parameters=model, loss=1.0, steps=8), now=job)


def fragment(sender: int, number: int, round_: int, value: float) -> Received:
    where = Fragment(number, 5, SEED)
    model = np.full(90, value, dtype=np.float32)
    message = PeerMessage(kind="fragment", round=round_, part=take(model, where, LAYOUT))
    return Received(sender=NAMES[sender], message=message)


def test_a_round_sends_each_fragment_to_degree_distinct_peers() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    model = np.arange(90, dtype=np.float32)
    sent = sends(train(machine, model, 1))
    assert len(sent) == 5 * 3
    recipients = Counter((effect.message.part.where.number, effect.target) for effect in sent)
    assert set(recipients.values()) == {1}
    # J * S bytes a round, as for J whole models (algorithms' notes, section 1).
    assert sum(effect.message.model_bytes for effect in sent) == 3 * 90 * 4
    for effect in sent:
        part = effect.message.part
        assert part.values.tolist() == model[resolve(part.where, LAYOUT)].tolist()


def test_recipients_and_order_are_drawn_anew_each_round_and_from_the_seed() -> None:
    def orders() -> list[list[tuple[str, int]]]:
        machine = peer()
        machine.step(Started(), now=0)
        rounds = [sends(train(machine, np.ones(90, np.float32), job)) for job in (1, 2)]
        return [[(s.target, s.message.part.where.number) for s in sent] for sent in rounds]

    first, again = orders(), orders()
    assert first == again
    assert first[0] != first[1]


def test_what_is_sent_is_the_trained_model_before_aggregation() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    machine.step(fragment(1, 0, 0, 100.0), now=1)
    effects = train(machine, np.zeros(90, np.float32), 1)
    assert all(not effect.message.part.values.any() for effect in sends(effects))
    covered = resolve(Fragment(0, 5, SEED), LAYOUT)
    expected = np.zeros(90)
    expected[covered] = 50.0
    assert machine.parameters.tolist() == expected.tolist()


def test_the_old_round_is_cancelled_before_the_new_one_is_queued() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    effects = train(machine, np.zeros(90, np.float32), 1)
    kinds = [type(effect) for effect in effects if isinstance(effect, DropQueued | Send | Train)]
    assert kinds == [DropQueued] + [Send] * 15 + [Train]


def test_a_newer_fragment_replaces_and_an_older_one_does_not() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    machine.step(fragment(1, 2, 4, 10.0), now=1)
    machine.step(fragment(1, 2, 6, 30.0), now=2)
    machine.step(fragment(1, 2, 5, 20.0), now=3)
    effects = train(machine, np.zeros(90, np.float32), 1)
    covered = resolve(Fragment(2, 5, SEED), LAYOUT)
    assert set(machine.parameters[covered].tolist()) == {15.0}
    (record,) = (e for e in effects if isinstance(e, Record) and e.kind == "aggregate")
    assert (record.fields["fragments"], record.fields["replaced"], record.fields["stale"]) == (
        1,
        1,
        1,
    )
    # A repeat of what was already consumed is stale too.
    machine.step(fragment(1, 2, 6, 99.0), now=4)
    train(machine, np.zeros(90, np.float32), 2)
    assert not machine.parameters.any()


def test_a_lost_peer_gets_nothing_until_it_is_back() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    gone = NAMES[3]
    machine.step(PeerChanged(peer=gone, change=PeerChange.LOST), now=1)
    for job in range(1, 6):
        assert gone not in {e.target for e in sends(train(machine, np.ones(90, np.float32), job))}
    machine.step(PeerChanged(peer=gone, change=PeerChange.CONNECTED), now=2)
    later = [
        e.target for j in range(6, 12) for e in sends(train(machine, np.ones(90, np.float32), j))
    ]
    assert gone in later


def test_the_fragments_of_a_peer_that_was_started_again_are_new() -> None:
    machine = peer()
    machine.step(Started(), now=0)
    machine.step(fragment(1, 2, 40, 10.0), now=1)
    train(machine, np.zeros(90, np.float32), 1)
    machine.step(PeerChanged(peer=NAMES[1], change=PeerChange.LOST), now=2)
    machine.step(PeerChanged(peer=NAMES[1], change=PeerChange.CONNECTED), now=3)
    machine.step(fragment(1, 2, 7, 30.0), now=4)
    effects = train(machine, np.zeros(90, np.float32), 2)
    (aggregate,) = [e for e in effects if isinstance(e, Record) and e.kind == "aggregate"]
    assert (aggregate.fields["fragments"], aggregate.fields["stale"]) == (1, 0)


def test_the_default_degree_is_the_paper_s() -> None:
    machine = peer(degree=None)
    machine.step(Started(), now=0)
    assert len(sends(train(machine, np.ones(90, np.float32), 1))) == 5 * 4  # ceil(log2 9)


@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 29), st.floats(-10, 10, width=32)), max_size=20),
)
def test_counted_mean_is_the_mean_of_what_covers_a_parameter(
    size: int, single: list[tuple[int, float]]
) -> None:
    own = np.linspace(-1, 1, size, dtype=np.float32)
    parts = [(np.array([i % size]), np.array([value], dtype=np.float32)) for i, value in single]
    result = counted_mean(own, parts)
    for p in range(size):
        values = [float(own[p])] + [value for i, value in single if i % size == p]
        assert result[p] == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert result.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omgea": 0.1}, "did you mean 'omega'"),
        ({"omega": "much"}, "expected float"),
        ({"omega": 0.0}, "omega must be above 0"),
        ({"degree": 0}, "degree must be at least 1"),
        ({"local_steps": True}, "expected int"),
        ({"permutation": "never"}, "fixed, per_round, per_node_round"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithms.make("divshare", options)


def test_an_unknown_algorithm_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'devshare'; did you mean 'divshare'"):
        algorithms.find("devshare")
