"""The processes of a simulated run: a node (member and peer machine), and the coordinator.

They perform effects as `node.runtime` does, at virtual cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from node.algorithms import make
from node.config import Mode
from node.core.algorithm import Algorithm
from node.core.coordinator import Coordinator
from node.core.effects import (
    AdoptModel,
    BeginRun,
    CancelTimer,
    ConnectEdges,
    DropFromShare,
    DropQueued,
    Effect,
    EndRun,
    Evaluate,
    Finish,
    KeepConnected,
    Machine,
    Offer,
    OpenShare,
    PrepareRun,
    ProbeLinks,
    Record,
    ReplanLinks,
    Send,
    SetTimer,
    ShareOver,
    SitOut,
    SkipShare,
    StoreLinks,
    TakeSnapshot,
    Train,
)
from node.core.events import (
    Evaluated,
    Event,
    Exchanged,
    Failed,
    LinksProbed,
    ModelAdopted,
    ModelSnapshot,
    Offered,
    PeerChanged,
    PeerDropped,
    Prepared,
    Progress,
    Received,
    RunEnded,
    SendFailed,
    Sent,
    ShareOpened,
    ShareSkipped,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.ids import COORDINATOR, NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import KINDS, PREFIX
from node.core.parts import Vector, frozen
from node.core.peer import Peer
from node.core.signals import LinkReading
from node.units import MILLISECOND, SECOND, Nanos
from tests.simulation.machines import make_member, make_peer
from tests.simulation.mesh import Mesh
from tests.simulation.tiny import LAYOUT, Tiny

if TYPE_CHECKING:
    from tests.simulation.world import World


class Driver:
    """One machine: one event at a time, its effects in order, its timers; as `runtime.drive`.

    Args:
        kind: `coordinator`, `member` or `peer`.
        offset: what the machine's clock is behind the simulation's.
    """

    __slots__ = (
        "_driving", "_events", "_timers", "host", "kind", "machine", "offset", "perform", "world",
    )  # fmt: skip

    def __init__(
        self,
        world: World,
        host: Node | CoordinatorHost,
        kind: str,
        machine: Machine,
        perform: Callable[[Effect], None],
        *,
        offset: Nanos = 0,
    ) -> None:
        self.world = world
        self.host = host
        self.kind = kind
        self.machine = machine
        self.perform = perform
        self.offset = offset
        self._events: deque[Event] = deque()
        self._timers: dict[str, int] = {}
        self._driving = False

    def feed(self, event: Event) -> None:
        host = self.host
        if host.gone:
            return
        if host.asleep is not None:
            host.asleep.append(lambda: self.feed(event))
            return
        self._events.append(event)
        if self._driving:
            return
        self._driving = True
        try:
            while self._events and not host.gone:
                self._step(self._events.popleft())
        finally:
            self._driving = False

    def _step(self, event: Event) -> None:
        world = self.world
        before = world.watch.before(self)
        effects = self.machine.step(event, now=world.now - self.offset)
        world.watch.after(self, event, effects, before)
        for effect in effects:
            if isinstance(effect, SetTimer):
                number = self._timers[effect.key] = world.next_number()
                at = max(world.now, effect.at + self.offset)
                world.call_at(at, self._fire, effect.key, number)
            elif isinstance(effect, CancelTimer):
                self._timers.pop(effect.key, None)
            else:
                self.perform(effect)

    def _fire(self, key: str, number: int) -> None:
        if self._timers.get(key) == number and not self.host.gone:
            del self._timers[key]
            self.feed(TimerFired(key=key))


class Process:
    """What both kinds of process are: alive, hanging or gone.

    Args:
        asleep: what happened to it while it was paused, in order; None: it runs.
    """

    def __init__(self, world: World, name: NodeId) -> None:
        self.world = world
        self.name = name
        self.gone = False
        self.asleep: list[Callable[[], None]] | None = None
        self.finish: Finish | None = None
        self.finished_at: Nanos | None = None
        self.records: list[Record] = []

    def wake(self) -> None:
        missed, self.asleep = self.asleep or [], None
        for call in missed:
            if self.asleep is None:
                call()
            else:
                self.asleep.append(call)


class CoordinatorHost(Process):
    """One life of the coordinator."""

    def __init__(self, world: World, machine: Coordinator) -> None:
        super().__init__(world, COORDINATOR)
        self.machine = machine
        self.driver = Driver(world, self, "coordinator", machine, self._perform)

    @property
    def alive(self) -> bool:
        return not self.gone

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(target=target, message=message):
                assert not isinstance(message, PeerMessage)
                line = self.world.lines.get(target)
                if line is not None:
                    line.from_coordinator(message)
            case Record():
                self.records.append(effect)
                self.world.coordinator_records.append((self.world.now, effect))
            case StoreLinks():
                pass
            case Finish():
                self.finish, self.finished_at = effect, self.world.now
                self.gone = True
                for line in self.world.lines.values():
                    self.world.after(line.down.busy_until + 1 - self.world.now, line.break_)
            case _:
                raise AssertionError(f"unexpected effect of a coordinator: {effect}")


class Node(Process):
    """One life of a node; follows `node.runtime.node_runner` and `local_run`."""

    def __init__(self, world: World, name: NodeId, *, incarnation: int) -> None:
        super().__init__(world, name)
        self.incarnation = incarnation
        plan = world.plan
        self.neighbours = world.neighbours[name]
        self.mesh = Mesh(world, self)
        offset = world.between(-1000 * SECOND, 500 * SECOND)
        self.member = Driver(
            world, self, "member", make_member(plan), self._from_member, offset=offset
        )
        self.algorithm = _algorithm(world)
        # Every life begins with the same model: it comes from the run's seed.
        initial = frozen(np.zeros(LAYOUT.size, np.float32))
        self.machine: Peer = make_peer(plan, name, self.neighbours, self.algorithm, initial)
        self.peer = Driver(world, self, "peer", self.machine, self._from_peer)
        self.began_at: Nanos | None = None
        self.playing = False
        self.slow_ns: Nanos = 0
        """What the next training takes longer."""
        self._progress: Progress | None = None
        self._over = False
        self._outside = False

    def tell(self, event: Event) -> None:
        """To the member machine."""
        self.member.feed(event)

    def from_mesh(self, event: Event) -> None:
        match event:
            case PeerChanged(peer=about):
                self.member.feed(event)
            case Received(sender=about, message=message):
                if isinstance(message, PeerMessage) and message.kind in KINDS:
                    self.member.feed(event)
                    return
            case Sent(target=about, key=key) | SendFailed(target=about, key=key):
                if key.startswith(PREFIX):
                    return  # the newcomer asks again by itself
            case _:
                raise AssertionError(f"the mesh says {event}")
        if about in self.neighbours and not self._outside:
            self._feed(event)

    def _feed(self, event: Event) -> None:
        self.peer.feed(event)
        self._report()

    def _from_member(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Send(message=message):
                if isinstance(message, PeerMessage):
                    self.mesh.send(effect)
                else:
                    world.lines[self.name].from_member(message)
            case Record():
                self.records.append(effect)
            case ConnectEdges():
                self.mesh.connect_edges(effect)
            case KeepConnected(peer=peer):
                self.mesh.want((peer,))
            case OpenShare(round=round_, attempt=attempt, peers=peers):
                self._feed(ShareOpened(round=round_, attempt=attempt, peers=peers))
            case SkipShare(round=round_):
                self._feed(ShareSkipped(round=round_))
            case DropFromShare(round=round_, peer=peer):
                self._feed(PeerDropped(round=round_, peer=peer))
            case AdoptModel(round=round_, parameters=parameters):
                self._feed(ModelAdopted(round=round_, parameters=parameters))
            case TakeSnapshot(sync=sync):
                held, model = self.machine.aggregated
                self.tell(ModelSnapshot(sync=sync, held=held, parameters=model))
            case ProbeLinks():
                self._probe(effect)
            case PrepareRun():
                world.after(
                    world.between(MILLISECOND, SECOND), self.tell, Prepared(size=LAYOUT.size)
                )
            case BeginRun(at_wall_ns=at):
                self._set_clock(at)
                self._outside = False
                world.after(max(0, at - world.now), self._begin)
            case SitOut(at_wall_ns=at):
                self._set_clock(at)
                self._outside = True
            case ReplanLinks():
                pass
            case EndRun(reason=reason):
                self._end(reason)
            case Finish():
                self._gone(effect)
            case _:
                raise AssertionError(f"unexpected effect of a member: {effect}")

    def _from_peer(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Send():
                self.mesh.send(effect)
            case DropQueued():
                self.mesh.drop(effect)
            case Train(job=job, parameters=parameters):
                took = world.training_ns() + self.slow_ns
                self.slow_ns = 0
                world.after(took, self._trained, job, parameters)
            case Evaluate(round=round_):
                done = Evaluated(round=round_, accuracy=0.5, loss=1.0)
                world.after(MILLISECOND, self._feed, done)
            case Record():
                self.records.append(effect)
            case Offer(round=round_):
                self.tell(Offered(round=round_))
            case ShareOver(round=round_, attempt=attempt, missing=missing):
                self.tell(Exchanged(round=round_, attempt=attempt, missing=missing))
            case Finish(reason=reason, error=error):
                if not self._over:
                    self._over = True
                    if error is not None:
                        self.tell(Failed(reason=error))
                    self.tell(RunEnded(reason=reason, round=self.machine.round))
            case _:
                raise AssertionError(f"unexpected effect of a peer: {effect}")

    def _set_clock(self, at: Nanos) -> None:
        if self.began_at is None:
            self.began_at = self.peer.offset = at

    def _begin(self) -> None:
        if not self._over and not self.gone:
            self.playing = True
            self._feed(Started())

    def _trained(self, job: int, parameters: Vector) -> None:
        if self.gone:
            return
        model = frozen(parameters + np.float32(self.world.noise()))
        self._feed(Trained(job=job, parameters=model, loss=1.0, steps=1))

    def _probe(self, order: ProbeLinks) -> None:
        readings = tuple(
            LinkReading(source=self.name, target=target, rtt_ns=1, goodput_bps=1.0)
            for target in order.targets
        )
        done = LinksProbed(attempt=order.attempt, readings=readings)
        self.world.after(self.world.between(MILLISECOND, 300 * MILLISECOND), self.tell, done)

    def _end(self, reason: str) -> None:
        if self._over:
            self.tell(RunEnded(reason=reason, round=self.machine.round))
        else:
            self._feed(StopRequested(reason=reason))

    def _gone(self, finish: Finish) -> None:
        self.finish, self.finished_at = finish, self.world.now
        self.gone = True
        self.world.lines[self.name].close()
        self.world.break_wires(self.name)

    def _report(self) -> None:
        """As `LocalRun`: tell how far the run is, where that is news."""
        if self._outside:
            return
        old, machine = self._progress, self.machine
        if old is None or old.round != machine.round or old.phase != machine.phase.value:
            self._progress = Progress(
                phase=machine.phase.value,
                round=machine.round,
                accuracy=0.5,
                loss=1.0,
                model_bytes=0,
            )
            self.tell(self._progress)


def _algorithm(world: World) -> Algorithm:
    """The plan's algorithm, with `Watch.exchanged` in between."""
    plan = world.plan
    algorithm: Algorithm
    match plan.algorithm:
        case "tiny":
            algorithm = Tiny(Tiny.Config(mode=plan.mode))
        case "divshare":
            algorithm = make("divshare", {"omega": 0.5, "degree": 1, "local_steps": 1})
        case name:
            assert plan.mode is Mode.SYNC
            algorithm = make(name, {"local_steps": 1})
    within: Any = algorithm.on_exchanged

    def on_exchanged(ctx: Any, received: Any, peers: Any) -> None:
        world.watch.exchanged(ctx.me, ctx.round, received, peers)
        within(ctx, received, peers)

    algorithm.on_exchanged = on_exchanged  # type: ignore[method-assign]
    return algorithm
