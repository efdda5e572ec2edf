"""What is made of the records of a simulation: the checks of container runs, but for what makes no
sense in virtual time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from deploy.backends import make_backend
from deploy.checks import Judgement, Verdict, judge
from deploy.control import find
from deploy.history import Event, History
from deploy.plan import BackendKind, plan_json
from deploy.results import RunFolder
from deploy.signaling import dropped
from node.config import LinkChange, RoundsConfig
from node.errors import ConfigError, RunFailed
from node.units import SECOND
from tests.unit.runs import NAMES, changed, event, good_history, links_json, new_folder, plan
from tests.unit.test_signaling_records import said, with_coordinator


def simulated(**sets: str) -> History:
    """A run in virtual time with which nothing is wrong."""
    links = links_json(ok=None, why="computed") | {"emulator": "model"}
    return changed(good_history(), plan=plan(backend=BackendKind.SIM, **sets), links=links)


def verdict(history: History) -> Verdict:
    return judge(history)


def test_a_simulation_is_valid_though_nothing_was_measured() -> None:
    found = verdict(simulated())
    assert (found.judgement, found.reasons) == (Judgement.VALID, ())
    assert "links are computed" in found.remarks[0]


def test_a_model_that_stands_for_a_larger_one_is_remarked() -> None:
    told = simulated().plan.coordinator
    training = dataclasses.replace(told.training, message_bytes=4_000_000)
    larger = dataclasses.replace(told, training=training)
    history = simulated()
    history = changed(history, plan=dataclasses.replace(history.plan, coordinator=larger))
    assert "a whole model counts as 4,000,000 bytes on the links" in verdict(history).remarks


@pytest.mark.parametrize("links", [None, links_json()])
def test_links_that_are_not_the_models_are_invalid(links: dict[str, Any] | None) -> None:
    found = verdict(changed(simulated(), links=links))
    assert found.judgement is Judgement.INVALID
    assert "not of the model" in found.reasons[0]


def test_a_change_of_links_that_nobody_tells_of_is_invalid() -> None:
    history = simulated()
    change = LinkChange(at_ns=SECOND, what=("n-0 - n-1 down",))
    nodes = tuple(
        dataclasses.replace(
            node,
            config=dataclasses.replace(
                node.config, links=dataclasses.replace(node.config.links, changes=(change,))
            ),
        )
        for node in history.plan.nodes
    )
    history = changed(history, plan=dataclasses.replace(history.plan, nodes=nodes))
    assert "n-0, n-1: links were not changed at 1 s: n-0 - n-1 down" in verdict(history).reasons
    told = {name: [*events, link(name, 1.0, {})] for name, events in history.nodes.items()}
    assert verdict(changed(history, nodes=told)).judgement is Judgement.VALID


def link(node: str, at_s: float, applied: dict[str, Any]) -> Event:
    return event(node, "link", at_s, at=at_s, late_ms=0.0, what=["x"], applied=applied, error=None)


def lost_edge(history: History, at_s: float) -> History:
    return with_coordinator(
        history, said("edge", at_s, state="dropped", peers=list(NAMES), round=1, attempt=2)
    )


GONE = {"n-1": {"out": None, "into": None}}
BACK = {"n-1": {"out": {"rate_bps": 1}, "into": {"rate_bps": 1}}}
OTHER = {"n-7": {"out": None, "into": None}}


@pytest.mark.parametrize(
    ("told", "planned"),
    [
        ([], False),
        ([(1.0, GONE)], True),
        ([(1.0, OTHER)], False),
        ([(1.0, GONE), (2.0, BACK)], True),  # in the middle of the attempts
        ([(50.0, GONE)], False),
    ],
)
def test_a_connection_was_given_up_on_purpose_if_its_path_was_gone(
    told: list[tuple[float, dict[str, Any]]], planned: bool
) -> None:
    history = lost_edge(simulated(), 5.0)
    records = [link("n-0", at_s, applied) for at_s, applied in told]
    nodes = {**history.nodes, "n-0": [*history.nodes["n-0"], *records]}
    assert [edge.planned for edge in dropped(changed(history, nodes=nodes))] == [planned]


def test_a_path_that_came_back_long_before_excuses_nothing() -> None:
    attempts = 1 + RoundsConfig().max_connection_retry
    late = 10.0 + attempts * RoundsConfig().connection_timeout_ns / SECOND
    history = lost_edge(simulated(), late)
    records = [link("n-0", 1.0, GONE), link("n-0", 2.0, BACK)]
    nodes = {**history.nodes, "n-0": [*history.nodes["n-0"], *records]}
    assert [edge.planned for edge in dropped(changed(history, nodes=nodes))] == [False]


def test_a_path_that_never_was_is_no_fault_either() -> None:
    links = {"emulator": "model", "pairs": []}
    history = lost_edge(changed(simulated(), links=links), 5.0)
    assert [edge.planned for edge in dropped(history)] == [True]


def test_a_simulation_takes_no_orders(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.plan_file.write_text(plan_json(plan(backend=BackendKind.SIM)))
    with pytest.raises(ConfigError, match="follows its file alone"):
        find("r1", results=folder.path.parents[1])
    backend = make_backend(BackendKind.SIM)
    with pytest.raises(RunFailed, match="cannot pause: a simulation"):
        backend.act(RunFolder(folder.path), "n-0", "pause")
