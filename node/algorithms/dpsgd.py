"""D-PSGD: decentralized parallel SGD, in synchronous rounds.

Source: Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms?" (NeurIPS
2017, arXiv 1705.09056), Algorithm 1, with Metropolis-Hastings weights W over the round's graph
(symmetric and doubly stochastic, as its Assumption 1 wants). Two orders:

* `paper`:        x_i <- sum_j W_ij x_j - (what training from x_i changed): gradients are of the
  models before averaging, which is what is sent;
* `train_first`:  x_i <- sum_j W_ij (x_j + what training changed): as decentralizepy (sacs-epfl)
  has it, whose figures most later papers compare with. What is sent is the trained model.

With one local step `paper` is Algorithm 1 literally; the two differ by half a round. What a missing
message means, see `node.algorithms.rounds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from node.algorithms.rounds import MetropolisRounds, Rounds
from node.core.algorithm import Context
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Part, Vector, Whole, take


class Order(StrEnum):
    """What is averaged; see the module."""

    TRAIN_FIRST = "train_first"
    PAPER = "paper"


class DPSGD(MetropolisRounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round; 1 in the paper.
            order: see `Order`.
        """

        order: Order = Order.TRAIN_FIRST

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._update: Vector | None = None
        """What training changed, where that is not averaged."""

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        if self.config.order is Order.PAPER:
            self._update = parameters - ctx.parameters
            self.exchange(ctx, ctx.parameters)
        else:
            self.exchange(ctx, parameters)

    def part(self, ctx: Context) -> Part:
        return take(self.model, Whole(), ctx.layout)

    def accepts(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        return where == Whole()

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        mixed, fields = super().mix(ctx, received, peers)
        return (mixed if self._update is None else mixed + self._update), fields
