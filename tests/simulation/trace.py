"""What happened, for people: one line an event, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from node.core.effects import CancelTimer, Effect, Record, Send, SetTimer
from node.core.events import Event, Received, TimerFired
from node.core.messages import PeerMessage
from node.core.signals import Heartbeat
from node.units import SECOND, Nanos

_DULL = frozenset({"applied", "emulator", "parameters", "part", "delivery", "heartbeat_ns"})


def brief(value: Any) -> str:
    """A dataclass by name, with what is not at its default: `PeerIsReady round 3`."""
    if not is_dataclass(value) or isinstance(value, type):
        return _plain(value)
    words = [type(value).__name__]
    for entry in fields(value):
        said = getattr(value, entry.name)
        if entry.name in _DULL or (not isinstance(said, np.ndarray) and said == entry.default):
            continue
        if not (said is None or said == "" or said == ()):
            words.append(f"{entry.name} {_plain(said)}")
    return " ".join(words)


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        return brief(value)
    return str(getattr(value, "value", value))


def name_of(event: Event) -> str:
    """As the tables call it: a class, or `timer NAME`."""
    if isinstance(event, Received):
        message = event.message
        return message.kind if isinstance(message, PeerMessage) else type(message).__name__
    if isinstance(event, TimerFired):
        return "timer " + event.key.split("/")[1]
    return type(event).__name__


def line(at: Nanos, host: str, kind: str, event: Event, effects: Iterable[Effect]) -> str:
    """An event at a machine and its effects, timers left out."""
    where = host if kind != "peer" else f"{host}'s peer"
    if isinstance(event, Received):
        what = f"{brief(event.message)} from {event.sender}"
    else:
        what = brief(event)
    out = [_effect(effect) for effect in effects if not isinstance(effect, SetTimer | CancelTimer)]
    return f"{at / SECOND:9.3f} {where:12} {what}" + "".join(f"\n{'':22}  > {text}" for text in out)


def dull(event: Event) -> bool:
    """Says nothing in a transcript."""
    if isinstance(event, TimerFired):
        return event.key.endswith("heartbeat")
    return isinstance(event, Received) and isinstance(event.message, Heartbeat)


def _effect(effect: Effect) -> str:
    if isinstance(effect, Send):
        return f"to {effect.target}: {brief(effect.message)}"
    if isinstance(effect, Record):
        said = " ".join(f"{key} {_plain(value)}" for key, value in effect.fields.items())
        return f"record {effect.kind}: {said}"
    return brief(effect)
