"""What is run, what goes wrong in it, and how a run breaks (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.config import Mode
from node.core.algorithm import Algorithm
from node.core.events import Event, PeerChanged, Received, TimerFired
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.units import Nanos


class Broken(Exception):
    """A node did what no algorithm may do; the message says which, when and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, as shares of all messages.

    Args:
        held_up: come late, and all later ones of the pair behind them: loss on a reliable stream.
        broken: are lost with their stream, which the sender is told; it is up again soon.
        vanish: of those sent as datagrams: are lost, and nobody is told.
        twice: come a second time.
        nonsense: have one beside them, or in synchronous rounds in their place, that makes none.
        overtake_ns: up to so much longer on their way than others, which may overtake them.
        slow: the last node computes so many times longer than the others.
    """

    held_up: float = 0.0
    broken: float = 0.0
    vanish: float = 0.0
    twice: float = 0.0
    nonsense: float = 0.0
    overtake_ns: Nanos = 0
    slow: int = 1


CALM: Final = Faults()
"""Nothing goes wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run.

    Args:
        configs: of each node.
        overlay: neighbours of each node, in name order.
    """

    kind: type[Algorithm]
    configs: Mapping[NodeId, Any]
    overlay: Mapping[NodeId, tuple[NodeId, ...]]
    mode: Mode


def words(event: Event) -> str:
    """What happened to a node, for people."""
    match event:
        case Received(sender=sender, message=PeerMessage(kind=kind)):
            return f"a message {kind!r} of {sender}"
        case PeerChanged(peer=peer, change=change):
            return f"{peer} is {change.value}"
        case TimerFired(key=key):
            return f"timer {key!r}"
        case _:
            return type(event).__name__


def origin(error: Exception) -> str:
    """An exception with the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {error}{where}"
