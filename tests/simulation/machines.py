"""The machines under test as a plan wants them: the one place that knows how they are made."""

from __future__ import annotations

from node.config import CoordinatorConfig, ExpectedPair, PathSpec, TrainingConfig
from node.core.algorithm import Algorithm
from node.core.coordinator import Coordinator
from node.core.ids import NodeId
from node.core.measuring import ProbeSlot, Probing
from node.core.member import Member
from node.core.parts import Vector
from node.core.peer import Peer, PeerSetting
from node.core.signals import Hello
from node.units import SECOND
from tests.simulation.draw import Plan
from tests.simulation.tiny import LAYOUT


def make_coordinator(plan: Plan) -> Coordinator:
    pairs = tuple(
        ExpectedPair(source=a, target=b, out=PathSpec(), back=PathSpec())
        for a, b in plan.overlay
        if a not in plan.standby and b not in plan.standby
    )
    config = CoordinatorConfig(
        session="s",
        members=plan.names,
        seed=plan.seed,
        host="-",
        port=1,
        policy=plan.policy,
        pairs=pairs,
        candidates=len(pairs),
        training=TrainingConfig(),
        stop=plan.stop,
        deadlines=plan.deadlines,
        rounds=plan.rounds,
        overlay=plan.overlay,
        standby=plan.standby,
    )
    probing = Probing(schedule=_one_slot, judge=lambda _pair, reading: reading.error is None)
    return Coordinator(config=config, probing=probing)


def make_member(plan: Plan) -> Member:
    return Member(
        hello=Hello(emulator="model", applied="{}"),
        deadlines=plan.deadlines,
        rounds=plan.rounds,
    )


def make_peer(
    plan: Plan, name: NodeId, neighbours: tuple[NodeId, ...], algorithm: Algorithm, initial: Vector
) -> Peer:
    setting = PeerSetting(
        me=name,
        peers=neighbours,
        members=len(plan.names),
        seed=plan.seed,
        layout=LAYOUT,
        stop=plan.stop,
        evaluate_every=1000,
        mode=plan.mode,
        share_ns=plan.rounds.share_ns,
    )
    return Peer(setting=setting, algorithm=algorithm, initial=initial)


def _one_slot(pairs: tuple[ExpectedPair, ...], attempt: int) -> tuple[ProbeSlot, ...]:
    """All at once: nothing disturbs anything here."""
    targets: dict[NodeId, tuple[NodeId, ...]] = {}
    for pair in pairs:
        targets[pair.source] = (*targets.get(pair.source, ()), pair.target)
    return (ProbeSlot(targets=targets, measures=("rtt",), deadline_ns=2 * SECOND),)
