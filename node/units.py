"""Quantities with units: text that people write to the integers that code uses, and back.

Times are nanoseconds, rates bit/s, sizes bytes (all int), probabilities floats in [0, 1]. A unit is
always required: a bare `10` has been read as ms, s, kbit and Mbyte by different tools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

Nanos = int
"""A time or a duration in nanoseconds."""

MICROSECOND: Final[Nanos] = 1_000
MILLISECOND: Final[Nanos] = 1_000_000
SECOND: Final[Nanos] = 1_000_000_000

_TIME: Final = {
    "ns": 1,
    "us": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "min": 60 * SECOND,
    "h": 3600 * SECOND,
}
_RATE: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZE: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SHARE: Final = {"%": 1}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z%/]*)\s*")


def _parse(text: object, units: Mapping[str, int], what: str, example: str) -> Decimal:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"expected a {what} such as {example}, not {text!r}")
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a {what}: write a number and a unit, such as {example}")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text!r} has no unit: write a {what} such as {example}")
    factor = units.get(unit)
    if factor is None:
        folded = {name.lower(): name for name in units}
        factor = units.get(folded.get(unit.lower(), ""))
    if factor is None:
        hint = ""
        if units is _RATE and unit.lower().endswith(("bps", "b/s")):
            hint = " ('bps' means bytes to some tools and bits to others)"
        raise ValueError(
            f"{text!r}: unknown unit {unit!r} for a {what}{hint}; use one of {', '.join(units)}"
        )
    try:
        return Decimal(number) * factor
    except InvalidOperation as error:  # pragma: no cover - the pattern admits only numbers
        raise ValueError(f"{text!r} is not a {what}") from error


def parse_duration(text: object) -> Nanos:
    """`20ms`, `1.5s`, `2min` to nanoseconds. Raises ValueError with the reason."""
    return round(_parse(text, _TIME, "duration", "20ms"))


def parse_rate(text: object) -> int:
    """`10mbit`, `1.5gbit` to bit/s. Raises ValueError with the reason, also for a zero rate."""
    rate = round(_parse(text, _RATE, "rate", "10mbit"))
    if rate <= 0:
        raise ValueError(f"{text!r}: a rate must be above zero")
    return rate


def parse_size(text: object) -> int:
    """`64KiB`, `2GB` to bytes. Raises ValueError with the reason."""
    return round(_parse(text, _SIZE, "size", "512MiB"))


def parse_share(text: object) -> float:
    """`0.5%` to 0.005. Raises ValueError with the reason, also above 100 %."""
    percent = _parse(text, _SHARE, "percentage", "0.5%")
    if percent > 100:
        raise ValueError(f"{text!r}: a percentage is at most 100%")
    return float(percent / 100)


def _format(value: Decimal, units: Mapping[str, int]) -> str:
    best = next(iter(units))
    for unit, factor in units.items():
        if abs(value) >= factor:
            best = unit
    return f"{(value / units[best]).normalize():f}{best}"


def format_duration(nanos: Nanos) -> str:
    """Nanoseconds to the shortest exact text that `parse_duration` reads back."""
    return (
        "0ms"
        if nanos == 0
        else _format(Decimal(nanos), {u: _TIME[u] for u in ("ns", "us", "ms", "s")})
    )


def format_rate(bits_per_second: int) -> str:
    """bit/s to the shortest exact text that `parse_rate` reads back."""
    return _format(Decimal(bits_per_second), _RATE)


def format_size(size: int) -> str:
    """Bytes to exact text that `parse_size` reads back (binary units)."""
    units = {u: _SIZE[u] for u in ("B", "KiB", "MiB", "GiB")}
    exact = {u: f for u, f in units.items() if size % f == 0} or {"B": 1}
    return _format(Decimal(size), exact)


def format_share(share: float) -> str:
    """0.005 to `0.5%`, which `parse_share` reads back."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"
