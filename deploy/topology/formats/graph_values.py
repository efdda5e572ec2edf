"""What the attributes of a graph's edges and nodes say: rates, latencies, coordinates (pure).

Latency: `latency` or `delay`, either text with a unit (`12.5ms`), or a number in an attribute that
names it (`latency_ms`). Rate: `bandwidth`, `rate` or `capacity` alike, or the Topology Zoo's
LinkSpeedRaw (bit/s), or its LinkSpeed and LinkSpeedUnits. All functions raise ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from node.units import format_duration, format_rate, parse_duration, parse_rate

EARTH_KM: Final = 6371.0
"""Mean radius."""
FIBRE_KM_S: Final = 299_792.458 * 2 / 3
"""Light in glass fibre: two thirds of that in the void."""

_LATENCY: Final = ("latency", "delay")
_RATE: Final = ("bandwidth", "rate", "capacity")
_TIME_UNITS: Final = ("ns", "us", "ms", "s")
_RATE_UNITS: Final = {
    "bps": 1, "kbps": 10**3, "mbps": 10**6, "gbps": 10**9,
    "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9,
}  # fmt: skip
_ZOO_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_NUMBER: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?")


def line(said: Mapping[str, str], *, unit: str | None) -> dict[str, Any]:
    """`rate` and `delay` of an edge, as far as its attributes tell.

    Args:
        unit: of a latency that has none.
    """
    found: dict[str, Any] = {}
    if (delay := _latency(said, unit)) is not None:
        found["delay"] = format_duration(delay)
    if (rate := _rate(said)) is not None:
        found["rate"] = format_rate(rate)
    return found


def _number(text: str, what: str) -> Decimal:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{what}: {text[:60]!r} is not a number from 0 on")
    return Decimal(text.strip())


def _latency(said: Mapping[str, str], unit: str | None) -> int | None:
    for key in _LATENCY:
        for ending in _TIME_UNITS:
            if text := said.get(f"{key}_{ending}"):
                return parse_duration(f"{_number(text, key):f}{ending}")
        if text := said.get(key):
            if not _NUMBER.fullmatch(text.strip()):
                return parse_duration(text)
            if unit is None:
                raise ValueError(f"{key}: {text[:60]!r} has no unit: write 10ms, or {key}_ms")
            return parse_duration(f"{_number(text, key):f}{unit}")
    return None


def _rate(said: Mapping[str, str]) -> int | None:
    for key in _RATE:
        for ending, factor in _RATE_UNITS.items():
            if text := said.get(f"{key}_{ending}"):
                return _whole(_number(text, key) * factor)
        if text := said.get(key):
            if _NUMBER.fullmatch(text.strip()):
                raise ValueError(f"{key}: {text[:60]!r} has no unit: write 10mbit, or {key}_mbit")
            return parse_rate(text)
    if text := said.get("linkspeedraw"):
        return _whole(_number(text, "LinkSpeedRaw"))
    if text := said.get("linkspeed"):
        ending = said.get("linkspeedunits", "").strip().lower().removesuffix("bps")
        if ending not in _ZOO_UNITS:
            raise ValueError(f"LinkSpeedUnits: {ending[:20]!r} is none of K, M, G, T")
        return _whole(_number(text, "LinkSpeed") * _ZOO_UNITS[ending])
    return None


def _whole(rate: Decimal) -> int | None:
    """bit/s; 0 is how some files say that they do not know."""
    return round(rate) or None


def speed(entry: Mapping[str, Any]) -> int:
    """For comparison: bit/s, 0 where it is unknown."""
    return parse_rate(entry["rate"]) if "rate" in entry else 0


def light(km: float) -> str:
    """The one-way delay of so much glass fibre."""
    return format_duration(round(km / FIBRE_KM_S * 1e6) * 1000)


def coordinates(said: Mapping[str, str]) -> tuple[float, float] | None:
    """Latitude and longitude in degrees."""
    try:
        found = float(said["latitude"]), float(said["longitude"])
    except (KeyError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) and abs(found[0]) <= 90 else None
