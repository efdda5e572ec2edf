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
from typing import ClassVar

from node.algorithms.artifact import Queue
from node.algorithms.divshare import DivShare
from node.algorithms.fragments import Permutation, Recipients
from node.core.algorithm import Context
from node.core.effects import InFlight


class SwiftArtifact(DivShare):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Recipients):
        """Options under `algorithm:`, besides those of `Recipients`.

        Args:
            queue: see `Queue`.
        """

        # What the other options of DivShare are here.
        omega: ClassVar = 1.0
        permutation: ClassVar = Permutation.FIXED
        in_flight: ClassVar = InFlight.FINISH

        queue: Queue = Queue.UNBOUNDED

    config: Config

    def flush(self, ctx: Context) -> None:
        if self.config.queue is Queue.BOUNDED:
            super().flush(ctx)
