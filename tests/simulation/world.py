"""Coordinator, members and peers of one run on virtual time, deterministic from one seed.

`World(plan).run()` plays a plan (`tests.simulation.draw`) to its end; `tests.simulation.invariants`
watches every step. Race tests make a world of a plan without faults and drive it by hand.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from node.config import LinkChange, Replan, to_json
from node.core.coordinator import Phase
from node.core.effects import Record
from node.core.events import LinksOrdered, NodeOrdered, Resumed, Started, StopRequested
from node.core.ids import NodeId
from node.runtime.former_life import from_records
from node.units import SECOND, Nanos
from tests.simulation.draw import Fault, Kind, Plan
from tests.simulation.hosts import CoordinatorHost, Node
from tests.simulation.invariants import Watch
from tests.simulation.machines import make_coordinator
from tests.simulation.net import Lane, Line, Wire

EPOCH: Nanos = 2_000 * SECOND
"""The simulation's clock begins here; it is the coordinator's Unix time, too."""
_ARRIVE = Lane.arrive


class World:
    """See the module. Nothing happens before `begin`."""

    def __init__(self, plan: Plan, *, trace: bool = False) -> None:
        self.plan = plan
        self.net_rng = Random(f"{plan.seed}/net")
        self._noise = Random(f"{plan.seed}/noise")
        self._training = Random(f"{plan.seed}/training")
        self.now: Nanos = EPOCH
        self._queue: list[tuple[Nanos, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.steps = 0
        self.quiet_at = EPOCH + round(plan.quiet_s * SECOND)
        self.counts: Counter[str] = Counter()
        self.pool: list[tuple[Lane, int, Any]] | None = None
        """Messages that a race test delivers by hand; None: they arrive in time."""
        self.neighbours: dict[NodeId, tuple[NodeId, ...]] = {
            name: tuple(sorted({n for pair in plan.overlay if name in pair for n in pair} - {name}))
            for name in plan.names
        }
        self.blocked: Counter[tuple[NodeId, NodeId]] = Counter()
        """Ordered pairs between which nothing gets through."""
        self.no_path: set[tuple[NodeId, NodeId]] = set()
        """Of them, those whose nodes know it from their own link plan."""
        self.cut_number: dict[tuple[NodeId, ...], int] = {}
        self.ill: dict[NodeId, Nanos] = {}
        """Nodes that something went wrong with, and until when that may show."""
        self.excused: set[NodeId] = set()
        """Healthy ones that may be expelled: either end explains their failed edge."""
        self.off_line: dict[NodeId, Nanos] = {}
        """Likewise, where only the stream to the coordinator was concerned."""
        self.watch = Watch(self, trace=trace)
        self.lines: dict[NodeId, Line] = {name: Line(self, name) for name in plan.names}
        self._wires: dict[tuple[NodeId, NodeId], Wire] = {}
        self.nodes: dict[NodeId, Node] = {}
        """The present life of each, which may be over."""
        self.lives: list[Node] = []
        self.coordinator_records: list[tuple[Nanos, Record]] = []
        self.coordinator = CoordinatorHost(self, make_coordinator(plan))
        self._orders = 0

    # --- time

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def call_at(self, at: Nanos, call: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._queue, (at, self._number, call, args))

    def after(self, delay: Nanos, call: Callable[..., None], *args: Any) -> None:
        self.call_at(self.now + delay, call, *args)

    def deliver_at(self, at: Nanos, lane: Lane, item: Any) -> None:
        if self.pool is not None:
            self.pool.append((lane, lane.epoch, item))
        else:
            self.call_at(at, lane.arrive, lane.epoch, item)

    def freeze(self) -> None:
        """From now on messages, also those under way, wait to be delivered by hand."""
        under_way = [
            entry for entry in self._queue if getattr(entry[2], "__func__", None) is _ARRIVE
        ]
        self._queue = [entry for entry in self._queue if entry not in under_way]
        heapq.heapify(self._queue)
        self.pool = []
        for _, _, call, (epoch, item) in sorted(under_way, key=lambda entry: entry[:2]):
            self.pool.append((call.__self__, epoch, item))  # type: ignore[attr-defined]

    @property
    def faulty(self) -> bool:
        return self.now < self.quiet_at

    def between(self, low: Nanos, high: Nanos) -> Nanos:
        return low + int(self.net_rng.random() * (high - low))

    def delay(self) -> Nanos:
        return self.between(*self.plan.delay_ns)

    def training_ns(self) -> Nanos:
        return round(self._training.uniform(*self.plan.train_s) * SECOND)

    def noise(self) -> float:
        return self._noise.uniform(-1, 1)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    # --- running

    def begin(self) -> None:
        """The coordinator and all but the standby members come to life; faults are laid out."""
        self.coordinator.driver.feed(Started())
        for name in self.plan.names:
            if name not in self.plan.standby:
                self.after(self.between(0, SECOND), self.start_node, name)
        for fault in self.plan.faults:
            self.call_at(EPOCH + round(fault.at_s * SECOND), self.strike, fault)

    def run(self) -> None:
        """Play the plan to its end. Raises Violation."""
        self.begin()
        limit = self.watch.limit
        while not self.over:
            if not self._queue:
                self.watch.stuck("nothing is left to happen")
            self.advance()
            if self.now > limit:
                self.watch.stuck("the run takes longer than it may")
        self.watch.ended()

    def advance(self) -> None:
        """The next thing that happens."""
        at, _, call, args = heapq.heappop(self._queue)
        self.now = at
        call(*args)
        self.steps += 1

    def run_until(self, condition: Callable[[], bool], *, limit_s: float) -> None:
        """Until `condition` holds. Raises Violation where it does not, in so many seconds."""
        limit = self.now + round(limit_s * SECOND)
        while not condition():
            if not self._queue or self._queue[0][0] > limit:
                self.watch.stuck(f"what the scenario waits for did not happen in {limit_s:g} s")
            self.advance()

    def run_for(self, seconds: float) -> None:
        until = self.now + round(seconds * SECOND)
        while self._queue and self._queue[0][0] <= until:
            self.advance()
        self.now = until

    @property
    def next_at(self) -> Nanos | None:
        return self._queue[0][0] if self._queue else None

    @property
    def over(self) -> bool:
        """The coordinator has ended, and so has everyone whom it knew."""
        if self.coordinator.finish is None:
            return False
        return all(node.gone or not self.watch.joined(node) for node in self.nodes.values())

    @property
    def phase(self) -> Phase:
        return self.coordinator.machine.phase

    # --- the parts

    def wire(self, one: NodeId, two: NodeId) -> Wire:
        pair = (one, two) if one < two else (two, one)
        found = self._wires.get(pair)
        if found is None:
            found = self._wires[pair] = Wire(self, *pair)
        return found

    def wires_of(self, name: NodeId) -> list[Wire]:
        return [wire for wire in self._wires.values() if name in wire.ends]

    def break_wires(self, name: NodeId) -> None:
        for wire in self.wires_of(name):
            wire.break_()

    def start_node(self, name: NodeId) -> None:
        """A new life of a node."""
        if self.coordinator.finish is not None:
            return
        old = self.nodes.get(name)
        node = Node(self, name, incarnation=1 if old is None else old.incarnation + 1)
        self.nodes[name] = node
        self.lives.append(node)
        self.lines[name].open(node)
        node.member.feed(Started())
        for wire in self.wires_of(name):
            wire.dial()

    # --- what goes wrong

    def sicken(self, who: tuple[NodeId, ...], for_s: float, *, line: bool = False) -> None:
        """Something goes wrong with these for so long: what comes of it may show for longer."""
        until = self.now + round(for_s * SECOND) + self.watch.grace
        book = self.off_line if line else self.ill
        for name in who:
            book[name] = max(until, book.get(name, 0))

    def order(self, verb: str, name: NodeId) -> None:
        self._orders += 1
        what = f"{verb} {name}"
        self.coordinator.driver.feed(
            NodeOrdered(number=self._orders, node=name, verb=verb, what=what)
        )

    def order_links(self) -> None:
        self._orders += 1
        plan = to_json(Replan(at_ns=0, changes=(LinkChange(at_ns=0, what=("links",)),)))
        plans = dict.fromkeys(self.plan.names, plan)
        order = LinksOrdered(number=self._orders, at_ns=0, plans=plans, what=("links",))
        self.coordinator.driver.feed(order)

    def strike(self, fault: Fault) -> None:
        """One fault begins."""
        alive = [name for name in fault.who if name in self.nodes and not self.nodes[name].gone]
        if self.coordinator.finish is not None:
            return
        if len(alive) < len(fault.who) and fault.kind is not Kind.JOIN:
            return  # it has left, or was expelled
        self.count(str(fault.kind))
        lasts = round(fault.for_s * SECOND)
        match fault.kind:
            case Kind.JOIN:
                self.sicken(fault.who, 0)
                self.order("join", fault.who[0])
                self.start_node(fault.who[0])
            case Kind.LINE:
                self.sicken(fault.who, fault.for_s, line=True)
                line = self.lines[fault.who[0]]
                line.blocked = True
                line.break_()
                self.after(lasts, line.unblock)
            case Kind.STREAM:
                self.sicken(fault.who, 0)
                self.wire(*fault.who).break_()
            case Kind.CUT | Kind.PART | Kind.ISOLATE:
                self._cut(fault, lasts)
            case Kind.COORDINATOR:
                self.sicken(self.plan.names, fault.for_s, line=True)
                self.crash_coordinator()
                self.after(lasts, self.restart_coordinator)
            case Kind.LINKS:
                self.order_links()
            case Kind.DEAF:
                self.sicken(fault.who, fault.for_s)
                self.nodes[fault.who[0]].mesh.deaf_until = self.now + lasts
            case Kind.SLOW:
                self.nodes[fault.who[0]].slow_ns += lasts
            case _:
                self._strike_node(fault, lasts)

    def _cut(self, fault: Fault, lasts: Nanos) -> None:
        self.sicken(fault.who, fault.for_s)
        first = fault.who[0]
        match fault.kind:
            case Kind.ISOLATE:
                others = [name for name in self.plan.names if name != first]
                pairs = [p for name in others for p in ((first, name), (name, first))]
            case Kind.PART:
                pairs = [fault.who[:2], fault.who[1::-1]]  # type: ignore[list-item]
            case _:
                pairs = [fault.who[:2]]  # type: ignore[list-item]
        self.cut(pairs, known=fault.ordered)
        self.after(lasts, self.heal, pairs)

    def cut(self, pairs: list[tuple[NodeId, NodeId]], *, known: bool = False) -> None:
        """Nothing gets through between these ordered pairs; `known`: their nodes' plan says so."""
        for pair in pairs:
            self.blocked[pair] += 1
            if known:
                self.no_path |= {pair, pair[::-1]}
            wire = self.wire(*pair)
            number = self.cut_number[wire.ends] = self.next_number()
            self.after(self.plan.deadlines.peer_ns, wire.give_up, number)

    def heal(self, pairs: list[tuple[NodeId, NodeId]]) -> None:
        for pair in pairs:
            self.blocked[pair] -= 1
            if self.blocked[pair] <= 0:
                del self.blocked[pair]
            if pair not in self.blocked and pair[::-1] not in self.blocked:
                self.no_path -= {pair, pair[::-1]}
        for pair in pairs:
            self.wire(*pair).release()

    def _strike_node(self, fault: Fault, lasts: Nanos) -> None:
        name = fault.who[0]
        node = self.nodes[name]
        self.sicken((name,), fault.for_s)
        if fault.ordered:
            self.order(str(fault.kind), name)
        match fault.kind:
            case Kind.PAUSE:
                node.asleep = []
                self.after(lasts, self.resume, node, fault.ordered)
            case Kind.LEAVE:
                node.tell(StopRequested(reason="leave"))
            case Kind.CRASH | Kind.RESTART:
                self.crash(name)
                if fault.kind is Kind.RESTART:
                    self.after(lasts, self.start_node, name)
            case _:
                raise AssertionError(fault.kind)

    def resume(self, node: Node, ordered: bool) -> None:
        if ordered and not node.gone:
            self.order("resume", node.name)
        node.wake()

    def crash(self, name: NodeId) -> None:
        node = self.nodes[name]
        node.gone, node.asleep = True, None
        self.lines[name].break_()
        self.break_wires(name)

    def crash_coordinator(self) -> None:
        self.coordinator.gone = True
        for line in self.lines.values():
            line.coordinator_died()

    def restart_coordinator(self) -> None:
        """A new one reads the records of those before it, as `coordinator_runner` does."""
        self.coordinator = CoordinatorHost(self, make_coordinator(self.plan))
        self.watch.new_coordinator()
        records = [{**r.fields, "kind": r.kind} for _, r in self.coordinator_records]
        former = from_records(records)
        if former is None:
            self.coordinator.driver.feed(Started())
            return
        resumed = Resumed(began_wall_ns=former.began_wall_ns, absent=former.absent)
        self.coordinator.driver.feed(resumed)
