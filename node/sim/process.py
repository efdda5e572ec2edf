"""What a node and the coordinator have in common in a simulation: a life with records, and machines
that are driven on virtual time as `node.runtime.drive` does on an event loop.
"""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from node.core.effects import CancelTimer, Effect, Machine, SetTimer
from node.core.events import Event, TimerFired
from node.core.ids import NodeId
from node.errors import PeerbedError
from node.units import Nanos

if TYPE_CHECKING:
    from node.sim.world import World


class Process:
    """One life of a node or of the coordinator.

    Attributes:
        began: when the run clock stood at 0 (it may lie ahead); None: not known yet.
        status: exit status; None as long as it lives.
        asleep: what came while it was paused, in order; None: it is awake.
    """

    def __init__(self, world: World, name: NodeId) -> None:
        self.world = world
        self.queue = world.queue
        self.name = name
        self.began: Nanos | None = None
        self.status: int | None = None
        self.asleep: list[tuple[Driver, Event]] | None = None
        self._failed = False
        self._refused: Counter[tuple[str, str]] = Counter()

    @property
    def gone(self) -> bool:
        return self.status is not None

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.world.records.write(self.name, kind, fields, now=self.queue.now, began=self.began)

    def refuse(self, sender: str, reason: str) -> None:
        """Count what was refused: who sends much of it does not fill the log."""
        self._refused[sender, reason] += 1

    def flush_refusals(self) -> None:
        """To be called every now and then: one record for each sender and reason."""
        for (sender, reason), count in self._refused.items():
            self.record("refused", {"peer": sender, "reason": reason, "count": count})
        self._refused.clear()

    def fail(self, reason: str) -> None:
        """Something broke for good: say so and end. Only the first counts."""
        if not self._failed:
            self._failed = True
            self.record("error", {"message": reason})
            self.failed(reason)

    def defect(self, error: Exception) -> None:
        """An exception out of a machine or what performs its effects: keep its traceback."""
        if isinstance(error, PeerbedError):
            self.fail(error.said_by(self.name))
            return
        self.world.records.log(self.name, "".join(traceback.format_exception(error)))
        self.fail(f"{type(error).__name__}: {error}")

    def failed(self, reason: str) -> None:
        """What a failure leads to."""
        raise NotImplementedError

    def sleep(self) -> None:
        self.asleep = [] if self.asleep is None else self.asleep

    def wake(self) -> None:
        """Go on with what has come meanwhile."""
        missed, self.asleep = self.asleep or [], None
        for driver, event in missed:
            driver.feed(event)


class Driver:
    """One machine: one event at a time, its effects in order, its timers.

    Timers are re-armed lazily: one that is put off again and again, as a lease is, has one entry in
    the queue.

    Args:
        perform: every effect that is not about timers.
        on_defect: told when the machine, or what performs its effects, raises; the machine gets no
            further event.
    """

    __slots__ = (
        "_armed", "_closed", "_driving", "_due", "_events", "_machine", "_on_defect", "_perform",
        "_process", "_queue", "zero",
    )  # fmt: skip

    def __init__(
        self,
        machine: Machine,
        *,
        process: Process,
        perform: Callable[[Effect], None],
        on_defect: Callable[[Exception], None],
    ) -> None:
        self._machine = machine
        self._process = process
        self._queue = process.queue
        self._perform = perform
        self._on_defect = on_defect
        self.zero: Nanos = 0
        """When the machine's clock stood at 0; it stands still before."""
        self._due: dict[str, Nanos] = {}
        """When each timer fires."""
        self._armed: dict[str, Nanos] = {}
        """For each key, the entry in the queue that is to look after it."""
        self._events: deque[Event] = deque()
        self._driving = False
        self._closed = False

    def feed(self, event: Event) -> None:
        """Drive the machine with an event; one that comes of its own effects waits its turn."""
        process = self._process
        if process.asleep is not None:
            process.asleep.append((self, event))
            return
        self._events.append(event)
        if self._driving:
            return
        self._driving = True
        try:
            while self._events and not self._closed:
                self._step(self._events.popleft())
        except Exception as error:
            self.close()
            self._on_defect(error)
        finally:
            self._driving = False

    def close(self) -> None:
        """No more timers and events."""
        self._closed = True
        self._due.clear()
        self._events.clear()

    def _step(self, event: Event) -> None:
        now = max(0, self._queue.now - self.zero)
        for effect in self._machine.step(event, now=now):
            if isinstance(effect, SetTimer):
                self._arm(effect.key, max(self._queue.now, effect.at + self.zero))
            elif isinstance(effect, CancelTimer):
                self._due.pop(effect.key, None)
            else:
                self._perform(effect)

    def _arm(self, key: str, at: Nanos) -> None:
        self._due[key] = at
        armed = self._armed.get(key)
        if armed is None or at < armed:
            self._armed[key] = at
            self._queue.at(at, self._look, key, at)

    def _look(self, key: str, at: Nanos) -> None:
        """An entry of a timer has come up: fire it, put it off, or forget it."""
        if self._armed.get(key) != at:
            return  # there was an earlier one meanwhile
        del self._armed[key]
        due = self._due.get(key)
        if due is None:
            return
        if due > at:
            self._arm(key, due)
            return
        del self._due[key]
        self.feed(TimerFired(key=key))
