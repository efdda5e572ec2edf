"""The network of a simulated run: paths between nodes, who is there, what changes (pure).

Nodes are numbers here, their places in the list of members. `Mesh` is a node's end of it.

A pair of nodes is *cut* while there is no path between them one way or the other, or while one of
them is frozen. What is being sent stands still then, and goes on when TCP next tries after the cut
is over; a stream that is silent for `Deadlines.peer_ns` breaks at both ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from node.config import PathSpec
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.outbox import chunk_bytes, window_bytes
from node.links.sharing import weight_of
from node.sim.fate import Fate
from node.sim.interfaces import Access, NetworkView, Path, Sharing
from node.sim.pipe import Link, Shares
from node.sim.queue import EventQueue
from node.sim.wire import SMALL, Parcel, head_bytes
from node.units import MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.mesh import Mesh

UNLIMITED_BPS: Final = 10**12
"""A path without a rate: nothing that a run sends takes a millisecond."""
SETTLE_NS: Final = 50 * MILLISECOND
"""From a path's coming back to its being dialled."""
RESEND_NS: Final = (200 * MILLISECOND, 120 * SECOND)
"""After what silence TCP tries again, first and at most (Linux); each time twice as long."""
WAYS_MAX: Final = 256
"""Ways that a life remembers: 1,000 nodes have a million, which a run uses in no order."""


class Route:
    """What paths of one kind mean to what is sent over them.

    Attributes:
        kind: the specifications, there and back.
        demand: bit/s at most.
        ns_per_byte: at that rate.
        delay, back: one-way, there and back; trip: both.
        weight: against others on a link.
        window, chunk: of the send queue, as `node.core.outbox` has them.
        fate: what becomes of messages besides; None: nothing.
        ordered: whether datagrams keep their order.
        scale: what a whole model counts for, and what it has; bytes.
        alone: the way of all paths of this kind, where they do not meet others.
    """

    __slots__ = (
        "_parcels", "_scale", "alone", "back", "chunk", "delay", "demand", "fate", "kind",
        "ns_per_byte", "ordered", "trip", "weight", "window",
    )  # fmt: skip

    def __init__(self, out: PathSpec, back: PathSpec, *, scale: tuple[int, int]) -> None:
        rate = float(out.rate_bps or UNLIMITED_BPS)
        trip = out.delay_ns + back.delay_ns
        self.fate = Fate.of(out, rate=rate, trip=trip)
        self.demand = rate if self.fate is None else min(rate, self.fate.rate)
        self.ns_per_byte = 8 * SECOND / self.demand
        self.ordered = out.ordered
        self.delay = out.delay_ns
        self.back = back.delay_ns
        self.trip = trip
        self.weight = weight_of(trip)
        self.window = window_bytes(out, back)
        self.chunk = chunk_bytes(self.window)
        self.kind = (out, back)
        self._scale = scale
        self.alone = Way(self, (), ())
        self._parcels: dict[tuple[str, int, int], Parcel] = {}

    @property
    def connect_ns(self) -> Nanos:
        """Until a stream is there: TCP's handshake, HTTP/2's, and the greetings."""
        return 3 * self.trip + round(4 * SMALL * self.ns_per_byte)

    def parcel(self, message: PeerMessage) -> Parcel:
        """What a message is on its way here."""
        part = message.part
        values = 0 if part is None else part.nbytes
        key = (message.kind, values, head_bytes(message) if message.fields else 0)
        try:
            return self._parcels[key]
        except KeyError:
            asked, held = self._scale
            parcel = self._parcels[key] = Parcel(
                message.kind,
                values=values * asked // held,
                head=head_bytes(message),
                chunk=self.chunk,
            )
            return parcel


class Way:
    """The way from one node to another, as things are.

    Attributes:
        links: on which what goes this way meets others; none where there is no sharing.
        back: those that carry its acknowledgements.
    """

    __slots__ = ("back", "links", "route")

    def __init__(self, route: Route, links: tuple[Link, ...], back: tuple[Link, ...]) -> None:
        self.route = route
        self.links = links
        self.back = back


class _End(NamedTuple):
    """A node's `Access`, by number of kind and with its links."""

    access: Access
    kind: int
    up: tuple[Link, ...]
    down: tuple[Link, ...]


