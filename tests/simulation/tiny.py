"""The smallest algorithm that shows who aggregated what of whom: a model of four numbers.

In synchronous mode it is gossip averaging. In asynchronous mode it sends its model to all its
neighbours after each training, and takes the mean with what has come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Part, Vector, Whole, frozen

LAYOUT = Layout.of({"w": (4,)})


class Tiny(Algorithm):
    """See the module."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How it keeps in step."""

        mode: Mode = Mode.SYNC

    MODES = (Mode.SYNC, Mode.ASYNC)
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._inbox: dict[NodeId, PeerMessage] = {}

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=1)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.set_parameters(parameters)
        if self.config.mode is Mode.SYNC:
            ctx.exchange()
            return
        message = _message(ctx)
        for peer in ctx.peers:
            ctx.send(peer, message, key="model", supersedes=True)
        self._next(ctx, self._inbox)
        self._inbox.clear()

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        self._inbox[sender] = message

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage | None:
        return _message(ctx)

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        self._next(ctx, received)

    def _next(self, ctx: Context, received: Mapping[NodeId, PeerMessage]) -> None:
        """Aggregate, in name order, and begin the next round."""
        values = [received[name].part.values for name in sorted(received)]  # type: ignore[union-attr]
        if values:
            ctx.set_parameters(frozen(np.mean([ctx.parameters, *values], axis=0)))
        ctx.end_round()
        ctx.train(steps=1)


def _message(ctx: Context) -> PeerMessage:
    part = Part(where=Whole(), values=ctx.parameters)
    return PeerMessage(kind="model", round=ctx.round, part=part)
