"""Traces of a peer machine, and playing them again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.__main__ import main
from node.algorithms.divshare import DivShare
from node.config import StopConfig
from node.core.algorithm import Context
from node.core.effects import Effect, Record, Send, Train
from node.core.events import Evaluated, Received, Started, StopRequested, Trained
from node.core.ids import NodeId
from node.core.parts import Layout, Vector, frozen
from node.core.peer import PeerSetting
from node.errors import EnvironmentFault
from node.runtime.trace_file import TraceFile
from node.sim.replay import replay
from node.sim.trace import Life, Step, Traced, describe, read_trace, whole_frames
from node.units import MILLISECOND, SECOND

LAYOUT = Layout.of({"weight": (40,), "bias": (4,)})
ROUNDS = 4


def life(**changes: Any) -> Life:
    setting = PeerSetting(
        me=NodeId("a"),
        peers=(NodeId("b"), NodeId("c")),
        members=3,
        seed=5,
        layout=LAYOUT,
        stop=StopConfig(time_ns=60 * SECOND),
    )
    whole = Life(
        setting=setting,
        algorithm="divshare",
        options={"omega": 0.25, "degree": 2},
        initial=frozen(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)),
    )
    return replace(whole, **changes)


def live(one: Life, traced: Traced, *, rounds: int = ROUNDS) -> list[Effect]:
    """One life: train, send what is wanted back to itself as if others had sent it."""
    now, others = 0, 0
    effects = traced.step(Started(), now=now)
    every = list(effects)
    while others < rounds:
        others += 1
        now += 100 * MILLISECOND
        for effect in effects:
            if isinstance(effect, Send):
                heard = Received(sender=effect.target, message=effect.message)
                every += traced.step(heard, now=now)
        train = next(effect for effect in effects if isinstance(effect, Train))
        moved = frozen(train.parameters * np.float32(0.9))
        effects = traced.step(Trained(job=train.job, parameters=moved, loss=0.5, steps=8), now=now)
        every += effects
        every += traced.step(Evaluated(round=others - 1, accuracy=0.5, loss=0.7), now=now)
    every += traced.step(StopRequested(reason="enough"), now=now)
    return every


def keeps_to_itself(self: DivShare, ctx: Context, parameters: Vector, loss: float) -> None:
    """Instead of `DivShare.on_trained`."""
    ctx.set_parameters(parameters)
    ctx.end_round()
    ctx.train(steps=8)


def recorded(path: Path, *, lives: int = 1, rounds: int = ROUNDS) -> bytes:
    """A trace as a run writes it."""
    for _ in range(lives):
        file = TraceFile(path)
        one = life()
        live(one, Traced(one.peer(), life=one, write=file.append), rounds=rounds)
        file.close()
    return path.read_bytes()


def entries(data: bytes) -> list[Life | Step]:
    return list(read_trace(io.BytesIO(data), where="test"))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "ring" / "0101-000000-abcd" / "nodes" / "a.trace"
    recorded(path)
    (path.parents[1] / "plan.json").write_text("{}")
    return path


def test_the_same_code_does_the_same(trace: Path) -> None:
    steps = entries(trace.read_bytes())
    found = replay(steps)
    assert (found.lives, found.difference) == (1, None)
    assert found.events == len(steps) - 1 == 1 + 4 * (0 + 2) + 8 * 3 + 1  # 8 sends, heard 3 times


def test_a_trace_changes_nothing() -> None:
    one, other, frames = life(), life(), list[bytes]()
    with_trace = live(one, Traced(one.peer(), life=one, write=frames.append))
    without = live(other, Traced(other.peer(), life=other, write=lambda _: None))
    assert [*map(describe, with_trace)] == [*map(describe, without)]
    assert any(isinstance(effect, Send) for effect in with_trace)


def test_a_changed_algorithm_is_found_where_it_first_matters(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = entries(trace.read_bytes())
    on_trained = DivShare.on_trained

    def changed(self: DivShare, ctx: Context, parameters: Vector, loss: float) -> None:
        if ctx.round == 2:
            parameters = np.nextafter(parameters, np.float32(9))  # the last bit of each value
        on_trained(self, ctx, parameters, loss)

    monkeypatch.setattr(DivShare, "on_trained", changed)
    found = replay(steps).difference
    assert found is not None
    third = [i for i, s in enumerate(steps) if isinstance(s, Step) and isinstance(s.event, Trained)]
    assert found.event == third[2]
    assert found.what.startswith("Trained(job=3")
    assert found.recorded is not None
    assert found.recorded.startswith("Send(")
    assert found.came is not None
    assert found.came != found.recorded


def test_an_effect_more_and_one_less(trace: Path) -> None:
    steps = entries(trace.read_bytes())
    second = steps[2]
    assert isinstance(second, Step)
    less = replay([*steps[:2], replace(second, effects=second.effects[:-1])]).difference
    assert less is not None
    assert (less.event, less.effect, less.recorded) == (2, len(second.effects), None)
    assert less.came == second.effects[-1]
    more = replay([*steps[:2], replace(second, effects=(*second.effects, "Send()"))]).difference
    assert more is not None
    assert (more.effect, more.recorded, more.came) == (len(second.effects) + 1, "Send()", None)


def test_an_exception_is_recorded_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: DivShare, ctx: Context, parameters: Vector, loss: float) -> None:
        raise KeyError("fragment 3")

    one, frames = life(), list[bytes]()
    traced = Traced(one.peer(), life=one, write=frames.append)
    with monkeypatch.context() as patch:
        patch.setattr(DivShare, "on_trained", broken)
        with pytest.raises(KeyError):
            live(one, traced)
        steps = entries(b"".join(frames))
        assert replay(steps).difference is None
    found = replay(steps).difference  # repaired since
    assert found is not None
    assert found.recorded == "raises KeyError: 'fragment 3'"


def test_every_life_is_played_on_its_own(tmp_path: Path) -> None:
    steps = entries(recorded(tmp_path / "a.trace", lives=3, rounds=2))
    found = replay(steps)
    assert (found.lives, found.difference) == (3, None)


def test_a_trace_without_its_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    data = recorded(path)
    whole = len(entries(data))
    for cut in (1, 3, 100, len(data) // 2):
        part = data[:-cut]
        steps = entries(part)
        assert 0 < len(steps) < whole
        assert replay(steps).difference is None
        assert whole_frames(io.BytesIO(part)) <= len(part)
    path.write_bytes(data[:-7])
    assert replay(entries(recorded(path))).lives == 2  # the next life begins at a whole frame


def test_a_damaged_or_foreign_trace_is_refused(tmp_path: Path) -> None:
    data = bytearray(recorded(tmp_path / "a.trace"))
    data[len(data) // 2] ^= 1
    with pytest.raises(EnvironmentFault):
        entries(bytes(data))
    headless = bytes(data[4 + int.from_bytes(data[:4], "little") :])
    with pytest.raises(EnvironmentFault, match="no trace: a Step in it"):
        entries(headless)


def test_what_effects_are_described_by() -> None:
    fields: Mapping[str, Any] = {"n": np.float64(0.5), "at": [1, None], "by": {"b": 1, "a": 2}}
    line = describe(Record(kind="x", fields=fields))
    assert line == "Record(kind='x', fields={'n': 0.5, 'at': [1, None], 'by': {'b': 1, 'a': 2}})"
    model = np.zeros(3, np.float32)
    other = np.array([0.0, 0.0, -0.0], np.float32)
    assert describe(model) != describe(other)
    assert describe(model).startswith("float32[3]:")
    assert describe(frozenset({"b", "a"})) == "{'a', 'b'}"


# --- deploy replay


def test_the_command(
    trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ["--results", str(trace.parents[3])]
    run = trace.parents[1].name
    assert main(["replay", run, *results]) == 0
    assert capsys.readouterr().out == "a: identical: 34 events\n"
    monkeypatch.setattr(DivShare, "on_trained", keeps_to_itself)
    assert main(["replay", run, "--node", "a", *results]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "a: differs at event 2, at 0.100000 s"
    assert [line.split()[0] for line in told[1:]] == ["event", "effect", "effect"]
    assert main(["replay", run, "--json", *results]) == 1
    assert json.loads(capsys.readouterr().out)["a"]["difference"]["event"] == 2


def test_the_command_without_a_trace(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ["--results", str(trace.parents[3])]
    assert main(["replay", "0101-000000-abcd", "--node", "z", *results]) == 2
    told = capsys.readouterr().err
    assert "there is no trace of 'z' in this run" in told
    assert "Traced were: a." in told
    trace.write_bytes(trace.read_bytes()[:-5])
    assert main(["replay", "0101-000000-abcd", *results]) == 0
    assert "the trace ends in mid-event" in capsys.readouterr().out
