"""What the coordinator knows of one member (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.core.events import NodeOrdered
from node.core.signals import Done, Heartbeat, Hello, Stage
from node.core.standings import Told

_BECOMES: Final = {
    "leave": "left",
    "crash": "killed",
    "restart": "restarting",
    "pause": "silent",
}
"""What a member is called that is no longer heard of after that was done to it."""
_STARTS: Final = ("join", "return", "restart")


@dataclass(slots=True)
class Seat:
    """What the coordinator knows of one member.

    Args:
        hello: the newest; None: it never came.
        ready: its trainer is up.
        done: it has learnt all that it is to learn.
        left: it is not waited for any more.
        idle: a later life of it answers, but has no part in the run (load runs only).
        reborn: the newest stream is of a later life, which has not said Hello yet.
        away: its stream is closed, and has been for a while.
        learning: it holds the model, and takes part in rounds unless it is away.
        expelled: why it has to go.
        order: what was done to it on purpose last, by plan or by hand.
        missed: it counts as left only because it was not heard of, and may come back.
        accuracy: newest that it has told; `ended`: rounds that it has told.
    """

    hello: Hello | None = None
    ready: bool = False
    done: Done | None = None
    left: bool = False
    idle: bool = False
    reborn: bool = False
    away: bool = False
    learning: bool = False
    expelled: str | None = None
    order: NodeOrdered | None = None
    missed: bool = False
    accuracy: float | None = None
    ended: int = 0

    @property
    def present(self) -> bool:
        return self.hello is not None and not self.left

    @property
    def working(self) -> bool:
        """It has a part in the run, and has not left."""
        return self.present and not self.idle and self.expelled is None

    @property
    def takes_part(self) -> bool:
        """It may be in a round at present."""
        return self.working and self.learning and not self.away and self.done is None

    @property
    def paused(self) -> bool:
        return self.order is not None and self.order.verb == "pause"

    @property
    def going(self) -> bool:
        """It ends on purpose: a broken stream means that it has."""
        return self.order is not None and self.order.verb in ("leave", "crash", "restart")

    @property
    def excuse(self) -> str | None:
        """What to call it once it is not heard of any more; None: that would be a failure."""
        return None if self.order is None else _BECOMES.get(self.order.verb)

    def take(self, order: NodeOrdered) -> None:
        """Something is about to be done to it."""
        self.order = None if order.verb == "resume" else order

    def admit(self, hello: Hello) -> None:
        """A new life of it: nothing that was before holds."""
        self.hello = hello
        self.ready = self.left = self.idle = self.reborn = self.away = self.missed = False
        self.done, self.learning, self.expelled = None, False, None
        self.accuracy, self.ended = None, 0
        if self.order is not None and self.order.verb in _STARTS:
            self.order = None

    def told(self, signal: Hello | Heartbeat) -> Told | None:
        """Where it says that it is; None where it is in no round."""
        name = signal.stage if isinstance(signal, Hello) else signal.phase
        if name not in set(Stage):
            return None
        return Told(round=signal.round, attempt=signal.attempt, stage=Stage(name))
