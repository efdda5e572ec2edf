"""T1 to T5, T9, T15, T18: what races with the opening of a round (frameworks.md, section 4.5)."""

from __future__ import annotations

from node.config import Unreachable
from node.core.ids import COORDINATOR
from node.core.signals import (
    ConnectionsReady,
    PeersForRound,
    RetryPeerConnections,
    StartWeightSharing,
)
from node.units import SECOND
from tests.scenarios.explorer import explore
from tests.scenarios.scene import (
    N0,
    N1,
    N2,
    N3,
    N4,
    Scene,
    begun,
    both,
    complete,
    parked,
    plan,
    unpark,
)
from tests.simulation.world import World

BOUND = 150


def t01() -> str:
    """Payload before listener."""
    scene = begun(plan(2, ended=1))
    scene.until_stage("armed", N0, N1)
    scene.story.say("the start to n-1 is held up")
    scene.hold(COORDINATOR, N1)
    scene.until(lambda: scene.stage(N0) == "sharing")
    scene.world.run_for(0.3)
    assert scene.stage(N1) == "armed", "the payload has come, the start has not"
    scene.story.say("it goes on")
    scene.let_go(COORDINATOR, N1)
    scene.end()
    assert scene.error is None
    assert scene.share(N1, 0).received == (N0,), "kept for its round, and used"
    assert [share.stale for share in scene.shares()] == [0, 0]
    two, three = (
        explore(
            lambda count=count: _brink(count),  # type: ignore[misc]
            lambda w, count=count: _all_shared(w, count),  # type: ignore[misc]
            bound=BOUND,
            over=_round_is_over,
        )
        for count in (2, 3)
    )
    return (
        f"{scene.story.text()}\nfrom the last report to the aggregation: "
        f"2 members {two}; 3 members {three}\n"
    )


def _round_is_over(world: World) -> bool:
    """Nobody is in the first round any more."""
    return all(node.machine.round > 0 for node in world.nodes.values())


def _sharing(world: World) -> bool:
    return world.coordinator.machine.learning.rounds.state.value == "share"


def _second_is_over(world: World) -> bool:
    return all(node.machine.round > 1 for node in world.nodes.values())


def _brink(count: int) -> World:
    """The moment before the last report of the first round is sent."""
    scene = begun(plan(count, ended=1))
    scene.until(lambda: scene.rounds.state.value == "connect")
    scene.until(lambda: len(scene.rounds._connecting.reports) == count - 1)
    return parked(scene)


def _all_shared(world: World, count: int) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    complete(scene, world.plan.names[:count], 0)
    assert all(share.stale == 0 for share in scene.shares())


def t02() -> str:
    """Start before the last local edge is up."""
    scene = begun(plan(3, ended=2))
    scene.until_round(1)
    scene.story.begin()
    scene.until_stage("ready", N0, N1, N2, round_=1)
    scene.story.say("answers of n-1 to n-0 are held up")
    scene.hold(N1, N0)
    scene.until_stage("armed", N2, round_=1)
    assert scene.stage(N0) == "connecting"
    scene.story.say("a start that another coordinator gave reaches n-0 now")
    scene.say(COORDINATOR, N0, StartWeightSharing(round=1, attempt=1, peers=(N1, N2)))
    scene.until(lambda: scene.stage(N0) == "sharing")
    scene.let_go(N1, N0)
    scene.story.say("they go on")
    scene.end()
    assert scene.error is None
    for name in (N0, N1, N2):
        assert len(scene.shares(name)) == 2, "nobody is stuck, nobody shares twice"
    two, three = (
        explore(
            lambda count=count: _connecting(count),  # type: ignore[misc]
            _both_rounds,
            bound=BOUND,
            over=_second_is_over,
        )
        for count in (2, 3)
    )
    return f"{scene.story.text()}\none whole round: 2 members {two}; 3 members {three}\n"


def _connecting(count: int) -> World:
    """The moment at which all are ready for the second round; streams are there already."""
    scene = begun(plan(count, ended=2))
    scene.until_round(1)
    scene.until(lambda: scene.rounds.state.value == "connect")
    return parked(scene)


def _both_rounds(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    for round_ in (0, 1):
        complete(scene, world.plan.names, round_)


def t03() -> str:
    """A report of an older attempt does not count for the present one."""
    scene = _second_attempt()
    old = scene.last_heard(COORDINATOR, ConnectionsReady)
    scene.story.say(f"the report of {N1} of the first attempt comes again")
    forged = ConnectionsReady(round=0, attempt=1, connected=(N0, N2))
    scene.say(N1, COORDINATOR, forged)
    scene.world.run_for(0.1)
    assert scene.rounds.state.value == "connect"
    assert scene.rounds.stamp == (0, 2)
    scene.heal(both(N0, N1))
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1, N2), 0)
    assert scene.share(N0, 0).attempt == 2
    assert old.attempt == 1
    explored = explore(_with_old_reports, _opened_in_second, bound=BOUND, over=_sharing)
    return f"{scene.story.text()}\nold reports against new ones, 3 members: {explored}\n"


