"""Quantities: a unit is always required, and what is written is read back exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.units import (
    SECOND,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("20ms", 20_000_000),
        ("1.5s", 1_500_000_000),
        ("2min", 120 * SECOND),
        ("720h", 720 * 3600 * SECOND),
        ("7us", 7_000),
        ("3 ns", 3),
        (" .5 ms ", 500_000),
        ("20MS", 20_000_000),
    ],
)
def test_durations(text: str, nanos: int) -> None:
    assert parse_duration(text) == nanos


def test_rates_are_bits_and_decimal() -> None:
    assert parse_rate("10mbit") == 10_000_000
    assert parse_rate("1.5gbit") == 1_500_000_000
    assert parse_rate("64 Kbit") == 64_000


def test_sizes_tell_decimal_from_binary() -> None:
    assert parse_size("64KiB") == 65_536
    assert parse_size("2GB") == 2_000_000_000


def test_shares_are_percentages() -> None:
    assert parse_share("0.5%") == 0.005
    assert parse_share("100%") == 1.0


PARSERS = [parse_duration, parse_rate, parse_size, parse_share]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("bare", ["10", 10, 0.5, "0", "1.5"])
def test_a_bare_number_is_refused_with_an_example(
    parse: Callable[[object], object], bare: object
) -> None:
    with pytest.raises(ValueError, match=r"has no unit.*such as"):
        parse(bare)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text", ["", "fast", "-3ms", "1e3ms", "1,5s", "10 m bit", "NaN%", None, True, [1], {}]
)
def test_what_is_no_quantity_is_refused(parse: Callable[[object], object], text: object) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse(text)


@pytest.mark.parametrize("text", ["10mbps", "10MBps", "10Mb/s", "10kbps"])
def test_bits_or_bytes_per_second_is_too_ambiguous(text: str) -> None:
    with pytest.raises(ValueError, match="'bps' means bytes to some tools and bits to others"):
        parse_rate(text)


def test_limits() -> None:
    with pytest.raises(ValueError, match="above zero"):
        parse_rate("0bit")
    with pytest.raises(ValueError, match="at most 100%"):
        parse_share("101%")


@given(st.integers(0, 10**16))
def test_a_duration_is_read_back_exactly(nanos: int) -> None:
    assert parse_duration(format_duration(nanos)) == nanos


@given(st.integers(1, 10**13))
def test_a_rate_is_read_back_exactly(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@given(st.integers(0, 2**50))
def test_a_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.floats(0, 1, allow_subnormal=False))
def test_a_share_is_read_back_exactly(share: float) -> None:
    assert parse_share(format_share(share)) == share
