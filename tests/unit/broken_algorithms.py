"""One sound algorithm, and for each check some that it must catch. What is wrong is in the name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from node.algorithms.averaging import weighted_mix
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.parts import Part, Vector, Whole, frozen, take


class Gossip(Algorithm):
    """Sound: push to all neighbours after each round, average what came."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        local_steps: int = 4

    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.inbox: dict[NodeId, PeerMessage] = {}

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        for peer in self.targets(ctx):
            message = self.message(ctx, parameters)
            ctx.send(peer, message, key=f"model/{message.kind}", supersedes=True)
        ctx.set_parameters(self.average(ctx, parameters))
        self.inbox.clear()
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if message.part is None or message.part.where != Whole():
            reason = f"{message.kind}: no whole model"
            ctx.record("refused", {"sender": sender, "reason": reason})
            return
        self.inbox[sender] = message

    def targets(self, ctx: Context) -> tuple[NodeId, ...]:
        return ctx.peers

    def message(self, ctx: Context, parameters: Vector) -> PeerMessage:
        return PeerMessage(
            kind="model", round=ctx.round, part=take(parameters, Whole(), ctx.layout)
        )

    def average(self, ctx: Context, parameters: Vector) -> Vector:
        parts = [m.part for _, m in sorted(self.inbox.items()) if m.part is not None]
        return weighted_mix(parameters, [(1 / (1 + len(parts)), part.values) for part in parts])


# clean run ---------------------------------------------------------------------------------------


class TrainsOnce(Gossip):
    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.set_parameters(parameters)
        ctx.end_round()


class NeverSetsTheModel(Gossip):
    def average(self, ctx: Context, parameters: Vector) -> Vector:
        return ctx.parameters


class SumsInsteadOfAveraging(Gossip):
    def average(self, ctx: Context, parameters: Vector) -> Vector:
        total = parameters.astype(np.float64)
        for message in self.inbox.values():
            assert message.part is not None
            total = total + message.part.values
        return total.astype(np.float32)


class DividesByZero(Gossip):
    def average(self, ctx: Context, parameters: Vector) -> Vector:
        with np.errstate(all="ignore"):
            return (parameters * np.float32(0)) / np.float32(0)


class SendsPartsThatDoNotFit(Gossip):
    def message(self, ctx: Context, parameters: Vector) -> PeerMessage:
        part = Part(where=Whole(), values=frozen(parameters[:-1].copy()))
        return PeerMessage(kind="model", round=ctx.round, part=part)


class SendsWhatHasNoEncoding(Gossip):
    def message(self, ctx: Context, parameters: Vector) -> PeerMessage:
        return PeerMessage(kind="k" * 500, round=ctx.round)


# the others, a check each ------------------------------------------------------------------------


class MutableOptions(Gossip):
    @dataclass
    class Config:
        local_steps: int = 4


class OptionsThatChangeOnTheirWay(Gossip):
    @dataclass(frozen=True)
    class Config:
        local_steps: int = 4
        weights: tuple[float, ...] = (0.5, 0.5)


class SendsToStrangers(Gossip):
    def targets(self, ctx: Context) -> tuple[NodeId, ...]:
        return tuple(NodeId(f"n-{number}") for number in range(ctx.members))


class WantsEveryMessageFresh(Gossip):
    """In a run without loss, what comes is never older than two rounds."""

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if ctx.round - message.round > 2:
            raise RuntimeError(f"a message of round {message.round} in round {ctx.round}")
        super().on_message(ctx, sender, message)


class WaitsForEveryone(Gossip):
    """The next round begins when all neighbours' models are here, whatever became of them."""

    waiting: Vector | None = None

    def on_start(self, ctx: Context) -> None:
        self.waiting = None
        super().on_start(ctx)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        for peer in ctx.peers:
            ctx.send(peer, self.message(ctx, parameters), key=f"model/{ctx.round}")
        self.waiting = parameters
        self.go_on(ctx)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        super().on_message(ctx, sender, message)
        self.go_on(ctx)

    def go_on(self, ctx: Context) -> None:
        if self.waiting is not None and len(self.inbox) == len(ctx.peers):
            ctx.set_parameters(self.average(ctx, self.waiting))
            self.inbox.clear()
            self.waiting = None
            ctx.end_round()
            ctx.train(steps=self.config.local_steps)


