"""The measuring of links before the start, as the coordinator leads it: slot by slot, three tries.

What is measured at the same time must not disturb each other: `Probing.schedule` cuts the pairs
into slots. Pairs that are not as asked are measured again, with less at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from node.config import ExpectedPair
from node.core.effects import CancelTimer, Effect, Record, Send, SetTimer
from node.core.ids import NodeId
from node.core.signals import LinkReading, LinksMeasured, MeasureLinks
from node.units import Nanos

TRIES: Final = 3
SLOT: Final = "coordinator/slot"
"""Key of the timer."""
_Pair: TypeAlias = tuple[NodeId, NodeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSlot:
    """What is measured at the same time: for each member, the paths to measure from it."""

    targets: Mapping[NodeId, tuple[NodeId, ...]]
    measures: tuple[str, ...]
    deadline_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """The measuring of links as pure functions (`node.links.report`).

    Args:
        schedule: cuts pairs into slots that do not disturb each other; on a later try, less still.
        judge: whether what was measured is what was asked for.
    """

    schedule: Callable[[tuple[ExpectedPair, ...], int], tuple[ProbeSlot, ...]]
    judge: Callable[[ExpectedPair, LinkReading], bool]


class Measuring:
    """What has been measured so far, and what is being measured. `done` says when it is over."""

    def __init__(self, *, probing: Probing, pairs: tuple[ExpectedPair, ...]) -> None:
        self._probing = probing
        self._pairs = pairs
        self._slots: list[ProbeSlot] = []
        self._waiting: set[NodeId] = set()
        self._readings: dict[_Pair, LinkReading] = {}
        self._slot = 0
        self.tries = 0
        self.done = False

    @property
    def readings(self) -> tuple[LinkReading, ...]:
        return tuple(self._readings.values())

    @property
    def misses(self) -> tuple[ExpectedPair, ...]:
        """The pairs that are not as asked, or not measured."""
        return tuple(pair for pair in self._pairs if not self._as_asked(pair))

    def begin(self, now: Nanos) -> list[Effect]:
        """Measure all pairs."""
        return self._measure(self._pairs, now)

    def hear(self, sender: NodeId, signal: LinksMeasured, now: Nanos) -> list[Effect]:
        """What a member has measured; nothing where that slot was given up."""
        if self.done or signal.slot != self._slot:
            return []
        for reading in signal.readings:
            pair = (reading.source, reading.target)
            self._readings[pair] = _merged(self._readings.get(pair), reading)
        self._waiting.discard(sender)
        return [] if self._waiting else self._next_slot(now)

    def slot_over(self, now: Nanos) -> list[Effect]:
        """The slot's deadline: go on without those who have not answered."""
        late = ", ".join(sorted(self._waiting))
        note = Record(kind="warning", fields={"message": f"no link measurements from {late}"})
        return [note, *self._next_slot(now)]

    def _measure(self, pairs: tuple[ExpectedPair, ...], now: Nanos) -> list[Effect]:
        self.tries += 1
        self._slots = list(self._probing.schedule(pairs, self.tries))
        fields = {"try": self.tries, "pairs": len(pairs), "slots": len(self._slots)}
        return [Record(kind="measuring", fields=dict(fields)), *self._next_slot(now)]

    def _next_slot(self, now: Nanos) -> list[Effect]:
        if not self._slots:
            return [CancelTimer(key=SLOT), *self._try_over(now)]
        slot = self._slots.pop(0)
        self._slot += 1
        self._waiting = set(slot.targets)
        effects: list[Effect] = [SetTimer(key=SLOT, at=now + slot.deadline_ns)]
        for member, targets in slot.targets.items():
            order = MeasureLinks(slot=self._slot, targets=targets, measures=slot.measures)
            effects.append(Send(target=member, message=order))
        return effects

    def _try_over(self, now: Nanos) -> list[Effect]:
        """All slots are through: try the misses again, or leave it at that."""
        misses = self.misses
        if not misses or self.tries >= TRIES:
            self.done = True
            return []
        for pair in misses:
            self._readings.pop((pair.source, pair.target), None)
        return self._measure(misses, now)

    def _as_asked(self, pair: ExpectedPair) -> bool:
        reading = self._readings.get((pair.source, pair.target))
        return reading is not None and self._probing.judge(pair, reading)


def _merged(old: LinkReading | None, new: LinkReading) -> LinkReading:
    """One reading from several slots: the newer where it says something."""
    if old is None:
        return new
    return replace(
        old,
        rtt_ns=old.rtt_ns if new.rtt_ns is None else new.rtt_ns,
        goodput_bps=old.goodput_bps if new.goodput_bps is None else new.goodput_bps,
        loss=old.loss if new.loss is None else new.loss,
        loss_packets=old.loss_packets if new.loss_packets is None else new.loss_packets,
        transport=old.transport or new.transport,
        error=new.error or old.error,
        jitter_ns=old.jitter_ns if new.jitter_ns is None else new.jitter_ns,
        duplicate=old.duplicate if new.duplicate is None else new.duplicate,
    )
