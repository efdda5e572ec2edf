"""What is ordered while a run goes on, as the coordinator keeps book of it (pure).

An order for links goes to every member that it concerns, and again to one that comes back without
having acknowledged it. An order for a node is done by `deploy`; told of it beforehand, the
coordinator expects what follows: a node that was killed on purpose is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.core.effects import Effect, Record, Send, Value
from node.core.events import LinksOrdered, NodeOrdered
from node.core.ids import NodeId
from node.core.signals import ChangeLinks, LinksChanged
from node.units import SECOND


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
        """A member's answer to an order; nothing, where there was none of that number for it."""
        given = (order.number for order in self._orders if member in order.plans)
        if answer.number not in given:
            return []
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
