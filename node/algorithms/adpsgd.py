"""AD-PSGD: asynchronous pairwise averaging, beside the training.

Source: Lian, Zhang, Zhang and Liu, "Asynchronous Decentralized Parallel Stochastic Gradient
Descent" (ICML 2018, arXiv 1710.06952), Algorithm 1 and its bipartite implementation without
deadlocks; with an eye on sacs-epfl/async-dl (`ADPSGDNode.py`). No barrier. Nodes are active or
passive, and average across that line only:

* every node trains `local_steps` mini-batch steps (1 in the paper) from its model x, and when they
  end adds what they changed to the model that is there then: x <- x + (trained - start). The model
  that is evaluated is the one before that: an average, as with other algorithms;
* meanwhile an active node i exchanges with one random passive neighbour j at a time. It sends x_i.
  j answers with its own model x_j as it is, and takes (x_i + x_j) / 2 at once. With the answer i
  adds (x_j - x_i as sent) / 2: the average where i has not trained meanwhile, and the paper's order
  (average, then gradient) where it has.

Both ends change by the same difference with opposite signs. So the sum of all models changes by
training alone, in any interleaving. async-dl averages the answer with the model that is there when
it comes, and loses half of what was trained in between.

Roles: only an active node waits for answers, and only passive ones give them. So nobody changes the
model of a node between its request and the answer but its own training, and nothing can deadlock.
The roles are a 2-colouring of the overlay (`two_sides`): its own where it is bipartite. Elsewhere
edges between nodes of one colour are not used, at most half of them; of an overlay of all with all,
every second node by name order is active. The plan tells each node (`partners`).

What gets lost: exchanges are numbered, and a passive node keeps its answer until the active one
says that it has it (`done`). Where an answer does not come (the connection broke, or `timeout_s` is
over) the active node cancels the request if it is still queued, asks for the answer (`ask`), and
goes on with other neighbours meanwhile. The passive node sends the answer again, or says that there
is none (`void`), and will not take that request any more should it come yet. So an exchange is done
by both or by none as soon as the two can talk again. An answer that comes late counts as the same
difference, which keeps the sum, but is no average any more; it is recorded (`late`), and so is what
is unsettled at the end of each round (`open`). Where one of the two is started again, its half is
gone with its model, and the exchange is void.

Who has ended its rounds (`stop: {rounds: ...}`) changes its model no more, but has a word for those
that go on. A passive node that has ended answers requests with `void` and that it is `over`: it is
asked no more. An active one to which an answer still comes says `undo`, and the passive node takes
its half back (`undone`). What is unsettled when both have ended stays so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

import numpy as np

from node.algorithms.common import LocalSteps, whole_model
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Vector, Whole
from node.units import SECOND, Nanos

_TIMER: Final = "overdue"


class _Kind(StrEnum):
    """What a message is."""

    REQUEST = "request"
    ANSWER = "answer"
    DONE = "done"
    ASK = "ask"
    VOID = "void"
    UNDO = "undo"


_KINDS: Final = frozenset(_Kind)


class Pace(StrEnum):
    """When an active node begins its next exchange."""

    ROUND = "round"
    """With a round of training, if the one before is over: at most one for each gradient."""
    CONTINUOUS = "continuous"
    """When the one before is over, as async-dl does."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Exchange:
    """An exchange that this active node has requested.

    Args:
        sent: the model that it has sent.
        due: on the run clock, when to ask (again) what became of it.
    """

    number: int
    sent: Vector
    due: Nanos


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Answer:
    """What became of the newest request of a partner.

    Args:
        number: of it, or of the newest that will not be taken any more.
        message: the answer, until the partner has it; None also if there was none.
        theirs: the model that was requested with.
    """

    number: int
    message: PeerMessage | None = None
    theirs: Vector | None = None


_NOTHING: Final = _Answer(number=0)


