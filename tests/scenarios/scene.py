"""What race tests need: small runs without faults, held up and pushed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from node.config import Mode, RoundsConfig, StopConfig
from node.core.events import Received
from node.core.ids import COORDINATOR, NodeId
from node.core.messages import PeerMessage
from node.core.signals import Signal
from node.units import MILLISECOND, SECOND
from tests.simulation.draw import Plan, names
from tests.simulation.holds import ALL
from tests.simulation.hosts import Driver, Node
from tests.simulation.transcript import Transcript
from tests.simulation.world import World

ROUNDS = RoundsConfig(
    mode=Mode.SYNC,
    max_connection_retry=2,
    connection_timeout_ns=2 * SECOND,
    gather_ns=3 * SECOND,
    share_ns=2 * SECOND,
    sync_ns=2 * SECOND,
)
N0, N1, N2, N3, N4 = names(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A round that a node has aggregated."""

    node: NodeId
    round: int
    attempt: int
    received: tuple[str, ...]
    missing: tuple[str, ...]
    stale: int
    at_s: float


class Scene:
    """A world that is played by hand, with its transcript."""

    def __init__(self, plan: Plan) -> None:
        self.world = World(plan)
        self.world.watch.use([invariant(self.world.watch) for invariant in ALL])
        self.heard: list[tuple[NodeId, Signal]] = []
        self._messages: list[tuple[NodeId, PeerMessage]] = []
        self.world.watch.listeners.append(self._hear)
        self.story = Transcript(self.world)
        self.world.begin()

    # --- time

    def until(self, condition: Callable[[], Any], *, limit_s: float = 30) -> None:
        self.world.run_until(lambda: bool(condition()), limit_s=limit_s)

    def until_stage(self, stage: str, *who: NodeId, round_: int = 0, limit_s: float = 30) -> None:
        """Until all of these are at this stage of this round."""
        self.until(
            lambda: all(
                name in self.world.nodes
                and (self.stage(name), self.member(name).round) == (stage, round_)
                for name in who
            ),
            limit_s=limit_s,
        )

    def until_shared(self, name: NodeId) -> None:
        """Until it has aggregated a round."""
        self.until(lambda: self.shares(name), limit_s=20)

    def until_recorded(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Until a coordinator has recorded this; returns the record."""
        self.until(lambda: self.records(kind, **fields), limit_s=15)
        return self.records(kind, **fields)[0]

    def until_ended(self, count: int, *who: NodeId) -> None:
        """Until all of these have ended so many rounds."""
        self.until(lambda: all(self.node(name).machine.round >= count for name in who))

    def until_round(self, number: int, *, limit_s: float = 60) -> None:
        """Until the coordinator has begun this round."""
        self.until(lambda: self.rounds.stamp[0] >= number, limit_s=limit_s)

    def end(self) -> None:
        """To the end of the run."""
        world = self.world
        while not world.over:
            if world.next_at is None or world.now > world.watch.limit:
                world.watch.stuck("the run does not end")
            world.advance()
        world.watch.ended()

    # --- what is there

    @property
    def rounds(self) -> Any:
        return self.world.coordinator.machine.learning.rounds

    def node(self, name: NodeId) -> Node:
        return self.world.nodes[name]

    def member(self, name: NodeId) -> Any:
        return self.world.nodes[name].member.machine

    def stage(self, name: NodeId) -> str:
        return str(self.member(name).stage)

    def shares(self, name: NodeId | None = None) -> list[Share]:
        """All that was aggregated, by all lives of a node or of all."""
        shares = []
        for node in self.world.lives:
            for record in node.records:
                if record.kind == "share" and name in (None, node.name):
                    fields: Any = record.fields
                    shares.append(
                        Share(
                            node=node.name,
                            round=fields["round"],
                            attempt=fields["attempt"],
                            received=tuple(fields["received"]),
                            missing=tuple(fields["missing"]),
                            stale=fields["stale"],
                            at_s=0.0,
                        )
                    )
        return shares

    def share(self, name: NodeId, round_: int) -> Share:
        """What a node has aggregated in a round: once, or AssertionError."""
        found = [share for share in self.shares(name) if share.round == round_]
        assert len(found) == 1, f"{name}, round {round_}: {found}"
        return found[0]

    def records(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Of all coordinators, with these fields."""
        every = [dict(r.fields) for _, r in self.world.coordinator_records if r.kind == kind]
        return [one for one in every if all(one.get(key) == value for key, value in fields.items())]

    def last_heard(self, by: NodeId, kind: type[Any]) -> Any:
        """The newest signal of a kind that a process has heard."""
        return next(s for name, s in reversed(self.heard) if name == by and isinstance(s, kind))

    def last_heard_or_none(self, by: NodeId) -> Signal | None:
        return next((signal for name, signal in reversed(self.heard) if name == by), None)

    def messages(self, at: NodeId, kind: str) -> list[PeerMessage]:
        """That have come to a node, of this kind."""
        return [message for name, message in self._messages if (name, message.kind) == (at, kind)]

    def came(self, at: NodeId, kind: str) -> int:
        return len(self.messages(at, kind))

    @property
    def error(self) -> str | None:
        finish = self.world.coordinator.finish
        assert finish is not None, "the run is not over"
        return finish.error

    # --- what is done to it

    def hold(self, source: NodeId, target: NodeId) -> None:
        """What is sent from now on waits, in order, until `let_go`."""
        self.world.blocked[(source, target)] += 1

    def let_go(self, source: NodeId, target: NodeId) -> None:
        self.world.blocked.pop((source, target))
        if COORDINATOR in (source, target):
            line = self.world.lines[target if source == COORDINATOR else source]
            (line.down if source == COORDINATOR else line.up).release()
        else:
            self.world.wire(source, target).release()

    def say(self, source: NodeId, target: NodeId, signal: Signal) -> None:
        """Put a signal on a stream that nobody sends now: a duplicate, or one from the past."""
        line = self.world.lines[target if source == COORDINATOR else source]
        (line.down if source == COORDINATOR else line.up).send(signal)

    def cut(self, pairs: Iterable[tuple[NodeId, NodeId]]) -> None:
        """Between these nothing gets through any more, in this direction."""
        listed = list(pairs)
        for pair in listed:
            self.story.say(f"nothing gets from {pair[0]} to {pair[1]}")
            self.world.sicken(pair, 1000)
        self.world.cut(listed)

    def heal(self, pairs: Iterable[tuple[NodeId, NodeId]]) -> None:
        listed = list(pairs)
        for pair in listed:
            self.story.say(f"{pair[0]} reaches {pair[1]} again")
        self.world.heal(listed)

    def crash(self, name: NodeId) -> None:
        self.story.say(f"{name} crashes")
        self.world.sicken((name,), 1000)
        self.world.crash(name)

    def start(self, name: NodeId) -> None:
        self.story.say(f"{name} is started")
        self.world.sicken((name,), 1000)
        self.world.start_node(name)

    def _hear(self, driver: Driver, event: Any, effects: Any, before: Any) -> None:
        if isinstance(event, Received) and isinstance(event.message, Signal):
            self.heard.append((driver.host.name, event.message))
        elif isinstance(event, Received) and isinstance(event.message, PeerMessage):
            self._messages.append((driver.host.name, event.message))


def begun(plan: Plan) -> Scene:
    """A scene from the moment at which all have begun to train."""
    scene = Scene(plan)
    first = [name for name in plan.names if name not in plan.standby]
    scene.until(
        lambda: all(name in scene.world.nodes and scene.stage(name) == "training" for name in first)
    )
    scene.story.begin()
    return scene


def complete(scene: Scene, members: tuple[NodeId, ...], round_: int) -> None:
    """All of these have aggregated this round with each other, in the same attempt."""
    attempts = set()
    for name in members:
        share = scene.share(name, round_)
        assert set(share.received) == set(members) - {name}, share
        assert not share.missing
        attempts.add(share.attempt)
    assert len(attempts) == 1


_parked: dict[int, Scene] = {}


def parked(scene: Scene) -> World:
    """The scene's world, for `explore`; `unpark` gives the scene back."""
    _parked[id(scene.world)] = scene
    return scene.world


def unpark(world: World) -> Scene:
    return _parked.pop(id(world))


def both(one: NodeId, two: NodeId) -> list[tuple[NodeId, NodeId]]:
    """Both directions."""
    return [(one, two), (two, one)]


def all_pairs(members: Iterable[NodeId]) -> tuple[tuple[NodeId, NodeId], ...]:
    listed = list(members)
    return tuple((a, b) for i, a in enumerate(listed) for b in listed[i + 1 :])


def plan(
    count: int,
    *,
    overlay: tuple[tuple[NodeId, NodeId], ...] | None = None,
    standby: tuple[NodeId, ...] = (),
    rounds: RoundsConfig = ROUNDS,
    ended: int = 3,
    **changes: Any,
) -> Plan:
    """A run of so many members, each with each, that ends after `ended` rounds."""
    members = names(count)
    return Plan(
        seed=0,
        names=members,
        overlay=all_pairs(members) if overlay is None else overlay,
        standby=standby,
        rounds=replace(rounds, **changes),
        stop=StopConfig(time_ns=90 * SECOND, rounds=ended),
        delay_ns=(10 * MILLISECOND, 10 * MILLISECOND),
        train_s=(1.0, 1.0),
    )
