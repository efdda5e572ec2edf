"""scripts/twin: that its files are right, and what its table says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from deploy.plan import BackendKind, make_plan
from deploy.topology import parse_topology

SCRIPT = Path(__file__).parents[2] / "scripts" / "twin.d" / "__main__.py"


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("twin_main", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "twin_main", module)  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_every_twin_is_a_topology(twin: ModuleType) -> None:
    for shape in twin.NETWORKS:
        for algorithm in twin.ALGORITHMS:
            for nodes in (3, 16):
                made = twin.Twin(shape=shape, nodes=nodes, algorithm=algorithm)
                text = json.dumps(made.topology()).encode()
                topology = parse_topology(text, path=Path(f"{made.name}.yaml"))
                plan = make_plan(topology, run_id="r", backend=BackendKind.SIM)
                assert len(plan.nodes) == nodes


def summary(time: float | None, bytes_: int) -> dict[str, object]:
    return {"time_to_accuracy": {"0.9": time}, "bytes": {"model": bytes_}}


def test_medians_are_held_against_the_bounds(twin: ModuleType) -> None:
    made = twin.Twin(shape="ring", nodes=3, algorithm="dpsgd")
    real = [summary(10.0, 1000), summary(30.0, 1000), summary(20.0, 1000)]
    simulated = [summary(21.9, 1011), summary(0.1, 1011), summary(40.0, 1011)]
    time, sent = list(twin.rows(made, real, simulated))[:2]
    assert time == "| twin-ring-3-dpsgd | time to 90 %, s | 20 | 21.9 | +9.5% | yes |"
    assert sent == "| twin-ring-3-dpsgd | model bytes sent | 1000 | 1011 | +1.1% | **no** |"


def test_what_only_one_world_reaches_is_a_miss(twin: ModuleType) -> None:
    made = twin.Twin(shape="ring", nodes=3, algorithm="dpsgd")
    some, none = [summary(1.0, 1), summary(None, 1)], [summary(None, 1)]
    line = next(twin.rows(made, some, [summary(1.0, 1)]))
    assert line == "| twin-ring-3-dpsgd | time to 90 %, s | never | 1 | - | **no** |"
    line = next(twin.rows(made, some, none))
    assert line == "| twin-ring-3-dpsgd | time to 90 %, s | never | never | - | yes |"


def test_a_run_that_failed_is_a_miss(twin: ModuleType) -> None:
    made = twin.Twin(shape="ring", nodes=3, algorithm="dpsgd")
    (line,) = twin.rows(made, [None], [summary(1.0, 1)])
    assert "**no**" in line
