"""The kinds of values in a topology file, as pydantic types: text with a unit in, integers out.

Each reads what `node.units` reads, refuses absurd values, writes the same text back, and has a
pattern for the editor. Times are ns, rates bit/s, sizes bytes, shares in [0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from node.core.ids import COORDINATOR
from node.units import (
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)

UNLIMITED: Final = "unlimited"
NAME_PATTERN: Final = "[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?"


def _any_case(word: str) -> str:
    """A pattern for a word in capitals or not: patterns of JSON Schema have no flags."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in word)


def _pattern(*units: str) -> str:
    return rf"^\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*({'|'.join(map(_any_case, units))})\s*$"


def _within(
    parse: Callable[[object], Any], low: str, high: str, *, above: bool = False
) -> Callable[[object], Any]:
    """`parse` with limits, both given as text; `above` excludes the lower one."""
    bottom, top = parse(low), parse(high)
    known = lru_cache(maxsize=4096)(parse)  # thousands of links say the same

    def bounded(text: object) -> Any:
        value = known(text) if isinstance(text, str) else parse(text)
        if value > top:
            raise ValueError(f"{text!r}: at most {high}")
        if value < bottom or (above and value == bottom):
            raise ValueError(f"{text!r}: {'must be above' if above else 'at least'} {low}")
        return value

    return bounded


def _rate_or_unlimited(text: object) -> int | None:
    return None if text == UNLIMITED else _RATE(text)


def _write_rate(rate: int | None) -> str:
    return UNLIMITED if rate is None else format_rate(rate)


_RATE: Final = _within(parse_rate, "1kbit", "400gbit")
_TIME: Final = _pattern("ns", "us", "ms", "s", "min", "h")
_SHARE: Final = WithJsonSchema(
    {"type": "string", "pattern": _pattern("%"), "examples": ["0.5%"], "title": "percentage"}
)

Delay = Annotated[
    int,
    BeforeValidator(_within(parse_duration, "0ms", "60s")),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _TIME, "examples": ["20ms"], "title": "duration"}),
]
"""A time on the way, at most a minute; ns."""

Moment = Annotated[
    int,
    BeforeValidator(_within(parse_duration, "0ms", "720h")),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _TIME, "examples": ["10s"], "title": "time"}),
]
"""A time on the run clock; ns."""

duration: Final = _within(parse_duration, "0ms", "720h", above=True)
"""What a `Duration` is read with; raises ValueError."""

Duration = Annotated[
    int,
    BeforeValidator(duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _TIME, "examples": ["60s"], "title": "duration"}),
]
"""Some time, above zero, at most 30 days; ns."""

Rate = Annotated[
    int | None,
    BeforeValidator(_rate_or_unlimited),
    PlainSerializer(_write_rate, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"{_pattern('bit', 'kbit', 'mbit', 'gbit')}|^{UNLIMITED}$",
            "examples": ["10mbit", UNLIMITED],
            "title": "rate",
        }
    ),
]
"""bit/s; None is unlimited."""

Loss = Annotated[
    float,
    BeforeValidator(_within(parse_share, "0%", "99.9%")),
    PlainSerializer(format_share, return_type=str),
    _SHARE,
]
"""Share of packets that get lost: less than all of them."""

Share = Annotated[
    float,
    BeforeValidator(_within(parse_share, "0%", "100%")),
    PlainSerializer(format_share, return_type=str),
    _SHARE,
]

Chance = Annotated[
    float,
    BeforeValidator(_within(parse_share, "0%", "100%", above=True)),
    PlainSerializer(format_share, return_type=str),
    _SHARE,
]
"""A probability above zero."""

Accuracy = Annotated[
    float,
    BeforeValidator(_within(parse_share, "0%", "100%", above=True)),
    PlainSerializer(format_share, return_type=str),
    _SHARE,
]


def _size_schema(example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "pattern": _pattern("B", "kB", "MB", "GB", "KiB", "MiB", "GiB"),
            "examples": [example],
            "title": "size",
        }
    )


Memory = Annotated[
    int,
    BeforeValidator(_within(parse_size, "16MiB", "4096GiB")),
    PlainSerializer(format_size, return_type=str),
    _size_schema("512MiB"),
]
"""Bytes."""

Queue = Annotated[
    int,
    BeforeValidator(_within(parse_size, "2kB", "1GiB")),
    PlainSerializer(format_size, return_type=str),
    _size_schema("64KiB"),
]
"""Bytes of packets that wait; one packet at least."""

Size = Annotated[
    int,
    BeforeValidator(_within(parse_size, "1B", "1024GiB")),
    PlainSerializer(format_size, return_type=str),
    _size_schema("359336B"),
]
"""Bytes of a message."""

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]


def checked_name(name: str) -> str:
    """The name, if it is one. Raises ValueError with the reason."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"{name!r} is not a name: up to 40 of a-z, 0-9 and -, beginning with a letter and "
            "ending with a letter or a digit"
        )
    if name == COORDINATOR:
        raise ValueError(f"{name!r} is the name of the coordinator")
    return name


Name = Annotated[
    str,
    AfterValidator(checked_name),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$", "title": "name"}),
]
"""Of a node, a group or a bridge: becomes a host name and part of file names."""
