"""The resolved plan of a run (pure): everything that will be set, before anything is touched.

    make_plan: Topology -> Plan      plan_json, plan_from_json: Plan <-> text, same value same bytes

Addresses: the gateway is the first of the subnet, the coordinator the second, the nodes follow in
natural order of their names. On one host without containers everybody is at 127.0.0.1, told apart
by port.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from deploy.plan_links import LinkPlan
from deploy.topology import Topology
from deploy.topology.expand import Node
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

PEER_PORT: Final = 7000
"""Of every node's peer service in containers; the next one up is for probes."""
COORDINATOR_PORT: Final = 7070
MEASURING_SHARE: Final = 2
"""Links are measured before training for half of `deadlines.links` at most, so that there is time
to try again; of more of them a sample is."""
LOOPBACK: Final = IPv4Network("127.0.0.0/8")
RESULTS: Final = "/results"
DATA: Final = "/data"
"""Where containers see the run folder and the data folder."""


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


def addresses_needed(topology: Topology) -> int:
    """Addresses that a run takes in its subnet: nodes, coordinator and gateway."""
    return len(topology.nodes) + 2


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
        subnet: of the containers; needed by the docker backend, unused by the local one.
        ports: of every node and of the coordinator; needed by the local backend, unused elsewhere.
        results: the run folder as the members see it.
        owner: uid:gid that files of the run belong to.
        seed: instead of the file's, for what is drawn during the run; shapes keep the file's.
        emulator: who impairs the traffic; the local backend always does it by itself.
    Raises:
        ConfigError: a path asks for what the emulator cannot do.
    """
    local = backend is BackendKind.LOCAL
    where = _local_places(topology, ports) if local else _container_places(topology, subnet)
    shared = _Shared(
        topology=topology,
        run_id=run_id,
        seed=topology.seed if seed is None else seed,
        places=where,
        results=results,
        owner=owner,
        emulator=Emulator.APPLICATION if local else emulator,
        data_dir=_data_dir(topology) if local else DATA,
        links=LinkPlan.of(topology),
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
        subnet=LOOPBACK if subnet is None or local else subnet,
        nodes=nodes,
        coordinator_address=where[COORDINATOR].address,
        coordinator=_coordinator_config(shared, nodes),
        actions=_actions(topology),
        data_dir=_data_dir(topology),
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


# Places ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    address: IPv4Address
    port: int


_Places = Mapping[NodeId, _Place]


def _container_places(topology: Topology, subnet: IPv4Network | None) -> _Places:
    if subnet is None:
        raise ValueError("a docker plan needs a subnet")
    if subnet.num_addresses - 2 < addresses_needed(topology):
        raise ValueError(f"{len(topology.nodes)} nodes do not fit into {subnet}")
    names = [node.name for node in topology.nodes]
    places = {name: _Place(subnet[3 + i], PEER_PORT) for i, name in enumerate(names)}
    return {**places, COORDINATOR: _Place(subnet[2], COORDINATOR_PORT)}


def _local_places(topology: Topology, ports: Mapping[NodeId, int] | None) -> _Places:
    names = [*(node.name for node in topology.nodes), COORDINATOR]
    if ports is None or (missing := [name for name in names if name not in ports]):
        raise ValueError(f"a local plan needs the ports of {names if ports is None else missing}")
    if len({ports[name] for name in names}) < len(names):
        raise ValueError("two members on the same port")
    return {name: _Place(LOOPBACK[1], ports[name]) for name in names}


def _data_dir(topology: Topology) -> str | None:
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
    places: _Places
    results: str
    owner: str
    emulator: Emulator
    data_dir: str | None
    links: LinkPlan

    @property
    def file(self) -> TopologyFile:
        return self.topology.file

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(node.name for node in self.topology.nodes)


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
        members=shared.members,
        neighbours=shared.topology.overlay[node.name],
        seed=shared.seed,
        host=str(place.address),
        port=place.port,
        coordinator_host=str(shared.places[COORDINATOR].address),
        coordinator_port=shared.places[COORDINATOR].port,
        links=_links(shared, node.name),
        algorithm=_algorithm(file),
        training=_training(shared),
        compute=ComputeConfig(step_ns=node.group.compute.step, speed=node.group.compute.speed),
        stop=_stop(file),
        deadlines=_deadlines(file),
        results=shared.results,
        owner=shared.owner,
        rounds=rounds_config(shared.topology),
    )


def _links(shared: _Shared, name: NodeId) -> LinksConfig:
    """The network as one node sees it: its access links, and the path to and from every other."""
    links = shared.links
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
        policy=file.links,
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


def _algorithm(file: TopologyFile) -> AlgorithmConfig:
    """With every option, also those left at their defaults: a plan says what was run."""
    name = file.algorithm.name
    config = configure(find(name), file.algorithm.options)
    options = {field.name: getattr(config, field.name) for field in fields(config)}
    plain = {key: v.value if isinstance(v, Enum) else v for key, v in options.items()}
    return AlgorithmConfig(name=name, options=plain, pacing=file.algorithm.pacing)


def _training(shared: _Shared) -> TrainingConfig:
    training = shared.file.training
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
        evaluate_every=training.evaluate_every,
    )


def _stop(file: TopologyFile) -> StopConfig:
    return StopConfig(time_ns=file.stop.time, rounds=file.stop.rounds, accuracy=file.stop.accuracy)


def _deadlines(file: TopologyFile) -> Deadlines:
    waits = file.deadlines
    return Deadlines(**{f"{key}_ns": getattr(waits, key) for key in type(waits).model_fields})
