"""Trainers that do not train: the model stays as it is, at no cost.

For the engine alone: how fast protocol, algorithm and network are without learning, and who sends
how much to whom. Accuracy and loss are 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self

import numpy as np

from node.core.ids import NodeId
from node.core.parts import Layout, Vector, frozen
from node.sim.interfaces import Ticket, Trainers
from node.units import Nanos

_NOTHING: Final = (0.0, 0.0)


class Untrained:
    """See the module; a `Trainers`.

    Args:
        initial: the model of all nodes, for ever.
        label_counts: training samples of each node by label; who is not in it has one.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        initial: Vector,
        label_counts: Mapping[NodeId, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        self.layout = layout
        self.initial = initial
        self._label_counts = label_counts
        self._tickets: Ticket = 0
        self._models: dict[Ticket, Vector] = {}

    @classmethod
    def of_size(cls, size: int) -> Self:
        """A model of one tensor, all 0."""
        zeros = frozen(np.zeros(size, dtype=np.float32))
        return cls(layout=Layout.of({"model": (size,)}), initial=zeros)

    @classmethod
    def like(cls, trainers: Trainers, nodes: Iterable[NodeId]) -> Self:
        """With the model and the data of others."""
        counts = {node: trainers.label_counts(node) for node in nodes}
        return cls(layout=trainers.layout, initial=trainers.initial, label_counts=counts)

    def samples(self, node: NodeId) -> int:
        return sum(self.label_counts(node))

    def label_counts(self, node: NodeId) -> tuple[int, ...]:
        return self._label_counts.get(node, (1,))

    def restarted(self, node: NodeId) -> None:
        """There is no stream of minibatches."""

    def train(self, node: NodeId, *, steps: int, parameters: Vector, due: Nanos) -> Ticket:
        del node, steps, due
        self._tickets += 1
        self._models[self._tickets] = parameters
        return self._tickets

    def evaluate(self, node: NodeId | None, *, parameters: Vector, due: Nanos) -> Ticket:
        del node, parameters, due
        self._tickets += 1
        return self._tickets

    def trained(self, ticket: Ticket) -> tuple[Vector, float]:
        return self._models.pop(ticket), 0.0

    def evaluated(self, ticket: Ticket) -> tuple[float, float]:
        del ticket
        return _NOTHING

    def give_up(self, ticket: Ticket) -> None:
        self._models.pop(ticket, None)

    def state(self) -> Mapping[str, object]:
        return {}

    def restore(self, state: Mapping[str, object]) -> None:
        del state
        self._models.clear()

    def close(self) -> None:
        """Nothing to end."""
