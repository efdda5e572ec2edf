"""A node on real streams records what its peer machine was fed, and that can be played again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.config import Mode, RoundsConfig, StopConfig
from node.core.events import Received, Trained
from node.core.ids import NodeId
from node.runtime import trace_file
from node.sim.replay import replay
from node.sim.trace import Life, Step, read_trace
from node.units import SECOND
from tests.contract.world import Setting, World, run, setting

N0, N1 = (NodeId(f"n-{i}") for i in range(2))


def traced(some: Setting, name: NodeId) -> Setting:
    some.nodes[name] = replace(some.nodes[name], trace=True)
    return some


def played(some: Setting, tmp_path: Path) -> dict[str, int]:
    async def scenario() -> dict[str, int]:
        world = World(some, run_dir=tmp_path)
        world.start()
        return await world.ended()

    return run(scenario())


def entries(path: Path) -> list[Life | Step]:
    with path.open("rb") as file:
        return list(read_trace(file, where=str(path)))


@pytest.mark.parametrize("mode", Mode)
def test_a_traced_node_does_the_same_again(tmp_path: Path, mode: Mode) -> None:
    algorithm = "dpsgd" if mode is Mode.SYNC else "divshare"
    some = setting(
        tmp_path,
        stop=StopConfig(time_ns=30 * SECOND, rounds=4),
        algorithm=algorithm,
        rounds=RoundsConfig(mode=mode),
    )
    assert set(played(traced(some, N1), tmp_path).values()) == {0}
    found = entries(tmp_path / "nodes" / "n-1.trace")
    steps = [entry for entry in found if isinstance(entry, Step)]
    assert sum(isinstance(step.event, Trained) for step in steps) == 4
    assert any(isinstance(step.event, Received) for step in steps)
    result = replay(found)
    assert (result.lives, result.difference) == (1, None)
    assert result.events == len(steps)
    assert not (tmp_path / "nodes" / "n-0.trace").exists()


@contextmanager
def small_disk(at: int) -> Iterator[None]:
    """From so many bytes on, no trace takes another."""
    write = os.write

    def limited(file: int, data: bytes) -> int:
        room = at - os.fstat(file).st_size
        return write(file, data[: max(0, room)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_file.os, "write", limited)
        yield


def test_a_full_disk_ends_the_node_and_leaves_whole_frames(tmp_path: Path) -> None:
    some = traced(setting(tmp_path, count=2), N0)
    original = trace_file.TraceFile.append

    def refuse(self: trace_file.TraceFile, frame: bytes) -> None:
        with small_disk(at=60_000):
            original(self, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_file.TraceFile, "append", refuse)
        statuses = played(some, tmp_path)
    assert statuses[N0] == 1
    (error, *_) = some.of(N0, "error")
    assert "cannot store the trace: No space left on device" in error["message"]
    left = tmp_path / "nodes" / "n-0.trace"
    assert 0 < left.stat().st_size <= 60_000
    assert replay(entries(left)).difference is None