def _second_attempt() -> Scene:
    """The first attempt has failed between n-0 and n-1; the second is under way."""
    scene = begun(plan(3, ended=1))
    scene.cut(both(N0, N1))
    scene.until(lambda: scene.rounds.stamp == (0, 2))
    return scene


def _with_old_reports() -> World:
    scene = _second_attempt()
    scene.world.heal(both(N0, N1))
    scene.until(lambda: len(scene.rounds._connecting.reports) >= 1, limit_s=2)
    scene.world.freeze()
    for name, peers in ((N0, (N1, N2)), (N1, (N0, N2))):
        scene.say(name, COORDINATOR, ConnectionsReady(round=0, attempt=1, connected=peers))
    return parked(scene)


def _opened_in_second(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1, N2), 0)
    assert scene.share(N0, 0).attempt == 2, "not opened by what was said in the first"


def t04() -> str:
    """Orders of a round that is over change nothing in the next."""
    scene = begun(plan(3, ended=2))
    scene.world.nodes[N2].slow_ns = SECOND  # in round 1 n-1 has to wait for it
    scene.until_round(1)
    scene.story.begin()
    past = (
        PeersForRound(round=0, attempt=1, peers=(N0, N2)),
        RetryPeerConnections(round=0, attempt=2, failed=(N0,)),
        StartWeightSharing(round=0, attempt=1, peers=(N0, N2)),
    )

    def reach(stage: str) -> None:
        scene.until_stage(stage, N1, round_=1)
        scene.story.say(f"signals of round 0 reach n-1, which is {stage} in round 1")
        for signal in past:
            scene.say(COORDINATOR, N1, signal)
        before = scene.member(N1).attempt
        scene.world.run_for(0.05)
        assert (scene.stage(N1), scene.member(N1).attempt) == (stage, before)

    reach("training")
    scene.hold(N2, N1)
    scene.hold(N2, COORDINATOR)
    reach("ready")
    scene.let_go(N2, COORDINATOR)
    scene.until_stage("connecting", N2, round_=1)
    scene.hold(N2, COORDINATOR)
    reach("connecting")
    scene.let_go(N2, N1)
    reach("armed")
    scene.hold(N2, N1)
    scene.let_go(N2, COORDINATOR)
    reach("sharing")
    scene.let_go(N2, N1)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1, N2), 1)
    return scene.story.text()


def t05() -> str:
    """One unreachable peer among five."""
    texts = []
    for unreachable in Unreachable:
        scene = begun(plan(5, ended=3, unreachable=unreachable))
        scene.until_round(1)
        scene.story.begin()
        scene.cut([p for other in (N0, N1, N2, N3) for p in both(other, N4)])
        scene.until_stage("ready", N0, N1, N2, N3, round_=1)
        ready = scene.world.now
        scene.until_stage("sharing", N0, N1, N2, N3, round_=1)
        waited = (scene.world.now - ready) / SECOND
        rounds = scene.world.plan.rounds
        most = (rounds.max_connection_retry + 1) * rounds.connection_timeout_ns / SECOND
        assert waited <= most + 2, "never more than the attempts cost"
        scene.until_round(2)
        complete(scene, (N0, N1, N2, N3), 1)
        scene.story.finish()
        scene.until_round(3)
        dropped = {tuple(one["peers"]) for one in scene.records("edge", state="dropped")}
        gone = [one["member"] for one in scene.records("member", state="expelled")]
        if unreachable is Unreachable.EDGES:
            assert dropped == {(other, N4) for other in (N0, N1, N2, N3)}
            assert gone == []
            scene.end()
            assert scene.error is None
            assert len(scene.shares(N4)) == 3, "it goes on alone"
        else:
            assert (dropped, gone) == (set(), [N4])
            scene.end()
            reason = "n-4: no connection to n-0, n-1, n-2, n-3 in 3 attempts of round 1"
            assert scene.error == reason
            finish = scene.node(N4).finish
            assert finish is not None
            assert finish.error is not None, "non-zero, with the reason"
        complete(scene, (N0, N1, N2, N3), 2)
        texts.append(f"unreachable: {unreachable.value}; the start came after {waited:.2f} s, "
                     f"of {most + 2:g} s\n\n{scene.story.text()}")  # fmt: skip
    return "\n".join(texts)


