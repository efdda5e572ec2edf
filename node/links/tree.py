"""The HTB tree of one direction of a node's links, as data and as commands (pure).

    root -> class per access link -> class per peer -> queue
         -> control: the coordinator, ARP, what link agents tell each other
         -> drop: everything else

Every peer has its class from the start, also one without a path, whose queue holds nothing; so a
change while a run goes is a change of classes and queues, never of filters.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from node.config import AccessLink, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.sizes import FRAME, UNLIMITED_BPS, burst_bytes
from node.units import Nanos

Argv = tuple[str, ...]

CONTROL: Final = 0x2
DROP: Final = 0x3
FIRST_ACCESS: Final = 0x10
FIRST_LEAF: Final = 0x1000
MAX_PEERS: Final = 0xE000

CONTROL_BPS: Final = 10**10
DROP_BPS: Final = 8
RATE_MIN_BPS: Final = 8

EXCHANGE_PORT: Final = 2
"""Added to a node's port: where its agent hears what others use of shared links."""

NOTHING: Final[Argv] = ("pfifo", "limit", "0")
"""The queue of a path that is not there: all that comes is dropped, and what waited is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One peer in one direction.

    Args:
        path: None where there is none.
        access: the access link that the path starts or ends with.
        ceiling_bps: what nothing on this side lets it exceed.
        rtt_ns: of a small packet on the idle path.
    """

    index: int
    peer: PeerLink
    path: PathSpec | None
    access: AccessLink | None
    ceiling_bps: int
    rtt_ns: Nanos


