"""What one seed stands for: a run, its network, and what goes wrong in it (pure).

All is drawn before anything happens, from streams of their own: the same seed is the same run
whatever the machines do, and a mutated machine meets the same faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from node.config import Deadlines, LinkPolicy, Mode, RoundsConfig, StopConfig, Unreachable
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND, Nanos

DEADLINES = Deadlines(
    join_ns=20 * SECOND,
    links_ns=10 * SECOND,
    ready_ns=20 * SECOND,
    stop_ns=8 * SECOND,
    heartbeat_ns=500 * MILLISECOND,
    lease_ns=4 * SECOND,
    peer_ns=3 * SECOND,
    coordinator_ns=20 * SECOND,
)
"""Shorter than the defaults by some factor each: virtual time costs heartbeats."""
FAULTS_FROM_S = 2.0
FAULTS_UNTIL_S = 20.0
BEGUN_S = 2.5
"""By then most runs have begun."""


class Kind(StrEnum):
    """What can go wrong, and what may be done on purpose."""

    LINE = "line"
    """The stream between a member and the coordinator breaks, for a time."""
    STREAM = "stream"
    """The stream between two peers breaks, and may be dialled again at once."""
    CUT = "cut"
    """Nothing gets from the first to the second, for a time."""
    PART = "part"
    """Nothing gets through between two, for a time."""
    ISOLATE = "isolate"
    """Nothing gets to or from any peer, for a time; the coordinator is reached."""
    CRASH = "crash"
    RESTART = "restart"
    """A crash, and a new process in its place after a time."""
    PAUSE = "pause"
    COORDINATOR = "coordinator"
    """The coordinator crashes, and a new one takes its place after a time."""
    JOIN = "join"
    LEAVE = "leave"
    SLOW = "slow"
    """One local training takes far longer than the others."""
    DEAF = "deaf"
    """The mesh of a node does not say what came of its edges, for a time: a defect of ours."""
    LINKS = "links"
    """Somebody orders a change of all links; nothing goes wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Args:
        at_s: from the begin of the simulation.
        for_s: how long it lasts; 0 where that means nothing.
        ordered: the coordinator was told beforehand, as `deploy` does for what is done on purpose.
    """

    kind: Kind
    at_s: float
    who: tuple[NodeId, ...] = ()
    for_s: float = 0.0
    ordered: bool = False

    @property
    def until_s(self) -> float:
        return self.at_s + self.for_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run and what happens to it.

    Args:
        delay_ns: of a message, drawn evenly for each.
        loss, duplicate: share of messages, until the faults are over.
        reorder: share of messages that others of their stream may overtake, likewise.
        train_s: of a local training, drawn evenly for each.
        algorithm: `tiny` (of this package), or a name of `node.algorithms`.
        quiet_s: from then on nothing goes wrong any more.
    """

    seed: int
    names: tuple[NodeId, ...]
    overlay: tuple[tuple[NodeId, NodeId], ...]
    standby: tuple[NodeId, ...] = ()
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    stop: StopConfig = field(default_factory=lambda: StopConfig(time_ns=90 * SECOND, rounds=6))
    deadlines: Deadlines = DEADLINES
    policy: LinkPolicy = LinkPolicy.OFF
    algorithm: str = "tiny"
    delay_ns: tuple[Nanos, Nanos] = (MILLISECOND, 20 * MILLISECOND)
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    train_s: tuple[float, float] = (0.3, 1.0)
    faults: tuple[Fault, ...] = ()
    quiet_s: float = 0.0

    @property
    def mode(self) -> Mode:
        return self.rounds.mode

    @property
    def train_most_s(self) -> float:
        """The longest that a training takes, the slow ones left aside."""
        return self.train_s[1]


def names(count: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(f"n-{i}") for i in range(count))


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"{seed}/plan")
    members = names(rng.randint(2, 6))
    standby = members[-1:] if len(members) > 2 and rng.random() < 0.3 else ()
    least = rng.randint(1, max(1, len(members) - len(standby) - 1))
    sync = rng.random() < 0.6
    rounds = RoundsConfig(
        mode=Mode.SYNC if sync else Mode.ASYNC,
        unreachable=rng.choice(list(Unreachable)),
        max_connection_retry=rng.randint(0, 3),
        connection_timeout_ns=rng.choice((1500, 2000, 3000)) * MILLISECOND,
        min_participants=min(2, least) if rng.random() < 0.7 else least,
        quorum=rng.choice((0.5, 0.5, 0.75, 1.0)),
        gather_ns=rng.choice((3, 6)) * SECOND,
        share_ns=rng.choice((2, 4)) * SECOND,
        sync_ns=2 * SECOND,
    )
    fast = rng.uniform(0.2, 1.5)
    lossy = rng.random() < 0.4
    short = rng.randint(4, 15) if rng.random() < 0.15 else None
    faults = _faults(rng, members, standby, rounds)
    if short is not None and rng.random() < 0.5:
        faults = (*faults, _back_at_the_end(rng, members, short))
    return Plan(
        seed=seed,
        names=members,
        overlay=_overlay(rng, members),
        standby=standby,
        rounds=rounds,
        stop=StopConfig(
            time_ns=(short or 90) * SECOND,
            rounds=max(3, round(rng.uniform(4, 22) / (fast + 0.4))),
        ),
        policy=LinkPolicy.WARN if rng.random() < 0.1 else LinkPolicy.OFF,
        algorithm=("dpsgd" if sync else "divshare") if rng.random() < 0.1 else "tiny",
        delay_ns=(MILLISECOND, rng.choice((5, 30, 100, 200)) * MILLISECOND),
        loss=rng.uniform(0, 0.05) if lossy else 0.0,
        duplicate=rng.uniform(0, 0.1) if lossy else 0.0,
        reorder=rng.uniform(0, rng.choice((0.1, 0.4))) if lossy and rng.random() < 0.5 else 0.0,
        train_s=(fast, fast * rng.choice((1.1, 1.5, 3.0))),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        quiet_s=max([FAULTS_FROM_S, *(fault.until_s for fault in faults)]),
    )


