"""SWIFT as DivShare's artifact runs it.

Source: sacs-epfl/divshare, `asyncNodes/node/Swift.py`: DivShare with omega = 1, whose queue is
never emptied. In each round a node trains, queues its whole model for `degree` distinct random
neighbours, and takes the plain mean of its model and those that came since the last round, one of
each sender. No mailbox memory, no communication set, no CCS weights: for those see `swift`.

What differs from the artifact: what `divshare` says, and `queue: bounded`. That variant is, message
by message, `divshare` with omega = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.algorithms.artifact import Queue
from node.algorithms.divshare import DivShare
from node.core.algorithm import Context


class SwiftArtifact(DivShare):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options under `algorithm:`.

        Args:
            degree: recipients of each model (J); default ceil(log2(nodes)).
            local_steps: mini-batch steps a round.
            queue: see `Queue`.
        """

        degree: int | None = None
        local_steps: int = 8
        queue: Queue = Queue.UNBOUNDED

        def __post_init__(self) -> None:
            self.divshare()

        def divshare(self) -> DivShare.Config:
            """The same as options of DivShare, which checks them."""
            return DivShare.Config(omega=1.0, degree=self.degree, local_steps=self.local_steps)

    def __init__(self, config: Config) -> None:
        super().__init__(config.divshare())
        self._queue = config.queue

    def flush(self, ctx: Context) -> None:
        if self._queue is Queue.BOUNDED:
            super().flush(ctx)
