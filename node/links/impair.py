"""What is done to single packets besides the rate: in netem's words, and who can do it (pure).

netem has everything; the NFQUEUE delay line and the queues of the local backend have a part. What
is missing is refused by name before anything starts: `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from node.config import Burst, Emulator, LinksConfig, PathChange, PathSpec, PeerLink
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.sizes import netem_packets
from node.units import MICROSECOND, Nanos

Argv = tuple[str, ...]

ORDER_BPS: Final = 10**11
"""A rate that costs a full packet 0.1 us.

With any rate netem counts each packet's delay from the last one's departure, never before it
(`netem_enqueue` in net/sched/sch_netem.c: `delay -= last->time_to_send - now`, not below 0);
without one it sorts packets by their times, and jitter changes their order."""

LEAST_DELAY_NS: Final = MICROSECOND
"""tc refuses a distribution, or reordering, where the delay is none."""


def netem_words(path: PathSpec, *, rtt_ns: Nanos, before: PathSpec | None = None) -> Argv:
    """The words after `tc qdisc ... netem` for a path.

    Args:
        rtt_ns: of a small packet on the idle path; sizes the queue.
        before: what this netem did until now, when it is changed rather than made: the kernel keeps
            reorder, corrupt, rate and slot unless they are named (`netem_change`).
    """
    delay = path.delay_ns
    if path.jitter_ns or path.reorder:
        delay = max(delay, LEAST_DELAY_NS)
    text = f"netem limit {netem_packets(path, rtt_ns=rtt_ns)} delay {micros(delay)}"
    if path.jitter_ns:
        # Without the distribution the kernel draws uniformly, and sigma is jitter/sqrt(3).
        text += f" {micros(path.jitter_ns)} distribution normal"
    return tuple(" ".join((text, *_loss(path), *_shares(path, before))).split())


def _loss(path: PathSpec) -> Iterator[str]:
    """One of netem's two loss models, with all loss in it."""
    if (chain := loss_chain(path)) is not None:
        numbers = (chain.enter, chain.leave, chain.bad, chain.good)
        yield "loss gemodel " + " ".join(map(percent, numbers))
    elif path.loss:
        yield f"loss random {percent(path.loss)}"


def loss_chain(path: PathSpec) -> Burst | None:
    """Losses in bursts and random ones as one Gilbert-Elliott chain; None without bursts.

    A packet survives if neither loses it, in either state of the chain, so this is exact.
    """
    burst = path.burst
    if burst is None:
        return None
    return Burst(
        enter=burst.enter,
        leave=burst.leave,
        bad=1 - (1 - burst.bad) * (1 - path.loss),
        good=1 - (1 - burst.good) * (1 - path.loss),
    )


def lose(
    chain: Burst, *, bad: bool, count: int, draw: Callable[[], float]
) -> tuple[list[int], bool]:
    """Which of so many packets in a row are lost (from 0), and the chain's state after them.

    Args:
        bad: the state before them.
        draw: a random number from 0 to 1.
    """
    lost = []
    for number in range(count):
        share = chain.bad if bad else chain.good
        if share >= 1.0 or (share and draw() < share):
            lost.append(number)
        if draw() < (chain.leave if bad else chain.enter):
            bad = not bad
    return lost, bad


def _shares(path: PathSpec, before: PathSpec | None) -> Iterator[str]:
    was = before if before is not None else PathSpec()
    if path.duplicate:
        yield f"duplicate {percent(path.duplicate)}"
    for name in ("corrupt", "reorder"):
        share = getattr(path, name)
        if share or getattr(was, name):
            yield f"{name} {percent(share)}"
    if order_rate(path):
        yield f"rate {ORDER_BPS}bit"
    elif order_rate(was):
        yield "rate 0bit"
    if path.slot is not None:
        yield f"slot {micros(path.slot.least_ns)} {micros(path.slot.most_ns)}"
    elif was.slot is not None:
        yield "slot 0us 0us"