class Network:
    """See the module.

    Args:
        members: all nodes of the run.
        message_bytes: what a whole model counts for; None: `model_bytes`, its own size.
    """

    TRANSIENT: ClassVar[tuple[str, ...]] = ("_view",)
    """What a checkpoint leaves out: see `attach`."""

    def __init__(
        self,
        *,
        queue: EventQueue,
        view: NetworkView,
        members: tuple[NodeId, ...],
        sharing: Sharing,
        seed: int,
        message_bytes: int | None,
        model_bytes: int,
    ) -> None:
        self.queue = queue
        self.shares = Shares(queue)
        self.members = members
        self.places = {name: place for place, name in enumerate(members)}
        self.lives: list[Mesh | None] = [None] * len(members)
        self.seed = seed
        self._view = view
        self.sharing = sharing
        self._scale = (message_bytes or model_bytes, model_bytes)
        self._routes: dict[tuple[int | None, ...], list[Route]] = {}
        self._links: dict[str, Link] = {}
        self._ends: list[_End | None] = self._all_ends()
        self._between: dict[tuple[int, int], Route | None] = {}
        """By the kinds of their ends, where there are such."""
        self.nowhere = Route(PathSpec(rate_bps=1), PathSpec(), scale=self._scale).alone
        """The way of what nobody will get."""
        self.cuts: dict[tuple[int, int], Nanos] = {}
        """Pairs that are cut, lower place first, and since when."""

    def stands_for(self, values: int) -> int:
        """How many bytes so many bytes of model values count for."""
        asked, held = self._scale
        return values * asked // held

    def life(self, place: int, other: int) -> Mesh | None:
        """The life that a stream between these places leads to; None: it is over."""
        mesh = self.lives[place]
        return mesh if mesh is not None and mesh.up[other] else None

    def way(self, source: int, target: int) -> Way | None:
        """The way between two nodes; None: there is none, or none back. Meshes remember it."""
        one, other = self._ends[source], self._ends[target]
        if one is not None and other is not None:
            kinds = one.kind, other.kind
            try:
                route = self._between[kinds]
            except KeyError:
                found = self._look_up(source, target)
                route = self._between[kinds] = None if found is None else found[0]
            if route is None:
                return None
            if self.sharing is Sharing.NONE:
                return route.alone
            return Way(route, one.up + other.down, other.up + one.down)
        found = self._look_up(source, target)
        if found is None:
            return None
        route, out, back = found
        if self.sharing is Sharing.NONE:
            return route.alone
        return Way(route, self._links_of(out.links), self._links_of(back.links))

    def uplink(self, place: int) -> Link | None:
        """The one link that all from a node crosses first; None: there is none known."""
        end = self._ends[place]
        return end.up[0] if end is not None and end.up else None

    def _look_up(self, source: int, target: int) -> tuple[Route, Path, Path] | None:
        names = self.members
        out = self._view.path(names[source], names[target])
        back = self._view.path(names[target], names[source])
        if out is None or back is None:
            return None
        return self._route(out.spec, back.spec), out, back

    def _all_ends(self) -> list[_End | None]:
        kinds: dict[object, int] = {}
        ends: list[_End | None] = []
        for name in self.members:
            access = self._view.access(name)
            if access is None:
                return [None] * len(self.members)
            kind = kinds.setdefault(access.kind, len(kinds))
            ends.append(_End(access, kind, self._links_of(access.up), self._links_of(access.down)))
        return ends

    def _route(self, out: PathSpec, back: PathSpec) -> Route:
        """One object for all paths alike."""
        # To hash all of a specification costs more than all the rest.
        key = (out.rate_bps, out.delay_ns, back.rate_bps, back.delay_ns)
        alike = self._routes.setdefault(key, [])
        for route in alike:
            if route.kind == (out, back):
                return route
        alike.append(Route(out, back, scale=self._scale))
        return alike[-1]

    def _links_of(self, names: tuple[str, ...]) -> tuple[Link, ...]:
        """Those that what crosses them meets others on, each once."""
        if self.sharing is Sharing.NONE:
            return ()
        for name in names:
            if name not in self._links:
                self._links[name] = Link(float(self._view.capacity(name)))
        return tuple([self._links[name] for name in dict.fromkeys(names)])

    # --- who is there

    def opened(self, mesh: Mesh) -> None:
        """A life begins: others that want a stream to it dial it when they try next."""
        self.lives[mesh.place] = mesh
        for other in self.lives:
            if other is not None and other is not mesh:
                other.appeared(mesh.place)

    def ended(self, mesh: Mesh) -> None:
        """A life is over."""
        self.lives[mesh.place] = None

    def met(self, a: int, b: int) -> None:
        """There is a stream between two lives; both have it before either hears of it."""
        self.cuts.pop(_pair(a, b), None)
        one, other = self.lives[a], self.lives[b]
        assert one is not None
        assert other is not None
        one.linked(b)
        other.linked(a)
        one.established(b)
        other.established(a)

    def broken(self, a: int, b: int, reason: str) -> None:
        """The stream of a pair is no more, and both ends know."""
        self.cuts.pop(_pair(a, b), None)
        for place, other in ((a, b), (b, a)):
            mesh = self.lives[place]
            if mesh is not None:
                mesh.lost(other, reason)

    # --- what changes

    def change(self, view: NetworkView) -> None:
        """From now on the network is this one."""
        self._view = view
        self._routes.clear()
        self._between.clear()
        for name, link in list(self._links.items()):
            try:
                capacity = float(view.capacity(name))
            except KeyError:
                del self._links[name]
                continue
            if capacity != link.capacity:
                link.capacity = capacity
                self.shares.mark(link)
        before, self._ends = self._ends, self._all_ends()
        changed = range(len(self.members)) if None in before or None in self._ends else []
        changed = changed or [
            place
            for place, (old, new) in enumerate(zip(before, self._ends, strict=True))
            if old is not None and new is not None and old.access != new.access
        ]
        lives = [mesh for mesh in self.lives if mesh is not None]
        for mesh in lives:
            mesh.paths_changed(changed)
        self.shares.settle()
        concerned = frozenset(changed)
        for mesh in lives:
            peers = mesh.connected() if mesh.place in concerned else changed
            for other in peers:
                if mesh.up[other] and (mesh.place < other or self.lives[other] is None):
                    self._judge(mesh.place, other)

    def attach(self, view: NetworkView) -> None:
        """The network as it was when a checkpoint was taken."""
        self._view = view

    def freeze(self, node: NodeId) -> None:
        """A node stands still: nothing comes of it, and what comes to it waits."""
        mesh = self.lives[self.places[node]]
        if mesh is not None:
            mesh.frozen = True
            self._judge_all(mesh)

    def thaw(self, node: NodeId) -> None:
        """It goes on, and hears what came, at once."""
        mesh = self.lives[self.places[node]]
        if mesh is not None and mesh.frozen:
            mesh.thawed()
            self._judge_all(mesh)

    def cut(self, a: int, b: int) -> bool:
        """Whether nothing comes through between two nodes that have, or had, a stream."""
        return bool(self.cuts) and _pair(a, b) in self.cuts

    def through(self, a: int, b: int) -> bool:
        """Whether a packet would come through from one life to another, and one back."""
        return self.lives[a] is not None and self.lives[b] is not None and self._passes(a, b)

    def _passes(self, a: int, b: int) -> bool:
        """The same of the nodes, whether a process of theirs is alive or not."""
        one, other = self.lives[a], self.lives[b]
        if (one is not None and one.frozen) or (other is not None and other.frozen):
            return False
        way = one.way(b) if one is not None else other.way(a) if other is not None else None
        return way is not None

    def _judge_all(self, mesh: Mesh) -> None:
        for other in mesh.connected():
            self._judge(mesh.place, other)
        for other_mesh in self.lives:
            if other_mesh is not None and other_mesh is not mesh:
                other_mesh.appeared(mesh.place)
                mesh.appeared(other_mesh.place)

    def _judge(self, a: int, b: int) -> None:
        """A pair with a stream may be cut now, or no longer."""
        pair, now = _pair(a, b), self.queue.now
        since = self.cuts.get(pair)
        if self._passes(a, b):
            if since is not None:
                self.queue.at(next_try(since, now, *RESEND_NS), self._resume, pair, since)
        elif since is None:
            self.cuts[pair] = now
            for place, other in (pair, pair[::-1]):
                mesh = self.lives[place]
                if mesh is not None:
                    mesh.stalled(other)
                    self.queue.after(mesh.deadlines.peer_ns, self._silent, place, other, now)

    def _resume(self, pair: tuple[int, int], since: Nanos) -> None:
        """TCP tries again. Where that comes to nothing, it was cut all the time."""
        if self.cuts.get(pair) != since or not self._passes(*pair):
            return
        one, other = (self.lives[place] for place in pair)
        if one is None or other is None or not (one.up[pair[1]] and other.up[pair[0]]):
            # Whoever answers knows of no such stream: that of a life that is over.
            self.broken(*pair, "the other end hung up")
            return
        del self.cuts[pair]
        one.resumed(pair[1])
        other.resumed(pair[0])

    def _silent(self, place: int, other: int, since: Nanos) -> None:
        """The other end has not been heard of for too long; a node that stands still waits."""
        mesh = self.lives[place]
        if self.cuts.get(_pair(place, other)) == since and mesh is not None:
            self.broken(place, other, "silent for too long")


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def next_try(since: Nanos, now: Nanos, first: Nanos, longest: Nanos, growth: float = 2.0) -> Nanos:
    """When one that tries again and again, waiting longer each time, tries next.

    Args:
        since: when it began to wait for the first time.
    """
    at, wait = since, first
    while True:
        at += wait
        if at >= now:
            return at
        wait = min(longest, round(wait * growth))
