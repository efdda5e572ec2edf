"""Choco-SGD: gossip of compressed differences, with error feedback, in synchronous rounds.

Source: Koloskova, Stich and Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms
with Compressed Communication" (ICML 2019, arXiv 1902.00340), Algorithm 2. Every node i has a public
replica x^_i of its model, 0 at first, that its neighbours hold too. In each round

1. train `local_steps` mini-batch steps: x_i;
2. send q_i = Q(x_i - x^_i) to all neighbours; there and here x^_i <- x^_i + q_i;
3. x_i <- x_i + gamma sum_j W_ij (x^_j - x^_i), with Metropolis-Hastings weights W.

Q keeps `share` of the parameters: the largest (`top_k`, 8 bytes each) or random ones (`random`, 4
bytes each, the mask drawn from the run's seed). Where W is symmetric step 3 keeps the mean over all
nodes whatever Q does.

The paper's memory-efficient form keeps s_i = sum_j W_ij x^_j instead of the x^_j. It is wrong for
ever after one lost q, or a change of the neighbourhood. So a node holds the x^_j of its neighbours
(4 bytes a parameter for each) and sums s_i anew in each round, with that round's weights. Replicas
have a stamp: the round of the last q in them. A message says which stamp its q is for, and which
stamp of the receiver's replica its sender holds.

* A q for another stamp is not applied; the neighbour is left out of the round's sum, and its weight
  stays with the own model (so that round does not keep the mean).
* Who hears that a neighbour has another stamp than it should sends it the whole x^ in the next
  round instead of q. A lost message costs an edge two rounds, and one message of the model's size.
* A first q stands on zeros and needs nothing before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from node.algorithms.averaging import largest, metropolis_weights, weighted_mix
from node.algorithms.common import count_of, degree_fault, whole_model
from node.algorithms.rounds import Rounds
from node.core.algorithm import Context, Share
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import IndexSet, Listed, Part, RandomMask, Vector, Whole, resolve, take
from node.core.rng import derive_seed

_DIFFERENCE: Final = "difference"
_REPLICA: Final = "replica"
_ZEROS: Final = -1
"""The stamp of a replica that nothing has been added to."""


class Compression(StrEnum):
    """What of a difference is sent."""

    TOP_K = "top_k"
    RANDOM = "random"


@dataclass(slots=True, kw_only=True, eq=False)
class _State:
    """What belongs to one course of rounds; nothing of it outlives an adopted model.

    Args:
        public: x^ of this node, as all who are up to date hold it; None: zeros.
        stamp: of it.
        q: what is sent in this round.
        after: `public` once q is in it.
        held: the stamp of it that each peer holds, as far as is known.
        behind: who gets the whole of it in this round.
        replicas: stamp and x^ of others.
    """

    public: Vector | None = None
    stamp: int = _ZEROS
    q: Part | None = None
    after: Vector | None = None
    held: dict[NodeId, int] = field(default_factory=dict)
    behind: frozenset[NodeId] = frozenset()
    replicas: dict[NodeId, tuple[int, Vector]] = field(default_factory=dict)


class Choco(Rounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round; 1 in the paper.
            compression: see `Compression`.
            share: fraction of the parameters that is sent (delta of the paper).
            gamma: consensus step size. The smaller `share`, the smaller it must be.
        """

        compression: Compression = Compression.TOP_K
        share: float = 0.1
        gamma: float = 0.2

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            for option in ("share", "gamma"):
                value = getattr(self, option)
                if not 0 < value <= 1:
                    raise ValueError(f"{option} must be above 0 and at most 1, not {value}")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._state = _State()

    def on_start(self, ctx: Context) -> None:
        self._state = _State()
        super().on_start(ctx)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        # Once a round: a later attempt must send what the one before did, which some have applied.
        state = self._state
        public = np.zeros_like(parameters) if state.public is None else state.public
        difference = parameters - public
        state.q = take(difference, self._kept(ctx, difference), ctx.layout)
        state.after = _added(public, state.q, ctx)
        super().on_trained(ctx, parameters, loss)

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> Share:
        state = self._state
        fresh = state.stamp == _ZEROS
        behind = [p for p in peers if not fresh and state.held.get(p) != state.stamp]
        state.behind = frozenset(behind)
        return Share(
            messages={peer: self._message(ctx, peer, degree=len(peers)) for peer in peers},
            expected=frozenset(peers),
        )

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        state = self._state
        degrees: dict[NodeId, int] = {}
        outdated = 0
        self._advance(ctx, received, peers)
        for peer, message in received.items():
            fault = self._fault(ctx, peer, message)
            if fault is not None:
                ctx.record("refused", {"sender": peer, "reason": fault})
            elif self._apply(ctx, peer, message):
                degrees[peer] = int(message.fields["degree"])
            else:
                outdated += 1
        weights = metropolis_weights(len(peers), degrees)
        fields: Mapping[str, Value] = {
            "models": len(degrees),
            "outdated": outdated,
            "resent": len(state.behind),
            "own_weight": 1.0 - sum(weights.values()),
        }
        state.behind = frozenset()
        if state.public is None:
            return self.model, fields
        # s_i, in which x^_i stands for the replicas of those that are left out.
        near = [(weights[peer], state.replicas[peer][1]) for peer in degrees]
        moved = weighted_mix(state.public, near) - state.public
        return self.model + np.float32(self.config.gamma) * moved, fields

    def _kept(self, ctx: Context, difference: Vector) -> IndexSet:
        if self.config.compression is Compression.RANDOM:
            return self._mask(ctx, ctx.me)
        return Listed(largest(difference, count_of(self.config.share, ctx.layout)))

    def _mask(self, ctx: Context, sender: NodeId) -> RandomMask:
        return RandomMask(self.config.share, derive_seed(ctx.seed, "q", sender, ctx.round))

    def _message(self, ctx: Context, peer: NodeId, *, degree: int) -> PeerMessage:
        state = self._state
        have, _ = state.replicas.get(peer, (_ZEROS, None))
        fields = {"degree": degree, "have": have}
        if peer not in state.behind:
            fields |= {"base": state.stamp}
            return PeerMessage(kind=_DIFFERENCE, round=ctx.round, part=state.q, fields=fields)
        assert state.after is not None
        whole = take(state.after, Whole(), ctx.layout)
        return PeerMessage(kind=_REPLICA, round=ctx.round, part=whole, fields=fields)

    def _advance(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        """The own replica has this round's q in it, here and with all whom it fitted."""
        if not peers:  # nobody has got it
            return
        state = self._state
        base, state.stamp, state.public = state.stamp, ctx.round, state.after
        state.held.update(dict.fromkeys(peers, ctx.round))
        if base != _ZEROS:
            for peer, message in received.items():
                if peer not in state.behind and message.fields.get("have") != base:
                    del state.held[peer]

    def _apply(self, ctx: Context, peer: NodeId, message: PeerMessage) -> bool:
        """Bring the replica of a peer up to date; False: it is not what q is for."""
        assert message.part is not None
        replicas = self._state.replicas
        if message.kind == _REPLICA:
            replicas[peer] = (ctx.round, message.part.values)
            return True
        base = message.fields["base"]
        if base == _ZEROS:
            stamp, replica = _ZEROS, np.zeros_like(self.model)
        elif peer in replicas:
            stamp, replica = replicas[peer]
        else:
            return False
        if stamp != base:
            return False
        replicas[peer] = (ctx.round, _added(replica, message.part, ctx))
        return True

    def _fault(self, ctx: Context, sender: NodeId, message: PeerMessage) -> str | None:
        """What is wrong with a message of this round, if anything."""
        part, fields = message.part, message.fields
        if message.kind not in (_DIFFERENCE, _REPLICA) or part is None:
            return f"{message.kind}: neither a difference nor a replica"
        if message.kind == _REPLICA and whole_model(message) is None:
            return "not all of a replica"
        if message.kind == _DIFFERENCE and not self._due(ctx, sender, part.where):
            return "not the parameters of a difference that are due"
        numbers = ("have",) if message.kind == _REPLICA else ("have", "base")
        if not all(isinstance(fields.get(number), int) for number in numbers):
            return f"{message.kind}: no stamps"
        return degree_fault(message, ctx.members)

    def _due(self, ctx: Context, sender: NodeId, where: IndexSet) -> bool:
        """Whether Q keeps these parameters, as far as a receiver can tell."""
        if self.config.compression is Compression.RANDOM:
            return where == self._mask(ctx, sender)
        count = count_of(self.config.share, ctx.layout)
        return isinstance(where, Listed) and where.indices.size == count


def _added(replica: Vector, q: Part, ctx: Context) -> Vector:
    """The replica with q in it: the same float32 sums wherever they are made."""
    total = replica.copy()
    total[resolve(q.where, ctx.layout)] += q.values
    return total
