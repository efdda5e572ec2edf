"""Synchronous exchange: the messages of one round and attempt, and of nothing else (pure).

`Inbox` collects; `Exchange` is the peer machine's half of a round:

    idle     --Context.exchange-->  offered    trained; the barrier is waited for
    offered  --ShareOpened-->       sharing    own messages to peers, expected ones are waited for
    offered  --ShareSkipped-->      idle       the round ends without the others
    sharing  --ShareOpened-->       sharing    a newer attempt: what came in the old one is dropped
    sharing  --all here, or gone, or the deadline-->  idle    aggregated

A message may come before the barrier has opened here: it is kept for its round, and used if the
attempt is the one that opens.

Who gets what, and of whom a message is expected, is the algorithm's `Share`; one message to all and
one of each, where it says no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from node.core.algorithm import Algorithm, Context, Share
from node.core.effects import CancelTimer, Effect, Offer, SetTimer, ShareOver, Value
from node.core.events import ShareOpened
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.units import MILLISECOND, Nanos

DEADLINE: Final = "peer/share"
RESEND: Final = "peer/resend"
RESEND_NS: Final = 100 * MILLISECOND
"""Before a message whose stream broke is queued again."""


class ExchangeContext(Context, Protocol):
    """What the exchange needs of the peer machine's context beyond the algorithm's."""

    def want(self, effect: Effect) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Open:
    """The attempt that is open."""

    round: int
    attempt: int
    peers: tuple[NodeId, ...]
    expected: frozenset[NodeId]
    waiting: set[NodeId]
    received: dict[NodeId, PeerMessage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shared:
    """What sharing came to.

    Args:
        missing: peers of which a message was expected and nothing came.
        stale: messages that were dropped since the last time, being of another round or attempt.
        unexpected: messages of this one that were dropped, the algorithm not having expected them.
    """

    round: int
    attempt: int
    peers: tuple[NodeId, ...]
    received: Mapping[NodeId, PeerMessage]
    missing: tuple[NodeId, ...]
    stale: int
    unexpected: int


class Inbox:
    """Messages by round and attempt. Bounded: of each sender at most one for this round and one for
    the next is kept; nobody can be further ahead of one that takes part."""

    def __init__(self) -> None:
        self._early: dict[tuple[int, NodeId], PeerMessage] = {}
        self._open: _Open | None = None
        self._stale = 0
        self._unexpected = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is waited for in the attempt that is open."""
        return self._open is not None and not self._open.waiting

    def take(self, sender: NodeId, message: PeerMessage, *, own_round: int) -> None:
        """A message has come: use it, keep it for later, or drop and count it."""
        current = self._open
        said = (message.round, message.attempt)
        if current is not None and said == (current.round, current.attempt):
            self._use(current, sender, message)
        elif current is not None and said < (current.round, current.attempt):
            self._stale += 1
        elif own_round <= message.round <= own_round + 1:
            self._keep(sender, message)
        else:
            self._stale += 1

    def open(
        self,
        round_: int,
        attempt: int,
        peers: tuple[NodeId, ...],
        *,
        expected: frozenset[NodeId],
    ) -> None:
        """This attempt is the one that counts from now on; `expected` are some of `peers`."""
        if self._open is not None:
            self._stale += len(self._open.received)
        current = _Open(
            round=round_, attempt=attempt, peers=peers, expected=expected, waiting=set(expected)
        )
        self._open = current
        self._forget_before(round_)
        for sender in peers:
            kept = self._early.get((round_, sender))
            if kept is not None and kept.attempt == attempt:
                del self._early[(round_, sender)]
                self._use(current, sender, kept)

    def drop(self, round_: int, peer: NodeId) -> None:
        """Do not wait for this peer in this round; what has come of it counts."""
        if self._open is not None and self._open.round == round_:
            self._open.waiting.discard(peer)

    def close(self, round_: int) -> Shared:
        """Round `round_` is over, open or not: what came of it."""
        nothing = _Open(round=round_, attempt=0, peers=(), expected=frozenset(), waiting=set())
        current = self._open or nothing
        self._forget_before(round_ + 1)
        shared = Shared(
            round=round_,
            attempt=current.attempt,
            peers=current.peers,
            received={peer: current.received[peer] for peer in sorted(current.received)},
            missing=tuple(sorted(current.expected - current.received.keys())),
            stale=self._stale,
            unexpected=self._unexpected,
        )
        self._open = None
        self._stale = self._unexpected = 0
        return shared

    def reset(self, round_: int) -> None:
        """Go on at another round: what came of others is of no use."""
        if self._open is not None:
            self._stale += len(self._open.received)
            self._open = None
        self._forget_before(round_)

    def _use(self, current: _Open, sender: NodeId, message: PeerMessage) -> None:
        """A message of the attempt that is open."""
        if sender in current.peers and sender not in current.expected:
            self._unexpected += 1
        elif sender not in current.expected or sender in current.received:
            self._stale += 1
        else:
            current.received[sender] = message
            current.waiting.discard(sender)

    def _keep(self, sender: NodeId, message: PeerMessage) -> None:
        key = (message.round, sender)
        old = self._early.get(key)
        if old is None:
            self._early[key] = message
            return
        self._stale += 1
        if message.attempt > old.attempt:
            self._early[key] = message

    def _forget_before(self, round_: int) -> None:
        old = [key for key in self._early if key[0] < round_]
        for key in old:
            del self._early[key]
        self._stale += len(old)


