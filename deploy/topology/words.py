"""Links, their options and partitions in short words (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.topology.model import LinkOptions
from deploy.topology.quantities import UNLIMITED
from node.units import format_duration, format_rate, format_share, format_size


def link_text(affected: str | tuple[str, str], *, oneway: bool = False) -> str:
    """`a - b`, `a > b` or the name of a vertex."""
    if isinstance(affected, str):
        return affected
    return f"{affected[0]} {'>' if oneway else '-'} {affected[1]}"


def options_text(options: LinkOptions) -> str:
    """`rate 5mbit, delay 80ms`: what is given, in the order of the reference."""
    return ", ".join(f"{key} {_value(key, value)}" for key, value in options.given().items())


def _value(key: str, value: object) -> str:
    match key:
        case "rate":
            return UNLIMITED if not isinstance(value, int) else format_rate(value)
        case "delay" | "jitter":
            assert isinstance(value, int)
            return format_duration(value)
        case "loss" | "duplicate" | "corrupt" | "reorder":
            assert isinstance(value, float)
            return format_share(value)
        case "queue" if isinstance(value, int):
            return format_size(value)
    if isinstance(value, str):
        return value
    dump = getattr(value, "model_dump", None)
    parts = dump(exclude_unset=True).items() if dump else ()
    return "{" + ", ".join(f"{name}: {text}" for name, text in parts) + "}"


def parts_text(parts: Sequence[Sequence[str]]) -> str:
    """`partition a, b | c`."""
    return "partition " + " | ".join(", ".join(part) for part in parts)
