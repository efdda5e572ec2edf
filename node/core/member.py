"""A member's side of the signaling protocol: from Hello to Leave.

    joining   --Welcome-->   joined     links are measured when the coordinator says so
    joined    --Prepare-->   preparing  trainer up, neighbours connected
    preparing --Prepared-->  ready      Ready is sent
    ready     --Start-->     running    the run clock starts
    running   --RunEnded-->  done       Done is sent; the node goes on answering its peers
    any       --Stop-->      stopping   the peer ends, everything is stored
    stopping  --RunEnded-->  left       Leave is sent
    joined    --Underway-->  idle       started again: the run goes on without this life of it

Every wait ends: joining and waiting for the coordinator have deadlines here, all others at the
coordinator, whose silence for a lease ends the run as well. Rounds, retries and model sync are
states to come between `ready` and `done`; then a member that was started again need not be idle.

From the start on, ChangeLinks may come at any time; one that comes twice is done once.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from node.config import Deadlines, Replan, from_json
from node.core.effects import (
    BeginRun,
    CancelTimer,
    Effect,
    EndRun,
    Finish,
    PrepareRun,
    ProbeLinks,
    Record,
    ReplanLinks,
    Send,
    SetTimer,
    SitOut,
)
from node.core.events import (
    Event,
    Failed,
    LinksProbed,
    PeerChange,
    PeerChanged,
    Prepared,
    Progress,
    Received,
    RunEnded,
    Started,
    StopRequested,
    TimerFired,
)
from node.core.ids import COORDINATOR
from node.core.signals import (
    ChangeLinks,
    Done,
    Heartbeat,
    Hello,
    Leave,
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
from node.errors import ConfigError
from node.units import Nanos, format_duration

_JOIN: Final = "member/join"
_BEAT: Final = "member/heartbeat"
_ORPHAN: Final = "member/orphan"


class State(Enum):
    JOINING = "joining"
    JOINED = "joined"
    PREPARING = "preparing"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    IDLE = "idle"
    STOPPING = "stopping"
    LEFT = "left"


_BEGUN: Final = {State.RUNNING, State.DONE}
_ON_THE_CLOCK: Final = {State.RUNNING, State.DONE, State.IDLE, State.STOPPING}


class Member:
    """The member machine; `now` is any monotonic clock in ns.

    Args:
        hello: what to present: the emulator in force and what was read back.
    """

    def __init__(self, *, hello: Hello, deadlines: Deadlines) -> None:
        self._hello = hello
        self._deadlines = deadlines
        self._state = State.JOINING
        self._beat_ns = deadlines.heartbeat_ns
        self._lease_ns = deadlines.lease_ns
        self._progress = Progress(phase="joining", round=0, accuracy=None, loss=None, model_bytes=0)
        self._error: str | None = None
        self._reason = ""
        self._ended = False
        """Whether the local run is over and stored (or never began)."""
        self._ordered = 0
        """Number of the newest order for this member's links."""

    @property
    def state(self) -> State:
        return self._state

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        if self._state is State.LEFT:
            return []
        match event:
            case Started():
                at = now + self._deadlines.join_ns
                return [_say(self._hello), SetTimer(key=_JOIN, at=at)]
            case Received(message=message):
                return self._hear(message, now) if isinstance(message, Signal) else []
            case TimerFired(key=key):
                return self._timer(key, now)
            case PeerChanged(peer=peer, change=change) if peer == COORDINATOR:
                return self._coordinator_changed(change, now)
            case LinksProbed(attempt=attempt, readings=readings):
                return [_say(LinksMeasured(slot=attempt, readings=readings))]
            case Prepared(error=error) if self._state is State.PREPARING:
                if error is not None:
                    return self._stop("failed", error)
                return [*self._enter(State.READY), _say(Ready())]
            case Progress():
                self._progress = event
                return []
            case RunEnded():
                return self._run_ended(event)
            case StopRequested(reason=reason):
                return self._stop(reason, f"stopped from outside: {reason}")
            case Failed(reason=reason):
                return self._stop("failed", reason)
            case _:
                return []

    def _hear(self, signal: Signal, now: Nanos) -> list[Effect]:
        match self._state, signal:
            case State.JOINING, Welcome():
                self._beat_ns, self._lease_ns = signal.heartbeat_ns, signal.lease_ns
                beat = SetTimer(key=_BEAT, at=now + self._beat_ns)
                return [CancelTimer(key=_JOIN), *self._enter(State.JOINED), beat]
            case State.JOINING, Refuse():
                return self._stop("failed", f"the coordinator refused: {signal.reason}")
            case State.JOINED, MeasureLinks():
                probe = ProbeLinks(
                    attempt=signal.slot, targets=signal.targets, measures=signal.measures
                )
                return [probe]
            case State.JOINED, Prepare():
                return [*self._enter(State.PREPARING), PrepareRun()]
            case State.READY, Start():
                return [*self._enter(State.RUNNING), BeginRun(at_wall_ns=signal.at_wall_ns)]
            case State.JOINED, Underway():
                told = _note("idle", reason=signal.reason)
                return [*self._enter(State.IDLE), told, SitOut(at_wall_ns=signal.at_wall_ns)]
            case state, ChangeLinks() if state in _ON_THE_CLOCK:
                return self._change_links(signal)
            case _, Stop():
                return self._stop(signal.reason, None)
            case _, Welcome():  # after a reconnect
                return []
            case _:
                where = self._state.value
                return [_note("refused", reason=f"{type(signal).__name__} while {where}")]

    def _change_links(self, signal: ChangeLinks) -> list[Effect]:
        """Do an order that is new, and acknowledge it in any case."""
        taken = _say(LinksChanged(number=signal.number))
        if signal.number <= self._ordered:
            return [taken]
        try:
            plan = from_json(Replan, signal.plan)
        except ConfigError as error:
            note = _note("refused", reason=f"ChangeLinks {signal.number}: {error}")
            return [note, _say(LinksChanged(number=signal.number, error=str(error)))]
        self._ordered = signal.number
        return [ReplanLinks(plan=plan), taken]

    def _timer(self, key: str, now: Nanos) -> list[Effect]:
        if key == _BEAT:
            progress = self._progress
            phase = progress.phase if self._state in _BEGUN else self._state.value
            beat = Heartbeat(
                phase=phase,
                ended=progress.round,
                accuracy=progress.accuracy,
                loss=progress.loss,
                model_bytes=progress.model_bytes,
            )
            return [_say(beat), SetTimer(key=_BEAT, at=now + self._beat_ns)]
        if key == _JOIN:
            wait = format_duration(self._deadlines.join_ns)
            return self._stop("failed", f"no welcome from the coordinator within {wait}")
        if key == _ORPHAN:
            wait = format_duration(self._lease_ns)
            return self._stop("failed", f"the coordinator was out of reach for {wait}")
        return []

    def _coordinator_changed(self, change: PeerChange, now: Nanos) -> list[Effect]:
        if change is PeerChange.LOST:
            if self._state is State.STOPPING:
                return []
            return [SetTimer(key=_ORPHAN, at=now + self._lease_ns)]
        # Whoever answers may be a new coordinator: present ourselves again.
        return [CancelTimer(key=_ORPHAN), _say(self._hello)]

    def _run_ended(self, event: RunEnded) -> list[Effect]:
        self._ended = True
        if self._state is State.STOPPING:
            return self._leave()
        done = Done(reason=event.reason, ended=event.round)
        return [*self._enter(State.DONE), _say(done)]

    def _stop(self, reason: str, error: str | None) -> list[Effect]:
        """End the local run, then leave; a second call only adds its error."""
        self._error = self._error or error
        if self._state is State.STOPPING:
            return []
        self._reason = reason
        begun = self._state in _BEGUN
        effects = self._enter(State.STOPPING)
        for key in (_JOIN, _ORPHAN):
            effects.append(CancelTimer(key=key))
        if self._ended or not begun:
            return [*effects, *self._leave()]
        return [*effects, EndRun(reason=reason)]

    def _leave(self) -> list[Effect]:
        return [
            *self._enter(State.LEFT),
            CancelTimer(key=_BEAT),
            _say(Leave(error=self._error)),
            Finish(reason=self._reason, error=self._error),
        ]

    def _enter(self, state: State) -> list[Effect]:
        self._state = state
        return [_note("state", state=state.value)]


def _say(signal: Signal) -> Effect:
    return Send(target=COORDINATOR, message=signal)


def _note(kind: str, **fields: str) -> Effect:
    return Record(kind=kind, fields=fields)