class WaitsForADatagram(WaitsForEveryone):
    def message(self, ctx: Context, parameters: Vector) -> PeerMessage:
        part = take(parameters, Whole(), ctx.layout)
        return PeerMessage(kind="model", round=ctx.round, part=part, delivery=Delivery.DATAGRAM)


class CountsOnOrder(Gossip):
    newest: dict[NodeId, int]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.newest = {}

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if message.round < self.newest.get(sender, 0):
            raise RuntimeError(f"{sender} went back to round {message.round}")
        self.newest[sender] = message.round
        super().on_message(ctx, sender, message)

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        self.newest.pop(peer, None)


class CountsOnEachMessageOnce(Gossip):
    seen: set[tuple[NodeId, int]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen = set()

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if (sender, message.round) in self.seen:
            raise RuntimeError(f"the model of round {message.round} of {sender} came twice")
        self.seen.add((sender, message.round))
        super().on_message(ctx, sender, message)


class BelievesWhatComes(Gossip):
    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        self.inbox[sender] = message

    def average(self, ctx: Context, parameters: Vector) -> Vector:
        models = [m.part.values for m in self.inbox.values() if m.part is not None]
        return np.mean([parameters, *models], axis=0, dtype=np.float64).astype(np.float32)


class BelievesFields(Gossip):
    def message(self, ctx: Context, parameters: Vector) -> PeerMessage:
        part = take(parameters, Whole(), ctx.layout)
        return PeerMessage(kind="model", round=ctx.round, part=part, fields={"degree": 2})

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        _ = 1 / (1 + int(message.fields["degree"]))
        super().on_message(ctx, sender, message)


class BeginsAtRoundZero(Gossip):
    def on_start(self, ctx: Context) -> None:
        if ctx.round:
            raise RuntimeError(f"the start is in round {ctx.round}")
        super().on_start(ctx)


class WantsAllAtTheSameRound(Gossip):
    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        if abs(ctx.round - message.round) > 5:
            raise RuntimeError(f"{sender} is in round {message.round}, I am in {ctx.round}")
        super().on_message(ctx, sender, message)


class DrawsFromItsOwnGenerator(Gossip):
    def targets(self, ctx: Context) -> tuple[NodeId, ...]:
        return (ctx.peers[np.random.default_rng().integers(len(ctx.peers))],)


class FollowsTheOrderOfASet(Gossip):
    def targets(self, ctx: Context) -> tuple[NodeId, ...]:
        names = {f"{peer}/{number}" for peer in ctx.peers for number in range(8)}
        return (NodeId(next(iter(names)).partition("/")[0]),)


class KeepsALambda(Gossip):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.scale: Callable[[float], float] = lambda x: 2 * x


# synchronous rounds ------------------------------------------------------------------------------


class Mean(Algorithm):
    """Sound: the plain mean over a node and its neighbours."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.SYNC,)
    Config = Gossip.Config
    trained: Vector

    def on_start(self, ctx: Context) -> None:
        ctx.train(steps=self.config.local_steps)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        self.trained = parameters
        ctx.exchange()

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage:
        return PeerMessage(
            kind="model", round=ctx.round, part=take(self.trained, Whole(), ctx.layout)
        )

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        models = [
            m.part.values
            for m in received.values()
            if m.part is not None and m.part.where == Whole()
        ]
        mean = np.mean([self.trained, *models], axis=0, dtype=np.float64)
        ctx.set_parameters(mean.astype(np.float32))
        ctx.end_round()
        ctx.train(steps=self.config.local_steps)


class WantsAllOfTheRound(Mean):
    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        for peer in ctx.peers:
            _ = received[peer]
        super().on_exchanged(ctx, received, peers)


class BelievesTheRound(Mean):
    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        for message in received.values():
            assert message.part is not None, "a message without a part"
        super().on_exchanged(ctx, received, peers)


class Hermit(Gossip):
    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        raise ValueError("it wants to be alone")
