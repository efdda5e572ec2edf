"""Rounds in containers: what is cut off, killed, started again, or comes late.

The races of the same names are played through on virtual time in tests/simulation; here processes
really die and packets really do not pass.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.docker.support import ROOT, Deploy, Done, end, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(420)]

LEASE_S = 3
NOT_MEASURED = "the links were not measured (links: off)"

RING = f"""
name: small
nodes:
  n: {{replicas: 4, compute: {{step: 10ms}}}}
  late: {{standby: true, compute: {{step: 10ms}}}}
network:
  link: {{rate: 10mbit, delay: 2ms}}
  links:
    - {{from: n-0, to: n-1}}
    - {{from: n-1, to: n-2}}
    - {{from: n-2, to: n-3}}
    - {{from: n-3, to: n-0}}
    - {{from: n-3, to: late}}
    - {{from: late, to: n-0}}
algorithm: {{name: dpsgd, local_steps: 16}}
training: {{evaluate_every: 2}}
stop: {{time: 120s}}
links: "off"
deadlines: {{lease: {LEASE_S}s, stop: 5s, peer: 3s}}
signaling: {{connection_timeout: 2s, min_participants: 2}}
"""
ASYNC = ("--set", "algorithm={name: divshare, local_steps: 16, degree: 2}")


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    """Records of one kind, as far as they are written."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in whole if record["kind"] == kind]


class Run:
    """A run of the small topology that goes on."""

    def __init__(self, deploy: Deploy, name: str) -> None:
        self.deploy = deploy
        self.name = name
        self.path = deploy.path(name)

    def said(self, kind: str, **fields: object) -> list[dict[str, Any]]:
        """What the coordinator has recorded."""
        found = records(self.path / "coordinator.jsonl", kind)
        return [r for r in found if all(r.get(key) == value for key, value in fields.items())]

    def of(self, node: str, kind: str) -> list[dict[str, Any]]:
        return records(self.path / "nodes" / f"{node}.jsonl", kind)

    def rounds(self, node: str) -> list[float]:
        """When a node ended each of its rounds, in Unix time."""
        return [record["wall"] for record in self.of(node, "round")]

    def kill(self, member: str) -> float:
        """As somebody would who knows nothing of us; when."""
        container = self.deploy.container(self.name, member)
        at = time.time()
        container.kill()
        return at

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text()))


@contextmanager
def running(deploy: Deploy, text: str, name: str, *arguments: str) -> Iterator[Run]:
    deploy.small.write_text(text)
    with deploy.training("--name", name, *arguments, name=name) as process:
        run = Run(deploy, name)
        yield run
        if process.poll() is None:
            process.terminate()
        end(process)


def ok(done: Done) -> Any:
    assert done.status == 0, done.err
    return done.json


def gaps(times: list[float], *, since: float, until_: float) -> list[float]:
    """Times between two rounds that end in this span."""
    pairs = itertools.pairwise(times)
    return [after - before for before, after in pairs if since <= after <= until_]


# T5: one that some cannot reach ------------------------------------------------------------------

MANY = 16
CUT = ("n-0", "n-1", "n-2")
TIMEOUT_S, RETRIES = 3, 2
FULL = f"""
name: small
nodes: {{n: {{replicas: {MANY}, compute: {{step: 4s}}}}}}
network: {{shape: full, link: {{rate: 50mbit}}}}
algorithm: {{name: dpsgd, local_steps: 1}}
training: {{evaluate_every: 100}}
stop: {{time: 60s}}
links: "off"
deadlines: {{lease: 15s, stop: 20s, peer: 10s}}
signaling: {{connection_timeout: {TIMEOUT_S}s, max_connection_retry: {RETRIES}}}
"""


def cut_off(deploy: Deploy, run: str, node: str, others: tuple[str, ...]) -> None:
    """No packet passes between a node and the others from now on."""
    rules = []
    for other in others:
        networks = deploy.container(run, other).attrs["NetworkSettings"]["Networks"]
        address = next(iter(networks.values()))["IPAddress"]
        rules += [f"iptables -I INPUT -s {address} -j DROP"]
        rules += [f"iptables -I OUTPUT -d {address} -j DROP"]
    status, output = deploy.container(run, node).exec_run(["sh", "-ec", "; ".join(rules)])
    assert status == 0, output.decode()


