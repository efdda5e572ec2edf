"""What the live table shows, from records as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.follow import Tail
from deploy.live import PlainScreen, cells, size
from deploy.progress import Progress
from node.config import StopConfig
from node.units import SECOND
from tests.unit.runs import NAMES, WALL, coordinator_events, event, node_events


@pytest.fixture
def progress() -> Progress:
    return Progress(nodes=NAMES, stop=StopConfig(time_ns=30 * SECOND, rounds=4))


def test_a_whole_run(progress: Progress) -> None:
    said = []
    for record in coordinator_events()[:6]:
        said += progress.feed("coordinator", record)
    assert said == ["measuring 2 links", "training"]
    assert progress.phase == "running"
    for name in NAMES:
        for record in node_events(name):
            assert progress.feed(name, record) == []
    row = progress.rows["n-0"]
    assert (row.round, row.accuracy, row.emulator) == (2, 0.9, "application")
    assert progress.accuracy == pytest.approx(0.9)
    assert progress.fraction(now=WALL + 3) == pytest.approx(0.5)  # 2 of 4 rounds
    assert progress.fraction(now=WALL + 24) == pytest.approx(0.8)  # 24 of 30 s
    assert progress.fraction(now=WALL + 99) == 1.0
    assert [cells(row)[0], cells(row)[3], cells(row)[4]] == ["n-0", "2", "90.0%"]


def test_the_mean_waits_for_all(progress: Progress) -> None:
    progress.feed("n-0", event("n-0", "evaluation", 1.0, accuracy=0.9))
    assert progress.accuracy is None
    assert progress.fraction(now=WALL) == 0.0


def test_failures_are_told(progress: Progress) -> None:
    failed = event("coordinator", "member", member="n-1", state="lost", error="silent for 10 s")
    assert progress.feed("coordinator", failed) == ["n-1: silent for 10 s"]
    assert progress.rows["n-1"].state == "lost"
    warning = event("coordinator", "warning", message="links not as asked")
    assert progress.feed("coordinator", warning) == ["warning: links not as asked"]
    for odd in ({}, {"kind": 7}, {"kind": "member", "member": "nobody"}, {"kind": "evaluation"}):
        assert progress.feed("coordinator", odd) == []
        assert progress.feed("n-0", odd) == []


@pytest.mark.parametrize("first", ["node", "coordinator"])
def test_a_failure_is_told_once_whoever_tells_first(progress: Progress, first: str) -> None:
    text = "evaluation diverged.\n  Lower training.learning_rate."
    by_node = [("n-1", event("n-1", "error", message=text))]
    by_coordinator = [
        ("coordinator", event("coordinator", "member", member="n-1", state="failed", error=text)),
        ("coordinator", event("coordinator", "error", message=f"n-1: {text}")),
    ]
    told = by_node + by_coordinator if first == "node" else by_coordinator + by_node
    said = [line for member, record in told for line in progress.feed(member, record)]
    assert said == ["n-1: evaluation diverged. Lower training.learning_rate"]
    assert progress.rows["n-1"].error == "evaluation diverged. Lower training.learning_rate"


def test_a_tail_yields_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    tail = Tail(path)
    assert tail.events() == []
    path.write_text('{"kind": "a"}\n{"kind"')
    assert tail.events() == [{"kind": "a"}]
    with path.open("a") as file:
        file.write(': "b"}\nno json\n[1]\n')
    assert tail.events() == [{"kind": "b"}]
    assert tail.events() == []


def test_plain_lines_are_few(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.show(progress)
    progress.feed("coordinator", event("coordinator", "start", at_wall=WALL))
    for _ in range(20):
        screen.show(progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25_000_000, "25.0 MB")],
)
def test_sizes_for_people(count: int | None, text: str) -> None:
    assert size(count) == text
