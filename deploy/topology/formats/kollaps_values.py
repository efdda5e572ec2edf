"""The values of Kollaps' attributes, as text that our own files would have (pure).

Each function raises ValueError with the reason. Kollaps' numbers have no unit: latency and jitter
are milliseconds, times seconds, `drop` is a probability.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_NUMBER: Final = re.compile(
    r"\s*[-+]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][-+]?[0-9]{1,3})?\s*"
)
_RATE: Final = re.compile(r"([0-9]{1,18})([KMG])bps")
_FACTOR: Final = {"K": 10**3, "M": 10**6, "G": 10**9}
_LEAST_RATE: Final = 10**3
_MOST_RATE: Final = 400 * 10**9
_MOST_DELAY_MS: Final = 60_000
_MOST_TIME_S: Final = 720 * 3600
_MOST_LOSS: Final = Decimal("0.999")
_MOST_REPLICAS: Final = 1_000_000


def _number(text: str, what: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number of {what}")
    number = Decimal(text.strip())
    if number < 0:
        raise ValueError(f"{text!r}: must not be negative")
    return number


def _plain(number: Decimal) -> str:
    """Without an exponent, and without zeros that say nothing."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def milliseconds(text: str) -> str:
    """`10` to `10ms`."""
    number = _number(text, "milliseconds")
    if number > _MOST_DELAY_MS:
        raise ValueError(f"{text!r}: at most {_MOST_DELAY_MS} (a minute)")
    return f"{_plain(number)}ms"


def seconds(text: str) -> Decimal:
    """A time in the schedule."""
    number = _number(text, "seconds")
    if number > _MOST_TIME_S:
        raise ValueError(f"{text!r}: at most {_MOST_TIME_S} (30 days)")
    return number


def moment(at: Decimal) -> str:
    """`12.5` to `12.5s`."""
    return f"{_plain(at)}s"


def probability(text: str) -> str:
    """`0.01` to `1%`."""
    number = _number(text, "a probability between 0 and 1")
    if number > 1:
        raise ValueError(f"{text!r}: a probability between 0 and 1, not a percentage")
    if number > _MOST_LOSS:
        raise ValueError(f"{text!r}: at most 0.999; a link that loses everything is away (leave)")
    return f"{_plain(number * 100)}%"


def rate(text: str) -> str:
    """`100Mbps` to `100mbit`."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a rate: a whole number and Kbps, Mbps or Gbps (bits, decimal), such "
            "as 1500Mbps"
        )
    number, unit = match.groups()
    value = int(number) * _FACTOR[unit]
    if not _LEAST_RATE <= value <= _MOST_RATE:
        raise ValueError(f"{text!r}: between 1Kbps and 400Gbps")
    return f"{int(number)}{unit.lower()}bit"


def whole(text: str) -> int:
    """A number of replicas."""
    if not re.fullmatch(r"\s*\+?[0-9]{1,18}\s*", text) or not 1 <= int(text) <= _MOST_REPLICAS:
        raise ValueError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def switch(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def services(text: str) -> list[str]:
    """`['a','b']`, as `activepaths` has it."""
    words = re.sub(r"[\[\]'\"]", "", text).split(",")
    names = [word.strip() for word in words]
    if not all(names):
        raise ValueError(f"{text!r} is not a list of services such as ['a','b']")
    return names
