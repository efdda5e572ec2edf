"""What algorithms have in common, in rounds or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from node.core.messages import PeerMessage
from node.core.parts import Layout, Vector, Whole


class Order(StrEnum):
    """What an average is of, and where the update (what training changed) goes."""

    TRAIN_FIRST = "train_first"
    """Of trained models, updates included."""
    PAPER = "paper"
    """Of the models that training began with; the own update is added to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSteps:
    """Base of the options of an algorithm that trains the same number of steps in each round.

    Args:
        local_steps: mini-batch steps a round.
    """

    local_steps: int = 8

    def __post_init__(self) -> None:
        if self.local_steps < 1:
            raise ValueError(f"local_steps must be at least 1, not {self.local_steps}")


def usual_degree(members: int) -> int:
    """The number of recipients that papers take where a file says none: ceil(log2(nodes))."""
    return max(1, math.ceil(math.log2(members)))


def count_of(share: float, layout: Layout) -> int:
    """How many parameters a share of a model is, rounded up."""
    return math.ceil(share * layout.size)


def whole_model(message: PeerMessage) -> Vector | None:
    """The model in a message; None: there is none, or not all of it."""
    part = message.part
    return part.values if part is not None and part.where == Whole() else None


def degree_fault(message: PeerMessage, members: int) -> str | None:
    """What is wrong with the degree that a message says its sender has, if anything."""
    degree = message.fields.get("degree")
    if not isinstance(degree, int) or not 1 <= degree < members:
        return f"degree {degree!r} among {members} members"
    return None
