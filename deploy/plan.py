"""The resolved plan of a run (pure): everything that will be set, before anything is touched.

make_plan: Topology -> Plan      plan_json, plan_from_json: Plan <-> text, same value same bytes
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from deploy.places import LOOPBACK, Places, container_places, local_places, simulated_places
from deploy.plan_links import LinkPlan
from deploy.sim_network import check_links, planned_changes
from deploy.topology import Topology
from deploy.topology.expand import Node, references
from deploy.topology.model import TopologyFile
from deploy.topology.timeline import NodeAction
from node.algorithms import configure, find
from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    CoordinatorConfig,
    Deadlines,
    Emulator,
    ExpectedPair,
    LinkPolicy,
    LinksConfig,
    NodeConfig,
    PartitionConfig,
    PeerLink,
    RoundsConfig,
    StopConfig,
    TrainingConfig,
    Unreachable,
    to_json,
)
from node.core.ids import COORDINATOR, NodeId
from node.errors import ConfigError
from node.links.impair import check as check_paths
from node.links.schedule import sample
from node.units import Nanos

MEASURING_SHARE: Final = 2
"""Links are measured before training for half of `deadlines.links` at most, so that there is time
to try again; of more of them a sample is."""
RESULTS: Final = "/results"
DATA: Final = "/data"
CACHE: Final = "/cache"
"""Where containers see the run folder, the data folder, and what was decoded of it."""


class BackendKind(StrEnum):
    """Where the nodes of a run live."""

    DOCKER = "docker"
    LOCAL = "local"
    SIM = "sim"
    """Virtual time, in one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of one container; None is unlimited.

    Args:
        cpus: cores, may be fractional.
        memory: bytes.
    """

    cpus: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """One node: where it lives, its limits, and all that it is told."""

    name: NodeId
    address: IPv4Address
    resources: Resources
    config: NodeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAction:
    """Something that the backend does to a node at a time on the run clock.

    Args:
        verb: join (started for the first time), leave (stopped in order), crash (killed), pause,
            resume, restart (killed and started again, or only started where it was stopped), or
            return (started again after it left or crashed).
        what: the same for people.
    """

    at_ns: Nanos
    node: NodeId
    verb: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, resolved.

    Args:
        topology: name of the experiment.
        run_id: of this run of it; labels everything that the run makes.
        actions: what happens to nodes, in order of time. What happens to links, each node knows.
        data_dir: the host's folder of data sets, to be mounted at `DATA`; None: not needed.
    """

    topology: str
    run_id: str
    backend: BackendKind
    seed: int
    subnet: IPv4Network
    nodes: tuple[PlannedNode, ...]
    coordinator_address: IPv4Address
    coordinator: CoordinatorConfig
    actions: tuple[PlannedAction, ...] = ()
    data_dir: str | None = None


def make_plan(
    topology: Topology,
    *,
    run_id: str,
    backend: BackendKind,
    subnet: IPv4Network | None = None,
    ports: Mapping[NodeId, int] | None = None,
    results: str = RESULTS,
    owner: str = "10001:10001",
    seed: int | None = None,
    emulator: Emulator = Emulator.AUTO,
) -> Plan:
    """Resolve a topology into a plan.

    Args:
        run_id: names the run; also the session that members check.
        subnet: of the containers; needed by the docker backend, unused elsewhere.
        ports: of every node and of the coordinator; needed by the local backend, unused elsewhere.
        results: the run folder as the members see it.
        owner: uid:gid that files of the run belong to.
        seed: instead of the file's, for what is drawn during the run; shapes keep the file's.
        emulator: who impairs the traffic in containers; nobody else has a choice.
    Raises:
        ConfigError: a path asks for what the emulator cannot do.
    """
    docker = backend is BackendKind.DOCKER
    links: LinkPlan | LinksConfig
    if backend is BackendKind.SIM:
        where, emulator, links = simulated_places(topology), Emulator.MODEL, _modelled(topology)
    else:
        links = LinkPlan.of(topology)
        where = container_places(topology, subnet) if docker else local_places(topology, ports)
        emulator = emulator if docker else Emulator.APPLICATION
    shared = _Shared(
        topology=topology,
        run_id=run_id,
        seed=topology.seed if seed is None else seed,
        places=where,
        results=results,
        owner=owner,
        emulator=emulator,
        data_dir=DATA if docker else data_folder(topology),
        links=links,
        traced=_traced(topology),
        algorithms=_algorithms(topology),
    )
    nodes = tuple(
        PlannedNode(
            name=node.name,
            address=where[node.name].address,
            resources=Resources(cpus=node.group.cpus, memory=node.group.memory),
            config=_node_config(shared, node, index),
        )
        for index, node in enumerate(topology.nodes)
    )
    for planned in nodes:
        check_paths(planned.config.links, shared.emulator, me=planned.name)
    return Plan(
        topology=topology.name,
        run_id=run_id,
        backend=backend,
        seed=shared.seed,
        subnet=subnet if docker and subnet is not None else LOOPBACK,
        nodes=nodes,
        coordinator_address=where[COORDINATOR].address,
        coordinator=_coordinator_config(shared, nodes),
        actions=_actions(topology),
        data_dir=data_folder(topology),
    )


