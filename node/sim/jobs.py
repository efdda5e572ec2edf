"""What the trainers have in hand for one life of a node: handed in at once, asked for when due.

So that all jobs which overlap in virtual time can be done together. Kept is what each was made of:
after a checkpoint it is handed in again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.core.effects import Evaluate, Train
from node.core.events import Evaluated, Event, Trained
from node.core.ids import NodeId
from node.errors import PeerbedError
from node.sim.interfaces import Ticket
from node.units import SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.world import World


@dataclass(slots=True)
class _Job:
    """One of them.

    Args:
        due: when its result is asked for.
        took: its virtual duration.
    """

    effect: Train | Evaluate
    ticket: Ticket
    due: Nanos
    took: Nanos


class Jobs:
    """See the module.

    Args:
        done: takes `Trained` and `Evaluated`.
        fail: is told why there is no result.
    """

    def __init__(
        self,
        world: World,
        node: NodeId,
        *,
        done: Callable[[Event], None],
        fail: Callable[[str], None],
    ) -> None:
        self._world = world
        self._node = node
        self._done = done
        self._fail = fail
        self._jobs: dict[int, _Job] = {}
        self._numbers = 0

    def hand_in(self, effect: Train | Evaluate, took: Nanos) -> None:
        """Begin a job that is done in `took` ns."""
        queue = self._world.queue
        due = queue.now + took
        self._numbers += 1
        ticket = self._ticket(effect, due)
        self._jobs[self._numbers] = _Job(effect=effect, ticket=ticket, due=due, took=took)
        queue.at(due, self._due, self._numbers)

    def again(self) -> None:
        """After a checkpoint: the trainers know nothing of what was under way."""
        for job in self._jobs.values():
            job.ticket = self._ticket(job.effect, job.due)

    def give_up(self) -> None:
        """Nobody will ask for any of them."""
        for job in self._jobs.values():
            self._world.trainers.give_up(job.ticket)
        self._jobs.clear()

    def _ticket(self, effect: Train | Evaluate, due: Nanos) -> Ticket:
        trainers, model = self._world.trainers, effect.parameters
        if isinstance(effect, Train):
            return trainers.train(self._node, steps=effect.steps, parameters=model, due=due)
        return trainers.evaluate(self._node, parameters=model, due=due)

    def _due(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        if job is None:
            return  # given up
        try:
            event = self._result(job)
        except PeerbedError as error:
            self._fail(error.said_by(self._node))
            return
        self._done(event)

    def _result(self, job: _Job) -> Event:
        """Raises RunFailed."""
        trainers, effect = self._world.trainers, job.effect
        if isinstance(effect, Evaluate):
            accuracy, loss = trainers.evaluated(job.ticket)
            return Evaluated(round=effect.round, accuracy=accuracy, loss=loss)
        parameters, loss = trainers.trained(job.ticket)
        return Trained(
            job=effect.job,
            parameters=parameters,
            loss=loss,
            steps=effect.steps,
            compute_s=job.took / SECOND,
        )
