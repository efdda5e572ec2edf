"""`deploy verify` from file to verdict: nodes send load, and that is held against the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from deploy import host
from deploy.checks import CHECKS, Finding, Judgement, Verdict, judge
from deploy.conduct import conduct
from deploy.experiment import Request, check, store
from deploy.history import History, started_at
from deploy.interrupt import Interruption
from deploy.live import PlainScreen, screen
from deploy.plan import Plan
from deploy.report import run_json
from deploy.results import RunFolder
from deploy.topology import Topology
from deploy.topology.timeline import NodeAction
from deploy.verify.judge import (
    EventHeld,
    Judged,
    document,
    findings,
    judge_events,
    judge_segments,
    tolerance,
)
from deploy.verify.prepare import loaded
from deploy.verify.readings import Throughput, firings, throughput
from deploy.verify.screen import VerifyScreen
from deploy.verify.segments import Load, plan_load
from node.core.ids import NodeId
from node.errors import ConfigError, PeerbedError
from node.units import SECOND, Nanos

_BUSY: Final = 0.9
"""Share of all cores' time from which on the machine itself is a suspect."""


def verify(request: Request, *, pairs: int | None, until_ns: Nanos | None, as_json: bool) -> int:
    """Do all of it; returns the exit status.

    Args:
        pairs: measure at most so many ordered pairs.
        until_ns: replay so much of the timeline; None: up to the file's `stop.time`.
    """
    say = PlainScreen().say
    checked = check(request, say=say)
    load = plan_load(checked.topology, pairs=pairs, until_ns=until_ns)
    if not load.sample.pairs:
        raise ConfigError(
            "no two nodes have a path to each other and back: there is nothing to measure",
            where=str(request.file),
            remedy="deploy paths FILE shows the paths",
        )
    told = notes(checked.topology, load)
    for line in told:
        say(line)
    with Interruption() as interruption:
        folder, plan = store(checked, adapt=partial(loaded, load=load))
        with VerifyScreen(screen(title=f"{folder.topology}/{folder.run_id}")) as shown:
            outcome = Outcome(folder=folder, plan=plan, load=load, notes=told, busy=shown.busy)
            verdict = conduct(
                folder=folder,
                plan=plan,
                backend=checked.backend,
                screen=shown,
                interruption=interruption,
                assess=outcome.assess,
            )
        outcome.draw(say=say)
    return _report(folder, verdict, as_json=as_json)


def notes(topology: Topology, load: Load) -> list[str]:
    """What a reader must know of what is measured and what is not."""
    sample, lines = load.sample, []
    lines.append(
        f"measuring {len(sample.pairs)} of {sample.candidates} ordered pairs: a sample in which"
        " every node sends and receives about as much (--pairs)"
        if sample.partial
        else f"measuring all {sample.candidates} ordered pairs"
    )
    if load.unplayed:
        lines.append(f"{load.unplayed} later steps of the timeline are not replayed (--until)")
    skipped = [
        f"{action.verb} {action.node} at {step.at_ns / SECOND:g} s"
        for step in topology.timeline
        for action in step.actions
        if isinstance(action, NodeAction) and step.at_ns <= load.time_ns
    ]
    if skipped:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        lines.append(
            "nodes are the instruments, so nothing is done to them but to their links: "
            + ", ".join(skipped[:5])
            + more
        )
    return lines


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a verification finds out, from the moment that the run is over.

    Args:
        notes: as `notes` made them.
        busy: the share of the machine's time that was worked between two Unix times.
    """

    folder: RunFolder
    plan: Plan
    load: Load
    notes: list[str]
    busy: Callable[[float, float], float | None]
    segments: tuple[Judged, ...] = ()
    events: tuple[EventHeld, ...] = ()
    curves: Throughput | None = None
    emulator: str = ""

    def assess(self, history: History) -> Verdict:
        """The verdict of the run: what every run is judged by, and the network."""

        def network(history: History) -> Iterator[Finding]:
            """Flows, full links and events are what the model expects."""
            began = started_at(history.coordinator)
            if began is None or history.ending.interrupted is not None:
                return
            self._hold(history, began)
            found = list(findings(self.segments, self.events))
            yield from found
            busy = self.busy(began, began + self.load.time_ns / SECOND)
            if found and busy is not None and busy >= _BUSY:
                yield Finding(
                    judgement=Judgement.INVALID,
                    reason=f"this machine's cores were {busy:.0%} busy while all sent: it may be"
                    " too slow for this network (fewer --pairs, lower rates, a larger machine)",
                )

        return judge(history, (*CHECKS, network))

    def _hold(self, history: History, began: float) -> None:
        """Hold records against model, and store that."""
        emulator = self.emulator = str((history.links or {}).get("emulator"))
        orders = self.plan.nodes[0].config.load
        assert orders is not None
        pairs = self.load.sample.pairs
        self.curves = throughput(history.nodes, pairs, every_ns=orders.sample_ns)
        self.segments = judge_segments(self.load, self.curves, emulator=emulator)
        told = firings(planned(self.plan), history.nodes)
        self.events = judge_events(told)
        content = document(
            self.load,
            self.segments,
            self.events,
            backend=self.plan.backend.value,
            emulator=emulator,
            notes=self.notes,
            cpu={
                "cores": host.cpu_count(),
                "busy": self.busy(began, began + self.load.time_ns / SECOND),
            },
        )
        self.folder.write_json(self.folder.verify_file, content)

    def draw(self, *, say: Callable[[str], None]) -> None:
        """The pictures; what is wrong with them does not touch the verdict."""
        from deploy.verify.figures import draw_network, draw_timeline

        try:
            if (links := self.folder.read_json(self.folder.links_file)) is not None:
                names = [str(node.name) for node in self.plan.nodes]
                draw_network(self.folder.network_picture, links=links, names=names)
            if self.curves is not None:
                draw_timeline(
                    self.folder.timeline_picture,
                    load=self.load,
                    segments=self.segments,
                    curves=self.curves,
                    allowed=tolerance(self.emulator),
                    title=f"{self.folder.topology}/{self.folder.run_id}",
                )
        except PeerbedError as error:
            say(f"error: the pictures could not be drawn: {error}")


def planned(plan: Plan) -> dict[NodeId, dict[Nanos, tuple[str, ...]]]:
    """For each node, when its links change, and what that is in words."""
    found: dict[NodeId, dict[Nanos, tuple[str, ...]]] = {}
    for node in plan.nodes:
        changes: Mapping[Nanos, tuple[str, ...]] = {
            change.at_ns: change.what for change in node.config.links.changes
        }
        found[node.name] = dict(changes)
    return found


def _report(folder: RunFolder, verdict: Verdict, *, as_json: bool) -> int:
    if as_json:
        facts: dict[str, Any] = run_json(folder, verdict=verdict.to_json())
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        from deploy.report import print_run

        print_run(folder, verdict=verdict.to_json())
    return verdict.exit_status