def plan_json(plan: Plan) -> str:
    """The plan as text: same plan, same bytes. What a member is told stands there as it is told."""
    without: Any = {"coordinator": True, "nodes": {"__all__": {"config"}}}
    dumped = _adapter().dump_python(plan, mode="json", exclude=without)
    dumped["coordinator"] = json.loads(to_json(plan.coordinator))
    for node, written in zip(plan.nodes, dumped["nodes"], strict=True):
        written["config"] = json.loads(to_json(node.config))
    return json.dumps(dumped, indent=2, sort_keys=True) + "\n"


def plan_from_json(text: str | bytes) -> Plan:
    """Read `plan_json` back. Raises ConfigError naming what is wrong."""
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"not a plan: {where}: {first['msg']}", where="plan.json") from error


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def data_folder(topology: Topology) -> str | None:
    """The host's data folder, absolute; a relative one counts from the topology file."""
    given = topology.file.training.data_dir
    if given is None:
        return None
    return str(topology.path.parent / given)


# What each member is told -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What is the same for all members."""

    topology: Topology
    run_id: str
    seed: int
    places: Places
    results: str
    owner: str
    emulator: Emulator
    data_dir: str | None
    links: LinkPlan | LinksConfig
    """Of a simulation: what every node is told."""
    traced: frozenset[NodeId]
    algorithms: Mapping[NodeId, AlgorithmConfig]

    @property
    def file(self) -> TopologyFile:
        return self.topology.file

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(node.name for node in self.topology.nodes)


def _traced(topology: Topology) -> frozenset[NodeId]:
    known = references(topology.file.nodes)
    return frozenset(node for name in topology.file.trace for node in known[name])


def _actions(topology: Topology) -> tuple[PlannedAction, ...]:
    """What the backend does to nodes; one that joins at the start runs already."""
    return tuple(
        PlannedAction(
            at_ns=step.at_ns,
            node=action.node,
            verb=action.verb,
            what=f"{action.verb} {action.node}",
        )
        for step in topology.timeline
        for action in step.actions
        if isinstance(action, NodeAction)
        and (action.verb != "join" or action.node in topology.standby)
    )


def _node_config(shared: _Shared, node: Node, index: int) -> NodeConfig:
    file, place = shared.file, shared.places[node.name]
    return NodeConfig(
        session=shared.run_id,
        name=node.name,
        index=index,
        # A simulation has it from the coordinator's: thousands of lists of thousands are too many.
        members=() if shared.emulator is Emulator.MODEL else shared.members,
        neighbours=shared.topology.overlay[node.name],
        seed=shared.seed,
        host=str(place.address),
        port=place.port,
        coordinator_host=str(shared.places[COORDINATOR].address),
        coordinator_port=shared.places[COORDINATOR].port,
        links=_links(shared, node.name),
        algorithm=shared.algorithms[node.name],
        training=_training(shared),
        compute=_compute(shared.topology, node),
        stop=_stop(file),
        deadlines=_deadlines(file),
        results=shared.results,
        owner=shared.owner,
        rounds=rounds_config(shared.topology),
        trace=node.name in shared.traced,
    )


def _compute(topology: Topology, node: Node) -> ComputeConfig:
    given = node.group.compute
    trace = () if given.trace is None else topology.traces[given.trace]
    return ComputeConfig(step_ns=given.step, speed=given.speed, trace_ns=trace)


def _links(shared: _Shared, name: NodeId) -> LinksConfig:
    """The network as one node sees it: its access links, and the path to and from every other."""
    links = shared.links
    if isinstance(links, LinksConfig):
        return links
    peers = []
    for other in shared.members:
        if other == name:
            continue
        path = links.path(name, other)
        peers.append(
            PeerLink(
                name=other,
                host=str(shared.places[other].address),
                port=shared.places[other].port,
                out=path.out,
                into=path.into,
                up=path.up,
                down=path.down,
                shared=path.shared,
            )
        )
    return LinksConfig(
        emulator=shared.emulator,
        policy=shared.file.links,
        up=links.up(name),
        down=links.down(name),
        peers=tuple(peers),
        shared=links.shared,
        partners=links.partners(name),
        changes=links.changes(name),
    )


