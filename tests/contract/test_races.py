"""The 18 races of `tests/scenarios` again, over loopback gRPC.

The same stories by the same functions; machines and clock stay those of the simulation. Where its
network delivers a message, that is sent over a real stream (`tests.contract.loopback`), and what
comes out at the other end is what the machine gets. The event loop turns only while something
crosses, so that real time decides nothing, and what comes of a story must be its kept transcript,
byte for byte. Of the other orders that each race has, a few are played.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import pytest

from node.core.events import Event, PeerChange, PeerChanged, Received
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.signals import Signal
from node.runtime import mesh, signaling
from node.wire.codec import Encoded, encode_message, encode_signal
from node.wire.frames import Identity
from tests.contract.loopback import Loopback, came_up
from tests.scenarios import barrier_races, membership_races, scene
from tests.scenarios.explorer import Explored, explore
from tests.scenarios.test_races import HERE, RACES
from tests.simulation.draw import Plan
from tests.simulation.hosts import Driver
from tests.simulation.net import Lane, Wire
from tests.simulation.world import World

T = TypeVar("T")
ORDERS: Final = 3
"""Of each race's other orders: so many one after the other, and as many drawn."""
_EXPLORED: Final = re.compile(r"\d+ orders(, all there are| and \d+ drawn from the rest)")


class CarriedWorld(World):
    """A world whose network hands nothing over by itself.

    Attributes:
        delivered: messages that its network has delivered, signals and what peers say.
    """

    def __init__(self, plan: Plan, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__(plan)
        self.delivered: Counter[str] = Counter()
        self.loopback = Loopback(plan.names)
        self._run = run
        self._out: dict[int, object] = {}
        """All that came out of a stream, by identity."""
        self._changes: list[tuple[NodeId, PeerChange]] = []
        """Streams that came up, as the coordinator machine has heard."""
        self.watch.listeners.append(self._listen)
        for line in self.lines.values():
            for lane in (line.up, line.down):
                lane.deliver = partial(self._deliver_signal, lane, lane.deliver)
        run(self.loopback.start_coordinator())

    def wire(self, one: NodeId, two: NodeId) -> Wire:
        known = len(self._wires)
        found = super().wire(one, two)
        if len(self._wires) > known:
            for lane in found.lanes.values():
                lane.deliver = partial(self._deliver_item, lane, lane.deliver)
        return found

    def start_node(self, name: NodeId) -> None:
        before = self.nodes.get(name)
        super().start_node(name)
        node = self.nodes.get(name)
        if node is not None and node is not before:
            self._run(self.loopback.start(name, node.incarnation))

    def crash(self, name: NodeId) -> None:
        super().crash(name)
        self._run(self.loopback.stop(name))

    def crash_coordinator(self) -> None:
        super().crash_coordinator()
        self._check(self._run(self.loopback.stop_coordinator()))

    def restart_coordinator(self) -> None:
        self._run(self.loopback.start_coordinator())
        super().restart_coordinator()

    def close(self) -> None:
        """Raises AssertionError where the real streams' story is not that of the simulation."""
        self._check(self._run(self.loopback.close()))
        assert len(self.loopback.post.out) == self.delivered.total()

    def _check(self, changes: list[tuple[NodeId, PeerChange]]) -> None:
        assert changes == self._changes, "both coordinators have heard of the same streams"
        self._changes = []

    def _deliver_signal(self, lane: Lane, deliver: Callable[[Any], None], signal: Signal) -> None:
        self.delivered["signal"] += 1
        out = self._run(self.loopback.signal(lane.source, lane.target, lane.epoch, signal))
        assert out == signal, f"{signal} has become {out}"
        self._out[id(out)] = out
        deliver(out)

    def _deliver_item(self, lane: Lane, deliver: Callable[[Any], None], item: Any) -> None:
        out = self._run(self.loopback.item(lane.source, lane.target, lane.epoch, item))
        if out[0] == "message":
            self.delivered["message"] += 1
            kind, number, message = out
            said, heard = _content(item[2]), _content(message)
            assert heard == said, f"{said} has become {heard}"
            # A protobuf map has no order: the transcript shows fields in the sender's.
            fields = {name: message.fields[name] for name in item[2].fields}
            message = replace(message, fields=fields)
            self._out[id(message)] = message
            out = (kind, number, message)
        deliver(out)

    def _listen(self, driver: Driver, event: Event, *_: object) -> None:
        if isinstance(event, Received):
            assert id(event.message) in self._out, f"{event.message} came over no stream"
        elif isinstance(event, PeerChanged) and driver.kind == "coordinator":
            self._changes += came_up(event)


def _content(message: PeerMessage) -> tuple[object, ...]:
    """What has to be the same at both ends."""
    part = message.part
    model = None if part is None else (part.where, part.values.tobytes())
    fields = dict(message.fields)
    return (message.kind, message.round, message.attempt, fields, message.delivery, model)


class Worlds:
    """Makes worlds, one after the other, on one event loop; the one before is over.

    Attributes:
        delivered: by all of them.
        answers: acknowledgements and answers to pings.
        crossed: messages that have come out of streams.
        unasked: of them, those that no `SignalingServer` would have sent.
    """

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.crossed = 0
        self.unasked = 0
        self._runner = asyncio.Runner()
        self._last: CarriedWorld | None = None

    def make(self, plan: Plan) -> CarriedWorld:
        self.finish()
        self._last = CarriedWorld(plan, self._run)
        return self._last

    def finish(self) -> None:
        """The last one is over."""
        world, self._last = self._last, None
        if world is not None:
            world.close()
            self.delivered += world.delivered
            self.answers += world.loopback.answers
            self.crossed += len(world.loopback.post.out)
            self.unasked += world.loopback.unasked

    def close(self) -> None:
        """Whatever has happened."""
        world, self._last = self._last, None
        with self._runner:
            if world is not None:
                self._run(world.loopback.close())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.get_loop().run_until_complete(work)


def _few(*args: Any, bound: int, **named: Any) -> Explored:
    return explore(*args, bound=min(bound, ORDERS), **named)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    made = Worlds()
    monkeypatch.setattr(scene, "World", made.make)
    for module in (barrier_races, membership_races):
        monkeypatch.setattr(module, "explore", _few)
    yield made
    made.close()


@pytest.mark.parametrize("name", RACES)
def test_race(name: str, worlds: Worlds) -> None:
    play = RACES[name]
    text = f"{name.split('-')[0]}. {(play.__doc__ or '').strip()}\n\n{play()}"
    worlds.finish()
    # How many other orders were played differs, and nothing else.
    kept = (HERE / f"{name}.txt").read_text()
    assert _EXPLORED.sub("so many orders", text) == _EXPLORED.sub("so many orders", kept)
    assert min(worlds.delivered["signal"], worlds.delivered["message"]) > 0
    assert min(worlds.answers["ack"], worlds.answers["pong"]) > 0
    assert worlds.crossed == worlds.delivered.total()
    # In T8 two signals come before the member has said who it is.
    assert worlds.unasked == (2 if name.startswith("T08") else 0)


def _without_attempt(message: PeerMessage, *, sender: Identity) -> Encoded:
    return encode_message(replace(message, attempt=0), sender=sender)


def _without_round(signal: Signal, *, member: Identity) -> bytes:
    return encode_signal(replace(signal, round=0), member=member)


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (mesh, "encode_message", _without_attempt),
        (signaling, "encode_signal", _without_round),
    ],
    ids=["attempt of a payload", "round of a signal"],
)
def test_what_the_encoding_loses_is_noticed(
    module: Any, name: str, broken: object, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(AssertionError, match="has become"):
        barrier_races.t02()
