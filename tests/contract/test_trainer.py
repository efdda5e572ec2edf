"""What every trainer does for the runtime, and what the real one does when things go wrong."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    LinksConfig,
    NodeConfig,
    PartitionConfig,
    StopConfig,
    TrainingConfig,
)
from node.core.ids import NodeId
from node.core.parts import Vector
from node.errors import ConfigError, EnvironmentFault
from node.training import client
from node.training.client import TrainerDied, TrainerProcess, TrainingDiverged
from node.training.protocol import Trainer
from node.training.synthetic import SyntheticTrainer
from node.units import MILLISECOND, SECOND

DEADLINE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


def config(
    *, name: str = "n0", training: TrainingConfig | None = None, **others: Any
) -> NodeConfig:
    """One of three nodes."""
    members = tuple(NodeId(f"n{number}") for number in range(3))
    base = NodeConfig(
        session="test",
        name=NodeId(name),
        index=members.index(NodeId(name)),
        members=members,
        neighbours=tuple(member for member in members if member != name),
        seed=1,
        host="127.0.0.1",
        port=0,
        coordinator_host="127.0.0.1",
        coordinator_port=0,
        links=LinksConfig(),
        algorithm=AlgorithmConfig(name="divshare"),
        training=training or TrainingConfig(),
        compute=ComputeConfig(),
        stop=StopConfig(time_ns=SECOND),
    )
    return replace(base, **others)


@asynccontextmanager
async def running(wanted: NodeConfig, **options: Any) -> AsyncIterator[TrainerProcess]:
    trainer = await TrainerProcess.start(wanted, deadline_s=DEADLINE_S, **options)
    try:
        yield trainer
    finally:
        await trainer.close()


@asynccontextmanager
async def synthetic(wanted: NodeConfig) -> AsyncIterator[SyntheticTrainer]:
    trainer = SyntheticTrainer(wanted)
    yield trainer
    await trainer.close()


def gone(pid: int, *, within_s: float) -> bool:
    """Wait for a process that may not be our child to end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("started", [running, synthetic])
def test_a_trainer_trains_and_evaluates(started: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with started(config()) as trainer:
            checked: Trainer = trainer
            initial = checked.initial
            assert initial.shape == (checked.layout.size,)
            assert not initial.flags.writeable
            assert sum(checked.label_counts) == checked.samples > 0
            before = await checked.evaluate(round=0, parameters=initial)
            first = await checked.train(job=1, steps=50, parameters=initial)
            second = await checked.train(job=2, steps=50, parameters=first.parameters)
            after = await checked.evaluate(round=2, parameters=second.parameters)
            assert before is not None
            assert after is not None
            assert (before.round, after.round) == (0, 2)
            assert (first.job, first.steps, second.job) == (1, 50, 2)
            assert not first.parameters.flags.writeable
            assert second.loss < first.loss
            assert 0 <= before.accuracy < after.accuracy <= 1
            assert after.loss < before.loss

    asyncio.run(scenario())


@pytest.mark.parametrize("started", [running, synthetic])
def test_a_second_job_beside_a_running_one_is_a_defect(started: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with started(config(compute=ComputeConfig(step_ns=20 * MILLISECOND))) as trainer:
            job = asyncio.ensure_future(trainer.train(job=1, steps=5, parameters=trainer.initial))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="while another one runs"):
                await trainer.train(job=2, steps=1, parameters=trainer.initial)
            assert (await job).job == 1

    asyncio.run(scenario())


async def three_jobs(trainer: TrainerProcess, *, evaluating: bool = False) -> Vector:
    """Train 3 x 100 steps, with evaluations all the while if asked for."""
    parameters = trainer.initial
    for job in range(3):
        training = asyncio.ensure_future(trainer.train(job=job, steps=100, parameters=parameters))
        while evaluating and not training.done():
            assert await trainer.evaluate(round=job, parameters=trainer.initial) is not None
        parameters = (await training).parameters
    return parameters


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_same_seed_gives_the_same_bits_with_and_without_evaluation(model: str) -> None:
    async def scenario() -> None:
        wanted = config(training=TrainingConfig(model=model, momentum=0.5, learning_rate=0.05))
        async with running(wanted) as one, running(wanted) as two:
            alone, beside = await asyncio.gather(three_jobs(one), three_jobs(two, evaluating=True))
        assert np.array_equal(alone, beside)
        async with running(replace(wanted, seed=2)) as three:
            assert not np.array_equal(alone, await three_jobs(three))

    asyncio.run(scenario())


def test_nodes_start_from_the_same_model_with_disjoint_samples() -> None:
    async def scenario() -> None:
        training = TrainingConfig(partition=PartitionConfig(kind="dirichlet"))
        async with (
            running(config(name="n0", training=training)) as one,
            running(config(name="n1", training=training)) as two,
            running(config(name="n2", training=training)) as three,
        ):
            assert np.array_equal(one.initial, two.initial)
            assert one.samples + two.samples + three.samples == 1437
            assert one.label_counts != two.label_counts
            results = [
                await trainer.train(job=0, steps=1, parameters=trainer.initial)
                for trainer in (one, two)
            ]
            assert not np.array_equal(results[0].parameters, results[1].parameters)

    asyncio.run(scenario())


def test_a_job_lasts_as_long_as_modelled() -> None:
    async def scenario() -> None:
        compute = ComputeConfig(step_ns=10 * MILLISECOND, speed=0.5)
        async with running(config(compute=compute)) as trainer:
            started = time.monotonic()
            result = await trainer.train(job=0, steps=10, parameters=trainer.initial)
            assert time.monotonic() - started >= 0.2
            assert result.compute_s + result.padded_s == pytest.approx(0.2 + result.late_s)
            assert result.padded_s > 0

    asyncio.run(scenario())


def test_what_came_before_a_job_is_part_of_its_time() -> None:
    """What the node does from one job's end to the next's beginning, such as averaging, is in the
    time that was asked for: rounds take what the file says, as they do in virtual time."""

    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(step_ns=30 * MILLISECOND))) as trainer:
            since = time.monotonic() - 0.02
            for job in range(1, 6):
                result = await trainer.train(
                    job=job, steps=1, parameters=trainer.initial, since=since
                )
                # It may be later only by as much as it tells.
                due = since + 0.03
                assert due - 1e-6 <= result.ended <= due + result.late_s + 1e-6
                since = result.ended
            assert since <= time.monotonic()

    asyncio.run(scenario())


