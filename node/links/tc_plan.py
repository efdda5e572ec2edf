"""From the links of one node to the exact command lines that set them up (pure).

    out:  eth0 (HTB)  -> class per access link -> class per destination -> bfifo | netem
    in:   eth0 -> IFB (HTB) -> class per access link -> class per source -> bfifo
                 -> nfqueue emulator only: iptables hands each source's packets to its own queue

Everything that matches no class falls into a class whose leaf drops: unknown addresses, IPv6, peers
without a path. The coordinator (start barrier, heartbeats) and ARP have a class of their own, so
that neither a full link nor a cut one hides a node from the coordinator.

It does not run anything and does not know whether this kernel can do it: `tc.py`, `kernel.py`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.config import AccessLink, Emulator, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.units import MILLISECOND, SECOND, Nanos

Argv = tuple[str, ...]

IFB: Final = "ifb-peerbed"
"""Ours by name: nothing else may use it, and teardown removes it."""

CHAIN: Final = "PEERBED"
CONTROL: Final = 0x2
DROP: Final = 0x3
FIRST_ACCESS: Final = 0x10
FIRST_LEAF: Final = 0x1000
MAX_PEERS: Final = 0xE000

FRAME: Final = 1514
"""Bytes that HTB charges for a full packet: MTU 1500 and the Ethernet header."""

CONTROL_BPS: Final = 10**10
UNLIMITED_BPS: Final = 10**11
"""HTB needs a number; no path inside one host comes near this one."""

BURST_NS: Final = MILLISECOND
"""Tokens that an idle class may save. Long enough for the timer's slack at 1 Gbit/s, short enough
that a 64 KiB message still takes its time at any rate of interest."""

BURST_BYTES_MIN: Final = 1600
DROP_BPS: Final = 8

GSO_NS: Final = MILLISECOND // 5
"""What a train of packets may take of the slowest path's time: 1 packet at 50 Mbit/s, 3 at 200, 16
at 1 Gbit/s. With single packets, two busy cores carried 300 Mbit/s of 1 Gbit/s, with these 950."""

QUEUE_NS: Final = 100 * MILLISECOND
QUEUE_BYTES: Final = (64 * FRAME, 32 * 2**20)
"""The bottleneck's buffer: 100 ms or one round trip of the path, whichever is longer, as a home
router has; not a fixed 1000 packets, which is 12 s at 1 Mbit/s."""

SMALL_PACKET: Final = 256
LINE_PACKETS: Final = (1000, 200_000)
"""What a delay holds is counted in packets, small ones too; least and most that are planned for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One class per peer and direction; what is read back is compared with it.

    Args:
        peer, host: whom the traffic goes to (or comes from).
        device: where the class is.
        classid: of the class, as tc writes it.
        rate_bps: the class's ceiling; `UNLIMITED_BPS` where nothing limits it.
        netem: the path that the leaf's netem imitates; None where the leaf is a plain queue.
    """

    peer: NodeId
    host: str
    device: str
    classid: str
    rate_bps: int
    netem: PathSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """What the delay line does to one source's packets.

    Args:
        peer, host: the source.
        queue: NFQUEUE number.
        limit: packets held at most; those beyond are dropped.
        delay_ns, jitter_ns, loss: as in PathSpec.
    """

    peer: NodeId
    host: str
    queue: int
    limit: int
    delay_ns: Nanos
    jitter_ns: Nanos
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCommands:
    """All that one node's links take.

    Args:
        device: the interface that carries the traffic between nodes.
        emulator: NETEM or NFQUEUE.
        gso_segments: packets that the sender may hand over as one; None leaves it to the kernel.
        commands: argument lists, to be run in this order.
        leaves: the classes that they make, to be read back.
        delays: what the delay line has to do; empty with netem.
    """

    device: str
    emulator: Emulator
    gso_segments: int | None
    commands: tuple[Argv, ...]
    leaves: tuple[Leaf, ...]
    delays: tuple[Delay, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One peer in one direction."""

    index: int
    peer: PeerLink
    path: PathSpec
    access: AccessLink | None
    rtt_ns: Nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """One HTB: of the egress, or of the ingress behind the IFB.

    Args:
        offset: where the address that tells peers apart stands in the IP header.
        shapes_paths: whether a leaf has its path's rate, or only a share of the access link.
        netem: whether the leaves delay and lose packets.
    """

    device: str
    offset: int
    control: str
    access: tuple[AccessLink, ...]
    members: tuple[_Member, ...]
    shapes_paths: bool
    netem: bool


