"""What one member of a run is told: frozen dataclasses, JSON in and out.

`deploy` fills them from the plan; a container reads its own from the environment variable
`PEERBED_CONFIG`, a local process from a file. Units as in `node.units`: ns, bit/s, bytes.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from node.core.ids import NodeId
from node.errors import ConfigError
from node.typed_json import plain, typed
from node.units import MILLISECOND, SECOND, Nanos


class LinkPolicy(StrEnum):
    """What a measured miss does after three tries."""

    STRICT = "strict"
    WARN = "warn"
    OFF = "off"


class Emulator(StrEnum):
    """Who impairs the traffic. `AUTO` takes the most faithful that the kernel has."""

    AUTO = "auto"
    NETEM = "netem"
    NFQUEUE = "nfqueue"
    APPLICATION = "application"
    MODEL = "model"


class Pacing(StrEnum):
    """`SEQUENTIAL`: one message at a time, in queue order. `PARALLEL`: one at a time per peer."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Loss in bursts: the Gilbert-Elliott chain, one step a packet (netem's `loss gemodel`).

    Args:
        enter: probability to go from the good to the bad state (p).
        leave: probability to come back (r); mean length of a burst is 1 / leave packets.
        bad, good: share of packets lost in each state (1 - h, 1 - k).
    """

    enter: float
    leave: float
    bad: float = 1.0
    good: float = 0.0

    @property
    def loss(self) -> float:
        """Share of packets lost in the long run."""
        share = self.enter / (self.enter + self.leave)
        return share * self.bad + (1.0 - share) * self.good


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Packets leave in batches, each after a pause drawn evenly from least to most (netem)."""

    least_ns: Nanos
    most_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSpec:
    """One direction of the path between two nodes, collapsed from the links along it.

    Args:
        rate_bps: the slowest link on it; None is unlimited.
        delay_ns: one-way, the sum.
        jitter_ns: standard deviation of a normal distribution, the root of the sum of squares.
        loss: share of packets lost independently of each other, 1 - prod(1 - p).
        burst: loss in bursts on top of `loss`.
        duplicate, corrupt, reorder: shares of packets that come twice, with a bit flipped, or
            without the delay, before those that wait.
        ordered: whether packets keep their order in spite of jitter.
        queue_bytes: what the bottleneck buffers; None: 100 ms or a round trip, whichever is more.
        slot: packets leave in batches.
    """

    rate_bps: int | None = None
    delay_ns: Nanos = 0
    jitter_ns: Nanos = 0
    loss: float = 0.0
    burst: Burst | None = None
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    ordered: bool = True
    queue_bytes: int | None = None
    slot: Slot | None = None

    @property
    def loss_rate(self) -> float:
        """Share of packets lost in the long run, in bursts and otherwise."""
        return self.loss if self.burst is None else 1 - (1 - self.loss) * (1 - self.burst.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLink:
    """One direction of a link that ends at this node: the ceiling over all paths through it."""

    name: str
    rate_bps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLink:
    """One direction of an interior link that paths of several nodes meet on.

    No kernel sees all of its traffic, so the link agents compute each path's share of it
    (`node.links.sharing`). Every node lists the same ones in the same order.
    """

    name: str
    rate_bps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLink:
    """Another node as seen from this one.

    Args:
        host, port: where its peer service listens.
        out, into: the paths to it and from it; None where there is none (traffic is refused).
        up, down: names of this node's access links that they start and end with.
        shared: names of the shared links on the way out, in its order.
    """

    name: NodeId
    host: str
    port: int
    out: PathSpec | None = None
    into: PathSpec | None = None
    up: str | None = None
    down: str | None = None
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChange:
    """The fields of a PeerLink that change while a run goes on, all of them as they are then."""

    name: NodeId
    out: PathSpec | None = None
    into: PathSpec | None = None
    up: str | None = None
    down: str | None = None
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """What becomes of one node's links at one time; all of it together.

    Args:
        at_ns: on the run clock.
        what: the events of the topology file (or the command) behind it, for people.
        peers: the paths that are different from then on.
        access: access links of this node, up or down, whose rate is different.
        shared: shared links whose rate is different.
    """

    at_ns: Nanos
    what: tuple[str, ...] = ()
    peers: tuple[PathChange, ...] = ()
    access: tuple[AccessLink, ...] = ()
    shared: tuple[SharedLink, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksConfig:
    """The network of one node.

    Args:
        up, down: its access links.
        peers: every other node.
        shared: the shared links of the whole network; the same for all nodes.
        partners: nodes with a path that meets one of ours on a shared link at some time.
        changes: what is planned to change, in order of time.
    """

    emulator: Emulator = Emulator.AUTO
    policy: LinkPolicy = LinkPolicy.WARN
    up: tuple[AccessLink, ...] = ()
    down: tuple[AccessLink, ...] = ()
    peers: tuple[PeerLink, ...] = ()
    shared: tuple[SharedLink, ...] = ()
    partners: tuple[NodeId, ...] = ()
    changes: tuple[LinkChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replan:
    """What was ordered by hand, as one node has to do it: a new plan from `at_ns` on.

    Whatever the node has still planned from then on is replaced by `changes`; what is planned for
    earlier stays. Changes hold absolute values, so that an order that comes late ends in the right
    state, too: all that is past is done at once, in order.

    Args:
        at_ns: on the run clock.
        changes: at `at_ns` and later, in order of time. A path may be listed that does not change.
        shared, partners: as in LinksConfig, in force from `at_ns` on. `shared` only ever grows at
            its end, so that positions in it stay what they were.
    """

    at_ns: Nanos
    changes: tuple[LinkChange, ...] = ()
    shared: tuple[SharedLink, ...] = ()
    partners: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A time on the run clock at which the connection to a target is made anew.

    Where a path's window grows a lot, an old TCP connection would take many seconds to fill it; a
    new one doubles what it has under way with every round trip.
    """

    target: NodeId
    at_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Instead of training, send as much as goes to some nodes: what `deploy verify` does.

    Args:
        targets: whom this node sends to.
        sample_ns: length of the intervals that what arrives is counted in.
        renewals: connections that are made anew, in order of time.
    """

    targets: tuple[NodeId, ...] = ()
    sample_ns: Nanos = 100 * MILLISECOND
    renewals: tuple[Renewal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmConfig:
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pacing: Pacing = Pacing.SEQUENTIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionConfig:
    """How the training samples are dealt out.

    Args:
        kind: `iid`, `shards`, `dirichlet`, or `user` (data sets whose samples belong to users).
        shards: shards a node (`shards`: sort by label, cut, deal; Hsu et al. 2019 call it k-shard).
        alpha: concentration of the Dirichlet distribution over labels.
    """

    kind: str = "iid"
    shards: int = 2
    alpha: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """How long a training step takes in the run.

    Args:
        step_ns: a step takes at least this long (padded); None: as long as it takes (in virtual
            time: as long as it took on this machine when it was measured).
        speed: 0.5 makes every step take twice as long as elsewhere.
        trace_ns: instead of `step_ns`: what a step takes in the first job, the second, ..., and
            from the beginning again; empty: no trace.
    """

    step_ns: Nanos | None = None
    speed: float = 1.0
    trace_ns: tuple[Nanos, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether nothing says how long a step takes."""
        return self.step_ns is None and not self.trace_ns

    def job_ns(self, *, job: int, steps: int, measured_ns: Nanos) -> Nanos:
        """How long a job is to last.

        Args:
            job: its number, from 1.
            measured_ns: how long it takes to compute; counts where nothing else is said.
        """
        if self.measured:
            return round(measured_ns / self.speed)
        trace = self.trace_ns or (self.step_ns or 0,)
        return round(steps * trace[(job - 1) % len(trace)] / self.speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    dataset: str = "digits"
    model: str = "mlp"
    batch_size: int = 16
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    data_dir: str | None = None
    evaluate_every: int = 1
    """Rounds between two evaluations on the test set."""
    context: int = 64
    """Characters of a piece that the data set `text` is cut into."""
    test_samples: int | None = None
    """As many samples of the test set, the same for all nodes, are evaluated; None: all."""
    message_bytes: int | None = None
    """Bytes that a whole model counts for in virtual time, a part in proportion; None: what it has.
    A small model can stand for a large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConfig:
    """Stop conditions; the first that holds ends the run for all. `time_ns` is always set."""

    time_ns: Nanos
    rounds: int | None = None
    accuracy: float | None = None


class Mode(StrEnum):
    """How members keep in step. `SYNC`: a barrier before each round's sharing. `ASYNC`: one at the
    start, then only for the edges that a change of membership touches."""

    SYNC = "sync"
    ASYNC = "async"


class Unreachable(StrEnum):
    """What is given up when connections cannot be set up: the `EDGES` alone, or the `PEERS` that
    explain them (the smallest set that has an end of each)."""

    EDGES = "edges"
    PEERS = "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """Rounds among peers (docs/signaling.md).

    Args:
        max_connection_retry: attempts after the first, in each round.
        connection_timeout_ns: for all connections of one attempt.
        min_participants: with fewer the round waits.
        quorum: share of those expected that is enough once `gather_ns` is over.
        gather_ns: from the first member that is ready in a round to doing without the others.
        share_ns: from the start of sharing to aggregating what has arrived.
        sync_ns: a provider of which nothing arrives for so long is replaced.
    """

    mode: Mode = Mode.ASYNC
    unreachable: Unreachable = Unreachable.EDGES
    max_connection_retry: int = 3
    connection_timeout_ns: Nanos = 5 * SECOND
    min_participants: int = 2
    quorum: float = 0.5
    gather_ns: Nanos = 60 * SECOND
    share_ns: Nanos = 60 * SECOND
    sync_ns: Nanos = 10 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Every wait has one.

    Args:
        join_ns: until every member has said Hello.
        links_ns: for measuring all links, three tries included.
        ready_ns: until every member is Ready after Prepare.
        stop_ns: until every member has left after Stop.
        heartbeat_ns, lease_ns: a member silent for a lease counts as lost.
        peer_ns: a peer out of reach for this long fails what is queued to it.
        coordinator_ns: a member that cannot reach the coordinator for this long ends.
    """

    join_ns: Nanos = 90 * SECOND
    links_ns: Nanos = 120 * SECOND
    ready_ns: Nanos = 120 * SECOND
    stop_ns: Nanos = 20 * SECOND
    heartbeat_ns: Nanos = 500 * MILLISECOND
    lease_ns: Nanos = 10 * SECOND
    peer_ns: Nanos = 10 * SECOND
    coordinator_ns: Nanos = 60 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All that one node is told."""

    session: str
    name: NodeId
    index: int
    members: tuple[NodeId, ...]
    neighbours: tuple[NodeId, ...]
    seed: int
    host: str
    port: int
    coordinator_host: str
    coordinator_port: int
    links: LinksConfig
    algorithm: AlgorithmConfig
    training: TrainingConfig
    compute: ComputeConfig
    stop: StopConfig
    deadlines: Deadlines = field(default_factory=Deadlines)
    results: str = "/results"
    owner: str = "10001:10001"
    """uid:gid that the node process and its files belong to."""
    load: LoadConfig | None = None
    """Set: the node sends load instead of training."""
    rounds: RoundsConfig | None = field(default_factory=RoundsConfig)
    """None: no barrier and no latecomers, as for load."""
    trace: bool = False
    """Every event of the peer machine is stored, with its arrays, to be played again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPair:
    """An ordered pair of nodes whose path is to be measured: what was asked for, both ways.

    Args:
        shared: names of the shared links on the way out: it is not measured beside others on them.
    """

    source: NodeId
    target: NodeId
    out: PathSpec
    back: PathSpec
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """All that the coordinator is told.

    Args:
        pairs: the paths that are measured before the start.
        candidates: how many there are, of which `pairs` may be a sample.
        rounds: None: no barrier and no latecomers, as for load.
        overlay: who exchanges with whom, each pair once.
        standby: members that are not waited for at the start; they join later, or never.
    """

    session: str
    members: tuple[NodeId, ...]
    seed: int
    host: str
    port: int
    policy: LinkPolicy
    pairs: tuple[ExpectedPair, ...]
    candidates: int
    training: TrainingConfig
    stop: StopConfig
    deadlines: Deadlines = field(default_factory=Deadlines)
    results: str = "/results"
    owner: str = "10001:10001"
    rounds: RoundsConfig | None = field(default_factory=RoundsConfig)
    overlay: tuple[tuple[NodeId, ...], ...] = ()
    standby: tuple[NodeId, ...] = ()


Config = NodeConfig | CoordinatorConfig
_T = TypeVar("_T")


_SPARSE: Final = (PathSpec, PathChange, LinkChange, Burst, ExpectedPair)
"""Written without what has its default value: there are thousands of them."""


def to_json(config: Any) -> str:
    """The dataclass as canonical JSON: same value, same bytes."""
    return json.dumps(plain(config, sparse=_SPARSE), separators=(",", ":"), sort_keys=True)


def from_json(kind: type[_T], text: str) -> _T:
    """Read a dataclass back; raises ConfigError naming the key that is missing, extra or wrong."""
    try:
        return typing.cast(_T, typed(kind, json.loads(text), where=kind.__name__))
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error}", where=kind.__name__) from error
