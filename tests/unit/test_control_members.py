"""`deploy add` and `remove`: the orders, what is waited for, and what is said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from deploy.__main__ import main
from deploy.order_files import make_folder, read_orders
from deploy.orders import Order
from deploy.plan import BackendKind, make_plan, plan_json
from deploy.results import Results, RunFolder
from deploy.topology import parse_topology

FILE = """
name: pair
nodes: {n: 2, late: {standby: true}}
network: {shape: star, link: {rate: 10mbit, delay: 5ms}}
algorithm: {name: divshare, local_steps: 2}
stop: {rounds: 2, time: 30s}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that is under way, as far as its folder tells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.control._COORDINATOR_S", 2.0)
    made = Results(tmp_path / "results").create(topology="pair", run_id="r1")
    topology = parse_topology(FILE.encode(), path=Path("pair.yaml"))
    subnet = IPv4Network("10.99.0.0/24")
    plan = make_plan(topology, run_id="r1", backend=BackendKind.DOCKER, subnet=subnet)
    made.write_text(made.plan_file, plan_json(plan))
    made.write_text(made.topology_file, FILE)
    made.write_json(made.manifest_file, {"overrides": []})
    say(made, "start", at_wall=time.time() - 5)
    say(made, "phase", phase="running")
    make_folder(made)
    return made


def say(folder: RunFolder, kind: str, **fields: Any) -> None:
    """The coordinator writes a record."""
    record = {"t": None, "wall": time.time(), "node": "coordinator", "kind": kind, **fields}
    with folder.coordinator_file.open("a") as file:
        file.write(json.dumps(record) + "\n")


def did(folder: RunFolder, order: Order, *, error: str | None = None) -> None:
    """The process that owns the run has done something to a node."""
    record = {"t": 5.5, "wall": time.time(), "node": "deploy", "kind": "control", "error": error}
    about = {"number": order.number, "member": order.node, "verb": order.verb, "by": order.by}
    with folder.control_log.open("a") as file:
        file.write(json.dumps({**record, **about, "what": list(order.what)}) + "\n")


def follow(folder: RunFolder, then: Callable[[Order], None]) -> None:
    """Answer the next two orders, one for links and one for a node."""
    end = time.monotonic() + 10
    known = {order.number for order in read_orders(folder)}
    left = 2
    while left and time.monotonic() < end:
        for order in read_orders(folder):
            if order.number in known:
                continue
            known.add(order.number)
            left -= 1
            say(folder, "control", number=order.number, state="ordered")
            if order.kind == "node":
                then(order)
        time.sleep(0.005)


@contextmanager
def following(folder: RunFolder, then: Callable[[Order], None]) -> Iterator[None]:
    thread = threading.Thread(target=follow, args=(folder, then))
    thread.start()
    yield
    thread.join()


def comes(folder: RunFolder, order: Order) -> None:
    did(folder, order)
    member = order.node
    say(folder, "member", member=member, state="joined", emulator="netem")
    say(folder, "member", member=member, state="syncing")
    say(folder, "sync", sync=1, member=member, provider="n-1", state="assigned")
    say(folder, "sync", sync=1, member=member, provider="n-1", state="done", held=7)
    say(folder, "member", member=member, state="synced", held=7)


def test_a_node_on_standby_joins(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with following(folder, lambda order: comes(folder, order)):
        assert main(["add", "late", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["member"], told["verb"], told["provider"]) == ("late", "join", "n-1")
    assert told["held"] == 7
    assert 0 < told["took_s"] < 10
    assert told["t"] == pytest.approx(told["asked"] + told["took_s"])
    links, node = read_orders(folder)
    assert (links.kind, node.kind, node.verb, node.node) == ("links", "node", "join", "late")
    assert links.at_ns == node.at_ns
    change = links.plans["n-0"]["changes"][0]
    assert [path["name"] for path in change["peers"] if path.get("out")] == ["late"]
    assert main(["add", "late"]) == 2
    assert "late is running" in capsys.readouterr().err


def test_what_is_said(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with following(folder, lambda order: comes(folder, order)):
        assert main(["add", "late"]) == 0
    out = capsys.readouterr().out
    assert "late takes part after" in out
    assert "with the model of n-1, 7 rounds old" in out


def test_one_leaves_and_returns(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    def goes(order: Order) -> None:
        did(folder, order)
        say(folder, "member", member="n-1", state="left")

    with following(folder, goes):
        assert main(["remove", "n-1"]) == 0
    assert "n-1 has left after" in capsys.readouterr().out
    links, node = read_orders(folder)
    assert node.verb == "leave"
    assert "n-0" not in links.plans  # its links stay, so that its peers hear that it is gone
    assert main(["remove", "n-1"]) == 2
    assert "n-1 has left" in capsys.readouterr().err
    assert main(["restart", "n-1"]) == 2
    assert "deploy add n-1" in capsys.readouterr().err
    with following(folder, lambda order: comes(folder, order)):
        assert main(["add", "n-1"]) == 0
    assert read_orders(folder)[-1].verb == "return"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["add", "n-0"], "n-0 is running"),
        (["add", "lat"], "did you mean 'late'"),
        (["remove", "late"], "late has not joined yet"),
        (["kill", "late"], "deploy add late"),
    ],
)
def test_what_cannot_be_is_status_2(
    command: list[str],
    message: str,
    folder: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert read_orders(folder) == []


def test_one_that_fails_on_its_way_is_told(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(order: Order) -> None:
        did(folder, order)
        say(folder, "member", member="late", state="joined")
        say(folder, "member", member="late", state="failed", error="no provider has the model")

    with following(folder, fails):
        assert main(["add", "late"]) == 1
    assert "late does not take part: no provider has the model" in capsys.readouterr().err


def test_one_that_cannot_be_started_is_told(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with following(folder, lambda order: did(folder, order, error="late: no container")):
        assert main(["add", "late"]) == 1
    assert "late: no container" in capsys.readouterr().err


def test_a_run_that_ends_meanwhile_is_told(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(order: Order) -> None:
        did(folder, order)
        say(folder, "stop", reason="time")

    with following(folder, ends):
        assert main(["add", "late"]) == 1
    assert "the run ended before late took part: it was started" in capsys.readouterr().err


def test_nodes_that_send_load_are_the_instruments(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads(folder.plan_file.read_text())
    plan["coordinator"]["rounds"] = None
    folder.plan_file.write_text(json.dumps(plan))
    assert main(["add", "late"]) == 2
    assert "its nodes are the instruments" in capsys.readouterr().err
