"""Watches the machines' transitions and holds them to their tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from node.core.coordinator import Coordinator
from node.core.events import Event
from node.core.tables import COORDINATOR, ROUNDS
from node.core.tables_member import MEMBER, PARTICIPANT
from tests.simulation.trace import name_of
from tests.simulation.transitions import RowId, Table

if TYPE_CHECKING:
    from tests.simulation.hosts import Node
    from tests.simulation.invariants import Invariant

_CALLS = {"resume": "begin", "progress": "join"}
"""Calls of the rounds that are another row's event."""
_PASSES_ON = ("ready", "running", "done")
"""States of a member in which it passes events on to its participant."""
_NAMES = ("begin", "resume", "join", "leave", "finish", "hear", "progress", "timer", "close")


class Tables:
    """The four tables of one world."""

    def __init__(self, invariant: Invariant) -> None:
        self._fail = invariant.fail
        self._coordinator = Table("coordinator", COORDINATOR)
        self._rounds = Table("rounds", ROUNDS)
        self._member = Table("member", MEMBER)
        self._participant = Table("participant", PARTICIPANT)
        self._depth = 0

    def rows(self) -> Counter[RowId]:
        """How often each row was taken."""
        tables = (self._coordinator, self._rounds, self._member, self._participant)
        return Counter({row: n for table in tables for row, n in table.seen.items()})

    def instrument(self, machine: Coordinator) -> None:
        """Watch the calls of this coordinator's rounds, which are its table's events."""
        rounds: Any = machine.learning.rounds
        for name in _NAMES:
            if hasattr(rounds, name):
                setattr(rounds, name, self._watched(rounds, name, getattr(rounds, name)))

    def _watched(self, rounds: Any, name: str, call: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            before, self._depth = rounds.state.value, self._depth + 1
            try:
                done = call(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:  # one that the rounds call themselves is part of that
                event = _CALLS.get(name, name)
                if name == "hear":
                    event = type(args[1]).__name__
                    event = "join" if event == "JoinRound" else event
                elif name == "timer":
                    event = "timer " + args[0].split("/")[1]
                self._check(self._rounds, before, event, rounds.state.value)
            return done

        return watched

    def coordinator(self, event: Event, before: Any, after: str) -> None:
        self._check(self._coordinator, before.value, name_of(event), after)

    def member(self, node: Node, event: Event, before: Any) -> None:
        machine: Any = node.member.machine
        name = name_of(event)
        self._check(self._member, before[0], name, machine.state.value)
        if before[0] in _PASSES_ON or name == "Prepared":
            self._check(self._participant, before[1], name, str(machine.stage))
        elif before[1] != machine.stage:
            self._fail(f"participant: {before[1]} --{name}--> {machine.stage} while {before[0]}")

    def _check(self, table: Table, state: str, event: str, to: str) -> None:
        wrong = table.check(state, event, to)
        if wrong is not None:
            self._fail(wrong)


def all_rows() -> list[RowId]:
    """Every row of every table."""
    tables = (
        Table("coordinator", COORDINATOR),
        Table("rounds", ROUNDS),
        Table("member", MEMBER),
        Table("participant", PARTICIPANT),
    )
    return [row for table in tables for row in table.row_ids()]
