"""A member's side of the signaling protocol: from Hello to Leave.

    joining   --Welcome-->   joined     links are measured when the coordinator says so
    joined    --Prepare-->   preparing  the trainer comes up
    preparing --Prepared-->  ready      Ready is sent
    ready     --Start-->     running    the run clock starts, or for a latecomer: the model is got
    running   --RunEnded-->  done       Done is sent; the node goes on answering its peers
    any       --Stop-->      stopping   the peer ends, everything is stored
    stopping  --RunEnded-->  left       Leave is sent
    joined    --Underway-->  idle       started again: the run goes on without this life of it

The whole table is `node.core.tables_member.MEMBER`. What happens in `running`, and in `ready` as
far as the barrier before the start goes, is the business of `node.core.participant`; without rounds
(a run that sends load) there is none.

Every wait ends: joining and waiting for the coordinator have deadlines here, all others at the
coordinator. What the member waits for an answer to it says again, with every heartbeat. From the
start on, ChangeLinks may come at any time; one that comes twice is done once.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any, Final

from node.config import Deadlines, Replan, RoundsConfig, from_json
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
    EdgeSettled,
    Event,
    Exchanged,
    Failed,
    LinksProbed,
    ModelSnapshot,
    Offered,
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
from node.core.messages import PeerMessage
from node.core.participant import TIMERS, Participant, RoundSignal, Standing
from node.core.signals import (
    ChangeLinks,
    ConnectionFail,
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
from node.units import SECOND, Nanos, format_duration

_JOIN: Final = "member/join"
_HELLO: Final = "member/hello"
_BEAT: Final = "member/heartbeat"
_ORPHAN: Final = "member/orphan"
HELLO_NS: Final = SECOND
"""Between two Hellos of a member that has not been welcomed on its present stream."""


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
_NOT_BEGUN: Final = {State.JOINING, State.JOINED, State.PREPARING, State.READY}
_ON_THE_CLOCK: Final = {State.RUNNING, State.DONE, State.IDLE, State.STOPPING}
_IN_ROUNDS: Final = {State.READY, State.RUNNING, State.DONE}


class Member:
    """The member machine; `now` is any monotonic clock in ns.

    Args:
        hello: what to present: the emulator in force and what was read back.
        rounds: None: the run has no rounds among peers.
    """

    def __init__(
        self, *, hello: Hello, deadlines: Deadlines, rounds: RoundsConfig | None = None
    ) -> None:
        self._hello = hello
        self._deadlines = deadlines
        self._participant = Participant(rounds=rounds) if rounds is not None else None
        self._state = State.JOINING
        self._beat_ns = deadlines.heartbeat_ns
        self._lease_ns = deadlines.lease_ns
        self._progress = Progress(phase="joining", round=0, accuracy=None, loss=None, model_bytes=0)
        self._need_sync = False
        self._began_wall = 0
        """When the run clock stood at 0, in Unix ns; 0: not known."""
        self._unheard = True
        """Whether the last Hello has not been answered."""
        self._done: Done | None = None
        self._error: str | None = None
        self._reason = ""
        self._ended = False
        """Whether the local run is over and stored (or never began)."""
        self._ordered = 0
        """Number of the newest order for this member's links."""

    @property
    def state(self) -> State:
        return self._state

    @property
    def standing(self) -> Standing:
        """Where it stands in the rounds; `outside` in a run without."""
        return self._participant.standing if self._participant else Standing.OUTSIDE

    @property
    def stage(self) -> str:
        """`standing` as text."""
        return str(self.standing)

    @property
    def round(self) -> int:
        """Of the barrier."""
        return self._participant.round if self._participant else 0

    @property
    def attempt(self) -> int:
        return self._participant.attempt if self._participant else 0

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        if self._state is State.LEFT:
            return []
        effects = self._step(event, now)
        failure = self._participant.failure if self._participant else None
        if failure is not None and self._state is State.RUNNING:
            effects += self._stop("failed", failure)
        return effects

    def _step(self, event: Event, now: Nanos) -> list[Effect]:
        match event:
            case Started():
                hello_again = SetTimer(key=_HELLO, at=now + HELLO_NS)
                join = SetTimer(key=_JOIN, at=now + self._deadlines.join_ns)
                return [self._present(), join, hello_again]
            case Received(message=message) if isinstance(message, Signal):
                return self._hear(message, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case PeerChanged(peer=peer, change=change) if peer == COORDINATOR:
                return self._coordinator_changed(change, now)
            case LinksProbed(attempt=attempt, readings=readings):
                return [self._say(LinksMeasured(slot=attempt, readings=readings))]
            case Prepared() if self._state is State.PREPARING:
                return self._prepared(event)
            case Progress():
                self._progress = event
                return []
            case RunEnded():
                return self._run_ended(event)
            case StopRequested(reason=reason):
                return self._stop(reason, f"stopped from outside: {reason}")
            case Failed(reason=reason):
                return self._stop("failed", reason)
            case _ if self._participant is not None and self._state in _IN_ROUNDS:
                return self._tell(self._participant, event, now)
            case _:
                return []

    def _tell(self, participant: Participant, event: Event, now: Nanos) -> list[Effect]:
        """What happened on this node or between peers, to the participant."""
        match event:
            case Offered(round=round_):
                return participant.offered(round_)
            case Exchanged():
                return participant.exchanged(event)
            case EdgeSettled():
                return participant.settled(event)
            case ModelSnapshot():
                return participant.snapshot(event, now=now)
            case Received(sender=sender, message=PeerMessage() as message):
                return participant.receive(sender, message, now=now)
            case PeerChanged():
                return participant.peer_changed(event, now=now)
            case _:
                return []

    def _hear(self, signal: Signal, now: Nanos) -> list[Effect]:
        if isinstance(signal, RoundSignal):
            return self._hear_of_rounds(signal, now)
        match self._state, signal:
            case _, Welcome():
                return self._welcomed(signal, now)
            case State.JOINING, Refuse():
                return self._stop("failed", f"the coordinator refused: {signal.reason}")
            case State.JOINED, MeasureLinks():
                probe = ProbeLinks(
                    attempt=signal.slot, targets=signal.targets, measures=signal.measures
                )
                return [probe]
            case State.JOINED, Prepare():
                return [*self._enter(State.PREPARING), PrepareRun()]
            case State.READY, Prepare():
                return [self._say(Ready())]
            case State.READY, Start():
                return self._start(signal)
            case State.JOINED, Underway():
                told = _note("idle", reason=signal.reason)
                return [*self._enter(State.IDLE), told, SitOut(at_wall_ns=signal.at_wall_ns)]
            case state, ChangeLinks() if state in _ON_THE_CLOCK:
                return self._change_links(signal)
            case _, Stop():
                return self._stop(signal.reason, None)
            case _, ConnectionFail():
                return self._stop("failed", signal.reason)
            case (State.PREPARING | State.RUNNING | State.DONE, Prepare()) | (
                State.RUNNING | State.DONE,
                Start(),
            ):
                return []  # said again, because it might have been lost
            case _:
                where = self._state.value
                return [_note("refused", reason=f"{type(signal).__name__} while {where}")]

    def _hear_of_rounds(self, signal: RoundSignal, now: Nanos) -> list[Effect]:
        if self._participant is not None and self._state in _IN_ROUNDS:
            return self._participant.hear(signal, now=now)
        if self._state is State.STOPPING:
            return []  # said before the end was known
        where = self._state.value
        return [_note("refused", reason=f"{type(signal).__name__} while {where}")]

    def _welcomed(self, signal: Welcome, now: Nanos) -> list[Effect]:
        """Taken in; later, after a reconnect, or with the round to join."""
        if self._state in _NOT_BEGUN:
            self._need_sync |= signal.need_sync  # whatever a Hello that was said twice is told
        heard: list[Effect] = [CancelTimer(key=_HELLO)] if self._unheard else []
        self._unheard = False
        if self._state is State.JOINING:
            self._beat_ns, self._lease_ns = signal.heartbeat_ns, signal.lease_ns
            beat = SetTimer(key=_BEAT, at=now + self._beat_ns)
            return [CancelTimer(key=_JOIN), *heard, *self._enter(State.JOINED), beat]
        if self._state is State.RUNNING and self._participant is not None:
            return [*heard, *self._participant.welcome(signal)]
        return heard

    def _prepared(self, event: Prepared) -> list[Effect]:
        if event.error is not None:
            return self._stop("failed", event.error)
        if self._participant is not None:
            self._participant.prepared(event.size)
            if not self._need_sync:
                self._participant.await_start()
        return [*self._enter(State.READY), self._say(Ready())]

    def _start(self, signal: Start) -> list[Effect]:
        self._began_wall = signal.at_wall_ns
        effects = self._enter(State.RUNNING)
        if self._participant is None:
            return [*effects, BeginRun(at_wall_ns=signal.at_wall_ns)]
        if self._need_sync:
            return [*effects, *self._participant.sync(signal.at_wall_ns)]
        return [*effects, *self._participant.start(signal.at_wall_ns)]

    def _change_links(self, signal: ChangeLinks) -> list[Effect]:
        """Do an order that is new, and acknowledge it in any case."""
        taken = self._say(LinksChanged(number=signal.number))
        if signal.number <= self._ordered:
            return [taken]
        try:
            plan = from_json(Replan, signal.plan)
        except ConfigError as error:
            note = _note("refused", reason=f"ChangeLinks {signal.number}: {error}")
            return [note, self._say(LinksChanged(number=signal.number, error=str(error)))]
        self._ordered = signal.number
        return [ReplanLinks(plan=plan), taken]

    def _timer(self, key: str, now: Nanos) -> list[Effect]:
        if key == _BEAT:
            beat = SetTimer(key=_BEAT, at=now + self._beat_ns)
            return [self._say(self._heartbeat()), *self._repeat(), beat]
        if key == _HELLO and self._unheard:
            return [self._present(), SetTimer(key=_HELLO, at=now + HELLO_NS)]
        if key == _JOIN:
            wait = format_duration(self._deadlines.join_ns)
            return self._stop("failed", f"no welcome from the coordinator within {wait}")
        if key == _ORPHAN:
            wait = format_duration(self._orphan_ns)
            return self._stop("failed", f"the coordinator was out of reach for {wait}")
        if key in TIMERS and self._participant is not None and self._state in _IN_ROUNDS:
            return self._participant.timer(key, now=now)
        return []

    def _heartbeat(self) -> Heartbeat:
        progress = self._progress
        return Heartbeat(
            phase=self._phase(),
            ended=progress.round,
            accuracy=progress.accuracy,
            loss=progress.loss,
            model_bytes=progress.model_bytes,
        )

    def _phase(self) -> str:
        """For the live table: the stage while it runs."""
        lifecycle: str = self._state.value
        if self._participant is None:
            return self._progress.phase if self._state in _BEGUN else lifecycle
        if self._state is not State.RUNNING:
            return lifecycle
        return self._participant.stage or str(Standing.SYNCING)

    def _repeat(self) -> list[Effect]:
        """Say again what an answer is waited for."""
        repeated = self._participant.repeat() if self._participant else []
        match self._state:
            case State.READY:
                return [self._say(Ready()), *repeated]
            case State.RUNNING:
                return repeated
            case State.DONE if self._done is not None:
                return [self._say(self._done)]
            case _:
                return []

    @property
    def _orphan_ns(self) -> Nanos:
        """For how long the coordinator may be out of reach; only rounds can go on without it."""
        return self._lease_ns if self._participant is None else self._deadlines.coordinator_ns

    def _coordinator_changed(self, change: PeerChange, now: Nanos) -> list[Effect]:
        if change is PeerChange.LOST:
            if self._state is State.STOPPING:
                return []
            return [SetTimer(key=_ORPHAN, at=now + self._orphan_ns)]
        # Whoever answers may be a new coordinator: present ourselves again.
        if self._participant is not None:
            self._participant.reconnected()
        self._unheard = True
        again = SetTimer(key=_HELLO, at=now + HELLO_NS)
        return [CancelTimer(key=_ORPHAN), self._present(), again]

    def _present(self) -> Effect:
        """Hello, with all that a coordinator that knows nothing has to know."""
        participant = self._participant
        if participant is None or self._state not in _BEGUN:
            return self._say(self._hello)
        held = participant.held(self._progress.round)
        hello = replace(
            self._hello, stage=participant.stage, held=held, began_wall_ns=self._began_wall
        )
        return self._say(hello)

    def _run_ended(self, event: RunEnded) -> list[Effect]:
        self._ended = True
        if self._state is State.STOPPING:
            return self._leave()
        if self._state is not State.RUNNING:
            return []
        closed = self._participant.close() if self._participant else []
        self._done = Done(reason=event.reason, ended=event.round)
        return [*self._enter(State.DONE), *closed, self._say(self._done)]

    def _stop(self, reason: str, error: str | None) -> list[Effect]:
        """End the local run, then leave; a second call only adds its error."""
        self._error = self._error or error
        if self._state is State.STOPPING:
            return []
        self._reason = reason
        begun = self._state in _BEGUN
        in_rounds = self._participant is not None and self._state in _IN_ROUNDS
        left = self._participant.leave() if self._participant and in_rounds else []
        effects = [*left, *self._enter(State.STOPPING)]
        for key in (_JOIN, _HELLO, _ORPHAN, *sorted(TIMERS)):
            effects.append(CancelTimer(key=key))
        if self._ended or not begun:
            return [*effects, *self._leave()]
        return [*effects, EndRun(reason=reason)]

    def _leave(self) -> list[Effect]:
        return [
            *self._enter(State.LEFT),
            CancelTimer(key=_BEAT),
            self._say(Leave(error=self._error)),
            Finish(reason=self._reason, error=self._error),
        ]

    def _enter(self, state: State) -> list[Effect]:
        self._state = state
        return [_note("state", state=state.value)]

    def _say(self, signal: Any) -> Effect:
        """To the coordinator, with the round and attempt that this member is in."""
        stamped = replace(signal, round=self.round, attempt=self.attempt)
        return Send(target=COORDINATOR, message=stamped)


def _note(kind: str, **fields: str) -> Effect:
    return Record(kind=kind, fields=fields)