def own_fate(path: PathSpec) -> bool:
    """Whether each packet has its own fate, so that trains of packets have to be taken apart."""
    return bool(path.loss_rate or path.jitter_ns or path.duplicate or path.corrupt or path.reorder)


def order_rate(path: PathSpec) -> bool:
    """Whether a netem of this path needs a rate to keep the order of packets."""
    return path.ordered and path.jitter_ns > 0


def percent(share: float) -> str:
    """As tc reads it."""
    return f"{share * 100:.10g}%"


def micros(nanos: Nanos) -> str:
    """tc reads fractions of a us; its own ns suffix is newer than Debian 12's iproute2."""
    whole, rest = divmod(nanos, MICROSECOND)
    return f"{whole}us" if rest == 0 else f"{whole}.{rest:03d}us"


_LACKING: Final = {
    # The kernel tells the delay line only that a packet is there: it can hold it, let it go or drop
    # it, not send it twice or change it.
    Emulator.NFQUEUE: ("duplicate", "corrupt", "slot"),
    # A stream of frames that are delivered once, whole and in order, as TCP would.
    Emulator.APPLICATION: ("duplicate", "corrupt", "reorder", "slot", "ordered"),
    # Messages, not packets.
    Emulator.MODEL: ("duplicate", "corrupt", "reorder", "slot", "ordered"),
}
_SAID: Final = {"ordered": "jitter that changes the order of packets (`ordered: false`)"}


def refusals(path: PathSpec, emulator: Emulator) -> tuple[str, ...]:
    """What of this path the emulator cannot do, in words; AUTO is not settled, refuses nothing."""
    found = []
    for name in _LACKING.get(emulator, ()):
        asked = not path.ordered and path.jitter_ns if name == "ordered" else getattr(path, name)
        if asked:
            found.append(_SAID.get(name, f"`{name}`"))
    if path.reorder and not path.delay_ns:
        found.append("`reorder` on a path without a delay")
    return tuple(dict.fromkeys(found))


def paths_of(links: LinksConfig) -> Iterator[tuple[NodeId, str, PathSpec]]:
    """(peer, `out` or `into`, path) of all paths that a node has at some time."""
    entries: list[PeerLink | PathChange] = list(links.peers)
    entries += [entry for change in links.changes for entry in change.peers]
    for peer in entries:
        for side, path in (("out", peer.out), ("into", peer.into)):
            if path is not None:
                yield peer.name, side, path


def check(links: LinksConfig, emulator: Emulator, *, me: NodeId) -> None:
    """Raise ConfigError if some path of a node, now or later, is beyond the emulator.

    With AUTO, only what no emulator can do is refused.
    """
    fine: set[int] = set()
    for peer, side, path in paths_of(links):
        if id(path) in fine:  # paths of the same links are the same object: there may be millions
            continue
        if found := refusals(path, emulator):
            ends = (me, peer) if side == "out" else (peer, me)
            raise ConfigError(
                f"{' and '.join(found)} cannot be emulated"
                + ("" if emulator is Emulator.AUTO else f" by `{emulator.value}`"),
                where=f"the path from {ends[0]} to {ends[1]}",
                remedy=remedy(emulator, found),
            )
        fine.add(id(path))


def remedy(emulator: Emulator, found: tuple[str, ...]) -> str:
    """What to do about what an emulator cannot do."""
    if any("without a delay" in said for said in found):
        return "give the path a delay, or leave `reorder` out"
    if emulator is Emulator.APPLICATION:
        return "leave it out of the links, or use `--backend docker` on a kernel with netem"
    return (
        "leave it out of the links, or use `--emulator netem` on a host that has it"
        " (`modprobe sch_netem`)"
    )


def duplicates(links: LinksConfig) -> bool:
    """Whether some packet of this node is to be sent twice."""
    return any(path.duplicate for _, side, path in paths_of(links) if side == "out")
