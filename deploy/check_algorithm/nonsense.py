"""Messages that no node of an algorithm would send (pure): a bug of another version, or malice.

All of them pass the codec and the peer machine: what is in them is for the algorithm to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from node.core.messages import PeerMessage, Scalar
from node.core.parts import Fragment, IndexSet, Layout, Listed, Part, Span, Whole, frozen, resolve

_FAR_AHEAD: Final = 10**6


def variants(message: PeerMessage, layout: Layout) -> Sequence[tuple[str, PeerMessage]]:
    """What can be made of a message of the algorithm: words for it, and the message."""
    found: list[tuple[str, PeerMessage]] = [
        ("a kind that does not exist", replace(message, kind="no-such-kind", part=None, fields={})),
        ("no fields", replace(message, fields={})),
        ("a round far ahead", replace(message, round=_FAR_AHEAD)),
        ("round 0", replace(message, round=0)),
    ]
    if message.part is not None:
        found.append(("no part", replace(message, part=None)))
    for words, where in (
        ("a whole model", Whole()),
        ("one parameter", Span(0, 1)),
        ("no parameter", Span(3, 3)),
        ("a fragment of another partition", Fragment(1, 3, 99)),
        ("a list of two parameters", Listed(np.array([1, 5], dtype=np.int64))),
    ):
        found.append((words, replace(message, part=_part(where, layout))))
    for words, alter in _ALTERED.items():
        if message.fields:
            found.append((words, replace(message, fields=_each(message.fields, alter))))
    return found


def _part(where: IndexSet, layout: Layout) -> Part:
    size = resolve(where, layout).size
    return Part(where=where, values=frozen(np.full(size, 0.25, dtype=np.float32)))


def _each(fields: Mapping[str, Scalar], alter: Callable[[Scalar], Scalar]) -> Mapping[str, Scalar]:
    return {name: alter(value) for name, value in fields.items()}


_ALTERED: Final[Mapping[str, Callable[[Scalar], Scalar]]] = {
    "fields that are text": lambda _: "nonsense",
    "fields that are negative": lambda _: -1,
    "fields that are huge": lambda _: 10**15,
    "fields that are no numbers": lambda _: float("nan"),
}
