"""`deploy verify` on real containers: it agrees with a network that is right, and with no other."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker.support import Deploy, Done, end, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

RING = """
name: three
nodes: 3
network: {shape: ring, link: {rate: 10mbit, delay: 5ms}}
events:
  - {at: 3s, link: [n-0, n-1], set: {rate: 4mbit, delay: 20ms}}
  - {at: 6s, down: [n-1, n-2]}
algorithm: {name: divshare, local_steps: 4}
stop: {time: 60s}
"""


class Run:
    """A verification and what it left behind."""

    def __init__(self, deploy: Deploy, name: str, done: Done) -> None:
        self.path = deploy.path(name, topology="three")
        self.done = done

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def flow(self, segment: int, source: str, target: str) -> dict[str, Any]:
        flows = self.read("verify.json")["segments"][segment]["flows"]
        (found,) = [f for f in flows if (f["from"], f["to"]) == (source, target)]
        return dict(found)


def ring(deploy: Deploy) -> str:
    file = deploy.folder / "three.yaml"
    file.write_text(RING)
    return str(file)


@pytest.fixture(scope="module")
def good(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    deploy = Deploy(tmp_path_factory.mktemp("verify"))
    begun = time.monotonic()
    done = deploy.run("verify", ring(deploy), *deploy.backend, "--name", "good", "--json")
    run = Run(deploy, "good", done)
    assert time.monotonic() - begun < 60
    yield run
    deploy.run("down", "--all")
    assert deploy.leftovers() == []


def test_a_network_that_is_right_is_valid(good: Run) -> None:
    assert good.done.status == 0, good.done.err + str(good.read("verdict.json"))
    assert good.read("verdict.json")["verdict"] == "valid"
    assert good.read("verify.json")["ok"] is True
    assert good.done.json["verify"] == good.read("verify.json")


def test_flows_are_measured_in_every_segment(good: Run) -> None:
    rates = [good.flow(segment, "n-0", "n-1") for segment in range(3)]
    assert [flow["asked_bps"] for flow in rates] == [10_000_000, 4_000_000, 4_000_000]
    assert all(flow["ok"] for flow in rates)
    for flow in rates:
        assert flow["measured_bps"] == pytest.approx(0.936 * flow["asked_bps"], rel=0.10)
    gone = good.flow(2, "n-1", "n-2")
    assert (gone["asked_bps"], gone["expected_bps"], gone["ok"]) == (None, 0, True)
    assert good.flow(1, "n-1", "n-2")["measured_bps"] > 9e6


def test_events_are_in_force_everywhere(good: Run) -> None:
    events = good.read("verify.json")["events"]
    assert [event["at_s"] for event in events] == [3.0, 6.0]
    for event in events:
        assert event["ok"] is True, event
        assert event["spread_ms"] <= 20


def test_no_node_has_torch_or_learns(good: Run) -> None:
    records = (good.path / "nodes" / "n-0.jsonl").read_text()
    assert '"trainer"' not in records
    assert '"kind":"throughput"' in records
    assert '"kind":"merged"' not in (good.path / "coordinator.jsonl").read_text()
    assert not list((good.path / "nodes").glob("*.f32"))


def test_pictures_are_drawn(good: Run) -> None:
    for name in ("network.png", "timeline.png"):
        assert (good.path / name).read_bytes().startswith(b"\x89PNG")


def change_behind_its_back(deploy: Deploy, name: str) -> None:
    """Slow n-0's class for n-1 down to 5 Mbit/s, with tc in the container."""
    container = deploy.container(name, "n-0")
    plan = json.loads((deploy.path(name, topology="three") / "plan.json").read_text())
    (address,) = [node["address"] for node in plan["nodes"] if node["name"] == "n-1"]
    _, output = container.exec_run(["tc", "filter", "show", "dev", "eth0"])
    wanted = "".join(f"{int(byte):02x}" for byte in address.split("."))
    match = re.search(
        rf"flowid (1:[0-9a-f]+)[^\n]*\n\s*match {wanted}/ffffffff at 16", output.decode()
    )
    assert match, output.decode()
    command = f"tc class change dev eth0 classid {match[1]} htb rate 5mbit ceil 5mbit"
    status, output = container.exec_run(command.split())
    assert status == 0, output.decode()


def test_a_class_that_is_changed_behind_its_back_is_found(deploy: Deploy) -> None:
    """The negative control: n-0's class for n-1 has 5 instead of 10 Mbit/s while all send."""
    process = deploy.start(
        "verify", ring(deploy), *deploy.backend, "--name", "bad", "--until", "1s"
    )
    records = deploy.path("bad", topology="three") / "nodes" / "n-0.jsonl"
    until(
        lambda: (
            (records.exists() and '"kind":"start"' in records.read_text())
            or process.poll() is not None
        ),
        what="all send",
        deadline_s=60,
    )
    change_behind_its_back(deploy, "bad")
    run = Run(deploy, "bad", end(process))
    assert run.done.status == 1
    verdict = run.read("verdict.json")
    assert verdict["verdict"] == "invalid"
    (flow,) = [reason for reason in verdict["reasons"] if reason.startswith("flow ")]
    assert "flow n-0 to n-1" in flow, verdict
    assert run.flow(0, "n-0", "n-1")["ok"] is False
    assert run.flow(0, "n-1", "n-2")["ok"] is True
    assert "flow n-0 to n-1" in run.done.out
    listed = deploy.run("results")
    assert "three/bad" in listed.out
    assert "verify" in listed.out
    assert "accuracy" not in deploy.run("results", "bad").out
