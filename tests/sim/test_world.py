"""`node.sim.world`: a whole run in virtual time, seen by what it records."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.algorithms.divshare import DivShare
from node.core.parts import Fragment, Vector, resolve
from node.core.signals import Signal, Stop
from node.errors import EnvironmentFault, RunFailed
from node.sim.interfaces import Ticket
from node.sim.line import Line
from node.sim.records import Records
from node.sim.untrained import Untrained
from node.sim.world import Action, Setting, World
from node.units import MILLISECOND, SECOND
from tests.sim.small import EVENTFUL, STEADY, Wander, begin, files, plan_of, played


def records(folder: Path, member: str, kind: str) -> list[dict[str, Any]]:
    name = "coordinator.jsonl" if member == "coordinator" else f"nodes/{member}.jsonl"
    return [e for e in lines(folder / name) if e["kind"] == kind]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in path.read_text().splitlines())


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "nodes").glob("*.jsonl"))


def test_a_run_to_its_end(tmp_path: Path) -> None:
    played(tmp_path, STEADY)
    assert [e["phase"] for e in records(tmp_path, "coordinator", "phase")] == [
        "gathering", "preparing", "connecting", "running", "stopping",
    ]  # fmt: skip
    assert records(tmp_path, "coordinator", "stop")[0]["reason"] == "rounds"
    assert records(tmp_path, "coordinator", "finish")[0]["error"] is None
    assert len(names(tmp_path)) == 6
    for name in names(tmp_path):
        assert [e["round"] for e in records(tmp_path, name, "round")] == list(range(8))
        assert records(tmp_path, name, "finish")[0]["error"] is None
        assert (tmp_path / f"nodes/{name}.f32").stat().st_size == 4 * 2_000


def test_records_are_on_both_clocks(tmp_path: Path) -> None:
    played(tmp_path, STEADY)
    began = records(tmp_path, "coordinator", "start")[0]["at_wall"]
    for event in lines(tmp_path / "nodes/n-3.jsonl"):
        if event["t"] is None:
            assert event["wall"] <= began
        else:
            assert event["wall"] == pytest.approx(began + event["t"], abs=2e-6)


def test_training_takes_what_the_file_says(tmp_path: Path) -> None:
    played(tmp_path, STEADY)
    rounds = records(tmp_path, "n-0", "round")
    assert [e["t"] for e in rounds] == pytest.approx([0.008 * (i + 1) for i in range(8)])
    assert {e["compute_s"] for e in rounds} == {0.008}
    first = records(tmp_path, "n-0", "evaluation")[0]
    assert (first["t"], first["seconds"]) == (0.02, 0.02)


def test_it_may_stop_between_any_two_events(tmp_path: Path) -> None:
    whole = played(tmp_path / "whole", EVENTFUL)
    world, log = begin(*plan_of(EVENTFUL), tmp_path / "pieces")
    while not world.over:
        world.run(until=world.now + 37 * MILLISECOND, events=13)
    log.flush()
    assert files(tmp_path / "pieces") == whole


def test_until_is_where_it_stops(tmp_path: Path) -> None:
    world, _ = begin(*plan_of(STEADY), tmp_path)
    world.run(until=300 * MILLISECOND)
    assert world.now == 300 * MILLISECOND
    assert not world.over


def test_a_run_without_end_is_given_up(tmp_path: Path) -> None:
    world, _ = begin(*plan_of(STEADY, "stop.time=1s", "stop.rounds=100000"), tmp_path)
    world.coordinator.sleep()  # nobody tells the nodes to stop, or hears that they have
    with pytest.raises(RunFailed, match="the run hangs"):
        world.run()


def test_who_does_not_end_is_left_where_it_is_whoever_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last record must not hang on how many events are made between two looks."""
    hear = Line.from_coordinator

    def deaf(line: Line, signal: Signal) -> None:
        if line._member != "n-0" or not isinstance(signal, Stop):
            hear(line, signal)

    monkeypatch.setattr(Line, "from_coordinator", deaf)

    def left_at(folder: Path, events: int | None) -> Mapping[str, bytes]:
        plan, timeline = plan_of(STEADY, "stop.accuracy=1%", "stop.rounds=100000", "stop.time=60s")
        deadlines = replace(plan.coordinator.deadlines, stop_ns=SECOND)
        plan = replace(plan, coordinator=replace(plan.coordinator, deadlines=deadlines))
        world, log = begin(plan, timeline, folder)
        while not world.over:
            world.run(events=events)
        log.flush()
        return files(folder)

    at_once = left_at(tmp_path / "at once", None)
    assert left_at(tmp_path / "look by look", 7) == at_once
    ended = records(tmp_path / "at once", "coordinator", "finish")[0]["t"]
    own = [e["t"] for e in lines(tmp_path / "at once/nodes/n-0.jsonl") if e["t"] is not None]
    assert ended + 0.9 < own[-1] <= ended + 1


