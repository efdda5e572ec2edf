"""Frames, messages and signals to protobuf and back; the only importer of the generated code.

Whatever bytes come in, `decode_*` returns something well-formed or raises PeerFault. Whether a
message makes sense here (its part fits the model, its values are finite) is for the machine that
takes it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from google.protobuf.message import DecodeError, Message

from node.core import signals
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage, Scalar
from node.core.parts import Fragment, IndexSet, Listed, Part, RandomMask, Span, Whole, frozen
from node.core.signals import Signal
from node.errors import PeerFault
from node.wire.frames import (
    MAX_FRAME,
    MAX_PAYLOAD,
    Abort,
    Ack,
    Chunk,
    Frame,
    Greeting,
    Identity,
    Ping,
    Pong,
)
from node.wire.generated import peer_pb2, signaling_pb2

MAX_NAME: Final = 128
MAX_KIND: Final = 64
MAX_FIELDS: Final = 64
MAX_TEXT: Final = 1024
MAX_HEADER: Final = 128 * 1024
"""Bytes of a message's header besides listed indices."""
MAX_SIGNAL: Final = 2 * 2**20
MAX_ROUND: Final = 2**40
"""Of rounds and of counts of rounds: no run gets there, and sums of them stay integers."""
MAX_ATTEMPT: Final = 2**20
MAX_REASON: Final = 4096
"""Characters of a text in a signal, but for those that are JSON."""
MAX_MANY: Final = 2**14
"""Entries of a list in a signal."""
_LENGTH: Final = 4
_VALUE: Final = np.dtype("<f4")
_INDEX: Final = np.dtype("<u4")
_BROKEN: Final = (DecodeError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A message as bytes: a head, and the values where they lie, so that many sends copy nothing.

    Args:
        head: length, header.
        values: the part's values, little-endian; empty without a part.
    """

    head: bytes
    values: memoryview

    @property
    def size(self) -> int:
        return len(self.head) + len(self.values)

    def cut(self, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length` of the message."""
        stop, split = offset + length, len(self.head)
        if offset >= split:
            return bytes(self.values[offset - split : stop - split])
        return self.head[offset:stop] + bytes(self.values[: max(0, stop - split)])


# --- messages


def encode_message(message: PeerMessage, *, sender: Identity) -> Encoded:
    """Raises ValueError where `message` is beyond the limits: a defect of the algorithm."""
    _check(len(message.kind) <= MAX_KIND and message.kind != "", f"message kind {message.kind!r}")
    _check_stamp(message.round, message.attempt)
    _check(len(message.fields) <= MAX_FIELDS, f"{len(message.fields)} fields in a message")
    envelope = peer_pb2.Envelope(
        session=sender.session,
        sender=sender.member,
        incarnation=sender.incarnation,
        round=message.round,
        attempt=message.attempt,
        kind=message.kind,
        delivery=_DELIVERY[message.delivery],
    )
    for name, value in message.fields.items():
        _check(0 < len(name) <= MAX_NAME, f"field name {name!r}")
        envelope.fields[name].CopyFrom(_scalar(name, value))
    values = memoryview(b"")
    if message.part is not None:
        _put_part(envelope.part, message.part)
        values = np.ascontiguousarray(message.part.values, dtype=_VALUE).view(np.uint8).data
    header = envelope.SerializeToString(deterministic=True)
    return Encoded(head=len(header).to_bytes(_LENGTH, "little") + header, values=values)


def decode_message(data: bytes | bytearray, *, sender: Identity) -> PeerMessage:
    """The message of `sender` that `data` holds.

    Raises:
        PeerFault: it is malformed, beyond the limits, or not from `sender` as it is now.
    """
    size = int.from_bytes(data[:_LENGTH], "little")
    rest = len(data) - _LENGTH - size
    if rest < 0:
        raise PeerFault("a message without its header")
    if size > MAX_HEADER + rest:  # listed indices are as large as the values, and in the header
        raise PeerFault("a message header that is too large")
    view = memoryview(data)
    envelope = peer_pb2.Envelope()
    _parse(envelope, view[_LENGTH : _LENGTH + size], "a message header")
    said = (envelope.session, envelope.sender, envelope.incarnation)
    if said != (sender.session, sender.member, sender.incarnation):
        raise PeerFault("a message from another session, member or life than its stream")
    if not 0 < len(envelope.kind) <= MAX_KIND or len(envelope.fields) > MAX_FIELDS:
        raise PeerFault("a message kind or fields beyond the limits")
    if envelope.delivery not in _DELIVERY.values():
        raise PeerFault("an unknown delivery")
    _refuse_stamp(envelope.round, envelope.attempt)
    return PeerMessage(
        kind=envelope.kind,
        round=envelope.round,
        attempt=envelope.attempt,
        fields={name: _get_scalar(name, value) for name, value in envelope.fields.items()},
        delivery=Delivery.DATAGRAM if envelope.delivery else Delivery.RELIABLE,
        part=_get_part(envelope, view[_LENGTH + size :]),
    )


def wire_size(message: PeerMessage, *, sender: Identity) -> int:
    """Bytes of the encoded message, without the frames around its chunks."""
    return encode_message(message, sender=sender).size


_DELIVERY: Final = {
    Delivery.RELIABLE: peer_pb2.DELIVERY_RELIABLE,
    Delivery.DATAGRAM: peer_pb2.DELIVERY_DATAGRAM,
}


def _scalar(name: str, value: Scalar) -> peer_pb2.Scalar:
    match value:
        case int() | np.integer():
            return peer_pb2.Scalar(integer=int(value))
        case float() | np.floating():
            return peer_pb2.Scalar(real=float(value))
        case str():
            _check(len(value) <= MAX_TEXT, f"a text of {len(value)} characters in field {name!r}")
            return peer_pb2.Scalar(text=value)
        case _:
            raise ValueError(f"field {name!r} is a {type(value).__name__}")


def _get_scalar(name: str, scalar: peer_pb2.Scalar) -> Scalar:
    if not 0 < len(name) <= MAX_NAME:
        raise PeerFault("a field name beyond the limits")
    which = scalar.WhichOneof("value")
    if which is None:
        raise PeerFault("a field without a value")
    value: Scalar = getattr(scalar, which)
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise PeerFault("a text beyond the limits")
    return value


def _put_part(head: peer_pb2.PartHead, part: Part) -> None:
    _check(part.values.dtype == np.float32 and part.values.ndim == 1, "values that are not float32")
    head.count = part.values.size
    match part.where:
        case Whole():
            head.whole.SetInParent()
        case Span(start, stop):
            head.span.CopyFrom(peer_pb2.Span(start=start, stop=stop))
        case Fragment(number, count, seed):
            head.fragment.CopyFrom(peer_pb2.Fragment(number=number, count=count, seed=seed))
        case RandomMask(share, seed):
            head.mask.CopyFrom(peer_pb2.RandomMask(share=share, seed=seed))
        case Listed(indices):
            _check(indices.size == part.values.size, "as many indices as values are needed")
            fits = not indices.size or (indices.min() >= 0 and indices.max() < 2**32)
            _check(bool(fits), "an index that is not of 32 bits")
            head.listed.indices = indices.astype(_INDEX).tobytes()


def _get_part(envelope: peer_pb2.Envelope, values: memoryview) -> Part | None:
    if not envelope.HasField("part"):
        if len(values):
            raise PeerFault("values without a part")
        return None
    head = envelope.part
    if len(values) != head.count * _VALUE.itemsize:
        raise PeerFault("a part with another number of values than it says")
    # A copy: it is aligned, and lets go of the message's bytes.
    numbers = np.frombuffer(values, dtype=_VALUE).astype(np.float32)
    return Part(where=_get_where(head), values=frozen(numbers))


def _get_where(head: peer_pb2.PartHead) -> IndexSet:
    match head.WhichOneof("where"):
        case "whole":
            return Whole()
        case "span":
            return Span(head.span.start, head.span.stop)
        case "fragment":
            return Fragment(head.fragment.number, head.fragment.count, head.fragment.seed)
        case "mask":
            return RandomMask(head.mask.share, head.mask.seed)
        case "listed":
            if len(head.listed.indices) != head.count * _INDEX.itemsize:
                raise PeerFault("another number of indices than of values")
            indices = np.frombuffer(head.listed.indices, dtype=_INDEX).astype(np.int64)
            indices.flags.writeable = False
            return Listed(indices)
        case _:
            raise PeerFault("a part that does not say where it belongs")


# --- frames


def encode_frame(frame: Frame) -> bytes:
    match frame:
        case Chunk():
            # Raises ValueError beyond the limits: a defect of ours.
            _check(len(frame.payload) <= MAX_PAYLOAD, f"a chunk of {len(frame.payload)} bytes")
            chunk = peer_pb2.Chunk(
                message=frame.message,
                offset=frame.offset,
                total=frame.total,
                payload=frame.payload,
                filler=frame.filler,
                lost=frame.lost,
            )
            return peer_pb2.Frame(chunk=chunk).SerializeToString()
        case Ack(total=total):
            return peer_pb2.Frame(ack=peer_pb2.Ack(bytes=total)).SerializeToString()
        case Ping(id=number):
            return peer_pb2.Frame(ping=peer_pb2.Ping(id=number)).SerializeToString()
        case Pong(id=number):
            return peer_pb2.Frame(pong=peer_pb2.Pong(id=number)).SerializeToString()
        case Abort(message=number):
            return peer_pb2.Frame(abort=peer_pb2.Abort(message=number)).SerializeToString()
        case Greeting(identity=who, protocol=protocol):
            greeting = peer_pb2.Greeting(
                protocol=protocol,
                session=who.session,
                member=who.member,
                incarnation=who.incarnation,
            )
            return peer_pb2.Frame(greeting=greeting).SerializeToString()


def decode_frame(data: bytes) -> Frame:
    """Raises PeerFault where `data` is no frame, or one beyond the limits."""
    if len(data) > MAX_FRAME:
        raise PeerFault("a frame that is too large")
    frame = peer_pb2.Frame()
    _parse(frame, data, "a frame")
    match frame.WhichOneof("body"):
        case "chunk":
            chunk = frame.chunk
            if len(chunk.payload) > MAX_PAYLOAD or chunk.lost > MAX_PAYLOAD:
                raise PeerFault("a chunk that is too large")
            return Chunk(
                message=chunk.message,
                offset=chunk.offset,
                total=chunk.total,
                payload=chunk.payload,
                filler=chunk.filler,
                lost=chunk.lost,
            )
        case "ack":
            return Ack(total=frame.ack.bytes)
        case "ping":
            return Ping(id=frame.ping.id)
        case "pong":
            return Pong(id=frame.pong.id)
        case "abort":
            return Abort(message=frame.abort.message)
        case "greeting":
            return _get_greeting(frame.greeting)
        case _:
            raise PeerFault("a frame of an unknown kind")


def _get_greeting(greeting: peer_pb2.Greeting) -> Greeting:
    if not (0 < len(greeting.member) <= MAX_NAME and len(greeting.session) <= MAX_NAME):
        raise PeerFault("a greeting with names beyond the limits")
    identity = Identity(
        session=greeting.session,
        member=NodeId(greeting.member),
        incarnation=greeting.incarnation,
    )
    return Greeting(identity=identity, protocol=greeting.protocol)


# --- signals: each is a dataclass and a protobuf message with the same names


def encode_signal(signal: Signal, *, member: Identity) -> bytes:
    """`member`: the one that says it, or that the coordinator says it to.

    Raises ValueError where the signal is beyond the limits; a reason that is too long is cut.
    """
    _check_stamp(signal.round, signal.attempt)
    frame = signaling_pb2.SignalFrame(
        session=member.session,
        member=member.member,
        incarnation=member.incarnation,
        round=signal.round,
        attempt=signal.attempt,
    )
    body = getattr(frame, _snake(type(signal)))
    body.SetInParent()
    _put_fields(body, signal)
    data = frame.SerializeToString()
    _check(len(data) <= MAX_SIGNAL, f"a {type(signal).__name__} of {len(data)} bytes")
    return data


def decode_signal(data: bytes) -> tuple[Identity, Signal]:
    """The signal, and the member in its envelope. Raises PeerFault where it is malformed."""
    if len(data) > MAX_SIGNAL:
        raise PeerFault("a signal that is too large")
    frame = signaling_pb2.SignalFrame()
    _parse(frame, data, "a signal")
    which = frame.WhichOneof("signal")
    if which is None:
        raise PeerFault("a signal of an unknown kind")
    if not (0 < len(frame.member) <= MAX_NAME and len(frame.session) <= MAX_NAME):
        raise PeerFault("a signal with names beyond the limits")
    _refuse_stamp(frame.round, frame.attempt)
    member = Identity(
        session=frame.session, member=NodeId(frame.member), incarnation=frame.incarnation
    )
    kind = _SIGNALS[which]
    body = _get_fields(kind, getattr(frame, which))
    return member, kind(**body, round=frame.round, attempt=frame.attempt)


def _snake(kind: type) -> str:
    return re.sub(r"(?<=.)([A-Z])", r"_\1", kind.__name__).lower()


_SIGNALS: Final[dict[str, Any]] = {_snake(kind): kind for kind in typing.get_args(Signal)}
_ENVELOPE: Final = {field.name for field in dataclasses.fields(signals.Stamped)}
_HINTS: Final[dict[Any, dict[str, Any]]] = {
    kind: {
        name: hint for name, hint in typing.get_type_hints(kind).items() if name not in _ENVELOPE
    }
    for kind in (*_SIGNALS.values(), signals.LinkReading)
}


_JSON: Final = frozenset({"applied", "plan"})
"""Texts that only the whole signal's size limits."""
_CUT: Final = frozenset({"reason", "error"})
"""Texts that come from wherever something failed, and may be of any length."""
_COUNTS: Final = {"held": -1, "ended": 0}
"""Counts of rounds, and the least that each may be."""


def _put_fields(body: Message, value: Any) -> None:
    for name in _HINTS[type(value)]:
        content = getattr(value, name)
        if content is None:
            continue
        if isinstance(content, str) and name not in _JSON:
            if name in _CUT and len(content) > MAX_REASON:
                content = content[: MAX_REASON - 1] + "\N{HORIZONTAL ELLIPSIS}"
            _check(len(content) <= MAX_REASON, f"a text of {len(content)} characters in {name!r}")
        if not isinstance(content, tuple):
            setattr(body, name, content)
            continue
        _check(len(content) <= MAX_MANY, f"{len(content)} entries in {name!r}")
        repeated = getattr(body, name)
        for entry in content:
            if dataclasses.is_dataclass(entry):
                _put_fields(repeated.add(), entry)
            else:
                repeated.append(entry)


def _get_fields(kind: Any, body: Message) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, hint in _HINTS[kind].items():
        content = getattr(body, name)
        if typing.get_origin(hint) is tuple:
            content = _get_many(typing.get_args(hint)[0], content)
        elif isinstance(hint, types.UnionType) and not body.HasField(name):
            content = None
        elif isinstance(content, float) and not math.isfinite(content):
            raise PeerFault("a number in a signal that is not finite")
        elif isinstance(content, str) and len(content) > MAX_REASON and name not in _JSON:
            raise PeerFault("a text in a signal that is too long")
        elif name in _COUNTS and not _COUNTS[name] <= content <= MAX_ROUND:
            raise PeerFault("a count of rounds beyond the limits")
        values[name] = content
    return values


def _get_many(kind: Any, repeated: Any) -> tuple[Any, ...]:
    """A list in a signal: of records, or of names."""
    if len(repeated) > MAX_MANY:
        raise PeerFault("a list in a signal that is too long")
    if dataclasses.is_dataclass(kind):
        return tuple(typing.cast(Any, kind)(**_get_fields(kind, entry)) for entry in repeated)
    if any(len(name) > MAX_NAME for name in repeated):
        raise PeerFault("a signal with names beyond the limits")
    return tuple(repeated)


def _check_stamp(number: int, attempt: int) -> None:
    _check(0 <= number <= MAX_ROUND, f"round {number}")
    _check(0 <= attempt <= MAX_ATTEMPT, f"attempt {attempt}")


def _refuse_stamp(number: int, attempt: int) -> None:
    """Neither can be negative on the wire."""
    if number > MAX_ROUND or attempt > MAX_ATTEMPT:
        raise PeerFault("a round or attempt beyond the limits")


def _parse(into: Message, data: bytes | memoryview, what: str) -> None:
    try:
        into.ParseFromString(bytes(data))
    except _BROKEN as error:
        raise PeerFault(f"{what} that is not protobuf") from error


def _check(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        _wrong(otherwise)


def _wrong(what: str) -> NoReturn:
    raise ValueError(f"cannot be sent: {what}")