class ADPSGD(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LocalSteps):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round; 1 in the paper.
            pace: see `Pace`.
            timeout_s: seconds from a request to asking what became of it; longer than two models
                take on the slowest link, as one that is on its way then is refused.
            partners: not for topology files; the plan sets it to the names of an active node's
                passive neighbours, separated by blanks, and to nothing for a passive node.
        """

        pace: Pace = Pace.ROUND
        timeout_s: float = 60.0
        partners: str | None = None

        def __post_init__(self) -> None:
            LocalSteps.__post_init__(self)
            if not self.timeout_s > 0:
                raise ValueError(f"timeout_s must be above 0, not {self.timeout_s}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._start: Vector | None = None
        """The model that the training job began with."""
        self._timeout = round(config.timeout_s * SECOND)
        self._counts = {"models": 0, "late": 0, "void": 0, "repeated": 0, "undone": 0}
        # Of an active node.
        self._partners: tuple[NodeId, ...] = ()
        self._open: dict[NodeId, _Exchange] = {}
        """What is not settled, by partner."""
        self._current: NodeId | None = None
        """Whose answer is waited for; the others in `_open` are out of reach or late."""
        self._number = 0
        self._over: set[NodeId] = set()
        """Partners that have ended their rounds."""
        # Of a passive node.
        self._answers: dict[NodeId, _Answer] = {}
        """By partner."""

    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        if config.partners is not None:
            raise ValueError("`partners` follows from the overlay: leave it out")

    @classmethod
    def options_by_node(
        cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]
    ) -> Mapping[NodeId, Mapping[str, Any]]:
        active = two_sides(overlay)
        return {
            node: {"partners": " ".join(o for o in others if active[node] and not active[o])}
            for node, others in overlay.items()
        }

    def on_start(self, ctx: Context) -> None:
        if self.config.partners is None:
            raise ValueError("adpsgd has to be told its partners; see ADPSGD.options_by_node")
        named = set(self.config.partners.split())
        self._partners = tuple(peer for peer in ctx.peers if peer in named)
        # Of another model than this one, if any: what the partners have of it is void.
        self._counts["void"] += len(self._open)
        self._open.clear()
        self._current = None
        self._answers = {
            peer: _Answer(number=answer.number) for peer, answer in self._answers.items()
        }
        self._begin(ctx)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        assert self._start is not None
        ctx.record("aggregate", {"round": ctx.round, "open": len(self._open), **self._counts})
        self._counts = dict.fromkeys(self._counts, 0)
        ctx.end_round()
        if ctx.parameters is not self._start:  # averaged meanwhile
            parameters = ctx.parameters + (parameters - self._start)
        ctx.set_parameters(parameters)
        self._begin(ctx)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if (fault := self._fault(message)) is not None:
            ctx.record("refused", {"sender": sender, "reason": fault})
            return
        number = int(message.fields["number"])
        match message.kind:
            case _Kind.REQUEST:
                self._answer(ctx, sender, number, message)
            case _Kind.ANSWER:
                self._average(ctx, sender, number, message)
            case _Kind.DONE:
                self._forget(sender, number)
            case _Kind.ASK:
                self._say_again(ctx, sender, number)
            case _Kind.VOID:
                self._counts["void"] += self._settle(ctx, sender, number) is not None
                if message.fields.get("over") == 1:
                    self._over.add(sender)
                self._follow(ctx)
            case _Kind.UNDO:
                self._undo(ctx, sender, number)

    def on_late_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        """The rounds here are over: what is done stays done, and nothing is begun."""
        if self._fault(message) is not None:
            return
        number = int(message.fields["number"])
        match message.kind:
            case _Kind.REQUEST if number > self._answers.get(sender, _NOTHING).number:
                self._say_again(ctx, sender, number, over=1)
            case _Kind.ANSWER:
                exchange = self._open.get(sender)
                taken = exchange is None or exchange.number != number
                self._tell(ctx, sender, _Kind.DONE if taken else _Kind.UNDO, number)
            case _Kind.DONE:
                self._forget(sender, number)
            case _Kind.ASK:
                self._say_again(ctx, sender, number, over=1)

    def on_timer(self, ctx: Context, key: str) -> None:
        """No answer in time: ask what became of it, and go on without."""
        overdue = [peer for peer in self._open if self._open[peer].due <= ctx.now]
        for peer in overdue:
            self._ask(ctx, peer)
        self._arm(ctx)
        if self._current in overdue:
            self._current = None
        self._follow(ctx)

    def on_send_failed(self, ctx: Context, target: NodeId, key: str, reason: str) -> None:
        # Its connection broke: some of it may have arrived, or all.
        exchange = self._open.get(target)
        if exchange is not None and key == _request(exchange.number):
            self._ask(ctx, target)

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is PeerChange.LOST:
            if peer == self._current:
                self._current = None
            self._follow(ctx)
            return
        self._over.discard(peer)  # it may be a new process
        if peer in self._open:
            self._ask(ctx, peer)

    def _begin(self, ctx: Context) -> None:
        """A round: training, and beside it an exchange."""
        self._start = ctx.parameters
        ctx.train(steps=self.config.local_steps)
        if self._current is None:
            self._request(ctx)

    # --- an active node

    def _request(self, ctx: Context) -> None:
        """Begin an exchange with one of the partners that are there, if any is."""
        reached = set(ctx.reached)
        free = [
            peer
            for peer in self._partners
            if peer in reached and peer not in self._open and peer not in self._over
        ]
        if not free:
            return
        peer = free[int(ctx.rng("peers").integers(len(free)))]
        # Numbers grow over the lives of a node, as the run clock does.
        self._number = max(self._number + 1, ctx.now)
        due = ctx.now + self._timeout
        self._open[peer] = _Exchange(number=self._number, sent=ctx.parameters, due=due)
        self._current = peer
        request = _model(ctx, _Kind.REQUEST, self._number)
        ctx.send(peer, request, key=_request(self._number))
        self._arm(ctx)

    def _average(self, ctx: Context, sender: NodeId, number: int, message: PeerMessage) -> None:
        """The answer: change by what the other end has changed by, in the other direction."""
        theirs = whole_model(message)
        assert theirs is not None
        self._tell(ctx, sender, _Kind.DONE, number)
        late = sender != self._current
        exchange = self._settle(ctx, sender, number)
        if exchange is None:
            self._counts["repeated"] += 1
            return
        self._counts["models"] += 1
        self._counts["late"] += late
        ctx.set_parameters(ctx.parameters + _half(theirs, exchange.sent))
        self._follow(ctx)

    def _ask(self, ctx: Context, peer: NodeId) -> None:
        exchange = self._open[peer]
        exchange.due = ctx.now + self._timeout
        # The question overtakes it, and what comes after that is refused.
        ctx.drop_queued(key_prefix=_request(exchange.number))
        if peer in ctx.reached:
            self._tell(ctx, peer, _Kind.ASK, exchange.number)

    def _settle(self, ctx: Context, peer: NodeId, number: int) -> _Exchange | None:
        """An exchange is over; None: it was not open."""
        exchange = self._open.get(peer)
        if exchange is None or exchange.number != number:
            return None
        del self._open[peer]
        self._arm(ctx)
        if peer == self._current:
            self._current = None
        return exchange

    def _follow(self, ctx: Context) -> None:
        """Nobody is waited for any more, perhaps."""
        if self._current is None and self.config.pace is Pace.CONTINUOUS:
            self._request(ctx)

    def _arm(self, ctx: Context) -> None:
        """Set the timer for the exchange that is due first."""
        if self._open:
            due = min(exchange.due for exchange in self._open.values())
            ctx.set_timer(_TIMER, after=max(0, due - ctx.now))
        else:
            ctx.cancel_timer(_TIMER)

    # --- a passive node

    def _answer(self, ctx: Context, sender: NodeId, number: int, message: PeerMessage) -> None:
        """Answer with the own model, and average at once."""
        if number <= self._answers.get(sender, _NOTHING).number:
            # Done already, or refused when it was asked for: never a second time.
            self._counts["repeated"] += 1
            return
        theirs, answer = whole_model(message), _model(ctx, _Kind.ANSWER, number)
        assert theirs is not None
        ctx.send(sender, answer, key=_Kind.ANSWER.value, supersedes=True)
        self._answers[sender] = _Answer(number=number, message=answer, theirs=theirs)
        self._counts["models"] += 1
        ctx.set_parameters(ctx.parameters + _half(theirs, ctx.parameters))

    def _say_again(self, ctx: Context, sender: NodeId, number: int, *, over: int = 0) -> None:
        """The answer, if there is one; otherwise that there is none, which has to stay true."""
        newest = self._answers.get(sender, _NOTHING)
        if number == newest.number and newest.message is not None:
            ctx.send(sender, newest.message, key=_Kind.ANSWER.value, supersedes=True)
            return
        if number > newest.number:
            self._answers[sender] = _Answer(number=number)
        self._tell(ctx, sender, _Kind.VOID, number, over=over)

    def _forget(self, sender: NodeId, number: int) -> _Answer:
        """The exchange is settled; returns what was kept of it."""
        answer = self._answers.get(sender, _NOTHING)
        if answer.number == number:
            self._answers[sender] = _Answer(number=number)
            return answer
        return _NOTHING

    def _undo(self, ctx: Context, sender: NodeId, number: int) -> None:
        """The other end has not taken its half, and will not: take the own one back."""
        answer = self._forget(sender, number)
        mine = whole_model(answer.message) if answer.message is not None else None
        if mine is not None and answer.theirs is not None:
            ctx.set_parameters(ctx.parameters - _half(answer.theirs, mine))
            self._counts["undone"] += 1

    # --- messages

    def _tell(self, ctx: Context, peer: NodeId, kind: _Kind, number: int, **more: int) -> None:
        message = PeerMessage(kind=kind.value, round=ctx.round, fields={"number": number, **more})
        ctx.send(peer, message, key=kind.value)

    def _fault(self, message: PeerMessage) -> str | None:
        """What is wrong with a message, if anything."""
        number = message.fields.get("number")
        if message.kind not in _KINDS:
            return f"{message.kind}: no message of adpsgd"
        if not isinstance(number, int) or number < 1:
            return f"{message.kind}: no number of an exchange"
        if message.kind not in (_Kind.REQUEST, _Kind.ANSWER):
            return None
        if whole_model(message) is None:
            return f"{message.kind}: no whole model"
        if (message.kind == _Kind.REQUEST) == bool(self.config.partners):
            return f"{message.kind}: for the other side of the overlay"
        return None


def two_sides(overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> dict[NodeId, bool]:
    """Which nodes are active: a 2-colouring of the overlay, or the nearest thing to one.

    Breadth-first from the first node of each part, each node takes the colour that most of its
    coloured neighbours do not have. On a bipartite graph all of them have the same, and this is its
    2-colouring. On any other at least half of the edges join two colours, and every node has such
    an edge to one before it, so that the edges used connect what the overlay connects. The first is
    active.
    """
    active: dict[NodeId, bool] = {}
    for first in overlay:
        queue = deque([first])
        while queue:
            node = queue.popleft()
            if node in active:
                continue
            coloured = [active[other] for other in overlay[node] if other in active]
            active[node] = 2 * sum(coloured) <= len(coloured)
            queue.extend(other for other in overlay[node] if other not in active)
    return active


def _request(number: int) -> str:
    """The key of a request, by which it is cancelled alone: no other begins with it."""
    return f"request/{number}/"


def _model(ctx: Context, kind: _Kind, number: int) -> PeerMessage:
    """The model as it is now, in a message."""
    part = Part(where=Whole(), values=ctx.parameters)
    return PeerMessage(kind=kind.value, round=ctx.round, part=part, fields={"number": number})


def _half(theirs: Vector, mine: Vector) -> Vector:
    return (theirs - mine) * np.float32(0.5)
