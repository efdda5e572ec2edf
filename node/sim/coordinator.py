"""The coordinator in a simulation: its machine, and what `node.runtime.coordinator_runner` does
around it. Links are not measured: the network is what the file says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node import __version__
from node.config import CoordinatorConfig, ExpectedPair
from node.core.coordinator import Coordinator
from node.core.effects import Effect, Finish, Record, Send, StoreLinks
from node.core.events import Event, Failed, Started
from node.core.ids import COORDINATOR
from node.core.measuring import ProbeSlot, Probing
from node.core.messages import PeerMessage
from node.core.signals import LinkReading
from node.sim.process import Driver, Process
from node.units import SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.world import World


class CoordinatorHost(Process):
    """See the module.

    Attributes:
        ended_at: when its machine was done; None: it is not.
        error: what went wrong with the run by its end.
    """

    def __init__(self, world: World, config: CoordinatorConfig) -> None:
        super().__init__(world, COORDINATOR)
        self.ended_at: Nanos | None = None
        self.error: str | None = None
        self.machine = Coordinator(
            config=config, probing=Probing(schedule=_no_slots, judge=_no_judgement)
        )
        self._driver = Driver(
            self.machine, process=self, perform=self._perform, on_defect=self.defect
        )

    def start(self) -> None:
        self.record("process", {"version": __version__})
        self._driver.feed(Started())

    def feed(self, event: Event) -> None:
        if not self.gone:
            self._driver.feed(event)

    def failed(self, reason: str) -> None:
        """A defect of its machine: there is nobody to end the run in order."""
        self._driver.feed(Failed(reason=reason))
        self._end(reason)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(target=target, message=message) if not isinstance(message, PeerMessage):
                self.world.lines[target].from_coordinator(message)
            case Record(kind="start", fields=fields):
                at = fields["at_wall"]
                assert isinstance(at, float)
                self.began = round(at * SECOND)
                self.record("start", fields)
                self.world.run_began(self.began)
            case Record(kind="refused", fields=fields):
                self.refuse(str(fields["sender"]), str(fields["reason"]))
            case Record(kind=kind, fields=fields):
                self.record(kind, fields)
            case StoreLinks():
                pass  # what was asked is known without the run, and nothing is measured
            case Finish(error=error):
                self.flush_refusals()
                self._end(error)
                self.world.run_ended()
            case _:
                raise TypeError(f"the coordinator machine wants {effect}")

    def _end(self, error: str | None) -> None:
        if self.ended_at is None:
            self.ended_at, self.error = self.queue.now, error
            self.status = 0 if error is None else 1
            self._driver.close()
            self.world.coordinator_ended()


def _no_slots(pairs: tuple[ExpectedPair, ...], attempt: int) -> tuple[ProbeSlot, ...]:
    del pairs, attempt
    return ()


def _no_judgement(pair: ExpectedPair, reading: LinkReading) -> bool:
    del pair, reading
    return True
