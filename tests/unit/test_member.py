"""A member's life: every row of its table, what it says again, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from node.config import Mode, Replan, to_json
from node.core.effects import (
    BeginRun,
    CancelTimer,
    EndRun,
    Finish,
    PrepareRun,
    ProbeLinks,
    Record,
    ReplanLinks,
    SetTimer,
    SitOut,
)
from node.core.events import (
    Event,
    Failed,
    LinksProbed,
    Offered,
    PeerChange,
    Prepared,
    Progress,
    Received,
    RunEnded,
    Started,
    StopRequested,
    TimerFired,
)
from node.core.ids import COORDINATOR
from node.core.member import HELLO_NS
from node.core.newcomer import MAX_FAILED_SYNCS
from node.core.signals import (
    ChangeLinks,
    ConnectionFail,
    Done,
    Hello,
    JoinRound,
    Leave,
    LinksChanged,
    LinksMeasured,
    MeasureLinks,
    PeersForRound,
    Prepare,
    Ready,
    Refuse,
    SignalModelProvider,
    Stale,
    Start,
    Stop,
    Underway,
    Welcome,
)
from node.core.tables_member import MEMBER
from node.units import MILLISECOND, SECOND
from tests.unit.member_rig import AT, DEADLINES, A, B, Rig, fail_by_a_wrong_hash, untaken

Script = Callable[[], Rig]
SCRIPTS: list[Script] = []
ENDED = RunEnded(reason="rounds", round=3)
PROGRESS = Progress(phase="running", round=3, accuracy=0.5, loss=1.0, model_bytes=40)


def script(run: Script) -> Script:
    SCRIPTS.append(run)
    return run


@pytest.mark.parametrize("run", SCRIPTS, ids=lambda run: run.__name__)
def test_script(run: Script) -> None:
    run()


def test_the_scripts_take_every_row_of_the_table() -> None:
    taken = set().union(*(run().taken for run in SCRIPTS))
    assert not untaken(MEMBER, taken, "member")


def joined() -> Rig:
    rig = Rig()
    rig.feed(Started())
    rig.hear(Rig.welcome())
    return rig


def idle() -> Rig:
    rig = joined()
    rig.hear(Underway(at_wall_ns=AT, reason="started again"))
    return rig


def preparing() -> Rig:
    rig = joined()
    rig.hear(Prepare())
    return rig


def done() -> Rig:
    rig = Rig().run()
    rig.feed(ENDED)
    return rig


# --- the way in


@script
def a_life_from_hello_to_leave() -> Rig:
    rig = Rig()
    rig.feed(Started())
    assert rig.said == [Hello(emulator="model", applied="{}")]
    rig.hear(Rig.welcome())
    assert [t.key for t in rig.of(SetTimer)] == ["member/heartbeat"]
    rig.hear(MeasureLinks(slot=2, targets=(A,), measures=("rtt",)))
    assert rig.of(ProbeLinks) == [ProbeLinks(attempt=2, targets=(A,), measures=("rtt",))]
    rig.feed(LinksProbed(attempt=2, readings=()))
    assert rig.said == [LinksMeasured(slot=2, readings=())]
    rig.hear(Prepare())
    assert rig.of(PrepareRun)
    rig.feed(Prepared(size=9))
    assert rig.said == [Ready()]
    rig.hear(Start(at_wall_ns=AT))
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    rig.feed(ENDED)
    assert rig.said == [Done(reason="rounds", ended=3)]
    rig.hear(Stop(reason="rounds"))
    assert rig.said == [Leave()]
    (finish,) = rig.of(Finish)
    assert (finish.reason, finish.error) == ("rounds", None)
    assert rig.feed(TimerFired(key="member/heartbeat")) == []
    return rig


@script
def hello_is_said_each_second_until_it_is_answered() -> Rig:
    rig = Rig()
    rig.feed(Started())
    assert rig.timer("member/hello") == rig.now + HELLO_NS
    rig.fire("member/hello")
    assert [type(signal) for signal in rig.said] == [Hello]
    assert rig.timer("member/hello") == rig.now + HELLO_NS
    rig.hear(Rig.welcome())
    assert CancelTimer(key="member/hello") in rig.effects
    assert rig.fire("member/hello") == []
    return rig


@script
def what_is_lost_on_the_way_in_is_asked_for_again() -> Rig:
    rig = joined()
    rig.hear(Rig.welcome())
    assert rig.effects == []
    rig.beat()
    assert [signal.phase for signal in rig.said] == ["joined"]
    rig.hear(Prepare())
    rig.hear(Prepare())
    rig.hear(Rig.welcome())
    assert rig.effects == []
    rig.feed(Prepared(size=9))
    assert rig.beat() == [Ready()]
    rig.hear(Prepare())
    assert rig.said == [Ready()]
    rig.hear(Rig.welcome())
    rig.hear(Start(at_wall_ns=AT))
    for again in (Start(at_wall_ns=AT), Prepare(), Rig.welcome(4)):
        rig.hear(again)
        assert rig.effects == []
    return rig


@script
def a_trainer_that_does_not_come_up_ends_it_with_the_reason() -> Rig:
    rig = preparing()
    rig.feed(Prepared(error="no data set"))
    (finish,) = rig.of(Finish)
    assert finish.error == "no data set"
    assert rig.said == [Leave(error="no data set")]
    return rig


def ends() -> list[tuple[Event, str | None]]:
    """What ends a member in any state, and the error that it reports."""
    wait = f"{DEADLINES.coordinator_ns // SECOND}s"
    return [
        (Received(sender=COORDINATOR, message=Stop(reason="time")), None),
        (StopRequested(reason="SIGTERM"), "stopped from outside: SIGTERM"),
        (Failed(reason="disk full"), "disk full"),
        (TimerFired(key="member/orphan"), f"the coordinator was out of reach for {wait}"),
    ]


@script
def every_state_has_an_end_that_says_why() -> Rig:
    rig = Rig()
    fail = Received(sender=COORDINATOR, message=ConnectionFail(reason="unreachable from a and b"))
    join_wait = f"{DEADLINES.join_ns // SECOND}s"
    late = (TimerFired(key="member/join"), f"no welcome from the coordinator within {join_wait}")
    refuse = Received(sender=COORDINATOR, message=Refuse(reason="too late"))
    cases: list[tuple[Callable[[], Rig], list[tuple[Event, str | None]]]] = [
        (Rig, [*ends(), late, (refuse, "the coordinator refused: too late")]),
        (joined, ends()),
        (preparing, ends()),
        (idle, ends()),
        (Rig().join, [*ends(), (fail, "unreachable from a and b")]),
        (done, [*ends(), (fail, "unreachable from a and b")]),
        (Rig().run, [*ends(), (fail, "unreachable from a and b")]),
    ]
    for make, events in cases:
        for event, error in events:
            made = make() if make in (Rig, joined, preparing, idle, done) else _again(make)
            made.feed(event)
            if made.member.state.value == "stopping":
                assert made.of(EndRun)
                made.feed(ENDED)
            (finish,) = made.of(Finish)
            assert finish.error == error
            assert made.said == [Leave(error=error)]
            rig.taken |= made.taken
    return rig


def _again(make: Callable[[], Rig]) -> Rig:
    """A fresh rig brought as far as this bound method of another brings it."""
    fresh: Rig = getattr(Rig(), make.__name__)()
    return fresh


@script
def a_second_reason_to_stop_does_not_hide_the_first() -> Rig:
    rig = Rig().run()
    rig.feed(Failed(reason="disk full"))
    rig.feed(Failed(reason="and then the trainer died"))
    rig.hear(Stop(reason="time"))
    rig.beat()
    assert [signal.phase for signal in rig.said] == ["stopping"]
    rig.feed(ENDED)
    (finish,) = rig.of(Finish)
    assert (finish.reason, finish.error) == ("failed", "disk full")
    return rig


@script
def a_latecomer_without_a_model_ends() -> Rig:
    rig = Rig().syncing()
    assert rig.of(SitOut) == [SitOut(at_wall_ns=AT)]
    for sync in range(1, MAX_FAILED_SYNCS + 1):
        rig.hear(SignalModelProvider(sync=sync, provider=B))
        rig.fire("sync/stall", after=10 * SECOND)
    assert rig.of(EndRun) == [EndRun(reason="failed")]
    unknown = Rig().syncing(size=0)
    for sync in range(1, MAX_FAILED_SYNCS + 1):
        unknown.hear(SignalModelProvider(sync=sync, provider=B))
    wrong = Rig().syncing()
    fail_by_a_wrong_hash(wrong)
    assert wrong.of(EndRun) == [EndRun(reason="failed")]
    rig.taken |= unknown.taken | wrong.taken
    return rig


# --- what it says again, and of itself


@script
def done_is_said_with_every_heartbeat() -> Rig:
    rig = done()
    assert rig.beat() == [Done(reason="rounds", ended=3)]
    assert rig.said[0].phase == "done"
    rig.feed(RunEnded(reason="again", round=9))
    assert rig.beat() == [Done(reason="rounds", ended=3)]
    return rig


@script
def the_heartbeat_tells_how_far_the_node_is() -> Rig:
    rig = Rig().run()
    rig.feed(PROGRESS)
    rig.beat()
    (beat,) = rig.said
    told = (beat.phase, beat.ended, beat.accuracy, beat.loss, beat.model_bytes)
    assert told == ("training", 3, 0.5, 1.0, 40)
    assert rig.timer("member/heartbeat") == rig.now + 500 * MILLISECOND
    return rig


@script
def a_coordinator_that_comes_back_is_told_all_it_has_to_know() -> Rig:
    rig = Rig().run()
    rig.feed(Offered(round=0))
    rig.feed(PROGRESS)
    rig.hear(PeersForRound(round=0, attempt=2, peers=(A,)))
    rig.coordinator(PeerChange.LOST)
    assert rig.timer("member/orphan") == rig.now + DEADLINES.coordinator_ns
    rig.coordinator(PeerChange.CONNECTED)
    assert CancelTimer(key="member/orphan") in rig.effects
    assert rig.said == [
        Hello(
            emulator="model",
            applied="{}",
            stage="connecting",
            held=3,
            began_wall_ns=AT,
            round=0,
            attempt=2,
        )
    ]
    return rig


@pytest.mark.parametrize(("make", "stage", "held"), [("syncing", "", -1), ("run", "training", 0)])
def test_hello_tells_whether_there_is_a_model(make: str, stage: str, held: int) -> None:
    rig: Rig = getattr(Rig(), make)()
    rig.coordinator(PeerChange.CONNECTED)
    (hello,) = rig.said
    assert (hello.stage, hello.held, hello.began_wall_ns) == (stage, held, AT)


def test_one_that_has_not_begun_says_nothing_of_a_run() -> None:
    rig = Rig(Mode.ASYNC).join()
    rig.coordinator(PeerChange.CONNECTED)
    assert rig.said == [Hello(emulator="model", applied="{}")]


@script
def orders_for_the_links_are_done_once_and_acknowledged_each_time() -> Rig:
    rig = Rig().run()
    plan = Replan(at_ns=5)
    for expected in ([ReplanLinks(plan=plan)], []):
        rig.hear(ChangeLinks(number=1, plan=to_json(plan)))
        assert rig.of(ReplanLinks) == expected
        assert rig.said == [LinksChanged(number=1)]
    rig.hear(ChangeLinks(number=2, plan="{"))
    assert rig.said[0].error
    rig.coordinator(PeerChange.LOST)
    return rig


@pytest.mark.parametrize(
    ("make", "signal"),
    [
        (joined, Start(at_wall_ns=AT)),
        (joined, PeersForRound(round=0, attempt=1)),
        (preparing, Stale(round=9)),
        (joined, ChangeLinks(number=1, plan="{}")),
        (done, MeasureLinks(slot=1, targets=(), measures=())),
    ],
)
def test_what_does_not_belong_to_its_state_is_recorded_and_changes_nothing(
    make: Script, signal: Start
) -> None:
    rig = make()
    before = (rig.member.state, rig.member.stage)
    rig.hear(signal)
    assert [type(effect) for effect in rig.effects] == [Record]
    (reason,) = rig.refused()
    assert reason == f"{type(signal).__name__} while {before[0].value}"
    assert (rig.member.state, rig.member.stage) == before


# --- a run without rounds


def test_a_run_without_rounds_begins_at_start_and_knows_no_barrier() -> None:
    rig = Rig(None).join()
    assert rig.said == [Ready()]
    rig.hear(Start(at_wall_ns=AT))
    assert rig.of(BeginRun) == [BeginRun(at_wall_ns=AT)]
    rig.feed(PROGRESS)
    rig.beat()
    assert rig.said[0].phase == "running"
    rig.hear(PeersForRound(round=0, attempt=1))
    assert rig.refused() == ["PeersForRound while running"]
    rig.feed(Offered(round=0))
    assert rig.effects == []
    rig.coordinator(PeerChange.LOST)
    assert rig.timer("member/orphan") == rig.now + DEADLINES.lease_ns
    rig.fire("member/orphan", after=DEADLINES.lease_ns)
    assert rig.of(EndRun)


def test_joining_again_after_a_crash_needs_the_model() -> None:
    rig = Rig()
    rig.feed(Started())
    rig.hear(Welcome(heartbeat_ns=SECOND, lease_ns=SECOND, need_sync=True))
    rig.hear(Prepare())
    rig.feed(Prepared(size=9))
    rig.hear(Start(at_wall_ns=AT))
    assert not rig.of(BeginRun)
    assert JoinRound not in {type(signal) for signal in rig.said}
