from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignalFrame(_message.Message):
    __slots__ = ("session", "member", "incarnation", "round", "attempt", "hello", "welcome", "measure_links", "links_measured", "prepare", "ready", "start", "heartbeat", "done", "stop", "leave", "refuse", "change_links", "links_changed", "underway", "join_round", "peers_for_round", "connections_ready", "start_weight_sharing", "retry_peer_connections", "connection_fail", "model_sync_request", "signal_model_provider", "signal_new_peer", "stale", "peer_is_ready", "round_done", "peer_gone", "waiting", "enough", "sync_done", "sync_decline")
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
    JOIN_ROUND_FIELD_NUMBER: _ClassVar[int]
    PEERS_FOR_ROUND_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_READY_FIELD_NUMBER: _ClassVar[int]
    START_WEIGHT_SHARING_FIELD_NUMBER: _ClassVar[int]
    RETRY_PEER_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FAIL_FIELD_NUMBER: _ClassVar[int]
    MODEL_SYNC_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_MODEL_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_NEW_PEER_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    PEER_IS_READY_FIELD_NUMBER: _ClassVar[int]
    ROUND_DONE_FIELD_NUMBER: _ClassVar[int]
    PEER_GONE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    SYNC_DONE_FIELD_NUMBER: _ClassVar[int]
    SYNC_DECLINE_FIELD_NUMBER: _ClassVar[int]
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
    join_round: JoinRound
    peers_for_round: PeersForRound
    connections_ready: ConnectionsReady
    start_weight_sharing: StartWeightSharing
    retry_peer_connections: RetryPeerConnections
    connection_fail: ConnectionFail
    model_sync_request: ModelSyncRequest
    signal_model_provider: SignalModelProvider
    signal_new_peer: SignalNewPeer
    stale: Stale
    peer_is_ready: PeerIsReady
    round_done: RoundDone
    peer_gone: PeerGone
    waiting: Waiting
    enough: Enough
    sync_done: SyncDone
    sync_decline: SyncDecline
    def __init__(self, session: _Optional[str] = ..., member: _Optional[str] = ..., incarnation: _Optional[int] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., measure_links: _Optional[_Union[MeasureLinks, _Mapping]] = ..., links_measured: _Optional[_Union[LinksMeasured, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., change_links: _Optional[_Union[ChangeLinks, _Mapping]] = ..., links_changed: _Optional[_Union[LinksChanged, _Mapping]] = ..., underway: _Optional[_Union[Underway, _Mapping]] = ..., join_round: _Optional[_Union[JoinRound, _Mapping]] = ..., peers_for_round: _Optional[_Union[PeersForRound, _Mapping]] = ..., connections_ready: _Optional[_Union[ConnectionsReady, _Mapping]] = ..., start_weight_sharing: _Optional[_Union[StartWeightSharing, _Mapping]] = ..., retry_peer_connections: _Optional[_Union[RetryPeerConnections, _Mapping]] = ..., connection_fail: _Optional[_Union[ConnectionFail, _Mapping]] = ..., model_sync_request: _Optional[_Union[ModelSyncRequest, _Mapping]] = ..., signal_model_provider: _Optional[_Union[SignalModelProvider, _Mapping]] = ..., signal_new_peer: _Optional[_Union[SignalNewPeer, _Mapping]] = ..., stale: _Optional[_Union[Stale, _Mapping]] = ..., peer_is_ready: _Optional[_Union[PeerIsReady, _Mapping]] = ..., round_done: _Optional[_Union[RoundDone, _Mapping]] = ..., peer_gone: _Optional[_Union[PeerGone, _Mapping]] = ..., waiting: _Optional[_Union[Waiting, _Mapping]] = ..., enough: _Optional[_Union[Enough, _Mapping]] = ..., sync_done: _Optional[_Union[SyncDone, _Mapping]] = ..., sync_decline: _Optional[_Union[SyncDecline, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("emulator", "applied", "stage", "held", "began_wall_ns")
    EMULATOR_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    BEGAN_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    emulator: str
    applied: str
    stage: str
    held: int
    began_wall_ns: int
    def __init__(self, emulator: _Optional[str] = ..., applied: _Optional[str] = ..., stage: _Optional[str] = ..., held: _Optional[int] = ..., began_wall_ns: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("heartbeat_ns", "lease_ns", "need_sync")
    HEARTBEAT_NS_FIELD_NUMBER: _ClassVar[int]
    LEASE_NS_FIELD_NUMBER: _ClassVar[int]
    NEED_SYNC_FIELD_NUMBER: _ClassVar[int]
    heartbeat_ns: int
    lease_ns: int
    need_sync: bool
    def __init__(self, heartbeat_ns: _Optional[int] = ..., lease_ns: _Optional[int] = ..., need_sync: _Optional[bool] = ...) -> None: ...

class MeasureLinks(_message.Message):
    __slots__ = ("slot", "targets", "measures")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    slot: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    measures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slot: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., measures: _Optional[_Iterable[str]] = ...) -> None: ...

class LinksMeasured(_message.Message):
    __slots__ = ("slot", "readings")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    readings: _containers.RepeatedCompositeFieldContainer[LinkReading]
    def __init__(self, slot: _Optional[int] = ..., readings: _Optional[_Iterable[_Union[LinkReading, _Mapping]]] = ...) -> None: ...

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
    __slots__ = ("phase", "ended", "accuracy", "loss", "model_bytes")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    phase: str
    ended: int
    accuracy: float
    loss: float
    model_bytes: int
    def __init__(self, phase: _Optional[str] = ..., ended: _Optional[int] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., model_bytes: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("reason", "ended")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    ended: int
    def __init__(self, reason: _Optional[str] = ..., ended: _Optional[int] = ...) -> None: ...

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

class JoinRound(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeerIsReady(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeersForRound(_message.Message):
    __slots__ = ("peers", "spare")
    PEERS_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[str]
    spare: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peers: _Optional[_Iterable[str]] = ..., spare: _Optional[_Iterable[str]] = ...) -> None: ...

class ConnectionsReady(_message.Message):
    __slots__ = ("connected", "failed")
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    connected: _containers.RepeatedScalarFieldContainer[str]
    failed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, connected: _Optional[_Iterable[str]] = ..., failed: _Optional[_Iterable[str]] = ...) -> None: ...

class RetryPeerConnections(_message.Message):
    __slots__ = ("failed",)
    FAILED_FIELD_NUMBER: _ClassVar[int]
    failed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, failed: _Optional[_Iterable[str]] = ...) -> None: ...

class StartWeightSharing(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peers: _Optional[_Iterable[str]] = ...) -> None: ...

class RoundDone(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, missing: _Optional[_Iterable[str]] = ...) -> None: ...

class ConnectionFail(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class PeerGone(_message.Message):
    __slots__ = ("peer",)
    PEER_FIELD_NUMBER: _ClassVar[int]
    peer: str
    def __init__(self, peer: _Optional[str] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("present", "needed")
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    present: int
    needed: int
    def __init__(self, present: _Optional[int] = ..., needed: _Optional[int] = ...) -> None: ...

class Enough(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stale(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelSyncRequest(_message.Message):
    __slots__ = ("failed", "reason")
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    failed: int
    reason: str
    def __init__(self, failed: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class SignalModelProvider(_message.Message):
    __slots__ = ("sync", "provider")
    SYNC_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    sync: int
    provider: str
    def __init__(self, sync: _Optional[int] = ..., provider: _Optional[str] = ...) -> None: ...

class SignalNewPeer(_message.Message):
    __slots__ = ("sync", "newcomer")
    SYNC_FIELD_NUMBER: _ClassVar[int]
    NEWCOMER_FIELD_NUMBER: _ClassVar[int]
    sync: int
    newcomer: str
    def __init__(self, sync: _Optional[int] = ..., newcomer: _Optional[str] = ...) -> None: ...

class SyncDone(_message.Message):
    __slots__ = ("sync", "held")
    SYNC_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    sync: int
    held: int
    def __init__(self, sync: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class SyncDecline(_message.Message):
    __slots__ = ("sync", "reason")
    SYNC_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sync: int
    reason: str
    def __init__(self, sync: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
