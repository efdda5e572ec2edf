"""Bytes for ports that anybody can write to, drawn from a seed: the same seed, the same bytes.

A signal or frame comes whole, or spoilt in one of the ways that `Kind` names. A little of what has
been made is kept, to be replayed.
"""

from __future__ import annotations

import dataclasses
import random
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import numpy as np

from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import KINDS
from node.core.parts import Part, Span, frozen
from node.core.signals import LinkReading, Signal, Stage
from node.wire.codec import (
    MAX_ATTEMPT,
    MAX_ROUND,
    MAX_SIGNAL,
    encode_frame,
    encode_message,
    encode_signal,
)
from node.wire.frames import MAX_FRAME, Abort, Ack, Chunk, Frame, Greeting, Identity, Ping, Pong
from node.wire.generated import signaling_pb2


class Kind(Enum):
    """How a message is made."""

    VALID = "valid"
    """Well-formed, and said at any time, whether it makes sense or not."""
    REPLAYED = "replayed"
    """One of those, again."""
    NOISE = "noise"
    SPOILT = "spoilt"
    """Some bytes of a valid one are others."""
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    ALIEN = "alien"
    """Of another session, member or life, or of a round that there cannot be."""


_SHARES: Final = {
    Kind.VALID: 40.0,
    Kind.REPLAYED: 15.0,
    Kind.NOISE: 10.0,
    Kind.SPOILT: 10.0,
    Kind.TRUNCATED: 10.0,
    Kind.OVERSIZED: 0.02,  # each costs as much as thousands of others
    Kind.ALIEN: 15.0,
}
"""How often each is made, in percent."""
_REPLAY: Final = 200
_SIGNALS: Final = typing.get_args(Signal)


