"""A run that is changed while it goes on, from the outside: the local backend, real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.support import Deploy, Done, end, until

pytestmark = pytest.mark.timeout(300)

FILE = """
name: small
nodes: {n: {replicas: 3, compute: {step: 50ms}}}
network: {shape: ring, link: {rate: 20mbit, delay: 5ms}}
algorithm: {name: divshare, local_steps: 4}
stop: {time: 40s}
links: "off"
deadlines: {lease: 3s, stop: 5s, peer: 3s}
"""


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    command = Deploy(tmp_path, backend="local")
    command.small.write_text(FILE)
    yield command
    command.run("down", "--all")
    assert command.leftovers() == []


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["kind"] == kind]


def link_records(deploy: Deploy, name: str, node: str) -> list[dict[str, Any]]:
    return events(deploy.path(name) / "nodes" / f"{node}.jsonl", "link")


def ok(done: Done) -> Any:
    assert done.status == 0, done.err
    return done.json


def test_links_are_changed_by_hand_on_top_of_the_plan(deploy: Deploy) -> None:
    deploy.small.write_text(FILE + "events:\n  - {at: 20s, link: [n-0, n-1], set: {rate: 2mbit}}\n")
    with deploy.training("--set", "stop.time=21s", name="r") as process:
        done = ok(deploy.run("link", "set", "n-0", "n-1", "--delay", "30ms", "--json"))
        assert done["nodes"] == ["n-0", "n-1"]
        assert done["missing"] == []
        (record,) = link_records(deploy, "r", "n-0")
        assert record["at"] == done["at_s"]
        assert record["applied"]["n-1"]["out"]["delay_ms"] == 30
        text = deploy.run("link", "down", "n-0", "n-1", "--oneway")
        assert "n-0 > n-1 down: in force on 2 nodes within" in text.out
        assert link_records(deploy, "r", "n-1")[-1]["applied"]["n-0"]["out"] is not None
        assert ok(deploy.run("link", "up", "n-0", "--json"))["nodes"] == ["n-0", "n-1"]
        nothing = deploy.run("heal")
        assert (nothing.status, "no path is different" in nothing.out) == (0, True)
        split = ok(deploy.run("partition", "n-0,n-1", "n-2", "--json"))
        assert split["nodes"] == ["n-0", "n-1", "n-2"]
        state = deploy.run("status", "--json").json["links"]
        assert (state["changes"], state["last"]) == (4, "partition n-0, n-1 | n-2 (by hand)")
        assert ok(deploy.run("heal", "--json"))["nodes"] == ["n-0", "n-1", "n-2"]
        done = end(process)
    last = link_records(deploy, "r", "n-0")[-1]
    assert (last["at"], last["what"]) == (20.0, ["n-0 - n-1: rate 2mbit"])
    assert last["applied"]["n-1"]["out"]["delay_ms"] == 30, "what the hand has set stays"
    assert last["applied"]["n-1"]["out"]["rate_bps"] == 2_000_000
    verdict = deploy.verdict("r")
    assert verdict["reasons"] == ["the links were not measured (links: off)"]
    assert len(verdict["remarks"]) == 5
    assert "n-0 - n-1: delay 30ms" in verdict["remarks"][0]


def test_nodes_are_killed_paused_and_restarted(deploy: Deploy) -> None:
    deploy.small.write_text(FILE + "events:\n  - {at: 1s, pause: n-2}\n  - {at: 2s, resume: n-2}\n")
    with deploy.training("--set", "stop.time=18s", name="r") as process:
        log = deploy.path("r") / "control.jsonl"
        until(lambda: len(events(log, "control")) == 2, what="pause and resume")
        for event, at in zip(events(log, "control"), (1.0, 2.0), strict=True):
            assert event["by"] == "plan"
            assert event["error"] is None
            assert 0 <= event["begun"] - at <= 0.25
        killed = ok(deploy.run("kill", "n-1", "--json"))
        assert (killed["member"], killed["verb"]) == ("n-1", "crash")
        again = deploy.run("kill", "n-1")
        assert again.status == 2
        assert "n-1 has crashed" in again.err
        done = deploy.run("link", "set", "n-0", "n-1", "--delay", "9ms")
        assert done.status == 0
        assert "n-1 is killed" in done.out
        ok(deploy.run("restart", "n-1", "--json"))
        path = deploy.path("r") / "nodes" / "n-1.jsonl"
        before = len(events(path, "round"))
        until(lambda: len(events(path, "round")) > before, what="n-1 is back, and trains")
        until(lambda: bool(link_records(deploy, "r", "n-1")), what="n-1 sets its links")
        applied = link_records(deploy, "r", "n-1")[-1]["applied"]
        assert applied["n-0"]["out"]["delay_ms"] == 9
        ended = end(process)
    assert "n-1: killed by hand at" in ended.err
    verdict = deploy.verdict("r")
    assert verdict["reasons"] == ["the links were not measured (links: off)"], ended.err
    remarks = "\n".join(verdict["remarks"])
    assert "n-2: paused by plan at 1 s" in remarks
    assert "n-2: resumed by plan at 2 s" in remarks
    assert "n-1: killed by hand at" in remarks
    assert "n-1: restarted by hand at" in remarks
    summary = json.loads((deploy.path("r") / "summary.json").read_text())
    assert any("n-1: got the model from n-" in remark for remark in verdict["remarks"])
    assert summary["nodes"]["n-1"]["on_purpose"] is None, "it takes part again"
    assert summary["nodes"]["n-1"]["state"] == "present"
    assert summary["nodes"]["n-2"]["on_purpose"] is None
    assert [entry["verb"] for entry in summary["interventions"]] == [
        "pause", "resume", "crash", "links", "restart",
    ]  # fmt: skip


def test_planned_ends_do_not_spoil_a_run_and_nobody_waits(deploy: Deploy) -> None:
    """`leave` in order, `crash` at once, and one that stays paused to the end."""
    deploy.small.write_text(
        FILE.replace("replicas: 3", "replicas: 4")
        + "events:\n  - {at: 1s, leave: n-1}\n  - {at: 1s, crash: n-2}\n  - {at: 2s, pause: n-3}\n"
    )
    done = deploy.run(
        "up", str(deploy.small), "--backend", "local", "--name", "r", "--set", "stop.time=6s",
        "--json",
    )  # fmt: skip
    assert done.json["reasons"] == ["the links were not measured (links: off)"], done.err
    assert done.json["remarks"] == [
        "n-1: told to leave by plan at 1 s",
        "n-2: killed by plan at 1 s",
        "n-3: paused by plan at 2 s",
    ]
    finish = events(deploy.path("r") / "coordinator.jsonl", "finish")[0]
    assert finish["error"] is None
    assert finish["t"] < 12, "not a lease for each"


def test_a_run_that_is_not_under_way_cannot_be_changed(deploy: Deploy) -> None:
    stop = ("--set", "stop.rounds=2")
    deploy.run("up", str(deploy.small), "--backend", "local", "--name", "over", *stop)
    for command in (("link", "down", "n-0", "n-1"), ("heal",), ("kill", "n-1")):
        done = deploy.run(*command)
        assert done.status == 1
        assert "run over is not under way: it is ended" in done.err
    assert deploy.run("heal", "--run", "nothing").status == 2
