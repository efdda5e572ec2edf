"""What an algorithm is, and the only door through which it sees the world.

An algorithm is one class with a frozen `Config`, found by name (docs/adding-an-algorithm.md). Its
handlers are atomic: they read the context, call its methods, return. No threads, clocks, sockets
or global randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from node.config import Mode
from node.core.effects import InFlight, Value
from node.core.events import PeerChange
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Vector
from node.units import Nanos


class Context(Protocol):
    """An algorithm's view of its node during one handler call."""

    @property
    def now(self) -> Nanos:
        """Run clock, ns since the start."""

    @property
    def me(self) -> NodeId: ...

    @property
    def round(self) -> int:
        """Rounds ended so far."""

    @property
    def peers(self) -> tuple[NodeId, ...]:
        """Neighbours in the overlay in name order, also those that are out of reach."""

    @property
    def reached(self) -> tuple[NodeId, ...]:
        """Those of `peers` that are in reach, as far as this node can tell; see `on_peer`."""

    @property
    def members(self) -> int:
        """Number of nodes in the run, this one included."""

    @property
    def seed(self) -> int:
        """The run's seed, the same on every node: for what all must derive alike."""

    @property
    def samples(self) -> int:
        """Number of this node's training samples."""

    @property
    def batch_size(self) -> int:
        """Samples in a mini-batch step."""

    @property
    def layout(self) -> Layout: ...

    @property
    def parameters(self) -> Vector:
        """The node's model: flat, float32, read-only."""

    def rng(self, purpose: str) -> np.random.Generator:
        """This node's random stream for a purpose; the same generator at every call."""

    def send(
        self, target: NodeId, message: PeerMessage, *, key: str, supersedes: bool = False
    ) -> None:
        """Queue a message; see `effects.Send`."""

    def drop_queued(self, *, key_prefix: str, in_flight: InFlight = InFlight.FINISH) -> None:
        """Cancel what is queued under keys that start with `key_prefix`."""

    def set_timer(self, key: str, *, after: Nanos) -> None: ...

    def cancel_timer(self, key: str) -> None: ...

    def train(self, *, steps: int) -> None:
        """Start a training job from `parameters` as they are now; `on_trained` answers."""

    def set_parameters(self, parameters: Vector) -> None:
        """Replace the node's model."""

    def exchange(self) -> None:
        """Trained for this round: share when all are there (`Mode.SYNC` only).

        `Algorithm.on_share` is asked for the message, `Algorithm.on_exchanged` gets what came.
        """

    def end_round(self) -> None:
        """Count a round: evaluation and the stop condition on rounds hang on it.

        `parameters` as they are now are the model that is evaluated, stored and given to newcomers:
        an average, without what was trained after it.
        """

    def record(self, kind: str, fields: Mapping[str, Value]) -> None:
        """Write a line into the node's event log."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """What a node exchanges in one round, where that is not one message for all.

    Args:
        messages: what to send to whom.
        expected: of whom a message is waited for; what others send is dropped and counted. Nobody:
            sharing is over at once.
    """

    messages: Mapping[NodeId, PeerMessage]
    expected: frozenset[NodeId]


class Algorithm:
    """Base of all algorithms: handlers that do nothing, to override.

    Args:
        config: an instance of the class's own `Config`.
    """

    Config: ClassVar[type[Any]]
    """A frozen dataclass of the options that the topology file may set under `algorithm:`."""

    MODES: ClassVar[tuple[Mode, ...]] = (Mode.ASYNC,)
    """The modes it can run in, its own first."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        """Raise ValueError where it cannot run among these neighbours; asked before a run is made.

        Args:
            config: an instance of the class's `Config`.
            overlay: every node's neighbours, in name order.
        """

    @classmethod
    def options_by_node(
        cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]
    ) -> Mapping[NodeId, Mapping[str, Any]]:
        """Options of single nodes that only the whole overlay can tell, such as a role; the plan
        adds them to those of the file.

        Args:
            config, overlay: as in `check_overlay`.
        """
        return {}

    def on_start(self, ctx: Context) -> None:
        """The run clock starts; or the node goes on from another model, at `ctx.round`: what
        belongs to the old one is void."""

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        """A training job is done. `ctx.parameters` is still what it was; set it if wanted."""

    def on_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        """A message came whose part, if any, fits the layout and is finite."""

    def on_late_message(self, ctx: Context, sender: NodeId, message: PeerMessage) -> None:
        """A message came after this node's part of the run has ended, for those who still wait for
        an answer: its model stays as it is, and nothing is trained or counted any more."""

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> PeerMessage | Share | None:
        """The round's barrier is open: the message for each of `peers`, or None for no message, or
        a `Share` that tells them apart.

        Round and attempt of messages are filled in. Asked again in a later attempt of the round:
        what an older one sent may have been used by some who got it.
        """
        return None

    def on_exchanged(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> None:
        """Sharing is over: what came of those expected in this round and attempt.

        Without a message of a peer that was lost or late; empty where this node was left out.
        `peers` are those that `on_share` was asked about. Ends the round (`Context.end_round`) and
        trains for the next.
        """

    def on_timer(self, ctx: Context, key: str) -> None: ...

    def on_sent(self, ctx: Context, target: NodeId, key: str) -> None:
        """The peer has all of it."""

    def on_send_failed(self, ctx: Context, target: NodeId, key: str, reason: str) -> None: ...

    def on_peer(self, ctx: Context, peer: NodeId, change: PeerChange) -> None: ...