@pytest.mark.parametrize("unreachable", ["edges", "peers"])
def test_t5_one_cut_off_from_three_costs_the_others_no_more_than_the_retries(
    deploy: Deploy, unreachable: str
) -> None:
    """16 containers, connected all with all; the packets of three pairs do not pass."""
    deploy.small.write_text(FULL)
    process = deploy.up("--name", "cut", "--set", f"signaling.unreachable={unreachable}")
    run = Run(deploy, "cut")
    try:
        until(lambda: run.said("start") or process.poll() is not None, what="start", deadline_s=120)
        assert run.said("start"), end(process).err
        cut_off(deploy, "cut", "n-15", CUT)
        assert not run.said("rounds", state="connect"), "cut off before the first round connects"
        until(lambda: len(run.said("rounds", state="share")) >= 2, what="shared", deadline_s=60)
        started = run.said("rounds", state="connect", round=0)
        shared = run.said("rounds", state="share", round=0)
        assert [r["attempt"] for r in started] == list(range(1, RETRIES + 2))
        took = shared[0]["wall"] - started[0]["wall"]
        assert took <= TIMEOUT_S * (RETRIES + 1) + 2
        again = run.said("rounds", state="share", round=1)[0]
        connects = run.said("rounds", state="connect", round=1)
        assert len(connects) == 1, "what was given up is not waited for again"
        assert again["wall"] - connects[0]["wall"] < TIMEOUT_S
        dropped = {tuple(r["peers"]) for r in run.said("edge", state="dropped")}
        gone = [r["member"] for r in run.said("member", state="expelled")]
        pairs = {tuple(sorted((node, "n-15"))) for node in CUT}
        assert (dropped, gone) == ((pairs, []) if unreachable == "edges" else (set(), ["n-15"]))
        status = ok(deploy.run("status", "cut", "--json"))
        states = {row["node"]: row for row in status["nodes"]}
        if unreachable == "peers":
            until(lambda: not _alive(deploy, "n-15"), what="n-15 has gone")
            assert states["n-15"]["state"] == "expelled"
            assert states["n-15"]["error"]
        others = [f"n-{i}" for i in range(MANY) if unreachable == "edges" or i != 15]
        for node in others:
            until(lambda node=node: run.of(node, "share"), what=f"{node} has shared")
            first = run.of(node, "share")[0]
            # All that n-15 has not been cut off from is aggregated in the first round.
            assert first["round"] == 0
            assert set(first["missing"]) == set()
    finally:
        process.terminate()
        end(process)
    verdict = deploy.verdict("cut")
    told = "\n".join(verdict["reasons"])
    if unreachable == "edges":
        assert "n-0 - n-15" in told
        assert "not connected in round 0 after 3 attempts" in told
    else:
        assert "n-15: expelled: " in told
    assert verdict["exit_status"] == 1


def _alive(deploy: Deploy, node: str) -> bool:
    labels = ["peerbed.run=cut", f"peerbed.node={node}"]
    return bool(deploy.client.containers.list(filters={"label": labels}))


# T10: the provider dies --------------------------------------------------------------------------


def test_t10_a_provider_that_dies_is_replaced(deploy: Deploy) -> None:
    """At 60 kbit/s the model takes 5 s; whoever serves it is killed after a second."""
    slow = RING.replace("to: late}", "to: late, rate: 60kbit}").replace(
        "to: n-0}\nalg", "to: n-0, rate: 60kbit}\nalg"
    )
    assert slow.count("60kbit") == 2
    with running(deploy, slow, "t10", "--set", "deadlines.peer=10s") as run:
        adding = deploy.start("add", "late", "--json")
        (first,) = until(lambda: run.said("sync", state="assigned"), what="a provider")
        provider = first["provider"]
        time.sleep(1)  # into the transfer
        assert not run.said("sync", state="done")
        killed = run.kill(provider)
        told = ok(end(adding, timeout_s=60))
        assert told["provider"] != provider
        assert told["provider"] in {"n-0", "n-3"}
        failed = run.said("sync", state="failed")
        assert [r["provider"] for r in failed] == [provider]
        (done,) = run.said("sync", state="done")
        assert done["wall"] > killed
        until(lambda: run.of("late", "round"), what="late takes part")


# T13: the coordinator dies -----------------------------------------------------------------------


def test_t13_synchronous_rounds_resume_within_a_lease(deploy: Deploy) -> None:
    with running(deploy, RING, "t13") as run:
        nodes = [f"n-{i}" for i in range(4)]
        until(lambda: all(len(run.rounds(n)) > 8 for n in nodes), what="some rounds")
        killed = run.kill("coordinator")
        time.sleep(0.5)
        before = {node: len(run.rounds(node)) for node in nodes}
        until(
            lambda: all(len(run.rounds(n)) >= before[n] + 3 for n in nodes),
            what="rounds go on",
            deadline_s=30,
        )
        for node in nodes:
            resumed = next(t for t in run.rounds(node)[before[node] + 1 :])
            assert resumed - killed <= LEASE_S + 5, node
            numbers = [record["round"] for record in run.of(node, "round")]
            assert numbers == sorted(set(numbers)), "no round twice"
        states = [record["phase"] for record in run.said("phase")]
        assert "recovering" in states
        assert states[-1] == "running"
        ok(deploy.run("kill", "n-3", "--json"))  # it takes orders again
        until(lambda: run.said("member", member="n-3", state="killed"), what="n-3 is gone")
    verdict = deploy.verdict("t13")
    assert any("coordinator: started again by deploy at" in r for r in verdict["remarks"])
    assert run.summary()["signaling"]["coordinator_restarts"] == 1


