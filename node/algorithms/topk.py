"""Top-k: D-PSGD that sends the parameters that have changed most.

Source: the TopK baseline of decentralizepy (Dhasade et al., EuroMLSys 2023, arXiv 2304.08322;
`sharing/PartialModel.py`), after Alistarh et al., "The Convergence of Sparsified Gradient Methods"
(NeurIPS 2018). In each round

1. train `local_steps` mini-batch steps;
2. send the ceil(share d) parameters with the largest |x - reference|, with their indices: 8 bytes
   each, so that `share: 0.5` costs as much as the whole model;
3. a receiver fills the gaps with its own values and averages with Metropolis-Hastings weights.

`since: sent` (the default) takes as reference each parameter as it was sent last: what was left out
adds up until it is sent, as in Alistarh et al., and what others have changed counts. It starts at
the node's first model, and moves when a round's sharing is over, whether all peers got it or not: a
lost message is not sent again, its parameters are when they change again. `since: average` takes
the model after the last averaging: what this round's training changed is ranked, and forgotten
where it is left out. That is what `PartialModel` does unless its option `accumulation` is set; it
rounds share d to the nearest number, we round up.

As the two ends of an edge send different parameters the mean over all nodes is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from node.algorithms.averaging import largest
from node.algorithms.common import count_of
from node.algorithms.rounds import MetropolisRounds, Rounds
from node.core.algorithm import Context
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Listed, Part, Vector, resolve, take


class Since(StrEnum):
    """Since when a change counts; see the module."""

    SENT = "sent"
    AVERAGE = "average"


class TopK(MetropolisRounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round.
            share: fraction of the parameters that is sent.
            since: see `Since`.
        """

        share: float = 0.1
        since: Since = Since.SENT

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            if not 0 < self.share <= 1:
                raise ValueError(f"share must be above 0 and at most 1, not {self.share}")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._last: Vector | None = None
        """Each parameter as it was sent last, where that is the reference."""
        self._sent: Part | None = None
        """What is sent in this round."""

    def on_start(self, ctx: Context) -> None:
        self._last = ctx.parameters.copy() if self.config.since is Since.SENT else None
        self._sent = None
        super().on_start(ctx)

    def part(self, ctx: Context) -> Part:
        if self._sent is None:
            reference = ctx.parameters if self._last is None else self._last
            chosen = largest(self.model - reference, count_of(self.config.share, ctx.layout))
            self._sent = take(self.model, Listed(chosen), ctx.layout)
        return self._sent

    def accepts(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        count = count_of(self.config.share, ctx.layout)
        return isinstance(where, Listed) and where.indices.size == count

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        sent, self._sent = self._sent, None
        if self._last is not None and sent is not None:
            self._last[resolve(sent.where, ctx.layout)] = sent.values
        return super().mix(ctx, received, peers)
