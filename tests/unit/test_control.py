"""Orders by hand and planned actions: files, who does what when, and the verdict on them."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.__main__ import main
from deploy.actions import Actions
from deploy.checks import judge
from deploy.history import Event, History, MemberState
from deploy.interventions import expected_changes, plan_json, unapplied
from deploy.order_files import make_folder, one_at_a_time, read_orders, write_order
from deploy.orders import BY_HAND, BY_PLAN, Order
from deploy.plan import PlannedAction
from deploy.progress import Progress
from deploy.results import RunFolder
from node.config import LinkChange, PathChange, Replan, SharedLink
from node.core.ids import NodeId
from node.errors import RunFailed
from node.runtime.control_folder import order_from_json
from node.units import SECOND
from tests.unit.runs import (
    NAMES,
    FakeBackend,
    changed,
    event,
    good_history,
    new_folder,
    node_events,
    plan,
)

N0, N1 = (NodeId(name) for name in NAMES)


def node_order(verb: str = "crash", *, by: str = BY_HAND, number: int = 0) -> Order:
    return Order(
        number=number, kind="node", by=by, at_ns=SECOND, what=(f"{verb} at 1 s",), node="n-1",
        verb=verb,
    )  # fmt: skip


def links_order(*changes: LinkChange, number: int = 1, at_s: float = 1.0) -> Order:
    at = round(at_s * SECOND)
    plans = {str(N0): plan_json(Replan(at_ns=at, changes=changes))}
    return Order(
        number=number, kind="links", by=BY_HAND, at_ns=at, what=("a - b down (by hand)",),
        event={"at": "1s", "down": ["n-0", "n-1"]}, plans=plans,
    )  # fmt: skip


def change(at_s: float) -> LinkChange:
    return LinkChange(at_ns=round(at_s * SECOND), what=("w",), peers=(PathChange(name=N1),))


# Files -------------------------------------------------------------------------------------------


def test_orders_get_numbers_of_their_own_whoever_writes_at_the_same_time(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: write_order(folder, node_order()), range(40)))
    assert sorted(order.number for order in written) == list(range(1, 41))
    assert [order.number for order in read_orders(folder)] == list(range(1, 41))
    assert not list(folder.control.glob(".0*"))
    (folder.control / "000041.json").write_text("{")
    assert len(read_orders(folder)) == 40


def test_the_coordinator_reads_what_deploy_writes(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    for order in (node_order("restart"), links_order(change(1.0))):
        number = write_order(folder, order).number
        path = folder.control / f"{number:06d}.json"
        assert order_from_json(path.read_bytes(), name=path.name).number == number
        assert path.stat().st_mode & 0o444 == 0o444, "members are other users"


def test_only_one_order_for_links_is_made_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path)
    monkeypatch.setattr("deploy.order_files._LOCK_S", 0.1)
    refused = pytest.raises(RunFailed, match="still being given")
    with one_at_a_time(folder), refused, one_at_a_time(folder):
        pass
    with one_at_a_time(folder):
        pass


# Who does what when ------------------------------------------------------------------------------


class Doer(FakeBackend):
    """Notes what is done to whom, and when."""

    def __init__(self, *, fails: str = "") -> None:
        super().__init__(lambda _: {})
        self.done: list[tuple[str, str, float]] = []
        self._fails = fails
        self._lock = threading.Lock()

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        with self._lock:
            self.done.append((node, verb, time.time()))
        if verb == self._fails:
            raise RunFailed("it is no more", where=node)


def wait_for(condition: Callable[[], object], *, limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def say(folder: RunFolder, *events: Event) -> None:
    """The coordinator writes records."""
    with folder.coordinator_file.open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in events)


def control_log(folder: RunFolder) -> list[dict[str, Any]]:
    path = folder.control_log
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def started(folder: RunFolder, backend: Doer, *planned: PlannedAction) -> tuple[Actions, float]:
    run = dataclasses.replace(plan(), actions=planned)
    actions = Actions(folder=folder, plan=run, backend=backend)
    actions.start()
    zero = time.time()
    say(folder, event("coordinator", "start", at_wall=zero))
    return actions, zero


def test_planned_actions_come_on_the_run_clock_and_the_coordinator_knows_before(
    tmp_path: Path,
) -> None:
    folder, backend = new_folder(tmp_path), Doer(fails="resume")
    actions, zero = started(
        folder,
        backend,
        *(
            PlannedAction(at_ns=at, node=node, verb=verb, what=verb)
            for at, node, verb in (
                (SECOND, N0, "pause"),
                (SECOND, N1, "crash"),
                (SECOND * 3 // 2, N0, "resume"),
                (60 * SECOND, N0, "restart"),
            )
        ),
    )
    wait_for(lambda: len(read_orders(folder)) == 2)
    assert backend.done == []
    assert time.time() < zero + 1.0, "ahead of time"
    wait_for(lambda: len(control_log(folder)) == 3)
    actions.stop()
    assert sorted(done[:2] for done in backend.done[:2]) == [("n-0", "pause"), ("n-1", "crash")]
    for (_, _, at), due in zip(backend.done, (1.0, 1.0, 1.5), strict=True):
        assert 0 <= at - zero - due <= 0.25
    log = {record["number"]: record for record in control_log(folder)}
    assert log[1]["what"] == ["paused by plan at 1 s"]
    assert {record["by"] for record in log.values()} == {"plan"}
    assert log[3]["error"] == "n-0: it is no more"
    assert actions.problems == []
    assert len(read_orders(folder)) == 3, "what comes after the end is not ordered"


def test_orders_by_hand_are_done_once_the_coordinator_follows(tmp_path: Path) -> None:
    folder, backend = new_folder(tmp_path), Doer()
    actions, _ = started(folder, backend)
    first = write_order(folder, node_order("pause"))
    second = write_order(folder, node_order("crash"))
    write_order(folder, links_order())
    (folder.control / "000009.json").write_text("nonsense")
    say(folder, event("coordinator", "control", number=first.number, state="refused", reason="no"))
    say(folder, event("coordinator", "control", number=second.number, state="ordered"))
    wait_for(lambda: control_log(folder))
    third = write_order(folder, node_order("restart"))  # the coordinator is silent: do it anyway
    wait_for(lambda: len(control_log(folder)) == 2)
    actions.stop()
    assert [done[1] for done in backend.done] == ["crash", "restart"]
    assert [record["number"] for record in control_log(folder)] == [second.number, third.number]


# The verdict -------------------------------------------------------------------------------------


def done(verb: str, *, number: int = 1, by: str = BY_PLAN, t: float = 1.0, **fields: Any) -> Event:
    what = [f"{verb} by {by} at 1 s"]
    return event(
        "deploy", "control", t, number=number, member="n-1", verb=verb, by=by, what=what,
        asked=1.0, **{"begun": 1.0, "error": None, **fields},
    )  # fmt: skip


def after(*actions: Event, orders: tuple[Order, ...] = (), **states: Any) -> History:
    """A good run in which n-1 was stopped early."""
    good = good_history()
    nodes = {**good.nodes, str(N1): node_events(str(N1), rounds=1)[:-1]}
    members: Mapping[str, MemberState] = {
        **good.ending.members,
        str(N1): MemberState(member="n-1", status="exited", alive=False, exit_status=137),
    }
    ending = dataclasses.replace(good.ending, members=members, **states)
    return changed(good, nodes=nodes, ending=ending, actions=actions, orders=orders)


@pytest.mark.parametrize("by", [BY_PLAN, BY_HAND])
@pytest.mark.parametrize("verb", ["crash", "leave", "pause"])
def test_a_node_that_was_stopped_on_purpose_is_named_and_no_failure(verb: str, by: str) -> None:
    verdict = judge(after(done(verb, by=by)))
    assert verdict.judgement == "valid", verdict.reasons
    assert verdict.remarks == (f"n-1: {verb} by {by} at 1 s",)
    assert verdict.exit_status == 0


def test_the_same_without_an_order_is_a_failure() -> None:
    verdict = judge(after())
    assert verdict.judgement == "invalid"
    assert "n-1: killed by signal 9" in verdict.reasons
    resumed = judge(after(done("pause"), done("resume", number=2, t=1.2)))
    assert "n-1: killed by signal 9" in resumed.reasons, "a pause that is over excuses nothing"


def test_what_was_planned_and_could_not_be_done_is_a_failure() -> None:
    failed = done("crash", error="n-1: no such container")
    verdict = judge(changed(good_history(), actions=(failed,)))
    assert verdict.reasons == ("n-1: not crash by plan at 1 s: n-1: no such container",)
    by_hand = judge(changed(good_history(), actions=({**failed, "by": BY_HAND},)))
    assert by_hand.judgement == "valid"
    assert "no such container" in by_hand.remarks[0]


def test_a_late_action_says_how_late() -> None:
    verdict = judge(after(done("crash", t=1.9, begun=1.8)))
    assert verdict.remarks == ("n-1: crash by plan at 1 s, 0.80 s late",)


def planned(history: History, *changes: LinkChange) -> History:
    """The history of a run in which these changes were planned for n-0."""
    first, *rest = history.plan.nodes
    config = dataclasses.replace(
        first.config, links=dataclasses.replace(first.config.links, changes=changes)
    )
    nodes = (dataclasses.replace(first, config=config), *rest)
    return changed(history, plan=dataclasses.replace(history.plan, nodes=nodes))


def applied(history: History, *records: Event) -> History:
    """n-0 has recorded these, too."""
    events = sorted((*history.nodes[str(N0)], *records), key=lambda e: e["t"] or -1)
    return changed(history, nodes={**history.nodes, str(N0): events})


def link(at_s: float, *, late_ms: float = 3.0, error: str | None = None) -> Event:
    t = at_s + late_ms / 1000
    return event("n-0", "link", t, at=at_s, late_ms=late_ms, what=["w"], applied={}, error=error)


def test_a_planned_change_that_was_made_is_right() -> None:
    history = planned(good_history(), change(1.0), change(50.0))
    assert list(unapplied(applied(history, link(1.0)))) == [], "the run ended before 50 s"


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ((), "links were not changed at 1 s: w"),
        ((link(1.0, late_ms=400),), "in force 0.40 s later"),
        ((link(1.0, error="rate is 5, not 7"),), "rate is 5, not 7"),
    ],
)
def test_a_planned_change_that_was_not_made_makes_a_run_invalid(
    records: tuple[Event, ...], words: str
) -> None:
    verdict = judge(applied(planned(good_history(), change(1.0)), *records))
    assert verdict.judgement == "invalid"
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]
    assert verdict.reasons[0].startswith("n-0: ")


def test_an_order_by_hand_replaces_what_was_planned() -> None:
    order = links_order(change(1.0), change(1.4), at_s=1.0)
    history = changed(planned(good_history(), change(0.5), change(1.2)), orders=(order,))
    times = [made.at_ns / SECOND for made in expected_changes(history, str(N0))]
    assert times == [0.5, 1.0, 1.4]
    right = applied(history, link(0.5), link(1.0), link(1.4))
    assert judge(right).judgement == "valid"
    assert judge(right).remarks == ("links changed by hand at 1 s: a - b down",)
    wrong = applied(history, link(0.5), link(1.2))
    assert judge(wrong).judgement == "invalid"


def test_a_dead_node_changes_nothing() -> None:
    first, second = plan().nodes
    config = dataclasses.replace(
        second.config, links=dataclasses.replace(second.config.links, changes=(change(1.5),))
    )
    nodes = (first, dataclasses.replace(second, config=config))
    history = after(done("crash", t=1.0))
    history = changed(history, plan=dataclasses.replace(history.plan, nodes=nodes))
    assert judge(history).judgement == "valid", judge(history).reasons


def test_a_link_that_the_local_backend_does_not_share_out_is_told() -> None:
    history = good_history()
    first, *rest = history.plan.nodes
    links = dataclasses.replace(
        first.config.links, shared=(SharedLink(name="a>b", rate_bps=1), SharedLink(name="b>a"))
    )
    node = dataclasses.replace(first, config=dataclasses.replace(first.config, links=links))
    run = dataclasses.replace(history.plan, nodes=(node, *rest))
    verdict = judge(changed(history, plan=run))
    assert verdict.judgement == "valid"
    assert verdict.remarks == (
        "the local backend does not share out a>b, b>a: each path has the whole rate",
    )


def test_progress_shows_what_was_done() -> None:
    progress = Progress(nodes=NAMES, stop=plan().coordinator.stop)
    assert progress.feed("deploy", done("crash")) == ["n-1: crash by plan at 1 s"]
    assert (progress.rows["n-1"].state, progress.rows["n-1"].what) == (
        "killed",
        "crash by plan at 1 s",
    )
    assert progress.feed("n-0", link(1.0)) == ["1 s: w"]
    assert progress.feed("n-1", {**link(1.0), "node": "n-1"}) == [], "once for all nodes"
    assert progress.feed("n-0", link(2.5)) == ["2.5 s: w"]
    assert (progress.link_changes, progress.last_change) == (2, (2.5, "w"))


# The command line --------------------------------------------------------------------------------


@pytest.fixture
def trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that is under way, as far as its folder tells, and whose coordinator is mute."""
    from tests.unit.runs import TOPOLOGY

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.control._COORDINATOR_S", 0.2)
    folder = new_folder(tmp_path)
    folder.write_text(folder.topology_file, TOPOLOGY.decode())
    folder.write_json(folder.manifest_file, {"overrides": ["network.link.rate=5mbit"]})
    say(folder, event("coordinator", "start", at_wall=time.time() - 5))
    say(folder, event("coordinator", "phase", phase="running"))
    make_folder(folder)
    return folder


