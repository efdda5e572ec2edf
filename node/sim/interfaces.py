"""What the parts of the simulator expect of each other, and of whoever starts one.

State that a checkpoint has to keep (see `snapshot`) is plain: no closures, lambdas, generators,
open files or locks in it. What happens later is a bound method with arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from node.config import PathSpec
from node.core.events import Event
from node.core.ids import NodeId
from node.core.parts import Layout, Vector
from node.units import Nanos

Ticket = int
"""Names a piece of work that was handed to `Trainers`."""


class Sharing(StrEnum):
    """What transfers that meet on a link do to each other."""

    FAIR = "fair"
    """They share it, weighted max-min (`node.links.sharing`)."""
    NONE = "none"
    """Nothing: each has its path's rate. With sequential pacing those of one node leave one at a
    time, as over one link to all others; acknowledgements meet nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One direction of the path between two nodes.

    Args:
        links: names of the links with a rate that it crosses, access links included, in order.
    """

    spec: PathSpec
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A node's end of all its paths, in a network where these meet in one place.

    Args:
        kind: paths between nodes of two kinds are alike, but for their links; hashable.
        up, down: the links with a rate on its way to that place and from it.
    """

    kind: object
    up: tuple[str, ...]
    down: tuple[str, ...]


class NetworkView(Protocol):
    """The network as it is between two changes. Looked up pair by pair: a network of 1,000 nodes
    has a million paths, of which a run uses few."""

    def access(self, node: NodeId) -> Access | None:
        """None: the network is no such one."""

    def path(self, source: NodeId, target: NodeId) -> Path | None:
        """None: there is no path now."""

    def capacity(self, link: str) -> int:
        """bit/s of a link that a path names."""


class Trainers(Protocol):
    """Trains and evaluates for all nodes of a simulation, in the background and in any order.

    The result of a piece of work is decided by its arguments, the node's samples and how many
    steps the node has trained before: not by who does it, when, or beside what else.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def initial(self) -> Vector:
        """The model that every node starts from; read-only."""

    def samples(self, node: NodeId) -> int:
        """Number of training samples of a node."""

    def label_counts(self, node: NodeId) -> tuple[int, ...]: ...

    def restarted(self, node: NodeId) -> None:
        """A new life of the node begins: its stream of minibatches begins anew."""

    def train(self, node: NodeId, *, steps: int, parameters: Vector, due: Nanos) -> Ticket:
        """Begin `steps` mini-batch steps from `parameters`.

        Args:
            due: virtual time at which the result is needed: what is due first is done first.
        """

    def evaluate(self, node: NodeId | None, *, parameters: Vector, due: Nanos) -> Ticket:
        """Begin evaluating a model on the test set.

        Args:
            node: whose test samples, where each node has its own; None: everybody's.
        """

    def trained(self, ticket: Ticket) -> tuple[Vector, float]:
        """The new model (read-only, the caller's) and the mean loss; waits for it. Once a ticket.

        Raises:
            RunFailed: training diverged, or the machine could not do it.
        """

    def evaluated(self, ticket: Ticket) -> tuple[float, float]:
        """Accuracy and loss; waits for them. Once a ticket. Raises as `trained`."""

    def give_up(self, ticket: Ticket) -> None:
        """Nobody will ask for this one."""

    def state(self) -> Mapping[str, object]:
        """For a checkpoint: JSON, numbers and arrays, without work under way."""

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state; work under way then is handed in again by the caller."""

    def close(self) -> None: ...


class MeshHost(Protocol):
    """Whom a mesh tells `PeerChanged`, `Received`, `Sent`, `SendFailed` and `EdgeSettled`."""

    def from_mesh(self, event: Event) -> None: ...
