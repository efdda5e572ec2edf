"""A whole simulated run: hosts, network, what happens to them by plan, and its records.

    coordinator --1 ms--> members      the machines of a run in containers, driven on virtual time
    planned actions, changes of links  at their times on the run clock
    records, models                    as containers write them

Virtual time begins at 0 and is the Unix time of the run. `run` plays it, from one event to another;
between two events the whole state is plain objects that a checkpoint can keep, but for what
`attach` puts back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from node.config import CoordinatorConfig, Deadlines, LinkChange, NodeConfig, RoundsConfig
from node.core.consensus import Merged, merge
from node.core.effects import Value
from node.core.events import NodeOrdered
from node.core.ids import NodeId
from node.errors import PeerbedError, RunFailed
from node.links.report import asked_json
from node.sim.coordinator import CoordinatorHost
from node.sim.host import EVALUATION_NS, NodeHost
from node.sim.interfaces import NetworkView, Path, Sharing, Ticket, Trainers
from node.sim.line import Line
from node.sim.network import Network
from node.sim.queue import EventQueue
from node.sim.records import DEPLOY, Records
from node.units import MILLISECOND, SECOND, Nanos, format_duration

AHEAD_NS: Final = 300 * MILLISECOND
"""The coordinator knows of a planned action this much earlier, as in containers."""
_RESOLUTION: Final = 100
"""`bytes` and `consensus` records are a hundredth of the time gone by apart: a long run has a few
hundred of them, and its beginning is told as finely as that of a short one."""
_BYTES_NS: Final = SECOND
_MERGE_NS: Final = 200 * MILLISECOND
"""They are this far apart at least."""
_SLICE: Final = 1_000
"""Events between two looks at whether all have ended."""
_MARGIN_NS: Final = 30 * SECOND
_STOPS: Final = ("leave", "crash", "pause")
"""What is done to a node that then may leave no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that is done to a node at a time on the run clock.

    Args:
        verb: `join`, `leave`, `crash`, `pause`, `resume`, `restart` or `return`.
        what: the same for people.
    """

    at_ns: Nanos
    node: NodeId
    verb: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What does not change while a simulation runs.

    Args:
        changes: when the network changes, in order; the i-th leads to state i + 1 of `Timeline`.
        measured_step_ns: what a training step takes on this machine, for nodes of which nothing
            else says it; None: it was not measured.
    """

    coordinator: CoordinatorConfig
    nodes: Mapping[NodeId, NodeConfig]
    actions: tuple[Action, ...] = ()
    changes: tuple[LinkChange, ...] = ()
    sharing: Sharing = Sharing.FAIR
    measured_step_ns: Nanos | None = None


class Timeline(Protocol):
    """The states of the network over a run."""

    def view(self, number: int) -> NetworkView:
        """State 0 is that of the start."""


@dataclass(slots=True)
class _Merging:
    """A merged model whose evaluation is under way."""

    merged: Merged
    nodes: int
    ticket: Ticket
    due: Nanos