def plan_commands(
    links: LinksConfig, *, coordinator_host: str, emulator: Emulator, device: str = "eth0"
) -> LinkCommands:
    """The command lines for one node, and what the delay line needs.

    Args:
        coordinator_host: IPv4 address of the coordinator.
        emulator: NETEM or NFQUEUE; AUTO is for `kernel.choose` to settle first.
    Raises:
        ConfigError: an address is no IPv4 address or stands for two members, an access link is
            unknown, or there are too many peers.
    """
    if emulator not in (Emulator.NETEM, Emulator.NFQUEUE):
        raise ValueError(f"no commands for the emulator {emulator}")
    _check_addresses(links.peers, coordinator_host)
    out = _Tree(
        device=device,
        offset=16,
        control=coordinator_host,
        access=links.up,
        members=tuple(_members(links, outward=True)),
        shapes_paths=True,
        netem=emulator is Emulator.NETEM,
    )
    into = _Tree(
        device=IFB,
        offset=12,
        control=coordinator_host,
        access=links.down,
        members=tuple(_members(links, outward=False)),
        shapes_paths=False,
        netem=False,
    )
    delays = tuple(_delays(into)) if emulator is Emulator.NFQUEUE else ()
    segments = gso_segments(links.peers)
    return LinkCommands(
        device=device,
        emulator=emulator,
        gso_segments=segments,
        commands=(
            *_device_commands(device, segments),
            *_tree_commands(out),
            *_tree_commands(into),
            *_redirect_commands(device),
            *_queue_commands(device, delays),
        ),
        leaves=tuple(_leaf(tree, m) for tree in (out, into) for m in tree.members),
        delays=delays,
    )


