"""T6 to T8, T13, T14, T16, T17: who comes and goes, and what is delivered twice (frameworks.md,
section 4.5)."""

from __future__ import annotations

from dataclasses import replace

from node.config import Mode
from node.core.events import StopRequested
from node.core.ids import COORDINATOR, NodeId
from node.core.signals import Enough, Prepare
from node.units import SECOND
from tests.scenarios.explorer import Order, explore
from tests.scenarios.scene import N0, N1, N2, N3, Scene, begun, complete, parked, plan, unpark
from tests.simulation.world import World

BOUND = 150
STAGES = ("training", "ready", "connecting", "armed", "sharing")


def leave(scene: Scene, name: NodeId) -> None:
    """`deploy remove`: the coordinator is told, then the node is asked to end."""
    scene.story.say(f"{name} is asked to leave")
    scene.world.sicken((name,), 1000)
    scene.world.order("leave", name)
    scene.node(name).tell(StopRequested(reason="leave"))


def at_stage(stage: str) -> Scene:
    """Four members; n-3 is at this stage of the second round."""
    scene = begun(plan(4, ended=3))
    if stage in ("training", "ready"):  # it is the last that trains, or waits for another
        scene.node(N3 if stage == "training" else N0).slow_ns = SECOND
    scene.until_round(1)
    scene.story.begin()
    scene.until_stage(stage, N3, round_=1)
    return scene


def t06() -> str:
    """A member leaves or crashes in each stage; the others never wait for it."""
    texts = []
    for stage in STAGES:
        for how in ("leave", "crash"):
            scene = at_stage(stage)
            if stage == "training":
                scene.until_stage("ready", N0, N1, N2, round_=1)
            began = scene.world.now
            if how == "leave":
                leave(scene, N3)
            else:
                scene.crash(N3)
            scene.until_ended(2, N0, N1, N2)
            took = (scene.world.now - began) / SECOND
            waits = scene.world.plan.deadlines
            away = 2 * waits.heartbeat_ns / SECOND  # a closed stream: left out after two heartbeats
            usual = 1.5 if stage == "ready" else 0.5
            assert took < usual + (away if how == "crash" else 0), (stage, how, took)
            with_it = {N3} if N3 in scene.share(N0, 1).received else set()
            for name in (N0, N1, N2):
                assert set(scene.share(name, 1).received) >= {N0, N1, N2} - {name}
                assert set(scene.share(name, 1).received) <= {N0, N1, N2} - {name} | with_it | {N3}
            scene.story.finish()
            scene.end()
            complete(scene, (N0, N1, N2), 2)
            if how == "leave":
                assert scene.error is None, "on purpose: no error"
            else:
                assert scene.error is not None
                assert scene.error.startswith("n-3: "), "named, and nobody else is"
            if stage in ("training", "armed"):
                texts.append(f"{how} while {stage}: the others went on after {took:.2f} s\n\n"
                             f"{scene.story.text()}")  # fmt: skip
    explored = explore(_last_unready_leaves, _others_go_on, bound=BOUND, over=_second_is_over)
    return "\n".join(texts) + f"\nthe last that is not ready leaves: {explored}\n"


def _second_is_over(world: World) -> bool:
    return all(node.machine.round > 1 for node in world.nodes.values() if not node.gone)


def _last_unready_leaves() -> World:
    scene = begun(plan(3, ended=2))
    scene.node(N2).slow_ns = SECOND
    scene.until_round(1)
    scene.until_stage("ready", N0, N1, round_=1)
    scene.world.freeze()
    leave(scene, N2)
    return parked(scene)


def _others_go_on(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1), 1)


def t07() -> str:
    """A member joins in each stage: it gets the model, and joins a later round, never this one."""
    texts = []
    for stage in STAGES:
        scene = begun(plan(3, standby=(N2,), ended=5))
        if stage == "ready":
            scene.node(N0).slow_ns = SECOND
        scene.until_round(1)
        scene.story.begin()
        scene.until_stage(stage, N1, round_=1)
        scene.start(N2)
        scene.until_shared(N2)
        scene.story.finish()
        first = scene.shares(N2)[0]
        assert first.round >= 2, "not in a round that is under way"
        assert set(first.received) == {N0, N1}
        scene.end()
        assert scene.error is None
        for round_ in range(first.round):
            complete(scene, (N0, N1), round_)
        for round_ in range(first.round, 5):
            complete(scene, (N0, N1, N2), round_)
        synced = scene.records("member", member=N2, state="synced")
        assert len(synced) == 1
        # Of the last completed round, when the provider was told; that may be two rounds ago by
        # the time at which the stream is there and the newcomer has trained.
        assert first.round - 2 <= synced[0]["held"] <= first.round
        if stage == "connecting":
            texts.append(f"joins while {stage}\n\n{scene.story.text()}")
    return "\n".join(texts)


def t08() -> str:
    """Enough, Prepare and Welcome in any order."""
    scene = Scene(plan(2, ended=1))
    scene.until(lambda: N1 in scene.world.nodes)
    scene.story.begin()
    scene.until(lambda: scene.last_heard_or_none(COORDINATOR) is not None)
    scene.story.say("Enough overtakes the Welcome of n-1, as does Prepare")
    scene.say(COORDINATOR, N1, Enough())
    scene.say(COORDINATOR, N1, Prepare())
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1), 0)
    explored = explore(_welcoming, _both_begun, bound=BOUND, order=Order.ANY, over=_all_train)
    return f"{scene.story.text()}\n2 members, from Hello to the trainer, in any order: {explored}\n"


