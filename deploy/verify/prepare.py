"""A plan to train becomes one to verify (pure): the same network, nodes that send load."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from deploy.plan import Plan, PlannedNode, expected_pairs
from deploy.verify.segments import Load
from node.config import (
    Deadlines,
    ExpectedPair,
    LinkPolicy,
    LoadConfig,
    NodeConfig,
    Pacing,
    StopConfig,
)
from node.core.ids import NodeId
from node.links.schedule import AGAIN, takes_ns
from node.units import SECOND

_SPARE: Final = 30 * SECOND
"""Above what measuring alone should take, for tries again."""


def loaded(plan: Plan, load: Load) -> Plan:
    """The plan of a run whose nodes measure the network instead of training on it.

    Links are measured whatever the file's policy, no data set is needed, there are no barriers, and
    what the file does to nodes (not to links) is left out: the nodes are the instruments, and all
    of them run from the start.
    """
    known = {(pair.source, pair.target): pair for pair in expected_pairs(plan.nodes)}
    alone = tuple(known[pair] for pair in load.sample.pairs if pair in known)
    stop = StopConfig(time_ns=load.time_ns)
    deadlines = _deadlines(plan, alone)
    coordinator = replace(
        plan.coordinator,
        policy=LinkPolicy.WARN,
        pairs=alone,
        candidates=len(alone),
        stop=stop,
        deadlines=deadlines,
        rounds=None,
        standby=(),
    )
    nodes = tuple(_node(node, load, stop, deadlines) for node in plan.nodes)
    return replace(plan, nodes=nodes, coordinator=coordinator, data_dir=None, actions=())


def _deadlines(plan: Plan, alone: tuple[ExpectedPair, ...]) -> Deadlines:
    """Time for all slots and a second try, where there are more than a run would measure."""
    given = plan.coordinator.deadlines
    takes = takes_ns(alone) + takes_ns(alone, limits=AGAIN) + _SPARE
    return replace(given, links_ns=max(given.links_ns, takes))


def _node(node: PlannedNode, load: Load, stop: StopConfig, deadlines: Deadlines) -> PlannedNode:
    config: NodeConfig = node.config
    return replace(
        node,
        config=replace(
            config,
            links=replace(
                config.links,
                policy=LinkPolicy.WARN,
                changes=tuple(c for c in config.links.changes if c.at_ns <= load.last_ns),
            ),
            # All targets at once, on the streams of the mesh too.
            algorithm=replace(config.algorithm, pacing=Pacing.PARALLEL),
            stop=stop,
            deadlines=deadlines,
            load=LoadConfig(
                targets=_targets(load, node.name), renewals=load.renewals.get(node.name, ())
            ),
            rounds=None,
        ),
    )


def _targets(load: Load, source: NodeId) -> tuple[NodeId, ...]:
    return tuple(b for a, b in load.sample.pairs if a == source)
