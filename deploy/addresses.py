"""Which subnet a run gets (pure): one that neither the host nor another run uses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Final

from node.errors import EnvironmentFault

POOLS: Final = (
    IPv4Network("10.64.0.0/10"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
)
"""Private ranges, tried in this order; the first is the one least often met in office networks."""

_LONGEST_PREFIX: Final = 24


def free_subnet(taken: Iterable[IPv4Network], *, hosts: int, salt: str) -> IPv4Network:
    """A subnet with room for `hosts` addresses that overlaps none of `taken`.

    Where in a pool the search begins follows from `salt` (the run id), so that two runs which look
    at the same time seldom choose the same; the same arguments give the same subnet.

    Raises:
        EnvironmentFault: every candidate is taken.
    """
    prefix = min(_LONGEST_PREFIX, 32 - (hosts + 1).bit_length())
    used = [network for network in taken if network.prefixlen > 0]
    start = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8])
    for pool in POOLS:
        if prefix < pool.prefixlen:
            continue
        count = 1 << (prefix - pool.prefixlen)
        size = 1 << (32 - prefix)
        near = [network for network in used if network.overlaps(pool)]
        for i in range(count):
            base = int(pool.network_address) + (start + i) % count * size
            candidate = IPv4Network((base, prefix))
            if not any(candidate.overlaps(network) for network in near):
                return candidate
    raise EnvironmentFault(
        f"no free private subnet for {hosts} addresses",
        remedy="remove Docker networks that nobody uses (docker network prune), or routes of a VPN",
    )