def _welcoming() -> World:
    """Both say Hello: all that follows may overtake itself."""
    scene = Scene(plan(2, ended=1))
    scene.until(lambda: len(scene.world.nodes) == 2)
    scene.world.freeze()
    return parked(scene)


def _all_train(world: World) -> bool:
    return all(node.playing for node in world.nodes.values())


def _both_begun(world: World) -> None:
    scene = unpark(world)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1), 0)


def t13() -> str:
    """The coordinator is killed and started again."""
    texts = []
    for stage in ("connecting", "sharing"):
        scene = begun(plan(3, ended=3))
        scene.until_round(1)
        scene.story.begin()
        scene.until_stage(stage, N0, round_=1)
        scene.story.say("the coordinator is killed")
        scene.world.sicken(scene.world.plan.names, 1000, line=True)
        scene.world.crash_coordinator()
        scene.world.run_for(3)
        scene.story.say("it is started again")
        scene.world.restart_coordinator()
        began = scene.world.now
        scene.until_ended(2, N0, N1, N2)
        took = (scene.world.now - began) / SECOND
        lease = scene.world.plan.deadlines.lease_ns / SECOND
        assert took < lease + 5, "rounds go on within a lease and 5 s"
        if stage == "connecting":
            complete(scene, (N0, N1, N2), 1)
        else:  # n-0 alone had heard of the start: what it sent was for an attempt of its own
            assert [scene.share(name, 1).received for name in (N0, N1, N2)] == [(), (), ()]
        scene.story.finish()
        scene.end()
        assert scene.error is None
        complete(scene, (N0, N1, N2), 2)
        texts.append(f"sync, while {stage}: went on after {took:.2f} s\n\n{scene.story.text()}")
    scene = begun(plan(3, ended=8, mode=Mode.ASYNC))
    scene.world.run_for(2.5)
    scene.story.begin()
    rounds = [scene.node(name).machine.round for name in (N0, N1, N2)]
    scene.story.say("the coordinator is killed")
    scene.world.sicken(scene.world.plan.names, 1000, line=True)
    scene.world.crash_coordinator()
    scene.world.run_for(3)
    after = [scene.node(name).machine.round for name in (N0, N1, N2)]
    assert [new - old for old, new in zip(rounds, after, strict=True)] == [3, 3, 3]
    scene.story.say("it is started again")
    scene.world.restart_coordinator()
    scene.end()
    assert scene.error is None
    texts.append(f"async: training never stopped\n\n{scene.story.text()}")
    return "\n".join(texts)


def t14() -> str:
    """A member is started again under its name, before anybody has missed it."""
    scene = begun(plan(3, ended=5))
    scene.until_round(1)
    scene.story.begin()
    scene.until_stage("armed", N2, round_=1)
    scene.crash(N2)
    scene.world.run_for(0.05)
    scene.start(N2)
    began = scene.world.now
    scene.until_ended(2, N0, N1)
    assert (scene.world.now - began) / SECOND < 3, "the others do not wait for the former life"
    scene.until(lambda: any(s.node == N2 and s.round > 1 for s in scene.shares()), limit_s=15)
    scene.story.finish()
    scene.end()
    assert scene.error is not None
    assert scene.error.startswith("n-2: "), "not ordered by anybody: the run says so"
    again = [share for share in scene.shares(N2) if share.round > 1]
    assert again[0].missing == ()
    assert set(again[0].received) == {N0, N1}
    rounds = [share.round for share in scene.shares(N2)]
    assert rounds == sorted(set(rounds)), "no round twice, over both lives"
    return scene.story.text()


def t16() -> str:
    """Everything about one round is delivered twice, in any order."""
    scene = begun(plan(2, ended=2))
    double_everything(scene)
    scene.end()
    assert scene.error is None
    for round_ in (0, 1):
        complete(scene, (N0, N1), round_)
    explored = explore(
        _round_of_doubles, _round_once, bound=BOUND, order=Order.ANY, over=_second_is_over
    )
    return f"{scene.story.text()}\n2 members, a round with everything twice: {explored}\n"


def double_everything(scene: Scene) -> None:
    scene.world.quiet_at = 2**62
    scene.world.plan = replace(scene.world.plan, duplicate=1.0)


def _round_of_doubles() -> World:
    scene = begun(plan(2, ended=2))
    scene.until_round(1)
    scene.until_stage("ready", N0, N1, round_=1)
    double_everything(scene)
    scene.world.freeze()
    return parked(scene)


def _round_once(world: World) -> None:
    scene = unpark(world)
    scene.world.plan = replace(scene.world.plan, duplicate=0.0)
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1), 1)


def t17() -> str:
    """The number of members flaps around the least that a round needs."""
    scene = begun(plan(3, ended=4, min_participants=3))
    scene.until_round(1)
    scene.story.begin()
    scene.world.sicken((N2,), 1000, line=True)
    line = scene.world.lines[N2]
    for _ in range(3):
        scene.story.say("the stream between n-2 and the coordinator breaks")
        line.blocked = True
        line.break_()
        scene.until(lambda: scene.rounds.state.value == "lobby", limit_s=10)
        scene.world.run_for(1.5)
        assert scene.rounds.state.value == "lobby", "too few: it waits, and says so"
        scene.story.say("it may come back")
        line.unblock()
        scene.until(lambda: scene.rounds.state.value != "lobby", limit_s=10)
    scene.end()
    assert scene.error is None
    for round_ in range(4):
        complete(scene, (N0, N1, N2), round_)
    waiting = scene.records("waiting", present=2, needed=3)
    assert len(waiting) >= 3
    return scene.story.text()
