"""What is counted in a run and how: histograms, counters by kind, consensus distance, idle time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import StopConfig
from node.core.algorithm import Context
from node.core.consensus import merge
from node.core.effects import Effect, Record
from node.core.events import (
    Event,
    Failed,
    ModelAdopted,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.histogram import Histogram
from node.core.ids import NodeId
from node.core.parts import Layout, Vector
from node.core.peer import Peer, PeerSetting
from node.core.traffic import Traffic
from node.units import MILLISECOND, SECOND
from tests.unit.test_peer import Probe

DURATIONS = st.lists(st.integers(0, 3600 * SECOND), min_size=1, max_size=60)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(DURATIONS, st.floats(0.01, 1))
def test_a_quantile_is_as_exact_as_it_says(values: list[int], share: float) -> None:
    exact = sorted(values)[int(np.ceil(share * len(values) - 1e-9)) - 1]
    told = filled(values).quantile(share)
    assert told is not None
    assert abs(told - exact) <= exact / 32 + 1000, "1/32, and a bucket is a microsecond at least"
    assert told <= max(values)


@given(DURATIONS, DURATIONS)
def test_histograms_add_up(one: list[int], other: list[int]) -> None:
    both = filled(one)
    both.merge(filled(other))
    assert both == filled(one + other)


@given(DURATIONS)
def test_a_histogram_survives_its_record(values: list[int]) -> None:
    whole = filled(values)
    read = Histogram.of(json.loads(json.dumps(whole.record())))
    assert read.buckets == whole.buckets
    assert read.count == len(values)
    assert read.quantile(0.5) == pytest.approx(whole.quantile(0.5), abs=1000)
    assert read.steps()[-1][1] == 1


@pytest.mark.parametrize(
    "record",
    [{}, {"buckets": [[1, 2, 3]]}, {"buckets": [[33, 1]], "mean_ms": 1, "max_ms": 1},
     {"buckets": 3}, {"buckets": [["a", 1]]}, {"buckets": [[1, 1]]}],
)  # fmt: skip
def test_what_is_no_histogram_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Histogram.of(record)


def test_an_empty_histogram_knows_nothing() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().record()["mean_ms"] is None
    assert Histogram.of(Histogram().record()) == Histogram()


def test_counters_by_kind_add_up_to_the_totals() -> None:
    traffic = Traffic()
    traffic.count_sent("pull", 0)
    traffic.count_sent("model", 30)
    traffic.count_sent("fragment", 10)
    traffic.count_delivered("model", 30, latency=5 * MILLISECOND, queued=2 * MILLISECOND)
    traffic.count_cancelled("fragment", 6)
    traffic.of("fragment").lost += 4
    assert (traffic.model_sent, traffic.model_delivered, traffic.cancelled) == (40, 30, 6)
    assert traffic.kinds_record() == {
        "fragment": {"sent": 10, "delivered": 0, "cancelled": 6, "lost": 4},
        "model": {"sent": 30, "delivered": 30, "cancelled": 0, "lost": 0},
        "pull": {"sent": 0, "delivered": 0, "cancelled": 0, "lost": 0},
    }
    (latency,) = traffic.latency_records()
    assert (latency["message"], latency["count"], latency["mean_ms"]) == ("model", 1, 5.0)
    traffic.reset()
    assert traffic == Traffic()


def test_consensus_is_the_root_of_the_mean_square_from_the_mean() -> None:
    rng = np.random.default_rng(3)
    models = [rng.standard_normal(500).astype(np.float32) for _ in range(7)]
    merged = merge(models)
    stacked = np.stack(models).astype(np.float64)
    away = stacked - stacked.mean(axis=0)
    assert merged.distance == pytest.approx(np.sqrt((away**2).sum(axis=1).mean()))
    np.testing.assert_allclose(merged.parameters, stacked.mean(axis=0), atol=1e-6)
    assert merge([models[0]] * 3).distance == 0
    for bad in ([], [models[0], models[0][:10]]):
        with pytest.raises(ValueError, match="model"):
            merge(bad)


# Idle time ---------------------------------------------------------------------------------------


class Lazy(Probe):
    """Rests for half a second before each job."""

    def on_start(self, ctx: Context) -> None:
        ctx.set_timer("rested", after=SECOND // 2)

    def on_trained(self, ctx: Context, parameters: Vector, loss: float) -> None:
        ctx.set_timer("rested", after=SECOND // 2)

    def on_timer(self, ctx: Context, key: str) -> None:
        ctx.train(steps=1)


def steps(*events: tuple[float, Event], algorithm: Probe | None = None) -> list[Effect]:
    """Feed a peer that, if not told otherwise, always trains; times in s. Returns the last step's
    effects."""
    layout = Layout.of({"w": (4,)})
    setting = PeerSetting(
        me=NodeId("me"),
        peers=(NodeId("other"),),
        members=2,
        seed=1,
        layout=layout,
        stop=StopConfig(time_ns=100 * SECOND, rounds=None),
    )
    peer = Peer(
        setting=setting, algorithm=algorithm or Probe(), initial=np.zeros(4, dtype=np.float32)
    )
    effects: list[Effect] = []
    for at, event in events:
        effects = peer.step(event, now=round(at * SECOND))
    return effects


def trained(job: int) -> Trained:
    return Trained(job=job, parameters=np.zeros(4, dtype=np.float32), loss=0.5, steps=1)


def idle(effects: list[Effect]) -> float:
    (found,) = [e for e in effects if isinstance(e, Record) and e.kind == "idle"]
    seconds = found.fields["seconds"]
    assert isinstance(seconds, float)
    return seconds


STOP = StopRequested(reason="time")


def test_a_trainer_that_always_has_a_job_is_never_idle() -> None:
    assert idle(steps((0, Started()), (1, trained(1)), (2, trained(2)), (2.5, STOP))) == 0


def test_idle_is_what_lies_between_the_jobs_and_after_the_last() -> None:
    rested = TimerFired(key="algorithm/rested")
    events: list[tuple[float, Event]] = [
        (1, Started()),
        (1.5, rested),
        (3, trained(1)),
        (3.5, rested),
        (5, trained(2)),
    ]
    assert idle(steps(*events, (5.25, STOP), algorithm=Lazy())) == 0.5 + 0.5 + 0.25
    assert idle(steps(*events[:4], (5, STOP), algorithm=Lazy())) == 0.5 + 0.5
    broken = steps(*events, (6, Failed(reason="out of order")), algorithm=Lazy())
    assert idle(broken) == 0.5 + 0.5 + 1


def test_a_trainer_that_must_finish_a_job_that_was_given_up_is_not_idle() -> None:
    """Somebody else's model is adopted at 1 s; the old job ends at 3 s and the new one begins."""
    adopted = ModelAdopted(round=4, parameters=np.ones(4, dtype=np.float32))
    assert idle(steps((0, Started()), (1, adopted), (3, trained(1)), (4, STOP))) == 0
