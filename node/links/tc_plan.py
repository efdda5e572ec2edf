"""From the links of one node to the exact command lines that set them up (pure).

    out:  eth0 (HTB)  -> class per access link -> class per destination -> bfifo | netem
    in:   eth0 -> IFB (HTB) -> class per access link -> class per source -> bfifo
                 -> nfqueue emulator only: iptables hands each source's packets to its own queue

Everything that matches no class falls into a class whose leaf drops: unknown addresses, IPv6. So
does, in a class of its own, what goes to or comes from a peer without a path. The coordinator
(start barrier, heartbeats), ARP and the talk of link agents among themselves have a class of their
own, so that neither a full link nor a cut one hides a node from the coordinator.

It does not run anything and does not know whether this kernel can do it: `tc.py`, `kernel.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.config import Emulator, LinksConfig, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links import rules
from node.links.impair import netem_words, paths_of
from node.links.sizes import LINE_PACKETS, line_packets, path_segments, queue_bytes
from node.links.tree import (
    MAX_PEERS,
    Argv,
    Member,
    Tree,
    tree,
    tree_commands,
    words,
)

IFB: Final = "ifb-peerbed"
"""Ours by name: nothing else may use it, and teardown removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One class per peer and direction; what is read back is compared with it.

    Args:
        peer, host: whom the traffic goes to (or comes from).
        device: where the class is.
        classid: of the class, as tc writes it.
        rate_bps: the class's ceiling; `UNLIMITED_BPS` where nothing limits it.
        varies: whether the ceiling may be less for a while: the path crosses shared links.
        queue: the words of tc for what stands in it.
        netem: the path that the leaf's netem imitates; None where the leaf is a plain queue.
    """

    peer: NodeId
    host: str
    device: str
    classid: str
    rate_bps: int
    varies: bool
    queue: Argv
    netem: PathSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """What the delay line does to one source's packets.

    Args:
        peer, host: the source.
        queue: NFQUEUE number.
        limit: packets held at most; those beyond are dropped.
        path: the path from there; None where there is none: nothing comes through.
    """

    peer: NodeId
    host: str
    queue: int
    limit: int
    path: PathSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCommands:
    """All that one node's links take.

    Args:
        device: the interface that carries the traffic between nodes.
        emulator: NETEM or NFQUEUE.
        gso_segments: packets that the sender may hand over as one; None leaves it to the kernel.
        commands: argument lists, to be run in this order.
        trees: of the egress and of the ingress, as the commands make them.
        leaves: the classes of peers in them, to be read back.
        delays: what the delay line has to do, for every peer; empty with netem.
        queues: NFQUEUE number by address, of those whose packets pass the delay line: the paths
            that are impaired at some time.
    """

    device: str
    emulator: Emulator
    gso_segments: int | None
    commands: tuple[Argv, ...]
    trees: tuple[Tree, Tree]
    leaves: tuple[Leaf, ...]
    delays: tuple[Delay, ...]
    queues: Mapping[str, int]


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
    both = trees(links, coordinator_host=coordinator_host, emulator=emulator, device=device)
    nfqueue = emulator is Emulator.NFQUEUE
    delays = delays_of(links) if nfqueue else ()
    queues = {delay.host: delay.queue for delay in delays if delay.host in _queued_hosts(links)}
    segments = path_segments([path for _, side, path in paths_of(links) if side == "out"])
    return LinkCommands(
        device=device,
        emulator=emulator,
        gso_segments=segments,
        commands=(
            *_device_commands(device, segments),
            *tree_commands(both[0]),
            *tree_commands(both[1]),
            *_redirect_commands(device),
            *rules.commands(device, queues, control_port=both[1].exchange),
        ),
        trees=both,
        leaves=tuple(leaves_of(both, emulator=emulator)),
        delays=delays,
        queues=queues,
    )


def trees(
    links: LinksConfig, *, coordinator_host: str, emulator: Emulator, device: str
) -> tuple[Tree, Tree]:
    """The trees of egress and ingress. Raises ConfigError for an unknown access link."""
    netem = emulator is Emulator.NETEM
    return (
        tree(
            links,
            device=device,
            outward=True,
            control=coordinator_host,
            queue=_netem if netem else _fifo,
        ),
        tree(links, device=IFB, outward=False, control=coordinator_host, queue=_fifo_inward),
    )


def leaves_of(both: Sequence[Tree], *, emulator: Emulator) -> Iterator[Leaf]:
    """What is to be found in the kernel of each peer."""
    for side in both:
        outward = side.device != IFB
        for peer, entry in side.of_peers.items():
            assert entry.member is not None
            yield Leaf(
                peer=peer,
                host=entry.member.peer.host,
                device=side.device,
                classid=f"1:{entry.minor:x}",
                rate_bps=entry.ceiling_bps,
                varies=outward and bool(entry.member.peer.shared),
                queue=entry.queue,
                netem=entry.member.path if outward and emulator is Emulator.NETEM else None,
            )


def delays_of(links: LinksConfig) -> tuple[Delay, ...]:
    """What the delay line does to each peer's packets; the queue's number is the peer's place."""
    return tuple(
        Delay(
            peer=peer.name,
            host=peer.host,
            queue=index,
            limit=LINE_PACKETS[0] if peer.into is None else line_packets(peer.into),
            path=peer.into,
        )
        for index, peer in enumerate(links.peers)
    )


def impaired(path: PathSpec | None) -> bool:
    """Whether the delay line has anything to do for this path; its rate is HTB's."""
    return path is not None and (
        path.delay_ns > 0
        or path.jitter_ns > 0
        or path.loss_rate > 0
        or path.duplicate > 0
        or path.corrupt > 0
        or path.reorder > 0
        or path.slot is not None
    )


def _queued_hosts(links: LinksConfig) -> set[str]:
    later = {c.name for change in links.changes for c in change.peers if impaired(c.into)}
    return {p.host for p in links.peers if impaired(p.into) or p.name in later}


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


def _fifo(member: Member) -> Argv:
    asked = member.path.queue_bytes if member.path else None
    limit = queue_bytes(rate_bps=member.ceiling_bps, rtt_ns=member.rtt_ns, asked=asked)
    return words(f"bfifo limit {limit}")


def _fifo_inward(member: Member) -> Argv:
    """What the access link buffers; the path's own queue is at the sender."""
    return words(f"bfifo limit {queue_bytes(rate_bps=member.ceiling_bps, rtt_ns=member.rtt_ns)}")


def _netem(member: Member) -> Argv:
    path, rtt_ns = member.path, member.rtt_ns
    assert path is not None
    return netem_words(path, rtt_ns=rtt_ns)


def _device_commands(device: str, segments: int | None) -> Iterator[Argv]:
    yield words(f"ip link add {IFB} type ifb")
    yield words(f"ip link set dev {IFB} up")
    if segments is not None:
        yield words(f"ip link set dev {device} gso_max_segs {segments}")


def _redirect_commands(device: str) -> Iterator[Argv]:
    yield words(f"tc qdisc add dev {device} handle ffff: ingress")
    yield words(
        f"tc filter add dev {device} parent ffff: protocol all prio 1 u32 match u32 0 0"
        f" action mirred egress redirect dev {IFB}"
    )
