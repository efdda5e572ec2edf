"""The subnet of a run: private, large enough, free, and the same for the same run id."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.addresses import POOLS, free_subnet
from node.errors import EnvironmentFault

salts = st.text(max_size=10)


def inside(network: IPv4Network) -> bool:
    return any(network.subnet_of(pool) for pool in POOLS)


@given(salts, st.integers(1, 4098))
def test_it_is_private_and_has_room(salt: str, hosts: int) -> None:
    subnet = free_subnet([], hosts=hosts, salt=salt)
    assert inside(subnet)
    assert subnet.num_addresses - 2 >= hosts  # without the network's and the broadcast address
    assert subnet.prefixlen <= 24
    assert free_subnet([], hosts=hosts, salt=salt) == subnet


taken = st.lists(
    st.builds(
        lambda address, prefix: IPv4Network((address, prefix), strict=False),
        st.integers(0x0A400000, 0x0A7FFFFF),
        st.integers(11, 30),
    ),
    max_size=8,
)


@given(taken, salts)
def test_it_overlaps_nothing_that_is_taken(networks: list[IPv4Network], salt: str) -> None:
    subnet = free_subnet(networks, hosts=5, salt=salt)
    assert inside(subnet)
    assert not any(subnet.overlaps(network) for network in networks)


def test_runs_side_by_side_seldom_try_the_same() -> None:
    tried = {free_subnet([], hosts=5, salt=f"run-{i}") for i in range(100)}
    assert len(tried) > 95


def test_the_next_free_one_is_taken() -> None:
    first = free_subnet([], hosts=5, salt="r")
    second = free_subnet([first], hosts=5, salt="r")
    assert second != first
    assert free_subnet([first, second], hosts=5, salt="r") not in (first, second)


def test_a_full_pool_leads_to_the_next() -> None:
    subnet = free_subnet([POOLS[0]], hosts=5, salt="r")
    assert subnet.subnet_of(POOLS[1])


def test_a_default_route_takes_nothing() -> None:
    free_subnet([IPv4Network("0.0.0.0/0")], hosts=5, salt="r")


def test_none_free_is_a_fault_with_a_remedy() -> None:
    with pytest.raises(EnvironmentFault, match="no free private subnet") as caught:
        free_subnet(POOLS, hosts=5, salt="r")
    assert "docker network prune" in str(caught.value)