class Exchange:
    """The peer machine's half of a synchronous round; see the module.

    Args:
        share_ns: from the start of sharing to aggregating what has come.
    """

    def __init__(self, *, algorithm: Algorithm, share_ns: Nanos) -> None:
        self._algorithm = algorithm
        self._share_ns = share_ns
        self._inbox = Inbox()
        self._offered = False
        self._sent: dict[NodeId, PeerMessage] = {}
        """What was sent last, to those who may lack it; also after the sharing is over here."""
        self._sent_in: int | None = None
        """The round of it; None: nothing was sent, or nobody waits for it any more."""
        self._failed: set[NodeId] = set()
        """Of them, those to whom it is to be sent again."""
        self._resend_until: Nanos = 0
        self._open: tuple[int, int] | None = None

    def offer(self, ctx: ExchangeContext) -> None:
        """The algorithm has trained. Raises ValueError if it has said so already."""
        if self._offered:
            raise ValueError("exchange() was called already in this round")
        self._offered = True
        ctx.want(Offer(round=ctx.round))

    def take(self, ctx: ExchangeContext, sender: NodeId, message: PeerMessage) -> None:
        """A message with an attempt has come, and fits the model."""
        if sender not in ctx.peers:
            ctx.record("refused", {"sender": sender, "reason": "shared by one who is no neighbour"})
            return
        self._inbox.take(sender, message, own_round=ctx.round)
        self._end_if_complete(ctx)

    def opened(self, ctx: ExchangeContext, event: ShareOpened) -> None:
        """The barrier is open. An old one, or one that is open already, changes nothing.

        Raises ValueError if the algorithm shares with others than it may.
        """
        here = (event.round, event.attempt)
        known = self._open is not None and here <= self._open
        if not self._offered or event.round != ctx.round or known:
            return
        peers = tuple(peer for peer in sorted(event.peers) if peer in ctx.peers)
        for peer in sorted(set(event.peers) - set(peers)):
            ctx.record("refused", {"sender": peer, "reason": "to share with, but no neighbour"})
        self._open = here
        self._forget_sent(ctx)
        share = _as_share(self._algorithm.on_share(ctx, peers), peers)
        self._inbox.open(event.round, event.attempt, peers, expected=share.expected)
        stamped = {
            message: replace(message, round=event.round, attempt=event.attempt)
            for message in share.messages.values()
        }
        self._sent = {peer: stamped[share.messages[peer]] for peer in sorted(share.messages)}
        self._sent_in = event.round if self._sent else None
        self._resend_until = ctx.now + self._share_ns
        for peer in self._sent:
            self._send(ctx, peer)
        ctx.want(SetTimer(key=DEADLINE, at=ctx.now + self._share_ns))
        self._end_if_complete(ctx)

    def skipped(self, ctx: ExchangeContext, round_: int) -> None:
        """The round goes on without this node: end it with what is here."""
        if self._offered and round_ == ctx.round:
            self._end(ctx)

    def dropped(self, ctx: ExchangeContext, round_: int, peer: NodeId) -> None:
        """Nothing will come of this peer, and it needs nothing."""
        if round_ == self._sent_in:
            self._sent.pop(peer, None)
            self._failed.discard(peer)
        self._inbox.drop(round_, peer)
        self._end_if_complete(ctx)

    def send_failed(self, ctx: ExchangeContext, target: NodeId, key: str) -> None:
        """A stream broke: send again in a moment, as long as the peer may wait for it.

        Also after the sharing is over here: the peers wait for it as long as they did for theirs.
        """
        if self._sent_in is None or key != _key(self._sent_in) or target not in self._sent:
            return
        if ctx.now + RESEND_NS < self._resend_until:
            self._failed.add(target)
            ctx.want(SetTimer(key=RESEND, at=ctx.now + RESEND_NS))

    def timer(self, ctx: ExchangeContext, key: str) -> None:
        if key == RESEND:
            for peer in sorted(self._failed):
                self._send(ctx, peer)
            self._failed.clear()
        elif key == DEADLINE and self._open is not None:
            self._end(ctx)

    def reset(self, ctx: ExchangeContext, round_: int) -> None:
        """Give up what is under way; the node goes on at `round_`."""
        self._give_up(ctx)
        self._forget_sent(ctx)
        self._inbox.reset(round_)

    def stop(self, ctx: ExchangeContext) -> None:
        """No more exchanges; what was sent may still have to be sent again."""
        self._give_up(ctx)
        self._inbox = Inbox()

    def _give_up(self, ctx: ExchangeContext) -> None:
        if self._open is not None:
            ctx.want(CancelTimer(key=DEADLINE))
        self._offered, self._open = False, None

    def _forget_sent(self, ctx: ExchangeContext) -> None:
        """Nobody waits any more for what was sent last: what is still queued would be in the way of
        the next."""
        if self._sent_in is not None:
            ctx.drop_queued(key_prefix=_key(self._sent_in))
        self._sent, self._sent_in, self._failed = {}, None, set()

    def _send(self, ctx: ExchangeContext, peer: NodeId) -> None:
        assert self._sent_in is not None
        # In the place of what an older attempt may have left in the queue.
        ctx.send(peer, self._sent[peer], key=_key(self._sent_in), supersedes=True)

    def _end_if_complete(self, ctx: ExchangeContext) -> None:
        if self._open is not None and self._inbox.complete:
            self._end(ctx)

    def _end(self, ctx: ExchangeContext) -> None:
        """Aggregate what came. Raises ValueError if the algorithm does not end its round."""
        shared = self._inbox.close(ctx.round)
        self._give_up(ctx)
        received: list[Value] = list(shared.received)
        missing: list[Value] = list(shared.missing)
        fields: Mapping[str, Value] = {
            "round": shared.round,
            "attempt": shared.attempt,
            "received": received,
            "missing": missing,
            "stale": shared.stale,
            "unexpected": shared.unexpected,
        }
        ctx.record("share", fields)
        # Before what the algorithm wants next, which may be the next exchange.
        ctx.want(ShareOver(round=shared.round, attempt=shared.attempt, missing=shared.missing))
        self._algorithm.on_exchanged(ctx, shared.received, shared.peers)
        if ctx.round != shared.round + 1:
            raise ValueError(
                f"on_exchanged of round {shared.round} must call end_round once; "
                f"the round is {ctx.round} now"
            )


def _as_share(answer: PeerMessage | Share | None, peers: tuple[NodeId, ...]) -> Share:
    """What `Algorithm.on_share` answered, in its long form. Raises ValueError; see `opened`."""
    if not isinstance(answer, Share):
        messages = {} if answer is None else dict.fromkeys(peers, answer)
        return Share(messages=messages, expected=frozenset(peers))
    strangers = sorted({*answer.messages, *answer.expected}.difference(peers))
    if strangers:
        raise ValueError(
            f"on_share names {', '.join(strangers)}, of whom the round's peers are not; "
            f"they are {', '.join(peers) or 'nobody'}"
        )
    return answer


def _key(round_: int) -> str:
    return f"round/{round_}"