def test_the_merged_model_is_the_mean_of_those_stored(tmp_path: Path) -> None:
    played(tmp_path, STEADY)
    models = [np.fromfile(path, dtype="<f4") for path in sorted(tmp_path.glob("nodes/*.f32"))]
    mean = np.mean(models, axis=0, dtype=np.float64)
    spread = math.sqrt(np.mean([np.square(model - mean).sum() for model in models]))
    merged = records(tmp_path, "coordinator", "merged")[0]
    assert merged["models"] == 6
    assert merged["distance"] == pytest.approx(spread)
    assert merged["accuracy"] == float((mean.astype(np.float32) > 0).mean())


def test_consensus_is_told_while_the_run_goes(tmp_path: Path) -> None:
    played(tmp_path, STEADY, "stop.rounds=500", "stop.time=4s")
    told = records(tmp_path, "coordinator", "consensus")
    times = [e["t"] for e in told]
    assert 15 <= len(told) <= 21
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.2 - 1e-9
    assert {e["nodes"] for e in told} == {6}
    assert all(e["distance"] > 0 for e in told)


def test_what_a_node_has_sent_cancelled_and_queued_is_what_its_rounds_made(tmp_path: Path) -> None:
    """To the byte, where a model of 8,000 bytes counts for 359,336. Each of the four fragments is
    rounded down, so that together they are a byte short of the model."""
    played(tmp_path, STEADY, "training.message_size=359336B", "nodes.n.compute.step=40ms")
    sizes = [resolve(Fragment(i, 4, 0), Wander().layout).size for i in range(4)]
    made = sum(4 * size * 359_336 // 8_000 for size in sizes)
    assert made == 359_335
    for name in names(tmp_path):
        rounds = [e["t"] for e in records(tmp_path, name, "round")]
        told = records(tmp_path, name, "bytes")
        assert len(told) > 2
        assert told[-1]["cancelled"] > told[-1]["model_sent"] / 2 > 0
        for e in told:
            count = sum(t <= e["t"] for t in rounds)
            assert e["model_sent"] + e["cancelled"] + e["queued"] == count * 2 * made


# What happens by plan -----------------------------------------------------------------------------


def test_what_was_done_is_recorded_as_in_containers(tmp_path: Path) -> None:
    played(tmp_path, EVENTFUL)
    done = list(lines(tmp_path / "control.jsonl"))
    assert [(e["member"], e["verb"], e["begun"]) for e in done] == [
        ("late", "join", 0.5),
        ("west-1", "pause", 1.0),
        ("east-1", "crash", 2.0),
        ("west-1", "resume", 2.5),
        ("west-2", "restart", 2.6),
        ("east-1", "return", 3.0),
        ("west-0", "leave", 3.5),
    ]
    assert all(e["error"] is None and e["t"] == e["begun"] for e in done)
    ordered = [e for e in records(tmp_path, "coordinator", "control") if e["state"] == "ordered"]
    assert [e["number"] for e in ordered] == [e["number"] for e in done]


def test_who_is_paused_does_nothing_and_catches_up(tmp_path: Path) -> None:
    played(tmp_path, EVENTFUL)
    own = [e for e in lines(tmp_path / "nodes/west-1.jsonl") if e["kind"] != "link"]
    assert not [e for e in own if e["t"] and 1.0 < e["t"] < 2.5]
    assert [e for e in own if e["kind"] == "round" and e["t"] > 2.5]


def test_who_is_killed_says_nothing_more_and_begins_anew(tmp_path: Path) -> None:
    played(tmp_path, EVENTFUL)
    own = list(lines(tmp_path / "nodes/east-1.jsonl"))
    lives = [e["incarnation"] for e in own if e["kind"] == "process"]
    assert lives == [1, 2]
    assert not [e for e in own if e["t"] and 2.0 < e["t"] < 3.0]


def test_changes_of_links_are_told_by_all_who_are_there(tmp_path: Path) -> None:
    played(tmp_path, EVENTFUL)
    parted = [e for e in records(tmp_path, "west-2", "link") if e["at"] == 1.5]
    assert parted[0]["applied"]["east-0"] == {"out": None, "into": None}
    assert "west-0" not in parted[0]["applied"]
    slower = [e for e in records(tmp_path, "east-0", "link") if e["at"] == 0.8]
    assert slower[0]["applied"]["west-0"]["out"]["rate_bps"] == 2_000_000


def with_actions(text: str, folder: Path, *actions: Action) -> World:
    plan, timeline = plan_of(text)
    setting = Setting(
        coordinator=plan.coordinator,
        nodes={node.name: node.config for node in plan.nodes},
        actions=actions,
    )
    world = World(setting, timeline=timeline, trainers=Wander(), records=Records(folder))
    world.begin()
    return world


@pytest.mark.parametrize("verb", ["pause", "leave", "crash", "join"])
def test_what_cannot_be_done_is_recorded_with_the_reason(tmp_path: Path, verb: str) -> None:
    first = "crash" if verb != "join" else "resume"
    node = plan_of(STEADY)[0].nodes[0].name
    deeds = [
        Action(at_ns=20 * MILLISECOND * (i + 1), node=node, verb=each, what=each)
        for i, each in enumerate((first, verb))
    ]
    world = with_actions(STEADY, tmp_path, *deeds)
    world.run()
    world.records.flush()
    errors = [e["error"] for e in lines(tmp_path / "control.jsonl")]
    assert errors[0] is None
    assert errors[1].startswith(f"cannot {verb}: ")


def test_who_was_stopped_is_not_missed_in_the_merged_model(tmp_path: Path) -> None:
    node = plan_of(STEADY)[0].nodes[2].name
    crash = Action(at_ns=30 * MILLISECOND, node=node, verb="crash", what="killed")
    world = with_actions(STEADY, tmp_path, crash)
    world.run()
    world.records.flush()
    merged = records(tmp_path, "coordinator", "merged")[0]
    assert merged["models"] == 5
    assert "missing" not in merged


# What goes wrong ----------------------------------------------------------------------------------


def test_a_defect_of_an_algorithm_ends_its_node_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = DivShare.on_trained

    def broken(self: DivShare, ctx: Any, parameters: Vector, loss: float) -> None:
        if ctx.me == "n-4" and ctx.round == 3:
            raise ZeroDivisionError("no such mean")
        sound(self, ctx, parameters, loss)

    monkeypatch.setattr(DivShare, "on_trained", broken)
    played(tmp_path, STEADY)
    assert records(tmp_path, "n-4", "error")[0]["message"] == "ZeroDivisionError: no such mean"
    assert "no such mean" in (tmp_path / "logs/n-4.log").read_text()
    assert "n-4" in records(tmp_path, "coordinator", "finish")[0]["error"]
    assert len(records(tmp_path, "n-5", "round")) == 8


def test_training_that_fails_ends_its_node_with_the_reason(tmp_path: Path) -> None:
    class Diverging(Wander):
        def trained(self, ticket: Ticket) -> tuple[Vector, float]:
            if self._jobs[ticket][0] == "n-1":
                raise RunFailed("training of 4 steps diverged", where="n-1")
            return super().trained(ticket)

    plan, timeline = plan_of(STEADY)
    world, log = begin(plan, timeline, tmp_path, trainers=Diverging())
    world.run()
    log.flush()
    assert records(tmp_path, "n-1", "error")[0]["message"] == "training of 4 steps diverged"
    assert not (tmp_path / "logs").exists()  # no traceback: it is no defect
    assert "diverged" in records(tmp_path, "coordinator", "finish")[0]["error"]


# Trainers that do not train -----------------------------------------------------------------------


def test_without_training_the_messages_are_the_same(tmp_path: Path) -> None:
    def sent(world: World, log: Records, folder: Path) -> Mapping[str, Any]:
        world.run()
        log.flush()
        return {n: records(folder, n, "bytes")[-1]["kinds"] for n in names(folder)}

    plan, timeline = plan_of(STEADY)
    world, log = begin(plan, timeline, tmp_path / "trained")
    trained = sent(world, log, tmp_path / "trained")
    still = Untrained.like(Wander(), [node.name for node in plan.nodes])
    setting = replace(world.setting)
    log = Records(tmp_path / "still")
    world = World(setting, timeline=timeline, trainers=still, records=log)
    world.begin()
    assert sent(world, log, tmp_path / "still") == trained


def test_a_run_with_nothing_left_to_happen_is_no_endless_one(tmp_path: Path) -> None:
    plan, timeline = plan_of(STEADY)
    world, _ = begin(plan, timeline, tmp_path)
    never_begun = World(
        world.setting, timeline=timeline, trainers=Wander(), records=Records(tmp_path / "other")
    )
    with pytest.raises(RunFailed, match="nothing is left to happen"):
        never_begun.run()


# Records ------------------------------------------------------------------------------------------


def test_records_that_were_taken_back_come_again(tmp_path: Path) -> None:
    log = Records(tmp_path)
    log.write("n-0", "a", {}, now=0, began=None)
    sizes = log.sizes()
    log.write("n-0", "b", {}, now=SECOND, began=0)
    log.write("n-1", "c", {}, now=SECOND, began=0)
    log.flush()
    log.rewind(sizes)
    log.write("n-0", "d", {}, now=2 * SECOND, began=0)
    log.flush()
    assert [e["kind"] for e in lines(tmp_path / "nodes/n-0.jsonl")] == ["a", "d"]
    assert (tmp_path / "nodes/n-1.jsonl").read_bytes() == b""


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("not a folder")
    log = Records(tmp_path)
    log.write("n-0", "a", {}, now=0, began=None)
    with pytest.raises(EnvironmentFault, match="cannot write"):
        log.flush()
