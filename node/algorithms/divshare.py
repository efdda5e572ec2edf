"""DivShare: asynchronous exchange of random model fragments.

Source: Biswas et al., "Boosting Asynchronous Decentralized Learning with Model Fragmentation"
(WWW 2025, arXiv 2410.12918), and its artifact (sacs-epfl/divshare). No barrier; in each round

1. train `local_steps` mini-batch steps;
2. cut the trained model (before aggregation) into K = int(1/omega) fragments and send each to
   `degree` distinct random neighbours, in random order, cancelling what is still queued of the
   round before: stragglers ship fresh fragments instead of old ones;
3. average each parameter over the own value and all fragments received since the last round.

A round costs at most degree * model bytes whatever omega is. What differs from the artifact: an
older fragment never takes the place of a newer one, a cancel closes no connection, and peers that
are gone are not drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from node.algorithms.fragments import Inbox, Permutation, cut, deal
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.effects import InFlight
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector


class DivShare(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options under `algorithm:`.

        Args:
            omega: fraction of the model in a fragment; K = int(1 / omega) fragments.
            degree: recipients of each fragment (J); default ceil(log2(nodes)).
            local_steps: mini-batch steps a round.
            permutation: see `Permutation`.
            in_flight: whether a cancel cuts off the fragment on its way; see `InFlight`.
        """

        omega: float = 0.1
        degree: int | None = None
        local_steps: int = 8
        permutation: Permutation = Permutation.FIXED
        in_flight: InFlight = InFlight.FINISH

        def __post_init__(self) -> None:
            if not 0 < self.omega <= 1:
                raise ValueError(f"omega must be above 0 and at most 1, not {self.omega}")
            if self.degree is not None and self.degree < 1:
                raise ValueError(f"degree must be at least 1, not {self.degree}")
            if self.local_steps < 1:
                raise ValueError(f"local_steps must be at least 1, not {self.local_steps}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._count = int(1 / config.omega)
        self._inbox = Inbox(self._count)
        self._lost: set[NodeId] = set()

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        self.flush(ctx)
        self._share(ctx, parameters)
        model, counts = self._inbox.mean(parameters, round_=ctx.round, layout=ctx.layout)
        ctx.record("aggregate", counts)
        ctx.set_parameters(model)
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if (fault := self._inbox.put(sender, message)) is not None:
            ctx.record("refused", {"sender": sender, "reason": fault})

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is PeerChange.LOST:
            self._lost.add(peer)
        else:
            self._lost.discard(peer)
            self._inbox.forget(peer)

    def flush(self, ctx: Context) -> None:
        """Cancel what is still queued of the round before."""
        ctx.drop_queued(key_prefix="fragment/", in_flight=self.config.in_flight)

    def _share(self, ctx: Context, parameters: Vector) -> None:
        """Queue each fragment for its own random recipients, all in random order."""
        peers = [peer for peer in ctx.peers if peer not in self._lost]
        degree = self.config.degree or max(1, math.ceil(math.log2(ctx.members)))
        seed = self.config.permutation.seed(ctx.seed, node=ctx.me, round_=ctx.round)
        parts = cut(parameters, count=self._count, seed=seed, layout=ctx.layout)
        messages = [PeerMessage(kind="fragment", round=ctx.round, part=part) for part in parts]
        rng, key = ctx.rng("peers"), f"fragment/{ctx.round}"
        for fragment, peer in deal(rng, fragments=self._count, peers=len(peers), degree=degree):
            ctx.send(peers[peer], messages[fragment], key=key)
