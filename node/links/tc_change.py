"""From a change of one node's links to the exact tc lines that make it (pure).

A change keeps what waits in queues wherever it can: classes and queues are changed in place. Only
what there is no way to change is made anew: the queue of a path that comes or goes (all that was on
its way is dropped, as on a cable that is cut), and a class that moves to another access link.

It touches neither filters, but for such a move, nor the classes of peers that it is not about.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from node.config import (
    AccessLink,
    LinkChange,
    LinksConfig,
    PathChange,
    PathSpec,
    PeerLink,
    Replan,
    SharedLink,
)
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.impair import netem_words
from node.links.tc_plan import Delay, LinkCommands, delays_of, impaired, leaves_of, trees
from node.links.tree import (
    DROP,
    Argv,
    HtbClass,
    Tree,
    class_command,
    filter_command,
    queue_command,
    words,
)
from node.units import SECOND, Nanos

Ceilings = Mapping[NodeId, int]
"""Of paths out whose share of interior links is less than their rate, in bit/s."""

RATE_BPS: Final = (8, 10**12)
DELAY_NS_MAX: Final[Nanos] = 3600 * SECOND
QUEUE_BYTES_MAX: Final = 2**31
WHERE: Final = "a change of links"

_Link = TypeVar("_Link", AccessLink, SharedLink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration:
    """What becomes of the links of one node.

    Args:
        plan: what is then in force; its `commands` are still those that made the trees.
        commands: what tc has to do, in this order.
        delays: of the delay line, those that are different.
        peers: whose path is different in some direction.
    """

    plan: LinkCommands
    commands: tuple[Argv, ...]
    delays: tuple[Delay, ...]
    peers: tuple[NodeId, ...]


def after(links: LinksConfig, change: LinkChange) -> LinksConfig:
    """The links when a change has happened.

    Raises:
        ConfigError: it names a peer or a link that is not there, or a number that cannot be.
    """
    paths = {entry.name: entry for entry in change.peers}
    _known("peer", set(paths), {peer.name for peer in links.peers})
    _known(
        "access link", {a.name for a in change.access}, {a.name for a in (*links.up, *links.down)}
    )
    shared = {link.name for link in links.shared}
    _known("shared link", {link.name for link in change.shared}, shared)
    for entry in change.peers:
        _known("shared link", set(entry.shared), shared)
        _known("access link", (entry.up,), {a.name for a in links.up})
        _known("access link", (entry.down,), {a.name for a in links.down})
        for path in (entry.out, entry.into):
            check_path(path, where=f"{WHERE}: {entry.name}")
    return replace(
        links,
        up=_with_rates(links.up, change.access),
        down=_with_rates(links.down, change.access),
        shared=_with_rates(links.shared, change.shared),
        peers=tuple(_moved(p, paths[p.name]) if p.name in paths else p for p in links.peers),
    )


def under(links: LinksConfig, order: Replan) -> LinksConfig:
    """The links with what an order by hand says of shared links and partners. Raises ConfigError.

    The changes that it brings are checked one after another, as they will come.
    """
    if [a.name for a in order.shared[: len(links.shared)]] != [a.name for a in links.shared]:
        raise ConfigError("the shared links are in another order than before", where=WHERE)
    for link in order.shared:
        _check_number("rate", link.rate_bps, RATE_BPS, where=f"{WHERE}: {link.name}")
    _known("peer", set(order.partners), {peer.name for peer in links.peers})
    rates = {link.name: link for link in links.shared}
    links = replace(
        links,
        # Of those that are known the rate stays what it is now; what changes it is a change.
        shared=tuple(rates.get(link.name, link) for link in order.shared),
        partners=order.partners,
    )
    whole = links
    for change in order.changes:
        whole = after(whole, change)
    return links


def _known(kind: str, named: Iterable[str | None], there: Container[str]) -> None:
    if strange := sorted(name for name in named if name is not None and name not in there):
        raise ConfigError(f"there is no {kind} {strange[0]!r}", where=WHERE)


def _with_rates(links: tuple[_Link, ...], changed: tuple[_Link, ...]) -> tuple[_Link, ...]:
    new = {link.name: link for link in changed}
    for link in changed:
        _check_number("rate", link.rate_bps, RATE_BPS, where=f"{WHERE}: {link.name}")
    return tuple(new.get(link.name, link) for link in links)


def _moved(peer: PeerLink, change: PathChange) -> PeerLink:
    """A path that goes leaves its class where it was, for when it comes back."""
    return replace(
        peer,
        out=change.out,
        into=change.into,
        up=change.up if change.out is not None else change.up or peer.up,
        down=change.down if change.into is not None else change.down or peer.down,
        shared=change.shared,
    )


def check_path(path: PathSpec | None, *, where: str) -> None:
    """Raise ConfigError for a number that cannot be: an order may come from anybody."""
    if path is None:
        return
    _check_number("rate", path.rate_bps, RATE_BPS, where=where)
    _check_number("queue", path.queue_bytes, (1, QUEUE_BYTES_MAX), where=where)
    delays = {"delay": path.delay_ns, "jitter": path.jitter_ns}
    if path.slot is not None:
        delays |= {"slot": path.slot.least_ns, "slot's end": path.slot.most_ns}
        if path.slot.least_ns > path.slot.most_ns:
            raise ConfigError("the slot ends before it begins", where=where)
    for name, value in delays.items():
        _check_number(name, value, (0, DELAY_NS_MAX), where=where)
    shares = {n: getattr(path, n) for n in ("loss", "duplicate", "corrupt", "reorder")}
    if (burst := path.burst) is not None:
        shares |= {n: getattr(burst, n) for n in ("enter", "leave", "bad", "good")}
        if burst.enter + burst.leave <= 0:
            raise ConfigError("a burst that neither begins nor ends", where=where)
    for name, value in shares.items():
        _check_number(name, value, (0, 1), where=where)


def _check_number(
    name: str, value: float | None, bounds: tuple[float, float], *, where: str
) -> None:
    if value is not None and not bounds[0] <= value <= bounds[1]:
        raise ConfigError(
            f"the {name} {value} is not between {bounds[0]:g} and {bounds[1]:g}", where=where
        )


def alter(
    plan: LinkCommands,
    links: LinksConfig,
    *,
    coordinator_host: str,
) -> Alteration:
    """What it takes to get from what is in force to these links.

    Shares of interior links are no part of it: what they limit is limited anew afterwards.

    Args:
        plan: in force now; of the same peers in the same order.
        links: as they shall be.
    """
    now = trees(
        links, coordinator_host=coordinator_host, emulator=plan.emulator, device=plan.device
    )
    commands = [
        command
        for old, new in zip(plan.trees, now, strict=True)
        for command in _tree_changes(old, new)
    ]
    delays = delays_of(links) if plan.delays else ()
    altered = tuple(
        new for old, new in zip(plan.delays, delays, strict=True) if old.path != new.path
    )
    newly = {d.host: d.queue for d in delays if impaired(d.path) and d.host not in plan.queues}
    return Alteration(
        plan=replace(
            plan,
            trees=now,
            leaves=tuple(leaves_of(now, emulator=plan.emulator)),
            delays=delays,
            queues={**plan.queues, **newly},
        ),
        commands=tuple(commands),
        delays=altered,
        peers=tuple(_different_peers(plan.trees, now)),
    )


def _different_peers(old: tuple[Tree, Tree], new: tuple[Tree, Tree]) -> Iterator[NodeId]:
    """Whose class, queue or path is different, in the order of peers."""
    before = [tree.of_peers for tree in old]
    now = [tree.of_peers for tree in new]
    for peer in now[0]:
        if any(a[peer] != b[peer] for a, b in zip(before, now, strict=True)):
            yield peer


def _tree_changes(old: Tree, new: Tree) -> Iterator[Argv]:
    before = {entry.minor: entry for entry in old.classes}
    moved = {entry.minor for entry in new.classes if before[entry.minor].parent != entry.parent}
    doors = {door.minor: door for door in new.doors()} if moved else {}
    for entry in new.classes:
        was = before[entry.minor]
        if entry.minor in moved:
            door = doors[entry.minor]
            yield filter_command("replace", new, replace(door, minor=DROP))
            yield words(f"tc class del dev {new.device} classid 1:{entry.minor:x}")
            yield class_command("add", new.device, entry)
            yield queue_command("add", new.device, entry)
            yield filter_command("replace", new, door)
            continue
        if (was.rate_bps, was.ceiling_bps) != (entry.rate_bps, entry.ceiling_bps):
            yield class_command("change", new.device, entry)
        if was.queue != entry.queue:
            yield _queue_change(new.device, was, entry)


def _queue_change(device: str, was: HtbClass, entry: HtbClass) -> Argv:
    """In place where it is of the same kind; what it holds stays."""
    if was.queue[0] != entry.queue[0]:
        return queue_command("replace", device, entry)
    if entry.queue[0] == "netem" and entry.member is not None and entry.member.path is not None:
        before = was.member.path if was.member is not None else None
        again = netem_words(entry.member.path, rtt_ns=entry.member.rtt_ns, before=before)
        return queue_command("change", device, replace(entry, queue=again))
    return queue_command("change", device, entry)


def ceiling_commands(plan: LinkCommands, old: Ceilings, new: Ceilings) -> Iterator[Argv]:
    """The tc lines that give paths out other shares of interior links than before.

    Args:
        old, new: a peer that is not in them has its path's own rate.
    """
    out = plan.trees[0]
    for peer, entry in out.of_peers.items():
        was, now = entry.limited(old.get(peer)), entry.limited(new.get(peer))
        if was != now:
            yield class_command("change", out.device, now)