def test_where_no_time_is_asked_for_a_job_begins_when_it_does() -> None:
    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(speed=0.5))) as trainer:
            asked = time.monotonic() - 100
            result = await trainer.train(job=1, steps=10, parameters=trainer.initial, since=asked)
            assert result.padded_s > 0
            assert result.ended > asked + 100

    asyncio.run(scenario())


def test_a_job_that_cannot_keep_to_its_model_says_so() -> None:
    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(step_ns=1))) as trainer:
            result = await trainer.train(job=0, steps=10, parameters=trainer.initial)
            assert result.padded_s == 0
            assert result.late_s == pytest.approx(result.compute_s, rel=1e-3)

    asyncio.run(scenario())


@pytest.mark.parametrize(("speed", "factor"), [(1.0, 0.0), (0.25, 3.0)])
def test_without_a_step_time_the_speed_scales_what_was_measured(
    speed: float, factor: float
) -> None:
    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(speed=speed))) as trainer:
            result = await trainer.train(job=0, steps=100, parameters=trainer.initial)
            padded_s = factor * result.compute_s + result.late_s
            assert result.padded_s == pytest.approx(padded_s, abs=1e-8)

    asyncio.run(scenario())


def test_divergence_is_an_error_with_a_remedy_and_the_trainer_lives_on() -> None:
    async def scenario() -> None:
        async with running(config(training=TrainingConfig(learning_rate=1e9))) as trainer:
            with pytest.raises(TrainingDiverged, match=r"diverged in job 4") as caught:
                await trainer.train(job=4, steps=50, parameters=trainer.initial)
            assert "Lower training.learning_rate" in str(caught.value.remedy)
            broken = np.full(trainer.layout.size, np.nan, dtype=np.float32)
            with pytest.raises(TrainingDiverged, match="round 9"):
                await trainer.evaluate(round=9, parameters=broken)
            assert await trainer.evaluate(round=10, parameters=trainer.initial) is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("training", "kind", "says"),
    [
        (TrainingConfig(model="gpt"), ConfigError, "unknown model 'gpt'"),
        (TrainingConfig(dataset="fingers"), ConfigError, "unknown data set 'fingers'"),
        (
            TrainingConfig(partition=PartitionConfig(alpha=-1, kind="dirichlet")),
            ConfigError,
            "n.*alpha",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_at_the_start(
    training: TrainingConfig, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        asyncio.run(TrainerProcess.start(config(training=training), deadline_s=DEADLINE_S))


def test_damaged_data_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "digits.npz").write_bytes(b"damaged")
    training = TrainingConfig(data_dir=str(tmp_path))
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        asyncio.run(TrainerProcess.start(config(training=training), deadline_s=DEADLINE_S))


def test_a_killed_trainer_is_told_at_once_to_all_who_wait_and_who_come_later() -> None:
    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(step_ns=60 * SECOND))) as trainer:
            os.kill(trainer.pid, signal.SIGSTOP)  # so that nothing is answered before
            waiting: list[Awaitable[object]] = [
                trainer.train(job=0, steps=1, parameters=trainer.initial),
                *(trainer.evaluate(round=r, parameters=trainer.initial) for r in range(3)),
            ]
            tasks = [asyncio.ensure_future(each) for each in waiting]
            await asyncio.sleep(0)
            killed = time.monotonic()
            os.kill(trainer.pid, signal.SIGKILL)
            for error in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(error, TrainerDied)
                assert "was killed by SIGKILL" in error.message
                assert error.where == "n0"
            assert time.monotonic() - killed < 3
            with pytest.raises(TrainerDied):
                await trainer.train(job=1, steps=1, parameters=trainer.initial)

    asyncio.run(scenario())


