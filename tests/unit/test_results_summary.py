"""summary.json from records: field names of the design, and numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.history import Event
from deploy.summary import first_time, mean_over_time, summarise
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
        "delivered": 1800, "received": 1900, "sync": 40,
    }  # fmt: skip
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
    assert summary["duration_s"] is None
    assert set(summary["time_to_accuracy"].values()) == {None}


def test_one_node_without_counters_makes_the_sum_unknown() -> None:
    history = good_history()
    silent = [e for e in history.nodes["n-1"] if e["kind"] != "bytes"]
    nodes = {"n-0": history.nodes["n-0"], "n-1": silent}
    summary = summarise(changed(history, nodes=nodes))
    assert summary["nodes"]["n-0"]["bytes"]["model"] == 1000
    assert summary["bytes"]["model"] is None


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
    for kind in ("round", "evaluation", "bytes", "aggregate", "finish"):
        odd = {**fields, "kind": kind}
        nodes = {name: [*node_events(name), odd] for name in NAMES}
        summarise(changed(good_history(), nodes=nodes))
