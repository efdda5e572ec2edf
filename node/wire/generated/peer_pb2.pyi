from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_RELIABLE: _ClassVar[Delivery]
    DELIVERY_DATAGRAM: _ClassVar[Delivery]
DELIVERY_RELIABLE: Delivery
DELIVERY_DATAGRAM: Delivery

class Frame(_message.Message):
    __slots__ = ("greeting", "chunk", "ack", "ping", "pong", "abort")
    GREETING_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    greeting: Greeting
    chunk: Chunk
    ack: Ack
    ping: Ping
    pong: Pong
    abort: Abort
    def __init__(self, greeting: _Optional[_Union[Greeting, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ...) -> None: ...

class Greeting(_message.Message):
    __slots__ = ("protocol", "session", "member", "incarnation")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: str
    member: str
    incarnation: int
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[str] = ..., member: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("message", "offset", "total", "payload", "filler", "lost")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    message: int
    offset: int
    total: int
    payload: bytes
    filler: bool
    lost: int
    def __init__(self, message: _Optional[int] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., payload: _Optional[bytes] = ..., filler: _Optional[bool] = ..., lost: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: int
    def __init__(self, message: _Optional[int] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("session", "sender", "incarnation", "round", "attempt", "kind", "fields", "delivery", "part")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    session: str
    sender: str
    incarnation: int
    round: int
    attempt: int
    kind: str
    fields: _containers.MessageMap[str, Scalar]
    delivery: Delivery
    part: PartHead
    def __init__(self, session: _Optional[str] = ..., sender: _Optional[str] = ..., incarnation: _Optional[int] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., kind: _Optional[str] = ..., fields: _Optional[_Mapping[str, Scalar]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., part: _Optional[_Union[PartHead, _Mapping]] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("integer", "real", "text")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    integer: int
    real: float
    text: str
    def __init__(self, integer: _Optional[int] = ..., real: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class PartHead(_message.Message):
    __slots__ = ("count", "whole", "span", "fragment", "mask", "listed")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    count: int
    whole: Whole
    span: Span
    fragment: Fragment
    mask: RandomMask
    listed: Listed
    def __init__(self, count: _Optional[int] = ..., whole: _Optional[_Union[Whole, _Mapping]] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., fragment: _Optional[_Union[Fragment, _Mapping]] = ..., mask: _Optional[_Union[RandomMask, _Mapping]] = ..., listed: _Optional[_Union[Listed, _Mapping]] = ...) -> None: ...

class Whole(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Fragment(_message.Message):
    __slots__ = ("number", "count", "seed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    number: int
    count: int
    seed: int
    def __init__(self, number: _Optional[int] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class RandomMask(_message.Message):
    __slots__ = ("share", "seed")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    share: float
    seed: int
    def __init__(self, share: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Listed(_message.Message):
    __slots__ = ("indices",)
    INDICES_FIELD_NUMBER: _ClassVar[int]
    indices: bytes
    def __init__(self, indices: _Optional[bytes] = ...) -> None: ...
