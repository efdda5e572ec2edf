"""AD-PSGD as DivShare's artifact runs it.

Source: sacs-epfl/divshare, `asyncNodes/node/ADPSGD.py`. No barrier; in each round

1. train `local_steps` mini-batch steps; the result, before aggregation, is the node's snapshot
   until the next round's;
2. send the snapshot as a `ping` to degree / 2 random neighbours, drawn with replacement;
3. take the plain mean of the own model and those that came since the last round, pings and pongs,
   one of each sender.

Who gets a ping queues its snapshot for the other at once, as a `pong`. So a node queues `degree`
models a round on average, as in DivShare. It is neither pairwise nor atomic, and mixes with no
doubly stochastic matrix: for AD-PSGD as it was published see `adpsgd`.

What differs from the artifact: an older model never takes the place of a newer one of the same
sender; peers that are gone are not drawn; a node that has ended its rounds answers with its last
snapshot (there its process is gone); `queue: bounded`. And ping and pong are messages of their own:
in the artifact both are one mutable dict, so that queueing a pong turns the pings that still wait
into pongs, and fewer models are asked for than meant.

`queue: bounded` cancels pongs as it cancels pings: with a bound on pings alone the answers of a
slow node would pile up as everything does in the artifact. A round's pings are queued first, so
that a node whose link takes less than degree / 2 models a round sends pings only, and answers
nobody. What a model says and how it counts is the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from node.algorithms.artifact import Queue
from node.algorithms.averaging import weighted_mix
from node.algorithms.common import LocalSteps, usual_degree, whole_model
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Vector, Whole

_PING: Final = "ping"
_PONG: Final = "pong"
_KEY: Final = "model/"


class ADPSGDArtifact(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LocalSteps):
        """Options under `algorithm:`, besides those of `LocalSteps`.

        Args:
            degree: models that a node sends in a round (J), half of them unasked; an odd number
                counts as the even one below. Default ceil(log2(nodes)), at least 2.
            queue: see `Queue`.
        """

        degree: int | None = None
        queue: Queue = Queue.UNBOUNDED

        def __post_init__(self) -> None:
            LocalSteps.__post_init__(self)
            if self.degree is not None and self.degree < 2:
                raise ValueError(f"degree must be at least 2, not {self.degree}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._snapshot: tuple[int, Part] | None = None
        self._inbox: dict[NodeId, tuple[int, Vector]] = {}
        self._newest: dict[NodeId, int] = {}
        self._replaced = self._stale = 0

    def on_start(self, ctx: Context) -> None:
        self._inbox.clear()
        self._newest.clear()
        self._replaced = self._stale = 0
        ctx.drop_queued(key_prefix=_KEY)
        self._snapshot = (ctx.round, Part(where=Whole(), values=ctx.parameters))
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        if self.config.queue is Queue.BOUNDED:
            ctx.drop_queued(key_prefix=_KEY)
        self._snapshot = (ctx.round, Part(where=Whole(), values=parameters))
        peers = ctx.reached
        degree = self.config.degree or max(2, usual_degree(ctx.members))
        if peers:
            for i in ctx.rng("peers").integers(len(peers), size=degree // 2).tolist():
                self._send(ctx, peers[i], _PING)
        ctx.set_parameters(self._mean(ctx, parameters))
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        model = whole_model(message)
        if model is None or message.kind not in (_PING, _PONG):
            reason = f"{message.kind}: neither ping nor pong with a whole model"
            ctx.record("refused", {"sender": sender, "reason": reason})
            return
        if message.round >= self._newest.get(sender, -1):
            self._replaced += sender in self._inbox
            self._newest[sender] = message.round
            self._inbox[sender] = (message.round, model)
        else:
            self._stale += 1
        if message.kind == _PING:
            self._send(ctx, sender, _PONG)

    def on_late_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if message.kind == _PING and self._snapshot is not None:
            # It never changes again: an answer that is still queued for this peer is the same.
            self._send(ctx, sender, _PONG, supersedes=True)

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is not PeerChange.LOST:
            self._newest.pop(peer, None)  # it may be a new process, at an earlier round

    def _send(self, ctx: Context, peer: NodeId, kind: str, *, supersedes: bool = False) -> None:
        assert self._snapshot is not None, "messages come after the start"
        made, part = self._snapshot
        message = PeerMessage(kind=kind, round=made, part=part)
        ctx.send(peer, message, key=f"{_KEY}{ctx.round}/{kind}", supersedes=supersedes)

    def _mean(self, ctx: Context, parameters: Vector) -> Vector:
        """Consume what has come; in name order, so that arrival order does not change the sum."""
        arrived = [self._inbox[sender] for sender in sorted(self._inbox)]
        ages = [ctx.round - made for made, _ in arrived]
        ctx.record(
            "aggregate",
            {
                "round": ctx.round,
                "models": len(arrived),
                "age_mean": sum(ages) / len(ages) if ages else None,
                "replaced": self._replaced,
                "stale": self._stale,
            },
        )
        self._inbox.clear()
        self._replaced = self._stale = 0
        weight = 1 / (1 + len(arrived))
        return weighted_mix(parameters, [(weight, values) for _, values in arrived])
