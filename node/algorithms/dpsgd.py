"""D-PSGD: decentralized parallel SGD, in synchronous rounds.

Source: Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms?" (NeurIPS
2017, arXiv 1705.09056), Algorithm 1, with Metropolis-Hastings weights W over the round's graph
(symmetric and doubly stochastic, as its Assumption 1 wants). Two orders:

* `paper`:        x_i <- sum_j W_ij x_j - (what training from x_i changed): gradients are of the
  models before averaging, which is what is sent;
* `train_first`:  x_i <- sum_j W_ij (x_j + what training changed): as decentralizepy (sacs-epfl)
  has it, whose figures most later papers compare with. What is sent is the trained model.

With one local step `paper` is Algorithm 1 literally; the two differ by half a round. The model that
is evaluated is the average in both: in `paper`, before what training changed is added to it. What a
missing message means, see `node.algorithms.rounds`.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.algorithms.common import Order
from node.algorithms.rounds import MetropolisRounds, Rounds
from node.core.algorithm import Context
from node.core.ids import NodeId
from node.core.parts import IndexSet, Part, Vector, Whole, take


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

    def on_start(self, ctx: Context) -> None:
        self._update = None
        super().on_start(ctx)

    def begin(self, ctx: Context) -> None:
        if self._update is not None:
            ctx.set_parameters(ctx.parameters + self._update)
            self._update = None
        super().begin(ctx)

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
