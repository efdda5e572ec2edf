"""Processes of a simulation: timers, sleep, and the stream to the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.core.effects import CancelTimer, Effect, Record, SetTimer
from node.core.events import Event, Started, StopRequested, TimerFired
from node.core.ids import COORDINATOR, NodeId
from node.sim.line import SIGNAL_NS
from node.sim.process import Driver, Process
from node.sim.world import World
from node.units import MILLISECOND, SECOND, Nanos
from tests.sim.small import STEADY, begin, plan_of


class Script:
    """A machine that wants what it is told to; it keeps what it was fed, and when.

    Args:
        wants: by what it answers, the n-th event's effects.
    """

    def __init__(self, *wants: list[Effect]) -> None:
        self._wants = list(wants)
        self.fed: list[tuple[Nanos, Event]] = []

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        self.fed.append((now, event))
        return self._wants.pop(0) if self._wants else []

    @property
    def fired(self) -> list[tuple[Nanos, str]]:
        return [(now, event.key) for now, event in self.fed if isinstance(event, TimerFired)]


class Quiet(Process):
    """A process that is there for its machine."""

    def __init__(self, world: World) -> None:
        super().__init__(world, NodeId("quiet"))
        self.errors: list[Exception] = []

    def driver(self, machine: Any) -> Driver:
        return Driver(machine, process=self, perform=self._ignore, on_defect=self.errors.append)

    def _ignore(self, effect: Effect) -> None:
        if isinstance(effect, Record):
            raise KeyError(effect.kind)


def quiet(folder: Path) -> Quiet:
    plan, timeline = plan_of(STEADY)
    world, _ = begin(plan, timeline, folder)
    world.run(until=SECOND // 2)
    return Quiet(world)


def after(process: Quiet, delay: Nanos) -> Nanos:
    return process.queue.now + delay


def test_a_timer_fires_when_it_is_due(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    machine = Script([SetTimer(key="a", at=after(process, 5))])
    process.driver(machine).feed(Started())
    process.queue.run(until=after(process, 10))
    assert machine.fired == [(machine.fed[0][0] + 5, "a")]


def test_a_timer_that_is_put_off_fires_once_and_late(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    first, later = after(process, 5), after(process, 50)
    machine = Script([SetTimer(key="a", at=first)], [SetTimer(key="a", at=later)])
    driver = process.driver(machine)
    driver.feed(Started())
    driver.feed(Started())
    process.queue.run(until=later + 100)
    assert machine.fired == [(later, "a")]


def test_a_timer_that_is_brought_forward_fires_once_and_early(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    first, sooner = after(process, 50), after(process, 5)
    machine = Script([SetTimer(key="a", at=first)], [SetTimer(key="a", at=sooner)])
    driver = process.driver(machine)
    driver.feed(Started())
    driver.feed(Started())
    process.queue.run(until=first + 100)
    assert machine.fired == [(sooner, "a")]


def test_a_timer_that_is_cancelled_does_not_fire_unless_set_again(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    at, again = after(process, 50), after(process, 60)
    machine = Script(
        [SetTimer(key="a", at=at), SetTimer(key="b", at=at), CancelTimer(key="a")],
        [CancelTimer(key="b"), SetTimer(key="b", at=again)],
    )
    driver = process.driver(machine)
    driver.feed(Started())
    driver.feed(Started())
    process.queue.run(until=again + 100)
    assert machine.fired == [(again, "b")]


def test_a_lease_that_is_renewed_has_one_entry_in_the_queue(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    now = process.queue.now
    renewals: list[list[Effect]] = [[SetTimer(key="a", at=now + 10 + i)] for i in range(1000)]
    machine = Script(*renewals)
    driver, before = process.driver(machine), len(process.queue)
    for _ in renewals:
        driver.feed(Started())
    assert len(process.queue) == before + 1
    process.queue.run(until=now + 5000)
    assert machine.fired == [(now + 10 + 999, "a")]


def test_a_clock_stands_still_before_its_zero(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    machine = Script()
    driver = process.driver(machine)
    driver.zero = after(process, 100)
    driver.feed(Started())
    process.queue.run(until=after(process, 130))
    driver.feed(Started())
    assert [now for now, _ in machine.fed] == [0, 30]


def test_what_comes_to_a_sleeper_comes_when_it_wakes_in_order(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    machine = Script([SetTimer(key="a", at=after(process, 10))])
    driver = process.driver(machine)
    driver.feed(Started())
    process.sleep()
    process.queue.run(until=after(process, 20))
    driver.feed(StopRequested(reason="x"))
    assert len(machine.fed) == 1
    process.wake()
    assert [event for _, event in machine.fed[1:]] == [
        TimerFired(key="a"),
        StopRequested(reason="x"),
    ]


def test_a_machine_that_raises_gets_nothing_more(tmp_path: Path) -> None:
    process = quiet(tmp_path)
    machine = Script([SetTimer(key="a", at=after(process, 10)), Record(kind="bad")])
    driver = process.driver(machine)
    driver.feed(Started())
    driver.feed(Started())
    process.queue.run(until=after(process, 20))
    assert len(machine.fed) == 1
    assert [type(error) for error in process.errors] == [KeyError]


# The line -----------------------------------------------------------------------------------------


def heard(world: World, node: NodeId) -> list[str]:
    """What the coordinator has recorded of a node, in order."""
    told: list[str] = []
    original = world.records.write

    def spy(member: str, kind: str, fields: Any, **clocks: Any) -> None:
        if member == COORDINATOR and kind == "member" and fields["member"] == node:
            told.append(str(fields["state"]))
        original(member, kind, fields, **clocks)

    world.records.write = spy  # type: ignore[method-assign]
    return told


def test_a_signal_takes_its_time_and_a_dead_end_hears_nothing(tmp_path: Path) -> None:
    plan, timeline = plan_of(STEADY)
    world, _ = begin(plan, timeline, tmp_path)
    node = plan.nodes[0].name
    told = heard(world, node)
    world.run(until=2 * SIGNAL_NS - 1)  # one for the stream, one for Hello
    assert told == []
    world.run(until=2 * SIGNAL_NS)
    assert told == ["joined"]


def test_who_dies_is_missed_at_once_and_is_another_when_it_is_back(tmp_path: Path) -> None:
    plan, timeline = plan_of(STEADY, "stop.rounds=1000")
    world, _ = begin(plan, timeline, tmp_path)
    world.run(until=SECOND // 2)
    node = plan.nodes[0].name
    told = heard(world, node)
    world.hosts[node].crash()
    world.run(until=world.now + SIGNAL_NS)
    assert told == ["stream lost"]
    world._start(node)
    world.run(until=world.now + 10 * MILLISECOND)
    assert told[1:3] == ["stream up", "lost"]  # of its former life, which nobody had asked to end
    assert "returned" in told