def _overlay(rng: Random, members: tuple[NodeId, ...]) -> tuple[tuple[NodeId, NodeId], ...]:
    """A ring, a star, all pairs, or a random tree with some edges more."""
    count = len(members)
    match rng.choice(("ring", "star", "full", "tree")):
        case "ring":
            pairs = {(i, (i + 1) % count) for i in range(count)}
        case "star":
            pairs = {(0, i) for i in range(1, count)}
        case "full":
            pairs = {(i, j) for i in range(count) for j in range(i)}
        case _:
            pairs = {(rng.randrange(i), i) for i in range(1, count)}
            pairs |= {tuple(rng.sample(range(count), 2)) for _ in range(count // 2)}  # type: ignore[misc]
    sorted_pairs = sorted({(min(pair), max(pair)) for pair in pairs})
    return tuple((members[a], members[b]) for a, b in sorted_pairs)


def _faults(
    rng: Random, members: tuple[NodeId, ...], standby: tuple[NodeId, ...], rounds: RoundsConfig
) -> tuple[Fault, ...]:
    """None in one run of eight, else up to four; enough members for a round survive them all."""
    faults = [
        Fault(kind=Kind.JOIN, at_s=rng.uniform(0.5, FAULTS_UNTIL_S), who=(who,), ordered=True)
        for who in standby
    ]
    many = rng.choice((0, 1, 1, 2, 2, 2, 3, 4))
    spare = len(members) - len(standby) - max(2, rounds.min_participants)
    busy: dict[NodeId, float] = dict.fromkeys(standby, FAULTS_UNTIL_S * 2)
    coordinator_until = 0.0
    for at in sorted(rng.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S) for _ in range(many)):
        kind = rng.choice(_WEIGHTED)
        one, two = rng.sample(members, 2)
        if kind is Kind.COORDINATOR:
            if at < coordinator_until:
                continue
            fault = Fault(kind=kind, at_s=at, for_s=rng.uniform(0.2, 8))
            coordinator_until = fault.until_s + 1
        elif kind in (Kind.STREAM, Kind.CUT, Kind.PART):
            fault = Fault(kind=kind, at_s=at, who=(one, two), for_s=_span(rng, kind))
        else:
            if at < busy.get(one, 0.0):
                continue
            if kind in (Kind.CRASH, Kind.LEAVE):
                if spare <= 0:
                    continue
                spare -= 1
            ordered = kind is Kind.LEAVE or rng.random() < 0.5
            fault = Fault(kind=kind, at_s=at, who=(one,), for_s=_span(rng, kind), ordered=ordered)
            gone = kind in (Kind.CRASH, Kind.LEAVE)
            busy[one] = 1e9 if gone else fault.until_s + 0.5
        faults.append(fault)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _back_at_the_end(rng: Random, members: tuple[NodeId, ...], time_s: int) -> Fault:
    """One that has missed rounds comes back about when the time is over."""
    end = BEGUN_S + time_s - rng.uniform(0, 1)
    at = end - rng.uniform(2, 4)
    return Fault(kind=Kind.LINE, at_s=at, who=(rng.choice(members),), for_s=end - at)


_WEIGHTED = [kind for kind in Kind if kind is not Kind.JOIN] + [Kind.RESTART, Kind.PART]


def _span(rng: Random, kind: Kind) -> float:
    """Some faults are over before anybody notices, some outlast a lease."""
    match kind:
        case Kind.STREAM | Kind.CRASH | Kind.LEAVE | Kind.LINKS:
            return 0.0
        case Kind.SLOW:
            return rng.choice((4.0, 8.0))
        case _:
            return rng.choice((rng.uniform(0.05, 1), rng.uniform(0.5, 5), rng.uniform(4, 10)))
