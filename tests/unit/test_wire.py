"""Messages, frames and signals: what goes in comes out, and no bytes whatever do any harm."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import signals
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.parts import Fragment, IndexSet, Listed, Part, RandomMask, Span, Whole
from node.core.signals import Hello, LinkReading, Signal
from node.errors import PeerFault
from node.wire import codec
from node.wire.assembly import Assembler
from node.wire.frames import (
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

ROOT = Path(__file__).parents[2]
ME = Identity(session="s-1", member=NodeId("n-0"), incarnation=2**63 + 5)

u64 = st.integers(0, 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
wheres = st.one_of(
    st.just(Whole()),
    st.builds(Span, u64, u64),
    st.builds(Fragment, u64, u64, u64),
    st.builds(RandomMask, st.floats(0, 1), u64),
)
float32 = st.floats(width=32)  # NaN and infinities too: they are for the machine to judge


@st.composite
def parts(draw: st.DrawFn) -> Part:
    values = np.array(draw(st.lists(float32, max_size=50)), dtype=np.float32)
    if draw(st.booleans()):
        return Part(where=draw(wheres), values=values)
    numbers = draw(st.lists(st.integers(0, 2**32 - 1), min_size=values.size, max_size=values.size))
    return Part(where=Listed(np.array(numbers, dtype=np.int64)), values=values)


messages = st.builds(
    PeerMessage,
    kind=names,
    round=st.integers(0, codec.MAX_ROUND),
    attempt=st.integers(0, codec.MAX_ATTEMPT),
    part=st.none() | parts(),
    fields=st.dictionaries(
        names, st.one_of(st.integers(-(2**63), 2**63 - 1), finite, st.text(max_size=20)), max_size=5
    ),
    delivery=st.sampled_from(Delivery),
)
identities = st.builds(Identity, session=names, member=names.map(NodeId), incarnation=u64)
u32 = st.integers(0, 2**32 - 1)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Greeting, identity=identities, protocol=u32),
    st.builds(
        Chunk,
        message=u64,
        offset=u64,
        total=u64,
        payload=st.binary(max_size=100),
        filler=st.booleans(),
        lost=st.integers(0, MAX_PAYLOAD),
    ),
    st.builds(Ack, total=u64),
    st.builds(Ping, id=u64),
    st.builds(Pong, id=u64),
    st.builds(Abort, message=u64),
)


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """What a field of a signal may hold, from its type."""
    hint = getattr(hint, "__supertype__", hint)
    if typing.get_origin(hint) is tuple:
        return st.lists(_values(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if typing.get_args(hint):
        return st.none() | _values(typing.get_args(hint)[0])
    if dataclasses.is_dataclass(hint):
        return st.from_type(hint)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 2**32 - 1),
        float: finite,
        str: st.text(st.characters(codec="utf-8"), max_size=20),
    }
    return kinds[hint]


_COUNTED: dict[str, st.SearchStrategy[int]] = {
    "round": st.integers(0, codec.MAX_ROUND),
    "attempt": st.integers(0, codec.MAX_ATTEMPT),
    "held": st.integers(-1, codec.MAX_ROUND),
    "ended": st.integers(0, codec.MAX_ROUND),
}


def _signals(kind: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(
        kind,
        **{
            name: _COUNTED[name] if name in _COUNTED else _values(hint)
            for name, hint in hints.items()
        },
    )


def plain(kind: Any, **stamp: int) -> Any:
    """A signal of this kind, with as little in it as there can be."""
    values = {int: 0, str: "", bool: False}
    needed = {
        field.name: values.get(typing.get_type_hints(kind)[field.name], ())
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
    }
    return kind(**needed, **stamp)


st.register_type_strategy(LinkReading, _signals(LinkReading))
any_signal: st.SearchStrategy[Signal] = st.one_of(*map(_signals, typing.get_args(Signal)))


def encoded(message: PeerMessage, *, sender: Identity = ME) -> bytes:
    body = codec.encode_message(message, sender=sender)
    return body.cut(0, body.size)


def same_where(one: IndexSet, other: IndexSet) -> bool:
    if isinstance(one, Listed) and isinstance(other, Listed):
        return np.array_equal(one.indices, other.indices)
    return one == other


@given(messages)
def test_a_message_comes_back_as_it_was(message: PeerMessage) -> None:
    back = codec.decode_message(encoded(message), sender=ME)
    assert (back.kind, back.delivery) == (message.kind, message.delivery)
    assert (back.round, back.attempt) == (message.round, message.attempt)
    assert back.fields == message.fields
    assert (back.part is None) == (message.part is None)
    if message.part is not None and back.part is not None:
        assert same_where(back.part.where, message.part.where)
        assert back.part.values.tobytes() == message.part.values.tobytes()  # bit for bit, also NaN
        assert not back.part.values.flags.writeable
        assert back.part.values.flags.aligned


@given(messages, st.data())
def test_a_message_can_be_cut_anywhere(message: PeerMessage, data: st.DataObject) -> None:
    body = codec.encode_message(message, sender=ME)
    whole = body.cut(0, body.size)
    assert body.size == len(whole) == codec.wire_size(message, sender=ME)
    offset = data.draw(st.integers(0, body.size))
    length = data.draw(st.integers(0, body.size - offset))
    assert body.cut(offset, length) == whole[offset : offset + length]


def test_values_are_not_copied() -> None:
    values = np.arange(1000, dtype=np.float32)
    message = PeerMessage(kind="model", round=1, part=Part(where=Whole(), values=values))
    body = codec.encode_message(message, sender=ME)
    assert np.shares_memory(np.frombuffer(body.values, dtype=np.uint8), values)
    assert body.size - values.nbytes == len(body.head) < 64


def test_values_may_lie_apart() -> None:
    values = np.arange(10, dtype=np.float32)[::3]
    message = PeerMessage(kind="model", round=1, part=Part(where=Whole(), values=values))
    back = codec.decode_message(encoded(message), sender=ME)
    assert back.part is not None
    assert back.part.values.tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "message",
    [
        PeerMessage(kind="", round=0),
        PeerMessage(kind="k" * 65, round=0),
        PeerMessage(kind="k", round=-1),
        PeerMessage(kind="k", round=codec.MAX_ROUND + 1),
        PeerMessage(kind="k", round=0, attempt=-1),
        PeerMessage(kind="k", round=0, attempt=codec.MAX_ATTEMPT + 1),
        PeerMessage(kind="k", round=0, fields={"f": "x" * 2000}),
        PeerMessage(kind="k", round=0, fields={str(i): i for i in range(65)}),
        PeerMessage(kind="k", round=0, fields={"f": 2**63}),
        PeerMessage(kind="k", round=0, fields={"f": [1]}),  # type: ignore[dict-item]
        PeerMessage(kind="k", round=0, part=Part(where=Whole(), values=np.zeros(3))),  # type: ignore[arg-type]
    ],
)
def test_a_message_beyond_the_limits_cannot_be_sent(message: PeerMessage) -> None:
    with pytest.raises(ValueError, match=r".+"):
        codec.encode_message(message, sender=ME)


@pytest.mark.parametrize(
    "said",
    [
        dataclasses.replace(ME, session="s-2"),
        dataclasses.replace(ME, member=NodeId("n-1")),
        dataclasses.replace(ME, incarnation=1),
    ],
)
def test_a_message_must_be_of_its_stream(said: Identity) -> None:
    data = encoded(PeerMessage(kind="k", round=0), sender=said)
    with pytest.raises(PeerFault, match="session, member or life"):
        codec.decode_message(data, sender=ME)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_message, codec.decode_frame, codec.decode_signal):
        try:
            decode(data)
        except PeerFault:
            pass
        else:
            assert decode is not decode_message, "the session cannot be guessed"


@given(messages | frames | any_signal, st.data())
def test_spoilt_bytes_raise_nothing_but_peer_fault(thing: Any, data: st.DataObject) -> None:
    if isinstance(thing, PeerMessage):
        raw, decode = encoded(thing), decode_message
    elif isinstance(thing, typing.get_args(Frame)):
        raw, decode = codec.encode_frame(thing), codec.decode_frame
    else:
        raw, decode = codec.encode_signal(thing, member=ME), codec.decode_signal
    spoilt = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(0, len(spoilt) - 1)))
        spoilt[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(PeerFault):
        decode(bytes(spoilt))


def decode_message(data: bytes) -> PeerMessage:
    return codec.decode_message(data, sender=ME)


def test_a_header_does_not_cost_more_than_it_may() -> None:
    size = codec.MAX_HEADER + 1
    with pytest.raises(PeerFault, match="too large"):
        decode_message(size.to_bytes(4, "little") + bytes(size))


@given(frames)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert codec.decode_frame(codec.encode_frame(frame)) == frame


def test_a_large_frame_is_refused() -> None:
    with pytest.raises(PeerFault, match="too large"):
        codec.decode_frame(bytes(2**20))
    large = chunk(total=2**20, payload=bytes(MAX_PAYLOAD + 1))
    with pytest.raises(ValueError, match="chunk of"):
        codec.encode_frame(large)


@given(any_signal, identities)
def test_a_signal_comes_back_as_it_was(signal: Signal, member: Identity) -> None:
    assert codec.decode_signal(codec.encode_signal(signal, member=member)) == (member, signal)


@pytest.mark.parametrize("kind", typing.get_args(Signal), ids=lambda kind: kind.__name__)
def test_every_signal_has_round_and_attempt_in_its_envelope(kind: Any) -> None:
    """There they are, whatever the signal: a reader needs no knowledge of its kind."""
    signal = plain(kind, round=codec.MAX_ROUND, attempt=codec.MAX_ATTEMPT)
    data = codec.encode_signal(signal, member=ME)
    frame = signaling_pb2.SignalFrame.FromString(data)
    assert (frame.round, frame.attempt) == (codec.MAX_ROUND, codec.MAX_ATTEMPT)
    _, back = codec.decode_signal(data)
    assert (back.round, back.attempt) == (codec.MAX_ROUND, codec.MAX_ATTEMPT)


@pytest.mark.parametrize("kind", typing.get_args(Signal), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "stamp",
    [
        {"round": -1},
        {"round": codec.MAX_ROUND + 1},
        {"attempt": -1},
        {"attempt": codec.MAX_ATTEMPT + 1},
    ],
    ids=str,
)
def test_a_signal_of_no_round_there_can_be_is_not_sent(kind: Any, stamp: dict[str, int]) -> None:
    ((name, number),) = stamp.items()
    with pytest.raises(ValueError, match=f"cannot be sent: {name} {number}$"):
        codec.encode_signal(plain(kind, **stamp), member=ME)


@pytest.mark.parametrize("stamp", [{"round": 2**64 - 1}, {"attempt": 2**32 - 1}], ids=str)
def test_a_round_or_attempt_that_cannot_be_is_refused(stamp: dict[str, Any]) -> None:
    """It would count as newer than whatever is to come."""
    frame = signaling_pb2.SignalFrame(session="s", member="n-0", incarnation=1, **stamp)
    frame.peer_is_ready.SetInParent()
    with pytest.raises(PeerFault, match="round or attempt beyond the limits"):
        codec.decode_signal(frame.SerializeToString())
    envelope = peer_pb2.Envelope(
        session=ME.session, sender=ME.member, incarnation=ME.incarnation, kind="k", **stamp
    )
    header = envelope.SerializeToString()
    with pytest.raises(PeerFault, match="round or attempt beyond the limits"):
        decode_message(len(header).to_bytes(4, "little") + header)


@pytest.mark.parametrize("held", [-2, codec.MAX_ROUND + 1])
def test_an_impossible_count_of_rounds_is_refused(held: int) -> None:
    frame = signaling_pb2.SignalFrame(session="s", member="n-0", incarnation=1)
    frame.sync_done.held = held
    with pytest.raises(PeerFault, match="count of rounds"):
        codec.decode_signal(frame.SerializeToString())


def test_a_signal_with_a_number_that_is_none_is_refused() -> None:
    beat = signals.Heartbeat(phase="running", ended=1, accuracy=float("nan"))
    with pytest.raises(PeerFault, match="not finite"):
        codec.decode_signal(codec.encode_signal(beat, member=ME))


def test_a_reason_of_any_length_can_be_given() -> None:
    leave = signals.Leave(error="x" * 100_000)
    _, back = codec.decode_signal(codec.encode_signal(leave, member=ME))
    assert isinstance(back, signals.Leave)
    assert back.error is not None
    assert len(back.error) == codec.MAX_REASON


def test_texts_and_lists_of_a_signal_are_limited() -> None:
    frame = signaling_pb2.SignalFrame(session="s", member="n-0", incarnation=1)
    frame.leave.error = "x" * (codec.MAX_REASON + 1)
    with pytest.raises(PeerFault, match="text in a signal"):
        codec.decode_signal(frame.SerializeToString())
    frame.connections_ready.failed.extend(["n"] * (codec.MAX_MANY + 1))
    with pytest.raises(PeerFault, match="list in a signal"):
        codec.decode_signal(frame.SerializeToString())
    frame.connections_ready.failed[:] = ["n" * (codec.MAX_NAME + 1)]
    with pytest.raises(PeerFault, match="names beyond"):
        codec.decode_signal(frame.SerializeToString())


def test_a_large_signal_is_refused_at_both_ends() -> None:
    with pytest.raises(ValueError, match="Hello"):
        codec.encode_signal(Hello(emulator="netem", applied="x" * 2**22), member=ME)
    with pytest.raises(PeerFault, match="too large"):
        codec.decode_signal(bytes(2**22))


# --- chunks to messages


@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_chunks_of_several_messages_interleave(bodies: list[bytes], size: int, random: Any) -> None:
    queues = {
        number: [
            Chunk(message=number, offset=at, total=len(body), payload=body[at : at + size])
            for at in range(0, len(body), size)
        ]
        for number, body in enumerate(bodies)
    }
    assembler = Assembler()
    done = {}
    while queues:
        number = random.choice(sorted(queues))
        whole = assembler.take(queues[number].pop(0))
        if whole is not None:
            done[number] = bytes(whole)
        if not queues[number]:
            del queues[number]
    assert done == dict(enumerate(bodies))


def chunk(message: int = 1, offset: int = 0, total: int = 10, payload: bytes = b"12345") -> Chunk:
    return Chunk(message=message, offset=offset, total=total, payload=payload)


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(offset=4),
        chunk(offset=6),
        chunk(offset=5, total=11),
        chunk(offset=5, payload=b"123456"),
        chunk(offset=5, payload=b""),
        chunk(message=2, offset=5),
        chunk(message=2, total=101),
        chunk(message=2, total=0, payload=b""),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(wrong: Chunk) -> None:
    assembler = Assembler(limit=100)
    assembler.take(chunk())
    with pytest.raises(PeerFault):
        assembler.take(wrong)
    assert assembler.take(chunk(message=9, total=5)) == b"12345", "the others do not suffer"


def test_only_a_few_messages_may_be_open() -> None:
    assembler = Assembler()
    for message in range(8):
        assembler.take(chunk(message=message))
    with pytest.raises(PeerFault, match="too many"):
        assembler.take(chunk(message=8))
    assembler.forget(0)
    assembler.take(chunk(message=8))


def test_ballast_and_what_lost_something_give_no_message() -> None:
    assembler = Assembler()
    filler = Chunk(message=1, offset=0, total=5, payload=b"12345", filler=True)
    assert assembler.take(filler) is None
    assert assembler.take(chunk()) is None
    assert assembler.take(Chunk(message=1, offset=5, total=10, lost=5)) is None
    assert assembler.take(chunk(total=5)) == b"12345"


# --- generated code


def test_generated_code_is_of_these_schemas(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts/generate-proto", tmp_path],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        timeout=60,
    )
    committed = ROOT / "node/wire/generated"
    fresh = {path.name: path.read_text() for path in tmp_path.glob("*.py*")}
    kept = {path.name: path.read_text() for path in committed.glob("*.py*")}
    assert fresh == kept, "run scripts/generate-proto"
