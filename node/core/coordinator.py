"""The coordinator's side of signaling: the life of a run (table: `node.core.tables.COORDINATOR`).

    gathering --all said Hello--> measuring --done--> preparing --all Ready-->
    [async: connecting --the barrier is open-->] running --all Done | time | accuracy--> stopping
    stopping --all left, or deadline--> ended

A member that is lost before the start aborts the run; one that is lost later is recorded, and the
others go on. A member that comes when the run is under way, for the first time or again, gets the
model and joins the next round. A coordinator in the place of one that died rebuilds all this from
what the members say in their Hello. Every state has a deadline. `now` is Unix time in ns, advanced
by a monotonic clock: members are told wall times, and leases are judged by this clock alone.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from node.config import CoordinatorConfig, LinkPolicy
from node.core.effects import CancelTimer, Effect, Finish, Record, SetTimer
from node.core.events import (
    Event,
    Failed,
    LinksOrdered,
    NodeOrdered,
    PeerChange,
    PeerChanged,
    Received,
    Resumed,
    Started,
    StopRequested,
    TimerFired,
)
from node.core.ids import NodeId
from node.core.learning import Learning, LearningSignal
from node.core.measuring import SLOT, Measuring, Probing
from node.core.orders import expected, refused
from node.core.roster import AWAY, LEASE, Roster, noted, started
from node.core.seats import Seat
from node.core.signals import (
    Done,
    Heartbeat,
    Hello,
    Leave,
    LinksChanged,
    LinksMeasured,
    Prepare,
    Ready,
    Refuse,
    Signal,
    Start,
    Stop,
    Underway,
)
from node.units import MILLISECOND, SECOND, Nanos, format_duration

_PHASE: Final = "coordinator/phase"
START_DELAY: Final = 200 * MILLISECOND
"""From sending Start to the run clock's zero: time for the message to reach every member."""
_TIME_GRACE: Final = 2 * SECOND
"""Members end at the time limit by themselves; this much later the coordinator ends the run."""


class Phase(Enum):
    GATHERING = "gathering"
    MEASURING = "measuring"
    PREPARING = "preparing"
    CONNECTING = "connecting"
    RECOVERING = "recovering"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


_LEARNING: Final = (Phase.CONNECTING, Phase.RUNNING)
_UNDER_WAY: Final = (*_LEARNING, Phase.RECOVERING)