def test_t13_asynchronous_training_never_stops(deploy: Deploy) -> None:
    with running(deploy, RING, "t13", *ASYNC, "--set", "stop.time=25s") as run:
        nodes = [f"n-{i}" for i in range(4)]
        until(lambda: all(len(run.rounds(n)) > 20 for n in nodes), what="some rounds")
        killed = run.kill("coordinator")
        until(lambda: run.said("phase", phase="recovering"), what="it is back")
        away = run.said("phase", phase="recovering")[0]["wall"] - killed
        until(lambda: run.said("stop"), what="the end", deadline_s=60)
        until(lambda: (run.path / "verdict.json").exists(), what="the verdict", deadline_s=60)
        for node in nodes:
            times = run.rounds(node)
            without = gaps(times, since=killed, until_=killed + 8)
            assert sum(without) > 7, "it trained all the time"
            # One that waited for the coordinator would have waited as long as that was away.
            assert max(without) < away / 2, node
    verdict = deploy.verdict("t13")
    assert verdict["reasons"] == [NOT_MEASURED]
    assert run.summary()["stop"] == "time"


# T14: a member dies and returns under its name ----------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_t14_a_member_returns_with_the_same_name(deploy: Deploy, mode: str) -> None:
    """Killed by hand, brought back; then removed in order, and back again."""
    arguments = ASYNC if mode == "async" else ()
    with running(deploy, RING, "t14", *arguments, "--set", "stop.time=60s") as run:
        until(lambda: len(run.rounds("n-1")) > 5, what="some rounds")
        assert waiting(run, "late") == "created"
        ok(deploy.run("kill", "n-1", "--json"))
        alone = len(run.rounds("n-0"))
        until(lambda: len(run.rounds("n-0")) > alone + 3, what="the others go on")
        for verb in ("add", "remove", "add"):
            told = ok(deploy.run(verb, "n-1", "--json"))
            if verb == "add":
                assert told["provider"] in {"n-0", "n-2", "n-3"}
                assert told["held"] > 0
                ended = len(run.of("n-1", "round"))
                until(lambda e=ended: len(run.of("n-1", "round")) > e + 3, what="n-1 trains")
        row = next(
            r for r in ok(deploy.run("status", "t14", "--json"))["nodes"] if r["node"] == "n-1"
        )
        assert row["state"] in {"training", "ready", "connecting", "armed", "sharing"}
        until(lambda: run.said("stop"), what="the end", deadline_s=90)
        until(lambda: (run.path / "verdict.json").exists(), what="the verdict", deadline_s=60)
    verdict = deploy.verdict("t14")
    assert verdict["reasons"] == [NOT_MEASURED]
    summary = run.summary()
    assert {name: node["state"] for name, node in summary["nodes"].items()} == {
        **{f"n-{i}": "present" for i in range(4)},
        "late": "standby",
    }
    assert [sync["state"] for sync in summary["signaling"]["syncs"]] == ["done", "done"]
    for node in (f"n-{i}" for i in range(4)):
        numbers = [r["round"] for r in run.of(node, "round") if r["t"] is not None]
        assert mode == "async" or numbers == sorted(set(numbers)), "no round twice"


def waiting(run: Run, node: str) -> str:
    """The state of the container of a node that was not started."""
    labels = [f"peerbed.run={run.name}", f"peerbed.node={node}"]
    found = run.deploy.client.containers.list(all=True, filters={"label": labels})
    return str(found[0].status)


# A newcomer --------------------------------------------------------------------------------------


def test_a_newcomer_knows_what_the_others_know_and_costs_them_no_update(deploy: Deploy) -> None:
    """topologies/sync-ring.yaml, with a newcomer that comes back twice.

    What it costs in time is measured by `scripts/bench signaling-newcomer`.
    """
    text = (
        (ROOT / "topologies" / "sync-ring.yaml")
        .read_text()
        .replace("name: sync-ring", "name: small")
    )
    events = (
        "[{at: 8s, join: late}, {at: 18s, crash: late}, {at: 20s, return: late}, "
        "{at: 30s, crash: late}, {at: 32s, return: late}]"
    )
    arguments = ("--set", f"events={events}", "--set", "stop.time=44s", "--set", "links=off")
    with running(deploy, text, "new", *arguments) as run:
        until(lambda: (run.path / "verdict.json").exists(), what="the verdict", deadline_s=150)
    verdict = deploy.verdict("new")
    assert verdict["reasons"] == [NOT_MEASURED]
    syncs = run.said("sync", state="done")
    assert len(syncs) == 3
    for sync in syncs:
        assert (
            abs(first_accuracy(run, "late", sync["wall"]) - mean_accuracy(run, sync["wall"]))
            <= 0.02
        )
    shares = [record for i in range(4) for record in run.of(f"n-{i}", "share")]
    # Of late something may be missing in the round in which it is killed.
    assert all(set(record["missing"]) <= {"late"} for record in shares), "none else is late"


def first_accuracy(run: Run, node: str, since: float) -> float:
    """What a node knew when it was evaluated first after a time."""
    return float(next(r["accuracy"] for r in run.of(node, "evaluation") if r["wall"] > since))


def mean_accuracy(run: Run, at: float) -> float:
    """What the others knew then, on average: the newest evaluation of each."""
    newest = [
        [r["accuracy"] for r in run.of(f"n-{i}", "evaluation") if r["wall"] <= at][-1]
        for i in range(4)
    ]
    return statistics.fmean(newest)
