"""Streams on virtual time: what gRPC over TCP does to messages, and what cuts do to gRPC.

A stream keeps its order and loses nothing but what is under way when it breaks; what a cut holds up
goes on when the cut is over (TCP sends again), unless the stream was given up before. Beyond that
messages are lost, doubled and overtaken within a stream as the plan says, though TCP does none of
it: the machines claim to stand that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from node.core.events import PeerChange, PeerChanged, Received
from node.core.ids import COORDINATOR, NodeId
from node.core.signals import Heartbeat, Hello, Signal
from node.units import MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    from tests.simulation.hosts import Node
    from tests.simulation.world import World

NOTICE: Final = (MILLISECOND, 100 * MILLISECOND)
"""From a break to either end's hearing of it."""
DIAL: Final = (50 * MILLISECOND, 700 * MILLISECOND)
"""From wanting a stream to having it, where nothing is in the way."""
_WAITING_MAX: Final = 64
"""As in `node.runtime.signaling`."""


class Lane:
    """One direction of a stream. `deliver` gets what arrives."""

    __slots__ = (
        "_last",
        "busy_until",
        "deliver",
        "epoch",
        "held",
        "on_loss",
        "overtaken_by",
        "source",
        "target",
        "world",
    )

    def __init__(
        self,
        world: World,
        source: NodeId,
        target: NodeId,
        deliver: Callable[[Any], None],
        on_loss: Callable[[], None] = lambda: None,
        overtaken_by: int = 4,
    ) -> None:
        self.world = world
        self.source, self.target = source, target
        self.deliver = deliver
        self.on_loss = on_loss
        self.overtaken_by = overtaken_by
        """How many times as long as others a message takes that is overtaken."""
        self.epoch = 0
        self.held: list[Any] = []
        self.busy_until: Nanos = 0
        """When all that is under way has arrived."""
        self._last: Nanos = 0

    def send(self, item: Any, *, faithful: bool = False) -> None:
        """`faithful`: what TCP itself says is neither lost nor doubled nor overtaken."""
        world = self.world
        if self.held or (self.source, self.target) in world.blocked:
            self.held.append(item)
            return
        if world.faulty and not faithful:
            plan, rng = world.plan, world.net_rng
            if plan.loss and rng.random() < plan.loss:
                world.count("lost message")
                self.on_loss()
                return
            if plan.duplicate and rng.random() < plan.duplicate:
                world.count("doubled message")
                self._later(item, overtaken=plan.reorder > 0 and rng.random() < 0.5)
            if plan.reorder and rng.random() < plan.reorder:
                world.count("overtaken message")
                self._later(item, overtaken=True)
                return
        self._later(item, overtaken=False)

    def _later(self, item: Any, *, overtaken: bool) -> None:
        world = self.world
        delay = world.delay() * (self.overtaken_by if overtaken else 1)
        at = world.now + delay
        if not overtaken:
            at = self._last = max(at, self._last + 1)
        self.busy_until = max(at, self.busy_until)
        world.deliver_at(at, self, item)

    def arrive(self, epoch: int, item: Any) -> None:
        if epoch != self.epoch:
            return  # that stream is no more
        if self.held or (self.source, self.target) in self.world.blocked:
            self.held.append(item)
        else:
            self.deliver(item)

    def release(self) -> None:
        """A cut is over."""
        held, self.held = self.held, []
        for item in held:
            self._later(item, overtaken=False)

    def cut_off(self) -> None:
        """The stream broke: what was under way is lost."""
        self.epoch += 1
        self.held = []


