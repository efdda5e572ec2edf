"""The machine around an algorithm: what it lets through, when it evaluates, how it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from node.config import StopConfig
from node.core.algorithm import Algorithm, Context
from node.core.effects import Effect, Evaluate, Finish, Record, Send, SetTimer, Train
from node.core.events import (
    Evaluated,
    Failed,
    ModelAdopted,
    PeerChange,
    PeerChanged,
    Received,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Part, Span, Vector, Whole
from node.core.peer import Peer, PeerSetting, Phase
from node.core.signals import Stop
from node.units import SECOND

ME, OTHER = NodeId("me"), NodeId("other")
LAYOUT = Layout.of({"w": (4,)})


class Probe(Algorithm):
    """Trains for ever and writes down what it hears."""

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.heard: list[str] = []

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=1)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.set_parameters(parameters)
        ctx.end_round()
        ctx.train(steps=1)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        self.heard.append(message.kind)


class Answerer(Probe):
    """Adds to its model after a round has ended, and answers whoever comes too late."""

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.set_parameters(parameters)
        ctx.end_round()
        ctx.set_parameters(parameters + np.float32(100))
        ctx.train(steps=1)

    def on_late_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        ctx.send(sender, PeerMessage(kind="late", round=ctx.round), key="late")

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        self.heard.append(f"{change.value}: {', '.join(ctx.reached)}")


def make(
    *, rounds: int | None = 3, evaluate_every: int = 1, probe: type[Probe] = Probe
) -> tuple[Peer, Probe]:
    algorithm = probe()
    setting = PeerSetting(
        me=ME,
        peers=(OTHER,),
        members=2,
        seed=1,
        layout=LAYOUT,
        stop=StopConfig(time_ns=10 * SECOND, rounds=rounds),
        evaluate_every=evaluate_every,
    )
    initial = np.zeros(4, dtype=np.float32)
    return Peer(setting=setting, algorithm=algorithm, initial=initial), algorithm


def only(effects: list[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def trained(job: int) -> Trained:
    return Trained(job=job, parameters=np.full(4, job, dtype=np.float32), loss=0.5, steps=1)


def message(values: list[float], where: Whole | Span = Whole()) -> Received:  # noqa: B008
    part = Part(where=where, values=np.array(values, dtype=np.float32))
    return Received(sender=OTHER, message=PeerMessage(kind="model", round=0, part=part))


def test_the_run_ends_after_the_rounds_with_the_last_model_evaluated() -> None:
    peer, _ = make(rounds=3)
    effects = peer.step(Started(), now=0)
    assert [e.round for e in only(effects, Evaluate)] == [0]
    for job in (1, 2, 3):
        effects = peer.step(trained(job), now=job)
        assert [e.round for e in only(effects, Evaluate)] == [job]
        assert bool(only(effects, Train)) is (job < 3)
    for round_ in (0, 1, 2):
        assert not only(peer.step(Evaluated(round=round_, accuracy=0.1, loss=1), now=9), Finish)
    (finish,) = only(peer.step(Evaluated(round=3, accuracy=0.9, loss=1), now=9), Finish)
    assert finish.reason == "rounds"
    assert finish.parameters.tolist() == [3.0] * 4
    assert peer.phase is Phase.FINISHED


def test_evaluation_every_few_rounds_and_always_at_the_end() -> None:
    peer, _ = make(rounds=5, evaluate_every=2)
    asked = [e.round for e in only(peer.step(Started(), now=0), Evaluate)]
    for job in range(1, 6):
        asked += [e.round for e in only(peer.step(trained(job), now=job), Evaluate)]
    assert asked == [0, 2, 4, 5]


def test_the_time_limit_ends_the_run_and_late_training_changes_nothing() -> None:
    peer, _ = make(rounds=None)
    (timer,) = only(peer.step(Started(), now=0), SetTimer)
    assert timer.at == 10 * SECOND
    peer.step(Evaluated(round=0, accuracy=0.1, loss=1), now=1)
    (finish,) = only(peer.step(TimerFired(key=timer.key), now=timer.at), Finish)
    assert finish.reason == "time"
    assert peer.step(trained(1), now=timer.at + 1) == []
    assert not peer.parameters.any()


def test_messages_before_the_start_are_kept_for_it() -> None:
    peer, algorithm = make()
    peer.step(message([1, 2, 3, 4]), now=-5)
    assert algorithm.heard == []
    peer.step(Started(), now=0)
    assert algorithm.heard == ["model"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (message([1, 2, 3]), "3 values for 4 indices"),
        (message([1, 2], Span(3, 5)), "span 3:5"),
        (message([1, 2, float("nan"), 4]), "not finite"),
        (message([1, 2, float("inf"), 4]), "not finite"),
        (Received(sender=OTHER, message=Stop(reason="because")), "a Stop from a peer"),
    ],
)
def test_what_does_not_fit_is_refused_and_recorded(event: Received, reason: str) -> None:
    peer, algorithm = make()
    peer.step(Started(), now=0)
    (record,) = only(peer.step(event, now=1), Record)
    assert record.kind == "refused"
    assert reason in str(record.fields["reason"])
    assert algorithm.heard == []


def test_a_finished_peer_keeps_its_model() -> None:
    peer, algorithm = make()
    peer.step(Started(), now=0)
    peer.step(StopRequested(reason="accuracy"), now=1)
    (finish,) = only(peer.step(Evaluated(round=0, accuracy=1, loss=0), now=2), Finish)
    assert finish.reason == "accuracy"
    assert peer.step(message([1, 2, 3, 4]), now=3) == []
    assert algorithm.heard == []


def test_a_model_is_evaluated_and_stored_as_it_was_when_the_round_ended() -> None:
    peer, _ = make(rounds=2, probe=Answerer)
    peer.step(Started(), now=0)
    (evaluate,) = only(peer.step(trained(1), now=1), Evaluate)
    assert evaluate.parameters.tolist() == [1.0] * 4
    assert peer.parameters.tolist() == [101.0] * 4  # what the next job began with
    (evaluate,) = only(peer.step(trained(2), now=2), Evaluate)
    assert evaluate.parameters.tolist() == peer.parameters.tolist() == [2.0] * 4
    (finish,) = only(peer.step(Evaluated(round=2, accuracy=1, loss=0), now=3), Finish)
    assert finish.parameters.tolist() == [2.0] * 4


def test_one_that_has_ended_may_answer_what_comes_too_late() -> None:
    peer, algorithm = make(rounds=1, probe=Answerer)
    peer.step(Started(), now=0)
    peer.step(trained(1), now=1)
    for _ in range(2):  # finishing, finished
        (send,) = peer.step(message([1, 2, 3, 4]), now=2)
        assert isinstance(send, Send)
        assert (send.target, send.message.kind) == (OTHER, "late")
        (refused,) = peer.step(message([1, 2, 3]), now=2)
        assert isinstance(refused, Record)
        peer.step(Evaluated(round=1, accuracy=1, loss=0), now=3)
    assert peer.phase is Phase.FINISHED
    assert algorithm.heard == []
    assert peer.parameters.tolist() == [1.0] * 4


def test_an_algorithm_sees_which_neighbours_are_in_reach() -> None:
    peer, algorithm = make(probe=Answerer)
    peer.step(PeerChanged(peer=OTHER, change=PeerChange.LOST), now=-1)
    peer.step(PeerChanged(peer=OTHER, change=PeerChange.CONNECTED), now=-1)
    peer.step(Started(), now=0)
    peer.step(PeerChanged(peer=OTHER, change=PeerChange.LOST), now=1)
    peer.step(PeerChanged(peer=OTHER, change=PeerChange.CONNECTED), now=2)
    assert algorithm.heard == ["lost: ", "connected: other"] * 2


def test_a_failure_ends_at_once_with_its_reason_and_the_model_so_far() -> None:
    peer, _ = make()
    peer.step(Started(), now=0)
    _, finish = peer.step(Failed(reason="trainer died"), now=1)
    assert isinstance(finish, Finish)
    assert finish.error == "trainer died"
    assert finish.parameters is not None


def test_a_stop_before_the_start_finishes() -> None:
    peer, _ = make()
    (finish,) = only(peer.step(StopRequested(reason="failed"), now=0), Finish)
    assert finish.reason == "failed"


def test_what_newcomers_get_is_the_model_of_the_last_round_ended() -> None:
    peer, _ = make()
    held, model = peer.aggregated
    assert (held, model.tolist()) == (0, [0.0] * 4)  # the initial model
    peer.step(Started(), now=0)
    peer.step(trained(1), now=1)
    held, model = peer.aggregated
    assert (held, model.tolist()) == (1, [1.0] * 4)
    peer.step(StopRequested(reason="time"), now=2)
    assert peer.aggregated[0] == 1  # one that has ended gives it still


def test_a_latecomer_goes_on_from_the_model_and_the_rounds_behind_it() -> None:
    peer, algorithm = make(rounds=6)
    peer.step(message([1, 2, 3, 4]), now=-5)
    adopted = ModelAdopted(round=4, parameters=np.full(4, 8, dtype=np.float32))
    assert peer.step(adopted, now=-4) == []
    effects = peer.step(Started(), now=0)
    assert [e.round for e in only(effects, Evaluate)] == [4]
    (train,) = only(effects, Train)
    assert train.parameters.tolist() == [8.0] * 4
    assert algorithm.heard == ["model"]
    peer.step(trained(1), now=1)
    assert peer.aggregated[0] == 5
    effects = peer.step(trained(2), now=2)
    assert not only(effects, Train)  # the sixth round was the last


def test_a_model_that_does_not_fit_is_not_adopted() -> None:
    peer, _ = make()
    with pytest.raises(ValueError, match="does not fit the layout"):
        peer.step(ModelAdopted(round=4, parameters=np.zeros(3, dtype=np.float32)), now=0)


def test_a_handler_cannot_change_what_others_see() -> None:
    peer, _ = make()
    with pytest.raises(ValueError, match="read-only"):
        peer.parameters[0] = 1
