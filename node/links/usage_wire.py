"""What link agents tell each other about shared links, as bytes (pure).

One datagram holds up to `FLOWS_MAX` records of one sender; more make several parts of one report.
Anybody in the network may send anything here, so what does not fit is refused, never guessed.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.core.ids import NodeId

VERSION: Final = 1
FLOWS_MAX: Final = 50
LINKS_MAX: Final = 64
PARTS_MAX: Final = 64
DATAGRAM_MAX: Final = 1400
"""Bytes: below the MTU, for the filter by port does not see the later fragments of a datagram."""

_HEAD: Final = struct.Struct("!BIIQHBBB")
_FLOW: Final = struct.Struct("!ddB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Flows of one node that cross the same shared links, as one.

    Args:
        links: positions of the links in `LinksConfig.shared`, in rising order.
        weight: the sum of theirs.
        demand_bps: what they want at most; infinite: as much as they can get.
    """

    links: tuple[int, ...]
    weight: float
    demand_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One datagram of a report.

    Args:
        sequence: rises with each report of a sender, also over a restart of it.
        valid_ms: after this long without another report the sender counts as idle.
        part, parts: which of how many datagrams of the report.
    """

    sequence: int
    valid_ms: int
    part: int
    parts: int
    flows: tuple[Usage, ...]


def encode(
    flows: Sequence[Usage], *, session: str, sender: NodeId, sequence: int, valid_ms: int
) -> list[bytes]:
    """The datagrams of a report; one without flows says that the sender is idle."""
    parts = list(_groups(flows)) or [[]]
    if len(parts) > PARTS_MAX:
        raise ValueError(f"{len(flows)} groups of flows do not fit a report")
    return [
        _HEAD.pack(
            VERSION,
            _mark(session),
            _mark(sender),
            sequence,
            valid_ms,
            number,
            len(parts),
            len(part),
        )
        + b"".join(
            _FLOW.pack(f.weight, f.demand_bps, len(f.links))
            + struct.pack(f"!{len(f.links)}H", *f.links)
            for f in part
        )
        for number, part in enumerate(parts)
    ]


def _groups(flows: Sequence[Usage]) -> Iterator[list[Usage]]:
    """What fits a datagram each."""
    group: list[Usage] = []
    size = _HEAD.size
    for flow in flows:
        need = _FLOW.size + 2 * len(flow.links)
        if group and (size + need > DATAGRAM_MAX or len(group) == FLOWS_MAX):
            yield group
            group, size = [], _HEAD.size
        group.append(flow)
        size += need
    if group:
        yield group


def decode(datagram: bytes, *, session: str, sender: NodeId) -> Part | None:
    """One datagram of this sender in this run; None for anything else."""
    if not _HEAD.size <= len(datagram) <= DATAGRAM_MAX:
        return None
    version, mark, name, sequence, valid_ms, number, parts, count = _HEAD.unpack_from(datagram)
    if (version, mark, name) != (VERSION, _mark(session), _mark(sender)):
        return None
    if not (0 <= number < parts <= PARTS_MAX and count <= FLOWS_MAX and valid_ms):
        return None
    flows, offset = [], _HEAD.size
    for _ in range(count):
        if offset + _FLOW.size > len(datagram):
            return None
        weight, demand, crossed = _FLOW.unpack_from(datagram, offset)
        offset += _FLOW.size
        if offset + 2 * crossed > len(datagram) or not 0 < crossed <= LINKS_MAX:
            return None
        links = struct.unpack_from(f"!{crossed}H", datagram, offset)
        offset += 2 * crossed
        if not (1e-6 < weight < 1e9 and demand >= 0) or math.isnan(demand):
            return None
        if any(a >= b for a, b in itertools.pairwise(links)):
            return None
        flows.append(Usage(links=links, weight=weight, demand_bps=demand))
    if offset != len(datagram):
        return None
    return Part(sequence=sequence, valid_ms=valid_ms, part=number, parts=parts, flows=tuple(flows))


def _mark(text: str) -> int:
    """Tells runs, and senders, from each other; it is no secret."""
    return zlib.crc32(text.encode())
