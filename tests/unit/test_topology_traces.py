"""Traces of compute times: from the file that a topology names to what each node is told."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy.plan import BackendKind, make_plan
from deploy.topology import TopologyErrors, load_topology
from deploy.topology.traces import MAX_BYTES, MAX_DURATIONS
from node.config import ComputeConfig
from node.units import MILLISECOND

TOPOLOGY = """
nodes:
  slow: {replicas: 2, compute: {trace: traces/slow.csv, speed: 0.5}}
  other: {compute: {step: 7ms}}
network: {shape: line}
algorithm: {name: dpsgd}
stop: {rounds: 2}
"""
TRACE = "# a phone\n11ms\n14.5ms, 12ms;1s # the last is a pause\n\n"


def written(folder: Path, trace: bytes | None, *, topology: str = TOPOLOGY) -> Path:
    (folder / "traces").mkdir()
    if trace is not None:
        (folder / "traces" / "slow.csv").write_bytes(trace)
    path = folder / "three.yaml"
    path.write_text(topology)
    return path


def refused(path: Path) -> str:
    with pytest.raises(TopologyErrors) as caught:
        load_topology(path)
    return str(caught.value)


def test_a_trace_reaches_the_nodes_of_its_group(tmp_path: Path) -> None:
    topology = load_topology(written(tmp_path, TRACE.encode()))
    plan = make_plan(
        topology, run_id="r", backend=BackendKind.DOCKER, subnet=IPv4Network("10.0.0.0/24")
    )
    told = {node.config.name: node.config.compute for node in plan.nodes}
    slow = ComputeConfig(
        speed=0.5, trace_ns=tuple(round(ms * MILLISECOND) for ms in (11, 14.5, 12, 1000))
    )
    assert told == {
        "other": ComputeConfig(step_ns=7 * MILLISECOND),
        "slow-0": slow,
        "slow-1": slow,
    }


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        (b"11ms\nsoon\n", "traces/slow.csv:2: 'soon'"),
        (b"11ms\n0ms\n", "traces/slow.csv:2: '0ms': must be above 0ms"),
        (b"11\n", "traces/slow.csv:1: '11'"),
        (b"1ms\n2ms, 1000h", "traces/slow.csv:2: ' 1000h': at most 720h"),
        (b"# nothing\n", "traces/slow.csv: there is no duration in it"),
        (b"\xff\xfe1", "traces/slow.csv: this is not a text file"),
        (b"1ms\n" * (MAX_DURATIONS + 1), "traces/slow.csv: 1001 durations; at most 1000"),
        (b"1ms\n" * MAX_BYTES, "slow.csv has more than 64 KiB"),
        (None, "three.yaml:3:40: nodes.slow.compute.trace: "),
    ],
)
def test_what_is_wrong_says_where(tmp_path: Path, trace: bytes | None, says: str) -> None:
    assert says in refused(written(tmp_path, trace))


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    path = written(tmp_path, None)
    (tmp_path / "traces" / "slow.csv").mkdir()
    assert "cannot be read: is not a plain file" in refused(path)


def test_a_step_and_a_trace_do_not_go_together(tmp_path: Path) -> None:
    both = TOPOLOGY.replace("speed: 0.5", "step: 1ms")
    text = refused(written(tmp_path, TRACE.encode(), topology=both))
    assert "nodes.slow.compute.trace: a step takes either `step`, or what a `trace` says" in text
