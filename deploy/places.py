"""Where the members of a run listen (pure).

In containers the gateway is the first address of the subnet, the coordinator the second, the nodes
follow in natural order of their names. On one host without containers everybody is at 127.0.0.1,
told apart by port. In a simulation nobody listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from deploy.topology import Topology
from node.core.ids import COORDINATOR, NodeId

PEER_PORT: Final = 7000
"""Of every node's peer service in containers; the next one up is for probes."""
COORDINATOR_PORT: Final = 7070
LOOPBACK: Final = IPv4Network("127.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Place:
    address: IPv4Address
    port: int


Places = Mapping[NodeId, Place]


def addresses_needed(topology: Topology) -> int:
    """Addresses that a run takes in its subnet: nodes, coordinator and gateway."""
    return len(topology.nodes) + 2


def container_places(topology: Topology, subnet: IPv4Network | None) -> Places:
    if subnet is None:
        raise ValueError("a docker plan needs a subnet")
    if subnet.num_addresses - 2 < addresses_needed(topology):
        raise ValueError(f"{len(topology.nodes)} nodes do not fit into {subnet}")
    names = [node.name for node in topology.nodes]
    places = {name: Place(subnet[3 + i], PEER_PORT) for i, name in enumerate(names)}
    return {**places, COORDINATOR: Place(subnet[2], COORDINATOR_PORT)}


def local_places(topology: Topology, ports: Mapping[NodeId, int] | None) -> Places:
    names = _members(topology)
    if ports is None or (missing := [name for name in names if name not in ports]):
        raise ValueError(f"a local plan needs the ports of {names if ports is None else missing}")
    if len({ports[name] for name in names}) < len(names):
        raise ValueError("two members on the same port")
    return {name: Place(LOOPBACK[1], ports[name]) for name in names}


def simulated_places(topology: Topology) -> Places:
    return dict.fromkeys(_members(topology), Place(LOOPBACK[1], 0))


def _members(topology: Topology) -> list[NodeId]:
    return [*(node.name for node in topology.nodes), COORDINATOR]
