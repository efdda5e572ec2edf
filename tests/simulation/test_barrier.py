"""The start barrier and the end of a run without rounds (load), over many seeds.

A failing test's id names its seed. Runs that learn: `test_rounds.py`. There a member that was
started again takes part again, and a lost coordinator ends the others after `coordinator_ns`, not
after a lease.
"""

from __future__ import annotations

from collections import Counter

import pytest

from node.config import LinkPolicy, StopConfig
from node.core.ids import NodeId
from node.units import SECOND
from tests.simulation.harness import DEADLINES, World, seeds

LEASE_S = DEADLINES.lease_ns / SECOND
JOIN_S = DEADLINES.join_ns / SECOND
N0, N1 = NodeId("n-0"), NodeId("n-1")


def errors(world: World) -> list[str]:
    finish = world.coordinator.finish
    assert finish is not None
    return [] if finish.error is None else finish.error.split("; ")


def outcomes(world: World) -> Counter[str]:
    return Counter(h.finish.reason for h in world.hosts.values() if h.finish is not None)


@pytest.mark.parametrize("seed", seeds(200))
def test_all_start_together_and_end_for_one_reason(seed: int) -> None:
    world = World(seed=seed, members=4)
    world.join_all()
    world.run(limit_s=60)
    assert errors(world) == []
    assert outcomes(world) == {"rounds": 5}
    assert all(world.hosts[name].began_at is not None for name in world.names)
    assert world.links is not None
    assert len(world.links.readings) == 12


@pytest.mark.parametrize("seed", seeds(50))
def test_the_time_limit_ends_members_that_never_finish(seed: int) -> None:
    world = World(seed=seed, members=3, stop=StopConfig(time_ns=10 * SECOND))
    world.train_s = dict.fromkeys(world.names)
    world.join_all()
    world.run(limit_s=60)
    assert outcomes(world) == {"time": 4}
    assert errors(world) == []


@pytest.mark.parametrize("seed", seeds(50))
def test_the_target_accuracy_ends_the_run_for_all(seed: int) -> None:
    stop = StopConfig(time_ns=30 * SECOND, accuracy=0.9)
    world = World(seed=seed, members=3, stop=stop, accuracy=lambda t: t / SECOND / 10)
    world.train_s = dict.fromkeys(world.names)
    world.join_all()
    world.run(limit_s=60)
    assert outcomes(world) == {"accuracy": 4}


@pytest.mark.parametrize("seed", seeds(100))
def test_a_member_that_crashes_while_training_is_named_and_the_others_go_on(seed: int) -> None:
    world = World(seed=seed, members=4, policy=LinkPolicy.OFF)
    world.train_s = dict.fromkeys(world.names, 25.0)
    world.join_all()
    crash = 12 if seed % 2 else 15
    world.crash(N1, after_s=crash)
    world.run(limit_s=120)
    assert errors(world) == ["n-1: not heard from for 10s"]
    assert outcomes(world) == {"rounds": 4}


@pytest.mark.parametrize("seed", seeds(100))
def test_a_member_that_dies_or_hangs_at_any_time_never_blocks_the_rest(seed: int) -> None:
    world = World(seed=seed, members=4)
    world.join_all()
    at = float(world.rng.uniform(0, 25))
    (world.crash if seed % 2 else world.hang)(N1, after_s=at)
    world.run(limit_s=JOIN_S + 4 * LEASE_S + 60)
    finish = world.coordinator.finish
    assert finish is not None
    if world.hosts[N1].finish is None:
        assert any("n-1" in error for error in errors(world))


@pytest.mark.parametrize("seed", seeds(100))
def test_without_a_coordinator_members_end_by_themselves(seed: int) -> None:
    world = World(seed=seed, members=3)
    world.train_s = dict.fromkeys(world.names)
    world.join_all()
    at = float(world.rng.uniform(0, 20))

    def die() -> None:
        world.coordinator.alive = False
        for name in world.names:
            _lose_coordinator(world, name)

    world.after(at, die)
    world.run(limit_s=JOIN_S + 60)
    for name in world.names:
        finish = world.hosts[name].finish
        assert finish is not None
        assert finish.error is not None
        assert "coordinator" in finish.error


def _lose_coordinator(world: World, name: NodeId) -> None:
    from node.core.events import PeerChange, PeerChanged
    from node.core.ids import COORDINATOR

    event = PeerChanged(peer=COORDINATOR, change=PeerChange.LOST)
    world.feed(world.hosts[name], event)


@pytest.mark.parametrize("seed", seeds(20))
def test_who_does_not_join_is_named_at_the_deadline(seed: int) -> None:
    world = World(seed=seed, members=3)
    for name in world.names:
        if name != N1:
            world.join(name)
    world.hosts[N1].alive = False
    world.run(limit_s=JOIN_S + 30)
    assert errors(world) == ["did not join within 90s: n-1"]
    assert all(world.hosts[name].began_at is None for name in world.names)


@pytest.mark.parametrize("seed", seeds(20))
def test_a_member_that_cannot_prepare_stops_the_run_before_it_starts(seed: int) -> None:
    world = World(seed=seed, members=3)
    world.prepare_error[N0] = "no connection to n-2"
    world.join_all()
    world.run(limit_s=60)
    assert errors(world) == ["n-0: no connection to n-2"]
    assert all(world.hosts[name].began_at is None for name in world.names)


@pytest.mark.parametrize("policy", list(LinkPolicy))
@pytest.mark.parametrize("seed", seeds(10))
def test_a_link_that_stays_out_of_tolerance(policy: LinkPolicy, seed: int) -> None:
    world = World(
        seed=seed,
        members=3,
        policy=policy,
        judge=lambda pair, _: (pair.source, pair.target) != (N0, N1),
    )
    world.join_all()
    world.run(limit_s=90)
    tries = [probe for probe in world.probed if probe.targets == (N1,)]
    warnings = [r for r in world.coordinator.records if r.kind == "warning"]
    began = [name for name in world.names if world.hosts[name].began_at is not None]
    if policy is LinkPolicy.STRICT:
        assert errors(world) == ["links not as asked after 3 tries: n-0 to n-1 (see links.json)"]
        assert not began
    else:
        assert errors(world) == []
        assert len(began) == 3
    assert bool(warnings) is (policy is LinkPolicy.WARN)
    measured_from_n0 = 0 if policy is LinkPolicy.OFF else 3
    # n-2 measures its path to n-1 as well, once; n-0's is tried three times.
    assert len(tries) == (measured_from_n0 + 1 if measured_from_n0 else 0)
    assert world.links is not None
