"""`deploy sim`: from a topology file to a verdict, in virtual time.

    check the file -> run folder -> trainers -> World, event by event -> judge -> exit status

The run folder is that of a container run, and is summarised and judged by the same code. Nothing
waits for real time: a run takes as long as its training and its messages take to compute.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final

from deploy.checks import Verdict
from deploy.conduct import Course, conclude, one_line
from deploy.control import topology_of
from deploy.experiment import Checked, Request, check, store, tell
from deploy.history import MemberState
from deploy.interrupt import Interruption
from deploy.interventions import modelled
from deploy.live import PlainScreen, Screen, screen
from deploy.look import read_progress
from deploy.orders import BY_PLAN, what_text
from deploy.plan import BackendKind, Plan, plan_from_json
from deploy.progress import Progress
from deploy.records import last_words
from deploy.results import Results, RunFolder, RunState
from deploy.sim_network import Timeline
from node.algorithms import find
from node.config import Emulator, ExpectedPair, LinksConfig
from node.core.ids import COORDINATOR
from node.errors import ConfigError, PeerbedError
from node.links.report import PairReport, links_json
from node.sim.checkpoint import Checkpoints, Pace
from node.sim.compute import needs_measuring
from node.sim.interfaces import Sharing, Trainers
from node.sim.records import Records
from node.sim.snapshot import NotStorable
from node.sim.untrained import Untrained
from node.sim.world import Action, Setting, World
from node.training.pool import TrainerPool
from node.training.protocol import Device
from node.units import SECOND, Nanos

_LOOK_S: Final = 0.1
"""Real time between two looks at keyboard, screen and clock, unless a piece of training takes
longer."""
_FLUSH_S: Final = 1.0
_EVENTS: Final = (20, 20_000)
"""Events from one look to the next, fewest and most."""
_PAIRS_MAX: Final = 20_000
"""Of links.json."""


class Learning(StrEnum):
    """What trainers do in a simulation."""

    REAL = "real"
    """They train."""
    NONE = "none"
    """They leave the model as it is: protocol, network and bytes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How a simulation is computed; of it, `sharing` and `learning` change what comes out.

    Args:
        workers: processes that train; None: one for each core.
        checkpoint_s: real time between two checkpoints; 0: there are none.
    """

    workers: int | None = None
    device: Device = Device.AUTO
    sharing: Sharing = Sharing.FAIR
    learning: Learning = Learning.REAL
    checkpoint_s: float = 60.0


def simulate(request: Request, engine: Engine, *, as_json: bool) -> int:
    """Do all of it; returns the exit status."""
    checked = check(request, say=PlainScreen().say)
    with Interruption() as interruption:
        folder, plan = store(checked)
        run = _Run(folder, plan, Timeline(checked.topology), engine, interruption)
        with closing(_started(run, checked)) as trainers:
            verdict = run.play(run.begun(trainers))
    return tell(folder, verdict, as_json=as_json)


def resume(reference: str, engine: Engine, *, results: Path, as_json: bool) -> int:
    """Go on with a simulation from its newest checkpoint; returns the exit status."""
    folder = Results(results).find(reference)
    plan = plan_from_json(folder.plan_file.read_text())
    if plan.backend is not BackendKind.SIM:
        raise ConfigError(f"run {folder.run_id} is no simulation", where=str(folder.path))
    if folder.state() is RunState.RUNNING:
        raise ConfigError(f"run {folder.run_id} is under way", where=str(folder.path))
    engine = _as_begun(engine, folder)
    with Interruption() as interruption:
        run = _Run(folder, plan, Timeline(topology_of(folder)), engine, interruption)
        state = run.checkpoints.newest()
        with closing(_trainers(plan, engine)) as trainers:
            folder.take_ownership()
            for file in (folder.verdict_file, folder.summary_file):
                file.unlink(missing_ok=True)
            verdict = run.play(run.resumed(state, trainers))
    return tell(folder, verdict, as_json=as_json)


def _as_begun(engine: Engine, folder: RunFolder) -> Engine:
    """What changes the results is as it was when the run began."""
    known = folder.manifest
    return replace(
        engine,
        device=Device(known.get("device", engine.device)),
        learning=Learning(known.get("learning", engine.learning)),
        sharing=Sharing(known.get("sharing", engine.sharing)),
    )


# Trainers ---------------------------------------------------------------------------------------


def _started(run: _Run, checked: Checked) -> Trainers:
    """The trainers of a run of which nothing but the folder is there; without them, not even that.

    What is measured and chosen here goes into the manifest.
    """
    try:
        trainers = _trainers(run.plan, run.engine)
        about: dict[str, Any] = {
            "sharing": run.engine.sharing.value,
            "learning": run.engine.learning.value,
            "measured_step_ns": run.measured(trainers),
        }
        if isinstance(trainers, TrainerPool):
            about |= {"device": trainers.device.value, "workers": len(trainers.pids)}
        run.folder.write_json(run.folder.manifest_file, run.folder.manifest | about)
        run.folder.write_json(run.folder.links_file, _links(run.plan, run.timeline))
    except BaseException:
        checked.results.discard(run.folder)
        raise
    return trainers


def _trainers(plan: Plan, engine: Engine) -> Trainers:
    """Raises PeerbedError where they cannot be started."""
    told = plan.coordinator
    off = engine.learning is Learning.NONE
    pool = TrainerPool.start(
        training=told.training,
        seed=told.seed,
        nodes=told.members,
        workers=1 if off else engine.workers,
        device=Device.CPU if off else engine.device,
    )
    if not off:
        return pool
    with pool:  # which knows the model and the data
        return Untrained.like(pool, told.members)


# The run ----------------------------------------------------------------------------------------


class _Run:
    """A simulation whose folder is there; it has a verdict after `play`."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        timeline: Timeline,
        engine: Engine,
        interruption: Interruption,
    ) -> None:
        self.folder, self.plan, self.timeline, self.engine = folder, plan, timeline, engine
        self._interruption = interruption
        own = find(plan.nodes[0].config.algorithm.name).__module__.partition(".")[0]
        self.checkpoints = Checkpoints(folder.checkpoints, modules=(own,))
        self._pace = Pace(engine.checkpoint_s)
        told = plan.coordinator
        names = tuple(str(node.name) for node in plan.nodes)
        self._progress = Progress(nodes=names, stop=told.stop, standby=told.standby)
        self._clock = VirtualClock()
        self._screen: Screen = screen(title=f"{folder.topology}/{folder.run_id}", clock=self._clock)
        self._records = Records(folder.path, watch=self._watch)

    def measured(self, trainers: Trainers) -> Nanos | None:
        """What a training step takes here, if the file leaves that to this machine."""
        open_ = needs_measuring(node.config.compute for node in self.plan.nodes)
        return trainers.measured_step_ns() if open_ and isinstance(trainers, TrainerPool) else None

    def begun(self, trainers: Trainers) -> World:
        setting = Setting(
            coordinator=self.plan.coordinator,
            nodes={node.name: node.config for node in self.plan.nodes},
            actions=tuple(_actions(self.plan)),
            changes=_links_config(self.plan).changes,
            sharing=self.engine.sharing,
            measured_step_ns=self.folder.manifest.get("measured_step_ns"),
        )
        world = World(setting, timeline=self.timeline, trainers=trainers, records=self._records)
        world.begin()
        return _settled(world)

    def resumed(self, state: dict[str, Any], trainers: Trainers) -> World:
        """From a checkpoint; what was recorded later is taken back."""
        self._records.rewind(state["sizes"])
        self._progress = read_progress(self.folder) or self._progress
        trainers.restore(state["trainers"])
        world: World = state["world"]
        world.attach(timeline=self.timeline, trainers=trainers, records=self._records)
        return _settled(world)

    def play(self, world: World) -> Verdict:
        """Run it to its end, and judge it. What was recorded is stored, whatever the end is."""
        course = Course()
        with self._screen:
            for text in modelled(self.plan):
                self._screen.say(f"note: {text}")
            try:
                self._drive(world)
                self._records.flush()
            except PeerbedError as error:
                course.problems.append(one_line(error))
            except BaseException:
                course.problems.append("deploy itself failed")
                self._end(world, course)
                raise
            return self._end(world, course)

    def _drive(self, world: World) -> None:
        """Event by event; between two of them it may be looked at, stored and interrupted."""
        events, flush_at = _EVENTS[0], time.monotonic() + _FLUSH_S
        self._clock.begin(world)
        while not world.over:
            began = time.monotonic()
            world.run(events=events)
            now = time.monotonic()
            fitting = events * _LOOK_S / max(now - began, 1e-6)
            events = round(min(max(fitting, events / 2, _EVENTS[0]), events * 2, _EVENTS[1]))
            self._screen.show(self._progress)
            if now >= flush_at:
                self._records.flush()
                flush_at = now + _FLUSH_S
            if self._interruption():
                if self._checkpoint(world):
                    go_on = f"deploy sim --resume {self.folder.run_id}"
                    self._screen.say(f"a checkpoint is kept; go on with: {go_on}")
                return
            if self._pace.due:
                with self._pace.taking():
                    self._checkpoint(world)
        self.checkpoints.clear()

    def _checkpoint(self, world: World) -> bool:
        """Take one, if that is wanted and can be done; whether it was."""
        if not self._pace.wanted:
            return False
        state = {
            "world": world,
            "sizes": self._records.sizes(),
            "trainers": world.trainers.state(),
        }
        try:
            self.checkpoints.take(state)
        except NotStorable as error:  # an algorithm may hold what it likes
            self._screen.say(f"note: no checkpoints of this run: {error}")
            self._pace = Pace(0)
            return False
        return True

    def _end(self, world: World, course: Course) -> Verdict:
        course.attempt(self._records.flush, None)
        if not world.over:
            course.interrupted = self._interruption.reason
        if course.interrupted:
            self._screen.say(f"{course.interrupted}: what was recorded is kept")
        lives = {COORDINATOR: world.coordinator, **world.hosts}
        course.stopped = {
            str(name): "running" if life.asleep is None else "paused"
            for name, life in lives.items()
            if not life.gone
        }
        course.members = {
            str(name): MemberState(
                member=str(name),
                status="exited" if life.gone else course.stopped[name],
                alive=False,
                exit_status=life.status if life.gone else 143,
            )
            for name, life in lives.items()
        }
        words = {name: last_words(self.folder.log_file(name)) for name in course.members}
        course.last_words = words
        return conclude(folder=self.folder, plan=self.plan, course=course, say=self._screen.say)

    def _watch(self, member: str, event: Any) -> None:
        for line in self._progress.feed(member, event):
            self._screen.say(line)


