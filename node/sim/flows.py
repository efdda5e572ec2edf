"""What is being sent, as fluids (pure): who has what rate, and when each is through.

A flow's rate is what its path allows, or its weighted max-min fair share where flows meet on links
(`node.links.sharing`). Shares are computed anew when a flow begins, ends or changes, for those
alone that the change can reach: the flows connected to it by contended links. A link is contended
if those on it would have more without each other than it carries; any other limits nobody.

More than `GROUP` flows that are connected are a group, whose shares are computed anew at most every
few milliseconds (`pause`; TCP takes as many round trips to find its own). In between a flow that
begins has what is unused on all its links, and what one leaves that ends is unused: no link ever
carries more than it can, and rates are those of the flows as they were at most a pause ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from node.links.sharing import fill, fill_one
from node.links.sharing_arrays import fill_many
from node.sim.queue import EventQueue
from node.units import MICROSECOND, MILLISECOND, SECOND, Nanos

_BITS: Final = 8 * SECOND
_TIGHT: Final = 1 + 1e-9
"""Sums of rates are that exact: what exceeds a capacity by less does not exceed it."""
NEVER: Final[Nanos] = 2**63
_SAME: Final = 1e-9
"""A rate that changes by less, in proportion, has not changed."""
_RISE: Final = 0.01
"""In a group, one that would rise by less is left as it is."""
GROUP: Final = 48
PAUSE: Final = (5 * MILLISECOND, 50 * MILLISECOND)
_PAUSE_EACH: Final = 20 * MICROSECOND
"""For each flow of a group: computing takes as long as that."""


def pause(flows: int) -> Nanos:
    """How long the shares of a group of so many flows are left as they are."""
    return min(PAUSE[1], max(PAUSE[0], flows * _PAUSE_EACH))


class Link:
    """A link that flows may meet on.

    Attributes:
        capacity: bit/s.
        wanted: bit/s that those on it would have without each other.
        flows: those on it, in the order in which they began.
        group: of those on it, if they are in one.
        given: bit/s that they have, kept while they are.
    """

    __slots__ = ("capacity", "flows", "given", "group", "mark", "place", "wanted")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.group: Group | None = None
        self.wanted = self.given = 0.0
        self.flows: dict[Flow, None] = {}
        self.mark = self.place = 0


class Group:
    """Many flows whose shares are computed together, now and then.

    Attributes:
        links: those that it is computed from, in the order in which they were found.
        until: the shares are left as they are until then.
        awaited: they will be computed anew then; None: the group is no more.
    """

    __slots__ = ("awaited", "links", "until")

    def __init__(self, links: Iterable[Link], until: Nanos) -> None:
        self.links = dict.fromkeys(links)
        self.until = until
        self.awaited: bool | None = False


class Sender(Protocol):
    """Whom a flow tells."""

    def through(self, flow: Any) -> None:
        """All of it, a flow of this sender, has been sent."""


class Flow:
    """Bytes on their way into a path: what `Flows` keeps of them, which alone changes it.

    A subclass sets `sender`, `links`, `weight`, `due` = NEVER and `mark` = 0 when it is made; one
    call of a constructor less counts where there are as many of them.

    Attributes:
        links: those on which it can meet others, none twice.
        weight: against those.
        demand: bit/s that it has without them.
        rate: bit/s that it has now.
        left: bytes that were not sent yet at `since`.
        due: when the next call for it is queued; it is through at `end`, which may be later.
    """

    __slots__ = (
        "demand",
        "due",
        "end",
        "left",
        "links",
        "mark",
        "rate",
        "sender",
        "since",
        "weight",
    )

    sender: Sender
    links: tuple[Link, ...]
    weight: float
    demand: float
    rate: float
    left: float
    since: Nanos
    due: Nanos
    end: Nanos
    mark: int


Filling = Callable[
    [Sequence[Sequence[int]], Sequence[float], Sequence[float], Sequence[float]], list[float]
]


class Flows:
    """All flows of a network."""

    __slots__ = ("_mark", "_queue")

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._mark = 0

    def begin(self, flow: Flow, *, size: float, demand: float) -> None:
        """Send so many bytes at up to `demand` bit/s; 0: not now."""
        flow.left = size
        flow.since = self._queue.now
        flow.demand = flow.rate = demand
        contended = False
        for link in flow.links:
            link.flows[flow] = None
            link.wanted += demand
            if link.wanted > link.capacity * _TIGHT or link.group is not None:
                contended = True
        if contended or not demand:
            flow.rate = 0.0
            flow.end = NEVER
            self._share(flow.links, also=flow)
        else:
            flow.end = flow.due = flow.since + math.ceil(size * _BITS / demand)
            self._queue.at(flow.due, self._due, flow)

    def change(self, flow: Flow, *, demand: float) -> None:
        """From now on it may have up to `demand` bit/s; 0: it stalls."""
        for link in flow.links:
            link.wanted += demand - flow.demand
        flow.demand = demand
        if flow.links:
            self._share(flow.links, also=flow)
        else:
            self._set(flow, demand)

    def stop(self, flow: Flow) -> None:
        """It is over, through or not; `Sender.through` is not called any more."""
        flow.due = NEVER
        if not flow.links:
            return
        tight = []
        for link in flow.links:
            if link.wanted > link.capacity * _TIGHT:
                tight.append(link)
            del link.flows[flow]
            link.given -= flow.rate
            link.wanted = link.wanted - flow.demand if link.flows else 0.0
        if tight:
            self._share(tight)

    def resize(self, flow: Flow, *, left: float) -> None:
        """So much of it is to be sent from now on, be it more or less than there was."""
        flow.left = left
        flow.since = self._queue.now
        self._plan(flow)

    def left(self, flow: Flow) -> float:
        """Bytes of it that are not sent yet."""
        return max(0.0, flow.left - flow.rate * (self._queue.now - flow.since) / _BITS)

    def _share(self, links: Iterable[Link], *, also: Flow | None = None) -> None:
        """New rates for all on these links, and for whom contended links connect with them.

        Args:
            also: has begun or changed, and needs a rate at once.
        """
        for link in links:
            if link.group is not None and link.group.until > self._queue.now:
                self._wait(link.group, links)
                if also is not None:
                    self._estimate(also)
                return
        flows, tight = self._connected(links)
        if len(flows) > GROUP:
            group = Group(tight, self._queue.now + pause(len(flows)))
            before = dict.fromkeys(link.group for link in tight if link.group is not None)
            for link in tight:
                link.group = group
            for old in before:
                if old.awaited:
                    self._wait(group, old.links)
                old.awaited = None
            rates = self._filled(fill_many, flows, tight)
            for flow, rate in zip(flows, rates, strict=True):
                if not flow.rate < rate < flow.rate * (1 + _RISE):
                    self._set(flow, rate)
            for link in tight:
                link.given = sum([flow.rate for flow in link.flows])
            return
        for link in tight:
            link.group = None
        if len(tight) == 1 and len(tight[0].flows) == len(flows):
            flows = list(tight[0].flows)
            rates = fill_one(
                [flow.weight for flow in flows], [flow.demand for flow in flows], tight[0].capacity
            )
        else:
            rates = self._filled(fill, flows, tight)
        for flow, rate in zip(flows, rates, strict=True):
            self._set(flow, rate)

    def _connected(self, links: Iterable[Link]) -> tuple[list[Flow], list[Link]]:
        """Flows that a change on these links can reach, and the contended links that they cross."""
        self._mark += 1
        mark, reached = self._mark, list(links)
        flows: list[Flow] = []
        tight: list[Link] = []
        for link in reached:
            if link.mark == mark:
                continue
            link.mark = mark
            link.place = -1
            if link.wanted > link.capacity * _TIGHT:
                link.place = len(tight)
                tight.append(link)
            for flow in link.flows:
                if flow.mark == mark:
                    continue
                flow.mark = mark
                flows.append(flow)
                for other in flow.links:
                    if other.mark != mark and other.wanted > other.capacity * _TIGHT:
                        reached.append(other)
        return flows, tight

    def _filled(
        self, filling: Filling, flows: Sequence[Flow], tight: Sequence[Link]
    ) -> Sequence[float]:
        """The rates of these flows."""
        mark = self._mark
        routes = [[x.place for x in f.links if x.mark == mark and x.place >= 0] for f in flows]
        alone = [not route for route in routes]
        if filling is fill_many and any(alone):
            rates = iter(
                self._filled(
                    fill_many, [f for f, free in zip(flows, alone, strict=True) if not free], tight
                )
            )
            return [f.demand if free else next(rates) for f, free in zip(flows, alone, strict=True)]
        return filling(
            routes,
            [flow.weight for flow in flows],
            [flow.demand for flow in flows],
            [link.capacity for link in tight],
        )

    def _wait(self, group: Group, links: Iterable[Link]) -> None:
        """Something has changed in a group or beside it: to be seen to after the pause."""
        group.links.update(dict.fromkeys(links))
        if group.awaited is False:
            group.awaited = True
            self._queue.at(group.until, self._again, group)

    def _again(self, group: Group) -> None:
        if group.awaited is None:
            return
        group.awaited = None
        before = self._mark
        for link in group.links:
            if link.group is group:
                link.group = None
        for link in group.links:
            if link.mark <= before:
                self._share((link,))

    def _estimate(self, flow: Flow) -> None:
        """A rate for a flow of a group until its share is computed."""
        rate = flow.demand
        for link in flow.links:
            if link.group is None:
                link.given = sum([each.rate for each in link.flows])
            rate = min(rate, max(0.0, link.capacity - link.given) + flow.rate)
        for link in flow.links:
            link.given += rate - flow.rate
        self._set(flow, rate)

    def _set(self, flow: Flow, rate: float) -> None:
        """It has this rate from now on."""
        if abs(rate - flow.rate) <= _SAME * rate:
            return
        flow.left = self.left(flow)
        flow.since = self._queue.now
        flow.rate = rate
        self._plan(flow)

    def _plan(self, flow: Flow) -> None:
        """See to it that there is a call when it is through, or before."""
        if flow.rate > 0.0:
            flow.end = flow.since + math.ceil(flow.left * _BITS / flow.rate)
            if flow.end < flow.due:
                flow.due = flow.end
                self._queue.at(flow.end, self._due, flow)
        else:
            flow.end = NEVER

    def _due(self, flow: Flow) -> None:
        now = self._queue.now
        if flow.due != now:
            return  # planned otherwise since
        if flow.end != now:
            flow.due = flow.end
            if flow.end < NEVER:
                self._queue.at(flow.end, self._due, flow)
            return
        flow.due = NEVER
        if flow.links:
            self.stop(flow)
        flow.sender.through(flow)
