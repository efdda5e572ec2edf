"""Topology files: what people write, checked and expanded (docs/topology.md).

    text -> reader -> structure (pydantic models) -> checks -> expand -> Topology

Everything here is pure except that `load_topology` reads one file.
"""

from deploy.topology.load import Topology, load_topology, parse_topology
from deploy.topology.network import Link, Network, Route
from deploy.topology.problems import Problem, TopologyErrors
from deploy.topology.schema import schema

__all__ = [
    "Link",
    "Network",
    "Problem",
    "Route",
    "Topology",
    "TopologyErrors",
    "load_topology",
    "parse_topology",
    "schema",
]
