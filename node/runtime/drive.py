"""A machine on the event loop: one event at a time, its effects in order, its timers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from node.core.effects import CancelTimer, Effect, Machine, SetTimer
from node.core.events import Event, TimerFired
from node.runtime.clock import Clock
from node.units import SECOND, Nanos


class Host(Protocol):
    """What performs a machine's effects."""

    def now(self) -> Nanos:
        """On the machine's clock."""

    def perform(self, effect: Effect) -> None: ...


def drive(machine: Machine, event: Event, host: Host) -> None:
    """Feed one event, then perform what comes of it in order."""
    for effect in machine.step(event, now=host.now()):
        host.perform(effect)


class Driver:
    """Drives one machine and keeps its timers. Make it on a running event loop.

    Args:
        perform: every effect that is not about timers.
        on_defect: told when the machine, or what performs its effects, raises; the machine gets no
            further event.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        clock: Clock,
        perform: Callable[[Effect], None],
        on_defect: Callable[[Exception], None],
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._perform = perform
        self._on_defect = on_defect
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._events: deque[Event] = deque()
        self._driving = False
        self._closed = False

    def feed(self, event: Event) -> None:
        """Drive the machine with an event; one that comes of its own effects waits its turn."""
        self._events.append(event)
        if self._driving:
            return
        self._driving = True
        try:
            while self._events and not self._closed:
                drive(self._machine, self._events.popleft(), self)
        except Exception as error:
            self.close()
            self._on_defect(error)
        finally:
            self._driving = False

    def now(self) -> Nanos:
        return self._clock.now()

    def perform(self, effect: Effect) -> None:
        match effect:
            case SetTimer(key=key, at=at):
                self._cancel(key)
                delay = max(0, at - self.now()) / SECOND
                self._timers[key] = self._loop.call_later(delay, self._fire, key)
            case CancelTimer(key=key):
                self._cancel(key)
            case _:
                self._perform(effect)

    def close(self) -> None:
        """No more timers and events."""
        self._closed = True
        for key in list(self._timers):
            self._cancel(key)

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, key: str) -> None:
        del self._timers[key]
        self.feed(TimerFired(key=key))