def gso_segments(peers: Sequence[PeerLink]) -> int | None:
    """How many packets a sender may hand to the queue as one; None where no path has a rate.

    A train of packets that counts as one is lost, delayed and queued as one. So one each where a
    path is slow or loses packets, and `GSO_NS` worth of the slowest path where single packets would
    cost a core.
    """
    paths = [p.out for p in peers if p.out is not None]
    if any(path.loss > 0 or path.jitter_ns > 0 for path in paths):
        return 1
    rates = [path.rate_bps for path in paths if path.rate_bps is not None]
    return max(1, min(rates) * GSO_NS // (8 * FRAME * SECOND)) if rates else None


def queue_bytes(*, rate_bps: int, rtt_ns: Nanos) -> int:
    """Bytes that a bottleneck of this rate buffers before it drops."""
    held = rate_bps * max(QUEUE_NS, rtt_ns) // (8 * SECOND)
    return min(QUEUE_BYTES[1], max(QUEUE_BYTES[0], held))


def line_packets(path: PathSpec) -> int:
    """Packets under way in the path's delay at most, small ones (256 bytes) included."""
    return min(LINE_PACKETS[1], max(LINE_PACKETS[0], _under_way(path)))


def netem_packets(path: PathSpec, *, rtt_ns: Nanos) -> int:
    """Packets in a netem leaf: it is the delay and the bottleneck's queue at once.

    No floor of 1000 as in `line_packets`: below HTB those would be a queue of 12 s at 1 Mbit/s.
    """
    queue = queue_bytes(rate_bps=path.rate_bps or UNLIMITED_BPS, rtt_ns=rtt_ns) // FRAME
    return min(LINE_PACKETS[1], _under_way(path) + queue)


def _under_way(path: PathSpec) -> int:
    rate = path.rate_bps or UNLIMITED_BPS
    return rate * (path.delay_ns + 4 * path.jitter_ns) // (8 * SMALL_PACKET * SECOND)


def _check_addresses(peers: Sequence[PeerLink], coordinator_host: str) -> None:
    if len(peers) > MAX_PEERS:
        raise ConfigError(f"{len(peers)} peers of one node; at most {MAX_PEERS} can be told apart")
    owner: dict[str, str] = {}
    for name, host in [("the coordinator", coordinator_host), *((p.name, p.host) for p in peers)]:
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise ConfigError(f"{host!r} is not an IPv4 address", where=name) from error
        if host in owner:
            raise ConfigError(f"{name} and {owner[host]} have the same address {host}")
        owner[host] = name


def _members(links: LinksConfig, *, outward: bool) -> Iterator[_Member]:
    known = {link.name: link for link in (links.up if outward else links.down)}
    for index, peer in enumerate(links.peers):
        path, name = (peer.out, peer.up) if outward else (peer.into, peer.down)
        if path is None:
            continue
        if name is not None and name not in known:
            raise ConfigError(f"there is no access link {name!r}", where=peer.name)
        access = known[name] if name is not None else None
        yield _Member(
            index=index,
            peer=peer,
            path=path,
            access=access if access is not None and access.rate_bps is not None else None,
            rtt_ns=sum(p.delay_ns for p in (peer.out, peer.into) if p is not None),
        )


def _delays(into: _Tree) -> Iterator[Delay]:
    for member in into.members:
        path = member.path
        if path.delay_ns or path.jitter_ns or path.loss:
            yield Delay(
                peer=member.peer.name,
                host=member.peer.host,
                queue=member.index,
                limit=line_packets(path),
                delay_ns=path.delay_ns,
                jitter_ns=path.jitter_ns,
                loss=path.loss,
            )


def _leaf(tree: _Tree, member: _Member) -> Leaf:
    return Leaf(
        peer=member.peer.name,
        host=member.peer.host,
        device=tree.device,
        classid=f"1:{FIRST_LEAF + member.index:x}",
        rate_bps=_ceiling(tree, member),
        netem=member.path if tree.netem else None,
    )


def _ceiling(tree: _Tree, member: _Member) -> int:
    rates = [member.path.rate_bps] if tree.shapes_paths else []
    rates += [member.access.rate_bps] if member.access else []
    return min((rate for rate in rates if rate is not None), default=UNLIMITED_BPS)


def _device_commands(device: str, segments: int | None) -> Iterator[Argv]:
    yield _words(f"ip link add {IFB} type ifb")
    yield _words(f"ip link set dev {IFB} up")
    if segments is not None:
        yield _words(f"ip link set dev {device} gso_max_segs {segments}")


def _tree_commands(tree: _Tree) -> Iterator[Argv]:
    device = tree.device
    yield _words(f"tc qdisc add dev {device} root handle 1: htb default {DROP:x}")
    yield _class(device, parent="1:", minor=DROP, rate=DROP_BPS, ceiling=DROP_BPS)
    yield _words(f"tc qdisc add dev {device} parent 1:{DROP:x} handle {DROP:x}: pfifo limit 0")
    yield _class(device, parent="1:", minor=CONTROL, rate=CONTROL_BPS, ceiling=CONTROL_BPS)
    minors = {link.name: FIRST_ACCESS + number for number, link in enumerate(tree.access)}
    for link in tree.access:
        if (rate := link.rate_bps) is not None:
            yield _class(device, parent="1:", minor=minors[link.name], rate=rate, ceiling=rate)
    through = Counter(m.access.name for m in tree.members if m.access)
    for member in tree.members:
        parent, rate = "1:", (ceiling := _ceiling(tree, member))
        if (access := member.access) is not None and access.rate_bps is not None:
            # Equal guarantees within the access link: what is idle is lent to the others in turns
            # of one packet, so the kernel divides the link max-min fairly between destinations.
            parent = f"1:{minors[access.name]:x}"
            rate = max(8, min(ceiling, access.rate_bps // through[access.name]))
        minor = FIRST_LEAF + member.index
        yield _class(device, parent=parent, minor=minor, rate=rate, ceiling=ceiling)
        leaf = _netem(member) if tree.netem else _fifo(ceiling, member.rtt_ns)
        yield _words(f"tc qdisc add dev {device} parent 1:{minor:x} handle {minor:x}:") + leaf
    yield from _filter_commands(tree)


def _class(device: str, *, parent: str, minor: int, rate: int, ceiling: int) -> Argv:
    return _words(
        f"tc class add dev {device} parent {parent} classid 1:{minor:x} htb"
        f" rate {rate}bit ceil {ceiling}bit burst {burst_bytes(rate)}"
        f" cburst {burst_bytes(ceiling)} quantum {FRAME}"
    )


def burst_bytes(rate_bps: int) -> int:
    """Bytes that an idle class may send at once: one packet at least."""
    return max(BURST_BYTES_MIN, rate_bps * BURST_NS // (8 * SECOND))


def _fifo(ceiling: int, rtt_ns: Nanos) -> Argv:
    return _words(f"bfifo limit {queue_bytes(rate_bps=ceiling, rtt_ns=rtt_ns)}")


def _netem(member: _Member) -> Argv:
    path = member.path
    text = f"netem limit {netem_packets(path, rtt_ns=member.rtt_ns)} delay {_micros(path.delay_ns)}"
    if path.jitter_ns:
        # Without the distribution the kernel draws uniformly, and sigma is jitter/sqrt(3).
        text += f" {_micros(path.jitter_ns)} distribution normal"
    if path.loss:
        text += f" loss random {path.loss * 100:.10g}%"
    return _words(text)


def _filter_commands(tree: _Tree) -> Iterator[Argv]:
    """Two look-ups a packet, however many peers: a table by the address's last byte, its bucket."""
    add = f"tc filter add dev {tree.device} parent 1: protocol"
    side = "dst" if tree.offset == 16 else "src"
    yield _words(f"{add} ip prio 1 handle 1: u32 divisor 256")
    targets = [(m.peer.host, FIRST_LEAF + m.index) for m in tree.members]
    for host, minor in [(tree.control, CONTROL), *targets]:
        bucket = int(ipaddress.IPv4Address(host)) & 0xFF
        yield _words(
            f"{add} ip prio 1 u32 ht 1:{bucket:x}: match ip {side} {host}/32 flowid 1:{minor:x}"
        )
    yield _words(
        f"{add} ip prio 1 u32 ht 800: match u32 0 0"
        f" hashkey mask 0x000000ff at {tree.offset} link 1:"
    )
    yield _words(f"{add} arp prio 2 u32 match u32 0 0 flowid 1:{CONTROL:x}")


def _redirect_commands(device: str) -> Iterator[Argv]:
    yield _words(f"tc qdisc add dev {device} handle ffff: ingress")
    yield _words(
        f"tc filter add dev {device} parent ffff: protocol all prio 1 u32 match u32 0 0"
        f" action mirred egress redirect dev {IFB}"
    )


def _queue_commands(device: str, delays: Sequence[Delay]) -> Iterator[Argv]:
    """No --queue-bypass: without a reader the packets are dropped, not let through at once."""
    if not delays:
        return
    yield _words(f"iptables -N {CHAIN}")
    yield _words(f"iptables -A INPUT -i {device} -j {CHAIN}")
    for delay in delays:
        yield _words(f"iptables -A {CHAIN} -s {delay.host}/32 -j NFQUEUE --queue-num {delay.queue}")


def _micros(nanos: Nanos) -> str:
    """tc reads fractions of a us; its own ns suffix is newer than Debian 12's iproute2."""
    whole, rest = divmod(nanos, 1000)
    return f"{whole}us" if rest == 0 else f"{whole}.{rest:03d}us"


def _words(text: str) -> Argv:
    return tuple(text.split())
