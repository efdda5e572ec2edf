"""DivShare: asynchronous exchange of random model fragments.

Source: Biswas et al., "Boosting Asynchronous Decentralized Learning with Model Fragmentation"
(WWW 2025, arXiv 2410.12918), and its artifact (sacs-epfl/divshare). No barrier; in each round

1. train `local_steps` mini-batch steps;
2. cut the trained model (before aggregation) into K = int(1/omega) fragments and send each to
   `degree` distinct random neighbours, in random order, cancelling what is still queued of the
   round before: stragglers ship fresh fragments instead of old ones;
3. average each parameter over the own value and all fragments received since the last round.

A round costs at most degree * model bytes whatever omega is. What differs from the artifact: a
fragment of an older round than the newest heard of its sender is dropped (there it is taken in,
even in the place of a newer one); a cancel closes no connection; peers that are gone are not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from node.algorithms.common import usual_degree
from node.algorithms.fragments import Inbox, Permutation, Recipients, cut, deal
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.effects import InFlight
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector

_KEY: Final = "fragment/"


class DivShare(Algorithm):
    """See the module; `Config` holds the options. `SwiftArtifact` has others of the same names."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Recipients):
        """Options under `algorithm:`, besides those of `Recipients`.

        Args:
            omega: fraction of the model in a fragment; K = int(1 / omega) fragments.
            permutation: see `Permutation`.
            in_flight: whether a cancel cuts off the fragment on its way; see `InFlight`.
        """

        omega: float = 0.1
        permutation: Permutation = Permutation.FIXED
        in_flight: InFlight = InFlight.FINISH

        def __post_init__(self) -> None:
            Recipients.__post_init__(self)
            if not 0 < self.omega <= 1:
                raise ValueError(f"omega must be above 0 and at most 1, not {self.omega}")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._count = int(1 / config.omega)
        self._inbox = Inbox(self._count, ())

    def on_start(self, ctx: Context) -> None:
        # With this node, although it sends itself nothing: the index is one for a whole overlay.
        self._inbox = Inbox(self._count, (*ctx.peers, ctx.me))
        self._cancel(ctx)
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        self.flush(ctx)
        self._share(ctx, parameters)
        model, counts = self._inbox.mean(parameters, round_=ctx.round, layout=ctx.layout)
        ctx.record("aggregate", counts)
        ctx.set_parameters(model)
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if (fault := self._inbox.put(sender, message)) is not None:
            ctx.record("refused", {"sender": sender, "reason": fault})

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is not PeerChange.LOST:
            self._inbox.forget(peer)

    def flush(self, ctx: Context) -> None:
        """What becomes of what is still queued of the round before: it is cancelled."""
        self._cancel(ctx)

    def _cancel(self, ctx: Context) -> None:
        ctx.drop_queued(key_prefix=_KEY, in_flight=self.config.in_flight)

    def _share(self, ctx: Context, parameters: Vector) -> None:
        """Queue each fragment for its own random recipients, all in random order."""
        peers = ctx.reached
        degree = self.config.degree or usual_degree(ctx.members)
        seed = self.config.permutation.seed(ctx.seed, node=ctx.me, round_=ctx.round)
        parts = cut(parameters, count=self._count, seed=seed, layout=ctx.layout)
        messages = [PeerMessage(kind="fragment", round=ctx.round, part=part) for part in parts]
        rng, key = ctx.rng("peers"), f"{_KEY}{ctx.round}"
        for fragment, peer in deal(rng, fragments=self._count, peers=len(peers), degree=degree):
            ctx.send(peers[peer], messages[fragment], key=key)
