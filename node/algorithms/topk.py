"""Top-k: D-PSGD that sends the parameters that have changed most since they were sent last.

Source: the TopK baseline of decentralizepy (Dhasade et al., EuroMLSys 2023, arXiv 2304.08322;
`sharing/PartialModel.py`), after Alistarh et al., "The Convergence of Sparsified Gradient Methods"
(NeurIPS 2018). In each round

1. train `local_steps` mini-batch steps;
2. send the ceil(share d) parameters with the largest |x - what was sent last|, with their indices:
   8 bytes each, so that `share: 0.5` costs as much as the whole model;
3. a receiver fills the gaps with its own values and averages with Metropolis-Hastings weights.

"Sent last" starts at the node's first model, and moves when a round's sharing is over, whether all
peers got it or not: a lost message is not sent again, its parameters are when they change again. As
the two ends of an edge send different parameters the mean over all nodes is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from node.algorithms.averaging import largest
from node.algorithms.rounds import MetropolisRounds, Rounds
from node.core.algorithm import Context
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Listed, Part, Vector, take


class TopK(MetropolisRounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round.
            share: fraction of the parameters that is sent.
        """

        share: float = 0.1

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            if not 0 < self.share <= 1:
                raise ValueError(f"share must be above 0 and at most 1, not {self.share}")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._last: Vector | None = None
        """Each parameter as it was sent last."""
        self._sent: Part | None = None
        """What is sent in this round."""

    def on_start(self, ctx: Context) -> None:
        self._last, self._sent = ctx.parameters.copy(), None
        super().on_start(ctx)

    def part(self, ctx: Context) -> Part:
        assert self._last is not None
        if self._sent is None:
            chosen = largest(
                self.model - self._last, math.ceil(self.config.share * self.model.size)
            )
            self._sent = take(self.model, Listed(chosen), ctx.layout)
        return self._sent

    def accepts(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        return isinstance(where, Listed)

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        if self._sent is not None and isinstance(self._sent.where, Listed):
            assert self._last is not None
            self._last[self._sent.where.indices] = self._sent.values
            self._sent = None
        return super().mix(ctx, received, peers)