WRONG = {
    "no unit": (["link", "set", "n-0", "n-1", "--delay", "80"], "--delay: "),
    "wrong unit": (["link", "set", "n-0", "n-1", "--rate", "5mbps"], "--rate: "),
    "nothing": (["link", "set", "n-0", "n-1"], "nothing to set"),
    "one end": (["link", "set", "n-0", "--rate", "5mbit"], "Missing argument 'B'"),
    "no such node": (["link", "down", "n-0", "n-7"], "there is no node, group or bridge 'n-7'"),
    "spelling": (["kill", "n1"], "did you mean 'n-1'"),
    "no parts": (["partition"], "Missing argument"),
    "in two parts": (["partition", "n-0", "n-0,n-1"], "in two parts"),
    "not paused": (["resume", "n-1"], "n-1 is running"),
    "no such run": (["heal", "--run", "nothing"], "no run and no topology"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_is_status_2_and_orders_nothing(
    name: str, trains: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    command, message = WRONG[name]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert read_orders(trains) == []


def test_a_coordinator_that_does_not_answer_is_told(
    trains: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["link", "set", "n-0", "n-1", "--rate", "1mbit"]) == 1
    assert "the coordinator has not answered" in capsys.readouterr().err
    (order,) = read_orders(trains)
    path = order.plans["n-0"]["changes"][0]["peers"][0]
    assert path["out"]["rate_bps"] == 1_000_000
    assert path["out"]["delay_ns"] == 5_000_000


def answer(folder: RunFolder, reply: Mapping[str, Any], *records: tuple[str, Event]) -> None:
    """Stand in for the members: answer the first order that comes, then write these records."""
    wait_for(lambda: read_orders(folder))
    (order,) = read_orders(folder)
    say(folder, event("coordinator", "control", number=order.number, **reply))
    for node, record in records:
        with folder.node_file(node).open("a") as file:
            file.write(json.dumps({**record, "at": order.at_ns / SECOND}) + "\n")


def test_a_refusal_is_told(trains: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    reply = {"state": "refused", "reason": "the run is stopping"}
    thread = threading.Thread(target=answer, args=(trains, reply))
    thread.start()
    assert main(["link", "down", "n-0", "n-1"]) == 1
    thread.join()
    assert "the coordinator refuses: the run is stopping" in capsys.readouterr().err


def test_a_node_that_does_not_confirm_is_named(
    trains: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.control._CONFIRM_S", 0.5)
    trains.node_file("n-0").write_text("")
    arguments = (trains, {"state": "ordered"}, ("n-0", link(1.0)))
    thread = threading.Thread(target=answer, args=arguments)
    thread.start()
    assert main(["link", "down", "n-0", "n-1", "--json"]) == 1
    thread.join()
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["nodes"], told["missing"], told["late_ms"]) == (["n-0"], ["n-1"], 3.0)
    assert "n-1 has not confirmed within 0.5 s" in captured.err


def test_a_run_that_has_not_begun_or_has_ended_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_folder(tmp_path)
    say(folder, event("coordinator", "phase", phase="measuring"))
    assert main(["heal"]) == 1
    assert "run r1 is not training: it is measuring" in capsys.readouterr().err
    folder.write_json(folder.verdict_file, {"verdict": "valid"})
    assert main(["kill", "n-0"]) == 1
    assert "run r1 is not under way: it is ended" in capsys.readouterr().err
