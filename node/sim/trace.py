"""What one machine was fed and what came of it, as a file that `node.sim.replay` plays again.

    <run>/nodes/<node>.trace      frames, only ever appended: 4 bytes of length, a snapshot
      Life    a peer machine came to life: all that it was made of
      Step    one event with its arrays, and a line of text for each effect; numbers from 0

One step is one frame, so that a file whose end is missing is read as far as it goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, BinaryIO, Final

import numpy as np

from node.algorithms import make
from node.core.effects import Effect, Machine
from node.core.events import Event
from node.core.parts import Vector
from node.core.peer import Peer, PeerSetting
from node.errors import EnvironmentFault
from node.sim.snapshot import dump, load
from node.units import Nanos

SUFFIX: Final = ".trace"
_LENGTH: Final = 4
_FRAME_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Life:
    """All that a peer machine is made of.

    Args:
        algorithm: its name; `options` are its.
        initial: the first model.
    """

    setting: PeerSetting
    algorithm: str
    options: Mapping[str, Any]
    initial: Vector

    def peer(self) -> Peer:
        """The machine anew. Raises ConfigError where the algorithm does not take the options."""
        algorithm = make(self.algorithm, self.options)
        return Peer(setting=self.setting, algorithm=algorithm, initial=self.initial)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One event, and what came of it.

    Args:
        now: the machine's clock.
        effects: described, see `describe`.
        raised: the exception instead of effects.
    """

    now: Nanos
    event: Event
    effects: tuple[str, ...]
    raised: str | None = None


class Traced:
    """A machine of which everything is written down.

    Args:
        write: takes whole frames.
    """

    def __init__(self, machine: Machine, *, life: Life, write: Callable[[bytes], None]) -> None:
        self._machine = machine
        self._write = write
        write(frame(life))

    def step(self, event: Event, *, now: Nanos) -> list[Effect]:
        try:
            effects = self._machine.step(event, now=now)
        except Exception as error:
            self._write(frame(Step(now=now, event=event, effects=(), raised=described(error))))
            raise
        lines = tuple(map(describe, effects))
        self._write(frame(Step(now=now, event=event, effects=lines)))
        return effects


def described(error: Exception) -> str:
    """An exception that a machine raised."""
    return f"{type(error).__name__}: {error}"


def frame(what: Life | Step) -> bytes:
    """Raises ValueError where it cannot be stored."""
    data = dump(what, name=type(what).__name__)
    if len(data) > _FRAME_MAX:
        raise ValueError(f"an event of {len(data)} bytes")
    return len(data).to_bytes(_LENGTH, "little") + data


def whole_frames(file: BinaryIO) -> int:
    """Bytes at the beginning of a trace that are whole frames, by their lengths."""
    size, end = file.seek(0, 2), 0
    while end + _LENGTH <= size:
        file.seek(end)
        after = end + _LENGTH + int.from_bytes(file.read(_LENGTH), "little")
        if after > size:
            break
        end = after
    return end


def read_trace(file: BinaryIO, *, where: str) -> Iterator[Life | Step]:
    """What is in a trace, as far as it is whole.

    Raises:
        EnvironmentFault: something in the middle is damaged, or of another version.
    """
    began = False
    while len(length := file.read(_LENGTH)) == _LENGTH:
        size = int.from_bytes(length, "little")
        data = file.read(size)
        if len(data) < size:
            return
        found = load(data, where=where)
        began = began or isinstance(found, Life)
        if not (began and isinstance(found, Life | Step)):
            raise EnvironmentFault(f"no trace: a {type(found).__name__} in it", where=where)
        yield found


def describe(value: object) -> str:
    """A value as a line of text: equal for equal values, arrays by size and digest."""
    match value:
        case np.generic():
            return describe(value.item())
        case Enum():
            return f"{type(value).__name__}.{value.name}"
        case None | bool() | str() | int() | float():
            return repr(value)
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
            return f"{value.dtype}{list(value.shape)}:{digest}"
        case Mapping():
            return f"{{{', '.join(f'{describe(k)}: {describe(v)}' for k, v in value.items())}}}"
        case tuple() | list():
            return f"[{', '.join(map(describe, value))}]"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(describe, value)))}}}"
    if is_dataclass(value) and not isinstance(value, type):
        given = [(f.name, getattr(value, f.name)) for f in fields(value) if f.repr]
        return f"{type(value).__name__}({', '.join(f'{k}={describe(v)}' for k, v in given)})"
    return f"<{type(value).__name__}>"
