"""summary.json from records: field names of the design, and numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.curves import first_time, mean_over_time
from deploy.history import Event
from deploy.summary import ended_rounds, summarise
from node.core.traffic import Traffic
from node.units import MILLISECOND
from tests.unit.runs import NAMES, changed, event, good_history, node_events


def test_fields_that_scripts_rely_on() -> None:
    summary = summarise(good_history())
    json.dumps(summary, allow_nan=False)
    assert summary["backend"] == "local"
    assert summary["emulator"] == "application"
    assert summary["algorithm"] == "divshare"
    assert summary["seed"] == 1
    assert summary["stop"] == "rounds"
    assert summary["duration_s"] == 2.6
    assert summary["rounds"] == 2
    assert summary["accuracy"] == {"mean": 0.9, "min": 0.9, "max": 0.9, "merged": 0.95}
    assert summary["loss"]["mean"] == 0.5
    assert summary["bytes"] == {
        "model": 2000, "control": 100, "cancelled": 200, "wire": 2400,
        "delivered": 1800, "received": 1900, "sync": 40, "lost": 14,
        "kinds": {"fragment": {"sent": 2000, "delivered": 1800, "cancelled": 200, "lost": 14}},
    }  # fmt: skip
    assert summary["consensus"] == {"distance": 1.5}
    assert summary["idle_s"] == {"mean": 0.25, "min": 0.25, "max": 0.25}
    assert summary["coverage"]["mean"] == 0.5
    assert summary["staleness"] == {"mean": 1.5, "min": 1.5, "max": 2.0}
    assert set(summary["nodes"]) == set(NAMES)
    node = summary["nodes"]["n-0"]
    assert node["stop"] == "rounds"
    assert node["exit_status"] == 0
    assert node["staleness"] == {"mean": 1.5, "max": 2.0}


def test_time_to_accuracy_is_of_the_mean_once_all_were_evaluated() -> None:
    nodes = {"n-0": node_events("n-0"), "n-1": node_events("n-1", start=10.0)}
    summary = summarise(changed(good_history(), nodes=nodes))
    times = summary["time_to_accuracy"]
    # n-0 has 0.9 from 2.2 s on, but n-1 is first evaluated at 10.1 s: mean (0.9 + 0.1) / 2.
    assert times["0.5"] == pytest.approx(10.1)
    assert times["0.8"] == pytest.approx(12.2)
    assert times["0.9"] == pytest.approx(12.2)
    assert times["0.95"] is None


def test_the_runs_own_target_is_told_too() -> None:
    from tests.unit.runs import plan

    summary = summarise(changed(good_history(), plan=plan(stop__accuracy="70%")))
    assert summary["time_to_accuracy"]["0.7"] == pytest.approx(2.2)


def test_what_was_not_recorded_is_null_and_never_zero() -> None:
    history = changed(good_history(), nodes=dict.fromkeys(NAMES, ()), coordinator=())
    summary = summarise(history)
    assert summary["accuracy"] == {"mean": None, "min": None, "max": None, "merged": None}
    assert set(summary["bytes"].values()) == {None}
    assert summary["consensus"] == {"distance": None}
    assert set(summary["idle_s"].values()) == {None}
    assert set(summary["coverage"].values()) == {None}
    assert summary["latency"] == {}
    assert set(summary["time_to_accuracy_merged"].values()) == {None}
    assert summary["duration_s"] is None
    assert set(summary["time_to_accuracy"].values()) == {None}


def test_a_node_that_trains_nothing_counts_its_rounds_by_evaluations() -> None:
    """A server of FedAvg."""
    idle = [e for e in good_history().nodes["n-0"] if e["kind"] != "round"]
    assert ended_rounds(idle) == 2
    assert ended_rounds([e for e in idle if e["kind"] != "evaluation"]) == 0


def test_one_node_without_counters_makes_the_sum_unknown() -> None:
    history = good_history()
    silent = [e for e in history.nodes["n-1"] if e["kind"] != "bytes"]
    nodes = {"n-0": history.nodes["n-0"], "n-1": silent}
    summary = summarise(changed(history, nodes=nodes))
    assert summary["nodes"]["n-0"]["bytes"]["model"] == 1000
    assert summary["bytes"]["model"] is None


def test_idle_time_is_of_all_lives_or_unknown() -> None:
    """A life that was killed could not tell."""
    history = good_history()
    both = [event("n-0", "start", 0.0, at_wall=1.0), *history.nodes["n-0"]]
    both += [event("n-0", "start", 2.5, at_wall=1.0), event("n-0", "idle", 4.0, seconds=1.0)]
    killed = [*history.nodes["n-1"], *(event("n-1", "start", t, at_wall=1.0) for t in (0.0, 3.0))]
    summary = summarise(changed(history, nodes={"n-0": both, "n-1": killed}))
    assert summary["nodes"]["n-0"]["idle_s"] == 1.25
    assert summary["nodes"]["n-1"]["idle_s"] is None


def test_the_oldest_fragment_is_told_apart_from_the_oldest_mean() -> None:
    history = good_history()
    old = event("n-1", "aggregate", 2.1, round=2, age_mean=1.0, age_max=9)
    nodes = {**history.nodes, "n-1": [*history.nodes["n-1"], old]}
    assert summarise(changed(history, nodes=nodes))["staleness"]["max"] == 9


def test_the_merged_models_times_come_from_what_was_recorded_during_the_run() -> None:
    history = good_history()
    curve = [(1.0, 0.4), (2.0, 0.85), (3.0, 0.8)]
    told = [event("coordinator", "consensus", t, accuracy=a, distance=1.0) for t, a in curve]
    summary = summarise(changed(history, coordinator=[*history.coordinator, *told]))
    times = summary["time_to_accuracy_merged"]
    assert times == {"0.5": 2.0, "0.8": 2.0, "0.9": None, "0.95": None}


def test_latencies_of_all_nodes_are_one_distribution() -> None:
    history = good_history()
    nodes = {}
    for name, ms in ((NAMES[0], 10), (NAMES[1], 30)):
        traffic = Traffic()
        for _ in range(50):
            traffic.count_delivered(
                "fragment", 4, latency=ms * MILLISECOND, queued=ms * MILLISECOND // 2
            )
        (record,) = traffic.latency_records()
        nodes[name] = [*history.nodes[name], event(name, "latency", 3.0, **record)]
    nodes[NAMES[0]].append(event(NAMES[0], "latency", 3.0, message="odd", buckets=[[1, "x"]]))
    latency = summarise(changed(history, nodes=nodes))["latency"]
    assert list(latency) == ["fragment"]
    assert latency["fragment"]["count"] == 100
    assert latency["fragment"]["mean_ms"] == 20
    assert latency["fragment"]["p50_ms"] == pytest.approx(10, rel=1 / 16)
    assert latency["fragment"]["p90_ms"] == pytest.approx(30, rel=1 / 16)
    assert latency["fragment"]["max_ms"] == 30
    assert latency["fragment"]["queued"]["mean_ms"] == 10


def test_equal_accuracies_have_exactly_that_mean() -> None:
    """Or a target that all nodes have reached would not be."""
    nodes = {f"n-{i}": [event(f"n-{i}", "evaluation", 1.0, accuracy=0.9)] for i in range(3)}
    assert first_time(mean_over_time(nodes), 0.9) == 1.0


def test_evaluations_of_one_instant_are_one_point() -> None:
    """Or a part of the nodes could reach a target that their mean never does."""
    told = {"a": [(1.0, 0.5), (2.0, 1.0)], "b": [(1.0, 0.5), (2.0, 0.25)]}
    nodes = {
        name: [event(name, "evaluation", t, accuracy=accuracy) for t, accuracy in points]
        for name, points in told.items()
    }
    assert mean_over_time(nodes) == [(1.0, 0.5), (2.0, 0.625)]
    assert first_time(mean_over_time(nodes), 0.7) is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.floats(0, 100, allow_nan=False),
            st.floats(0, 1, allow_nan=False),
        ),
        max_size=40,
    )
)
def test_the_mean_lies_within_what_the_nodes_had(points: list[tuple[str, float, float]]) -> None:
    nodes: dict[str, list[Event]] = {"a": [], "b": [], "c": []}
    for name, t, accuracy in points:
        nodes[name].append(event(name, "evaluation", t, accuracy=accuracy))
    mean = mean_over_time(nodes)
    values = [accuracy for _, _, accuracy in points]
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for _, value in mean)
    assert [t for t, _ in mean] == sorted(t for t, _ in mean)
    if not all(nodes.values()):
        assert mean == []
    assert first_time(mean, 2.0) is None


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(), st.integers())))
def test_any_record_is_survived(fields: dict[str, object]) -> None:
    for kind in ("round", "evaluation", "bytes", "aggregate", "finish", "idle", "latency"):
        odd = {**fields, "kind": kind}
        nodes = {name: [*node_events(name), odd] for name in NAMES}
        summarise(changed(good_history(), nodes=nodes))
