"""What the baselines of DivShare's artifact (sacs-epfl/divshare) have in common: their queue."""

from __future__ import annotations

from enum import StrEnum


class Queue(StrEnum):
    """What becomes of models that are still queued when a round ends.

    The artifact lets them wait (`Swift.py`, `ADPSGD.py`: the queue is only ever added to). Where a
    round takes less time than sending what it queues, the queue grows without end, and what arrives
    is older each time: that alone can keep a baseline from learning at all.

    Hence a bounded variant, with DivShare's own policy: what is left of a round, answers that were
    asked for in it included, is cancelled when the next one queues its models. It bounds the queue
    by what one round asks for and its age by one round, and leaves the fragments as the only
    difference between DivShare and `swift-artifact`. The other way, that a newer model takes the
    place of an older one to the same peer, is a weaker bound: n - 1 models, each of which moves to
    the end of the queue whenever its peer is drawn again, or, where it keeps its place, is sent
    after up to n - 2 others. Which of them the paper's own runs had is not known: the artifact has
    neither.
    """

    BOUNDED = "bounded"
    UNBOUNDED = "unbounded"
