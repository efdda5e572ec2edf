"""Same seed, same bytes: whatever else is different about a simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.algorithms import find, names
from node.sim.replay import replay
from node.sim.snapshot import dump, load
from node.sim.trace import Life, read_trace
from tests.sim.small import EVENTFUL, STEADY, Wander, begin, files, plan_of, played

OVERLAYS = {"fedavg": "star", "adpsgd": "ring", "adpsgd-artifact": "ring"}
"""Of algorithms that do not run where all exchange with all."""
OPTIONS = {"single-merge": ", rounds: 8"}
"""What an algorithm cannot do without."""


def settings(algorithm: str) -> tuple[str, str]:
    """As `--set` takes them."""
    options = OPTIONS.get(algorithm, "")
    overlay = OVERLAYS.get(algorithm, "full")
    return f"algorithm={{name: {algorithm}{options}}}", f"overlay={overlay}"


def hopping(folder: Path, text: str, *sets: str, events: int) -> tuple[dict[str, bytes], int]:
    """A run that is stored, forgotten and read again after every so many events."""
    plan, timeline = plan_of(text, *sets)
    world, records = begin(plan, timeline, folder)
    module = find(plan.nodes[0].config.algorithm.name).__module__
    hops = 0
    while not world.over:
        world.run(events=events)
        state = {"world": world, "sizes": records.sizes(), "trainers": world.trainers.state()}
        stored = dump(state, name="state", modules=(module,))
        world.run(events=events)  # what is lost when the process is killed
        records.flush()
        state = load(stored, where="test", modules=(module,))
        records.rewind(state["sizes"])
        trainers = Wander(seed=plan.seed)
        trainers.restore(state["trainers"])
        world = state["world"]
        world.attach(timeline=timeline, trainers=trainers, records=records)
        hops += 1
    records.flush()
    return files(folder), hops


def test_an_eventful_run_has_all_that_it_should(tmp_path: Path) -> None:
    """A guard of the tests below: what they compare is not empty."""
    found = played(tmp_path, EVENTFUL, "trace=[east-0]")
    text = b"".join(found.values()).decode(errors="replace")
    for kind in ("round", "evaluation", "aggregate", "bytes", "link", "peer", "merged", "control"):
        assert f'"kind":"{kind}"' in text, kind
    assert len([name for name in found if name.endswith(".f32")]) == 6
    assert found["nodes/east-0.trace"]


def test_twice_the_same_and_another_seed_another(tmp_path: Path) -> None:
    one = played(tmp_path / "one", EVENTFUL)
    assert played(tmp_path / "two", EVENTFUL) == one
    other = played(tmp_path / "three", EVENTFUL, "seed=2")
    assert set(other) == set(one)
    assert all(other[name] != one[name] for name in one if name.startswith("nodes/"))


@pytest.mark.parametrize("events", [37, 503])
def test_a_run_that_is_stored_and_read_again_and_again(tmp_path: Path, events: int) -> None:
    sets = ("trace=[east-0,west-2]",)
    whole = played(tmp_path / "whole", EVENTFUL, *sets)
    came, hops = hopping(tmp_path / "hopping", EVENTFUL, *sets, events=events)
    assert hops > 5
    assert sorted(came) == sorted(whole)
    assert [name for name in whole if came[name] != whole[name]] == []


@pytest.mark.parametrize("algorithm", names())
def test_every_algorithm_can_be_stored(tmp_path: Path, algorithm: str) -> None:
    sets = settings(algorithm)
    whole = played(tmp_path / "whole", STEADY, *sets)
    came, hops = hopping(tmp_path / "hopping", STEADY, *sets, events=53)
    assert hops > 3
    assert [name for name in whole if came[name] != whole[name]] == []
    assert b'"kind":"evaluation","round":8' in whole["nodes/n-0.jsonl"]


@pytest.mark.parametrize("algorithm", names())
def test_every_algorithm_can_be_replayed(tmp_path: Path, algorithm: str) -> None:
    sets = settings(algorithm)
    played(tmp_path, STEADY, *sets, "trace=[n-0]")
    with (tmp_path / "nodes" / "n-0.trace").open("rb") as file:
        found = replay(read_trace(file, where="test"))
    assert found.difference is None
    assert found.events > 20


def test_the_lives_of_a_node_are_in_its_trace(tmp_path: Path) -> None:
    played(tmp_path, EVENTFUL, "trace=[west-2]")
    with (tmp_path / "nodes" / "west-2.trace").open("rb") as file:
        entries = list(read_trace(file, where="test"))
    assert sum(isinstance(entry, Life) for entry in entries) == 2
    assert replay(entries).difference is None