def _modelled(topology: Topology) -> LinksConfig:
    """What a node of a simulation is told of the network: when it changes. Raises ConfigError."""
    check_links(topology)
    changes = planned_changes(topology)
    return LinksConfig(emulator=Emulator.MODEL, policy=LinkPolicy.OFF, changes=changes)


def expected_pairs(nodes: Iterable[PlannedNode]) -> Iterator[ExpectedPair]:
    """All that have a path there and back at the start."""
    for node in nodes:
        for peer in node.config.links.peers:
            if peer.out is not None and peer.into is not None:
                yield ExpectedPair(
                    source=node.name,
                    target=peer.name,
                    out=peer.out,
                    back=peer.into,
                    shared=peer.shared,
                )


def _coordinator_config(shared: _Shared, nodes: Iterable[PlannedNode]) -> CoordinatorConfig:
    file, place = shared.file, shared.places[COORDINATOR]
    every = tuple(expected_pairs(nodes))
    deadlines = _deadlines(file)
    return CoordinatorConfig(
        session=shared.run_id,
        members=shared.members,
        seed=shared.seed,
        host=str(place.address),
        port=place.port,
        policy=LinkPolicy.OFF if isinstance(shared.links, LinksConfig) else file.links,
        pairs=sample(every, within_ns=deadlines.links_ns // MEASURING_SHARE),
        candidates=len(every),
        training=_training(shared),
        stop=_stop(file),
        deadlines=deadlines,
        results=shared.results,
        owner=shared.owner,
        rounds=rounds_config(shared.topology),
        overlay=tuple((a, b) for a, b in _edges(shared.topology)),
        standby=shared.topology.standby,
    )


def _edges(topology: Topology) -> Iterator[tuple[NodeId, NodeId]]:
    """The pairs that exchange, each once, in the order of the nodes."""
    done: set[NodeId] = set()
    for node, others in topology.overlay.items():
        yield from ((node, other) for other in others if other not in done)
        done.add(node)


def rounds_config(topology: Topology) -> RoundsConfig:
    """The file's barriers, defaults filled in."""
    file = topology.file
    given = file.signaling
    every = len(topology.nodes)
    full = all(len(others) == every - 1 for others in topology.overlay.values())
    there = every - len(topology.standby)
    return RoundsConfig(
        mode=file.mode or find(file.algorithm.name).MODES[0],
        unreachable=given.unreachable or (Unreachable.PEERS if full else Unreachable.EDGES),
        max_connection_retry=given.max_connection_retry,
        connection_timeout_ns=given.connection_timeout,
        min_participants=given.min_participants or min(RoundsConfig().min_participants, there),
        quorum=given.quorum,
        gather_ns=given.gather,
        share_ns=given.share,
        sync_ns=given.sync,
    )


def _algorithms(topology: Topology) -> dict[NodeId, AlgorithmConfig]:
    """With every option, also those left at their defaults: a plan says what was run."""
    given = topology.file.algorithm
    kind = find(given.name)
    config = configure(kind, given.options)
    options = {field.name: getattr(config, field.name) for field in fields(config)}
    plain = {key: v.value if isinstance(v, Enum) else v for key, v in options.items()}
    every = AlgorithmConfig(name=given.name, options=plain, pacing=given.pacing)
    own = kind.options_by_node(config, topology.overlay)
    return {
        name: replace(every, options=plain | dict(own[name])) if name in own else every
        for name in topology.overlay
    }


def _training(shared: _Shared) -> TrainingConfig:
    training = shared.file.training
    if training.message_size is not None and shared.emulator is not Emulator.MODEL:
        raise ConfigError(
            "real nodes send what a model has",
            where="training.message_size",
            remedy="leave it out, or run the file in virtual time: deploy sim",
        )
    partition = training.partition
    return TrainingConfig(
        dataset=training.dataset,
        model=training.model,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        partition=PartitionConfig(
            kind=partition.kind, shards=partition.shards, alpha=partition.alpha
        ),
        data_dir=None if training.data_dir is None else shared.data_dir,
        context=training.context,
        evaluate_every=training.evaluate_every,
        test_samples=training.test_samples,
        message_bytes=training.message_size,
    )


def _stop(file: TopologyFile) -> StopConfig:
    return StopConfig(time_ns=file.stop.time, rounds=file.stop.rounds, accuracy=file.stop.accuracy)


def _deadlines(file: TopologyFile) -> Deadlines:
    waits = file.deadlines
    return Deadlines(**{f"{key}_ns": getattr(waits, key) for key in type(waits).model_fields})
