"""`deploy compare`: what differs, what is averaged, what is not compared, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.__main__ import main
from deploy.compare.analysis import Comparison, Run, compare, grouped
from deploy.compare.metrics import METRICS
from deploy.compare.settings import differences, plan_settings, text
from deploy.compare.tables import as_json
from deploy.plan import plan_json
from deploy.results import Results, RunFolder
from deploy.summary import summarise
from node.core.traffic import Traffic
from node.units import MILLISECOND
from tests.unit.runs import (
    NAMES,
    TOPOLOGY,
    changed,
    coordinator_events,
    event,
    good_history,
    plan,
    write_records,
)


def made(
    results: Path, run_id: str, *, seed: int = 1, end: float = 0.9, slower: float = 1.0, **sets: str
) -> RunFolder:
    """A run that has ended, with accuracies 0.1, 0.5 and `end` at 0.1, 1 and 2 `slower` seconds."""
    planned = plan(run_id=run_id, seed=str(seed), **sets)
    history = changed(good_history(), plan=planned, coordinator=coordinator_events())
    nodes = {}
    for name in NAMES:
        kept = [e for e in history.nodes[name] if e["kind"] != "evaluation"]
        curve = [(0.1, 0.1), (slower, 0.5), (2 * slower, end)]
        kept += [event(name, "evaluation", t, accuracy=a, loss=1 - a) for t, a in curve]
        traffic = Traffic()
        for number in range(10):
            wait = round((10 + number) * slower * MILLISECOND)
            traffic.count_delivered("fragment", 4, latency=wait, queued=wait // 2)
        kept += [event(name, "latency", 3.0, **record) for record in traffic.latency_records()]
        nodes[name] = kept
    history = changed(history, nodes=nodes)
    folder = Results(results).create(topology="pair", run_id=run_id)
    folder.write_text(folder.plan_file, plan_json(planned))
    folder.write_text(folder.topology_file, TOPOLOGY.decode())
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in sets.items()]
    folder.write_json(folder.manifest_file, {"overrides": overrides, "purpose": "train"})
    write_records(folder, history)
    folder.write_json(folder.summary_file, summarise(history))
    folder.write_json(folder.verdict_file, {"verdict": "valid", "reasons": []})
    return folder


def told(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> dict[str, Any]:
    assert main(["compare", *arguments, "--results", str(results), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def row(found: Mapping[str, Any], table: str, name: str) -> dict[str, Any]:
    (one,) = [entry for entry in found[table] if entry["name"] == name]
    return dict(one)


def test_two_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two", end=0.6, slower=3.0, algorithm__omega="0.5", network__link__rate="1mbit")
    found = told(capsys, tmp_path, "one", "two")
    assert [group["runs"] for group in found["groups"]] == [["pair/one"], ["pair/two"]]
    assert found["differences"] == {
        "algorithm.omega": ["0.1", "0.5"],
        "links": ["10mbit 5ms", "1mbit 5ms"],
    }
    accuracy = row(found, "metrics", "accuracy, mean")
    assert accuracy["mean"] == pytest.approx([0.9, 0.6])
    assert accuracy["ratio"] == pytest.approx([1, 2 / 3])
    assert row(found, "metrics", "consensus distance")["mean"] == [1.5, 1.5]
    assert row(found, "kinds", "fragment: lost")["mean"] == [14, 14]
    times = {(r["what"], r["target"]): r for r in found["time_to_reach"]}
    assert times["mean", 0.5]["mean"] == [1.0, 3.0]
    assert times["mean", 0.5]["ratio"] == [1.0, 3.0]
    assert times["mean", 0.8]["mean"] == [2.0, None]
    assert times["mean", 0.8]["ratio"] == [1.0, None]
    assert row(found, "latency", "fragment: p50")["ratio"][1] == pytest.approx(3, rel=0.1)
    curve = found["accuracy_over_time"]
    assert curve["t_s"][-1] <= 2.0, "as long as both curves are known"
    assert curve["mean"][0][-1] == 0.9
    assert curve["mean"][1][-1] == 0.1


def test_seeds_are_averaged_with_their_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, end in ((1, 0.8), (2, 0.9), (3, 1.0)):
        made(tmp_path, f"a{seed}", seed=seed, end=end)
    made(tmp_path, "b", algorithm__local_steps="4")
    found = told(capsys, tmp_path, "a1", "a2", "a3", "b")
    assert [group["seeds"] for group in found["groups"]] == [[1, 2, 3], [1]]
    accuracy = row(found, "metrics", "accuracy, mean")
    assert accuracy["mean"] == pytest.approx([0.9, 0.9])
    assert accuracy["spread"] == [pytest.approx(0.1), None]
    (at_90,) = [r for r in found["time_to_reach"] if (r["what"], r["target"]) == ("mean", 0.9)]
    assert at_90["mean"][0] is None, "one of the three never got there: no mean without it"
    assert at_90["known"] == [2, 1]


def test_the_same_seed_twice_is_two_groups(tmp_path: Path) -> None:
    """Runs of a real network differ with the same seed; they are no sample over seeds."""
    made(tmp_path, "one")
    made(tmp_path, "two")
    runs = [read_one(tmp_path, name) for name in ("one", "two")]
    assert [group.letter for group in grouped(runs)] == ["A", "B"]
    assert compare(runs).differences == {}


def read_one(results: Path, name: str) -> Run:
    from deploy.compare.reading import read_runs

    (run,), notes = read_runs(Results(results), [name])
    assert notes == []
    return run


def test_what_cannot_be_compared_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two", end=0.7)
    begun = made(tmp_path, "begun")
    begun.summary_file.unlink()
    begun.verdict_file.unlink()
    links = made(tmp_path, "links")
    links.write_json(links.manifest_file, {"purpose": "verify"})
    found = told(capsys, tmp_path, "one", "begun", "two", "links", "one")
    assert [group["runs"] for group in found["groups"]] == [["pair/one"], ["pair/two"]]
    notes = "\n".join(found["notes"])
    assert "pair/begun is left out: no summary yet: it is under way" in notes
    assert "pair/links is left out: it measured links" in notes
    assert "pair/one is named twice" in notes
    assert main(["compare", "one", "begun", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "it takes two" in said
    assert "pair/begun is left out" in said


def test_different_data_sets_are_shown_without_ratios(tmp_path: Path) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two")
    one, two = (read_one(tmp_path, name) for name in ("one", "two"))
    other = Run(
        name=two.name,
        settings={**two.settings, "training.dataset": "cifar10"},
        summary=two.summary,
        accuracy=two.accuracy,
        loss=two.loss,
        merged=[],
    )
    comparison = compare([one, other])
    assert "the data sets differ (A: digits, B: cifar10)" in comparison.notes[0]
    by_name = {each.metric.name: each for each in comparison.rows}
    assert by_name["accuracy, mean"].ratios == (None, None)
    assert by_name["model bytes sent"].ratios == (1.0, 1.0), "bytes are bytes"
    assert comparison.times == ()


def test_targets_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two", slower=2.0)
    found = told(capsys, tmp_path, "one", "two", "--accuracy", "0.85", "--loss", "0.5")
    times = {(r["what"], r["target"]): r["mean"] for r in found["time_to_reach"]}
    assert times["mean", 0.85] == [2.0, 4.0]
    assert times["loss", 0.5] == [1.0, 2.0]


def test_the_merged_model_is_compared_where_it_is_known(tmp_path: Path) -> None:
    made(tmp_path, "one")
    one = read_one(tmp_path, "one")
    assert [r.what for r in compare([one, one]).reached].count("merged") == 0
    virtual = Run(
        name="sim",
        settings=one.settings | {"backend": "sim"},
        summary=one.summary,
        accuracy=one.accuracy,
        loss=one.loss,
        merged=[(0.5, 0.85)],
    )
    reached = {(r.what, r.target): r for r in compare([virtual, one]).reached}
    merged = reached["merged", 0.8]
    assert [value.mean for value in merged.values] == [0.5, None]
    assert merged.recorded == (True, False), "not known is not never"


def test_the_tables_say_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two", end=0.6, algorithm__local_steps="4")
    assert main(["compare", "one", "two", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for words in (
        "what differs", "algorithm.local_steps", "accuracy, worst", "60.0%", "0.667x",
        "time to reach", "never", "accuracy over time", "(-30.0)", "fragment: cancelled",
        "latency of messages", "queued, p99",
    ):  # fmt: skip
        assert words in said, words


def test_a_picture(tmp_path: Path) -> None:
    for seed in (1, 2):
        made(tmp_path, f"a{seed}", seed=seed)
    made(tmp_path, "b", algorithm__omega="1")
    path = tmp_path / "new" / "picture.png"
    arguments = ["compare", "a1", "a2", "b", "--results", str(tmp_path), "--plot", str(path)]
    assert main(arguments) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments[:-1], str(tmp_path / "picture.txt")]) == 2


# Settings ----------------------------------------------------------------------------------------


def settings(**sets: str) -> dict[str, Any]:
    return plan_settings(json.loads(plan_json(plan(**sets))))


def test_settings_are_the_experiment_and_not_its_place() -> None:
    one, two = settings(), plan_settings(json.loads(plan_json(plan(run_id="other"))))
    assert one == two
    assert one["algorithm"] == "divshare"
    assert one["algorithm.omega"] == 0.1
    assert one["stop.time"] == "30s"
    assert one["training.partition.kind"] == "iid"
    assert not [name for name in one if "host" in name or "port" in name or "results" in name]


@pytest.mark.parametrize(
    ("sets", "differs"),
    [
        ({"seed": "2"}, {"seed"}),
        ({"training__learning_rate": "0.5"}, {"training.learning_rate"}),
        ({"stop__rounds": "3"}, {"stop.rounds"}),
        ({"signaling__gather": "5s"}, {"signaling.gather"}),
        ({"nodes": "{n: {replicas: 2, compute: {step: 5ms}}}"}, {"compute"}),
        ({"algorithm__pacing": "parallel"}, {"pacing"}),
    ],
)
def test_each_setting_that_differs_is_named(sets: dict[str, str], differs: set[str]) -> None:
    assert set(differences([settings(), settings(**sets)])) == differs


def test_an_old_plan_is_read_as_far_as_it_goes() -> None:
    assert plan_settings({})["nodes"] == 0
    found = plan_settings({"backend": "docker", "nodes": [{"config": {"training": {"a_ns": 5}}}]})
    assert found["training.a"] == "5ns"


def test_links_that_are_only_placed_otherwise_are_told_apart() -> None:
    near, far = {"a>b": "1mbit 5ms", "b>a": "2mbit 5ms"}, {"a>b": "2mbit 5ms", "b>a": "1mbit 5ms"}
    found = differences([{"links": near}, {"links": far}])["links"]
    assert found[0] == "1 x 1mbit 5ms, 1 x 2mbit 5ms"
    assert found[1] == f"{found[0]}, otherwise placed (2)"


def test_many_kinds_of_links_are_summed_up() -> None:
    links = {str(number): f"{number % 7}mbit" for number in range(70)}
    assert text(links).endswith("30 others")


# Whatever a summary says -------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["mean", "kinds", "x"]), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([m.where[0] for m in METRICS]), JSON))
def test_any_summary_is_survived(summary: dict[str, Any]) -> None:
    runs = [
        Run(name=n, settings={}, summary=summary, accuracy=[], loss=[], merged=[]) for n in "ab"
    ]
    found: Comparison = compare(runs)
    json.dumps(as_json(found), allow_nan=False)
    values: Sequence[Any] = [value for each in found.rows for value in each.values]
    assert all(value.known in (0, 1) for value in values)
