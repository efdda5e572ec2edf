"""The resolved plan of a run (pure): everything that will be set, before anything is touched.

    make_plan: Topology -> Plan      plan_json, plan_from_json: Plan <-> text, same value same bytes

Addresses: the gateway is the first of the subnet, the coordinator the second, the nodes follow in
natural order of their names. On one host without containers everybody is at 127.0.0.1, told apart
by port.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from pydantic import TypeAdapter, ValidationError

from deploy.topology import Route, Topology
from deploy.topology.expand import Node
from deploy.topology.model import TopologyFile
from node.algorithms import configure, find
from node.config import (
    AccessLink,
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
    StopConfig,
    TrainingConfig,
)
from node.core.ids import COORDINATOR, NodeId
from node.errors import ConfigError

PEER_PORT: Final = 7000
"""Of every node's peer service in containers; the next one up is for probes."""
COORDINATOR_PORT: Final = 7070
LOOPBACK: Final = IPv4Network("127.0.0.0/8")
RESULTS: Final = "/results"
DATA: Final = "/data"
"""Where containers see the run folder and the data folder."""


class BackendKind(StrEnum):
    """Where the nodes of a run live."""

    DOCKER = "docker"
    LOCAL = "local"


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
class Plan:
    """A run, resolved.

    Args:
        topology: name of the experiment.
        run_id: of this run of it; labels everything that the run makes.
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
    )
    routes = {node.name: topology.network.routes(node.name) for node in topology.nodes}
    return Plan(
        topology=topology.name,
        run_id=run_id,
        backend=backend,
        seed=shared.seed,
        subnet=LOOPBACK if subnet is None or local else subnet,
        nodes=tuple(
            PlannedNode(
                name=node.name,
                address=where[node.name].address,
                resources=Resources(cpus=node.group.cpus, memory=node.group.memory),
                config=_node_config(shared, node, index, routes),
            )
            for index, node in enumerate(topology.nodes)
        ),
        coordinator_address=where[COORDINATOR].address,
        coordinator=_coordinator_config(shared, routes),
        data_dir=_data_dir(topology),
    )


def plan_json(plan: Plan) -> str:
    """The plan as text: same plan, same bytes."""
    return json.dumps(_adapter().dump_python(plan, mode="json"), indent=2, sort_keys=True) + "\n"


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
_Routes = Mapping[NodeId, Mapping[NodeId, Route]]


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

    @property
    def file(self) -> TopologyFile:
        return self.topology.file

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(node.name for node in self.topology.nodes)


def _node_config(shared: _Shared, node: Node, index: int, routes: _Routes) -> NodeConfig:
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
        links=_links(shared, node.name, routes),
        algorithm=_algorithm(file),
        training=_training(shared),
        compute=ComputeConfig(step_ns=node.group.compute.step, speed=node.group.compute.speed),
        stop=_stop(file),
        deadlines=_deadlines(file),
        results=shared.results,
        owner=shared.owner,
    )


def _links(shared: _Shared, name: NodeId, routes: _Routes) -> LinksConfig:
    """The network as one node sees it: its access links, and the path to and from every other."""
    network = shared.topology.network
    peers = []
    for other in shared.members:
        if other == name:
            continue
        out, into = routes[name].get(other), routes[other].get(name)
        peers.append(
            PeerLink(
                name=other,
                host=str(shared.places[other].address),
                port=shared.places[other].port,
                out=out.spec if out else None,
                into=into.spec if into else None,
                up=out.links[0].name if out else None,
                down=into.links[-1].name if into else None,
            )
        )
    return LinksConfig(
        emulator=shared.emulator,
        policy=shared.file.links,
        up=tuple(
            AccessLink(name=link.name, rate_bps=link.spec.rate_bps)
            for link in network.leaving(name)
        ),
        down=tuple(
            AccessLink(name=link.name, rate_bps=link.spec.rate_bps)
            for link in network.entering(name)
        ),
        peers=tuple(peers),
    )


def _coordinator_config(shared: _Shared, routes: _Routes) -> CoordinatorConfig:
    file, place = shared.file, shared.places[COORDINATOR]
    pairs = (
        ExpectedPair(source=a, target=b, out=route.spec, back=routes[b][a].spec)
        for a in shared.members
        for b, route in routes[a].items()
        if a in routes[b]
    )
    return CoordinatorConfig(
        session=shared.run_id,
        members=shared.members,
        seed=shared.seed,
        host=str(place.address),
        port=place.port,
        policy=file.links,
        pairs=tuple(pairs),
        training=_training(shared),
        stop=_stop(file),
        deadlines=_deadlines(file),
        results=shared.results,
        owner=shared.owner,
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