Queue = Callable[[Member], Argv]
"""The words of tc for what stands in the class of a peer that has a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HtbClass:
    """One class.

    Args:
        minor: of its name `1:minor`.
        parent: minor of the class above it; 0 is the root.
        rate_bps, ceiling_bps: what it is guaranteed and what it may borrow up to.
        queue: what stands in it; empty for a class that has classes in it.
        member: whom it is for; None for a class of ours.
    """

    minor: int
    parent: int
    rate_bps: int
    ceiling_bps: int
    queue: Argv = ()
    member: Member | None = None

    def limited(self, bps: int | None) -> HtbClass:
        """This class with a lower ceiling for a while."""
        if bps is None or bps >= self.ceiling_bps:
            return self
        ceiling = max(RATE_MIN_BPS, bps)
        return replace(self, ceiling_bps=ceiling, rate_bps=min(self.rate_bps, ceiling))


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The filter that leads one address's packets to their class.

    Args:
        bucket: of the table, the last byte of the address.
        item: its number among those of the bucket.
    """

    host: str
    minor: int
    bucket: int
    item: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One HTB: of the egress, or of the ingress behind the IFB.

    Args:
        offset: where the address that tells peers apart stands in the IP header.
        control: address of the coordinator.
        exchange: UDP port that link agents talk on, unshaped.
        classes: of access links, then of peers.
    """

    device: str
    offset: int
    control: str
    exchange: int | None
    classes: tuple[HtbClass, ...]

    def doors(self) -> Iterator[Door]:
        """What leads to the classes that belong to an address."""
        found: Counter[int] = Counter()
        peers = ((c.member.peer.host, c.minor) for c in self.classes if c.member is not None)
        for host, minor in ((self.control, CONTROL), *peers):
            bucket = int(ipaddress.IPv4Address(host)) & 0xFF
            found[bucket] += 1
            yield Door(host=host, minor=minor, bucket=bucket, item=found[bucket])

    @property
    def of_peers(self) -> dict[NodeId, HtbClass]:
        """The classes of peers, by name."""
        return {c.member.peer.name: c for c in self.classes if c.member is not None}


def tree(links: LinksConfig, *, device: str, outward: bool, control: str, queue: Queue) -> Tree:
    """One direction of a node's links.

    Args:
        outward: towards the peers, where a path's rate is the ceiling; inward only the access
            links limit what comes, the sender has seen to the rest.
    Raises:
        ConfigError: a path's access link is unknown.
    """
    access = links.up if outward else links.down
    minors = {link.name: FIRST_ACCESS + number for number, link in enumerate(access)}
    members = tuple(members_of(links, outward=outward))
    through = Counter(m.access.name for m in members if m.access)
    return Tree(
        device=device,
        offset=16 if outward else 12,
        control=control,
        exchange=exchange_port(links),
        classes=(
            *(_access_class(link, minors[link.name]) for link in access),
            *(_peer_class(m, minors, through, queue) for m in members),
        ),
    )


def _access_class(link: AccessLink, minor: int) -> HtbClass:
    rate = UNLIMITED_BPS if link.rate_bps is None else link.rate_bps
    return HtbClass(minor=minor, parent=0, rate_bps=rate, ceiling_bps=rate)


def _peer_class(
    member: Member, minors: dict[str, int], through: Counter[str], queue: Queue
) -> HtbClass:
    parent, rate = 0, member.ceiling_bps
    if (access := member.access) is not None:
        # Equal guarantees within the access link: what is idle is lent to the others in turns of
        # one packet, so the kernel divides the link max-min fairly between destinations.
        parent = minors[access.name]
        share = (access.rate_bps or UNLIMITED_BPS) // through[access.name]
        rate = max(RATE_MIN_BPS, min(rate, share))
    return HtbClass(
        minor=FIRST_LEAF + member.index,
        parent=parent,
        rate_bps=rate,
        ceiling_bps=member.ceiling_bps,
        queue=NOTHING if member.path is None else queue(member),
        member=member,
    )


def exchange_port(links: LinksConfig) -> int | None:
    """Where all link agents listen; None without peers, or when these listen on different ports."""
    ports = {peer.port + EXCHANGE_PORT for peer in links.peers}
    return ports.pop() if len(ports) == 1 else None


def members_of(links: LinksConfig, *, outward: bool) -> Iterator[Member]:
    """Every peer in one direction. Raises ConfigError for an unknown access link."""
    access = {link.name: link for link in (links.up if outward else links.down)}
    # A peer that has no path yet waits below the access link that a path would take.
    only = next(iter(access)) if len(access) == 1 else None
    for index, peer in enumerate(links.peers):
        path, name = (peer.out, peer.up) if outward else (peer.into, peer.down)
        if path is None and name is None:
            name = only
        if name is not None and name not in access:
            raise ConfigError(f"there is no access link {name!r}", where=peer.name)
        link = access[name] if name is not None else None
        rates = [link.rate_bps if link else None, path.rate_bps if path and outward else None]
        yield Member(
            index=index,
            peer=peer,
            path=path,
            access=link,
            ceiling_bps=min((r for r in rates if r is not None), default=UNLIMITED_BPS),
            rtt_ns=sum(p.delay_ns for p in (peer.out, peer.into) if p is not None),
        )


def tree_commands(tree: Tree) -> Iterator[Argv]:
    """The command lines that make the whole tree on a device without one."""
    device = tree.device
    yield words(f"tc qdisc add dev {device} root handle 1: htb default {DROP:x}")
    drop = HtbClass(minor=DROP, parent=0, rate_bps=DROP_BPS, ceiling_bps=DROP_BPS, queue=NOTHING)
    control = HtbClass(minor=CONTROL, parent=0, rate_bps=CONTROL_BPS, ceiling_bps=CONTROL_BPS)
    for entry in (drop, control, *tree.classes):
        yield class_command("add", device, entry)
        if entry.queue:
            yield queue_command("add", device, entry)
    yield from _filter_commands(tree)


def class_command(verb: str, device: str, entry: HtbClass) -> Argv:
    """`tc class VERB` for a class."""
    parent = f"1:{entry.parent:x}" if entry.parent else "1:"
    return words(
        f"tc class {verb} dev {device} parent {parent} classid 1:{entry.minor:x} htb"
        f" rate {entry.rate_bps}bit ceil {entry.ceiling_bps}bit"
        f" burst {burst_bytes(entry.rate_bps)} cburst {burst_bytes(entry.ceiling_bps)}"
        f" quantum {FRAME}"
    )


def queue_command(verb: str, device: str, entry: HtbClass) -> Argv:
    """`tc qdisc VERB` for what stands in a class.

    Only a new one gets a handle of its own: with it, tc would refuse to put another kind there.
    """
    handle = f" handle {entry.minor:x}:" if verb == "add" else ""
    return words(f"tc qdisc {verb} dev {device} parent 1:{entry.minor:x}{handle}") + entry.queue


def _filter_commands(tree: Tree) -> Iterator[Argv]:
    """Two look-ups a packet, however many peers: a table by the address's last byte, its bucket."""
    add = f"tc filter add dev {tree.device} parent 1: protocol"
    yield words(f"{add} ip prio 1 handle 1: u32 divisor 256")
    for door in tree.doors():
        yield filter_command("add", tree, door)
    if tree.exchange is not None:
        yield words(
            f"{add} ip prio 1 u32 ht 800: match ip protocol 17 0xff"
            f" match ip dport {tree.exchange} 0xffff flowid 1:{CONTROL:x}"
        )
    yield words(
        f"{add} ip prio 1 u32 ht 800: match u32 0 0"
        f" hashkey mask 0x000000ff at {tree.offset} link 1:"
    )
    yield words(f"{add} arp prio 2 u32 match u32 0 0 flowid 1:{CONTROL:x}")


def filter_command(verb: str, tree: Tree, door: Door) -> Argv:
    """`tc filter VERB` for what leads an address to its class."""
    side = "dst" if tree.offset == 16 else "src"
    return words(
        f"tc filter {verb} dev {tree.device} parent 1: protocol ip prio 1"
        f" handle 1:{door.bucket:x}:{door.item:x} u32 ht 1:{door.bucket:x}:"
        f" match ip {side} {door.host}/32 flowid 1:{door.minor:x}"
    )


def words(text: str) -> Argv:
    """A command line without quoting, as tc wants none."""
    return tuple(text.split())
