"""Random subsampling: D-PSGD that sends a random part of the model in each round.

Source: the sparse baseline of decentralizepy (Dhasade et al., EuroMLSys 2023, arXiv 2304.08322;
`sharing/SubSampling.py`) and of JWINS (Dhasade et al., 2023). In each round

1. train `local_steps` mini-batch steps;
2. send each parameter with probability `share`; the mask is drawn from the run's seed, the sender
   and the round, so that no indices travel;
3. a receiver fills the gaps with its own values and averages with Metropolis-Hastings weights.

A round costs about `share` of D-PSGD's bytes. The weights are D-PSGD's, unlike DivShare, which
counts what came for each parameter. As the two ends of an edge send different masks, the mean over
all nodes is kept in expectation over the masks only, and exactly with `share: 1`.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.algorithms.rounds import MetropolisRounds, Rounds
from node.core.algorithm import Context
from node.core.ids import NodeId
from node.core.parts import IndexSet, Part, RandomMask, take
from node.core.rng import derive_seed


class Subsampling(MetropolisRounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round.
            share: probability with which a parameter is sent (alpha).
        """

        share: float = 0.1

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            if not 0 < self.share <= 1:
                raise ValueError(f"share must be above 0 and at most 1, not {self.share}")

    def part(self, ctx: Context) -> Part:
        return take(self.model, self._mask(ctx, ctx.me), ctx.layout)

    def accepts(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        return where == self._mask(ctx, sender)

    def _mask(self, ctx: Context, sender: NodeId) -> RandomMask:
        return RandomMask(self.config.share, derive_seed(ctx.seed, "mask", sender, ctx.round))
