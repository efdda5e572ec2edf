"""Checkpoint files: whole or not at all, the newest that can be read, and what they may cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.errors import ConfigError, EnvironmentFault
from node.sim.checkpoint import Checkpoints, Pace
from node.sim.snapshot import NotStorable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for number in range(1, 12):
        checkpoints.take({"number": number})
        assert checkpoints.newest() == {"number": number}
    assert names(tmp_path / "checkpoints") == ["000010.snapshot", "000011.snapshot"]
    again = Checkpoints(tmp_path / "checkpoints")  # of a process that goes on
    again.take({"number": 12})
    assert names(tmp_path / "checkpoints") == ["000011.snapshot", "000012.snapshot"]


def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take("old")
    path = checkpoints.take(np.arange(1000))
    path.write_bytes(path.read_bytes()[:-3])
    assert checkpoints.newest() == "old"
    (tmp_path / "000001.snapshot").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="damaged") as error:
        checkpoints.newest()
    assert error.value.where == str(path)


def test_a_half_written_one_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take("whole")
    (tmp_path / "000002.new").write_bytes(b"peerbed-snap")
    assert checkpoints.newest() == "whole"
    checkpoints.take("next")
    assert names(tmp_path) == ["000001.snapshot", "000002.snapshot"]


def test_without_any_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint") as error:
        Checkpoints(tmp_path / "checkpoints").newest()
    assert error.value.remedy is not None


def test_what_cannot_be_stored_leaves_what_is_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take("good")
    with pytest.raises(NotStorable, match=r"state\['world'\]: a lambda"):
        checkpoints.take({"world": lambda: None})
    assert checkpoints.newest() == "good"


def test_a_disk_that_refuses_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="cannot store a checkpoint") as error:
        Checkpoints(tmp_path / "checkpoints").take("state")
    assert "--checkpoint-every 0s" in str(error.value.remedy)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace() -> None:
    clock = Clock()
    pace = Pace(60, clock=clock)
    assert not pace.due
    clock.now += 60
    assert pace.due
    with pace.taking():
        clock.now += 1
    clock.now += 59.9
    assert not pace.due
    clock.now += 0.2
    assert pace.due


def test_what_costs_much_is_done_rarely() -> None:
    clock = Clock()
    pace = Pace(60, clock=clock)
    clock.now += 60
    with pace.taking():
        clock.now += 10  # twenty times that until the next
    clock.now += 199
    assert not pace.due
    clock.now += 2
    assert pace.due


def test_none_at_all() -> None:
    clock = Clock()
    pace = Pace(0, clock=clock)
    clock.now += 1e9
    assert not pace.due
