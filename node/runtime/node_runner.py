"""One node's process: the member machine between the coordinator and the run on this node.

signaling client --Received, PeerChanged--> Member --ProbeLinks--> prober
local run --Prepared, Offered, RunEnded...-->     --BeginRun, OpenShare, EndRun...--> local run
edge checks --EdgeSettled------------------>      --ConnectEdges, KeepConnected--> mesh
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Final

from node import __version__
from node.config import Emulator, LinkPolicy, NodeConfig, RoundsConfig
from node.core.effects import (
    AdoptModel,
    BeginRun,
    ConnectEdges,
    DropFromShare,
    Effect,
    EndRun,
    Finish,
    KeepConnected,
    OpenShare,
    PrepareRun,
    ProbeLinks,
    Record,
    ReplanLinks,
    Send,
    SitOut,
    SkipShare,
    TakeSnapshot,
)
from node.core.events import Failed, LinksProbed, Started, StopRequested
from node.core.ids import COORDINATOR
from node.core.member import Member
from node.core.messages import PeerMessage
from node.core.signals import Hello
from node.errors import EnvironmentFault
from node.runtime.clock import MonotonicClock, RunClock
from node.runtime.drive import Driver
from node.runtime.edges import EdgeChecks
from node.runtime.link_plan import LinkPlan
from node.runtime.load_run import LoadRun
from node.runtime.local_run import LocalRun, StartTrainer
from node.runtime.mesh import Mesh
from node.runtime.probing import make_prober
from node.runtime.process import RUN_DIR, Process
from node.runtime.refusals import Refusals
from node.runtime.shaper import Shaper
from node.runtime.signaling import SignalingClient
from node.runtime.wire_count import WireCount
from node.training.client import TrainerProcess
from node.training.protocol import Trainer
from node.units import SECOND
from node.wire.frames import Identity

_GOODBYE_S: Final = 1.0


async def start_trainer_process(config: NodeConfig, deadline_s: float) -> Trainer:
    return await TrainerProcess.start(config, deadline_s=deadline_s)


async def run_node(
    config: NodeConfig,
    *,
    start_trainer: StartTrainer = start_trainer_process,
    run_dir: Path = RUN_DIR,
    signals: bool = True,
) -> int:
    """Run a node to its end; the exit status: 0, or 1 if anything went wrong.

    Args:
        run_dir: where the link agent left links.json, and the sign of life goes.
        signals: the process is its own and ends on SIGTERM and SIGINT; False where nodes share it.

    Raises:
        EnvironmentFault: it could not even begin.
    """
    runner = NodeRunner(config, start_trainer=start_trainer, run_dir=run_dir)
    try:
        await runner.open(signals=signals)
        return await runner.ended()
    finally:
        await runner.close()


class NodeRunner:
    """See the module. Make it on a running event loop; then `open`, `ended`, `close`."""

    def __init__(
        self, config: NodeConfig, *, start_trainer: StartTrainer, run_dir: Path = RUN_DIR
    ) -> None:
        self._config = config
        clock = RunClock()
        self._former_start = former_start(Path(config.results), config.name)
        self._process = Process(
            path=Path(config.results) / "nodes" / f"{config.name}.jsonl",
            name=config.name,
            clock=clock,
            run_dir=run_dir,
            on_failure=self._failed,
        )
        self._refusals = Refusals(self._process)
        application = config.links.emulator is Emulator.APPLICATION
        self._shaper = Shaper(config) if application else None
        self._hello, device = _hello(run_dir, self._shaper)
        self._me = Identity(session=config.session, member=config.name, incarnation=time.time_ns())
        self._member = Driver(
            Member(hello=self._hello, deadlines=config.deadlines, rounds=config.rounds),
            clock=MonotonicClock(),
            perform=self._perform,
            on_defect=self._member_defect,
        )
        self._run: LocalRun | LoadRun
        if config.load is not None:
            tell = self._member.feed
            self._run = LoadRun(config, process=self._process, clock=clock, tell=tell)
        else:
            self._run = LocalRun(
                config,
                process=self._process,
                clock=clock,
                wire=WireCount(device=device, shaper=self._shaper),
                start_trainer=start_trainer,
                tell=self._member.feed,
            )
        self.mesh = Mesh(
            config=config,
            me=self._me,
            on_event=self._run.from_mesh,
            refusals=self._refusals,
            tasks=self._process.tasks,
            shaper=self._shaper,
        )
        self._links = LinkPlan(
            config, clock=clock, process=self._process, mesh=self.mesh, shaper=self._shaper
        )
        self._signaling = SignalingClient(
            me=self._me,
            host=config.coordinator_host,
            port=config.coordinator_port,
            on_event=self._member.feed,
            refusals=self._refusals,
            tasks=self._process.tasks,
        )
        self._edges = EdgeChecks(
            mesh=self.mesh,
            timeout_ns=(config.rounds or RoundsConfig()).connection_timeout_ns,
            tasks=self._process.tasks,
            tell=self._member.feed,
        )
        self._prober = make_prober(config, self.mesh, application=application)
        self._probing: asyncio.Task[None] | None = None

    async def open(self, *, signals: bool) -> None:
        """Listen, and join once the trainer is up. Raises EnvironmentFault."""
        about = {
            "pid": os.getpid(),
            "incarnation": self._me.incarnation,
            "version": __version__,
            "emulator": self._hello.emulator,
        }
        self._process.record("process", about)
        if signals:
            self._process.on_signals(self._stop, force=self._force)
            self._process.watch_loop()
        await self.mesh.open()
        if self._config.links.policy is not LinkPolicy.OFF:
            await self._prober.open()
        self._process.every_second(self._tick)
        self._process.tasks.spawn(self._join())

    async def ended(self) -> int:
        """Wait for the end; the exit status."""
        return await self._process.ended()

    async def close(self) -> None:
        """Say goodbye, and leave nothing running."""
        await self._signaling.close(deadline_s=_GOODBYE_S)
        self._member.close()
        self._edges.close()
        self._links.close()
        if self._probing is not None:
            self._probing.cancel()
        await self._prober.close()
        await self.mesh.close()
        await self._process.tasks.close()
        await self._run.close()
        if self._shaper is not None:
            self._shaper.close()
        self._process.close()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(message=message):
                if isinstance(message, PeerMessage):
                    self._run.send(effect)
                else:
                    self._signaling.send(message)
            case Record(kind="refused", fields=fields):
                sender = str(fields.get("sender", COORDINATOR))
                self._refusals.count(sender, str(fields["reason"]))
            case Record(kind=kind, fields=fields):
                self._process.record(kind, fields)
            case ConnectEdges():
                self._edges.check(effect)
            case KeepConnected(peer=peer):
                self.mesh.connect((peer,))
            case OpenShare() | SkipShare() | DropFromShare() | AdoptModel() | TakeSnapshot():
                self._run.order(effect)
            case ProbeLinks():
                self._start_probing(effect)
            case PrepareRun():
                self._process.tasks.spawn(self._prepare())
            case BeginRun(at_wall_ns=at):
                self._run.begin(at)
                self._links.begin(at)
            case SitOut(at_wall_ns=at):
                self._run.sit_out(at)
                self._links.begin(at)
            case ReplanLinks(plan=plan):
                self._links.replan(plan)
            case EndRun(reason=reason):
                self._run.end(reason)
            case Finish(reason=reason, error=error):
                self._finish(reason, error)
            case _:
                raise TypeError(f"the member machine wants {effect}")

    def _start_probing(self, order: ProbeLinks) -> None:
        if self._probing is not None:
            self._probing.cancel()  # of a slot that was given up
        self._probing = asyncio.create_task(self._probe(order))
        self._probing.add_done_callback(self._probed)

    async def _join(self) -> None:
        if self._former_start is not None:
            # Started again in the middle of a run: the links have to be as they are by now, and
            # at once; the coordinator says when this life takes part.
            self._run.sit_out(self._former_start)
            self._links.begin(self._former_start)
        if self._former_start is None or self._config.load is None:
            await self._run.load(self.mesh)  # who sends load has no part in it a second time
        self._member.feed(Started())
        self._signaling.open()

    async def _probe(self, order: ProbeLinks) -> None:
        readings = await self._prober.probe(order)
        self._member.feed(LinksProbed(attempt=order.attempt, readings=readings))

    def _probed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._process.defect(error)

    async def _prepare(self) -> None:
        await self._prober.close()
        await self._run.prepare()

    def _finish(self, reason: str, error: str | None) -> None:
        self._refusals.flush()
        self._run.record_bytes()
        for fields in self.mesh.traffic.latency_records():
            self._process.record("latency", fields)
        fields = {"reason": reason, "round": self._run.round, "error": error}
        self._process.record("finish", fields)
        self._process.end(0 if error is None else 1)

    def _stop(self, reason: str) -> None:
        self._member.feed(StopRequested(reason=reason))

    def _force(self) -> None:
        """A clean end took too long."""
        self._process.fail("did not stop in time")
        self._process.end(1)

    def _failed(self, reason: str) -> None:
        self._run.fail(reason)
        self._member.feed(Failed(reason=reason))

    def _member_defect(self, error: Exception) -> None:
        self._process.defect(error)
        self._process.end(1)

    def _tick(self) -> None:
        self.mesh.tick()
        self._refusals.flush()
        self._run.tick()


def former_start(results: Path, name: str) -> int | None:
    """When the run began (Unix time in ns), if a former life of this node has recorded that."""
    path = results / "nodes" / f"{name}.jsonl"
    try:
        with path.open("rb") as file:
            lines = [line for line in file if b'"kind":"start"' in line]
        at = json.loads(lines[-1])["at_wall"] if lines else None
    except (OSError, ValueError, KeyError):
        return None
    return round(at * SECOND) if isinstance(at, float | int) else None


def _hello(run_dir: Path, shaper: Shaper | None) -> tuple[Hello, str | None]:
    """What to present: the link agent's work or our own; and the interface, if it is the agent's.

    Raises:
        EnvironmentFault: the agent left something that cannot be read.
    """
    if shaper is not None:
        return Hello(emulator=Emulator.APPLICATION.value, applied=shaper.state()), None
    try:
        text = (run_dir / "links.json").read_text()
        state = json.loads(text)
        return Hello(emulator=state["emulator"], applied=text), state.get("device")
    except FileNotFoundError:
        return Hello(emulator="none", applied="{}"), None
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFault(
            f"cannot read what the link agent applied: {error!r}", where=str(run_dir)
        ) from error
