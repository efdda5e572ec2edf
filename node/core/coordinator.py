"""The coordinator's side of the signaling protocol: one barrier, one start, one end for all.

    gathering --all said Hello-->       measuring   (policy `off`: preparing)
    measuring --all pairs in order, or three tries--> preparing
    preparing --all Ready-->            running     Start names the moment
    running   --all Done | time | accuracy--> stopping
    stopping  --all left, or deadline--> ended

A member that is lost before the start aborts the run; one that is lost later is recorded, the
others go on, and the end says so. One that was stopped on purpose (`node.core.orders`) is no error,
nobody waits for it, and should it be started again it stays idle. Every state has a deadline. `now`
is Unix time in ns, advanced by a monotonic clock: members are told wall times, and leases are
judged by this clock alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, TypeAlias

from node.config import CoordinatorConfig, ExpectedPair, LinkPolicy
from node.core.effects import CancelTimer, Effect, Finish, Record, Send, SetTimer, StoreLinks
from node.core.events import (
    Event,
    Failed,
    LinksOrdered,
    NodeOrdered,
    PeerChange,
    PeerChanged,
    Received,
    Started,
    StopRequested,
    TimerFired,
)
from node.core.ids import NodeId
from node.core.orders import LinkOrders, Seat, expected, refused
from node.core.signals import (
    Done,
    Heartbeat,
    Hello,
    Leave,
    LinkReading,
    LinksChanged,
    LinksMeasured,
    MeasureLinks,
    Prepare,
    Ready,
    Refuse,
    Signal,
    Start,
    Stop,
    Underway,
    Welcome,
)
from node.units import MILLISECOND, SECOND, Nanos, format_duration

_PHASE: Final = "coordinator/phase"
_SLOT: Final = "coordinator/slot"
_LEASE: Final = "coordinator/lease/"
START_DELAY: Final = 200 * MILLISECOND
"""From sending Start to the run clock's zero: time for the message to reach every member."""
TRIES: Final = 3
_TIME_GRACE: Final = 2 * SECOND
"""Members end at the time limit by themselves; this much later the coordinator ends the run."""


class Phase(Enum):
    GATHERING = "gathering"
    MEASURING = "measuring"
    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSlot:
    """What is measured at the same time: for each member, the paths to measure from it."""

    targets: Mapping[NodeId, tuple[NodeId, ...]]
    measures: tuple[str, ...]
    deadline_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """The measuring of links as pure functions (`node.links.report`).

    Args:
        schedule: cuts pairs into slots that do not disturb each other; on a later try, less still.
        judge: whether what was measured is what was asked for.
    """

    schedule: Callable[[tuple[ExpectedPair, ...], int], tuple[ProbeSlot, ...]]
    judge: Callable[[ExpectedPair, LinkReading], bool]


@dataclass(slots=True)
class _Measuring:
    """The state of link measuring."""

    attempt: int = 0
    tries: int = 0
    slots: list[ProbeSlot] = field(default_factory=list)
    waiting: set[NodeId] = field(default_factory=set)
    readings: dict[_Pair, LinkReading] = field(default_factory=dict)


_Pair: TypeAlias = tuple[NodeId, NodeId]


