"""The coordinator judges each reading by what the emulator in force leaves of a rate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from node.config import (
    CoordinatorConfig,
    Emulator,
    ExpectedPair,
    LinkPolicy,
    PathSpec,
    StopConfig,
    TrainingConfig,
)
from node.core.events import Received
from node.core.ids import NodeId
from node.core.signals import Hello, LinkReading
from node.links.report import expected_goodput
from node.runtime.coordinator_runner import CoordinatorRunner
from node.units import MILLISECOND, SECOND

A, B = NodeId("a"), NodeId("b")
LOSSY = PathSpec(rate_bps=10_000_000, delay_ns=10 * MILLISECOND, loss=0.1)
PAIR = ExpectedPair(source=A, target=B, out=LOSSY, back=LOSSY)


async def judged(tmp_path: Path, *, in_force: str, measured_as: Emulator) -> bool:
    """Whether what `measured_as` delivers is as asked where `in_force` impairs the traffic."""

    async def no_evaluator(*_: Any) -> Any:
        raise AssertionError("nothing is evaluated here")

    config = CoordinatorConfig(
        session="s",
        members=(A, B),
        seed=1,
        host="127.0.0.1",
        port=1,
        policy=LinkPolicy.WARN,
        pairs=(PAIR,),
        candidates=1,
        training=TrainingConfig(),
        stop=StopConfig(time_ns=SECOND),
        results=str(tmp_path),
    )
    runner = CoordinatorRunner(config, start_evaluator=no_evaluator, run_dir=tmp_path)
    try:
        hello = Hello(emulator=in_force, applied="{}")
        runner._from_member(Received(sender=A, message=hello))
        goodput = expected_goodput(LOSSY, transport="udp", emulator=measured_as)
        reading = LinkReading(source=A, target=B, goodput_bps=goodput, transport="udp")
        return runner._judge(PAIR, reading)
    finally:
        await runner.close()


@pytest.mark.parametrize("emulator", [Emulator.NETEM, Emulator.NFQUEUE])
def test_a_lossy_link_is_judged_by_its_own_emulator(tmp_path: Path, emulator: Emulator) -> None:
    """Netem loses packets before they take their share of the rate, the delay line afterwards."""
    assert asyncio.run(judged(tmp_path, in_force=emulator.value, measured_as=emulator))


@pytest.mark.parametrize("emulator", [Emulator.NETEM, Emulator.NFQUEUE])
def test_what_the_other_emulator_would_leave_is_a_miss(tmp_path: Path, emulator: Emulator) -> None:
    other = Emulator.NFQUEUE if emulator is Emulator.NETEM else Emulator.NETEM
    assert not asyncio.run(judged(tmp_path, in_force=emulator.value, measured_as=other))
