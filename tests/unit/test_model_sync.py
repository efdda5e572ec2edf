"""The transfer of a model to a newcomer: whole or not at all, whatever the wire does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.effects import (
    CancelTimer,
    Effect,
    KeepConnected,
    Record,
    Send,
    SetTimer,
    TakeSnapshot,
)
from node.core.events import ModelSnapshot
from node.core.ids import NodeId
from node.core.messages import PeerMessage, Scalar
from node.core.model_sync import (
    ANSWER,
    CHUNK,
    IDLE,
    PREFIX,
    REQUEST,
    STALL,
    WINDOW,
    Fetch,
    Serve,
    digest,
)
from node.core.parts import Part, Span, Vector
from node.units import SECOND

NEW, OTHER, PROVIDER = NodeId("new"), NodeId("other"), NodeId("provider")
STALL_NS, PATIENCE_NS, IDLE_NS = 10 * SECOND, 70 * SECOND, 30 * SECOND
SIZE = 3 * CHUNK + 5


def a_model(size: int = SIZE, *, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def fetch(size: int = SIZE) -> Fetch:
    return Fetch(size=size, stall_ns=STALL_NS, patience_ns=PATIENCE_NS)


def serving(model: Vector, *, sync: int = 1, newcomer: NodeId = NEW, held: int = 7) -> Serve:
    serve = Serve(idle_ns=IDLE_NS)
    serve.expect(sync, newcomer, now=0)
    serve.snapshots()
    serve.snapshot(ModelSnapshot(sync=sync, held=held, parameters=model), now=0)
    return serve


def messages(effects: list[Effect]) -> list[PeerMessage]:
    return [e.message for e in effects if isinstance(e, Send)]  # type: ignore[misc]


def refusals(effects: list[Effect]) -> list[str]:
    records = [e for e in effects if isinstance(e, Record) and e.kind == "refused"]
    return [str(record.fields["reason"]) for record in records]


def exchange(newcomer: Fetch, provider: Serve, wire: list[PeerMessage], *, now: int = 1) -> int:
    """Carry messages to and fro until none is left; how many answers there were."""
    answers = 0
    while wire:
        message = wire.pop(0)
        if message.kind == REQUEST:
            wire += messages(provider.take(NEW, message, now=now))
        else:
            answers += 1
            wire += messages(newcomer.take(PROVIDER, message, now=now))
    return answers


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 3])
def test_a_model_comes_whole_with_its_age(size: int) -> None:
    model, newcomer = a_model(size), fetch(size)
    effects = newcomer.begin(1, PROVIDER, now=0)
    assert KeepConnected(peer=PROVIDER) in effects
    requests = messages(effects)
    assert len(requests) == min(WINDOW, -(-size // CHUNK))
    answers = exchange(newcomer, serving(model), requests)
    assert answers == -(-size // CHUNK)
    assert newcomer.fetched is not None
    assert (newcomer.fetched.sync, newcomer.fetched.held) == (1, 7)
    assert newcomer.fetched.parameters.tobytes() == model.tobytes()
    assert not newcomer.fetched.parameters.flags.writeable


def test_requests_and_answers_supersede_themselves_in_the_queue() -> None:
    newcomer = fetch()
    sent = [e for e in newcomer.begin(4, PROVIDER, now=0) if isinstance(e, Send)]
    assert [(s.key, s.supersedes) for s in sent] == [
        (f"{PREFIX}4/{offset}", True) for offset in range(0, SIZE, CHUNK)
    ]
    (answer,) = serving(a_model(), sync=4).take(NEW, sent[1].message, now=1)  # type: ignore[arg-type]
    assert isinstance(answer, Send)
    assert (answer.key, answer.supersedes) == (f"{PREFIX}4/{CHUNK}", True)


def test_after_a_broken_stream_it_asks_on_from_where_it_stood() -> None:
    size = 30 * CHUNK
    model, newcomer = a_model(size), fetch(size)
    provider = serving(model)
    requests = messages(newcomer.begin(1, PROVIDER, now=0))
    first = messages(provider.take(NEW, requests[0], now=1))[0]
    newcomer.take(PROVIDER, first, now=1)
    # The rest is lost with the stream.
    assert newcomer.connected(OTHER, now=2) == []
    again = messages(newcomer.connected(PROVIDER, now=2))
    offsets = [int(m.fields["offset"]) for m in again]
    assert offsets == [n * CHUNK for n in range(1, WINDOW + 1)]
    answers = exchange(newcomer, provider, again, now=3)
    assert answers == 29
    assert newcomer.fetched is not None


def test_another_sync_with_the_same_model_goes_on_where_the_last_stood() -> None:
    model, newcomer = a_model(), fetch()
    requests = messages(newcomer.begin(1, PROVIDER, now=0))
    first = messages(serving(model).take(NEW, requests[0], now=1))[0]
    newcomer.take(PROVIDER, first, now=1)
    again = messages(newcomer.begin(2, PROVIDER, now=2))
    assert [m.fields["offset"] for m in again] == [CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert exchange(newcomer, serving(model, sync=2), again) == 3
    assert newcomer.fetched is not None
    assert newcomer.fetched.parameters.tobytes() == model.tobytes()


def test_values_of_two_models_are_never_mixed() -> None:
    old, new, newcomer = a_model(seed=1), a_model(seed=2), fetch()
    requests = messages(newcomer.begin(1, PROVIDER, now=0))
    first = messages(serving(old).take(NEW, requests[0], now=1))[0]
    newcomer.take(PROVIDER, first, now=1)
    exchange(newcomer, serving(new, held=8), requests[1:], now=2)
    assert newcomer.fetched is not None
    assert newcomer.fetched.parameters.tobytes() == new.tobytes()
    assert newcomer.fetched.held == 8


def test_a_provider_that_changes_its_model_again_and_again_is_given_up() -> None:
    newcomer = fetch()
    newcomer.begin(1, PROVIDER, now=0)
    for seed in range(9):
        if newcomer.failure is not None:
            break
        request = PeerMessage(
            kind=REQUEST, round=0, fields={"sync": 1, "offset": CHUNK, "count": CHUNK}
        )
        (answer,) = messages(serving(a_model(seed=seed)).take(NEW, request, now=1))
        newcomer.take(PROVIDER, answer, now=1)
    assert newcomer.failure == "provider changed its model again and again"


def test_a_model_that_is_not_what_its_hash_says_is_not_taken() -> None:
    model, newcomer = a_model(), fetch()
    requests = messages(newcomer.begin(1, PROVIDER, now=0))
    provider = serving(model)
    for request in requests:
        (answer,) = messages(provider.take(NEW, request, now=1))
        assert answer.part is not None
        values = answer.part.values.copy()
        values[0] += 1
        part = Part(where=answer.part.where, values=values)
        newcomer.take(PROVIDER, replace(answer, part=part), now=1)
    assert newcomer.fetched is None
    assert newcomer.failure == "the model that came from provider is not what its hash says"


def test_silence_is_answered_by_asking_again_then_by_giving_up() -> None:
    """D9: a dead provider is replaced."""
    newcomer = fetch()
    effects = newcomer.begin(1, PROVIDER, now=0)
    asked = 0
    now = 0
    while newcomer.failure is None:
        (timer,) = [e for e in effects if isinstance(e, SetTimer)]
        assert timer.key == STALL
        now = timer.at
        effects = newcomer.timer(now=now)
        asked += bool(messages(effects))
    assert asked == 3
    assert now == STALL_NS
    assert newcomer.failure == "nothing came from provider for 10s"
    assert CancelTimer(key=STALL) in effects
    assert newcomer.timer(now=now + 1) == []


def test_a_provider_that_says_it_is_not_ready_yet_has_more_time_but_not_for_ever() -> None:
    newcomer = fetch()
    newcomer.begin(1, PROVIDER, now=0)
    busy = PeerMessage(kind=ANSWER, round=0, fields={"sync": 1, "offset": 0})
    now = 0
    while newcomer.failure is None:
        now += STALL_NS // 4
        newcomer.take(PROVIDER, busy, now=now)
        newcomer.timer(now=now)
        assert now <= PATIENCE_NS + STALL_NS
    assert now >= PATIENCE_NS


def test_a_newcomer_without_a_layout_fails_with_a_reason() -> None:
    newcomer = fetch(0)
    newcomer.begin(1, PROVIDER, now=0)
    assert newcomer.failure == "this node does not know the size of its model"


GOOD: dict[str, Scalar] = {"sync": 1, "sha256": "0" * 64, "offset": 0, "total": SIZE, "held": 3}


@pytest.mark.parametrize(
    ("fields", "span", "values", "reason"),
    [
        ({"sha256": "short"}, Span(0, CHUNK), CHUNK, "hash 'short'"),
        ({"sha256": 7}, Span(0, CHUNK), CHUNK, "hash '7'"),
        ({"held": -1}, Span(0, CHUNK), CHUNK, "-1 rounds old"),
        ({"held": "x"}, Span(0, CHUNK), CHUNK, "'x' rounds old"),
        ({"total": 10**15}, Span(0, CHUNK), CHUNK, f"instead of {SIZE}"),
        ({}, Span(1, CHUNK + 1), CHUNK, "not asked for"),
        ({}, Span(-CHUNK, 0), CHUNK, "not asked for"),
        ({}, Span(4 * CHUNK, 5 * CHUNK), CHUNK, "not asked for"),
        ({}, Span(0, 2 * CHUNK), 2 * CHUNK, f"instead of {CHUNK}"),
        ({}, Span(0, CHUNK), CHUNK - 1, f"instead of {CHUNK}"),
        ({}, Span(3 * CHUNK, 4 * CHUNK), CHUNK, "instead of 5"),
    ],
)
def test_answers_beyond_the_layout_are_refused(
    fields: dict[str, Scalar], span: Span, values: int, reason: str
) -> None:
    newcomer = fetch()
    newcomer.begin(1, PROVIDER, now=0)
    part = Part(where=span, values=np.zeros(values, dtype=np.float32))
    message = PeerMessage(kind=ANSWER, round=0, part=part, fields=GOOD | fields)
    (refused,) = refusals(newcomer.take(PROVIDER, message, now=1))
    assert reason in refused
    exchange(newcomer, serving(a_model()), messages(newcomer.connected(PROVIDER, now=1)))
    assert newcomer.fetched is not None


def test_values_that_are_not_finite_are_refused() -> None:
    newcomer = fetch()
    newcomer.begin(1, PROVIDER, now=0)
    values = np.full(CHUNK, np.nan, dtype=np.float32)
    message = PeerMessage(
        kind=ANSWER, round=0, part=Part(where=Span(0, CHUNK), values=values), fields=GOOD
    )
    assert refusals(newcomer.take(PROVIDER, message, now=1)) == [
        "a model with values that are not finite"
    ]


def test_only_the_provider_of_the_present_sync_is_listened_to() -> None:
    newcomer = fetch()
    requests = messages(newcomer.begin(2, PROVIDER, now=0))
    (answer,) = messages(serving(a_model(), sync=2).take(NEW, requests[0], now=1))
    assert newcomer.take(OTHER, answer, now=1) == []
    old = replace(answer, fields={**answer.fields, "sync": 1})
    assert newcomer.take(PROVIDER, old, now=1) == []
    assert not newcomer.take(PROVIDER, answer, now=1)  # the window is not full: all was asked


# --- the provider


def request(offset: int, count: Scalar = CHUNK, sync: Scalar = 1) -> PeerMessage:
    fields: dict[str, Scalar] = {"sync": sync, "offset": offset, "count": count}
    return PeerMessage(kind=REQUEST, round=0, fields=fields)


@pytest.mark.parametrize(
    "wrong",
    [
        request(-CHUNK),
        request(1),
        request(0, 0),
        request(0, CHUNK + 1),
        request(3 * CHUNK),
        request(10**15 * CHUNK),
        request(0, "all"),
        request(0, CHUNK, "1"),
        PeerMessage(kind=REQUEST, round=0),
    ],
)
def test_requests_beyond_the_model_are_refused(wrong: PeerMessage) -> None:
    effects = serving(a_model()).take(NEW, wrong, now=1)
    assert len(refusals(effects)) == 1
    assert not messages(effects)


def test_while_it_shares_the_provider_says_that_it_lives_then_answers_what_was_asked() -> None:
    serve = Serve(idle_ns=IDLE_NS)
    assert KeepConnected(peer=NEW) in serve.expect(1, NEW, now=0)
    (busy,) = messages(serve.take(NEW, request(0), now=1))
    assert busy.part is None
    assert serve.snapshots() == [TakeSnapshot(sync=1)]
    assert serve.snapshots() == []
    model = a_model()
    answers = messages(serve.snapshot(ModelSnapshot(sync=1, held=7, parameters=model), now=2))
    assert [m.part.where for m in answers if m.part] == [Span(0, CHUNK)]


def test_a_request_that_overtakes_the_order_is_answered_after_it() -> None:
    serve = Serve(idle_ns=IDLE_NS)
    assert serve.take(NEW, request(0, sync=3), now=0) == []
    serve.expect(3, NEW, now=1)
    serve.snapshots()
    answers = messages(serve.snapshot(ModelSnapshot(sync=3, held=1, parameters=a_model()), now=2))
    assert len(answers) == 1


def test_what_is_kept_for_later_is_bounded() -> None:
    serve = Serve(idle_ns=IDLE_NS)
    for n in range(1000):
        serve.take(NEW, request(n * CHUNK, sync=n % 7), now=0)
    serve.expect(6, NEW, now=1)
    for n in range(1000):
        serve.take(NEW, request(n * CHUNK, sync=6), now=1)
    model = a_model(1000 * CHUNK)
    answers = messages(serve.snapshot(ModelSnapshot(sync=6, held=1, parameters=model), now=2))
    assert len(answers) <= WINDOW


def test_without_a_model_the_newcomer_is_forgotten() -> None:
    serve = Serve(idle_ns=IDLE_NS)
    serve.expect(1, NEW, now=0)
    serve.snapshots()
    assert serve.snapshot(ModelSnapshot(sync=1, held=0, parameters=None), now=0) == []
    assert not messages(serve.take(NEW, request(0), now=1))


def test_several_newcomers_get_each_their_snapshot() -> None:
    """T11: two newcomers, one provider."""
    serve = Serve(idle_ns=IDLE_NS)
    models = {NEW: a_model(seed=1), OTHER: a_model(seed=2)}
    for sync, newcomer in enumerate((NEW, OTHER), start=1):
        serve.expect(sync, newcomer, now=0)
        assert serve.snapshots() == [TakeSnapshot(sync=sync)]
        snapshot = ModelSnapshot(sync=sync, held=sync, parameters=models[newcomer])
        serve.snapshot(snapshot, now=0)
    for sync, newcomer in enumerate((NEW, OTHER), start=1):
        (answer,) = messages(serve.take(newcomer, request(0, sync=sync), now=1))
        assert answer.fields["sha256"] == digest(models[newcomer])


def test_who_asks_for_nothing_any_more_is_forgotten() -> None:
    serve = serving(a_model())
    serve.take(NEW, request(0), now=20 * SECOND)
    (timer,) = serve.timer(now=IDLE_NS)
    assert timer == SetTimer(key=IDLE, at=50 * SECOND)
    assert messages(serve.take(NEW, request(CHUNK), now=40 * SECOND))
    (timer,) = serve.timer(now=50 * SECOND)
    assert serve.timer(now=70 * SECOND) == []
    assert not messages(serve.take(NEW, request(0), now=71 * SECOND))


def test_the_digest_is_of_little_endian_float32() -> None:
    import hashlib

    expected = hashlib.sha256(bytes.fromhex("0000803f000000c0")).hexdigest()
    assert digest(np.array([1.0, -2.0], dtype=np.float32)) == expected


# --- a wire that loses, doubles and reorders


@settings(max_examples=60)
@given(
    st.integers(1, 12 * CHUNK),
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 0.6),
)
def test_over_any_wire_the_model_is_whole_or_the_sync_fails(
    size: int, seed: int, bad: float
) -> None:
    rng = np.random.default_rng(seed)
    model, newcomer = a_model(size), fetch(size)
    provider = serving(model)
    now = 0
    wire = messages(newcomer.begin(1, PROVIDER, now=now))
    while newcomer.fetched is None and newcomer.failure is None:
        if not wire:
            now += STALL_NS // 4
            wire += messages(newcomer.timer(now=now))
            continue
        message = wire.pop(int(rng.integers(len(wire))))
        fate = rng.random()
        if fate < bad / 2:
            continue
        if fate < bad:
            wire.append(message)
        if message.kind == REQUEST:
            wire += messages(provider.take(NEW, message, now=now))
        else:
            wire += messages(newcomer.take(PROVIDER, message, now=now))
        if rng.random() < 0.02:
            wire.clear()  # the stream breaks
            wire += messages(newcomer.connected(PROVIDER, now=now))
    if newcomer.fetched is not None:
        assert newcomer.fetched.parameters.tobytes() == model.tobytes()
    else:
        assert bad > 0  # on a wire that loses nothing it must succeed
