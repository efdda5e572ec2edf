"""SWIFT: wait-free model communication.

Source: Bornstein et al., "SWIFT: Rapid Decentralized Federated Learning via Wait-Free Model
Communication" (ICLR 2023, arXiv 2210.14026), Algorithm 1, and its repository
(umd-huang-lab/SWIFT: `Communicators/AsyncCommunicator.py`). No barrier, and nobody waits; in each
round

1. train `local_steps` mini-batch steps (1 in the paper);
2. broadcast the trained model to all neighbours in the graph;
3. in every `average_every`-th round (the communication set C_s) average with the neighbours' models
   as they were last heard: x_i <- w_ii x_i + sum_j w_ij x_j.

That is the repository's order (`order: train_first`). The paper's Algorithm 1 (`order: paper`), in
which X <- X W - gamma G(X), broadcasts x_i when a round begins, trains from it, averages x_i, and
adds what training changed. The model that is evaluated is the average in both, and that of rounds
without an averaging as it is at step 3.

`memory: stored` uses each neighbour's last model again and again until a newer one comes, and
before the first the model that this node started from (`averaging_standard`). `fresh` uses only
those that came since the last averaging; the weight of others stays with the own model
(`averaging_efficient`, without its weight boost).

Weights: where all clients have the same influence, as in the repository, the paper asks of the
expected communication matrix that it be symmetric and doubly stochastic: w_ij = w_ji >= 0 and
w_ii = 1 - sum_j w_ij > 0. We take w_ij = 1 / (1 + max(d_i, d_j)) with the degrees that travel in
the messages. That holds on every graph, and is what the paper's coefficient selection (CCS) gives
between nodes of one degree, as on its rings. The repository's selection (`GDM/GraphConstruct.py:
getWeights`) also hands on to nodes of lower degree what those of higher degree left over. We do not
follow it there: the weights of a node with several neighbours of higher degree can sum to more than
1, and the two ends of an edge between nodes of one degree can come to different weights.

A neighbour's degree is known once it has been heard. Until then `stored` takes it for one of the
own degree: w_ij = 1 / (1 + d_i) and w_ji = 1 / (1 + d_j), which is not symmetric where the two
differ. It is once each has heard the other; the repository knows the graph from the start.

What differs besides: a broadcast, queued in random order, takes the place of an older one to the
same neighbour that is still queued (its receiver would look at the newest alone); a neighbour that
is gone has no weight until it is heard again; C_s does not depend on validation accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from node.algorithms.averaging import metropolis_weights, weighted_mix
from node.algorithms.common import LocalSteps, Order, degree_fault, whole_model
from node.config import Mode
from node.core.algorithm import Algorithm, Context
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Vector, Whole

_KIND: Final = "model"


class Memory(StrEnum):
    """Which models of the neighbours an averaging uses."""

    STORED = "stored"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Letter:
    """A neighbour's model in the mailbox, and how many neighbours it has itself."""

    round: int
    degree: int
    values: Vector


class Swift(Algorithm):
    """See the module; `Config` holds the options."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LocalSteps):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps between two broadcasts; 1 in the paper.
            average_every: an averaging in every so many-th round (s); 1 and 2 in the paper.
            memory: see `Memory`.
            order: see `Order`.
        """

        average_every: int = 1
        memory: Memory = Memory.STORED
        order: Order = Order.TRAIN_FIRST

        def __post_init__(self) -> None:
            LocalSteps.__post_init__(self)
            if self.average_every < 1:
                raise ValueError(f"average_every must be at least 1, not {self.average_every}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._mailbox: dict[NodeId, _Letter] = {}
        self._newest: dict[NodeId, int] = {}

    def on_start(self, ctx: Context) -> None:
        if self.config.memory is Memory.STORED:
            for peer in ctx.reached:
                if peer not in self._newest:
                    self._mailbox[peer] = _Letter(
                        round=ctx.round, degree=len(ctx.peers), values=ctx.parameters
                    )
        self._begin(ctx)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        model, update = parameters, None
        if self.config.order is Order.PAPER:
            model, update = ctx.parameters, parameters - ctx.parameters
        else:
            self._broadcast(ctx, model)
        if (ctx.round + 1) % self.config.average_every == 0:
            model = self._average(ctx, model)
        ctx.set_parameters(model)
        ctx.end_round()
        if update is not None:
            ctx.set_parameters(model + update)
        self._begin(ctx)

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        model, fault = whole_model(message), degree_fault(message, ctx.members)
        if model is None or message.kind != _KIND:
            fault = f"{message.kind}: not a whole model"
        if fault is not None or model is None:
            ctx.record("refused", {"sender": sender, "reason": fault})
        elif message.round > self._newest.get(sender, -1):
            self._newest[sender] = message.round
            degree = int(message.fields["degree"])
            self._mailbox[sender] = _Letter(round=message.round, degree=degree, values=model)

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None:
        if change is PeerChange.LOST:
            self._mailbox.pop(peer, None)
        else:
            self._newest.pop(peer, None)  # it may be a new process, at an earlier round

    def _begin(self, ctx: Context) -> None:
        if self.config.order is Order.PAPER:
            self._broadcast(ctx, ctx.parameters)
        ctx.train(steps=self.config.local_steps)

    def _broadcast(self, ctx: Context, model: Vector) -> None:
        part = Part(where=Whole(), values=model)
        degree = {"degree": len(ctx.peers)}
        message = PeerMessage(kind=_KIND, round=ctx.round, part=part, fields=degree)
        peers = ctx.reached
        # In a new order each time: what is not sent before the next broadcast is not always due to
        # the same neighbours.
        for i in ctx.rng("peers").permutation(len(peers)).tolist():
            ctx.send(peers[i], message, key=_KIND, supersedes=True)

    def _average(self, ctx: Context, parameters: Vector) -> Vector:
        """The own model with what the mailbox has; in name order, whatever came first."""
        letters = {peer: self._mailbox[peer] for peer in sorted(self._mailbox)}
        degrees = {peer: letter.degree for peer, letter in letters.items()}
        weights = metropolis_weights(len(ctx.peers), degrees)
        if self.config.memory is Memory.FRESH:
            self._mailbox.clear()
        ages = [ctx.round - letter.round for letter in letters.values()]
        ctx.record(
            "aggregate",
            {
                "round": ctx.round,
                "models": len(letters),
                "own_weight": 1.0 - sum(weights.values()),
                "age_mean": sum(ages) / len(ages) if ages else None,
            },
        )
        others = [(weights[peer], letter.values) for peer, letter in letters.items()]
        return weighted_mix(parameters, others)
