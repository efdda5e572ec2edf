"""Who is in the run, as the coordinator keeps it: seats, leases, what is said to members, and what
went wrong with whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from node.config import CoordinatorConfig
from node.core.effects import CancelTimer, Effect, Record, Send, SetTimer, StoreLinks, Value
from node.core.ids import NodeId
from node.core.orders import LinkOrders
from node.core.seats import Seat
from node.core.signals import LinkReading, Signal, Welcome
from node.units import SECOND, Nanos

LEASE: Final = "coordinator/lease/"
AWAY: Final = "coordinator/away/"
_AWAY_BEATS: Final = 2
"""Heartbeats for which a stream may be closed before its member is left out of rounds."""


class Roster:
    """See the module.

    Args:
        stamp: puts the present round and attempt on a signal.
    """

    def __init__(self, *, config: CoordinatorConfig, stamp: Callable[[Signal], Signal]) -> None:
        self._deadlines = config.deadlines
        self._welcome = Welcome(
            heartbeat_ns=config.deadlines.heartbeat_ns, lease_ns=config.deadlines.lease_ns
        )
        self._stamp = stamp
        self.seats = {name: Seat() for name in config.members}
        self.absent: set[NodeId] = set(config.standby)
        """Who is not waited for at the start, or after a restart."""
        self.orders = LinkOrders()
        self._errors: dict[str, str] = {}

    # --- what is said

    def say(self, member: NodeId, signal: Signal) -> Effect:
        return Send(target=member, message=self._stamp(signal))

    def tell_all(self, signal: Signal) -> list[Effect]:
        """To all who are present."""
        return [self.say(name, signal) for name, seat in self.seats.items() if seat.present]

    def welcome(self, member: NodeId, *, need_sync: bool = False) -> Effect:
        return self.say(member, replace(self._welcome, need_sync=need_sync))

    def welcome_to(self, member: NodeId, round_: int) -> Effect:
        """It holds the model now: the round that it is to join."""
        return Send(target=member, message=replace(self._welcome, round=round_))

    def links(self, readings: tuple[LinkReading, ...]) -> Effect:
        """What is known of the links, to be written down."""
        hellos = {n: seat.hello for n, seat in self.seats.items() if seat.hello is not None}
        return StoreLinks(
            readings=readings,
            applied={name: hello.applied for name, hello in hellos.items()},
            emulators={name: hello.emulator for name, hello in hellos.items()},
        )

    # --- leases

    def renew(self, member: NodeId, now: Nanos) -> list[Effect]:
        """It was heard of: its lease begins anew."""
        if not self.seats[member].present:
            return []
        return [SetTimer(key=LEASE + member, at=now + self._deadlines.lease_ns)]

    def closed(self, member: NodeId, now: Nanos) -> list[Effect]:
        """Its stream is closed; the lease decides whether it is lost."""
        at = now + _AWAY_BEATS * self._deadlines.heartbeat_ns
        return [noted(member, "stream lost"), SetTimer(key=AWAY + member, at=at)]

    def heard(self, member: NodeId, now: Nanos, *, missed_too: bool) -> list[Effect]:
        """It says something, whatever it is.

        Args:
            missed_too: one that was given up, and is alive after all, comes back.
        """
        seat = self.seats[member]
        effects: list[Effect] = []
        if seat.away and not seat.reborn:
            seat.away = False
            effects.append(noted(member, "present"))
        if seat.missed and missed_too and not seat.reborn:
            seat.left = seat.missed = False
            self.forgive(member)
            effects.append(noted(member, "back"))
        return [*effects, *self.renew(member, now)]

    def mark_left(self, member: NodeId, *, missed: bool) -> list[Effect]:
        """It is not waited for any more; `missed`: it has not said so itself."""
        seat = self.seats[member]
        seat.left, seat.missed = True, missed
        return [CancelTimer(key=LEASE + member), CancelTimer(key=AWAY + member)]

    # --- what went wrong

    def blame(self, member: NodeId, text: str) -> None:
        """Something went wrong with a member; forgiven if it comes back."""
        self._errors[member] = f"{member}: {text}"

    def forgive(self, member: NodeId) -> None:
        self._errors.pop(member, None)

    def fail(self, text: str) -> None:
        """Something went wrong with the run."""
        self._errors[f"run/{len(self._errors)}"] = text

    @property
    def error(self) -> str | None:
        """All that went wrong."""
        return "; ".join(self._errors.values()) or None

    # --- all of them

    @property
    def anybody(self) -> bool:
        return any(seat.present for seat in self.seats.values())

    @property
    def awaited(self) -> Iterable[Seat]:
        """Of those who are waited for."""
        return [seat for name, seat in self.seats.items() if name not in self.absent]

    def names(self, wanted: Callable[[Seat], bool]) -> str:
        """Of those who came or are waited for, and are such; for people."""
        every = self.seats.items()
        such = (name for name, seat in every if seat.hello or name not in self.absent)
        return ", ".join(name for name in such if wanted(self.seats[name]))

    def all_done(self) -> str | None:
        """Why all who work are done; None: one of them is not."""
        if any(seat.done is None and seat.working for seat in self.seats.values()):
            return None
        staying = [seat for seat in self.seats.values() if seat.working]
        reasons = {seat.done.reason for seat in staying if seat.done is not None}
        return "+".join(sorted(reasons)) or "nobody left"

    def reached(self, target: float | None) -> bool:
        """Whether the mean accuracy of all who work is that of the target, if there is one; not
        before each has one."""
        if target is None:
            return False
        known = [seat.accuracy for seat in self.seats.values() if seat.working]
        values = [accuracy for accuracy in known if accuracy is not None]
        return 0 < len(known) == len(values) and sum(values) / len(values) >= target


def noted(member: NodeId, state: str, **fields: Value) -> Effect:
    """The record of what became of a member."""
    return Record(kind="member", fields={"member": member, "state": state, **fields})


def started(at: Nanos) -> Effect:
    """The record of the run clock's zero."""
    return Record(kind="start", fields={"at_wall": at / SECOND})
