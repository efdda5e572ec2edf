"""The pool of worker processes: the same bits whoever does the work, and what it does in need."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from node.config import PartitionConfig, TrainingConfig
from node.core.ids import NodeId
from node.core.parts import Vector
from node.errors import ConfigError, EnvironmentFault, RunFailed
from node.training.client import TrainerDied, TrainingDiverged
from node.training.crew import Job, Worker
from node.training.pool import TrainerPool
from node.training.protocol import Device
from tests.contract.test_trainer import ROOT, config, gone, running

NODES = tuple(NodeId(f"n{number}") for number in range(3))
N0, N1, N2 = NODES
MLP = TrainingConfig(momentum=0.5, learning_rate=0.05)
CNN = TrainingConfig(model="cnn", batch_size=8, partition=PartitionConfig(kind="shards"))

Figures = tuple[list[bytes], list[float]]


def pool(
    training: TrainingConfig = MLP, *, workers: int = 1, silence_s: float = 60.0
) -> TrainerPool:
    return TrainerPool.start(
        training=training,
        seed=1,
        nodes=NODES,
        workers=workers,
        device=Device.CPU,
        silence_s=silence_s,
    )


@pytest.fixture(scope="module")
def shared() -> Iterator[TrainerPool]:
    """One worker; a test begins by `restarted` where it counts on the first batches."""
    with pool() as trainers:
        yield trainers


def trained(trainers: TrainerPool, node: NodeId, *, steps: int = 4) -> Vector:
    ticket = trainers.train(node, steps=steps, parameters=trainers.initial, due=0)
    return trainers.trained(ticket)[0]


def rounds(trainers: TrainerPool, *, due: Callable[[int], int], order: Sequence[NodeId]) -> Figures:
    """Two rounds of all nodes, with an evaluation after each."""
    vectors, figures = [], []
    models = dict.fromkeys(NODES, trainers.initial)
    for steps in (7, 3):
        tickets = {
            node: trainers.train(node, steps=steps, parameters=models[node], due=due(number))
            for number, node in enumerate(order)
        }
        for node in NODES:
            models[node], loss = trainers.trained(tickets[node])
            vectors.append(models[node].tobytes())
            figures.append(loss)
        evaluations = [trainers.evaluate(n, parameters=models[n], due=0) for n in NODES]
        for ticket in reversed(evaluations):
            figures += trainers.evaluated(ticket)
    return vectors, figures


async def really(training: TrainingConfig) -> Figures:
    """The same rounds by the trainer processes of containers."""
    vectors: list[bytes] = []
    figures: list[float] = []
    results = {}
    for node in NODES:
        async with running(config(name=node, training=training)) as trainer:
            parameters = trainer.initial
            for job, steps in ((1, 7), (2, 3)):
                done = await trainer.train(job=job, steps=steps, parameters=parameters)
                parameters = done.parameters
                tested = await trainer.evaluate(round=job, parameters=parameters)
                assert tested is not None
                results[job, node] = done, tested
    for job in (1, 2):
        vectors += [results[job, node][0].parameters.tobytes() for node in NODES]
        figures += [results[job, node][0].loss for node in NODES]
        for node in reversed(NODES):
            figures += [results[job, node][1].accuracy, results[job, node][1].loss]
    return vectors, figures


@pytest.mark.parametrize("training", [MLP, CNN], ids=["mlp", "cnn"])
def test_any_number_of_workers_gives_the_bits_of_the_containers_trainers(
    training: TrainingConfig,
) -> None:
    expected = asyncio.run(really(training))
    for workers, due, order in (
        (1, lambda number: number, NODES),
        (2, lambda number: -number, NODES),
        (3, lambda number: 0, NODES[::-1]),
    ):
        with pool(training, workers=workers) as trainers:
            assert rounds(trainers, due=due, order=order) == expected, f"{workers} workers"


def test_samples_and_labels_are_those_of_the_containers_trainers() -> None:
    async def scenario() -> tuple[int, tuple[int, ...], bytes]:
        async with running(config(name="n1", training=CNN)) as trainer:
            return trainer.samples, trainer.label_counts, trainer.initial.tobytes()

    expected = asyncio.run(scenario())
    with pool(CNN) as trainers:
        mine = trainers.samples(N1), trainers.label_counts(N1), trainers.initial.tobytes()
    assert mine == expected


def test_minibatches_go_on_over_jobs_and_begin_anew_with_a_life(shared: TrainerPool) -> None:
    for node in NODES:
        shared.restarted(node)
    first, second = trained(shared, N0), trained(shared, N0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, trained(shared, N1))
    shared.restarted(N0)
    assert np.array_equal(first, trained(shared, N0))
    assert np.array_equal(second, trained(shared, N0))


def test_a_restored_state_goes_on_where_it_was_without_work_under_way(shared: TrainerPool) -> None:
    for node in NODES:
        shared.restarted(node)
    trained(shared, N0, steps=3)
    trained(shared, N1, steps=5)
    under_way = shared.train(N0, steps=4, parameters=shared.initial, due=0)
    state = shared.state()
    assert state == {"steps": {"n0": 3, "n1": 5}}
    expected = shared.trained(under_way)[0]
    trained(shared, N2)
    shared.restore(state)
    assert np.array_equal(expected, trained(shared, N0))
    assert shared.state() == {"steps": {"n0": 7, "n1": 5}}


def test_what_is_given_up_has_used_its_minibatches(shared: TrainerPool) -> None:
    shared.restarted(N0)
    trained(shared, N0, steps=4)
    expected = trained(shared, N0)
    shared.restarted(N0)
    shared.give_up(shared.train(N0, steps=4, parameters=shared.initial, due=0))
    assert np.array_equal(expected, trained(shared, N0))
    with pytest.raises(KeyError):
        shared.trained(1)


def test_what_the_caller_does_to_its_model_later_does_not_matter(shared: TrainerPool) -> None:
    shared.restarted(N0)
    expected = trained(shared, N0)
    shared.restarted(N0)
    tickets = [
        shared.train(node, steps=4, parameters=shared.initial, due=0) for node in (N1, N2, N1, N2)
    ]
    mine = shared.initial.copy()
    ticket = shared.train(N0, steps=4, parameters=mine, due=0)
    mine[:] = 0
    result = shared.trained(ticket)[0]
    assert np.array_equal(expected, result)
    assert not result.flags.writeable
    for other in tickets:
        shared.give_up(other)


def test_jobs_are_done_in_the_order_in_which_they_are_due(
    shared: TrainerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    give = Worker.give

    def note(self: Worker, jobs: Sequence[Job], *, batch_size: int) -> None:
        given.extend(job.due for job in jobs)
        give(self, jobs, batch_size=batch_size)

    os.kill(shared.pids[0], signal.SIGSTOP)  # so that all but what it is given ahead has to wait
    monkeypatch.setattr(Worker, "give", note)
    dues = [90, 80, 40, 30, 50, 70, 50, 60]
    tickets = [shared.train(N0, steps=1, parameters=shared.initial, due=due) for due in dues]
    ahead = len(given)
    os.kill(shared.pids[0], signal.SIGCONT)
    for ticket in tickets:
        shared.trained(ticket)
    assert ahead < len(dues) - 1
    assert given == dues[:ahead] + sorted(dues[ahead:])


def test_a_job_whose_worker_dies_is_done_again() -> None:
    with pool() as trainers:
        expected = trained(trainers, N0), trained(trainers, N0)
    with pool() as trainers:
        [pid] = trainers.pids
        os.kill(pid, signal.SIGSTOP)
        tickets = [trainers.train(N0, steps=4, parameters=trainers.initial, due=0) for _ in "ab"]
        os.kill(pid, signal.SIGKILL)
        results = [trainers.trained(ticket)[0] for ticket in tickets]
        assert trainers.pids != (pid,)
    assert [result.tobytes() for result in results] == [each.tobytes() for each in expected]


def test_a_job_that_kills_three_workers_is_told_and_the_next_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give, killed = Worker.give, []

    def give_and_kill(self: Worker, jobs: Sequence[Job], *, batch_size: int) -> None:
        give(self, jobs, batch_size=batch_size)
        if any(job.steps == 13 for job in jobs):
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "give", give_and_kill)
    with pool() as trainers:
        ticket = trainers.train(N1, steps=13, parameters=trainers.initial, due=0)
        with pytest.raises(TrainerDied, match="killed by SIGKILL") as caught:
            trainers.trained(ticket)
        assert caught.value.where == "n1, training of 13 steps"
        assert len(set(killed)) == 3
        assert trained(trainers, N0).shape == trainers.initial.shape


def test_a_silent_worker_is_replaced() -> None:
    with pool() as trainers:
        expected = trained(trainers, N0)
    with pool(silence_s=2.0) as trainers:
        [pid] = trainers.pids
        os.kill(pid, signal.SIGSTOP)
        assert np.array_equal(expected, trained(trainers, N0))
        assert gone(pid, within_s=0)


def test_a_defect_of_a_worker_brings_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool() as trainers:
        monkeypatch.setattr("node.training.crew.encode", lambda message: b"nonsense\n")
        ticket = trainers.evaluate(None, parameters=trainers.initial, due=0)
        with pytest.raises(RunFailed, match=r"(?s)exit status 1.*not a line of the trainer"):
            trainers.evaluated(ticket)


def test_training_that_diverges_says_whose_and_the_pool_goes_on() -> None:
    with pool(TrainingConfig(learning_rate=1e9)) as trainers:
        ticket = trainers.train(N2, steps=20, parameters=trainers.initial, due=0)
        with pytest.raises(TrainingDiverged, match="training of 20 steps diverged") as caught:
            trainers.trained(ticket)
        assert caught.value.where == "n2"
        assert caught.value.remedy is not None
        assert "learning_rate" in caught.value.remedy
        hopeless = np.full_like(trainers.initial, np.nan)
        with pytest.raises(TrainingDiverged, match="evaluation diverged") as caught:
            trainers.evaluated(trainers.evaluate(None, parameters=hopeless, due=0))
        assert caught.value.where == "the merged model"
        assert trainers.evaluated(trainers.evaluate(N0, parameters=trainers.initial, due=0))[0] > 0


def test_more_samples_than_there_is_room_for_are_refused(shared: TrainerPool) -> None:
    with pytest.raises(RunFailed, match="the most is"):
        shared.train(N0, steps=2**22, parameters=shared.initial, due=0)


@pytest.mark.parametrize(
    ("training", "says"),
    [
        (TrainingConfig(model="gpt"), "unknown model 'gpt'"),
        (TrainingConfig(dataset="fingers"), "unknown data set 'fingers'"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_the_start(
    training: TrainingConfig, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        pool(training, workers=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_used_and_none_can_be_asked_for() -> None:
    with TrainerPool.start(training=MLP, seed=1, nodes=NODES, workers=2) as trainers:
        assert trainers.device is Device.CPU
        assert len(trainers.pids) == 2
    with pytest.raises(EnvironmentFault, match="no GPU"):
        TrainerPool.start(training=MLP, seed=1, nodes=NODES, device=Device.CUDA)


def test_a_worker_that_is_not_up_in_time_is_told() -> None:
    with pytest.raises(TrainerDied, match=r"silent for 0\.01 s before it was up"):
        TrainerPool.start(training=MLP, seed=1, nodes=NODES, workers=1, deadline_s=0.01)


def test_a_step_is_measured_once(shared: TrainerPool) -> None:
    measured = shared.measured_step_ns()
    assert 1000 < measured < 1_000_000_000
    assert shared.measured_step_ns() == measured


def test_close_ends_all_workers_also_those_at_work() -> None:
    trainers = pool(workers=2)
    pids = trainers.pids
    for node in NODES:
        trainers.train(node, steps=100_000, parameters=trainers.initial, due=0)
    trainers.close()
    assert len(pids) == 2
    assert all(gone(pid, within_s=0) for pid in pids)


def test_workers_end_with_their_owner_also_those_at_work() -> None:
    code = """
import os
from tests.sim.test_pool import NODES, pool
trainers = pool(workers=2)
for node in NODES:
    trainers.train(node, steps=100_000, parameters=trainers.initial, due=0)
print(*trainers.pids, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert all(gone(pid, within_s=5) for pid in pids)


def test_jobs_that_are_trained_together_come_close_to_those_of_a_loop() -> None:
    with pool(CNN) as trainers:
        expected = rounds(trainers, due=lambda number: number, order=NODES)
    together = TrainerPool.start(training=CNN, seed=1, nodes=NODES, device=Device.BATCHED)
    with together as trainers:
        assert len(trainers.pids) == 1
        found = rounds(trainers, due=lambda number: number, order=NODES)
        again = trainers.train(N0, steps=2, parameters=trainers.initial, due=0)
        trainers.give_up(again)
    for one, other in zip(found[0], expected[0], strict=True):
        a, b = (np.frombuffer(each, dtype=np.float32) for each in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-3)
