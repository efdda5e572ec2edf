"""A single global merge after sparse gossip.

Source: "On the Surprising Effectiveness of a Single Global Merging in Decentralized Learning" (ICLR
2026; before, "A Single Merging Suffices"), and its repository (Raiden-Zhu: `compute_r` in
`core/communication.py`, `create_random_r_gossip_rows` in `core/gossip_matrix.py`). In each round

1. train `local_steps` mini-batch steps;
2. pull the trained models of r other nodes, drawn uniformly: floor(r), and one more with the
   probability of the rest;
3. take the plain mean of the own model and those pulled. The mixing is row-stochastic only: the
   mean over all nodes moves.

r follows `schedule` over the progress (round + 1) / `rounds`, as the repository counts it. With the
last round both truncated schedules are at `r_end`, by default all others: the single global merge,
after which all nodes hold the mean of all. It is a round like others, in which each node sends its
model to n - 1, and no figure computed beside the run: give `signaling: {share: ...}` the time for
it. What a merge would have given in earlier rounds is in the records `consensus`.

Rounds are synchronous, because the definition is: models of the same step are pulled, r depends on
a progress that all nodes share, and the merge is of one instant. Nodes that pull at any time would
come to the merge one by one, and merge models that their owners have left behind.

Who pulls whom is the same draw on every node, from the run's seed and the round. So the owner of a
model knows that it is pulled, and a pull costs its answer alone; the repository draws for all nodes
in one place, and sends nothing at all. Hence an overlay of all with all. A pull of a node that is
not there brings nothing, and none is drawn in its place. What differs besides: the repository
estimates statistics of batch normalisation again after a merge; here they are averaged like other
parameters, where a model has any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np

from node.algorithms.averaging import weighted_mix
from node.algorithms.rounds import Rounds, needs_all_with_all, whole_models
from node.core.algorithm import Context, Share
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Vector, Whole
from node.core.rng import stream

_KIND: Final = "model"


class Schedule(StrEnum):
    """How r depends on progress."""

    TRUNCATE = "truncate"
    """`r_start`, and `r_end` from `point` on."""
    TRUNCATE_V2 = "truncate_v2"
    """`r_end` from `point` for `window`, and at the end; `r_start` elsewhere."""
    FIXED = "fixed"
    """`r_start` throughout: no merge."""


class SingleMerge(Rounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round; 100 in the paper.
            rounds: of the whole run, for the schedule; give `stop: {rounds: ...}` the same.
            schedule: see `Schedule`.
            r_start: mean number of models that a node pulls in a round.
            r_end: the same once the schedule says so; default all others, a merge.
            point: progress (0 to 1) at which the schedule turns.
            window: of `truncate_v2`, the share of the run that it lasts.
        """

        rounds: int
        schedule: Schedule = Schedule.TRUNCATE
        r_start: float = 0.2
        r_end: float | None = None
        point: float = 0.997
        window: float = 0.05

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            if self.rounds < 1:
                raise ValueError(f"rounds must be at least 1, not {self.rounds}")
            for name, r in (("r_start", self.r_start), ("r_end", self.r_end)):
                if r is not None and r < 0:
                    raise ValueError(f"{name} must not be negative, not {r}")
            for name, share in (("point", self.point), ("window", self.window)):
                if not 0 <= share <= 1:
                    raise ValueError(f"{name} must be from 0 to 1, not {share}")

        def pulls(self, round_: int, *, members: int) -> float:
            """r in a round, counted from 0; at most all others."""
            everyone = members - 1
            dense = everyone if self.r_end is None else min(self.r_end, everyone)
            sparse = min(self.r_start, everyone)
            progress = (round_ + 1) / self.rounds
            match self.schedule:
                case Schedule.FIXED:
                    return sparse
                case Schedule.TRUNCATE:
                    return dense if progress >= self.point else sparse
                case Schedule.TRUNCATE_V2:
                    inside = self.point <= progress < self.point + self.window
                    return dense if inside or progress >= 1 else sparse

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._pulled = 0

    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        needs_all_with_all("single-merge", overlay)

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> Share:
        everyone = sorted((ctx.me, *ctx.peers))
        r = self.config.pulls(ctx.round, members=len(everyone))
        pulls = _draw(ctx.seed, ctx.round, len(everyone), r)
        here, me = set(peers), everyone.index(ctx.me)
        part = Part(where=Whole(), values=self.model)
        message = PeerMessage(kind=_KIND, round=ctx.round, part=part)
        expected = frozenset(everyone[i] for i in pulls[me] if everyone[i] in here)
        self._pulled = len(expected)
        targets = [each for i, each in enumerate(everyone) if each in here and me in pulls[i]]
        return Share(messages=dict.fromkeys(targets, message), expected=expected)

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        models = whole_models(ctx, received, kind=_KIND)
        weight = 1 / (1 + len(models))
        mixed = weighted_mix(self.model, [(weight, model) for model in models])
        return mixed, {"models": len(models), "pulled": self._pulled}


# All nodes of one process ask for the same few draws.
@lru_cache(maxsize=8)
def _draw(seed: int, round_: int, members: int, r: float) -> tuple[frozenset[int], ...]:
    """Whom each node pulls in a round, by position in name order; of those who pull all others,
    also themselves."""
    rng = stream(seed, "pulls", round_)
    others = members - 1
    counts = np.minimum(int(r) + (rng.random(members) < r - int(r)), others).tolist()
    every = frozenset(range(members))
    return tuple(
        # Positions among the others: from this node's own on they are one further.
        frozenset(int(i) + (i >= node) for i in rng.choice(others, count, replace=False))
        if count < others
        else every
        for node, count in enumerate(counts)
    )
