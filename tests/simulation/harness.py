"""Coordinator and members of a run without rounds on virtual time: deterministic from one seed.

Messages between a member and the coordinator keep their order (one stream each) and take a random
time; members crash, hang and reconnect when the script says so. The harness performs effects as the
runtime does, at virtual cost, and checks what must hold at every step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from node.config import (
    CoordinatorConfig,
    Deadlines,
    ExpectedPair,
    LinkPolicy,
    PathSpec,
    Replan,
    StopConfig,
    TrainingConfig,
)
from node.core.coordinator import Coordinator, Phase
from node.core.effects import (
    BeginRun,
    CancelTimer,
    Effect,
    EndRun,
    Finish,
    Machine,
    PrepareRun,
    ProbeLinks,
    Record,
    ReplanLinks,
    Send,
    SetTimer,
    SitOut,
    StoreLinks,
)
from node.core.events import (
    Event,
    LinksOrdered,
    LinksProbed,
    NodeOrdered,
    PeerChange,
    PeerChanged,
    Prepared,
    Progress,
    Received,
    RunEnded,
    Started,
    TimerFired,
)
from node.core.ids import COORDINATOR, NodeId
from node.core.measuring import ProbeSlot, Probing
from node.core.member import Member
from node.core.rng import stream
from node.core.signals import Hello, LinkReading
from node.units import MILLISECOND, SECOND, Nanos

DEADLINES = Deadlines()


@dataclass
class Host:
    """One process: a machine, its timers, and whether it is alive."""

    name: NodeId
    machine: Machine
    alive: bool = True
    timers: dict[str, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    finish: Finish | None = None
    finished_at: Nanos | None = None
    began_at: Nanos | None = None
    ending: bool = False
    idle_since: Nanos | None = None
    plans: list[Replan] = field(default_factory=list)
    asleep: list[Event] | None = None
    """What happened to it while it was paused; None: it runs."""
    deaf_until: Nanos = 0
    """What the coordinator sent before, and has not arrived when the stream breaks, is lost."""
    reborn: bool = False


class World:
    """The run. `train_s` is how long each member's local run takes; None never ends by itself."""

    def __init__(
        self,
        *,
        seed: int,
        members: int,
        policy: LinkPolicy = LinkPolicy.WARN,
        stop: StopConfig | None = None,
        judge: Callable[[ExpectedPair, LinkReading], bool] = lambda _pair, _reading: True,
        accuracy: Callable[[Nanos], float | None] = lambda _: None,
    ) -> None:
        self.rng = stream(seed, "world")
        self.now: Nanos = 1_000 * SECOND
        self._queue: list[tuple[Nanos, int, Callable[[], None]]] = []
        self._count = 0
        self._arrivals: dict[tuple[NodeId, NodeId], Nanos] = {}
        self.names = tuple(NodeId(f"n-{i}") for i in range(members))
        self.train_s: dict[NodeId, float | None] = dict.fromkeys(self.names, 5.0)
        self.prepare_error: dict[NodeId, str] = {}
        self.accuracy = accuracy
        self.links: StoreLinks | None = None
        self.probed: list[ProbeLinks] = []
        stop = stop or StopConfig(time_ns=30 * SECOND)
        pairs = tuple(
            ExpectedPair(source=a, target=b, out=PathSpec(), back=PathSpec())
            for a in self.names
            for b in self.names
            if a != b
        )
        config = CoordinatorConfig(
            session="s",
            members=self.names,
            seed=seed,
            host="-",
            port=1,
            policy=policy,
            pairs=pairs,
            candidates=len(pairs),
            training=TrainingConfig(),
            stop=stop,
            rounds=None,
        )
        probing = Probing(schedule=_one_slot_a_pair, judge=judge)
        self.coordinator = Host(COORDINATOR, Coordinator(config=config, probing=probing))
        self.hosts: dict[NodeId, Host] = {COORDINATOR: self.coordinator}
        for name in self.names:
            hello = Hello(emulator="model", applied="{}")
            self.hosts[name] = Host(name, Member(hello=hello, deadlines=DEADLINES))
        self.feed(self.coordinator, Started())

    def join(self, name: NodeId, *, after_s: float = 0.0) -> None:
        self.after(after_s, lambda: self.feed(self.hosts[name], Started()))

    def join_all(self) -> None:
        for name in self.names:
            self.join(name, after_s=float(self.rng.uniform(0, 3)))

    def crash(self, name: NodeId, *, after_s: float) -> None:
        """The process dies; the other end of its stream notices a little later."""

        def die() -> None:
            self.hosts[name].alive = False
            self.after(0.05, lambda: self._stream(name, PeerChange.LOST))

        self.after(after_s, die)

    def hang(self, name: NodeId, *, after_s: float) -> None:
        """The process stops answering; its stream stays."""
        self.after(after_s, lambda: setattr(self.hosts[name], "alive", False))

    def restart(self, name: NodeId, *, after_s: float) -> None:
        """A new process in the place of the old one, which is dead from now on."""

        def begin() -> None:
            self.hosts[name].alive = False
            hello = Hello(emulator="model", applied="{}")
            self.hosts[name] = Host(name, Member(hello=hello, deadlines=DEADLINES), reborn=True)
            self.feed(self.hosts[name], Started())

        self.after(after_s, begin)

    def pause(self, name: NodeId, *, after_s: float, for_s: float) -> None:
        """The process stands still for a while, then sees all that it has missed."""

        def stop() -> None:
            self.hosts[name].asleep = []

        def go_on() -> None:
            missed, self.hosts[name].asleep = self.hosts[name].asleep or [], None
            for event in missed:
                self.feed(self.hosts[name], event)

        self.after(after_s, stop)
        self.after(after_s + for_s, go_on)

    def break_stream(self, name: NodeId, *, after_s: float, for_s: float) -> None:
        """A member's stream breaks, with what was on its way to it, and comes back."""

        def broken() -> None:
            self.hosts[name].deaf_until = self.now + round(for_s * SECOND)
            self._stream(name, PeerChange.LOST)
            lost = PeerChanged(peer=COORDINATOR, change=PeerChange.LOST)
            self.feed(self.hosts[name], lost)

        def back() -> None:
            self._stream(name, PeerChange.CONNECTED)
            again = PeerChanged(peer=COORDINATOR, change=PeerChange.CONNECTED)
            self.feed(self.hosts[name], again)

        self.after(after_s, broken)
        self.after(after_s + for_s, back)

    def order(self, order: LinksOrdered | NodeOrdered, *, after_s: float) -> None:
        """Somebody wants something of the run."""
        self.after(after_s, lambda: self.feed(self.coordinator, order))

    def controls(self) -> list[dict[str, Any]]:
        """What the coordinator has recorded of orders."""
        records = self.coordinator.records
        return [dict(record.fields) for record in records if record.kind == "control"]

    def run(self, *, limit_s: float) -> None:
        """Until nothing is left to happen, or AssertionError at the limit: somebody waits."""
        limit = self.now + round(limit_s * SECOND)
        while self._queue:
            at, _, action = heapq.heappop(self._queue)
            assert at >= self.now
            self.now = at
            action()
            self._check()
            living = [host for host in self.hosts.values() if host.alive]
            if all(host.finish is not None for host in living):
                return
            waiting = [host.name for host in living if host.finish is None]
            assert self.now <= limit, f"still waiting after {limit_s} s: {waiting}"
        waiting = [h.name for h in self.hosts.values() if h.alive and h.finish is None]
        assert not waiting, f"nothing left to happen, and these wait for ever: {waiting}"

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        at = self.now + round(seconds * SECOND)
        heapq.heappush(self._queue, (at, self._count, action))

    def feed(self, host: Host, event: Event) -> None:
        if not host.alive or host.finish is not None:
            return
        if host.asleep is not None:
            host.asleep.append(event)
            return
        for effect in host.machine.step(event, now=self.now):
            self._perform(host, effect)

    def _stream(self, name: NodeId, change: PeerChange) -> None:
        self.feed(self.coordinator, PeerChanged(peer=name, change=change))

    def _perform(self, host: Host, effect: Effect) -> None:
        match effect:
            case Send(target=target, message=message):
                self._deliver(host.name, target, message)
            case SetTimer(key=key, at=at):
                self._count += 1
                number = host.timers[key] = self._count
                self.after((at - self.now) / SECOND, lambda: self._fire(host, key, number))
            case CancelTimer(key=key):
                host.timers.pop(key, None)
            case Record():
                host.records.append(effect)
            case ProbeLinks():
                self._probe(host, effect)
            case PrepareRun():
                error = self.prepare_error.get(host.name)
                delay = float(self.rng.uniform(0.1, 4))
                self.after(delay, lambda: self.feed(host, Prepared(error=error)))
            case BeginRun(at_wall_ns=at):
                self.after(max(0, at - self.now) / SECOND, lambda: self._begin(host))
            case SitOut():
                host.idle_since = self.now
            case ReplanLinks(plan=plan):
                host.plans.append(plan)
            case EndRun(reason=reason):
                host.ending = True
                delay = float(self.rng.uniform(0, 0.5))
                self.after(delay, lambda: self._ended(host, reason))
            case StoreLinks():
                self.links = effect
            case Finish():
                host.finish = effect
                host.finished_at = self.now
            case _:
                raise AssertionError(f"unexpected effect {effect}")

    def _deliver(self, source: NodeId, target: NodeId, message: Any) -> None:
        """In order for each pair, after 1 to 200 ms."""
        sent = self.now
        at = self.now + int(self.rng.integers(MILLISECOND, 200 * MILLISECOND))
        at = max(at, self._arrivals.get((source, target), 0) + 1)
        self._arrivals[(source, target)] = at
        event = Received(sender=source, message=message)

        def arrive() -> None:
            if sent < self.hosts[target].deaf_until:
                return  # it was on the stream that broke: no later one carries it
            if isinstance(message, Hello) and self.hosts[source].reborn:
                self.hosts[source].reborn = False
                self._stream(source, PeerChange.RESTARTED)
            self.feed(self.hosts[target], event)

        self.after((at - self.now) / SECOND, arrive)

    def _fire(self, host: Host, key: str, number: int) -> None:
        if host.timers.get(key) == number:
            del host.timers[key]
            self.feed(host, TimerFired(key=key))

    def _probe(self, host: Host, effect: ProbeLinks) -> None:
        self.probed.append(effect)
        readings = tuple(
            LinkReading(source=host.name, target=target, rtt_ns=1, goodput_bps=1.0)
            for target in effect.targets
        )
        event = LinksProbed(attempt=effect.attempt, readings=readings)
        self.after(float(self.rng.uniform(0.1, 1)), lambda: self.feed(host, event))

    def _begin(self, host: Host) -> None:
        host.began_at = self.now
        self._report(host)
        train = self.train_s[host.name]
        if train is not None:
            self.after(train, lambda: self._ended(host, "rounds"))

    def _report(self, host: Host) -> None:
        assert host.began_at is not None
        accuracy = self.accuracy(self.now - host.began_at)
        progress = Progress(phase="training", round=1, accuracy=accuracy, loss=None, model_bytes=0)
        self.feed(host, progress)
        if host.alive and not host.ending and host.finish is None:
            self.after(0.5, lambda: self._report(host))

    def _ended(self, host: Host, reason: str) -> None:
        if reason == "rounds" and host.ending:
            return
        self.feed(host, RunEnded(reason=reason, round=1))

    def _check(self) -> None:
        """What must hold at every moment."""
        began = [host for host in self.hosts.values() if host.began_at is not None]
        assert len({host.began_at for host in began}) <= 1, "members began at different times"
        machine = self.coordinator.machine
        assert isinstance(machine, Coordinator)
        if began:
            assert machine.phase not in (Phase.GATHERING, Phase.MEASURING, Phase.PREPARING)


def _one_slot_a_pair(pairs: tuple[ExpectedPair, ...], attempt: int) -> tuple[ProbeSlot, ...]:
    return tuple(
        ProbeSlot(targets={pair.source: (pair.target,)}, measures=("rtt",), deadline_ns=3 * SECOND)
        for pair in pairs
    )


def seeds(count: int) -> list[int]:
    """Seeds of a simulation test; a failing test's id names its own."""
    return np.arange(count).tolist()
