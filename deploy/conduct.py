"""A prepared run from its start to its verdict: start, follow, stop, collect, destroy, judge.

Whatever fails on the way becomes a reason of the verdict, and the rest is still done: logs are
saved before anything is removed, and the verdict is written last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from deploy.actions import Actions
from deploy.backends.base import COORDINATOR, Backend
from deploy.checks import Verdict, judge
from deploy.follow import Follower
from deploy.history import Ending, History, MemberState, describe_exit
from deploy.interrupt import Interruption
from deploy.interventions import modelled
from deploy.live import Screen
from deploy.plan import Plan
from deploy.progress import Progress
from deploy.records import last_words, load_history
from deploy.results import RunFolder
from deploy.revive import Revival
from deploy.summary import summarise
from node.config import Deadlines, RoundsConfig
from node.errors import PeerbedError
from node.units import SECOND

_LOOK_EVERY_S: Final = 0.2
_POLL_EVERY_S: Final = 0.6
_MARGIN_S: Final = 30
_EARLY_EXIT_S: Final = 3
"""A member that ends before the start dooms the run: the coordinator gets this long to say so."""

_MERGE_S: Final = 75
"""For the coordinator's last work; its own deadline for it is a minute."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Course:
    """What a run's end is judged by, as it comes to light."""

    problems: list[str] = field(default_factory=list)
    interrupted: str | None = None
    stopped: dict[str, str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    members: Mapping[str, MemberState] = field(default_factory=dict)
    last_words: Mapping[str, str] = field(default_factory=dict)

    def attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        """Do one step of the end; what fails is a problem, and the next step follows."""
        try:
            return action()
        except PeerbedError as error:
            self.problems.append(one_line(error))
        except Exception as error:  # a defect of ours must not cost the run's logs
            self.problems.append(f"deploy itself failed: {type(error).__name__}: {error}")
        return otherwise

    def ending(self) -> Ending:
        return Ending(
            members=self.members,
            stopped=self.stopped,
            killed=tuple(self.killed),
            last_words=self.last_words,
            interrupted=self.interrupted,
            problems=tuple(self.problems),
        )


def conduct(
    *,
    folder: RunFolder,
    plan: Plan,
    backend: Backend,
    screen: Screen,
    interruption: Interruption,
    assess: Callable[[History], Verdict] = judge,
) -> Verdict:
    """Run it and judge it. Everything that was started is gone afterwards, or a reason says so.

    Args:
        assess: makes the verdict from the run's history.
    """
    course = Course()
    actions = Actions(folder=folder, plan=plan, backend=backend)
    try:
        screen.say(f"starting {len(plan.nodes)} nodes ({backend.kind.value})")
        for text in modelled(plan):
            screen.say(f"note: {text}")
        backend.start(plan, folder, interrupted=interruption)
        if not interruption():
            actions.start()
            course.problems += _follow(
                folder=folder,
                plan=plan,
                backend=backend,
                screen=screen,
                interruption=interruption,
            )
    except PeerbedError as error:
        course.problems.append(one_line(error))
    except BaseException:
        course.problems.append("deploy itself failed")
        actions.stop()
        finish(folder=folder, plan=plan, backend=backend, course=course, say=screen.say)
        raise
    actions.stop()
    course.problems += actions.problems
    course.interrupted = interruption.reason
    if course.interrupted:
        screen.say(f"{course.interrupted}: ending the run; logs and records are kept")
    return finish(
        folder=folder,
        plan=plan,
        backend=backend,
        course=course,
        say=screen.say,
        assess=assess,
    )


def abandon(*, folder: RunFolder, plan: Plan, backend: Backend, say: Callable[[str], None]) -> None:
    """End a run whose owner is gone, in its place."""
    course = Course(interrupted="interrupted: the process that ran it ended before the verdict")
    finish(folder=folder, plan=plan, backend=backend, course=course, say=say)


def finish(
    *,
    folder: RunFolder,
    plan: Plan,
    backend: Backend,
    course: Course,
    say: Callable[[str], None],
    assess: Callable[[History], Verdict] = judge,
) -> Verdict:
    """Stop, save, remove, judge, store: each step whatever became of the one before."""
    nobody: Mapping[str, MemberState] = {}
    before = course.attempt(lambda: backend.poll(folder), nobody)
    course.stopped = {name: state.status for name, state in before.items() if state.alive}
    course.killed = course.attempt(lambda: backend.stop(folder), [])
    course.members = course.attempt(lambda: backend.poll(folder), before)
    course.problems += course.attempt(lambda: backend.collect(folder), [])
    course.last_words = {name: last_words(folder.log_file(name)) for name in course.members}
    course.attempt(lambda: backend.destroy(folder), None)
    return conclude(folder=folder, plan=plan, course=course, say=say, assess=assess)


def conclude(
    *,
    folder: RunFolder,
    plan: Plan,
    course: Course,
    say: Callable[[str], None],
    assess: Callable[[History], Verdict] = judge,
) -> Verdict:
    """Summarise and judge what is stored of a run that is over, and store that."""
    folder.release_reserve()
    history = load_history(folder=folder, plan=plan, ending=course.ending())
    summary = course.attempt(lambda: summarise(history), None)
    verdict = assess(_with(history, course.ending()))
    try:
        if summary is not None:
            folder.write_json(folder.summary_file, summary)
        folder.write_json(folder.manifest_file, folder.manifest | _found_out(history))
        folder.write_json(folder.verdict_file, verdict.to_json())
    except PeerbedError as error:
        say(f"error: the run's end could not be stored: {one_line(error)}")
    return verdict


def _found_out(history: History) -> dict[str, Any]:
    """What the manifest could not say at the beginning."""
    emulator = (history.links or {}).get("emulator")
    return {"ended_unix": time.time(), **({"emulator": emulator} if emulator else {})}


def _with(history: History, ending: Ending) -> History:
    return replace(history, ending=ending)


def _follow(
    *,
    folder: RunFolder,
    plan: Plan,
    backend: Backend,
    screen: Screen,
    interruption: Interruption,
) -> Sequence[str]:
    """Show the run until it is over; returns what went wrong in a way that no record tells."""
    names = tuple(str(node.name) for node in plan.nodes)
    told = plan.coordinator
    progress = Progress(nodes=names, stop=told.stop, standby=told.standby)
    follower = Follower(folder, nodes=names)
    watch = Watch(plan=plan, now=time.monotonic())
    revival = Revival(folder=folder, backend=backend, say=screen.say)
    next_poll = 0.0
    while True:
        for member, event in follower.poll():
            for line in progress.feed(member, event):
                screen.say(line)
        screen.show(progress)
        if interruption():
            return []
        now = time.monotonic()
        if now >= next_poll:
            next_poll = now + _POLL_EVERY_S
            states = backend.poll(folder)
            if revival.tend(states, phase=progress.phase, started_at=progress.started_at):
                watch.prolong()
                continue
            over = watch.judge(
                states,
                now=now,
                phase=progress.phase,
                started=progress.started,
                gone=progress.gone,
            )
            if over is not None:
                return over
        time.sleep(_LOOK_EVERY_S)


class Watch:
    """Decides when a run is over, from its members' states alone (pure): a hang ends too.

    Args:
        now: seconds on the clock of `judge`.
    """

    def __init__(self, *, plan: Plan, now: float) -> None:
        told = plan.coordinator
        self._deadlines = told.deadlines
        self._standby = frozenset(map(str, told.standby))
        self._limit_s = total_s(told.deadlines, time_ns=told.stop.time_ns, rounds=told.rounds)
        self._end = now + self._limit_s
        self._since: dict[str, float] = {}

    def prolong(self) -> None:
        """The coordinator was started again: nodes have a lease to tell it how far they are."""
        more_s = self._deadlines.lease_ns / SECOND + _MARGIN_S
        self._limit_s += more_s
        self._end += more_s

    def judge(
        self,
        states: Mapping[str, MemberState],
        *,
        now: float,
        phase: str,
        started: bool,
        gone: Collection[str] = (),
    ) -> Sequence[str] | None:
        """None as long as it goes on, else what went wrong that no record tells.

        Args:
            gone: nodes of which the coordinator knows that they have left, and why.
        """
        coordinator = states.get(COORDINATOR)
        nodes = [state for name, state in states.items() if name != COORDINATOR]
        alive = [state for state in nodes if state.alive]
        if coordinator is None or not coordinator.alive:
            # One that is paused does not end by itself, and nobody waits for it.
            if all(state.status == "paused" for state in alive):
                return []
            if coordinator is None or coordinator.exit_status not in (0, 1):
                return [f"the coordinator ended unexpectedly ({describe_exit(coordinator)})"]
            grace_s = self._deadlines.stop_ns / SECOND
            return [] if self._lasts("nodes outlive the coordinator", grace_s, now) else None
        if nodes and not alive:
            # Once it has ended the run it evaluates the merged model, alone.
            lease_s = self._deadlines.lease_ns / SECOND + _EARLY_EXIT_S
            grace_s = _MERGE_S if phase == "ended" else lease_s
            if self._lasts(f"the coordinator outlives all nodes, {phase}", grace_s, now):
                return [f"the coordinator did not end after every node had ({phase})"]
        excused = self._standby.union(gone)
        ended = [s for s in nodes if not s.alive and s.member not in excused]
        early = ended if not started else []
        if early and self._lasts("ended before the start", _EARLY_EXIT_S, now):
            ends = ", ".join(f"{s.member} ({describe_exit(s)})" for s in early)
            return [f"ended before the run began: {ends}; see its log"]
        if now > self._end:
            return [f"the run hangs: not over after {self._limit_s:.0f} s, all deadlines included"]
        return None

    def _lasts(self, what: str, grace_s: float, now: float) -> bool:
        """Whether something has been so for longer than `grace_s`."""
        return now - self._since.setdefault(what, now) > grace_s


def total_s(deadlines: Deadlines, *, time_ns: int, rounds: RoundsConfig | None = None) -> float:
    """Seconds within which every run must be over: the sum of all that it may wait for.

    Barriers after the start are within `time_ns`.
    """
    waits = (
        deadlines.join_ns,
        deadlines.links_ns,
        deadlines.ready_ns,
        time_ns,
        deadlines.stop_ns,
        barrier_ns(rounds) if rounds is not None else 0,
    )
    return sum(waits) / SECOND + _MARGIN_S


def barrier_ns(rounds: RoundsConfig) -> int:
    """What the barrier before the start may take: for all to be ready, and for all attempts."""
    attempts = 1 + rounds.max_connection_retry
    return rounds.gather_ns + attempts * rounds.connection_timeout_ns


def one_line(error: PeerbedError) -> str:
    """An error as a reason in a list."""
    where = f"{error.where}: " if error.where else ""
    remedy = f" ({error.remedy})" if error.remedy else ""
    return " ".join(f"{where}{error.message}{remedy}".split())