def test_a_silent_trainer_is_killed() -> None:
    async def scenario() -> None:
        async with running(config(), silence_s=0.3) as trainer:
            os.kill(trainer.pid, signal.SIGSTOP)
            with pytest.raises(TrainerDied, match=r"silent for 0\.3 s"):
                await trainer.train(job=0, steps=1, parameters=trainer.initial)
            assert gone(trainer.pid, within_s=5)

    asyncio.run(scenario())


def test_a_long_job_gives_signs_of_life() -> None:
    async def scenario() -> None:
        compute = ComputeConfig(step_ns=2800 * MILLISECOND)
        async with running(config(compute=compute), silence_s=2.5) as trainer:
            assert (await trainer.train(job=0, steps=1, parameters=trainer.initial)).job == 0

    asyncio.run(scenario())


def test_a_trainer_that_is_not_ready_in_time_is_killed() -> None:
    with pytest.raises(TrainerDied, match=r"not ready after 0\.01 s"):
        asyncio.run(TrainerProcess.start(config(), deadline_s=0.01))


def test_a_defect_of_the_trainer_brings_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(config()) as trainer:
            monkeypatch.setattr(client, "encode", lambda message: b"nonsense\n")
            with pytest.raises(TrainerDied, match=r"(?s)exit status 1.*not a line of the trainer"):
                await trainer.train(job=0, steps=1, parameters=trainer.initial)

    asyncio.run(scenario())


def test_the_trainer_ends_with_its_parent() -> None:
    code = """
import asyncio, os, sys
from tests.contract.test_trainer import config
from node.training.client import TrainerProcess
async def main():
    trainer = await TrainerProcess.start(config(), deadline_s=60)
    print(trainer.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert gone(int(done.stdout), within_s=5)


def test_an_interrupt_from_the_terminal_is_left_to_the_parent() -> None:
    async def scenario() -> None:
        async with running(config()) as trainer:
            os.kill(trainer.pid, signal.SIGINT)
            assert (await trainer.train(job=0, steps=1, parameters=trainer.initial)).job == 0

    asyncio.run(scenario())


def test_close_ends_the_process_and_whoever_waits_for_it() -> None:
    async def scenario() -> None:
        async with running(config(compute=ComputeConfig(step_ns=60 * SECOND))) as trainer:
            job = asyncio.ensure_future(trainer.train(job=0, steps=1, parameters=trainer.initial))
            await asyncio.sleep(0)
            await trainer.close()
            assert gone(trainer.pid, within_s=0)
            with pytest.raises(TrainerDied, match="was closed"):
                await job
            await trainer.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_the_trainer_usable() -> None:
    async def scenario() -> None:
        async with running(config()) as trainer:
            evaluation = asyncio.ensure_future(
                trainer.evaluate(round=0, parameters=trainer.initial)
            )
            await asyncio.sleep(0)
            evaluation.cancel()
            result = await trainer.evaluate(round=1, parameters=trainer.initial)
            assert result is not None
            assert result.round == 1

    asyncio.run(scenario())


def test_when_evaluations_pile_up_the_oldest_waiting_one_is_given_up() -> None:
    async def scenario() -> None:
        async with running(config()) as trainer:
            results = await asyncio.gather(
                *(
                    trainer.evaluate(round=number, parameters=trainer.initial)
                    for number in range(client.MAX_WAITING + 2)
                )
            )
            given_up = [number for number, result in enumerate(results) if result is None]
            assert given_up == [1]  # 0 was on, 1 the oldest that waited

    asyncio.run(scenario())


def test_an_evaluator_has_no_samples_and_only_evaluates() -> None:
    async def scenario() -> None:
        training = TrainingConfig()
        trainer = await TrainerProcess.evaluator(training=training, seed=1, deadline_s=DEADLINE_S)
        try:
            assert trainer.samples == 0
            result = await trainer.evaluate(round=3, parameters=trainer.initial)
            assert result is not None
            assert result.round == 3
            with pytest.raises(RuntimeError, match="only evaluates"):
                await trainer.train(job=0, steps=1, parameters=trainer.initial)
        finally:
            await trainer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "parameters", [np.zeros(3, dtype=np.float32), np.zeros(9_610, dtype=np.float64)]
)
def test_a_vector_that_does_not_fit_is_a_defect(parameters: Vector) -> None:
    async def scenario() -> None:
        async with running(config()) as trainer:
            with pytest.raises(ValueError, match="expected 9610 float32"):
                await trainer.train(job=0, steps=1, parameters=parameters)

    asyncio.run(scenario())


def test_the_communicating_process_stays_small_and_without_torch() -> None:
    code = """
import asyncio, sys
from pathlib import Path
from tests.contract.test_trainer import config, three_jobs
from node.training.client import TrainerProcess
async def main():
    trainer = await TrainerProcess.start(config(), deadline_s=60)
    await three_jobs(trainer, evaluating=True)
    await trainer.close()
    assert "torch" not in sys.modules
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024  # kB, of the 90 MiB that gRPC shares; pytest included
