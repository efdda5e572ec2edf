"""What leaves nodes, as fluids (pure): how fast each message is, and when it is through.

A message's rate is the least of what its path allows and what each link on its way offers it. A
link's offers are its weighted max-min fair level (`node.links.sharing.fill` is the whole problem's
solution), given what the other links offer those on it; on the own uplink of a node that sends one
message after the other they are what those ahead in the queue leave over. When a message begins,
ends or changes, its links make new offers, then those links whose load that changes, and so on: a
rate that would change by less than `FAR` stays, a link whose load has changed by less than `SLACK`
makes no new offers, and none does after `HOPS` links. Sums of rates stay within that of what a link
can carry, and bytes are exact: what a rate was is kept with it.

Each life of a node has one `Pipe`, with one timer for all that leaves it.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from node.core.effects import Send
from node.core.messages import PeerMessage
from node.core.outbox import Priority
from node.links.sizes import burst_bytes
from node.sim.queue import EventQueue
from node.units import SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.lane import Lane
    from node.sim.mesh import Mesh
    from node.sim.network import Way
    from node.sim.wire import Parcel

BITS: Final = 8 * SECOND
"""Bytes over bit/s times this are nanoseconds."""
NEVER: Final[Nanos] = 2**63
FAR: Final = 0.05
"""A rate that would change by less, in proportion, is left as it is."""
SLACK: Final = 0.01
"""A link whose load has changed by less than this part of what it carries offers what it did."""
HOPS: Final = 16
"""So many times links notice what others have changed at one moment."""


class Link:
    """A link that messages may meet on.

    Attributes:
        capacity: bit/s.
        acks: of it, what acknowledgements of messages the other way take.
        source: the pipe that all on it come from, and begin their way with it; None: of several.
        flows: those on it, in the order in which they began, and which of their links it is.
        idle: since when there are none.
        offered: what flows that share it were last offered for a unit of weight; 0: nothing that
            would hold for one more.
        drift: bit/s that it has come to carry more since.
    """

    __slots__ = ("acks", "capacity", "dirty", "drift", "flows", "idle", "offered", "source")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.idle: Nanos = 0
        self.acks = 0.0
        self.source: Pipe | None = None
        self.flows: dict[Transfer, int] = {}
        self.dirty = False
        self.offered = self.drift = 0.0

    @property
    def free(self) -> float:
        """bit/s for messages."""
        return max(0.0, self.capacity - self.acks)

    @property
    def spare(self) -> bool:
        """Whether those on it leave some of it over."""
        used = 0.0
        for flow in self.flows:
            used += flow.rate
        return used < (1 - FAR) * (self.capacity - self.acks)

    def saved(self, now: Nanos) -> float:
        """Bytes that pass at once: what HTB lets a link save up while it is idle."""
        if self.flows:
            return 0.0
        saved = self.capacity * (now - self.idle) / BITS
        return min(saved, burst_bytes(int(self.capacity)))

    def join(self, flow: Transfer, place: int) -> None:
        """One more, whose link it is at this place."""
        first = flow.pipe if place == 0 else None
        if not self.flows:
            self.source = first
        elif self.source is not first:
            self.source = None
            self.offered = 0.0  # to each the same, whatever its weight
        self.flows[flow] = place

    @property
    def settled(self) -> bool:
        """Whether what it has offered holds: of many flows on a link, one that ends leaves room
        for one that begins."""
        return self.offered > 0.0 and -SLACK <= self.drift / self.capacity <= SLACK

    def level(self, wants: list[tuple[float, float]]) -> float:
        """What each flow on it may have for a unit of weight.

        One that takes less leaves the rest to the others; where all do, what is left over is
        offered to each, on top of what the one that takes most has.

        Args:
            wants: what each of them would take for a unit, and its weight.
        """
        free = self.capacity - self.acks
        if len(wants) == 2:
            (want, each), (other, beside) = wants
            if want > other:
                want, each, other, beside = other, beside, want, each
            if want * (each + beside) >= free:
                return free / (each + beside)
            return (free - want * each) / beside
        weight = sum([each for _, each in wants])
        wants.sort()
        want = each = 0.0
        for want, each in wants:
            if want * weight >= free:
                return free / weight
            free -= want * each
            weight -= each
        return want + free / each


class Entry(NamedTuple):
    """A message that waits.

    Attributes:
        number: of all that a life of a node has queued.
        target: the place of whom it is for.
        entered: when it was queued.
    """

    number: int
    target: int
    effect: Send
    message: PeerMessage
    priority: Priority
    entered: Nanos


class Transfer:
    """A message that has been handed to the transport; `Pipe` and `Shares` alone change its flow.

    Attributes:
        to: the life of a node that it is for; None: it is over.
        size: bytes of it as the send queue counts them, of what was handed out last and leaves.
        rest: those that have not been handed out, or have been since without being looked for;
            only the last that has begun has such.
        set_out: when the first of those of `size` left.
        late: by how much longer than the round trip its acknowledgement takes.
        begun: when its first chunk was handed out.
        lost: it will not arrive.
        links: those on which it meets others, in order, none twice.
        weight: against those, but for the own uplink, which HTB serves evenly.
        back: the links that carry its acknowledgements.
        demand: bit/s that it has without others.
        offers: bit/s that each of the links has for it.
        rate: bit/s that it has now; `left`: bytes handed out that had not left at `since`.
        end: when those are through.
    """

    __slots__ = (
        "back", "begun", "chunk", "demand", "end", "entry", "lane", "late", "left", "links",
        "lost", "offers", "parcel", "pipe", "rate", "rest", "route", "set_out", "since", "size",
        "to", "trip", "weight",
    )  # fmt: skip

    offers: list[float]

    def __init__(
        self, pipe: Pipe, lane: Lane, entry: Entry, to: Mesh | None, way: Way, parcel: Parcel,
        begun: Nanos,
    ) -> None:  # fmt: skip
        self.entry = entry
        self.parcel = parcel
        self.to = to
        self.begun = begun
        self.lane = lane
        self.pipe = pipe
        self.size = parcel.message
        self.rest = 0
        self.set_out = begun
        self.late: Nanos = 0
        self.lost = False
        self.left = float(parcel.wire)
        self.since = begun
        self.demand = self.rate = 0.0
        self.end = NEVER
        self.turn(way)

    def turn(self, way: Way) -> None:
        """It goes this way, from its beginning or from now on."""
        self.route = way.route
        self.links = way.links
        self.weight = way.route.weight
        self.trip = way.route.trip
        self.chunk = way.route.chunk
        self.back = way.back

    def acknowledge(self, change: float) -> None:
        """Its rate is so many bit/s more: what acknowledges it takes that from the links back."""
        acks = change * self.parcel.back / self.parcel.wire
        for link in self.back:
            link.acks += acks


class Sender(Protocol):
    """Whose messages leave through a pipe."""

    def drained(self, transfer: Any) -> bool:
        """All of it that was handed out has left; returns whether more has been handed out now."""

    def through(self, transfer: Any) -> None:
        """All of it has left."""

    def opens(self, before: Nanos) -> Nanos:
        """When the next message may begin beside those that leave, as things are; if not `before`
        a time, any that is no sooner."""

    def open(self) -> None:
        """Begin with that message now."""

    def go_on(self) -> None:
        """Begin with the next message, if nothing leaves."""


class Shares:
    """All that leaves, of all nodes: who has to look at what anew. See the module."""

    __slots__ = ("_dirty", "_further", "_touched", "queue")

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue
        self._further = True
        self._dirty: list[Link] = []
        self._touched: list[Pipe] = []

    def mark(self, link: Link) -> None:
        """What a link has offered holds no longer."""
        link.offered = 0.0
        if not link.dirty:
            link.dirty = True
            self._dirty.append(link)

    def lean(self, link: Link, flow: Transfer, change: float) -> None:
        """A flow on a link takes so many bit/s more."""
        link.drift += change
        if link.dirty or not self._further or link.settled:
            return
        source = link.source
        if source is not None and source.in_order and next(reversed(link.flows)) is flow:
            return  # nobody is behind it
        link.dirty = True
        self._dirty.append(link)

    def touch(self, pipe: Pipe) -> None:
        """Something about what leaves through a pipe is different."""
        if not pipe.touched:
            pipe.touched = True
            self._touched.append(pipe)

    def settle(self) -> None:
        """New offers, rates and timers, where anything is different. To be called after every
        change, or several of one moment."""
        hops = 0
        while self._dirty or self._touched:
            if not self._dirty:
                hops, pipes, self._touched = 0, self._touched, []
                for pipe in pipes:
                    pipe.touched = False
                    pipe.plan()
                continue
            links, self._dirty = self._dirty, []
            hops += 1
            self._further = hops < HOPS
            for link in links:
                if link.flows and not link.settled:
                    if link.source is not None and link.source.in_order:
                        self._serve(link)
                    else:
                        self._share(link)
                link.dirty = False  # its own changes are none to it
            self._further = True

    def _share(self, link: Link) -> None:
        """Every flow on a link may have its level."""
        flows, even = link.flows, link.source is not None
        before: list[float] = []
        wants: list[tuple[float, float]] = []
        for flow, place in flows.items():
            offers, want = flow.offers, flow.demand
            if len(offers) == 2:
                if offers[1 - place] < want:
                    want = offers[1 - place]
            else:
                offers[place] = want
                want = min(offers)
            before.append(want)  # what it would have but for this link
            wants.append((want, 1.0) if even else (want / flow.weight, flow.weight))
        level = link.level(wants) if len(wants) > 1 else link.free
        even = even or len(wants) == 1
        for (flow, place), rate in zip(flows.items(), before, strict=True):
            offer = flow.offers[place] = level if even else level * flow.weight
            if offer < rate:
                rate = offer
            if not -FAR * flow.rate <= rate - flow.rate <= FAR * flow.rate:
                self.alter(flow, rate)
        link.offered = level if len(wants) > 1 else 0.0
        link.drift = 0.0

    def _serve(self, link: Link) -> None:
        """Each flow on a link may have what those ahead of it leave over."""
        free = link.free
        for flow, place in link.flows.items():
            offers = flow.offers
            offers[place] = free
            rate = min(offers)
            if rate > flow.demand:
                rate = flow.demand
            if not -FAR * flow.rate <= rate - flow.rate <= FAR * flow.rate:
                self.alter(flow, rate)
            free -= rate

    def alter(self, flow: Transfer, rate: float) -> None:
        """It has this rate from now on."""
        old, now, pipe = flow.rate, self.queue.now, flow.pipe
        for link in flow.links:
            self.lean(link, flow, rate - old)
        left = flow.left - (now - flow.since) * old / BITS
        flow.left = left if left > 0.0 else 0.0
        flow.since = now
        flow.rate = rate
        flow.end = now + ceil(flow.left * BITS / rate) if rate > 0.0 else NEVER
        if flow.back:
            flow.acknowledge(rate - old)
        # Where rates fall all is later, and what is planned looks after that.
        if (rate > old or pipe.full) and not pipe.touched:
            pipe.touched = True
            self._touched.append(pipe)


class Pipe:
    """Where all that one life of a node sends leaves.

    Whoever changes something calls `Shares.settle` afterwards.

    Args:
        in_order: messages that meet on the node's own uplink leave in the order of the queue, and
            not side by side.

    Attributes:
        leaving: what leaves, in the order in which it began.
        full: the sender waits for room on its uplink.
    """

    __slots__ = ("_queue", "_shares", "_wake", "full", "in_order", "leaving", "sender", "touched")

    def __init__(self, sender: Sender, shares: Shares, *, in_order: bool) -> None:
        self.sender = sender
        self._shares = shares
        self._queue = shares.queue
        self.in_order = in_order
        self.leaving: dict[Transfer, None] = {}
        self.full = self.touched = False
        self._wake: Nanos = NEVER

    def begin(self, flow: Transfer, *, demand: float) -> None:
        """What is left of it leaves, at up to `demand` bit/s; 0: not now."""
        self.leaving[flow] = None
        flow.since = self._queue.now
        flow.demand = demand
        flow.rate = 0.0
        flow.end = NEVER
        if not flow.links:
            self._shares.alter(flow, demand)
            return
        flow.offers = [demand] * len(flow.links)
        saved = min([link.saved(flow.since) for link in flow.links])
        if saved:
            flow.left = max(0.0, flow.left - saved)
        self._meet(flow)

    def _meet(self, flow: Transfer) -> None:
        """It has come to its links, and has what they offer to others."""
        rate, known = flow.demand, True
        for place, link in enumerate(flow.links):
            link.join(flow, place)
            if not link.offered:
                known = False
                self._shares.mark(link)
                continue
            even = link.source is not None
            flow.offers[place] = offer = link.offered * (1.0 if even else flow.weight)
            if offer < rate:
                rate = offer
        if known:
            self._shares.alter(flow, rate)

    def stop(self, flow: Transfer) -> None:
        """It leaves no more, through or not."""
        shares = self._shares
        del self.leaving[flow]
        for link in flow.links:
            shares.lean(link, flow, -flow.rate)
            del link.flows[flow]
            link.idle = self._queue.now
            if not link.flows:
                link.offered = 0.0
        flow.left = self.left(flow)
        flow.since = self._queue.now
        flow.acknowledge(-flow.rate)
        flow.rate = 0.0
        flow.end = NEVER
        shares.touch(self)

    def change(self, flow: Transfer, *, demand: float) -> None:
        """From now on it may have up to `demand` bit/s; 0: it stalls."""
        flow.demand = demand
        if flow.links:
            for link in flow.links:
                self._shares.mark(link)
        else:
            self._shares.alter(flow, demand)

    def resize(self, flow: Transfer, *, left: float) -> None:
        """So much of it is to leave from now on, be it more or less than there was."""
        flow.left = left
        flow.since = self._queue.now
        if flow.rate > 0.0:
            flow.end = flow.since + ceil(left * BITS / flow.rate)
        self._shares.touch(self)

    def add(self, flow: Transfer, more: float) -> None:
        """So many bytes more of it are to leave."""
        # With what it is short of by now: the end was rounded up to a nanosecond.
        gone = flow.rate * (self._queue.now - flow.since) / BITS
        self.resize(flow, left=flow.left - gone + more)

    def left(self, flow: Transfer) -> float:
        """Bytes of it that have not left."""
        return max(0.0, flow.left - flow.rate * (self._queue.now - flow.since) / BITS)

    def plan(self) -> None:
        """See to it that there is a call when something is through or may begin, or before."""
        at, self.full = NEVER, False
        for flow in self.leaving:
            if flow.end < at:
                at = flow.end
        opens = self.sender.opens(at)
        if opens < at:
            at = opens
            if at <= self._queue.now:
                self.sender.open()
                self._shares.touch(self)
                return
        if at < self._wake:
            self._wake = at
            self._queue.at(at, self._due)

    def _due(self) -> None:
        now = self._queue.now
        if self._wake != now:
            return  # planned otherwise since
        self._wake = NEVER
        for flow in [flow for flow in self.leaving if flow.end <= now]:
            if self.sender.drained(flow):
                continue
            self.stop(flow)
            if not flow.rest:
                self.sender.through(flow)
        self.sender.go_on()
        self._shares.touch(self)
        self._shares.settle()