def _settled(world: World) -> World:
    """Most of what there is now stays until the end: with 1,000 nodes, looking for garbage in it
    again and again would take a tenth of the time."""
    gc.collect()
    gc.freeze()
    return world


class VirtualClock:
    """The time of a simulation, for the screen."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._since = time.monotonic()

    def begin(self, world: World) -> None:
        self.world, self._since = world, time.monotonic()

    def now(self) -> float:
        return 0.0 if self.world is None else self.world.now / SECOND

    def said(self, progress: Progress) -> str:
        if progress.started_at is None:
            return ""
        virtual, real = self.now() - progress.started_at, time.monotonic() - self._since
        return f"{max(0.0, virtual):.1f} s, {max(0.0, virtual) / max(real, 1e-3):.3g} x real time"


def _actions(plan: Plan) -> Iterator[Action]:
    for action in sorted(plan.actions, key=lambda action: action.at_ns):
        what = what_text(action.verb, by=BY_PLAN, at_ns=action.at_ns)
        yield Action(at_ns=action.at_ns, node=action.node, verb=action.verb, what=what)


def _links_config(plan: Plan) -> LinksConfig:
    """What all nodes are told of the network."""
    return plan.nodes[0].config.links


def _links(plan: Plan, timeline: Timeline) -> dict[str, Any]:
    """links.json: what is asked of the paths between nodes that exchange; nothing is measured."""
    view = timeline.view(0)
    reports = []
    overlay = plan.coordinator.overlay
    ends = (pair for a, b in overlay for pair in ((a, b), (b, a)))
    for source, target in islice(ends, _PAIRS_MAX):
        out, back = view.path(source, target), view.path(target, source)
        if out is not None and back is not None:
            pair = ExpectedPair(source=source, target=target, out=out.spec, back=back.spec)
            reports.append(
                PairReport(
                    pair=pair, reading=None, applied=None, ok=None, why="computed", tolerance={}
                )
            )
    return links_json(reports, emulator=Emulator.MODEL.value)
