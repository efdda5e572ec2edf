"""Parts of the runtime that need no network: clocks, drivers, tasks, refusals, files, duplex."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from node.core.effects import CancelTimer, Effect, Record, SetTimer
from node.core.events import Event, Started, StopRequested, TimerFired
from node.errors import EnvironmentFault
from node.metrics import MemoryLog
from node.runtime.clock import MonotonicClock, RunClock, UnixClock
from node.runtime.drive import Driver, drive
from node.runtime.duplex import Duplex
from node.runtime.process import Process, store
from node.runtime.refusals import Refusals
from node.runtime.tasks import Tasks
from node.runtime.wire_count import WireCount
from node.units import MILLISECOND, SECOND, Nanos


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, 10)

    return asyncio.run(bounded())


# --- clocks


def test_the_run_clock_stands_at_zero_until_the_run_begins() -> None:
    clock = RunClock()
    assert clock.now() == 0
    assert clock.run_seconds() is None
    clock.begin(time.time_ns() + 3600 * SECOND)
    assert clock.now() == 0
    assert clock.run_seconds() is None
    assert 3599 * SECOND < clock.until_begin() <= 3600 * SECOND


def test_the_run_clock_counts_from_the_wall_time_it_is_told() -> None:
    clock = RunClock()
    clock.begin(time.time_ns() - 5 * SECOND)
    assert 5 * SECOND <= clock.now() < 6 * SECOND
    seconds = clock.run_seconds()
    assert seconds is not None
    assert 5 <= seconds < 6
    assert clock.now() <= clock.now()


def test_unix_time_advances() -> None:
    clock = UnixClock()
    assert abs(clock.now() - time.time_ns()) < SECOND
    assert clock.now() <= clock.now()


# --- drivers


class Script:
    """A machine that answers each event with what the script says, and remembers."""

    def __init__(self, answers: dict[str, list[Effect]]) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self.times: list[Nanos] = []

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        match event:
            case TimerFired(key=name) | StopRequested(reason=name):
                pass
            case _:
                name = type(event).__name__
        self.seen.append(name)
        self.times.append(now)
        answer = self.answers.get(name, [])
        if answer and isinstance(answer[0], Exception):
            raise answer[0]
        return answer


class Bench:
    """A driver around a script."""

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.machine = Script(answers)
        self.performed: list[Effect] = []
        self.defects: list[Exception] = []
        self.driver = Driver(
            self.machine,
            clock=MonotonicClock(),
            perform=self.perform,
            on_defect=self.defects.append,
        )

    def perform(self, effect: Effect) -> None:
        self.performed.append(effect)
        if effect == Record(kind="again"):
            self.driver.feed(StopRequested(reason="fed while driving"))


def test_effects_come_in_order_and_before_the_next_event() -> None:
    async def scenario() -> None:
        first, again, last = Record(kind="first"), Record(kind="again"), Record(kind="last")
        bench = Bench({"Started": [first, again, last], "fed while driving": [first]})
        bench.driver.feed(Started())
        assert bench.performed == [first, again, last, first]
        assert bench.machine.seen == ["Started", "fed while driving"]

    run(scenario())


def test_timers_fire_once_are_replaced_and_cancelled() -> None:
    async def scenario() -> None:
        begin = time.monotonic_ns()
        soon, later = begin + 20 * MILLISECOND, begin + 60 * MILLISECOND
        bench = Bench(
            {
                "Started": [
                    SetTimer(key="a", at=later),
                    SetTimer(key="b", at=soon),
                    SetTimer(key="c", at=soon),
                    SetTimer(key="a", at=soon),
                    CancelTimer(key="c"),
                    CancelTimer(key="unknown"),
                    SetTimer(key="past", at=begin - SECOND),
                    SetTimer(key="end", at=later),
                ]
            }
        )
        bench.driver.feed(Started())
        while "end" not in bench.machine.seen:
            await asyncio.sleep(0.001)
        assert bench.machine.seen[:2] == ["Started", "past"]
        assert sorted(bench.machine.seen[2:]) == ["a", "b", "end"]
        fired = dict(zip(bench.machine.seen, bench.machine.times, strict=True))
        assert fired["a"] >= soon
        assert fired["end"] >= later

    run(scenario())


def test_a_closed_driver_is_still() -> None:
    async def scenario() -> None:
        bench = Bench({"Started": [SetTimer(key="a", at=time.monotonic_ns() + MILLISECOND)]})
        bench.driver.feed(Started())
        bench.driver.close()
        bench.driver.feed(Started())
        await asyncio.sleep(0.01)
        assert bench.machine.seen == ["Started"]

    run(scenario())


def test_a_defect_is_told_and_stops_the_machine() -> None:
    async def scenario() -> None:
        bench = Bench({"Started": [ZeroDivisionError("here")]})
        bench.driver.feed(Started())
        bench.driver.feed(Started())
        assert [str(error) for error in bench.defects] == ["here"]
        assert bench.machine.seen == ["Started"]

    run(scenario())


def test_drive_needs_no_loop() -> None:
    class Host:
        performed: list[Effect] = []  # noqa: RUF012

        def now(self) -> Nanos:
            return 7

        def perform(self, effect: Effect) -> None:
            self.performed.append(effect)

    machine = Script({"Started": [Record(kind="x")]})
    drive(machine, Started(), Host())
    assert Host.performed == [Record(kind="x")]
    assert machine.times == [7]


# --- tasks, refusals, files, counters


def test_a_task_that_raises_is_not_silent() -> None:
    async def scenario() -> None:
        told: list[Exception] = []
        tasks = Tasks(on_defect=told.append)

        async def broken() -> None:
            raise KeyError("x")

        tasks.spawn(broken())
        tasks.spawn(asyncio.sleep(60))
        while not told:
            await asyncio.sleep(0)
        await tasks.close()
        assert len(told) == 1

    run(scenario())


def test_refusals_are_counted_and_bounded() -> None:
    log = MemoryLog()
    refusals = Refusals(log)
    for number in range(1000):
        refusals.count("n-1", "bad frame")
        refusals.count(f"n-{number}", "bad name" * 3)
    refusals.flush()
    records = log.of("refused")
    assert {"peer": "n-1", "reason": "bad frame", "count": 1000} in records
    assert sum(record["count"] for record in records) == 2000
    assert len(records) <= 17
    refusals.flush()
    assert len(log.of("refused")) == len(records), "nothing new, no record"


def test_a_file_is_stored_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "model.f32"
    store(path, b"first")
    store(path, b"second")
    assert path.read_bytes() == b"second"

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EnvironmentFault, match="cannot store"):
        store(path, b"third")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path], "no scratch file stays"


def test_bytes_of_an_interface() -> None:
    count = WireCount(device="lo", shaper=None)
    count.begin()
    sent, received = count.since_begin()
    assert sent is not None
    assert received is not None
    assert sent >= 0
    assert WireCount(device="no such thing", shaper=None).since_begin() == (None, None)
    assert WireCount(device=None, shaper=None).since_begin() == (None, None)


def test_a_process_fails_once_and_gives_signs_of_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        failures: list[str] = []
        process = Process(
            path=tmp_path / "x.jsonl",
            name="x",
            clock=RunClock(),
            run_dir=tmp_path,
            on_failure=failures.append,
        )
        ticks: list[int] = []
        process.every_second(lambda: ticks.append(1))
        while not ticks:
            await asyncio.sleep(0)
        assert (tmp_path / "heartbeat").exists()
        process.fail("first")
        process.fail("second")
        process.record("after", {})
        process.end(1)
        process.end(0)
        assert await process.ended() == 1
        await process.tasks.close()
        process.close()
        assert failures == ["first"]

    run(scenario())
    text = (tmp_path / "x.jsonl").read_text()
    assert text.count('"kind":"error"') == 1
    assert '"kind":"after"' in text
    assert capsys.readouterr().err == "error: first\n"


# --- duplex


class Loop:
    """A pipe whose other end is a test."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.written: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.finished = False

    async def read(self) -> bytes | None:
        data = await self.incoming.get()
        if isinstance(data, Exception):
            raise data
        return data

    async def write(self, data: bytes) -> None:
        await self.gate.wait()
        self.written.append(data)

    async def finish(self) -> None:
        self.finished = True


