"""D-PSGD: decentralized parallel SGD, in synchronous rounds.

Source: Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms?" (NeurIPS
2017, arXiv 1705.09056), in the form of decentralizepy (sacs-epfl): in each round

1. train `local_steps` mini-batch steps;
2. when all who take part are connected, send the whole trained model to each neighbour of the
   round's graph;
3. average with Metropolis-Hastings weights over that graph.

What a neighbour should have sent and did not (lost, too late) keeps its weight here, with the own
model: the weights sum to 1 in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from node.algorithms.averaging import metropolis_weights, weighted_mix
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector, Whole, take

_KIND: Final = "model"


class DPSGD(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.SYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round; 1 in the paper.
        """

        local_steps: int = 8

        def __post_init__(self) -> None:
            if self.local_steps < 1:
                raise ValueError(f"local_steps must be at least 1, not {self.local_steps}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._trained: Vector | None = None

    def on_start(self, ctx: Context) -> None:
        self._trained = None
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        # The node's model stays the last average until the next one: what is evaluated and stored.
        self._trained = parameters
        ctx.exchange()

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage | None:
        assert self._trained is not None
        part = take(self._trained, Whole(), ctx.layout)
        return PeerMessage(kind=_KIND, round=ctx.round, part=part, fields={"degree": len(peers)})

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        assert self._trained is not None
        degrees: dict[NodeId, int] = {}
        models: dict[NodeId, Vector] = {}
        for peer, message in received.items():
            fault = _fault(message, ctx.members)
            if fault is not None:
                ctx.record("refused", {"sender": peer, "reason": fault})
                continue
            assert message.part is not None
            degrees[peer] = int(message.fields["degree"])
            models[peer] = message.part.values
        weights = metropolis_weights(len(peers), degrees)
        # In name order, so that the order of arrival does not change the sums.
        others = [(weights[peer], models[peer]) for peer in sorted(models)]
        ctx.set_parameters(weighted_mix(self._trained, others))
        own = 1.0 - sum(weights.values())
        ctx.record(
            "aggregate",
            {"round": ctx.round, "models": len(models), "peers": len(peers), "own_weight": own},
        )
        self._trained = None
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)


def _fault(message: PeerMessage, members: int) -> str | None:
    """What is wrong with a message of this round, if anything."""
    degree = message.fields.get("degree")
    if message.kind != _KIND or message.part is None or message.part.where != Whole():
        return f"{message.kind}: not a whole model"
    if not isinstance(degree, int) or not 1 <= degree < members:
        return f"degree {degree!r} among {members} members"
    return None
