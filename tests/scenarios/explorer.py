"""All orders in which messages that are under way together can arrive.

`explore` builds a world again and again up to the moment of the race, then delivers what is under
way in another order each time, until it has seen them all (or a bound). Deliveries to different
processes commute, so that of orders which differ only in that, one is explored (sleep sets,
Godefroid 1996).

With `ticks`, time may pass between deliveries as well: so many of the next timed events (a timer, a
training that ends) may overtake what is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any, Final, TypeAlias

from node.units import SECOND
from tests.simulation.net import Lane
from tests.simulation.world import World

Move: TypeAlias = tuple[str, str, int]
"""Who it comes from, whom it reaches, and its number in that stream; or `TICK`."""
TICK: Final[Move] = ("", "", 0)

PATIENCE: Final = 60 * SECOND
"""With nothing under way, a race that is not over by then will not be."""


class Order(Enum):
    """`STREAMS`: each keeps its order, and they do not wait for each other. `ANY`: messages
    overtake each other within a stream as well, though TCP does not do that."""

    STREAMS = "streams"
    ANY = "any"


@dataclass(slots=True)
class _Branch:
    """A place where one of several moves had to be chosen."""

    moves: list[Move]
    sleeping: set[Move]
    index: int = 0

    @property
    def chosen(self) -> Move:
        return self.moves[self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """How many orders were played.

    Args:
        orders: one after the other; all there are, unless
        drawn: so many more were drawn from what is left.
    """

    orders: int
    drawn: int

    def __str__(self) -> str:
        if not self.drawn:
            return f"{self.orders} orders, all there are"
        return f"{self.orders} orders and {self.drawn} drawn from the rest"


@dataclass(slots=True)
class _Race:
    """One run through the race: what is under way."""

    world: World
    order: Order
    ticks: int
    known: int = 0
    """How much of the pool has a number."""
    waiting: dict[Move, tuple[Lane, int, Any]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def enabled(self) -> list[Move]:
        """What can happen next: the first of each stream (or anything), and time."""
        pool = self.world.pool
        assert pool is not None
        for lane, epoch, item in pool:
            ends = (lane.source, lane.target)
            number = self.numbers[ends] = self.numbers.get(ends, 0) + 1
            self.waiting[(*ends, number)] = (lane, epoch, item)
        pool.clear()
        moves: list[Move] = []
        for move in sorted(self.waiting):
            follows = bool(moves) and moves[-1][:2] == move[:2]
            if self.order is Order.ANY or not follows:
                moves.append(move)
        if self.ticks > 0 and self.world.next_at is not None:
            moves.append(TICK)
        return moves

    def let_go(self) -> None:
        """What is still under way arrives in time."""
        world = self.world
        self.enabled()
        world.pool = None
        for move in sorted(self.waiting):
            lane, epoch, item = self.waiting[move]
            world.call_at(world.now + move[2], lane.arrive, epoch, item)
        self.waiting.clear()

    def play(self, move: Move) -> None:
        if move == TICK:
            self.ticks -= 1
            self.world.advance()
            return
        lane, epoch, item = self.waiting.pop(move)
        lane.arrive(epoch, item)


def explore(
    make: Callable[[], World],
    check: Callable[[World], None],
    *,
    bound: int,
    over: Callable[[World], bool],
    order: Order = Order.STREAMS,
    ticks: int = 0,
) -> Explored:
    """Play the race in all orders; if there are more than `bound`, as many are drawn from the rest.

    Args:
        make: a world at the moment of the race; from there on messages wait to be delivered.
        check: lets time pass as it needs (the rest arrives in time), and asserts the outcome.
        over: whether the race is over; what is under way then arrives in time. Until then, where
            nothing is under way, time passes.
    """
    branches: list[_Branch] = []
    played = runs = 0
    while played < bound and runs < 4 * bound:
        race = _Race(make(), order, ticks)
        runs += 1
        if _play(race, _Systematic(branches), over):
            check(race.world)
            played += 1
        while branches and branches[-1].index + 1 >= len(branches[-1].moves):
            branches.pop()
        if not branches:
            return Explored(orders=played, drawn=0)
        branches[-1].index += 1
    # Those all begin alike: what is left is sampled.
    rng = Random(bound)
    for _ in range(bound):
        race = _Race(make(), order, ticks)
        _play(race, _Drawn(rng), over)
        check(race.world)
    return Explored(orders=played, drawn=bound)


class _Systematic:
    """Follows the branches, then takes the first move of each new one."""

    def __init__(self, branches: list[_Branch]) -> None:
        self._branches = branches
        self._sleeping: set[Move] = set()
        self._depth = 0

    def choose(self, enabled: list[Move]) -> Move | None:
        if self._depth == len(self._branches):
            awake = [move for move in enabled if move not in self._sleeping]
            if not awake:
                return None
            self._branches.append(_Branch(awake, self._sleeping))
        branch = self._branches[self._depth]
        self._depth += 1
        move = branch.chosen
        done = set(branch.moves[: branch.index])
        self._sleeping = {other for other in branch.sleeping | done if _commute(other, move)}
        return move


class _Drawn:
    """Takes any move."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, enabled: list[Move]) -> Move | None:
        return self._rng.choice(enabled)


def _play(race: _Race, chooser: _Systematic | _Drawn, over: Callable[[World], bool]) -> bool:
    """One order; False where all that is left was played before."""
    world = race.world
    if world.pool is None:
        world.freeze()
    began = world.now
    while not over(world):
        enabled = race.enabled()
        if all(move == TICK for move in enabled):
            if world.next_at is None or world.now > began + PATIENCE:
                break  # `check` says what is wrong
            world.advance()
            continue
        move = chooser.choose(enabled)
        if move is None:
            return False
        race.play(move)
    race.let_go()
    return True


def _commute(one: Move, two: Move) -> bool:
    """Whether their order makes no difference: they reach different processes."""
    return TICK not in (one, two) and one[1] != two[1]
