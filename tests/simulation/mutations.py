"""The machines, broken on purpose: for each invariant at least one way to violate it.

A harness that finds nothing proves nothing unless it would find something. Each mutation replaces
one method of one machine; `test_mutations.py` demands that the invariant named here catches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from node.core import connecting, exchange, learning, participant, rounds, standings
from node.core.effects import Effect, OpenShare


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One way to break a machine.

    Args:
        says: what is wrong then.
        invariant: name of the one that has to catch it.
        also: others that may be faster, where several follow from the defect.
        of: the class whose method is replaced.
        method: its name.
        becomes: gets the method as it was, and returns the one to put in its place.
        seeds: at least one of them notices.
    """

    says: str
    invariant: str
    of: type
    method: str
    becomes: Callable[[Any], Any]
    seeds: range = range(150)
    also: tuple[str, ...] = ()


def _any_attempt(take: Any) -> Any:
    def mutated(self: Any, sender: Any, message: Any, *, own_round: int) -> None:
        current = self._open
        if current is not None and sender in current.waiting:
            current.received[sender] = message
            current.waiting.discard(sender)
        else:
            take(self, sender, message, own_round=own_round)

    return mutated


def _no_own_round(opened: Any) -> Any:
    """Shares whatever it is told to."""

    def mutated(self: Any, signal: Any) -> list[Effect]:
        share = OpenShare(round=signal.round, attempt=signal.attempt, peers=signal.peers)
        return [*opened(self, signal), share]

    return mutated


def _former_payloads(open_: Any) -> Any:
    """What came in the round before is still there when the next one opens."""

    def mutated(self: Any, round_: int, attempt: int, peers: Any, *, expected: Any) -> None:
        former = self.__dict__.get("_former", {})
        open_(self, round_, attempt, peers, expected=expected)
        for sender in self._open.waiting & former.keys():
            self._open.received[sender] = former[sender]
            self._open.waiting.discard(sender)
        self._former = self._open.received

    return mutated


def _any_report(report: Any) -> Any:
    """A report counts for the attempt that is under way, whatever it says."""

    def mutated(self: Any, member: Any, signal: Any, now: int) -> list[Effect]:
        connecting_ = self._connecting
        if self._state is rounds.RoundState.CONNECT and member in connecting_.participants:
            connecting_.reports[member] = signal
            effects: list[Effect] = self._evaluate(now)
        else:
            effects = report(self, member, signal, now)
        return effects

    return mutated


def _without_the_last_report(complete: Any) -> Any:
    return property(lambda self: complete.fget(self) or len(self.silent) == 1)


def _only_the_ready(count: Any) -> Any:
    return lambda self, round_: 2 * count(self, round_)[1:]


def _never(method: Any) -> Any:
    return lambda self, *args, **kwargs: []


def _wrong_end(cover: Any) -> Any:
    """Expels somebody who has nothing to do with it, if there is such a one."""

    def mutated(self: Any) -> dict[Any, str]:
        reasons: dict[Any, str] = cover(self)
        others = sorted(self.reports.keys() - {end for edge in self.failed() for end in edge})
        return {others[0]: "for another's fault"} if reasons and others else reasons

    return mutated


def _all_edges_of_both_ends(give_up: Any) -> Any:
    """Drops every edge when one has failed."""

    def mutated(self: Any, silent: Any) -> Any:
        failing = give_up(self, silent)
        if failing:
            failing = failing | self.edges
            self.edges = set()
        return failing

    return mutated


def _armed_at_once(offered: Any) -> Any:
    def mutated(self: Any, round_: int) -> list[Effect]:
        effects: list[Effect] = offered(self, round_)
        if self._standing is participant.Standing.READY:
            self._standing = participant.Standing.SHARING
        return effects

    return mutated


MUTATIONS: dict[str, Mutation] = {
    "aggregate-any-attempt": Mutation(
        says="A payload counts for whatever round and attempt is open.",
        invariant="right-round",
        of=exchange.Inbox,
        method="take",
        becomes=_any_attempt,
        seeds=range(680, 700),  # a payload has to be overtaken by the whole next barrier
    ),
    "keep-the-former-payloads": Mutation(
        says="What came in the round before counts in the next one.",
        invariant="right-round",
        of=exchange.Inbox,
        method="open",
        becomes=_former_payloads,
    ),
    "share-whatever-is-said": Mutation(
        says="A start that is not for the member's round opens the sharing all the same.",
        invariant="one-round",
        of=participant.Participant,
        method="_opened",
        becomes=_no_own_round,
    ),
    "start-without-the-last-report": Mutation(
        says="The coordinator starts when all but one have reported.",
        invariant="start-quorum",
        of=connecting.Connecting,
        method="complete",
        becomes=_without_the_last_report,
    ),
    "count-any-report": Mutation(
        says="ConnectionsReady counts for the present attempt, whatever attempt it is of.",
        invariant="start-quorum",
        of=rounds.Rounds,
        method="_report",
        becomes=_any_report,
    ),
    "connect-without-the-slow": Mutation(
        says="A round begins to connect as soon as anybody is ready.",
        invariant="gather-quorum",
        of=standings.Standings,
        method="count",
        becomes=_only_the_ready,
    ),
    "give-up-at-once": Mutation(
        says="No attempt is made again.",
        invariant="healthy-spared",
        of=connecting.Connecting,
        method="more",
        becomes=lambda _: property(lambda self: False),
        also=("start-quorum",),
    ),
    "gather-for-ever": Mutation(
        says="The deadline of the gathering never fires.",
        invariant="every-wait-ends",
        of=rounds.Rounds,
        method="_gather_over",
        becomes=_never,
    ),
    "share-for-ever": Mutation(
        says="The deadline of the sharing never fires at the members.",
        invariant="every-wait-ends",
        of=exchange.Exchange,
        method="timer",
        becomes=_never,
    ),
    "expel-the-wrong-end": Mutation(
        says="ConnectionFail goes to a participant that has no failed edge.",
        invariant="healthy-spared",
        of=connecting.Connecting,
        method="cover",
        becomes=_wrong_end,
    ),
    "drop-all-edges": Mutation(
        says="One edge that has failed takes all others with it.",
        invariant="healthy-spared",
        of=connecting.Connecting,
        method="give_up",
        becomes=_all_edges_of_both_ends,
    ),
    "say-nothing-twice": Mutation(
        says="A member that waits does not repeat what it said last.",
        invariant="rounds-complete",
        of=participant.Participant,
        method="repeat",
        becomes=_never,
        also=("every-wait-ends",),
    ),
    "forget-the-newcomer": Mutation(
        says="Who has got the model is never told which round to join.",
        invariant="rounds-complete",
        of=learning.Learning,
        method="_synced",
        becomes=_never,
    ),
    "share-when-ready": Mutation(
        says="A member goes from ready to sharing without any barrier.",
        invariant="in-the-tables",
        of=participant.Participant,
        method="offered",
        becomes=_armed_at_once,
    ),
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """The machines with this mutation; None: as they are."""
    if name is None:
        yield
        return
    mutation = MUTATIONS[name]
    replacement = mutation.becomes(mutation.of.__dict__[mutation.method])
    with patch.object(mutation.of, mutation.method, replacement):
        yield
