"""Everything that may happen to a machine: what runtimes feed into `step`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector
from node.core.signals import LinkReading, Signal
from node.units import Nanos


class PeerChange(Enum):
    """What became of another member, as far as this one can tell."""

    CONNECTED = "connected"
    LOST = "lost"
    RESTARTED = "restarted"
    """Connected, and no longer the process that it was (coordinator only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The machine comes to life; for a peer: the run clock stands at its start."""


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Received:
    """A message has come. Immutable by `Final`, as `effects.Send`."""

    sender: Final[NodeId]
    message: Final[PeerMessage | Signal]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    key: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """Training job `job` is done.

    Args:
        parameters: the new model, read-only.
        loss: mean training loss over the job's steps.
        compute_s: what the steps took.
        padded_s: waited on top, so that the job took as long as the compute model says.
        late_s: by how much the job took longer than the compute model says.
    """

    job: int
    parameters: Vector
    loss: float
    steps: int
    compute_s: float = 0.0
    padded_s: float = 0.0
    late_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The snapshot of round `round` was evaluated on the test set."""

    round: int
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The peer has acknowledged all of it."""

    target: NodeId
    key: str
    model_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFailed:
    """It did not arrive, as far as we know, and is not tried again."""

    target: NodeId
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChanged:
    peer: NodeId
    change: PeerChange


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksProbed:
    """The measuring that a `ProbeLinks` effect asked for has ended."""

    attempt: int
    readings: tuple[LinkReading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The trainer is up, or `error` says what is missing.

    Args:
        size: parameters of the model.
    """

    error: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The local algorithm has finished; see `effects.Finish`."""

    reason: str
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the local algorithm is; the member machine puts it into its heartbeats."""

    phase: str
    round: int
    accuracy: float | None
    loss: float | None
    model_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """From outside the protocol: a signal, or the coordinator's Stop passed on to the peer."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something local broke for good (trainer died, disk full): end and say why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksOrdered:
    """Somebody wants the network to be different (coordinator only).

    Args:
        number: of the order.
        at_ns: when, on the run clock.
        plans: for each member that it concerns, `node.config.Replan` as JSON.
        what: for people.
    """

    number: int
    at_ns: Nanos
    plans: Mapping[NodeId, str]
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOrdered:
    """Something is about to be done to a member, by plan or by hand (coordinator only).

    Args:
        verb: `join`, `leave`, `crash`, `pause`, `resume`, `restart` or `return`.
        what: for people: by plan or by hand, and when.
    """

    number: int
    node: NodeId
    verb: str
    what: str


# --- rounds: between the peer machine, its member machine and the mesh


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The algorithm has trained for round `round` and wants to exchange (to the member)."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettled:
    """A connection that `ConnectEdges` asked for answers, or `error` says why not (to the member).

    Each peer is settled once for each attempt that names it.
    """

    peer: NodeId
    round: int
    attempt: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """The algorithm has aggregated this round, without `missing` (to the member)."""

    round: int
    attempt: int
    missing: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelSnapshot:
    """What `TakeSnapshot` asked for (to the member).

    Args:
        held: rounds that the model has behind it.
        parameters: the last aggregated model, never a locally trained one; None: there is none.
    """

    sync: int
    held: int
    parameters: Vector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOpened:
    """The barrier of this round is open: send to these peers, wait for theirs (to the peer)."""

    round: int
    attempt: int
    peers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSkipped:
    """Round `round` goes on without this node: end it with what is here (to the peer)."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDropped:
    """Nothing will come of this peer in round `round`; do not wait for it (to the peer)."""

    round: int
    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelAdopted:
    """Go on from somebody else's model at round `round` (to the peer).

    Args:
        parameters: None: keep the model, only the round is another.
    """

    round: int
    parameters: Vector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Instead of Started, to a coordinator in the place of one that died in the middle of a run.

    Args:
        began_wall_ns: when the run clock stood at 0, as its records have it.
        absent: members that had left or failed by then, and what became of them.
    """

    began_wall_ns: int
    absent: Mapping[NodeId, str]


Event: TypeAlias = (
    Started
    | Received
    | TimerFired
    | Trained
    | Evaluated
    | Sent
    | SendFailed
    | PeerChanged
    | LinksProbed
    | Prepared
    | RunEnded
    | Progress
    | StopRequested
    | Failed
    | LinksOrdered
    | NodeOrdered
    | Offered
    | EdgeSettled
    | Exchanged
    | ModelSnapshot
    | ShareOpened
    | ShareSkipped
    | PeerDropped
    | ModelAdopted
    | Resumed
)