class Coordinator:
    """The coordinator machine."""

    def __init__(self, *, config: CoordinatorConfig, probing: Probing) -> None:
        self._config = config
        self._phase = Phase.GATHERING
        self._roster = Roster(config=config, stamp=self._stamped)
        self._links = Measuring(probing=probing, pairs=config.pairs)
        self._learning = Learning(config=config, roster=self._roster)
        self._began: Nanos | None = None
        """When the run clock stood at 0."""
        self._reason = ""

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def learning(self) -> Learning:
        return self._learning

    def _stamped(self, signal: Signal) -> Signal:
        return self._learning.stamped(signal)

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        if self._phase is Phase.ENDED:
            return []
        match event:
            case Started():
                return self._enter(Phase.GATHERING, now + self._config.deadlines.join_ns)
            case Resumed():
                return self._resumed(event, now)
            case Received(sender=sender, message=message):
                effects = self._hear(sender, message, now) if isinstance(message, Signal) else []
            case TimerFired(key=key):
                effects = self._timer(key, now)
            case PeerChanged(peer=peer, change=change):
                effects = self._stream_changed(peer, change, now)
            case LinksOrdered() | NodeOrdered():
                return self._ordered(event, now)
            case StopRequested(reason=reason):
                return self._stop(reason, now, error=f"stopped from outside: {reason}")
            case Failed(reason=reason):
                return self._stop("failed", now, error=reason)
            case _:
                return []
        return [*effects, *self._after(now)]

    def _after(self, now: Nanos) -> list[Effect]:
        """What follows from what the rounds have come to."""
        if self._phase is Phase.CONNECTING and self._learning.rounds.opened:
            return self._begin_running(now)
        return []

    def _hear(self, sender: NodeId, signal: Signal, now: Nanos) -> list[Effect]:
        seat = self._roster.seats.get(sender)
        if seat is None:
            return [self._roster.say(sender, Refuse(reason=f"{sender} is not in this run"))]
        renewed = self._roster.heard(sender, now, missed_too=self._phase is Phase.RUNNING)
        match signal:
            case Hello():
                return [*renewed, *self._hello(sender, seat, signal, now)]
            case Leave(error=error):
                return self._gone(sender, "left" if error is None else "failed", error, now)
            case _ if seat.hello is None:  # it says Hello first, if need be again
                return []
            case _ if seat.expelled is not None:
                return [*renewed, self._learning.fail_again(sender, seat.expelled)]
            case LinksMeasured() if self._phase is Phase.MEASURING:
                heard = self._links.hear(sender, signal, now)
                return [*renewed, *heard, *self._check_links(now)]
            case Ready():
                return [*renewed, *self._ready(sender, seat, now)]
            case Heartbeat():
                return [*renewed, *self._heartbeat(sender, seat, signal, now)]
            case Done():
                return [*renewed, *self._done(sender, seat, signal, now)]
            case LinksChanged():
                return [*renewed, *self._roster.orders.taken(sender, signal)]
            case _ if isinstance(signal, LearningSignal) and self._phase in _LEARNING:
                return [*renewed, *self._learning.hear(sender, seat, signal, now)]
            case _ if isinstance(signal, LearningSignal) and self._phase is Phase.RECOVERING:
                return renewed  # said again with the next heartbeat
            case _:
                note = f"{type(signal).__name__} while {self._phase.value}"
                return [*renewed, Record(kind="refused", fields={"sender": sender, "reason": note})]

    # --- who is there

    def _hello(self, sender: NodeId, seat: Seat, hello: Hello, now: Nanos) -> list[Effect]:
        """Take a member in; one that comes back after a broken stream is welcomed again."""
        if self._phase is Phase.GATHERING and hello.began_wall_ns > 0:
            # A run is under way: there was a coordinator before us, and nothing is left of it.
            resumed = Resumed(began_wall_ns=hello.began_wall_ns, absent={})
            return [*self._resumed(resumed, now), *self._hello(sender, seat, hello, now)]
        if (seat.hello is None or seat.left or seat.reborn) and self._phase in _LEARNING:
            return self._newcomer(sender, seat, hello, now)
        if seat.left and self._phase is Phase.STOPPING:
            reason = f"{sender} is too late: the run is {self._phase.value}"
            return [self._roster.say(sender, Refuse(reason=reason))]
        again, seat.reborn = seat.hello is not None, False
        seat.hello, seat.left = hello, False
        state = "rejoined" if again else "joined"
        lacks = self._phase in _UNDER_WAY and not seat.learning and seat.told(hello) is None
        effects = [self._roster.welcome(sender, need_sync=lacks and self._learning.on)]
        effects += self._roster.renew(sender, now)
        effects.append(noted(sender, state, emulator=hello.emulator))
        match self._phase:
            case Phase.GATHERING:
                return [*effects, *self._check_gathered(now)]
            case Phase.RECOVERING if all(seat.hello for seat in self._roster.awaited):
                return [*effects, *self._go_on(now)]
            case Phase.STOPPING:
                return [*effects, self._roster.say(sender, Stop(reason=self._reason))]
            case Phase.CONNECTING | Phase.RUNNING:
                known = self._learning.heartbeat(sender, seat, hello, now)
                return [*effects, *self._roster.orders.missing(sender), *known]
            case _:
                return effects

    def _newcomer(self, sender: NodeId, seat: Seat, hello: Hello, now: Nanos) -> list[Effect]:
        """Somebody comes to a run under way: for the first time, as a new process, or who was
        given up and is alive after all."""
        effects: list[Effect] = []
        if seat.reborn and not seat.left:  # nobody had missed the former life yet
            effects += self._gone(sender, "lost", "started again by somebody else", now)
        if self._phase not in _LEARNING:  # that was the last of all
            return [*effects, self._roster.say(sender, Stop(reason=self._reason))]
        returned = seat.hello is not None
        alive = not seat.reborn and hello.began_wall_ns > 0
        seat.admit(hello)
        if alive:
            self._roster.forgive(sender)
            seat.learning = seat.told(hello) is not None
        elif self._learning.on:
            self._roster.orders.forget(sender)
        else:
            return [*effects, *self._idle(sender, seat, now)]
        state = "back" if alive else "returned" if returned else "joined"
        effects += [
            self._roster.welcome(sender, need_sync=not alive),
            noted(sender, state, emulator=hello.emulator),
            *self._roster.renew(sender, now),
        ]
        if alive:
            known = self._learning.heartbeat(sender, seat, hello, now)
            return [*effects, *self._roster.orders.missing(sender), *known]
        return [*effects, self._roster.say(sender, Prepare())]

    def _idle(self, sender: NodeId, seat: Seat, now: Nanos) -> list[Effect]:
        """Nobody learns: a later life of a member knows the time and its links, and that is all."""
        assert self._began is not None
        seat.idle = True
        self._roster.orders.forget(sender)
        why = f"{sender} was started again; the run goes on without it"
        return [
            self._roster.welcome(sender),
            self._roster.say(sender, Underway(at_wall_ns=self._began, reason=why)),
            noted(sender, "idle"),
            *self._roster.orders.missing(sender),
            *self._roster.renew(sender, now),
        ]

    def _ready(self, sender: NodeId, seat: Seat, now: Nanos) -> list[Effect]:
        """Its trainer is up."""
        if self._phase is Phase.PREPARING:
            note = [] if seat.ready else [noted(sender, "ready")]
            seat.ready = True
            return [*note, *self._check_ready(now)]
        if self._phase is Phase.RUNNING and self._began is not None:
            seat.ready = True
            start = self._roster.say(sender, Start(at_wall_ns=self._began))
            return [start, *self._roster.orders.missing(sender)]
        return []

    def _heartbeat(self, sender: NodeId, seat: Seat, signal: Heartbeat, now: Nanos) -> list[Effect]:
        """What it tells of itself, and again what it seems not to have heard."""
        learnt = signal.accuracy is not None and signal.accuracy != seat.accuracy
        seat.accuracy = signal.accuracy if learnt else seat.accuracy
        seat.ended = signal.ended
        effects: list[Effect] = []
        match self._phase, signal.phase:
            case Phase.STOPPING, _:
                effects.append(self._roster.say(sender, Stop(reason=self._reason)))
            case ((Phase.PREPARING | Phase.RUNNING), "joined") if not seat.idle:
                effects.append(self._roster.say(sender, Prepare()))
            case ((Phase.CONNECTING | Phase.RUNNING), _):
                effects += self._learning.heartbeat(sender, seat, signal, now)
        return [*effects, *self._check_accuracy(now)] if learnt else effects

    def _done(self, sender: NodeId, seat: Seat, signal: Done, now: Nanos) -> list[Effect]:
        """It has learnt all that it is to learn."""
        if seat.done is not None:
            return []
        seat.done = signal
        done = noted(sender, "done", reason=signal.reason, round=signal.ended)
        finished = self._learning.finish(sender, signal.round, now)
        return [done, *finished, *self._check_done(now)]

    # --- before the start

    def _check_gathered(self, now: Nanos) -> list[Effect]:
        if not all(seat.present for seat in self._roster.awaited):
            return []
        if self._config.policy is LinkPolicy.OFF or not self._config.pairs:
            return [self._roster.links(()), *self._prepare(now)]
        deadline = now + self._config.deadlines.links_ns
        return [*self._enter(Phase.MEASURING, deadline), *self._links.begin(now)]

    def _check_links(self, now: Nanos) -> list[Effect]:
        if not self._links.done:
            return []
        effects = [CancelTimer(key=SLOT), self._roster.links(self._links.readings)]
        if misses := self._links.misses:
            text = ", ".join(f"{pair.source} to {pair.target}" for pair in misses)
            text = f"links not as asked after {self._links.tries} tries: {text} (see links.json)"
            if self._config.policy is LinkPolicy.STRICT:
                return [*effects, *self._stop("links", now, error=text)]
            effects.append(Record(kind="warning", fields={"message": text}))
        return [*effects, *self._prepare(now)]

    def _prepare(self, now: Nanos) -> list[Effect]:
        deadline = now + self._config.deadlines.ready_ns
        return [*self._enter(Phase.PREPARING, deadline), *self._roster.tell_all(Prepare())]

    def _check_ready(self, now: Nanos) -> list[Effect]:
        if not all(seat.ready for seat in self._roster.seats.values() if seat.present):
            return []
        if not self._learning.on or self._learning.sync:
            return self._begin_running(now)
        deadline = now + self._config.deadlines.ready_ns
        return [*self._enter(Phase.CONNECTING, deadline), *self._learning.begin(now)]

    def _begin_running(self, now: Nanos) -> list[Effect]:
        """Everybody is told when the run clock stands at 0."""
        at = now + START_DELAY
        self._began = at
        ready = [name for name, seat in self._roster.seats.items() if seat.working and seat.ready]
        told = [self._roster.say(name, Start(at_wall_ns=at)) for name in ready]
        begun = self._learning.begin(now) if self._learning.on and self._learning.sync else []
        return [*told, started(at), *self._run_from(at), *begun]

    def _run_from(self, began: Nanos) -> list[Effect]:
        return self._enter(Phase.RUNNING, began + self._config.stop.time_ns + _TIME_GRACE)

    # --- in the place of a coordinator that died

    def _resumed(self, event: Resumed, now: Nanos) -> list[Effect]:
        """Wait for those who were there to say where they are; a lease at most."""
        self._began = event.began_wall_ns
        self._roster.absent |= set(event.absent)
        recovering = self._enter(Phase.RECOVERING, now + self._config.deadlines.lease_ns)
        return [started(event.began_wall_ns), *recovering]

    def _go_on(self, now: Nanos) -> list[Effect]:
        """With those who are back; the others are lost."""
        assert self._began is not None
        effects = [*self._run_from(self._began), *self._learning.resume(now, began=self._began)]
        for name, seat in self._roster.seats.items():
            if seat.present and not seat.learning:  # it came while nobody could tell it so
                effects.append(self._roster.welcome(name, need_sync=True))
            if name not in self._roster.absent and seat.hello is None:
                self._roster.blame(name, "did not come back after the coordinator had failed")
                effects.append(noted(name, "lost", error="did not come back"))
        return [*effects, *self._without(now)]

    # --- the end

    def _check_done(self, now: Nanos) -> list[Effect]:
        reason = self._roster.all_done() if self._phase is Phase.RUNNING else None
        return [] if reason is None else self._stop(reason, now)

    def _check_accuracy(self, now: Nanos) -> list[Effect]:
        reached = self._phase is Phase.RUNNING and self._roster.reached(self._config.stop.accuracy)
        return self._stop("accuracy", now) if reached else []

    def _stop(self, reason: str, now: Nanos, *, error: str | None = None) -> list[Effect]:
        """Tell every member to end; wait for them to leave."""
        effects: list[Effect] = []
        if error is not None:
            self._roster.fail(error)
            effects.append(Record(kind="error", fields={"message": error}))
        if self._phase is Phase.STOPPING:
            return effects
        self._reason = reason
        effects.append(Record(kind="stop", fields={"reason": reason}))
        effects += [CancelTimer(key=SLOT), *self._learning.close()]
        effects.extend(self._enter(Phase.STOPPING, now + self._config.deadlines.stop_ns))
        effects.extend(self._roster.tell_all(Stop(reason=reason)))
        for name, seat in self._roster.seats.items():
            if seat.present and seat.paused:  # it cannot answer; `deploy` ends it
                seat.left = True
                effects.append(noted(name, "paused at the end"))
        return [*effects, *self._check_left()]

    def _check_left(self) -> list[Effect]:
        if self._phase is not Phase.STOPPING or self._roster.anybody:
            return []
        self._phase = Phase.ENDED
        error = self._roster.error
        return [
            CancelTimer(key=_PHASE),
            Record(kind="finish", fields={"reason": self._reason, "error": error}),
            Finish(reason=self._reason, error=error),
        ]

    # --- orders from outside, and what follows from them

    def _ordered(self, order: LinksOrdered | NodeOrdered, now: Nanos) -> list[Effect]:
        """Follow an order while the run goes on; refuse it before and after."""
        if self._phase is not Phase.RUNNING:
            return [refused(order, f"the run is {self._phase.value}")]
        if isinstance(order, LinksOrdered):
            present = [name for name, seat in self._roster.seats.items() if seat.present]
            return self._roster.orders.give(order, present=present)
        seat = self._roster.seats.get(order.node)
        if seat is None:
            return [refused(order, f"{order.node} is not in this run")]
        seat.take(order)
        return [expected(order), *self._roster.renew(order.node, now)]

    # --- members that come and go, deadlines

    def _stream_changed(self, peer: NodeId, change: PeerChange, now: Nanos) -> list[Effect]:
        seat = self._roster.seats.get(peer)
        if seat is None:
            return []
        if change is PeerChange.RESTARTED:
            seat.reborn = True
        if not seat.present:
            return []
        if seat.going and change is not PeerChange.CONNECTED:
            return self._gone(peer, "lost", None, now)
        if change is PeerChange.LOST:  # the lease decides whether it is lost
            return self._roster.closed(peer, now)
        effects = [noted(peer, "stream up"), CancelTimer(key=AWAY + peer)]
        if change is PeerChange.RESTARTED:
            seat.away = True  # what was is no more; the new life has yet to say Hello
            effects += self._learning.out(peer, now)
        return effects

    def _gone(self, member: NodeId, state: str, error: str | None, now: Nanos) -> list[Effect]:
        """A member left, failed or was lost: re-evaluate what this phase waits for."""
        seat = self._roster.seats[member]
        if seat.left:
            return []
        effects = self._roster.mark_left(member, missed=state == "lost" and not seat.going)
        if self._phase in _LEARNING:
            effects += self._learning.out(member, now)
        if seat.excuse is not None and seat.order is not None:
            effects.append(noted(member, seat.excuse, why=seat.order.what))
            return [*effects, *self._without(now)]
        if seat.expelled is not None:  # said already, and why
            return [*effects, *self._without(now)]
        effects.append(noted(member, state, **({"error": error} if error else {})))
        text = f"{member}: {error or state}"
        if self._phase is Phase.STOPPING:
            if error is not None:
                self._roster.blame(member, error)
            return [*effects, *self._check_left()]
        if self._phase not in _LEARNING:
            return [*effects, *self._stop("failed", now, error=text)]
        self._roster.blame(member, error or state)
        effects.append(Record(kind="error", fields={"message": text}))
        return [*effects, *self._without(now)]

    def _without(self, now: Nanos) -> list[Effect]:
        """One is gone whom somebody may have waited for."""
        if self._phase is Phase.STOPPING:
            return self._check_left()
        if not self._roster.anybody:
            return self._stop("nobody left", now)
        return [*self._check_done(now), *self._check_accuracy(now)]

    def _timer(self, key: str, now: Nanos) -> list[Effect]:
        if key == _PHASE:
            return self._phase_over(now)
        if key == SLOT and self._phase is Phase.MEASURING:
            return [*self._links.slot_over(now), *self._check_links(now)]
        if key.startswith(LEASE):
            wait = format_duration(self._config.deadlines.lease_ns)
            member = NodeId(key.removeprefix(LEASE))
            return self._gone(member, "lost", f"not heard from for {wait}", now)
        if key.startswith(AWAY):
            member = NodeId(key.removeprefix(AWAY))
            self._roster.seats[member].away = True
            return [noted(member, "away"), *self._learning.out(member, now)]
        return self._learning.timer(key, now)

    def _phase_over(self, now: Nanos) -> list[Effect]:
        names, waits = self._roster.names, self._config.deadlines
        match self._phase:
            case Phase.GATHERING:
                late = f"did not join within {format_duration(waits.join_ns)}: "
                return self._stop("failed", now, error=late + names(lambda s: s.hello is None))
            case Phase.MEASURING:
                self._links.done = True
                return self._check_links(now)
            case Phase.PREPARING:
                late = f"not ready within {format_duration(waits.ready_ns)}: "
                return self._stop("failed", now, error=late + names(lambda s: not s.ready))
            case Phase.CONNECTING:
                late = f"not connected to each other within {format_duration(waits.ready_ns)}"
                return self._stop("failed", now, error=f"{late} (see the records of rounds)")
            case Phase.RECOVERING:
                return self._go_on(now)
            case Phase.RUNNING:
                return self._stop("time", now)
            case Phase.STOPPING:
                late = f"did not stop within {format_duration(waits.stop_ns)}: "
                self._roster.fail(late + names(lambda s: s.present))
                for seat in self._roster.seats.values():
                    seat.left = True
                return self._check_left()
            case Phase.ENDED:
                return []

    def _enter(self, phase: Phase, deadline: Nanos) -> list[Effect]:
        self._phase = phase
        note = Record(kind="phase", fields={"phase": phase.value})
        return [note, SetTimer(key=_PHASE, at=deadline)]
