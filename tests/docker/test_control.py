"""A run of three containers that is changed while it goes on: what is ordered is measured."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.docker.support import Deploy, Done, end, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

FILE = """
name: small
nodes: {n: {replicas: 3, compute: {step: 200ms}}}
network: {shape: ring, link: {rate: 20mbit, delay: 5ms}}
algorithm: {name: divshare, local_steps: 2}
stop: {time: 90s}
links: "off"
deadlines: {lease: 4s, stop: 5s, peer: 4s}
"""
BUSY_MS = 20.0
"""What training traffic and a busy host may add to the median of some round trips."""
EARLY_MS = 2.0
"""How exact a delay is, is measured elsewhere (tests/links)."""


@pytest.fixture
def ring(deploy: Deploy) -> Deploy:
    deploy.small.write_text(FILE)
    return deploy


def ok(done: Done) -> Any:
    assert done.status == 0, done.err
    return done.json


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["kind"] == kind]


def address(deploy: Deploy, node: str) -> str:
    networks = deploy.container("r", node).attrs["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def ping_ms(deploy: Deploy, source: str, target: str) -> float | None:
    """The median round trip of some packets; None when none came back.

    Not the shortest: among training traffic the delay line is on time on average.

    -U: up to when the answer reaches the program. The kernel's time stamp is from before the
    delay line.
    """
    command = ["ping", "-U", "-c", "32", "-i", "0.05", "-W", "1", address(deploy, target)]
    _, output = deploy.container("r", source).exec_run(command)
    trips = [float(ms) for ms in re.findall(r" time=([0-9.]+) ms", output.decode())]
    return statistics.median(trips) if trips else None


def test_links_are_what_was_ordered_last(ring: Deploy) -> None:
    """Set, taken away, brought back, partitioned and healed; then what the file plans."""
    with ring.training(name="r") as process:
        before = ping_ms(ring, "n-0", "n-1")
        assert before is not None
        assert 10 - EARLY_MS <= before <= 10 + BUSY_MS
        slow = ok(ring.run("link", "set", "n-0", "n-1", "--delay", "60ms", "--rate", "5mbit",
                           "--json"))  # fmt: skip
        assert slow["nodes"] == ["n-0", "n-1"]
        found = ping_ms(ring, "n-0", "n-1")
        assert found is not None
        assert 120 - EARLY_MS <= found <= 120 + BUSY_MS
        ok(ring.run("link", "down", "n-0", "n-1", "--json"))
        assert ping_ms(ring, "n-0", "n-1") is None
        other = ping_ms(ring, "n-0", "n-2")
        assert other is not None
        assert other >= 10 - EARLY_MS
        ok(ring.run("link", "up", "n-0", "n-1", "--json"))
        back = ping_ms(ring, "n-0", "n-1")
        assert back is not None
        assert 120 - EARLY_MS <= back <= 120 + BUSY_MS, "as it was set before"
        parted = ok(ring.run("partition", "n-0,n-1", "n-2", "--json"))
        assert parted["nodes"] == ["n-0", "n-1", "n-2"]
        assert ping_ms(ring, "n-2", "n-0") is None
        assert ping_ms(ring, "n-1", "n-0") is not None
        ok(ring.run("heal", "--json"))
        assert ping_ms(ring, "n-2", "n-0") is not None
        for node in ("n-0", "n-1", "n-2"):
            records = events(ring.path("r") / "nodes" / f"{node}.jsonl", "link")
            assert records
            assert all(record["error"] is None for record in records)
        process.terminate()
        end(process)
    remarks = ring.verdict("r")["remarks"]
    assert [re.sub(r" at [0-9.]+ s:", ":", remark) for remark in remarks] == [
        "links changed by hand: n-0 - n-1: rate 5mbit, delay 60ms",
        "links changed by hand: n-0 - n-1 down",
        "links changed by hand: n-0 - n-1 up",
        "links changed by hand: partition n-0, n-1 | n-2",
        "links changed by hand: heal",
    ]


def test_nodes_are_paused_killed_and_restarted(ring: Deploy) -> None:
    """By plan and by hand; the verdict names them, and they are no reason against the run."""
    ring.small.write_text(
        FILE
        + "events:\n"
        + "  - {at: 1s, link: [n-1, n-2], set: {delay: 25ms}}\n"
        + "  - {at: 2s, pause: n-2}\n  - {at: 3s, resume: n-2}\n"
    )
    with ring.training("--set", "stop.time=24s", name="r") as process:
        log = ring.path("r") / "control.jsonl"
        until(lambda: len(events(log, "control")) == 2, what="pause and resume")
        for event, at in zip(events(log, "control"), (2.0, 3.0), strict=True):
            assert (event["by"], event["error"]) == ("plan", None)
            assert 0 <= event["begun"] - at <= 0.25
        ok(ring.run("pause", "n-2", "--json"))
        assert ring.container("r", "n-2").status == "paused"
        assert ring.run("pause", "n-2").status == 2
        ok(ring.run("resume", "n-2", "--json"))
        ok(ring.run("kill", "n-1", "--json"))
        ok(ring.run("restart", "n-1", "--json"))
        path = ring.path("r") / "nodes" / "n-1.jsonl"
        before = len(events(path, "round"))
        until(lambda: len(events(path, "round")) > before, what="n-1 is back, and trains")
        until(lambda: ping_ms(ring, "n-1", "n-2"), what="its links are there")
        found = ping_ms(ring, "n-1", "n-2")
        assert found is not None
        assert 50 - EARLY_MS <= found <= 50 + BUSY_MS, "as they are by then"
        done = end(process)
    verdict = ring.verdict("r")
    assert verdict["reasons"] == ["the links were not measured (links: off)"], done.err
    said = [re.sub(r" at [0-9.]+ s.*", "", remark) for remark in verdict["remarks"]]
    provider, took = re.findall(r"from (n-[02]) in ([0-9.]+) s", said[-1])[0]
    assert said == [
        "n-2: paused by plan",
        "n-2: resumed by plan",
        "n-2: paused by hand",
        "n-2: resumed by hand",
        "n-1: killed by hand",
        "n-1: restarted by hand",
        f"n-1: got the model from {provider} in {took} s",
    ]
    assert "n-1: killed by hand at" in done.err