class Fuzz:
    """See the module.

    Args:
        me: as whom the messages are sent.
        names: members that are spoken of.
        skip: kinds of signals that are not sent whole.
    """

    def __init__(
        self, seed: int, *, me: Identity, names: tuple[NodeId, ...], skip: tuple[type, ...] = ()
    ) -> None:
        self.me = me
        self._names = names
        self._rng = random.Random(seed)
        self._kinds = tuple(kind for kind in _SIGNALS if kind not in skip)
        self._past: list[bytes] = []

    def signal(self) -> tuple[Kind, bytes]:
        """The next signal for the coordinator's port."""
        return self._next(self.whole_signal, self._alien_signal, MAX_SIGNAL)

    def frame(self) -> tuple[Kind, bytes]:
        """The next frame for a node's port, after its greeting."""
        return self._next(self._whole_frame, self._alien_frame, MAX_FRAME)

    def _next(
        self, whole: Callable[[], bytes], alien: Callable[[], bytes], largest: int
    ) -> tuple[Kind, bytes]:
        rng = self._rng
        (kind,) = rng.choices(list(_SHARES), list(_SHARES.values()))
        match kind:
            case Kind.VALID:
                return kind, self._keep(whole())
            case Kind.REPLAYED:
                return kind, rng.choice(self._past) if self._past else self._keep(whole())
            case Kind.NOISE:
                return kind, rng.randbytes(rng.randrange(200))
            case Kind.SPOILT:
                return kind, self._spoil(whole())
            case Kind.TRUNCATED:
                data = whole()
                return kind, data[: rng.randrange(len(data))]
            case Kind.OVERSIZED:
                return kind, bytes(largest + 1 + rng.randrange(1000))
            case Kind.ALIEN:
                return kind, alien()

    def _keep(self, data: bytes) -> bytes:
        if len(self._past) < _REPLAY:
            self._past.append(data)
        else:
            self._past[self._rng.randrange(_REPLAY)] = data
        return data

    def _spoil(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        for _ in range(self._rng.randint(1, 4)):
            at = self._rng.randrange(len(spoilt) + 1)
            spoilt[at : at + self._rng.randrange(3)] = self._rng.randbytes(self._rng.randrange(3))
        return bytes(spoilt)

    # --- signals

    def whole_signal(self) -> bytes:
        """A signal with values that are right in form."""
        kind = self._rng.choice(self._kinds)
        return encode_signal(self._record(kind), member=self.me)

    def _alien_signal(self) -> bytes:
        signal = self._record(self._rng.choice(self._kinds))
        if self._rng.random() < 0.2:  # of no round that there can be
            data = encode_signal(dataclasses.replace(signal, round=0, attempt=0), member=self.me)
            frame = signaling_pb2.SignalFrame.FromString(data)
            frame.round, frame.attempt = 2**64 - 1 - self._rng.randrange(9), 2**32 - 1
            return frame.SerializeToString()
        return encode_signal(signal, member=self._stranger())

    def _stranger(self) -> Identity:
        changes: tuple[Mapping[str, Any], ...] = (
            {"session": "another"},
            {"member": self._rng.choice(self._names)},
            {"member": NodeId("nobody")},
            {"incarnation": self._rng.randrange(self.me.incarnation)},
            {"incarnation": self.me.incarnation + 1 + self._rng.randrange(1000)},
        )
        while True:
            other = dataclasses.replace(self.me, **self._rng.choice(changes))
            if other != self.me:
                return other

    def _record(self, kind: Any) -> Any:
        hints = typing.get_type_hints(kind)
        return kind(**{name: self._value(name, hint) for name, hint in hints.items()})

    def _value(self, name: str, hint: Any) -> Any:
        rng = self._rng
        hint = getattr(hint, "__supertype__", hint)
        inner = typing.get_args(hint)
        if typing.get_origin(hint) is tuple:
            return tuple(self._value(name, inner[0]) for _ in range(rng.randrange(4)))
        if inner:  # or None
            return None if rng.random() < 0.5 else self._value(name, inner[0])
        if hint is LinkReading:
            return self._record(LinkReading)
        if hint is bool:
            return rng.random() < 0.5
        if hint is float:
            return rng.choice((0.0, 0.5, -1.0, 1e300))
        if hint is int:
            return self._number(name)
        if name in ("stage", "phase"):
            return rng.choice((*map(str, Stage), "", "joined", "syncing", "x" * 50))
        return rng.choice((*self._names, "", "nobody", "{}", "because", "x" * 100))

    def _number(self, name: str) -> int:
        rng = self._rng
        least = -1 if name == "held" else 0
        most = {"attempt": MAX_ATTEMPT, "round": MAX_ROUND, "held": MAX_ROUND, "ended": MAX_ROUND}
        top = most.get(name, 2**31)
        return rng.choice((least, 0, 1, 2, 3, rng.randrange(60), rng.randrange(top + 1)))

    # --- frames

    def _whole_frame(self) -> bytes:
        rng = self._rng
        number = rng.randrange(20)
        made: Frame = rng.choice(
            (
                Ack(total=rng.choice((0, 1, 2**40))),
                Ping(id=rng.randrange(2**32)),
                Pong(id=rng.randrange(50)),
                Abort(message=number),
                Chunk(message=number, offset=0, total=rng.choice((4, 100, 2**50)), payload=b"1234"),
                Chunk(message=number, offset=4, total=100, payload=rng.randbytes(96)),
                Chunk(message=number, offset=rng.randrange(99), total=100, lost=1),
                self._message(self.me),
                self._message(self.me),
                self._message(self.me),
            )
        )
        return encode_frame(made)

    def _alien_frame(self) -> bytes:
        who = self._stranger()
        return encode_frame(self._rng.choice((Greeting(identity=who), self._message(who))))

    def _message(self, who: Identity) -> Chunk:
        """A message in one chunk: an algorithm's, or one of model sync."""
        rng = self._rng
        part = None
        if rng.random() < 0.5:
            start, size = rng.choice((0, 5, 10**6)), rng.randrange(50)
            values = np.frombuffer(rng.randbytes(4 * size), dtype="<f4").astype(np.float32)
            part = Part(where=Span(start, start + size), values=frozen(values))
        fields = {"sync": rng.randrange(4), "offset": rng.choice((-1, 0, 2**40)), "count": 10}
        fields |= {"total": rng.choice((2000, 2**40)), "held": rng.randrange(9)}
        message = PeerMessage(
            kind=rng.choice((*sorted(KINDS), "fragment", "model", "x")),
            round=self._number("round"),
            attempt=self._number("attempt"),
            fields={k: v for k, v in fields.items() if rng.random() < 0.9} | {"sha256": "0" * 64},
            part=part,
        )
        body = encode_message(message, sender=who)
        data = body.cut(0, body.size)
        return Chunk(message=100 + rng.randrange(9), offset=0, total=len(data), payload=data)