class Coordinator:
    """The coordinator machine."""

    def __init__(self, *, config: CoordinatorConfig, probing: Probing) -> None:
        self._config = config
        self._probing = probing
        self._phase = Phase.GATHERING
        self._seats = {name: Seat() for name in config.members}
        self._links = _Measuring()
        self._orders = LinkOrders()
        self._began: Nanos | None = None
        """When the run clock stood at 0."""
        self._errors: list[str] = []
        self._reason = ""

    @property
    def phase(self) -> Phase:
        return self._phase

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        if self._phase is Phase.ENDED:
            return []
        match event:
            case Started():
                return self._enter(Phase.GATHERING, now + self._config.deadlines.join_ns)
            case Received(sender=sender, message=message):
                return self._hear(sender, message, now) if isinstance(message, Signal) else []
            case TimerFired(key=key):
                return self._timer(key, now)
            case PeerChanged(peer=peer, change=change):
                return self._stream_changed(peer, change, now)
            case LinksOrdered() | NodeOrdered():
                return self._ordered(event, now)
            case StopRequested(reason=reason):
                return self._stop(reason, now, error=f"stopped from outside: {reason}")
            case Failed(reason=reason):
                return self._stop("failed", now, error=reason)
            case _:
                return []

    def _hear(self, sender: NodeId, signal: Signal, now: Nanos) -> list[Effect]:
        seat = self._seats.get(sender)
        if seat is None:
            return [Send(target=sender, message=Refuse(reason=f"{sender} is not in this run"))]
        renewed = [*self._back(sender, seat), *self._renew(sender, seat, now)]
        match signal:
            case Hello():
                return [*renewed, *self._hello(sender, seat, signal, now)]
            case LinksMeasured():
                return [*renewed, *self._measured(sender, signal, now)]
            case Ready() if self._phase is Phase.PREPARING:
                seat.ready = True
                return [*renewed, _member(sender, "ready"), *self._check_ready(now)]
            case Heartbeat():
                seat.accuracy = signal.accuracy if signal.accuracy is not None else seat.accuracy
                return [*renewed, *self._check_accuracy(now)]
            case Done() if seat.done is None:
                seat.done = signal
                done = _member(sender, "done", reason=signal.reason, round=signal.ended)
                return [*renewed, done, *self._check_done(now)]
            case LinksChanged():
                return [*renewed, *self._orders.taken(sender, signal)]
            case Leave(error=error):
                return self._gone(sender, "left" if error is None else "failed", error, now)
            case _:
                note = f"{type(signal).__name__} while {self._phase.value}"
                return [*renewed, Record(kind="refused", fields={"sender": sender, "reason": note})]

    def _hello(self, sender: NodeId, seat: Seat, hello: Hello, now: Nanos) -> list[Effect]:
        """Take a member in; one that comes back after a broken stream is welcomed again."""
        deadlines = self._config.deadlines
        welcome = Welcome(heartbeat_ns=deadlines.heartbeat_ns, lease_ns=deadlines.lease_ns)
        if seat.reborn and self._phase is Phase.RUNNING:
            return [Send(target=sender, message=welcome), *self._idle(sender, seat, hello, now)]
        if seat.left or (seat.hello is None and self._phase is not Phase.GATHERING):
            reason = f"{sender} is too late: the run is {self._phase.value}"
            return [Send(target=sender, message=Refuse(reason=reason))]
        again = seat.hello is not None
        seat.hello = hello
        effects: list[Effect] = [Send(target=sender, message=welcome)]
        if again:
            if self._phase is Phase.STOPPING:  # a later life of it may not have been told
                effects.append(Send(target=sender, message=Stop(reason=self._reason)))
            return [*effects, _member(sender, "rejoined"), *self._orders.missing(sender)]
        effects.append(_member(sender, "joined", emulator=hello.emulator))
        effects.extend(self._renew(sender, seat, now))
        if all(other.present for other in self._seats.values()):
            if self._config.policy is LinkPolicy.OFF or not self._config.pairs:
                effects.extend(self._store_links())
                effects.extend(self._prepare(now))
            else:
                deadline = now + deadlines.links_ns
                effects.extend(self._enter(Phase.MEASURING, deadline))
                effects.extend(self._measure(self._config.pairs, now))
        return effects

    # --- measuring links

    def _measure(self, pairs: tuple[ExpectedPair, ...], now: Nanos) -> list[Effect]:
        self._links.tries += 1
        self._links.slots = list(self._probing.schedule(pairs, self._links.tries))
        fields = {"try": self._links.tries, "pairs": len(pairs), "slots": len(self._links.slots)}
        return [Record(kind="measuring", fields=dict(fields)), *self._next_slot(now)]

    def _next_slot(self, now: Nanos) -> list[Effect]:
        links = self._links
        if not links.slots:
            return [CancelTimer(key=_SLOT), *self._check_links(now)]
        slot = links.slots.pop(0)
        links.attempt += 1
        links.waiting = set(slot.targets)
        effects: list[Effect] = [SetTimer(key=_SLOT, at=now + slot.deadline_ns)]
        for member, targets in slot.targets.items():
            order = MeasureLinks(slot=links.attempt, targets=targets, measures=slot.measures)
            effects.append(Send(target=member, message=order))
        return effects

    def _measured(self, sender: NodeId, signal: LinksMeasured, now: Nanos) -> list[Effect]:
        links = self._links
        if self._phase is not Phase.MEASURING or signal.slot != links.attempt:
            return []  # of a slot that was given up
        for reading in signal.readings:
            pair = (reading.source, reading.target)
            links.readings[pair] = _merged(links.readings.get(pair), reading)
        links.waiting.discard(sender)
        return [] if links.waiting else self._next_slot(now)

    def _check_links(self, now: Nanos) -> list[Effect]:
        """All slots are through: try the misses again, or settle."""
        misses = tuple(pair for pair in self._config.pairs if not self._as_asked(pair))
        if misses and self._links.tries < TRIES:
            for pair in misses:
                self._links.readings.pop((pair.source, pair.target), None)
            return self._measure(misses, now)
        return self._settle_links(misses, now)

    def _settle_links(self, misses: tuple[ExpectedPair, ...], now: Nanos) -> list[Effect]:
        effects: list[Effect] = self._store_links()
        if misses:
            text = ", ".join(f"{pair.source} to {pair.target}" for pair in misses)
            text = f"links not as asked after {self._links.tries} tries: {text} (see links.json)"
            if self._config.policy is LinkPolicy.STRICT:
                return [*effects, *self._stop("links", now, error=text)]
            effects.append(Record(kind="warning", fields={"message": text}))
        return [*effects, *self._prepare(now)]

    def _as_asked(self, pair: ExpectedPair) -> bool:
        reading = self._links.readings.get((pair.source, pair.target))
        return reading is not None and self._probing.judge(pair, reading)

    def _store_links(self) -> list[Effect]:
        hellos = {name: seat.hello for name, seat in self._seats.items() if seat.hello is not None}
        store = StoreLinks(
            readings=tuple(self._links.readings.values()),
            applied={name: hello.applied for name, hello in hellos.items()},
            emulators={name: hello.emulator for name, hello in hellos.items()},
        )
        return [CancelTimer(key=_SLOT), store]

    # --- start and end

    def _prepare(self, now: Nanos) -> list[Effect]:
        deadline = now + self._config.deadlines.ready_ns
        return [*self._enter(Phase.PREPARING, deadline), *self._tell_all(Prepare())]

    def _check_ready(self, now: Nanos) -> list[Effect]:
        if not all(seat.ready for seat in self._seats.values()):
            return []
        at = now + START_DELAY
        end = at + self._config.stop.time_ns + _TIME_GRACE
        start = Record(kind="start", fields={"at_wall": at / SECOND})
        self._began = at
        return [*self._tell_all(Start(at_wall_ns=at)), start, *self._enter(Phase.RUNNING, end)]

    def _check_done(self, now: Nanos) -> list[Effect]:
        staying = [seat for seat in self._seats.values() if seat.working]
        if self._phase is not Phase.RUNNING or not all(seat.done for seat in staying):
            return []
        reasons = sorted({seat.done.reason for seat in staying if seat.done is not None})
        return self._stop("+".join(reasons) or "nobody left", now)

    def _check_accuracy(self, now: Nanos) -> list[Effect]:
        target = self._config.stop.accuracy
        known = [seat.accuracy for seat in self._seats.values() if seat.working]
        if target is None or self._phase is not Phase.RUNNING or not known:
            return []
        values = [accuracy for accuracy in known if accuracy is not None]
        if len(values) < len(known) or sum(values) / len(values) < target:
            return []
        return self._stop("accuracy", now)

    def _stop(self, reason: str, now: Nanos, *, error: str | None = None) -> list[Effect]:
        """Tell every member to end; wait for them to leave."""
        effects: list[Effect] = []
        if error is not None:
            self._errors.append(error)
            effects.append(Record(kind="error", fields={"message": error}))
        if self._phase is Phase.STOPPING:
            return effects
        self._reason = reason
        effects.append(Record(kind="stop", fields={"reason": reason}))
        effects.append(CancelTimer(key=_SLOT))
        effects.extend(self._enter(Phase.STOPPING, now + self._config.deadlines.stop_ns))
        effects.extend(self._tell_all(Stop(reason=reason)))
        for name, seat in self._seats.items():
            if seat.present and seat.paused:  # it cannot answer; `deploy` ends it
                seat.left = True
                effects.append(_member(name, "paused at the end"))
        return [*effects, *self._check_left()]

    def _check_left(self) -> list[Effect]:
        if self._phase is not Phase.STOPPING or any(s.present for s in self._seats.values()):
            return []
        self._phase = Phase.ENDED
        error = "; ".join(self._errors) or None
        fields = {"reason": self._reason, "error": error}
        return [
            CancelTimer(key=_PHASE),
            Record(kind="finish", fields=dict(fields)),
            Finish(reason=self._reason, error=error),
        ]

    # --- orders from outside, and what follows from them

    def _ordered(self, order: LinksOrdered | NodeOrdered, now: Nanos) -> list[Effect]:
        """Follow an order while the run goes on; refuse it before and after."""
        if self._phase is not Phase.RUNNING:
            return [refused(order, f"the run is {self._phase.value}")]
        if isinstance(order, LinksOrdered):
            present = [name for name, seat in self._seats.items() if seat.present]
            return self._orders.give(order, present=present)
        seat = self._seats.get(order.node)
        if seat is None:
            return [refused(order, f"{order.node} is not in this run")]
        seat.take(order)
        return [expected(order), *self._renew(order.node, seat, now)]

    def _back(self, member: NodeId, seat: Seat) -> list[Effect]:
        """One that counted as left while it was paused is heard of again."""
        if not seat.missed or self._phase is not Phase.RUNNING:
            return []
        seat.left = seat.missed = False
        return [_member(member, "back")]

    def _idle(self, member: NodeId, seat: Seat, hello: Hello, now: Nanos) -> list[Effect]:
        """Take in a later life of a member: it knows the time and its links, and has no part."""
        effects: list[Effect] = []
        if not seat.left:  # nobody had missed the former life yet
            effects.extend(self._gone(member, "lost", "started again by somebody else", now))
        if self._phase is not Phase.RUNNING or self._began is None:  # that was the last of all
            return [*effects, Send(target=member, message=Stop(reason=self._reason))]
        seat.hello, seat.left, seat.idle, seat.reborn = hello, False, True, False
        why = f"{member} was started again; the run goes on without it"
        self._orders.forget(member)
        return [
            *effects,
            Send(target=member, message=Underway(at_wall_ns=self._began, reason=why)),
            _member(member, "idle", emulator=hello.emulator),
            *self._orders.missing(member),
            *self._renew(member, seat, now),
        ]

    # --- members that come and go, deadlines

    def _renew(self, sender: NodeId, seat: Seat, now: Nanos) -> list[Effect]:
        if not seat.present:
            return []
        return [SetTimer(key=_LEASE + sender, at=now + self._config.deadlines.lease_ns)]

    def _stream_changed(self, peer: NodeId, change: PeerChange, now: Nanos) -> list[Effect]:
        seat = self._seats.get(peer)
        if seat is None:
            return []
        if change is PeerChange.RESTARTED:
            seat.reborn = True
        if not seat.present:
            return []
        if seat.going and change is not PeerChange.CONNECTED:
            return self._gone(peer, "lost", None, now)
        state = "stream lost" if change is PeerChange.LOST else "stream up"
        return [_member(peer, state)]  # the lease decides

    def _gone(self, member: NodeId, state: str, error: str | None, now: Nanos) -> list[Effect]:
        """A member left, failed or was lost: re-evaluate what this phase waits for."""
        seat = self._seats[member]
        if seat.left:
            return []
        seat.left, seat.missed = True, seat.paused
        effects: list[Effect] = [CancelTimer(key=_LEASE + member)]
        if seat.excuse is not None and seat.order is not None:
            effects.append(_member(member, seat.excuse, why=seat.order.what))
            return [*effects, *self._without(now)]
        effects.append(_member(member, state, **({"error": error} if error else {})))
        text = f"{member}: {error or state}"
        if self._phase is Phase.STOPPING:
            if error is not None:
                self._errors.append(text)
            return [*effects, *self._check_left()]
        if self._phase is not Phase.RUNNING:
            return [*effects, *self._stop("failed", now, error=text)]
        self._errors.append(text)
        effects.append(Record(kind="error", fields={"message": text}))
        return [*effects, *self._without(now)]

    def _without(self, now: Nanos) -> list[Effect]:
        """One is gone whom somebody may have waited for."""
        if self._phase is Phase.STOPPING:
            return self._check_left()
        if not any(other.present for other in self._seats.values()):
            return self._stop("nobody left", now)
        return [*self._check_done(now), *self._check_accuracy(now)]

    def _timer(self, key: str, now: Nanos) -> list[Effect]:
        if key == _PHASE:
            return self._phase_over(now)
        if key == _SLOT and self._phase is Phase.MEASURING:
            late = ", ".join(sorted(self._links.waiting))
            note = Record(kind="warning", fields={"message": f"no link measurements from {late}"})
            return [note, *self._next_slot(now)]
        if key.startswith(_LEASE):
            member = NodeId(key.removeprefix(_LEASE))
            wait = format_duration(self._config.deadlines.lease_ns)
            return self._gone(member, "lost", f"not heard from for {wait}", now)
        return []

    def _phase_over(self, now: Nanos) -> list[Effect]:
        deadlines = self._config.deadlines
        match self._phase:
            case Phase.GATHERING:
                late = self._names(lambda seat: seat.hello is None)
                wait = format_duration(deadlines.join_ns)
                return self._stop("failed", now, error=f"did not join within {wait}: {late}")
            case Phase.MEASURING:
                misses = tuple(pair for pair in self._config.pairs if not self._as_asked(pair))
                return self._settle_links(misses, now)
            case Phase.PREPARING:
                late = self._names(lambda seat: not seat.ready)
                wait = format_duration(deadlines.ready_ns)
                return self._stop("failed", now, error=f"not ready within {wait}: {late}")
            case Phase.RUNNING:
                return self._stop("time", now)
            case Phase.STOPPING:
                return self._give_up_stopping()
            case Phase.ENDED:
                return []

    def _give_up_stopping(self) -> list[Effect]:
        wait = format_duration(self._config.deadlines.stop_ns)
        late = self._names(lambda seat: seat.present)
        self._errors.append(f"did not stop within {wait}: {late}")
        for seat in self._seats.values():
            seat.left = True
        return self._check_left()

    def _names(self, wanted: Callable[[Seat], bool]) -> str:
        return ", ".join(name for name, seat in self._seats.items() if wanted(seat))

    def _tell_all(self, signal: Signal) -> list[Effect]:
        present: Iterable[NodeId] = (n for n, seat in self._seats.items() if seat.present)
        return [Send(target=name, message=signal) for name in present]

    def _enter(self, phase: Phase, deadline: Nanos) -> list[Effect]:
        self._phase = phase
        note = Record(kind="phase", fields={"phase": phase.value})
        return [note, SetTimer(key=_PHASE, at=deadline)]


def _merged(old: LinkReading | None, new: LinkReading) -> LinkReading:
    """One reading from several slots: the newer where it says something."""
    if old is None:
        return new
    return replace(
        old,
        rtt_ns=old.rtt_ns if new.rtt_ns is None else new.rtt_ns,
        goodput_bps=old.goodput_bps if new.goodput_bps is None else new.goodput_bps,
        loss=old.loss if new.loss is None else new.loss,
        loss_packets=old.loss_packets if new.loss_packets is None else new.loss_packets,
        transport=old.transport or new.transport,
        error=new.error or old.error,
    )


def _member(member: NodeId, state: str, **fields: str | int) -> Effect:
    return Record(kind="member", fields={"member": member, "state": state, **fields})
