"""What is ordered while a run goes on, as the coordinator keeps book of it (pure).

An order for links goes to every member that it concerns, and again to one that comes back without
having acknowledged it. An order for a node is done by `deploy`; told of it beforehand, the
coordinator expects what follows: a node that was killed on purpose is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.core.effects import Effect, Record, Send, Value
from node.core.events import LinksOrdered, NodeOrdered
from node.core.ids import NodeId
from node.core.signals import ChangeLinks, Done, Hello, LinksChanged
from node.units import SECOND

_BECOMES: Final = {
    "leave": "left",
    "crash": "killed",
    "restart": "restarting",
    "pause": "silent",
}
"""What a member is called that is no longer heard of after that was done to it."""


@dataclass(slots=True)
class Seat:
    """What the coordinator knows of one member.

    Args:
        left: it is not waited for any more.
        idle: a later life of it answers, but has no part in the run.
        reborn: the newest stream is of a later life, which has not said Hello yet.
        order: what was done to it on purpose last, by plan or by hand.
        missed: it counts as left only because it was paused, and may come back.
    """

    hello: Hello | None = None
    ready: bool = False
    done: Done | None = None
    left: bool = False
    accuracy: float | None = None
    idle: bool = False
    reborn: bool = False
    order: NodeOrdered | None = None
    missed: bool = False

    @property
    def present(self) -> bool:
        return self.hello is not None and not self.left

    @property
    def working(self) -> bool:
        """It has a part in the run, and has not left."""
        return not self.left and not self.idle

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


class LinkOrders:
    """The orders for links so far, and which of them each member has taken."""

    def __init__(self) -> None:
        self._orders: list[LinksOrdered] = []
        self._taken: dict[NodeId, int] = {}

    def give(self, order: LinksOrdered, *, present: Iterable[NodeId]) -> list[Effect]:
        """A new order, to those of `present` that it concerns.

        It builds on those before: what a member has not acknowledged goes with it, in order.
        """
        self._orders.append(order)
        now = [name for name in present if name in order.plans]
        fields: dict[str, Value] = {
            "number": order.number,
            "state": "ordered",
            "at": order.at_ns / SECOND,
            "what": list(order.what),
            "nodes": list(order.plans),
        }
        told = Record(kind="control", fields=fields)
        return [told, *(effect for name in now for effect in self.missing(name))]

    def missing(self, member: NodeId) -> list[Effect]:
        """Again, what a member that is back has not acknowledged."""
        known = self._taken.get(member, 0)
        orders = [o for o in self._orders if o.number > known and member in o.plans]
        return [_send(member, order) for order in orders]

    def taken(self, member: NodeId, answer: LinksChanged) -> list[Effect]:
        """A member's answer to an order."""
        self._taken[member] = max(answer.number, self._taken.get(member, 0))
        if answer.error is None:
            return []
        fields: dict[str, Value] = {"number": answer.number, "state": "refused", "member": member}
        return [Record(kind="control", fields={**fields, "reason": answer.error})]

    def forget(self, member: NodeId) -> None:
        """A new life of a member knows of no order."""
        self._taken.pop(member, None)


def refused(order: LinksOrdered | NodeOrdered, reason: str) -> Effect:
    """The record of an order that is not followed."""
    return Record(
        kind="control", fields={"number": order.number, "state": "refused", "reason": reason}
    )


def expected(order: NodeOrdered) -> Effect:
    """The record of an order for a node that may be done now."""
    fields: dict[str, Value] = {"number": order.number, "state": "ordered", "member": order.node}
    return Record(kind="control", fields={**fields, "verb": order.verb, "what": [order.what]})


def _send(member: NodeId, order: LinksOrdered) -> Effect:
    message = ChangeLinks(number=order.number, plan=order.plans[member])
    return Send(target=member, message=message)
