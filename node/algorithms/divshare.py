"""DivShare: asynchronous exchange of random model fragments.

Source: Biswas et al., "Boosting Asynchronous Decentralized Learning with Model Fragmentation"
(WWW 2025, arXiv 2410.12918), and its artifact (sacs-epfl/divshare). No barrier; in each round

1. train `local_steps` mini-batch steps;
2. cut the trained model (before aggregation) into K = int(1/omega) fragments and send each to
   `degree` distinct random neighbours, in random order, cancelling what is still queued of the
   round before: stragglers ship fresh fragments instead of old ones;
3. average each parameter over the own value and all fragments received since the last round.

A round costs at most degree * model bytes whatever omega is. Fragments of one sender replace each
other while they wait, if they are newer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np

from node.algorithms.averaging import counted_mean
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.effects import InFlight, Value
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Fragment, Vector, resolve, take
from node.core.rng import derive_seed


class Permutation(StrEnum):
    """When the partition into fragments is drawn anew. The artifact draws it once for all."""

    FIXED = "fixed"
    PER_ROUND = "per_round"
    PER_NODE_ROUND = "per_node_round"


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
        self._inbox: dict[tuple[NodeId, int], PeerMessage] = {}
        self._newest: dict[tuple[NodeId, int], int] = {}
        self._lost: set[NodeId] = set()
        self._replaced = self._stale = 0

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.drop_queued(key_prefix="fragment/", in_flight=self.config.in_flight)
        self._share(ctx, parameters)
        ctx.set_parameters(self._aggregate(ctx, parameters))
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        where = message.part.where if message.part is not None else None
        if not isinstance(where, Fragment):
            ctx.record("refused", {"sender": sender, "reason": f"{message.kind}: no fragment"})
            return
        key = (sender, where.number)
        if message.round <= self._newest.get(key, -1):
            self._stale += 1
            return
        self._replaced += key in self._inbox
        self._newest[key] = message.round
        self._inbox[key] = message

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is PeerChange.LOST:
            self._lost.add(peer)
            return
        self._lost.discard(peer)
        # It may have been started again and be at an earlier round: its fragments are new.
        for key in [key for key in self._newest if key[0] == peer]:
            del self._newest[key]

    def _share(self, ctx: Context, parameters: Vector) -> None:
        """Queue each fragment for its own random recipients, all in random order."""
        rng = ctx.rng("peers")
        peers = [peer for peer in ctx.peers if peer not in self._lost]
        degree = self.config.degree or max(1, math.ceil(math.log2(ctx.members)))
        count = int(1 / self.config.omega)
        seed = self._fragment_seed(ctx)
        pairs: list[tuple[NodeId, PeerMessage]] = []
        for number in range(count):
            part = take(parameters, Fragment(number, count, seed), ctx.layout)
            message = PeerMessage(kind="fragment", round=ctx.round, part=part)
            chosen = rng.choice(len(peers), size=min(degree, len(peers)), replace=False)
            pairs.extend((peers[i], message) for i in chosen)
        for i in rng.permutation(len(pairs)):
            target, message = pairs[i]
            ctx.send(target, message, key=f"fragment/{ctx.round}")

    def _fragment_seed(self, ctx: Context) -> int:
        match self.config.permutation:
            case Permutation.FIXED:
                return derive_seed(ctx.seed, "fragments")
            case Permutation.PER_ROUND:
                return derive_seed(ctx.seed, "fragments", ctx.round)
            case Permutation.PER_NODE_ROUND:
                return derive_seed(ctx.seed, "fragments", ctx.me, ctx.round)

    def _aggregate(self, ctx: Context, parameters: Vector) -> Vector:
        """Consume the inbox; in name order, so that arrival order does not change the sums."""
        covered = np.zeros(parameters.shape, dtype=bool)
        contributions = []
        ages = []
        for key in sorted(self._inbox):
            message = self._inbox[key]
            assert message.part is not None
            indices = resolve(message.part.where, ctx.layout)
            covered[indices] = True
            contributions.append((indices, message.part.values))
            ages.append(ctx.round - message.round)
        counts: Mapping[str, Value] = {
            "round": ctx.round,
            "fragments": len(contributions),
            "coverage": float(covered.mean()),
            "age_mean": float(np.mean(ages)) if ages else None,
            "replaced": self._replaced,
            "stale": self._stale,
        }
        ctx.record("aggregate", counts)
        self._inbox.clear()
        self._replaced = self._stale = 0
        return counted_mean(parameters, contributions)