class World:
    """See the module. Nothing happens before `begin`.

    Attributes:
        hosts: the newest life of each node that has had one.
    """

    TRANSIENT: ClassVar[tuple[str, ...]] = ("records", "timeline", "trainers", "view")
    """What a checkpoint leaves out: see `attach`."""

    def __init__(
        self, setting: Setting, *, timeline: Timeline, trainers: Trainers, records: Records
    ) -> None:
        self.setting = setting
        self.timeline, self.trainers, self.records = timeline, trainers, records
        self.queue = EventQueue()
        self._state = 0
        self.view = timeline.view(0)
        config = setting.coordinator
        self.network = Network(
            queue=self.queue,
            view=self.view,
            members=config.members,
            sharing=setting.sharing,
            seed=config.seed,
            message_bytes=config.training.message_bytes,
            model_bytes=4 * trainers.layout.size,
        )
        self.lines = {name: Line(self, name) for name in config.members}
        self.hosts: dict[NodeId, NodeHost] = {}
        self.coordinator = CoordinatorHost(self, config)
        self._halted = False
        self._stopped: set[NodeId] = set()
        """Who was stopped on purpose."""
        self._evaluations = 0
        """Since the models were merged last."""
        self._merge_at: tuple[int, Nanos] = (0, 0)
        """Merge again after so many evaluations, and not before this time."""
        self._merging: dict[int, _Merging] = {}
        self._numbers = 0

    @property
    def coordinator_config(self) -> CoordinatorConfig:
        return self.setting.coordinator

    @property
    def measured_step_ns(self) -> Nanos | None:
        return self.setting.measured_step_ns

    @property
    def now(self) -> Nanos:
        return self.queue.now

    # --- running

    def begin(self) -> None:
        """The coordinator and all but the standby nodes come to life."""
        self.coordinator.start()
        for name in self.setting.nodes:
            if name not in self.setting.coordinator.standby:
                self._start(name)
        self.queue.after(_BYTES_NS, self._tick)
        config = self.setting.coordinator
        limit = _limit_ns(config.deadlines, config.stop.time_ns, config.rounds)
        self.queue.at(limit, self._hangs, limit)

    def run(self, *, until: Nanos | None = None, events: int | None = None) -> None:
        """Go on until the run is over, or one of the bounds is met; always between two events.

        Args:
            until: virtual time.
            events: so many at most, and a little more.

        Raises:
            RunFailed: the run does not come to an end.
        """
        left = events
        while not self.over and (left is None or left > 0):
            made = self.queue.run(until=until, limit=min(_SLICE, _SLICE if left is None else left))
            left = None if left is None else left - made
            if made == 0:
                if until is None:
                    raise RunFailed("the run hangs: nothing is left to happen, and it is not over")
                return

    @property
    def over(self) -> bool:
        """The coordinator has ended, and so have the nodes, or they had the time to."""
        if self._halted or self.coordinator.ended_at is None:
            return self._halted
        return all(host.gone or host.asleep is not None for host in self.hosts.values())

    def coordinator_ended(self) -> None:
        """Nodes that live have as long as in containers, to the nanosecond: what one of them
        records must not hang on when somebody looks."""
        self.queue.after(self.setting.coordinator.deadlines.stop_ns, self._halt)

    def _halt(self) -> None:
        self._halted = True
        self.queue.clear()

    def _hangs(self, limit: Nanos) -> None:
        after = format_duration(limit)
        raise RunFailed(f"the run hangs: not over after {after}, all deadlines included")

    def attach(self, *, timeline: Timeline, trainers: Trainers, records: Records) -> None:
        """Put back what a checkpoint has left out; work that was under way is handed in again."""
        self.timeline, self.trainers, self.records = timeline, trainers, records
        self.view = timeline.view(self._state)
        self.network.attach(self.view)
        for host in self.hosts.values():
            host.jobs.again()
        for merging in self._merging.values():
            merging.ticket = self._evaluate(merging.merged, merging.due)

    # --- what happens by plan

    def run_began(self, at: Nanos) -> None:
        """The run clock stands at 0 at this time: lay out what is planned on it."""
        for number, change in enumerate(self.setting.changes, start=1):
            self.queue.at(at + change.at_ns, self._change, number, change)
        for number, action in enumerate(self.setting.actions, start=1):
            due = at + action.at_ns
            self.queue.at(max(self.now, due - AHEAD_NS), self._order, number, action)
            self.queue.at(due, self._act, number, action)

    def _change(self, number: int, change: LinkChange) -> None:
        """The network is another from now on."""
        if self.coordinator.ended_at is not None:
            return
        before, self.view, self._state = self.view, self.timeline.view(number), number
        self.network.change(self.view)
        for host in self.hosts.values():
            if host.gone or host.began is None:
                continue
            applied = _changed(before, self.view, host.config)
            host.record(
                "link",
                {
                    "at": change.at_ns / SECOND,
                    "late_ms": 0.0,
                    "what": list(change.what),
                    "applied": applied,
                    "error": None,
                },
            )

    def _order(self, number: int, action: Action) -> None:
        self._stopped.discard(action.node)
        if action.verb in _STOPS:
            self._stopped.add(action.node)
        self.coordinator.feed(
            NodeOrdered(number=number, node=action.node, verb=action.verb, what=action.what)
        )

    def _act(self, number: int, action: Action) -> None:
        if self.coordinator.ended_at is not None:
            return
        error = self._do(action)
        began = self.coordinator.began
        at_s = action.at_ns / SECOND
        fields = {
            "number": number,
            "member": action.node,
            "verb": action.verb,
            "by": "plan",
            "what": [action.what],
            "asked": at_s,
            "begun": at_s,
            "error": error,
        }
        self.records.write(DEPLOY, "control", fields, now=self.now, began=began)

    def _do(self, action: Action) -> str | None:
        """Do something to a node; returns why it cannot be done."""
        name, verb = action.node, action.verb
        host = self.hosts.get(name)
        alive = host is not None and not host.gone
        if verb in ("join", "return"):
            if alive:
                return f"cannot {verb}: it runs"
            self._start(name)
        elif verb == "restart":
            if host is not None:
                self._wake(host)
                host.crash()
            self._start(name)
        elif host is None or not alive:
            return f"cannot {verb}: its process has ended"
        elif verb == "pause":
            host.sleep()
            self.network.freeze(name)
        else:
            self._wake(host)
            if verb == "leave":
                host.leave()
            elif verb == "crash":
                host.crash()
        return None

    def _wake(self, host: NodeHost) -> None:
        if host.asleep is not None:
            self.network.thaw(host.name)
            host.wake()

    def _start(self, name: NodeId) -> None:
        """A new life of a node, which is there at once."""
        old = self.hosts.get(name)
        host = NodeHost(
            self, self.setting.nodes[name], incarnation=1 if old is None else old.incarnation + 1
        )
        self.hosts[name] = host
        host.start(former_start=None if old is None else old.began)

    def _tick(self) -> None:
        if self.coordinator.ended_at is not None:
            return
        for host in self.hosts.values():
            if not host.gone:
                host.tick()
        self.coordinator.flush_refusals()
        self.queue.after(max(_BYTES_NS, self.now // _RESOLUTION), self._tick)

    # --- the mean of all models

    def evaluated(self) -> None:
        """A node's model was evaluated; when all have been once more, their mean is, too."""
        self._evaluations += 1
        count, earliest = self._merge_at
        if self._evaluations < count or self.now < earliest:
            return
        models = [host.machine.parameters for host in self.hosts.values() if host.takes_part]
        pause = max(_MERGE_NS, self.now // _RESOLUTION)
        self._evaluations, self._merge_at = 0, (len(models), self.now + pause)
        due = self.now + EVALUATION_NS
        merged = merge(models)
        self._numbers += 1
        self._merging[self._numbers] = _Merging(
            merged=merged, nodes=len(models), ticket=self._evaluate(merged, due), due=due
        )
        self.queue.at(due, self._merged, self._numbers)

    def _evaluate(self, merged: Merged, due: Nanos) -> Ticket:
        return self.trainers.evaluate(None, parameters=merged.parameters, due=due)

    def _merged(self, number: int) -> None:
        merging = self._merging.pop(number)
        if self.coordinator.ended_at is not None:
            self.trainers.give_up(merging.ticket)
            return
        accuracy, loss = self.trainers.evaluated(merging.ticket)
        fields: dict[str, Value] = {
            "nodes": merging.nodes,
            "distance": merging.merged.distance,
            "accuracy": accuracy,
            "loss": loss,
        }
        self.coordinator.record("consensus", fields)

    def run_ended(self) -> None:
        """Record what the mean of all final models is worth, as the coordinator's process does."""
        working = [name for name in self.setting.nodes if name not in self._stopped]
        came = {name: self.hosts[name] for name in working if name in self.hosts}
        finals = {name: host.final for name, host in came.items()}
        models = {name: model for name, model in finals.items() if model is not None}
        if not models:
            return
        merged = merge(list(models.values()))
        try:
            accuracy, loss = self.trainers.evaluated(self._evaluate(merged, self.now))
        except PeerbedError as error:
            text = f"the merged model could not be evaluated: {error}"
            self.coordinator.record("warning", {"message": text})
            return
        fields: dict[str, Value] = {
            "accuracy": accuracy,
            "loss": loss,
            "distance": merged.distance,
            "models": len(models),
        }
        if missing := [name for name in came if name not in models]:
            fields["missing"] = list(missing)
        self.coordinator.record("merged", fields)


def _changed(before: NetworkView, after: NetworkView, config: NodeConfig) -> dict[str, Value]:
    """What has become of a node's paths to and from its neighbours, where it is different."""
    found: dict[str, Value] = {}
    for peer in config.neighbours:
        ends = ((config.name, peer), (peer, config.name))
        now = [after.path(*pair) for pair in ends]
        if now != [before.path(*pair) for pair in ends]:
            found[peer] = {"out": _asked(now[0]), "into": _asked(now[1])}
    return found


def _asked(path: Path | None) -> Value:
    return None if path is None else asked_json(path.spec)


def _limit_ns(deadlines: Deadlines, time_ns: Nanos, rounds: RoundsConfig | None) -> Nanos:
    """Within which every run is over: the sum of all that it may wait for."""
    barrier = 0
    if rounds is not None:
        attempts = 1 + rounds.max_connection_retry
        barrier = rounds.gather_ns + attempts * rounds.connection_timeout_ns
    waits = (deadlines.join_ns, deadlines.ready_ns, deadlines.stop_ns, time_ns, barrier)
    return sum(waits) + _MARGIN_NS