def test_urgent_messages_go_first() -> None:
    async def scenario() -> None:
        pipe = Loop()
        pipe.gate.clear()
        duplex = Duplex(pipe, on_data=lambda _data: None)
        running = asyncio.create_task(duplex.run())
        duplex.put(b"1")
        await asyncio.sleep(0)
        duplex.put(b"2")
        duplex.put(b"a", urgent=True)
        duplex.put(b"b", urgent=True)
        pipe.gate.set()
        duplex.finish()
        while not pipe.finished:
            await asyncio.sleep(0)
        assert b"".join(pipe.written) in (b"1ab2", b"ab12")
        pipe.incoming.put_nowait(None)
        assert await running == "the other end finished"

    run(scenario())


def test_a_duplex_whose_other_end_does_not_read_ends_and_keeps_nothing() -> None:
    async def scenario() -> None:
        pipe = Loop()
        duplex = Duplex(pipe, on_data=lambda _data: None, queue_max=10_000)
        running = asyncio.create_task(duplex.run())
        for _ in range(1000):  # what is read does not count
            duplex.put(b"x" * 900)
            await asyncio.sleep(0)
        assert len(pipe.written) == 1000
        pipe.gate.clear()
        for _ in range(12):
            duplex.put(b"x" * 900)
        assert await running == "the other end does not read what it is sent"
        duplex.put(b"too late")
        assert not duplex._queue
        assert not duplex._urgent

    run(scenario())


def test_small_messages_count_for_what_they_cost() -> None:
    async def scenario() -> None:
        pipe = Loop()
        pipe.gate.clear()
        duplex = Duplex(pipe, on_data=lambda _data: None, queue_max=10_000)
        running = asyncio.create_task(duplex.run())
        for _ in range(200):
            duplex.put(b"x", urgent=True)
        assert await running == "the other end does not read what it is sent"

    run(scenario())


@pytest.mark.parametrize("how", ["broken", "ended", "defect"])
def test_a_duplex_ends(how: str) -> None:
    async def scenario() -> None:
        pipe = Loop()
        got: list[bytes] = []

        def on_data(data: bytes) -> None:
            got.append(data)
            if how == "defect":
                raise KeyError("a defect")

        duplex = Duplex(pipe, on_data=on_data)
        pipe.incoming.put_nowait(b"x")
        running = asyncio.create_task(duplex.run())
        while not got:
            await asyncio.sleep(0)
        match how:
            case "broken":
                pipe.incoming.put_nowait(ConnectionError("unavailable: gone"))
                assert await running == "unavailable: gone"
            case "ended":
                duplex.end("enough")
                duplex.end("too late")
                assert await running == "enough"
            case _:
                with pytest.raises(KeyError):
                    await running

    run(scenario())
