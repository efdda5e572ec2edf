"""Rounds, barriers, latecomers and restarts under faults drawn from seeds: CI's share of them.

`scripts/simulate` plays all 20,000. A seed that fails says what was violated, shows the events
before it, and names the command that plays it again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from node.config import Mode, StopConfig
from node.units import SECOND
from tests.simulation.draw import Kind, draw
from tests.simulation.holds import ALL
from tests.simulation.invariants import SAYS, Invariant, Violation
from tests.simulation.simulate import Outcome, play_all, unseen, world_of
from tests.simulation.transcript import Transcript
from tests.simulation.world import World

SEEDS = 1500
BLOCK = 100
ELSEWHERE = {
    ("joined", "Underway"): "load runs: test_orders.py",
    ("idle", "Stop | StopRequested | Failed | timer orphan"): "load runs: test_orders.py",
    ("connecting", "StartWeightSharing"): "tests/scenarios, T2",
}
"""Rows that the simulation does not take, and what does."""
RARE = {
    ("connecting", "Start"),
    ("sharing", "Stale"),
    ("syncing", "RunEnded"),
    ("synced", "RunEnded"),
}
"""Rows that it takes a few times in 20,000 seeds, which may be none in CI's share."""

_total = Outcome()


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_invariant_is_violated(first: int) -> None:
    outcome = play_all(range(first, first + BLOCK))
    _total.add(outcome)
    assert not outcome.violations, "\n" + outcome.violations[0][2]


def test_every_fault_and_every_row_of_the_tables_occurs() -> None:
    if _total.seeds < SEEDS:
        pytest.skip("only after all seeds above")
    kinds = {str(kind) for kind in Kind} | {"lost message", "doubled message", "overtaken message"}
    assert kinds <= set(_total.faults), kinds - set(_total.faults)
    missing = {row[1:] for row in unseen(_total.rows)} - ELSEWHERE.keys() - RARE
    assert not missing, "rows that no seed takes: they say something that does not happen"
    assert _total.syncs > SEEDS / 10
    assert _total.rounds > 10 * SEEDS


@pytest.mark.parametrize("seed", [3, 8, 21])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    def story() -> str:
        world = world_of(seed)
        transcript = Transcript(world)
        world.run()
        return transcript.text()

    assert story() == story()


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", range(20))
def test_a_coordinator_that_stays_away_ends_all_after_its_deadline(seed: int, mode: Mode) -> None:
    """Not after a lease, as in runs without rounds: until then async training goes on."""
    plan = replace(draw(seed), faults=(), standby=(), quiet_s=0.0, loss=0.0, reorder=0.0)
    plan = replace(
        plan,
        algorithm="tiny",
        rounds=replace(plan.rounds, mode=mode, min_participants=1),
        stop=StopConfig(time_ns=90 * SECOND, rounds=1000),
    )
    world = World(plan)
    world.watch.use([invariant(world.watch) for invariant in ALL])
    world.begin()
    world.run_until(lambda: sum(n.machine.round for n in world.lives) > 2, limit_s=40)
    world.sicken(plan.names, 1000, line=True)
    world.crash_coordinator()
    away, before = world.now, [node.machine.round for node in world.lives]
    world.run_until(lambda: all(node.gone for node in world.lives), limit_s=60)
    for node, rounds in zip(world.lives, before, strict=True):
        assert node.finish is not None
        assert node.finish.error == "the coordinator was out of reach for 20s"
        assert node.finished_at is not None
        assert node.finished_at - away >= plan.deadlines.coordinator_ns
        if mode is Mode.ASYNC:
            assert (node.machine.round - rounds) * plan.train_most_s > 15, "it never stopped"


def test_a_violation_names_itself_and_how_to_replay_it() -> None:
    world = world_of(5)
    world.begin()
    world.run_for(3)
    with pytest.raises(Violation) as caught:
        Invariant(world.watch).fail("for this test")
    with pytest.raises(Violation, match="seed 5: every-wait-ends at") as stuck:
        world.run_until(lambda: False, limit_s=0.5)
    text = str(stuck.value)
    assert "for this test" in str(caught.value)
    assert "scripts/simulate --seed 5 --trace" in text
    assert SAYS["every-wait-ends"] in text
    events = [line for line in text.splitlines() if line[:9].strip().replace(".", "").isdigit()]
    assert len(events) == 30


def test_plans_differ_in_all_that_is_drawn() -> None:
    plans = [draw(seed) for seed in range(300)]
    assert Counter(len(plan.names) for plan in plans).keys() == {2, 3, 4, 5, 6}
    for what in (
        {plan.rounds.mode for plan in plans},
        {plan.rounds.unreachable for plan in plans},
        {plan.policy for plan in plans},
        {plan.algorithm for plan in plans},
        {bool(plan.faults) for plan in plans},
        {bool(plan.standby) for plan in plans},
        {plan.loss > 0 for plan in plans},
    ):
        assert len(what) > 1
    assert len({invariant.name for invariant in ALL}) == len(ALL) == len(SAYS)
