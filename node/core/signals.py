"""What members and the coordinator say to each other (`proto/signaling.proto`).

The envelope is on every message: session, member and incarnation, which the runtime's codec adds
and checks, and `round` and `attempt`, which are the machines' own (`Stamped`). Which machine says
what when: docs/signaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from node.core.ids import NodeId
from node.units import Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """A signal, and which try of which round it belongs to.

    Args:
        round: of the barrier: with `mode: sync` one for each round of learning, with `mode: async`
            one for the start and one for each change of membership.
        attempt: of setting up the round's connections, from 1; 0 where none is under way. It never
            goes back while the round lasts, so that what belongs to an earlier try is known.
    """

    round: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReading:
    """What was measured of one ordered pair; None where it was not measured.

    Args:
        rtt_ns: median round-trip time of small packets, there and back.
        jitter_ns: standard deviation of those, on paths with jitter.
        goodput_bps: payload bit/s of a bulk transfer from the first to the second.
        loss: share of packets lost on the way from the first to the second.
        loss_packets: how many packets `loss` and `duplicate` rest on.
        duplicate: share of packets that came more than once.
        transport: what carried the bulk transfer, `tcp` or `udp` (lossy paths).
        error: why nothing could be measured.
    """

    source: NodeId
    target: NodeId
    rtt_ns: Nanos | None = None
    goodput_bps: float | None = None
    loss: float | None = None
    loss_packets: int | None = None
    transport: str | None = None
    error: str | None = None
    jitter_ns: Nanos | None = None
    duplicate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Stamped):
    """A member presents itself; its links are set up and read back.

    Args:
        emulator: which link emulator is in force (`netem`, `nfqueue`, `application`, `none`).
        applied: what was read back, as JSON: see `node.links.report`.
        stage: how far it is in `round` (`Stage`); empty before it takes part.
        held: rounds that the last aggregated model it holds has behind it; -1: it has none.
        began_wall_ns: when its run clock stood at 0, in Unix time; 0: it has not begun. A
            coordinator that was started again learns from this that a run is under way.
    """

    emulator: str
    applied: str
    stage: str = ""
    held: int = -1
    began_wall_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Stamped):
    """The coordinator takes the member in and says how often it wants to hear from it.

    Args:
        need_sync: the run is under way: ask for the model before taking part. A second Welcome,
            without it and after SyncDone, names the `round` to join.
    """

    heartbeat_ns: Nanos
    lease_ns: Nanos
    need_sync: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLinks(Stamped):
    """Measure the paths to these members now; nobody else uses those links meanwhile."""

    slot: int
    targets: tuple[NodeId, ...]
    measures: tuple[str, ...]
    """Of `rtt`, `rate`, `loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksMeasured(Stamped):
    slot: int
    readings: tuple[LinkReading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Stamped):
    """Links are done: get ready to train, then say Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Stamped):
    """The trainer is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Stamped):
    """The run clock starts at `at_wall_ns` (Unix time in ns), or did so: train from then on."""

    at_wall_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Stamped):
    """Renews the member's lease and says how far it is.

    Args:
        phase: what the node is doing, for the live table.
        ended: rounds of learning that it has ended.
        accuracy: newest test accuracy, None before the first evaluation.
        model_bytes: model bytes sent so far.
    """

    phase: str
    ended: int
    accuracy: float | None = None
    loss: float | None = None
    model_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Stamped):
    """This member reached its stop condition; it goes on answering until it hears Stop."""

    reason: str
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Stamped):
    """End the run now, for the reason given: it is the same for every member."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Stamped):
    """The member goes, having stored everything; `error` says why where it was not asked to."""

    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Stamped):
    """The coordinator does not take the member (unknown, wrong session, too late)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLinks(Stamped):
    """The member's links change otherwise than was planned; it says so by LinksChanged.

    Sent again to a member that comes back without having said so; `number` tells which it knows.

    Args:
        number: of the order; greater than those before.
        plan: `node.config.Replan` as JSON.
    """

    number: int
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksChanged(Stamped):
    """The order is in the hands of who does it; `error` says why it was refused instead."""

    number: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway(Stamped):
    """To a member that was started again: the run began at `at_wall_ns`, without this life of it.

    It sets its clock and its links, answers its peers, has no part, and leaves when it hears Stop.
    """

    at_wall_ns: int
    reason: str


# --- rounds


class Stage(StrEnum):
    """How far a member is in its round."""

    TRAINING = "training"
    READY = "ready"
    CONNECTING = "connecting"
    ARMED = "armed"
    SHARING = "sharing"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRound(Stamped):
    """The member takes part in `round` and begins to train for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIsReady(Stamped):
    """The member has trained for `round`: it waits for its peers (sync only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersForRound(Stamped):
    """Connect to these peers, and say ConnectionsReady.

    Args:
        peers: the ends of the member's edges in this round.
        spare: peers whose edges were dropped before: they count if they happen to be connected,
            but nobody waits for them.
    """

    peers: tuple[NodeId, ...] = ()
    spare: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsReady(Stamped):
    """All connections of this attempt are settled: peers that answer, and peers that do not."""

    connected: tuple[NodeId, ...] = ()
    failed: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPeerConnections(Stamped):
    """A new attempt: set up these connections again, and only these; say ConnectionsReady."""

    failed: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWeightSharing(Stamped):
    """All are connected: share with these peers, whatever you know of your connections."""

    peers: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDone(Stamped):
    """The member has aggregated `round`, without what these peers should have sent."""

    missing: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFail(Stamped):
    """The member cannot be reached by its peers: it leaves, with this reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerGone(Stamped):
    """A peer of this round is not waited for any more."""

    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Stamped):
    """There are too few members for a round; it waits until there are enough."""

    present: int
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough(Stamped):
    """There are enough members for a round again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale(Stamped):
    """What was said belongs to the past: `round` and `attempt` are the present ones."""


# --- model sync; the model itself travels on the peer stream (`node.core.model_sync`)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSyncRequest(Stamped):
    """The member needs the model.

    Args:
        failed: number of the sync that came to nothing; 0: this is the first.
        reason: why it did.
    """

    failed: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalModelProvider(Stamped):
    """To a newcomer: get the model from `provider`; empty: from nobody, the initial model is it."""

    sync: int
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalNewPeer(Stamped):
    """To a provider: `newcomer` will ask for the last aggregated model under this number."""

    sync: int
    newcomer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncDone(Stamped):
    """The member holds the model of sync `sync` (0: the initial one), `held` rounds old."""

    sync: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncDecline(Stamped):
    """The provider has no model to give."""

    sync: int
    reason: str


Signal: TypeAlias = (
    Hello
    | Welcome
    | MeasureLinks
    | LinksMeasured
    | Prepare
    | Ready
    | Start
    | Heartbeat
    | Done
    | Stop
    | Leave
    | Refuse
    | ChangeLinks
    | LinksChanged
    | Underway
    | JoinRound
    | PeerIsReady
    | PeersForRound
    | ConnectionsReady
    | RetryPeerConnections
    | StartWeightSharing
    | RoundDone
    | ConnectionFail
    | PeerGone
    | Waiting
    | Enough
    | Stale
    | ModelSyncRequest
    | SignalModelProvider
    | SignalNewPeer
    | SyncDone
    | SyncDecline
)
