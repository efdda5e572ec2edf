"""Everything that a machine may want: what `step` returns and runtimes perform, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

from node.config import Replan
from node.core.events import Event
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector
from node.core.signals import LinkReading, Signal
from node.units import Nanos

Value: TypeAlias = "int | float | str | bool | list[Value] | dict[str, Value] | None"


class InFlight(Enum):
    """What a cancel does to the message whose bytes are on their way."""

    FINISH = "finish"
    ABORT = "abort"


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Send:
    """Queue a message to a member (the coordinator included).

    Immutable by `Final`, which mypy holds: making a frozen one takes four times as long, and a
    simulated run makes a hundred thousand a second.

    Args:
        key: names it for `DropQueued`, `Sent` and `SendFailed`; hierarchical, as in `round/7/3`.
        supersedes: drop what is queued to the same target under the same key first.
    """

    target: Final[NodeId]
    message: Final[PeerMessage | Signal]
    key: Final[str] = ""
    supersedes: Final[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropQueued:
    """Cancel queued messages whose key starts with `key_prefix`; see `InFlight`."""

    key_prefix: str = ""
    in_flight: InFlight = InFlight.FINISH


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Fire `TimerFired(key)` at `at`, on the clock of `now`; replaces a timer of that key."""

    key: str
    at: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer:
    key: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Train:
    """Run `steps` mini-batch steps from `parameters`; `Trained(job)` answers. One job at a time."""

    job: int
    steps: int
    parameters: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluate:
    """Evaluate a snapshot on the test set beside the training; `Evaluated(round)` answers."""

    round: int
    parameters: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Write one line into the node's event log."""

    kind: str
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLinks:
    """Measure the paths to `targets`; `LinksProbed(attempt)` answers."""

    attempt: int
    targets: tuple[NodeId, ...]
    measures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRun:
    """Wait for the trainer; `Prepared` answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRun:
    """Set the run clock to 0 at `at_wall_ns` (Unix time in ns) and start the peer then."""

    at_wall_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SitOut:
    """Set the run clock as `BeginRun` does, but take no part: links change, peers are answered.

    BeginRun may come later, when this node has what it needs to take part.
    """

    at_wall_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplanLinks:
    """Change this node's links otherwise than was planned."""

    plan: Replan


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun:
    """Stop the peer, store everything; the runtime then feeds `RunEnded` if it has not yet."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLinks:
    """Write what is known of the links (coordinator only): `links.json`."""

    readings: tuple[LinkReading, ...]
    applied: Mapping[NodeId, str]
    emulators: Mapping[NodeId, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finish:
    """The machine is done. `parameters` is a peer's final model; `error` None if all is well."""

    reason: str
    error: str | None = None
    parameters: Vector | None = None


# --- rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectEdges:
    """Find out which of these peers answer, connecting where there is no stream yet.

    `EdgeSettled` tells of each, at the latest after `RoundsConfig.connection_timeout_ns` (a little
    less, so that the coordinator hears of it in time); what was asked for before is forgotten,
    but for attempts that name other peers only.

    Args:
        anew: of them, those whose stream is closed and dialled again first.
        spare: peers that are asked only if there is a stream already.
    """

    round: int
    attempt: int
    peers: tuple[NodeId, ...]
    anew: tuple[NodeId, ...] = ()
    spare: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepConnected:
    """Keep a stream to this peer from now on, though it may be no neighbour: for model sync."""

    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The algorithm wants to exchange in this round (peer only); becomes `Offered`."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOver:
    """The algorithm has aggregated this round (peer only); becomes `Exchanged`."""

    round: int
    attempt: int
    missing: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShare:
    """Becomes `ShareOpened` at the peer."""

    round: int
    attempt: int
    peers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipShare:
    """Becomes `ShareSkipped` at the peer."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFromShare:
    """Becomes `PeerDropped` at the peer."""

    round: int
    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdoptModel:
    """Becomes `ModelAdopted` at the peer."""

    round: int
    parameters: Vector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot:
    """Give the member machine the last aggregated model; `ModelSnapshot` answers."""

    sync: int


Effect: TypeAlias = (
    Send
    | DropQueued
    | SetTimer
    | CancelTimer
    | Train
    | Evaluate
    | Record
    | ProbeLinks
    | PrepareRun
    | BeginRun
    | SitOut
    | ReplanLinks
    | EndRun
    | StoreLinks
    | Finish
    | ConnectEdges
    | KeepConnected
    | Offer
    | ShareOver
    | OpenShare
    | SkipShare
    | DropFromShare
    | AdoptModel
    | TakeSnapshot
)


class Machine(Protocol):
    """A sans-IO state machine: peer, member, coordinator.

    `step` is atomic and never blocks; `now` is integer nanoseconds on one monotonic clock. The
    caller performs the returned effects in order before it feeds the next event.
    """

    def step(self, event: Event, *, now: Nanos) -> list[Effect]: ...
