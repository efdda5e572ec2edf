"""What a coordinator that died in the middle of a run has recorded: what its successor must know.

    start, no finish         the run goes on, and its clock stands where it stands
    member: last state       who had left or failed, and what had become of them
    control: ordered         orders that need not be recorded again, and what they did to nodes

Lines that are cut off, or are none of ours, are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from node.core.ids import NodeId
from node.metrics import read_events
from node.units import SECOND

GONE: Final = frozenset({"left", "failed", "lost", "expelled", "killed", "silent", "restarting"})
"""States of a member, as recorded, in which it is not waited for."""
_PASSING: Final = frozenset({"stream lost", "stream up", "away", "present"})
"""States that say nothing about whether it has a part in the run."""
STOPS: Final = frozenset({"leave", "crash", "pause"})
"""What is done to a node that then may leave no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerLife:
    """See the module.

    Args:
        began_wall_ns: Unix time at which the run clock stood at 0.
        absent: members that had left or failed, and what they were called then.
        ordered, refused: numbers of orders that were.
        nonsense: what was said of files that were no orders.
        standing: of the orders for nodes, those that say why a member is not there; its number.
    """

    began_wall_ns: int
    absent: Mapping[NodeId, str]
    ordered: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    nonsense: frozenset[str] = frozenset()
    standing: Mapping[NodeId, int] = field(default_factory=dict)


def former_life(path: Path) -> FormerLife | None:
    """The life before this one; None if there was none, or none that died in the middle of a run.

    Args:
        path: the coordinator's records, which need not exist.
    """
    try:
        return from_records(read_events(path))
    except OSError:
        return None


def from_records(records: Iterable[Mapping[str, Any]]) -> FormerLife | None:
    """As `former_life`, of the records themselves."""
    began: int | None = None
    states: dict[NodeId, str] = {}
    ordered: set[int] = set()
    refused: set[int] = set()
    nonsense: set[str] = set()
    standing: dict[NodeId, int] = {}
    for record in records:
        member = NodeId(str(record.get("member", "")))
        match record["kind"], record.get("state"):
            case "start", _ if isinstance(record.get("at_wall"), float | int):
                began = round(record["at_wall"] * SECOND)
            case "finish", _:
                return None
            case "member", str(state) if state not in _PASSING:
                states[member] = state
                if state not in GONE:
                    standing.pop(member, None)
            case "control", "ordered" if isinstance(record.get("number"), int):
                ordered.add(record["number"])
                if record.get("verb") == "resume":
                    standing.pop(member, None)
                elif member:
                    standing[member] = record["number"]
            case "control", "refused" if isinstance(record.get("number"), int) and not member:
                refused.add(record["number"])
            case "control", "refused":
                nonsense.add(str(record.get("reason")))
    if began is None:
        return None
    return FormerLife(
        began_wall_ns=began,
        absent={name: state for name, state in states.items() if state in GONE},
        ordered=frozenset(ordered),
        refused=frozenset(refused),
        nonsense=frozenset(nonsense),
        standing=standing,
    )
