"""What the records of rounds, comings and goings make of verdict, summary and live table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deploy.checks import judge
from deploy.history import Ending, Event, History, MemberState
from deploy.interventions import absences, unapplied
from deploy.membership import ENDS, Spell, parts
from deploy.progress import Progress
from deploy.signaling import dropped, expelled, syncs
from deploy.summary import mean_over_time, summarise
from node.config import LinkChange, PathChange, RoundsConfig
from node.core.ids import NodeId
from node.units import SECOND
from tests.unit.runs import (
    NAMES,
    WALL,
    changed,
    coordinator_events,
    ended,
    event,
    good_history,
    node_events,
    plan,
)

COORDINATOR = "coordinator"


def said(kind: str, at_s: float, **fields: Any) -> Event:
    """A record of the coordinator, which has no run clock."""
    return event(COORDINATOR, kind, None, **fields) | {"wall": WALL + at_s}


def member(name: str, state: str, at_s: float, **fields: Any) -> Event:
    return said("member", at_s, member=name, state=state, **fields)


def with_coordinator(history: History, *records: Event) -> History:
    """The history with more records of the coordinator, before it ends."""
    events = sorted((*history.coordinator, *records), key=lambda e: e["wall"])
    return changed(history, coordinator=events)


def deed(verb: str, at_s: float, *, node: str = "n-1", number: int = 1) -> Event:
    return event(
        "deploy", "control", at_s, number=number, member=node, verb=verb, by="plan",
        what=[f"{verb} by plan at {at_s:g} s"], asked=at_s, begun=at_s, error=None,
    )  # fmt: skip


def standby(history: History, *names: str) -> History:
    told = dataclasses.replace(history.plan.coordinator, standby=tuple(map(NodeId, names)))
    return changed(history, plan=dataclasses.replace(history.plan, coordinator=told))


def exited(history: History, **statuses: int | None) -> History:
    ending = dataclasses.replace(history.ending, members=ended(**statuses))
    return changed(history, ending=ending)


def planned_change(history: History, node: str, *changes: LinkChange) -> History:
    nodes = tuple(
        dataclasses.replace(
            n,
            config=dataclasses.replace(
                n.config, links=dataclasses.replace(n.config.links, changes=changes)
            ),
        )
        if n.name == node
        else n
        for n in history.plan.nodes
    )
    return changed(history, plan=dataclasses.replace(history.plan, nodes=nodes))


def cut(at_s: float) -> LinkChange:
    """The path from n-0 to n-1 is gone."""
    return LinkChange(at_ns=round(at_s * SECOND), what=("cut",), peers=(PathChange(name=N1),))


N1 = NodeId("n-1")


# Who took part -----------------------------------------------------------------------------------


def found(*records: Event, late: tuple[str, ...] = ()) -> Any:
    history = with_coordinator(good_history(), *records)
    return parts(history.coordinator, nodes=NAMES, standby=late)


def test_all_are_there_from_the_start_to_the_end() -> None:
    for part in found().values():
        assert (part.state, part.spells[0].since_s, len(part.spells)) == ("present", 0.0, 1)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_one_that_goes_has_a_state_and_a_reason(state: str) -> None:
    part = found(member("n-1", state, 1.5, error="why"))["n-1"]
    assert (part.state, part.reason) == (state, "why")
    assert part.spells == (Spell(since_s=0.0, until_s=1.5),)


def test_one_that_was_given_up_and_is_alive_needs_no_model() -> None:
    part = found(member("n-1", "lost", 0.5), member("n-1", "returned", 0.9))["n-1"]
    assert part.state == "present", "it is done in the end"
    first, second = part.spells
    assert (first.since_s, first.until_s) == (0.0, pytest.approx(0.5))
    assert second.since_s == pytest.approx(0.9)


def test_what_took_one_away_says_more_than_how_it_went() -> None:
    part = found(member("n-1", "expelled", 1.2, error="why"), member("n-1", "left", 1.3))["n-1"]
    assert (part.state, part.reason) == ("expelled", "why")


def test_leaving_after_the_stop_is_no_leaving() -> None:
    assert found(member("n-1", "left", 2.65))["n-1"].state == "present"


def test_a_latecomer_takes_part_once_it_is_synced() -> None:
    coming = [member("n-1", "joined", 0.5), member("n-1", "syncing", 0.7)]
    alone = [e for e in coordinator_events() if e.get("member") != "n-1"]
    history = changed(
        good_history(), coordinator=sorted([*alone, *coming], key=lambda e: e["wall"])
    )
    on_way = parts(history.coordinator, nodes=NAMES, standby=("n-1",))["n-1"]
    assert (on_way.state, on_way.spells) == ("syncing", ())
    there = parts(
        with_coordinator(history, member("n-1", "synced", 1.0)).coordinator,
        nodes=NAMES,
        standby=("n-1",),
    )["n-1"]
    assert there.state == "present"
    assert 1.5 in there.spells[0]
    assert 0.9 not in there.spells[0]


def test_one_that_returns_has_two_spells() -> None:
    part = found(
        member("n-1", "killed", 0.5),
        member("n-1", "returned", 0.8),
        member("n-1", "syncing", 0.9),
        member("n-1", "synced", 1.1),
    )["n-1"]
    assert part.state == "present"
    assert [(s.since_s, round(s.until_s, 6)) for s in part.spells[:1]] == [(0.0, 0.5)]
    assert part.spells[1].since_s == pytest.approx(1.1)


def test_the_mean_accuracy_is_that_of_those_who_are_there() -> None:
    def line(name: str, *points: tuple[float, float]) -> list[Event]:
        return [event(name, "evaluation", t, round=0, accuracy=a, loss=1.0) for t, a in points]

    nodes = {
        "a": line("a", (1.0, 0.2), (4.0, 0.6)),
        "left": line("left", (1.0, 0.4)),
        "late": line("late", (5.0, 1.0)),
        "back": line("back", (1.0, 0.0), (6.0, 0.5)),
    }
    always = (Spell(since_s=0.0, until_s=99.0),)
    spells = {
        "a": always,
        "left": (Spell(since_s=0.0, until_s=3.0),),
        "late": (Spell(since_s=4.5, until_s=99.0),),
        "back": (Spell(since_s=0.0, until_s=2.0), Spell(since_s=5.5, until_s=99.0)),
    }
    points = dict(mean_over_time(nodes, spells))
    assert points == {
        1.0: pytest.approx(0.2),  # a, left and back
        4.0: pytest.approx(0.6),  # a alone
        5.0: pytest.approx(0.8),  # a and late
        6.0: pytest.approx(0.7),  # with what back knows in its second life
    }


# The verdict -------------------------------------------------------------------------------------


def test_a_node_on_standby_that_nobody_starts_is_no_failure() -> None:
    history = standby(good_history(), "n-1")
    history = changed(history, nodes={**history.nodes, "n-1": []})
    history = exited(history, n_1=None)
    records = [e for e in history.coordinator if e.get("member") != "n-1"]
    history = changed(history, coordinator=records)
    assert judge(history).judgement == "valid", judge(history).reasons
    made = summarise(history)
    assert made["nodes"]["n-1"]["state"] == "standby"
    assert made["nodes"]["n-1"]["on_purpose"] == "on standby, and never started"
    assert made["accuracy"]["mean"] == made["nodes"]["n-0"]["accuracy"]
    assert made["rounds"] == 2
    assert made["bytes"]["model"] == 1000


def test_the_same_of_a_node_that_should_have_been_there_is_a_failure() -> None:
    history = changed(good_history(), nodes={**good_history().nodes, "n-1": []})
    assert judge(exited(history, n_1=None)).judgement == "invalid"


def test_accuracy_and_rounds_are_of_those_that_stayed() -> None:
    history = with_coordinator(good_history(), member("n-1", "left", 1.2))
    history = changed(
        history,
        nodes={**history.nodes, "n-1": node_events("n-1", rounds=1)},
        actions=(deed("leave", 1.0),),
    )
    made = summarise(history)
    assert made["nodes"]["n-1"]["state"] == "left"
    assert (made["rounds"], made["nodes"]["n-1"]["rounds"]) == (2, 1)
    assert made["accuracy"]["mean"] == made["nodes"]["n-0"]["accuracy"]
    verdict = judge(history)
    assert verdict.judgement == "valid", verdict.reasons
    assert verdict.remarks == ("n-1: leave by plan at 1 s",)


def test_a_node_that_says_that_it_was_told_to_go_is_no_error() -> None:
    words = "stopped from outside: SIGTERM"
    history = changed(
        good_history(),
        nodes={
            **good_history().nodes,
            "n-1": [*node_events("n-1"), event("n-1", "error", 2.4, message=words)],
        },
    )
    assert judge(history).judgement == "invalid"
    assert judge(changed(history, actions=(deed("leave", 1.0),))).judgement == "valid"


@pytest.mark.parametrize("verb", ["restart", "return", "join"])
def test_a_node_that_was_started_again_must_end_in_order(verb: str) -> None:
    history = with_coordinator(good_history(), member("n-1", "synced", 1.4))
    history = changed(history, actions=(deed("crash", 0.5), deed(verb, 0.8, number=2)))
    assert judge(history).judgement == "valid", judge(history).reasons
    broken = judge(exited(history, n_1=137))
    assert "n-1: killed by signal 9" in broken.reasons


def test_a_node_that_had_no_time_to_come_is_a_remark() -> None:
    history = with_coordinator(
        good_history(), member("n-1", "killed", 0.5), member("n-1", "returned", 2.0)
    )
    undone = [
        e for e in history.coordinator if (e.get("member"), e.get("state")) != ("n-1", "done")
    ]
    history = changed(history, coordinator=undone)
    actions = (deed("crash", 0.5), deed("return", 1.9, number=2))
    history = changed(exited(history, n_1=1), actions=actions)
    verdict = judge(history)
    assert verdict.judgement == "valid", verdict.reasons
    assert "n-1: still on its way in when the run ended" in verdict.remarks
    assert summarise(history)["nodes"]["n-1"]["state"] == "returned"


def test_without_rounds_a_node_that_was_restarted_has_no_part() -> None:
    history = changed(exited(good_history(), n_1=137), actions=(deed("restart", 1.0),))
    told = dataclasses.replace(history.plan.coordinator, rounds=None)
    load = changed(history, plan=dataclasses.replace(history.plan, coordinator=told))
    assert judge(history).judgement == "invalid"
    assert judge(load).judgement == "valid", judge(load).reasons


def test_what_changes_while_a_node_is_away_is_not_missed() -> None:
    actions = (deed("crash", 0.5), deed("return", 1.3, number=2))
    history = planned_change(changed(good_history(), actions=actions), "n-1", cut(0.9), cut(1.5))
    assert absences(history, "n-1") == [(0.5, 2.0)], "back with its first record on the run clock"
    assert list(unapplied(history)) == []
    alone = planned_change(good_history(), "n-1", cut(0.9))
    assert [name for name, _ in unapplied(alone)] == ["n-1"]


# Connections and peers given up ------------------------------------------------------------------


DROPPED = (
    said("rounds", 1.0, state="connect", round=3, attempt=1, why=""),
    said("rounds", 1.1, state="connect", round=3, attempt=2, why=""),
    said("edge", 1.2, peers=["n-0", "n-1"], state="dropped", round=3, attempt=2),
    said("rounds", 1.2, state="share", round=3, attempt=2, why="given up"),
)


def test_a_connection_that_was_given_up_speaks_against_a_run() -> None:
    history = with_coordinator(good_history(), *DROPPED)
    verdict = judge(history)
    assert verdict.reasons == ("n-0 - n-1: not connected in round 3 after 2 attempts",)
    assert verdict.exit_status == 1
    made = summarise(history)["signaling"]
    assert (made["rounds"], made["attempts"], made["retries"]) == (1, 2, 1)
    (edge,) = made["dropped_edges"]
    assert (edge["peers"], edge["attempts"], edge["planned"]) == (["n-0", "n-1"], 2, False)


def test_one_that_came_back_says_so() -> None:
    back = said("edge", 1.5, peers=["n-0", "n-1"], state="restored", round=4, attempt=1)
    verdict = judge(with_coordinator(good_history(), *DROPPED, back))
    assert verdict.reasons == (
        "n-0 - n-1: not connected in round 3 after 2 attempts, and back in round 4",
    )


@pytest.mark.parametrize("node", NAMES)
def test_one_whose_path_an_event_had_cut_is_what_was_asked_for(node: str) -> None:
    history = with_coordinator(good_history(), *DROPPED)
    other = next(n for n in NAMES if n != node)
    gone = LinkChange(at_ns=SECOND, what=("cut",), peers=(PathChange(name=NodeId(other)),))
    history = planned_change(history, node, gone)
    record = event(node, "link", 1.0, at=1.0, late_ms=1.0, what=["cut"], error=None)
    history = changed(history, nodes={**history.nodes, node: [*history.nodes[node], record]})
    assert [edge.planned for edge in dropped(history)] == [True]
    verdict = judge(history)
    assert verdict.judgement == "valid", verdict.reasons
    assert "n-0 - n-1: not connected in round 3, as was asked for" in verdict.remarks


def test_an_event_long_before_or_after_explains_nothing() -> None:
    """A path that was back before the first attempt, or went after the last."""
    path = good_history().plan.nodes[0].config.links.peers[0]
    there = PathChange(name=path.name, out=path.out, into=path.into, up=path.up, down=path.down)
    short = RoundsConfig(max_connection_retry=0, connection_timeout_ns=SECOND // 10)
    history = with_coordinator(good_history(), *(dict(e, wall=e["wall"] + 1.2) for e in DROPPED))
    told = dataclasses.replace(history.plan.coordinator, rounds=short)
    history = changed(history, plan=dataclasses.replace(history.plan, coordinator=told))
    back = LinkChange(at_ns=SECOND, what=("back",), peers=(there,))
    assert not dropped(planned_change(history, "n-0", cut(0.5), back))[0].planned
    assert not dropped(planned_change(history, "n-0", cut(2.5)))[0].planned
    assert dropped(planned_change(history, "n-0", cut(0.5)))[0].planned


def test_a_paused_end_explains_it_too() -> None:
    history = with_coordinator(good_history(), *DROPPED)
    history = changed(history, actions=(deed("pause", 0.9), deed("resume", 1.3, number=2)))
    assert dropped(history)[0].planned


def test_a_peer_that_had_to_go_is_named_once_with_its_reason() -> None:
    why = "no connection to n-0"
    history = with_coordinator(good_history(), member("n-1", "expelled", 1.2, error=why))
    told = (event("n-1", "error", 1.3, message=why),)
    history = changed(
        history, nodes={**history.nodes, "n-1": [*node_events("n-1", rounds=1), *told]}
    )
    finish = [
        dict(e, error=f"n-1: {why}") if e["kind"] == "finish" else e for e in history.coordinator
    ]
    history = exited(changed(history, coordinator=finish), n_1=1)
    verdict = judge(history)
    assert verdict.reasons == (f"n-1: expelled: {why}",)
    assert verdict.exit_status == 1
    made = summarise(history)
    assert made["signaling"]["expelled"] == {"n-1": why}
    assert (made["nodes"]["n-1"]["state"], made["nodes"]["n-1"]["reason"]) == ("expelled", why)
    planned = planned_change(history, "n-0", cut(1.0))
    record = event("n-0", "link", 1.0, at=1.0, late_ms=1.0, what=["cut"], error=None)
    planned = changed(planned, nodes={**planned.nodes, "n-0": [*planned.nodes["n-0"], record]})
    assert expelled(planned)["n-1"].planned
    assert judge(planned).judgement == "valid", judge(planned).reasons
    assert any("expelled" in remark for remark in judge(planned).remarks)


# Syncs -------------------------------------------------------------------------------------------


SYNCS = (
    said("sync", 1.0, sync=1, member="n-1", provider="n-2", state="assigned"),
    said("sync", 1.4, sync=1, member="n-1", provider="n-2", state="failed", reason="n-2 is gone"),
    said("sync", 1.4, sync=2, member="n-1", provider="n-0", state="assigned"),
    said("sync", 1.9, sync=2, member="n-1", provider="n-0", state="done", held=7),
)


def test_who_got_the_model_from_whom_is_told() -> None:
    history = with_coordinator(good_history(), *SYNCS)
    first, second = syncs(history)
    assert (first.provider, first.state, first.reason) == ("n-2", "failed", "n-2 is gone")
    assert (second.provider, second.state) == ("n-0", "done")
    assert second.took_s == pytest.approx(0.5)
    assert judge(history).remarks == (
        "n-1: got the model from n-0 in 0.5 s at 1.9 s, after n-2 (n-2 is gone)",
    )
    told = summarise(history)["signaling"]["syncs"]
    assert [(s["provider"], s["state"]) for s in told] == [("n-2", "failed"), ("n-0", "done")]


def test_numbers_that_begin_anew_are_other_syncs() -> None:
    """A coordinator that was started again counts from 1."""
    again = [dict(e, wall=e["wall"] + 0.1, member="n-0") for e in SYNCS[2:]]
    later = [dict(e, wall=e["wall"] + 0.2, sync=1) for e in SYNCS[2:]]
    assert len(syncs(with_coordinator(good_history(), *SYNCS[2:], *again, *later))) == 3


# While it goes on --------------------------------------------------------------------------------


def progress(*late: str) -> Progress:
    made = Progress(nodes=NAMES, stop=plan().coordinator.stop, standby=late)
    for record in (said("start", 0, at_wall=WALL), said("phase", 0, phase="running")):
        made.feed(COORDINATOR, record)
    return made


def test_every_state_of_a_member_is_shown() -> None:
    table = progress("n-1")
    row = table.rows["n-1"]
    assert (row.state, table.gone) == ("standby", {"n-1"})
    table.feed("deploy", deed("join", 1.0))
    assert row.state == "starting"
    assert table.feed(COORDINATOR, member("n-1", "joined", 2, emulator="netem")) == ["n-1: joined"]
    assert (row.state, row.emulator) == ("joining", "netem")
    table.feed(COORDINATOR, member("n-1", "syncing", 2))
    assert row.state == "syncing"
    table.feed(COORDINATOR, member("n-1", "synced", 2))
    for state in ("training", "ready", "connecting", "armed", "sharing"):
        table.feed("n-1", event("n-1", "state", 2, state=state))
        assert row.state == state
    table.feed(COORDINATOR, member("n-1", "away", 3))
    assert row.state == "away"
    lines = table.feed(COORDINATOR, member("n-1", "expelled", 4, error="no way to n-0"))
    assert lines == ["n-1: expelled: no way to n-0"]
    table.feed("n-1", event("n-1", "state", 4, state="left"))
    table.feed(COORDINATOR, member("n-1", "left", 4))
    assert (row.state, row.error) == ("expelled", "no way to n-0")
    table.feed(COORDINATOR, member("n-1", "returned", 5, emulator="netem"))
    assert (row.state, row.error) == ("joining", "")


def test_the_run_is_as_far_as_those_who_are_there() -> None:
    table = progress("n-1")
    table.feed("n-0", event("n-0", "round", 1, round=4, loss=1.0))
    table.feed("n-0", event("n-0", "evaluation", 1, round=5, accuracy=0.8, loss=0.5))
    assert (table.round, table.accuracy) == (5, 0.8)
    table.feed("deploy", deed("join", 1.0))
    table.feed(COORDINATOR, member("n-1", "joined", 2, emulator="netem"))
    assert (table.round, table.accuracy) == (5, 0.8), "it does not take part yet"
    table.feed(COORDINATOR, member("n-1", "synced", 2))
    assert (table.round, table.accuracy) == (0, None)


def test_the_end_is_no_leaving() -> None:
    table = progress()
    for name in NAMES:
        table.feed(name, event(name, "round", 1, round=4, loss=1.0))
        table.feed(name, event(name, "state", 2, state="left"))
    table.feed(COORDINATOR, said("phase", 2, phase="stopping"))
    for name in NAMES:
        table.feed(COORDINATOR, member(name, "left", 2))
    assert (table.round, table.gone) == (5, set())


def test_too_few_participants_are_told_once() -> None:
    table = progress()
    lobby = said("rounds", 1, state="lobby", round=3, attempt=1, why="too few members")
    few = said("waiting", 1, present=2, needed=3)
    table.feed(COORDINATOR, lobby)
    assert table.feed(COORDINATOR, few) == ["waiting for 1 more of 3 participants"]
    assert table.feed(COORDINATOR, few) == []
    assert table.waiting == "waiting for 1 more of 3 participants"
    table.feed(COORDINATOR, said("rounds", 2, state="gather", round=3, attempt=1, why=""))
    assert table.waiting == ""
    late = said("waiting", 3, round=3, **{"for": ["n-1"]})
    assert table.feed(COORDINATOR, late) == ["round 3: waiting for n-1"]


def test_attempts_after_the_first_are_told_and_barriers_shown() -> None:
    table = progress()
    connect = said("rounds", 1, state="connect", round=3, attempt=1, why="all are ready")
    assert table.feed(COORDINATOR, connect) == []
    again = said("rounds", 1, state="connect", round=3, attempt=2, why="n-0 - n-1")
    assert table.feed(COORDINATOR, again) == ["round 3: connect, attempt 2: n-0 - n-1"]
    assert table.barrier == "round 3: connect, attempt 2"
    (line,) = table.feed(COORDINATOR, DROPPED[2])
    assert line == "n-0 - n-1: not connected"
    assert table.feed(COORDINATOR, SYNCS[1]) == ["n-1: did not get the model from n-2: n-2 is gone"]


def test_a_member_that_was_never_heard_of_has_no_part() -> None:
    history = changed(
        good_history(), coordinator=[], ending=Ending(members=dict[str, MemberState]())
    )
    assert {p.state for p in parts([], nodes=NAMES, standby=()).values()} == {"never began"}
    assert summarise(history)["accuracy"]["mean"] is None
