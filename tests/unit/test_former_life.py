"""What a coordinator learns from the records of the one that died before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.core.ids import NodeId
from node.runtime.former_life import FormerLife, former_life, from_records
from node.units import SECOND

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
WALL = 1_763_697_600.25


def record(kind: str, **fields: Any) -> dict[str, Any]:
    return {"t": 1.0, "wall": WALL, "node": "coordinator", "kind": kind, **fields}


def member(name: str, state: str, **fields: Any) -> dict[str, Any]:
    return record("member", member=name, state=state, **fields)


def ordered(number: int, verb: str | None = None, name: str | None = None) -> dict[str, Any]:
    fields = {"number": number, "state": "ordered"}
    return record("control", **fields, **({"verb": verb, "member": name} if verb else {}))


START = record("start", at_wall=WALL)


def life(*records: dict[str, Any]) -> FormerLife:
    found = from_records([START, *records])
    assert found is not None
    return found


def test_the_run_clock_stands_where_it_stood() -> None:
    found = life()
    assert found.began_wall_ns == round(WALL * SECOND)
    assert found == FormerLife(began_wall_ns=found.began_wall_ns, absent={})


@pytest.mark.parametrize(
    "records",
    [
        [],
        [member("a", "joined"), record("phase", phase="preparing")],
        [START, record("finish", reason="time", error=None)],
        [record("start", at_wall="yesterday")],
    ],
    ids=["no records", "before the start", "after the end", "nonsense"],
)
def test_without_a_run_under_way_there_is_nothing_to_resume(records: list[dict[str, Any]]) -> None:
    assert from_records(records) is None


def test_who_had_gone_is_absent_and_who_came_back_is_not() -> None:
    found = life(
        member("a", "lost", error="not heard from for 10s"),
        member("b", "killed"),
        member("b", "returned"),
        member("b", "syncing"),
        member("c", "expelled", error="unreachable"),
        member("c", "stream lost"),
    )
    assert found.absent == {A: "lost", C: "expelled"}


def test_orders_are_known_by_number_and_hold_until_they_are_undone() -> None:
    found = life(
        ordered(1),
        ordered(2, "crash", "a"),
        ordered(3, "pause", "b"),
        ordered(4, "crash", "c"),
        record("control", number=5, state="refused", reason="the run is measuring"),
        record("control", number=1, state="refused", member="a", reason="no such path"),
        record("control", state="refused", reason="000006.json: not JSON"),
        ordered(7, "resume", "b"),
        member("c", "killed"),
        member("c", "returned"),
    )
    assert found.ordered == {1, 2, 3, 4, 7}
    assert found.refused == {5}
    assert "000006.json: not JSON" in found.nonsense
    assert found.standing == {A: 2}, "b was let go on, and c is back"


def test_records_that_are_cut_off_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.jsonl"
    lines = [json.dumps(each) for each in (START, member("a", "lost"))]
    path.write_text("\n".join([*lines, "", '{"kind": "fin', "[]", "\0\0"]))
    found = former_life(path)
    assert found is not None
    assert found.absent == {A: "lost"}
    assert former_life(tmp_path / "nothing.jsonl") is None
