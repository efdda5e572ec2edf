"""What must hold at every step of every run, each with a name and its text.

`Watch` sees every event at every machine with what came of it, and hands it to the invariants. It
reads the machines' effects and public properties; what they were told and said is its own book.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from node.core.effects import Effect
from node.core.events import Event
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.units import SECOND, Nanos
from tests.simulation import trace
from tests.simulation.transitions import RowId

if TYPE_CHECKING:
    from tests.simulation.hosts import Driver, Node
    from tests.simulation.world import World

TAIL = 30
"""Events that a violation shows."""
TICK: Nanos = SECOND // 2


class Violation(AssertionError):
    """An invariant does not hold. `str` has everything that is needed to look into it."""

    def __init__(self, *, invariant: str, text: str, world: World) -> None:
        self.invariant = invariant
        self.text = text
        self.at_s = world.watch.seconds
        self.seed = world.plan.seed
        said = SAYS.get(invariant, "")
        tail = "\n".join(world.watch.tail())
        super().__init__(
            f"seed {self.seed}: {invariant} at {self.at_s:.3f} s: {text}\n"
            f"  the invariant: {said}\n"
            f"  the last {TAIL} events:\n{tail}\n"
            f"  replay: scripts/simulate --seed {self.seed} --trace"
        )


class Invariant:
    """One thing that must hold. Methods that it has no use for stay as they are here."""

    name = ""
    says = ""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.world = watch.world

    def fail(self, text: str) -> NoReturn:
        raise Violation(invariant=self.name, text=text, world=self.world)

    def coordinator(self, event: Event, effects: list[Effect], before: Any) -> None: ...

    def new_coordinator(self) -> None: ...

    def member(self, node: Node, event: Event, effects: list[Effect], before: Any) -> None: ...

    def peer(self, node: Node, event: Event, effects: list[Effect]) -> None: ...

    def exchanged(
        self,
        node: Node,
        round_: int,
        received: Mapping[NodeId, PeerMessage],
        peers: tuple[NodeId, ...],
    ) -> None: ...

    def rows(self) -> Counter[RowId]:
        """Of the tables, how often each was taken."""
        return Counter()

    def tick(self) -> None: ...

    def ended(self) -> None: ...


class Watch:
    """Sees every step of a world."""

    def __init__(self, world: World, *, trace: bool) -> None:
        self.world = world
        self._print = trace
        self._tail: deque[tuple[Nanos, str, str, Event, list[Effect]]] = deque(maxlen=TAIL)
        self._invariants: list[Invariant] = []
        self._of_coordinator: list[Callable[..., None]] = []
        self._of_member: list[Callable[..., None]] = []
        self._of_peer: list[Callable[..., None]] = []
        self._ticking = False
        self.listeners: list[Callable[[Driver, Event, list[Effect], Any], None]] = []

    # --- bounds that follow from the plan

    @property
    def grace(self) -> Nanos:
        """How long after a fault is over something may still come of it: a lease, a whole round
        of attempts, and what is on its way."""
        plan = self.world.plan
        rounds = plan.rounds
        attempts = (rounds.max_connection_retry + 1) * rounds.connection_timeout_ns
        return plan.deadlines.lease_ns + attempts + plan.deadlines.peer_ns + 2 * SECOND

    @property
    def limit(self) -> Nanos:
        """When every run must be over."""
        plan = self.world.plan
        deadlines = plan.deadlines
        start = deadlines.join_ns + deadlines.links_ns + 2 * deadlines.ready_ns
        return self.world.now + start + plan.stop.time_ns + 2 * deadlines.stop_ns + 10 * SECOND

    @property
    def seconds(self) -> float:
        from tests.simulation.world import EPOCH

        return (self.world.now - EPOCH) / SECOND

    def use(self, invariants: Iterable[Invariant]) -> None:
        self._invariants = list(invariants)
        self._of_coordinator = self._that_see("coordinator")
        self._of_member = self._that_see("member")
        self._of_peer = self._that_see("peer")

    def _that_see(self, what: str) -> list[Callable[..., None]]:
        """The methods of this name, of those invariants that have one of their own."""
        own = [
            i for i in self._invariants if getattr(type(i), what) is not getattr(Invariant, what)
        ]
        return [getattr(invariant, what) for invariant in own]

    # --- what happens

    def before(self, driver: Driver) -> Any:
        machine: Any = driver.machine
        if driver.kind == "coordinator":
            return machine.phase
        if driver.kind == "member":
            return snapshot(machine)
        return None

    def after(self, driver: Driver, event: Event, effects: list[Effect], before: Any) -> None:
        world = self.world
        host: Any = driver.host
        self._tail.append((world.now, host.name, driver.kind, event, effects))
        if self._print:
            print(trace.line(world.now - _epoch(), host.name, driver.kind, event, effects))
        for listener in self.listeners:
            listener(driver, event, effects, before)
        if not self._ticking:
            self._ticking = True
            world.after(TICK, self._tick)
        match driver.kind:
            case "coordinator":
                for see_coordinator in self._of_coordinator:
                    see_coordinator(event, effects, before)
            case "member":
                for see_member in self._of_member:
                    see_member(host, event, effects, before)
            case _:
                for see_peer in self._of_peer:
                    see_peer(host, event, effects)

    def new_coordinator(self) -> None:
        for invariant in self._invariants:
            invariant.new_coordinator()

    def exchanged(
        self,
        me: NodeId,
        round_: int,
        received: Mapping[NodeId, PeerMessage],
        peers: tuple[NodeId, ...],
    ) -> None:
        for invariant in self._invariants:
            invariant.exchanged(self.world.nodes[me], round_, received, peers)

    def ended(self) -> None:
        for invariant in self._invariants:
            invariant.ended()

    def rows(self) -> Counter[RowId]:
        return sum((invariant.rows() for invariant in self._invariants), Counter())

    def stuck(self, text: str) -> NoReturn:
        waiting = [node.name for node in self.world.nodes.values() if not node.gone]
        what = f"{text}; the coordinator is {self.world.phase.value}, still there: {waiting}"
        raise Violation(invariant="every-wait-ends", text=what, world=self.world)

    def joined(self, node: Node) -> bool:
        """Whether the coordinator can know of it: it is past joining."""
        machine: Any = node.member.machine
        return bool(machine.state.value != "joining")

    def tail(self) -> list[str]:
        return [
            trace.line(at - _epoch(), host, kind, event, effects)
            for at, host, kind, event, effects in self._tail
        ]

    def _tick(self) -> None:
        for invariant in self._invariants:
            invariant.tick()
        self.world.after(TICK, self._tick)


def snapshot(machine: Any) -> tuple[str, str]:
    """State and stage of a member."""
    return machine.state.value, str(machine.stage)


def _epoch() -> Nanos:
    from tests.simulation.world import EPOCH

    return EPOCH


SAYS: dict[str, str] = {}
"""The texts of all invariants by name; `tests.simulation.holds` fills it."""
