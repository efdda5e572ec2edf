"""A problem whose answer is known (pure): each node is drawn to its own point.

Node i minimises |x - c_i|^2 / 2 by gradient steps, which are exact: a step is x += rate (c_i - x).
The loss of all together is least at the mean of the c_i. All start from one point far away, so that
training alone brings a node most of the way, and only exchange brings it to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from node.core.consensus import merge
from node.core.ids import NodeId
from node.core.parts import Layout, Vector, frozen
from node.core.rng import stream

RATE: Final = 0.1
_FAR: Final = 3.0
"""Of the start, in standard deviations of the c_i."""
LAYOUT: Final = Layout.of({"weight": (40, 10), "bias": (40,)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Toy:
    """See the module."""

    centres: dict[NodeId, npt.NDArray[np.float64]]
    initial: Vector

    @staticmethod
    def of(nodes: Sequence[NodeId], seed: int) -> Toy:
        """The problem for these nodes."""
        size = LAYOUT.size
        start = _FAR * stream(seed, "toy", "start").standard_normal(size)
        return Toy(
            centres={n: stream(seed, "toy", "centre", n).standard_normal(size) for n in nodes},
            initial=frozen(start.astype(np.float32)),
        )

    def train(self, node: NodeId, parameters: Vector, steps: int) -> tuple[Vector, float]:
        """The model after so many steps, and the mean loss before each of them."""
        centre = self.centres[node]
        offset = parameters - centre
        kept = (1 - RATE) ** np.arange(steps + 1)
        loss = float(np.mean(kept[:-1] ** 2) * np.sum(offset * offset) / 2)
        return frozen((centre + kept[-1] * offset).astype(np.float32)), loss

    def loss(self, parameters: npt.NDArray[Any]) -> float:
        """What a model lacks to the best one for all."""
        best = np.mean(list(self.centres.values()), axis=0)
        return float(np.sum((parameters - best) ** 2) / 2)

    def apart(self, models: Sequence[Vector]) -> float:
        """Consensus distance, over that of nodes that never exchange."""
        alone = merge([centre.astype(np.float32) for centre in self.centres.values()]).distance
        return merge(models).distance / alone