def t09() -> str:
    """There is one connect timer, and an attempt that fails early leaves none behind."""
    scene = begun(plan(3, ended=1, max_connection_retry=1))
    scene.cut(both(N0, N1))
    scene.world.no_path |= set(both(N0, N1))  # their own plans say so: every attempt fails at once
    scene.until(lambda: scene.rounds.state.value == "share")
    attempts = scene.rounds.stamp[1]
    assert attempts == 2, "as many as may be, and no more"
    start = scene.world.now
    scene.until_round(1)
    assert scene.world.now - start < scene.world.plan.rounds.connection_timeout_ns
    scene.end()
    assert scene.error is None
    states = [(one["state"], one["attempt"]) for one in scene.records("rounds", round=0)]
    assert states.count(("connect", 1)) == states.count(("connect", 2)) == 1
    assert states.count(("share", 2)) == 1, "no timer of an earlier attempt fires after the start"
    explored = explore(_timer_against_report, _shared_once, bound=BOUND, over=_sharing, ticks=2)
    return f"{scene.story.text()}\nthe connect timer against the last report: {explored}\n"


def _timer_against_report() -> World:
    """The last report is under way, and the connect timer is about to fire."""
    scene = begun(plan(2, ended=1, max_connection_retry=1))
    scene.until(lambda: scene.rounds.state.value == "connect")
    began = scene.world.now
    scene.hold(N0, COORDINATOR)
    limit = scene.world.plan.rounds.connection_timeout_ns
    scene.until(lambda: scene.world.now > began + limit - SECOND // 50)
    scene.world.lines[N0].up.held.clear()  # of what it has said again and again, the last counts
    scene.let_go(N0, COORDINATOR)
    scene.world.freeze()
    scene.say(N0, COORDINATOR, ConnectionsReady(round=0, attempt=1, connected=(N1,)))
    return parked(scene)


def _shared_once(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1), 0)
    starts = [one for one in scene.records("rounds", round=0) if one["state"] == "share"]
    assert len(starts) == 1


def t15() -> str:
    """Asymmetric reachability: one direction of one edge is cut."""
    scene = begun(plan(4, ended=3))
    scene.until_round(1)
    scene.story.begin()
    scene.cut([(N0, N1)])
    scene.until_round(2)
    scene.story.finish()
    dropped = {tuple(one["peers"]) for one in scene.records("edge", state="dropped")}
    assert dropped == {(N0, N1)}, "both ends say so, and nobody else is concerned"
    for name, lacks in ((N0, N1), (N1, N0), (N2, None), (N3, None)):
        others = {N0, N1, N2, N3} - {name, lacks}
        assert set(scene.share(name, 1).received) == others
        assert scene.share(name, 1).missing == ()
    scene.heal([(N0, N1)])
    scene.end()
    assert scene.error is None
    assert scene.records("member", state="expelled") == []
    return scene.story.text()


def t18() -> str:
    """The deadline of the sharing against the last payload."""
    scene = begun(plan(2, ended=2))
    scene.until_stage("armed", N0, N1)
    scene.story.say("what n-1 sends to n-0 is held up")
    scene.hold(N1, N0)
    scene.until(lambda: scene.shares(N0), limit_s=5)
    assert scene.share(N0, 0).missing == (N1,), "aggregated without it at the deadline"
    scene.story.say("it goes on, a round too late")
    scene.let_go(N1, N0)
    scene.end()
    assert scene.error is None
    assert scene.share(N0, 1).received == (N1,)
    assert scene.share(N0, 1).stale == 1, "what came too late was dropped and counted"
    explored = explore(
        _deadline_against_payload, _with_or_without, bound=BOUND, over=_round_is_over, ticks=4
    )
    return f"{scene.story.text()}\nthe deadline against the payload: {explored}\n"


def _deadline_against_payload() -> World:
    """The payload is under way, and n-0's share deadline is about to fire."""
    scene = begun(plan(2, ended=2))
    scene.until_stage("armed", N0, N1)
    scene.hold(N1, N0)
    scene.until(lambda: scene.stage(N0) == "sharing")
    limit = scene.world.plan.rounds.share_ns
    opened = scene.world.now
    scene.until(lambda: scene.world.now > opened + limit - SECOND // 50)
    scene.world.freeze()
    scene.let_go(N1, N0)
    return parked(scene)


def _with_or_without(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    first, second = scene.share(N0, 0), scene.share(N0, 1)
    assert (first.received, first.missing) in (((N1,), ()), ((), (N1,)))
    late = len(first.missing)
    assert second.received == (N1,)
    assert first.stale + second.stale == late, "counted once, in no round twice"