class Line:
    """The stream between a member and the coordinator, at both ends; see
    `node.runtime.signaling`, whose rules it follows."""

    def __init__(self, world: World, name: NodeId) -> None:
        self.world = world
        self.name = name
        self.blocked = False
        """No new stream for now."""
        self.node: Node | None = None
        self._client_up = self._server_up = False
        """As each end sees it."""
        self._whole = False
        self._client_waiting: deque[Signal] = deque(maxlen=_WAITING_MAX)
        self._server_waiting: deque[Signal] = deque(maxlen=_WAITING_MAX)
        self._life: int | None = None
        """Incarnation that the coordinator knows."""
        self._calling = 0
        """Incarnation at the other end of the stream."""
        self._noticed = [True, True]
        self._dialling = False
        self.up = Lane(world, name, COORDINATOR, self._at_server, self._lost)
        self.down = Lane(world, COORDINATOR, name, self._at_client, self._lost)

    def _lost(self) -> None:
        """TCP loses nothing: a member of which a signal was lost counts as ill for a while."""
        self.world.sicken((self.name,), 0)

    def open(self, node: Node) -> None:
        """A new life of the member dials."""
        self.node = node
        self._client_up = False
        self._client_waiting.clear()
        self.dial()

    def dial(self) -> None:
        if not self._dialling:
            self._dialling = True
            self.world.after(self.world.between(*DIAL), self._connect)

    def _connect(self) -> None:
        self._dialling = False
        node = self.node
        if node is None or node.gone or self.blocked or self._whole or not all(self._noticed):
            return  # whoever ends that dials again
        if node.asleep is not None or not self.world.coordinator.alive:
            self.dial()
            return
        self.up.cut_off()
        self.down.cut_off()
        self._client_up, self._server_up, self._whole = True, False, True
        self._calling = node.incarnation
        node.member.feed(PeerChanged(peer=COORDINATOR, change=PeerChange.CONNECTED))
        while self._client_waiting:
            self.up.send(self._client_waiting.popleft())

    def from_member(self, signal: Signal) -> None:
        if self._client_up:
            if self._whole:  # else it is lost: this end has not heard yet
                self.up.send(signal)
        elif not isinstance(signal, Hello | Heartbeat):
            self._client_waiting.append(signal)

    def from_coordinator(self, signal: Signal) -> None:
        if self._server_up:
            if self._whole:
                self.down.send(signal)
        elif self._life is not None:
            self._server_waiting.append(signal)

    def _at_client(self, signal: Signal) -> None:
        if self.node is not None:
            self.node.member.feed(Received(sender=COORDINATOR, message=signal))

    def _at_server(self, signal: Signal) -> None:
        coordinator = self.world.coordinator
        if not coordinator.alive:
            return
        if not self._server_up:  # the first of this stream
            change = PeerChange.CONNECTED
            if self._life is not None and self._life != self._calling:
                self._server_waiting.clear()
                change = PeerChange.RESTARTED
            self._life, self._server_up = self._calling, True
            coordinator.driver.feed(PeerChanged(peer=self.name, change=change))
            coordinator.driver.feed(Received(sender=self.name, message=signal))
            while self._server_waiting:
                self.down.send(self._server_waiting.popleft())
            return
        coordinator.driver.feed(Received(sender=self.name, message=signal))

    # --- how it ends

    def break_(self) -> None:
        """Both ends hear of it in their own time; then the member dials again."""
        if not self._whole:
            return
        self._whole = False
        self.up.cut_off()
        self.down.cut_off()
        self._noticed = [False, False]
        self.world.after(self.world.between(*NOTICE), self._client_notices, self.node)
        self.world.after(self.world.between(*NOTICE), self._server_notices)

    def close(self) -> None:
        """The member has ended its life in good order: what it said last arrives."""
        at = max(self.world.now, self.up.busy_until) + 1
        self.world.after(at - self.world.now, self.break_)

    def _client_notices(self, node: Node) -> None:
        self._noticed[0] = True
        if node is self.node:
            self._client_up = False
            node.member.feed(PeerChanged(peer=COORDINATOR, change=PeerChange.LOST))
        self._again()

    def _server_notices(self) -> None:
        self._noticed[1] = True
        coordinator = self.world.coordinator
        if self._server_up:
            self._server_up = False
            if coordinator.alive:
                coordinator.driver.feed(PeerChanged(peer=self.name, change=PeerChange.LOST))
        self._again()

    def _again(self) -> None:
        if all(self._noticed) and not self.blocked and self.node is not None:
            self.dial()

    def unblock(self) -> None:
        self.blocked = False
        self._again()

    def coordinator_died(self) -> None:
        """Nothing of what the server's end knew is left."""
        self.break_()
        self._server_up, self._life = False, None
        self._server_waiting.clear()


class Wire:
    """The stream between two peers. The lower name dials, as in `node.runtime.mesh`."""

    def __init__(self, world: World, low: NodeId, high: NodeId) -> None:
        self.world = world
        self.ends = (low, high)
        self.is_up = dict.fromkeys(self.ends, False)
        """As each end sees it."""
        self.lanes = {
            low: Lane(world, low, high, lambda item: self._arrived(high, item), overtaken_by=16),
            high: Lane(world, high, low, lambda item: self._arrived(low, item), overtaken_by=16),
        }
        self._whole = False
        self._noticing = 0
        self._dialling = False
        self._lives = (0, 0)

    def other(self, name: NodeId) -> NodeId:
        return self.ends[1] if name == self.ends[0] else self.ends[0]

    def send(self, source: NodeId, item: Any, *, faithful: bool = False) -> None:
        if self._whole:
            self.lanes[source].send(item, faithful=faithful)

    def dial(self) -> None:
        if not self._dialling and not self._whole:
            self._dialling = True
            self.world.after(self.world.between(*DIAL), self._connect)

    def _connect(self) -> None:
        self._dialling = False
        low, high = (self.world.nodes.get(end) for end in self.ends)
        if low is None or high is None or low.gone or high.gone or self._whole or self._noticing:
            return  # whoever ends that dials again
        if high.name not in low.mesh.wanted or self.cut:
            return
        if low.asleep is not None or high.asleep is not None:
            self.dial()
            return
        self._whole = True
        self._lives = (low.incarnation, high.incarnation)
        for node in (low, high):
            self.is_up[node.name] = True
            node.mesh.connected(self.other(node.name))

    @property
    def cut(self) -> bool:
        blocked = self.world.blocked
        return self.ends in blocked or (self.ends[1], self.ends[0]) in blocked

    @property
    def whole(self) -> bool:
        return self._whole

    def break_(self) -> None:
        """Both ends, if they live, hear of it in their own time."""
        if not self._whole:
            return
        self._whole = False
        for name, life in zip(self.ends, self._lives, strict=True):
            self.lanes[name].cut_off()
            self._noticing += 1
            self.world.after(self.world.between(*NOTICE), self._notices, name, life)

    def give_up(self, since: int) -> None:
        """Silent for too long, if it is the same cut still."""
        if self.cut and self.world.cut_number.get(self.ends) == since:
            self.break_()

    def release(self) -> None:
        """A cut is over."""
        for lane in self.lanes.values():
            if (lane.source, lane.target) not in self.world.blocked:
                lane.release()
        self.dial()

    def _notices(self, name: NodeId, life: int) -> None:
        self._noticing -= 1
        self.is_up[name] = False
        node = self.world.nodes.get(name)
        if node is not None and not node.gone and node.incarnation == life:
            node.mesh.disconnected(self.other(name))
        self.dial()

    def _arrived(self, name: NodeId, item: Any) -> None:
        node = self.world.nodes.get(name)
        if node is not None and not node.gone:
            node.mesh.arrived(self.other(name), item)


def seconds(nanos: Nanos) -> float:
    return nanos / SECOND
