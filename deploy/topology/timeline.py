"""What happens to the network and the nodes of a run, at which time (pure).

    file's events --events.timeline--> steps: explicit, in order of time, simultaneous ones together

A step's link actions change the network state (`state.py`); its node actions are for the backend,
and `join` and `leave` change the network, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deploy.topology.model import LinkOptions
from node.core.ids import NodeId
from node.units import Nanos

LINK: Final = "a link"
"""Holds a link down that was named by its ends; no name of a vertex has a space in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """One direction of a link is different from now on, in what `options` has given."""

    source: str
    target: str
    options: LinkOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """One direction of a link is gone, until whoever holds it down lets it up again.

    Args:
        by: who holds it down: `LINK`, or the name of a vertex that is down, or one flapping or
            churning entry of the file. A link is there when nobody holds it down.
    """

    source: str
    target: str
    by: str = LINK


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """One direction of a link is let up, as it was or was set meanwhile.

    Args:
        by: who held it down; None: whoever did.
    """

    source: str
    target: str
    by: str | None = LINK


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """No path leads from a node of one part to a node of another; every node is in one part."""

    parts: tuple[tuple[NodeId, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal:
    """The partition is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAction:
    """Something is done to a node.

    Args:
        verb: one of `deploy.topology.model.NODE_ACTIONS`.
    """

    node: NodeId
    verb: str


LinkAction = SetLink | LinkDown | LinkUp | Partition | Heal
Action = LinkAction | NodeAction


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens at one time.

    Args:
        at_ns: on the run clock.
        actions: in the order of the file.
        what: the same in words, one for each entry of the file that had a part in it.
    """

    at_ns: Nanos
    actions: tuple[Action, ...]
    what: tuple[str, ...]
