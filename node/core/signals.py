"""What members and the coordinator say to each other (`proto/signaling.proto`).

Only the start barrier, link measuring and the end of a run are here; rounds, retries and model
sync for latecomers join them under their own names (design: `ConnectionsReady`, ...). The envelope
(session, member, incarnation, round, attempt) is on every message of the wire and is checked by
the runtime's codec; `round` and `attempt` stay 0 until there are rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from node.core.ids import NodeId
from node.units import Nanos


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
class Hello:
    """A member presents itself; its links are set up and read back.

    Args:
        emulator: which link emulator is in force (`netem`, `nfqueue`, `application`, `none`).
        applied: what was read back, as JSON: see `node.links.report`.
    """

    emulator: str
    applied: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The coordinator takes the member in and says how often it wants to hear from it."""

    heartbeat_ns: Nanos
    lease_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLinks:
    """Measure the paths to these members now; nobody else uses those links meanwhile."""

    attempt: int
    targets: tuple[NodeId, ...]
    measures: tuple[str, ...]
    """Of `rtt`, `rate`, `loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksMeasured:
    attempt: int
    readings: tuple[LinkReading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Links are done: get ready to train, connect to the neighbours, then say Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Trainer up, connected to every neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The run clock starts at `at_wall_ns` (Unix time in ns); train from then on."""

    at_wall_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Renews the member's lease and says how far it is.

    Args:
        phase: what the node is doing, for the live table.
        accuracy: newest test accuracy, None before the first evaluation.
        model_bytes: model bytes sent so far.
    """

    phase: str
    round: int
    accuracy: float | None = None
    loss: float | None = None
    model_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """This member reached its stop condition; it goes on answering until it hears Stop."""

    reason: str
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the run now, for the reason given: it is the same for every member."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The member goes, having stored everything; `error` says why where it was not asked to."""

    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The coordinator does not take the member (unknown, wrong session, too late)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLinks:
    """The member's links change otherwise than was planned; it says so by LinksChanged.

    Sent again to a member that comes back without having said so; `number` tells which it knows.

    Args:
        number: of the order; greater than those before.
        plan: `node.config.Replan` as JSON.
    """

    number: int
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksChanged:
    """The order is in the hands of who does it; `error` says why it was refused instead."""

    number: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """To a member that was started again: the run began at `at_wall_ns`, without this life of it.

    It sets its clock and its links, answers its peers, has no part, and leaves when it hears Stop.
    """

    at_wall_ns: int
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
)
