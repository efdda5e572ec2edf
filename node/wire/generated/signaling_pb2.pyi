from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignalFrame(_message.Message):
    __slots__ = ("session", "member", "incarnation", "round", "attempt", "hello", "welcome", "measure_links", "links_measured", "prepare", "ready", "start", "heartbeat", "done", "stop", "leave", "refuse", "change_links", "links_changed", "underway")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    MEASURE_LINKS_FIELD_NUMBER: _ClassVar[int]
    LINKS_MEASURED_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_LINKS_FIELD_NUMBER: _ClassVar[int]
    LINKS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    UNDERWAY_FIELD_NUMBER: _ClassVar[int]
    session: str
    member: str
    incarnation: int
    round: int
    attempt: int
    hello: Hello
    welcome: Welcome
    measure_links: MeasureLinks
    links_measured: LinksMeasured
    prepare: Prepare
    ready: Ready
    start: Start
    heartbeat: Heartbeat
    done: Done
    stop: Stop
    leave: Leave
    refuse: Refuse
    change_links: ChangeLinks
    links_changed: LinksChanged
    underway: Underway
    def __init__(self, session: _Optional[str] = ..., member: _Optional[str] = ..., incarnation: _Optional[int] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., measure_links: _Optional[_Union[MeasureLinks, _Mapping]] = ..., links_measured: _Optional[_Union[LinksMeasured, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., change_links: _Optional[_Union[ChangeLinks, _Mapping]] = ..., links_changed: _Optional[_Union[LinksChanged, _Mapping]] = ..., underway: _Optional[_Union[Underway, _Mapping]] = ...) -> None: ...

class LinkReading(_message.Message):
    __slots__ = ("source", "target", "rtt_ns", "goodput_bps", "loss", "loss_packets", "transport", "error", "jitter_ns", "duplicate")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    RTT_NS_FIELD_NUMBER: _ClassVar[int]
    GOODPUT_BPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    LOSS_PACKETS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    JITTER_NS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    rtt_ns: int
    goodput_bps: float
    loss: float
    loss_packets: int
    transport: str
    error: str
    jitter_ns: int
    duplicate: float
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., rtt_ns: _Optional[int] = ..., goodput_bps: _Optional[float] = ..., loss: _Optional[float] = ..., loss_packets: _Optional[int] = ..., transport: _Optional[str] = ..., error: _Optional[str] = ..., jitter_ns: _Optional[int] = ..., duplicate: _Optional[float] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("emulator", "applied")
    EMULATOR_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    emulator: str
    applied: str
    def __init__(self, emulator: _Optional[str] = ..., applied: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("heartbeat_ns", "lease_ns")
    HEARTBEAT_NS_FIELD_NUMBER: _ClassVar[int]
    LEASE_NS_FIELD_NUMBER: _ClassVar[int]
    heartbeat_ns: int
    lease_ns: int
    def __init__(self, heartbeat_ns: _Optional[int] = ..., lease_ns: _Optional[int] = ...) -> None: ...

class MeasureLinks(_message.Message):
    __slots__ = ("attempt", "targets", "measures")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    measures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, attempt: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., measures: _Optional[_Iterable[str]] = ...) -> None: ...

class LinksMeasured(_message.Message):
    __slots__ = ("attempt", "readings")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    readings: _containers.RepeatedCompositeFieldContainer[LinkReading]
    def __init__(self, attempt: _Optional[int] = ..., readings: _Optional[_Iterable[_Union[LinkReading, _Mapping]]] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Start(_message.Message):
    __slots__ = ("at_wall_ns",)
    AT_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    at_wall_ns: int
    def __init__(self, at_wall_ns: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("phase", "round", "accuracy", "loss", "model_bytes")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    phase: str
    round: int
    accuracy: float
    loss: float
    model_bytes: int
    def __init__(self, phase: _Optional[str] = ..., round: _Optional[int] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., model_bytes: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("reason", "round")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    reason: str
    round: int
    def __init__(self, reason: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class Refuse(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ChangeLinks(_message.Message):
    __slots__ = ("number", "plan")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    number: int
    plan: str
    def __init__(self, number: _Optional[int] = ..., plan: _Optional[str] = ...) -> None: ...

class LinksChanged(_message.Message):
    __slots__ = ("number", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: str
    def __init__(self, number: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class Underway(_message.Message):
    __slots__ = ("at_wall_ns", "reason")
    AT_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    at_wall_ns: int
    reason: str
    def __init__(self, at_wall_ns: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
