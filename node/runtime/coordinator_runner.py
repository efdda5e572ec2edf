"""The coordinator's process: its machine behind the signaling stream, and what the end needs.

Started in the place of one that died in the middle of a run, it reads that one's records and goes
on (`node.runtime.former_life`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from node import __version__
from node.config import CoordinatorConfig, Emulator, ExpectedPair
from node.core.consensus import merge
from node.core.coordinator import Coordinator, Phase
from node.core.effects import Effect, Finish, Record, Send, StoreLinks, Value
from node.core.events import (
    Event,
    Failed,
    LinksOrdered,
    NodeOrdered,
    Received,
    Resumed,
    Started,
    StopRequested,
)
from node.core.ids import COORDINATOR, NodeId
from node.core.measuring import ProbeSlot, Probing
from node.core.messages import PeerMessage
from node.core.signals import Hello, LinkReading
from node.errors import ConfigError, EnvironmentFault, PeerbedError
from node.links.report import Applied, PairReport, applied_to_pair, judge, links_json
from node.links.schedule import AGAIN, FIRST, schedule
from node.runtime.clock import RunClock, UnixClock
from node.runtime.control_folder import FOLDER, LOOK_S, ControlFolder, Order
from node.runtime.drive import Driver
from node.runtime.former_life import STOPS, FormerLife, former_life
from node.runtime.process import RUN_DIR, Process, store
from node.runtime.refusals import Refusals
from node.runtime.signaling import SignalingServer
from node.training.client import TrainerProcess
from node.training.protocol import Trainer
from node.units import SECOND

StartEvaluator = Callable[[CoordinatorConfig, float], Awaitable[Trainer]]
"""Starts a trainer that only evaluates, which has so many seconds to be ready."""
_MERGE_S: Final = 60.0
"""For evaluating the merged model: torch comes up, the test set is read, one evaluation."""
_GOODBYE_S: Final = 1.0
_NO_ORDERS: Final = (
    Phase.GATHERING,
    Phase.MEASURING,
    Phase.PREPARING,
    Phase.CONNECTING,
    Phase.RECOVERING,
)
"""Orders wait in their folder until the run is under way, or over."""


async def start_evaluator_process(config: CoordinatorConfig, deadline_s: float) -> Trainer:
    return await TrainerProcess.evaluator(
        training=config.training, seed=config.seed, deadline_s=deadline_s
    )


async def run_coordinator(
    config: CoordinatorConfig,
    *,
    start_evaluator: StartEvaluator = start_evaluator_process,
    run_dir: Path = RUN_DIR,
    signals: bool = True,
) -> int:
    """Coordinate a run to its end; the exit status: 0, or 1 if anything went wrong.

    Args:
        signals: the process is its own and ends on SIGTERM and SIGINT; False where nodes share it.

    Raises:
        EnvironmentFault: it could not even begin.
    """
    runner = CoordinatorRunner(config, start_evaluator=start_evaluator, run_dir=run_dir)
    try:
        await runner.open(signals=signals)
        return await runner.ended()
    finally:
        await runner.close()


class CoordinatorRunner:
    """See the module. Make it on a running event loop; then `open`, `ended`, `close`."""

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        start_evaluator: StartEvaluator,
        run_dir: Path = RUN_DIR,
    ) -> None:
        self._config = config
        self._results = Path(config.results)
        self._start_evaluator = start_evaluator
        self._clock = RunClock()
        path = self._results / "coordinator.jsonl"
        self._former: FormerLife | None = former_life(path)
        self._process = Process(
            path=path,
            name=COORDINATOR,
            clock=self._clock,
            run_dir=run_dir,
            on_failure=self._failed,
        )
        self._refusals = Refusals(self._process)
        self._out_of_place = Refusals(self._process)
        """What is well-formed, and makes no sense to the machine now."""
        self._emulators: dict[NodeId, Emulator] = {}
        """What members say impairs their traffic."""
        self._stopped = False
        """Asked to end at once."""
        self._control = ControlFolder(self._results / FOLDER)
        self._stopped_nodes: set[NodeId] = set()
        """Who was stopped on purpose, and may leave no model."""
        probing = Probing(schedule=_slots, judge=self._judge)
        self._machine = Coordinator(config=config, probing=probing)
        self._driver = Driver(
            self._machine,
            clock=UnixClock(),
            perform=self._perform,
            on_defect=self._defect,
        )
        self._signaling = SignalingServer(
            session=config.session,
            members=config.members,
            on_event=self._from_member,
            refusals=self._refusals,
            tasks=self._process.tasks,
        )

    async def open(self, *, signals: bool) -> None:
        """Listen, and wait for members. Raises EnvironmentFault."""
        about = {"pid": os.getpid(), "version": __version__}
        self._process.record("process", about)
        if signals:
            self._process.on_signals(self._stop, force=self._force)
            self._process.watch_loop()
        await self._signaling.open(self._config.host, self._config.port)
        self._process.every_second(self._flush)
        self._process.tasks.spawn(self._follow_orders())
        if self._former is None:
            self._driver.feed(Started())
            return
        former = self._former
        self._driver.feed(Resumed(began_wall_ns=former.began_wall_ns, absent=former.absent))

    async def ended(self) -> int:
        """Wait for the end; the exit status."""
        return await self._process.ended()

    async def close(self) -> None:
        """Leave nothing running."""
        self._driver.close()
        await self._signaling.close(grace_s=_GOODBYE_S)
        await self._process.tasks.close()
        self._process.close()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(target=target, message=message) if not isinstance(message, PeerMessage):
                self._signaling.send(target, message)
            case Record(kind="start", fields=fields):
                self._run_began(fields)
            case Record(kind="refused", fields=fields):
                self._out_of_place.count(str(fields["sender"]), str(fields["reason"]))
            case Record(kind="control", fields=fields) if self._is_known(fields):
                pass  # a former life has recorded it
            case Record(kind=kind, fields=fields):
                self._process.record(kind, fields)
            case StoreLinks():
                self._store_links(effect)
            case Finish():
                self._process.tasks.spawn(self._finish(effect))
            case _:
                raise TypeError(f"the coordinator machine wants {effect}")

    def _run_began(self, fields: Mapping[str, Value]) -> None:
        """The run clock stands at 0 at a time that is told as Unix time in s."""
        at = fields["at_wall"]
        assert isinstance(at, float)
        self._clock.begin(round(at * SECOND))
        if self._former is None:
            self._process.record("start", fields)

    def _from_member(self, event: Event) -> None:
        if isinstance(event, Received) and isinstance(event.message, Hello):
            self._emulators[event.sender] = _emulator(event.message.emulator)
        self._driver.feed(event)

    async def _follow_orders(self) -> None:
        """Look again and again for what is ordered while the run goes on."""
        while True:
            if self._machine.phase not in _NO_ORDERS:
                for order in self._control.look():
                    self._take_order(order)
            await asyncio.sleep(LOOK_S)

    def _take_order(self, order: Order | ConfigError) -> None:
        if isinstance(order, ConfigError):
            if self._former is None or str(order) not in self._former.nonsense:
                self._process.record("control", {"state": "refused", "reason": str(order)})
            return
        if self._former is not None and not _still_holds(order, self._former):
            return
        if isinstance(order, NodeOrdered) and order.verb in STOPS:
            self._stopped_nodes.add(order.node)
        elif isinstance(order, NodeOrdered):
            self._stopped_nodes.discard(order.node)
        self._driver.feed(order)

    def _is_known(self, fields: Mapping[str, Value]) -> bool:
        """Whether this record of an order has been written by a former life."""
        former = self._former
        again = former is not None and fields.get("number") in former.ordered
        return again and fields.get("state") == "ordered"

    def _report(
        self, pair: ExpectedPair, reading: LinkReading | None, applied: Applied | None = None
    ) -> PairReport:
        """What is known of a pair, judged by the rules of the emulator in force at its source."""
        emulator = self._emulators.get(pair.source, Emulator.AUTO)
        return judge(pair, reading, applied, emulator=emulator)

    def _judge(self, pair: ExpectedPair, reading: LinkReading) -> bool:
        return self._report(pair, reading).ok is True

    def _store_links(self, effect: StoreLinks) -> None:
        """Write links.json. A disk that is full ends the run."""
        states = {name: _parsed(text) for name, text in effect.applied.items()}
        readings = {(reading.source, reading.target): reading for reading in effect.readings}
        reports = [
            self._report(
                pair,
                readings.get((pair.source, pair.target)),
                applied_to_pair(states, source=pair.source, target=pair.target),
            )
            for pair in self._config.pairs
        ]
        content = links_json(reports, emulator="+".join(sorted(set(effect.emulators.values()))))
        try:
            store(self._results / "links.json", (json.dumps(content, indent=1) + "\n").encode())
        except EnvironmentFault as fault:
            self._process.fail(str(fault))

    async def _finish(self, finish: Finish) -> None:
        """Evaluate the mean of all models, unless there is no time for it, then end."""
        self._flush()
        try:
            if not self._stopped:
                async with asyncio.timeout(_MERGE_S):
                    await self._merge()
        except (PeerbedError, TimeoutError, OSError, ValueError) as error:
            text = f"the merged model could not be evaluated: {error or 'no end in time'}"
            self._process.record("warning", {"message": text})
        self._process.end(0 if finish.error is None else 1)

    async def _merge(self) -> None:
        """Record what the mean of all final models is worth. Raises whatever prevents it.

        Where no node has left a model, none was trained (`LoadRun`). Who was stopped on purpose,
        or never came, is not missed; who failed is named.
        """
        nodes = self._results / "nodes"
        working = [name for name in self._config.members if name not in self._stopped_nodes]
        models = {
            name: np.fromfile(nodes / f"{name}.f32", dtype="<f4")
            for name in working
            if (nodes / f"{name}.f32").exists()
        }
        if not models:
            return
        merged = merge(list(models.values()))
        missing = [name for name in working if name not in models and name in self._emulators]
        trainer = await self._start_evaluator(self._config, _MERGE_S)
        try:
            done = await trainer.evaluate(round=0, parameters=merged.parameters)
        finally:
            await trainer.close()
        if done is not None:
            fields: dict[str, Value] = {
                "accuracy": done.accuracy,
                "loss": done.loss,
                "distance": merged.distance,
                "models": len(models),
            }
            if missing:
                fields["missing"] = list(missing)
            self._process.record("merged", fields)

    def _flush(self) -> None:
        self._refusals.flush()
        self._out_of_place.flush()

    def _stop(self, reason: str) -> None:
        self._stopped = True
        self._driver.feed(StopRequested(reason=reason))

    def _force(self) -> None:
        """A clean end took too long."""
        self._process.fail("did not stop in time")
        self._process.end(1)

    def _failed(self, reason: str) -> None:
        self._driver.feed(Failed(reason=reason))

    def _defect(self, error: Exception) -> None:
        self._process.defect(error)
        self._process.end(1)


def _still_holds(order: Order, former: FormerLife) -> bool:
    """Whether an order is to be followed: it is new, or it was before and has not been undone."""
    if order.number in former.refused:
        return False
    if order.number not in former.ordered or isinstance(order, LinksOrdered):
        return True
    return former.standing.get(order.node) == order.number


def _slots(pairs: tuple[ExpectedPair, ...], attempt: int) -> tuple[ProbeSlot, ...]:
    """The schedule as the machine wants it: for each member, whom it measures."""
    slots = []
    for slot in schedule(pairs, limits=FIRST if attempt == 1 else AGAIN):
        targets: dict[NodeId, tuple[NodeId, ...]] = {}
        for source, target in slot.pairs:
            targets[source] = (*targets.get(source, ()), target)
        slots.append(
            ProbeSlot(targets=targets, measures=slot.measures, deadline_ns=slot.deadline_ns)
        )
    return tuple(slots)


def _emulator(said: str) -> Emulator:
    """What a member says is in force; AUTO stands for what we do not know (`none`)."""
    try:
        return Emulator(said)
    except ValueError:
        return Emulator.AUTO


def _parsed(applied: str) -> Mapping[str, Any]:
    """What a member said it read back; nothing, if that is not JSON."""
    try:
        state = json.loads(applied)
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}
