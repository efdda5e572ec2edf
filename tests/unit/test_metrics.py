"""The event log: whole lines or none, and a reader that nothing upsets."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import EnvironmentFault
from node.metrics import EventLog, MemoryLog, read_events


class Clock:
    now: float | None = None

    def run_seconds(self) -> float | None:
        return self.now

    def wall_seconds(self) -> float:
        return 1000.25


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "nodes/n-0.jsonl", node="n-0", clock=Clock())


def test_a_line_says_when_who_and_what(log: EventLog) -> None:
    log.record("process", {"pid": 7})
    Clock.now = 1.5
    try:
        log.record("round", {"round": 1, "loss": 0.5})
    finally:
        Clock.now = None
    assert list(read_events(log.path)) == [
        {"t": None, "wall": 1000.25, "node": "n-0", "kind": "process", "pid": 7},
        {"t": 1.5, "wall": 1000.25, "node": "n-0", "kind": "round", "round": 1, "loss": 0.5},
    ]


def test_numbers_of_any_kind(log: EventLog) -> None:
    fields: dict[str, Any] = {
        "nan": math.nan,
        "infinite": -math.inf,
        "numpy_nan": np.float32("nan"),
        "float32": np.float32(0.5),
        "int64": np.int64(3),
        "flag": np.bool_(True),
        "array": np.array([1.0, math.inf]),
        "nested": {"list": [math.nan, (1, None)]},
    }
    log.record("x", fields)
    (event,) = read_events(log.path)
    assert {name: event[name] for name in fields} == {
        "nan": None,
        "infinite": None,
        "numpy_nan": None,
        "float32": 0.5,
        "int64": 3,
        "flag": True,
        "array": [1.0, None],
        "nested": {"list": [None, [1, None]]},
    }


def test_fields_must_not_hide_the_stamp(log: EventLog) -> None:
    with pytest.raises(ValueError, match="'node'"):
        log.record("x", {"node": "n-1"})


def test_a_full_disk_leaves_no_half_line(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.record("first", {})
    write = os.write

    def short(file: int, data: bytes) -> int:
        return write(file, data[:7])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(EnvironmentFault, match=r"disk is full") as caught:
        log.record("second", {})
    assert caught.value.where == str(log.path)
    assert caught.value.remedy is not None

    def none(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", none)
    with pytest.raises(EnvironmentFault, match=r"disk is full"):
        log.record("third", {})
    monkeypatch.setattr(os, "write", write)
    log.record("fourth", {})
    events = read_events(log.path)
    assert [event["kind"] for event in events] == ["first", "fourth"]
    assert events.skipped == 0


def test_a_really_full_device(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"/dev/full.*disk is full"):
        EventLog(Path("/dev/full"), node="n", clock=Clock()).record("x", {})


def test_a_place_where_one_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        EventLog(tmp_path / "file/log.jsonl", node="n", clock=Clock())


def test_a_successor_begins_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    path.write_bytes(b'{"kind":"a"}\n{"kind":"b"')
    EventLog(path, node="n", clock=Clock()).record("c", {})
    events = read_events(path)
    assert [event["kind"] for event in events] == ["a", "c"]
    assert events.skipped == 1


def test_lines_appear_one_by_one(log: EventLog) -> None:
    log.record("a", {})
    reader = iter(read_events(log.path))
    assert next(reader)["kind"] == "a"
    log.record("b", {})
    assert next(reader)["kind"] == "b"


# Every example overwrites the same file.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40) | st.just(b'{"kind":"x"}\n'), max_size=8))
def test_a_reader_takes_anything(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"".join(lines))
    events = read_events(path)
    read = list(events)
    assert all(isinstance(event["kind"], str) for event in read)
    filled = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    assert len(read) + events.skipped == len(filled)


def test_nesting_without_end_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000 + "\n" + json.dumps({"kind": "x"}) + "\n")
    events = read_events(path)
    assert len(list(events)) == 1
    assert events.skipped == 1


def test_memory_log() -> None:
    log = MemoryLog()
    log.record("a", {"n": 1})
    log.record("b", {})
    assert log.of("a") == [{"n": 1}]
