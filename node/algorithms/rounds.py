"""What algorithms in synchronous rounds have in common.

`Rounds`: train `local_steps` mini-batch steps, exchange, mix, and so on. `MetropolisRounds`: each
node sends some parameters of its model, the same to all neighbours, who mix them with
Metropolis-Hastings weights, filling what was not sent with their own values:

    x_i <- x_i + sum_j W_ij m_j (x_j - x_i)        m_j: 1 where j sent the parameter, else 0

What a neighbour should have sent and did not (lost, too late) keeps its weight here, with the own
model: the weights sum to 1 in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from node.algorithms.averaging import metropolis_weights, partial_mix
from node.algorithms.common import LocalSteps, degree_fault, whole_model
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Indices, Part, Vector, resolve

_KIND: Final = "model"


class Rounds(Algorithm):
    """See the module; a subclass says what is shared (`on_share`) and how it is mixed (`mix`)."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.SYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LocalSteps):
        """Options under `algorithm:`; see `LocalSteps`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._model: Vector | None = None

    @property
    def model(self) -> Vector:
        """What this node brings into the exchange of this round: the trained model."""
        assert self._model is not None, "nothing is trained yet in this round"
        return self._model

    def on_start(self, ctx: Context) -> None:
        self._model = None
        self.begin(ctx)

    def begin(self, ctx: Context) -> None:
        """A round begins: train from the last average."""
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        # The node's model stays the last average until the next one: what is evaluated and stored.
        self.exchange(ctx, parameters)

    def exchange(self, ctx: Context, model: Vector) -> None:
        """Share this model when all are there."""
        self._model = model
        ctx.exchange()

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        mixed, fields = self.mix(ctx, received, peers)
        ctx.set_parameters(mixed)
        ctx.record("aggregate", {"round": ctx.round, "peers": len(peers), **fields})
        self._model = None
        ctx.end_round()
        self.begin(ctx)

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        """The round's new model from what came (senders in name order), and what to record."""
        raise NotImplementedError


class MetropolisRounds(Rounds):
    """See the module; a subclass says which parameters it sends (`part`) and takes (`accepts`)."""

    def part(self, ctx: Context) -> Part:
        """What of `self.model` goes to all; the same in every attempt of a round."""
        raise NotImplementedError

    def accepts(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        """Whether these are parameters that this sender would send in this round."""
        raise NotImplementedError

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage:
        fields = {"degree": len(peers)}
        return PeerMessage(kind=_KIND, round=ctx.round, part=self.part(ctx), fields=fields)

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        degrees: dict[NodeId, int] = {}
        parts: dict[NodeId, tuple[Indices, Vector]] = {}
        for peer, message in received.items():
            fault = degree_fault(message, ctx.members)
            if fault is None and message.kind != _KIND:
                fault = f"a message {message.kind!r}"
            part = message.part
            if fault is None and (part is None or not self.accepts(ctx, peer, part.where)):
                fault = f"{message.kind}: not the parameters that are due"
            if fault is not None:
                ctx.record("refused", {"sender": peer, "reason": fault})
                continue
            assert part is not None
            degrees[peer] = int(message.fields["degree"])
            parts[peer] = (resolve(part.where, ctx.layout), part.values)
        weights = metropolis_weights(len(peers), degrees)
        mixed = partial_mix(self.model, [(weights[peer], *part) for peer, part in parts.items()])
        own = 1.0 - sum(weights.values())
        return mixed, {"models": len(parts), "own_weight": own}


def needs_all_with_all(name: str, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
    """`Algorithm.check_overlay` of an algorithm whose nodes choose among all others."""
    for node, others in overlay.items():
        if len(others) < len(overlay) - 1:
            raise ValueError(
                f"{name} needs an overlay of all with all; {node} has {len(others)} of "
                f"{len(overlay) - 1} neighbours: set `overlay: full`"
            )


def whole_models(
    ctx: Context, received: Mapping[NodeId, PeerMessage], *, kind: str
) -> list[Vector]:
    """The models in messages of this kind, in the order of the senders; what is none is refused."""
    models: list[Vector] = []
    for peer, message in received.items():
        model = whole_model(message) if message.kind == kind else None
        if model is None:
            ctx.record("refused", {"sender": peer, "reason": f"{message.kind}: not a whole model"})
        else:
            models.append(model)
    return models
