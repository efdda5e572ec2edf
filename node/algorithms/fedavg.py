"""FedAvg: one server, which sends the global model to some clients in each round.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data"
(AISTATS 2017, arXiv 1602.05629), Algorithm 1. In each round the server

1. draws m = max(1, round(fraction * clients)) of the clients that are in reach;
2. sends them the global model w; each trains from it and sends its model w_k back with its number
   of samples n_k;
3. sets w <- sum_k (n_k / n) w_k over those that came, n being the sum of their n_k.

The server is a node of the overlay like any other: the hub, or `server`. It trains nothing, and the
samples that it may have are not used. Steps 2 and 3 are messages (`mode: async`), so a client's
round takes what its link and its computer take. A client that is lost is not waited for, one that
is silent until `deadline`; the round goes on with those that came. If nobody came the round is
tried again (record `retry`) with another draw: at the deadline, or at once where nobody who was
drawn is left. A try sends the same w, so that an answer to any try of the round counts, also of a
client that was not drawn again: where a model takes longer than the deadline, rounds get longer and
do not stop. What comes of an earlier round is dropped and counted. There is no second server: when
it dies nothing goes on.

Clients that are not drawn get a word of each round (no model), so that every node's count of rounds
is the server's. The model of a client, as evaluated and stored, is the last global one that it got.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from node.algorithms.common import LocalSteps, whole_model
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector, Whole, take
from node.units import Nanos, parse_duration

_GLOBAL: Final = "global"
_UPDATE: Final = "update"
_WORD: Final = "round"
_DEADLINE: Final = "deadline"


class FedAvg(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LocalSteps):
        """Options under `algorithm:`.

        Args:
            fraction: of the clients that is drawn in a round (C).
            local_steps: mini-batch steps of a client in a round.
            epochs: instead, passes over the client's own samples (E).
            server: name of the server; default the hub of the star.
            deadline: for what the clients of a round send, such as `60s`.
        """

        fraction: float = 1.0
        epochs: float | None = None
        server: str | None = None
        deadline: str = "60s"

        def __post_init__(self) -> None:
            LocalSteps.__post_init__(self)
            if not 0 < self.fraction <= 1:
                raise ValueError(f"fraction must be above 0 and at most 1, not {self.fraction}")
            if self.epochs is not None and not 0 < self.epochs < math.inf:
                raise ValueError(f"epochs must be above 0, not {self.epochs}")
            if self.deadline_ns < 1:
                raise ValueError(f"deadline must be above 0, not {self.deadline}")

        @property
        def deadline_ns(self) -> Nanos:
            return parse_duration(self.deadline)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        # The server's
        self._tries = 0
        """Draws that this round has had before."""
        self._waiting: set[NodeId] = set()
        """Clients of the last draw of which something may come."""
        self._failed: set[NodeId] = set()
        """Clients that are not drawn again before the deadline: what they were sent was lost."""
        self._updates: dict[NodeId, tuple[int, Vector]] = {}
        """Samples and model of each client that has answered."""
        self._late = 0
        # A client's
        self._task: PeerMessage | None = None
        """What it trains for."""
        self._next: PeerMessage | None = None
        """The model of a later round, which came while it trained: the result is of no use."""

    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        server = config.server
        if server is not None and server not in overlay:
            raise ValueError(f"fedavg's server {server!r} is no node of the overlay")
        if server is None:
            hubs = [node for node, others in overlay.items() if len(others) == len(overlay) - 1]
            leaves = [node for node, others in overlay.items() if len(others) == 1]
            if not hubs or len(leaves) < len(overlay) - 1:
                raise ValueError("fedavg needs `overlay: star`, or the option `server`")
        elif len(overlay[server]) < len(overlay) - 1:
            apart = next(node for node in overlay if node not in (server, *overlay[server]))
            raise ValueError(f"fedavg's server {server} has no edge to {apart} in the overlay")

    def on_start(self, ctx: Context) -> None:
        self._task = self._next = None
        if ctx.me == self._server(ctx):
            self._tries = 0
            self._failed.clear()
            self._begin(ctx)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        server = self._server(ctx)
        fault = _fault(message, from_server=sender == server)
        if fault is None and server not in (ctx.me, sender):
            fault = f"{message.kind}: from one who is not the server"
        if fault is not None:
            ctx.record("refused", {"sender": sender, "reason": fault})
        elif ctx.me == server:
            self._take(ctx, sender, message)
        else:
            self._follow(ctx, message)

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is PeerChange.LOST:
            self._give_up(ctx, peer)

    def on_send_failed(self, ctx: Context, target: NodeId, key: str, reason: str) -> None:
        if key == self._key(ctx):
            self._failed.add(target)
            self._give_up(ctx, target)

    def on_timer(self, ctx: Context, key: str) -> None:
        self._failed.clear()
        if self._updates:
            self._aggregate(ctx)
        else:
            self._try_again(ctx)

    def _server(self, ctx: Context) -> NodeId:
        if self.config.server is not None:
            return NodeId(self.config.server)
        if len(ctx.peers) == 1:  # a leaf; of two nodes the first by name is the hub
            return ctx.peers[0] if ctx.members > 2 else min(ctx.me, ctx.peers[0])
        return ctx.me

    # --- the server

    def _begin(self, ctx: Context) -> None:
        """A round, or another try of it: draw clients and send them the model."""
        ctx.drop_queued(key_prefix="global/")
        free = [peer for peer in ctx.reached if peer not in self._failed]
        wanted = max(1, round(self.config.fraction * len(ctx.peers)))
        picks = ctx.rng("clients").choice(len(free), size=min(wanted, len(free)), replace=False)
        drawn = [free[i] for i in picks]
        self._waiting, self._updates = set(drawn), {}
        part = take(ctx.parameters, Whole(), ctx.layout)
        model = PeerMessage(kind=_GLOBAL, round=ctx.round, part=part)
        word = PeerMessage(kind=_WORD, round=ctx.round)
        # In the order of the draw: of a link too slow for all, not always the same get theirs.
        for peer in drawn:
            ctx.send(peer, model, key=self._key(ctx))
        for peer in ctx.reached:
            if peer not in self._waiting:
                ctx.send(peer, word, key=_WORD, supersedes=True)
        ctx.set_timer(_DEADLINE, after=self.config.deadline_ns)

    def _take(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        """A client's model; of any try of this round, as all of them sent the same."""
        model = whole_model(message)
        if message.round != ctx.round or sender in self._updates or model is None:
            self._late += 1
            return
        self._updates[sender] = (int(message.fields["samples"]), model)
        self._waiting.discard(sender)
        if not self._waiting:
            self._aggregate(ctx)

    def _give_up(self, ctx: Context, client: NodeId) -> None:
        """Nothing more will come of a client in this try."""
        if client not in self._waiting:
            return
        self._waiting.discard(client)
        if self._waiting:
            return
        if self._updates:
            self._aggregate(ctx)
        else:
            self._try_again(ctx)

    def _try_again(self, ctx: Context) -> None:
        """Nobody has answered in this round: draw others."""
        self._tries += 1
        ctx.record(
            "retry", {"round": ctx.round, "tries": self._tries, "silent": len(self._waiting)}
        )
        self._begin(ctx)

    def _aggregate(self, ctx: Context) -> None:
        """The round's new global model, and the next round."""
        total = sum(samples for samples, _ in self._updates.values())
        mean = np.zeros(ctx.layout.size)
        for client in sorted(self._updates):  # so that the order of arrival does not show
            samples, model = self._updates[client]
            mean += samples / total * model.astype(np.float64)
        ctx.set_parameters(mean.astype(np.float32))
        counts = {
            "round": ctx.round,
            "models": len(self._updates),
            "silent": len(self._waiting),
            "samples": total,
            "late": self._late,
            "tries": self._tries + 1,
        }
        ctx.record("aggregate", counts)
        self._late = self._tries = 0
        self._failed.clear()
        ctx.end_round()
        self._begin(ctx)

    def _key(self, ctx: Context) -> str:
        return f"global/{ctx.round}/{self._tries}"

    # --- a client

    def _follow(self, ctx: Context, message: PeerMessage) -> None:
        """The server is in this round; with a model, train from it."""
        if message.part is not None:
            ctx.set_parameters(message.part.values)
        while ctx.round < message.round:
            ctx.end_round()
        if message.part is None:
            return
        if self._task is None:
            self._train(ctx, message)
        elif message.round != self._task.round:
            self._next = message

    def _train(self, ctx: Context, task: PeerMessage) -> None:
        steps = self.config.local_steps
        if self.config.epochs is not None:
            steps = max(1, math.ceil(self.config.epochs * ctx.samples / ctx.batch_size))
        self._task = task
        ctx.train(steps=steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        task, newer = self._task, self._next
        self._task = self._next = None
        assert task is not None
        if newer is not None:
            self._train(ctx, newer)
            return
        part = take(parameters, Whole(), ctx.layout)
        fields = {"samples": ctx.samples}
        update = PeerMessage(kind=_UPDATE, round=task.round, part=part, fields=fields)
        ctx.send(self._server(ctx), update, key=_UPDATE, supersedes=True)


def _fault(message: PeerMessage, *, from_server: bool) -> str | None:
    """What is wrong with a message, if anything."""
    kinds = (_GLOBAL, _WORD) if from_server else (_UPDATE,)
    if message.kind not in kinds:
        return f"{message.kind}: not what {'the server' if from_server else 'a client'} says"
    if message.kind != _WORD and whole_model(message) is None:
        return f"{message.kind}: not a whole model"
    samples = message.fields.get("samples")
    if message.kind == _UPDATE and not (isinstance(samples, int) and samples >= 1):
        return f"{message.kind}: {samples!r} samples"
    return None
