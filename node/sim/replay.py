"""A recorded peer machine once more, step by step, until it does something else (pure).

The machine is made of what was recorded and of today's code, so that the first difference is the
first effect of a change: in an algorithm, in the machine, or in something that should not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node.core.peer import Peer
from node.sim.trace import Life, Step, describe, described
from node.units import Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first step that went another way.

    Args:
        life: of the node, from 1.
        event: its number in this life, from 1.
        now: the run clock.
        what: the event, as a line of text.
        effect: which of the step's effects is the first that differs, from 1.
        recorded, came: that effect; None: there was none.
    """

    life: int
    event: int
    now: Nanos
    what: str
    effect: int
    recorded: str | None
    came: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What playing a trace again came to.

    Args:
        events: how many were played in all, the one that differs included.
        lives: of the node.
    """

    events: int
    lives: int
    difference: Difference | None


def replay(trace: Iterable[Life | Step]) -> Replayed:
    """Feed every event to a machine that is made anew; stop at the first difference.

    Raises:
        ConfigError: the algorithm is not there, or does not take the recorded options.
    """
    peer: Peer | None = None
    lives = events = number = 0
    for entry in trace:
        if isinstance(entry, Life):
            peer, lives, number = entry.peer(), lives + 1, 0
            continue
        assert peer is not None, "a trace begins with a life"
        events, number = events + 1, number + 1
        if difference := _step(peer, entry, life=lives, number=number):
            return Replayed(events=events, lives=lives, difference=difference)
    return Replayed(events=events, lives=lives, difference=None)


def _step(peer: Peer, step: Step, *, life: int, number: int) -> Difference | None:
    recorded = [*step.effects] if step.raised is None else [f"raises {step.raised}"]
    try:
        came = [describe(effect) for effect in peer.step(step.event, now=step.now)]
    except Exception as error:  # whatever an algorithm raises is what it does
        came = [f"raises {described(error)}"]
    if came == recorded:
        return None
    both = zip(recorded, came, strict=False)
    first = next((i for i, (a, b) in enumerate(both) if a != b), min(len(recorded), len(came)))
    return Difference(
        life=life,
        event=number,
        now=step.now,
        what=describe(step.event),
        effect=first + 1,
        recorded=recorded[first] if first < len(recorded) else None,
        came=came[first] if first < len(came) else None,
    )
