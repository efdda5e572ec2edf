"""The node process: how soon it answers, what it gets out of a link, what a cancel stops, its size.

Ends of a measurement are processes (`_stream.py`), here on loopback or in network namespaces whose
links the link agent shapes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import Bench, Row

from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    CoordinatorConfig,
    Emulator,
    LinkPolicy,
    LinksConfig,
    NodeConfig,
    PathSpec,
    PeerLink,
    StopConfig,
    TrainingConfig,
    to_json,
)
from node.core.ids import NodeId
from node.units import MILLISECOND, SECOND

ROOT = Path(__file__).parents[2]
END = str(Path(__file__).with_name("_stream.py"))
LOOPBACK = "127.0.0.1"
SHAPED = (
    PathSpec(rate_bps=20_000_000, delay_ns=MILLISECOND),
    PathSpec(rate_bps=20_000_000, delay_ns=10 * MILLISECOND),
    PathSpec(rate_bps=20_000_000, delay_ns=50 * MILLISECOND),
)
TEN = PathSpec(rate_bps=10_000_000, delay_ns=10 * MILLISECOND)
CANCEL_SLACK = 64 * 1024
RSS_MAX = 90
TRIES = 3
"""The machine is shared: of a goodput the median counts, of a delay too."""


def node_configs(count: int, **changes: Any) -> list[NodeConfig]:
    """A ring's worth of nodes on loopback, unshaped unless `links_path` says otherwise."""
    path = changes.pop("links_path", PathSpec())
    emulator = changes.pop("emulator", Emulator.NETEM)
    coordinator_port, *ports = free_ports(count + 1)
    names = [NodeId(f"n-{i}") for i in range(count)]
    shared = NodeConfig(
        session="bench",
        name=names[0],
        index=0,
        members=tuple(names),
        neighbours=(),
        seed=1,
        host=LOOPBACK,
        port=1,
        coordinator_host=LOOPBACK,
        coordinator_port=coordinator_port,
        links=LinksConfig(emulator=emulator, policy=LinkPolicy.OFF),
        algorithm=AlgorithmConfig(name="divshare"),
        training=TrainingConfig(),
        compute=ComputeConfig(),
        stop=StopConfig(time_ns=60 * SECOND),
    )
    made = []
    for index, name in enumerate(names):
        peers = tuple(
            PeerLink(name=other, host=LOOPBACK, port=port, out=path, into=path)
            for other, port in zip(names, ports, strict=True)
            if other != name
        )
        own = replace(
            shared,
            name=name,
            index=index,
            port=ports[index],
            neighbours=tuple(peer.name for peer in peers),
            links=replace(shared.links, peers=peers),
        )
        made.append(replace(own, **changes))
    return made


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def measured(
    mode: str, configs: list[NodeConfig], *, seconds: float = 6.0, starts: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What receiver and sender say; `starts[i](argv)` begins the i-th process where it belongs."""
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        for index, role in ((1, "receive"), (0, "send")):
            path = Path(folder) / f"{role}.json"
            path.write_text(to_json(configs[index]))
            argv = [sys.executable, END, role, mode, "--config", str(path)]
            argv += ["--seconds", str(seconds)]
            if starts is None:
                process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            else:
                process = starts[index](*argv)
            ends.append(process)
        said = []
        for process in ends:
            output, error = process.communicate(timeout=120)
            if process.returncode:
                raise RuntimeError(f"{mode}: {error}")
            said.append(json.loads(output))
    return said[0], said[1]


@contextlib.contextmanager
def shaped(path: PathSpec) -> Iterator[tuple[list[NodeConfig], Any]]:
    """Two namespaces whose links the agent shapes: configurations, and how to start there."""
    sys.path.insert(0, str(ROOT))
    from tests.links.bed import bed
    from tests.links.netns import why_not

    reason = why_not()
    if reason is not None:
        raise RuntimeError(f"no shaped links here: {reason}")
    with bed(2, path=path) as made:
        yield [made.config(host) for host in made.hosts], [host.start for host in made.hosts]


def goodput() -> list[Row]:
    """Fragments against plain TCP on the same shaped link, in turns."""
    rows = []
    for path in SHAPED:
        with shaped(path) as (configs, starts):
            plain, fragments = [], []
            for _ in range(TRIES):
                plain.append(measured("tcp", configs, starts=starts)[0]["bps"])
                fragments.append(measured("fragments", configs, starts=starts)[0]["bps"])
        tcp, ours = statistics.median(plain), statistics.median(fragments)
        name = f"20 Mbit/s, {path.delay_ns // MILLISECOND} ms each way"
        rows += [
            Row(figure=f"{name}: plain TCP", value=tcp / 1e6, unit="Mbit/s"),
            Row(figure=f"{name}: fragments of TCP", value=ours / tcp, target=">= 0.93",
                holds=ours >= 0.93 * tcp),
        ]  # fmt: skip
    application = node_configs(2, links_path=SHAPED[1], emulator=Emulator.APPLICATION)
    ours = measured("fragments", application)[0]["bps"]
    ideal = 0.956 * 20e6
    rows.append(
        Row(figure="20 Mbit/s in the application, 10 ms: fragments of 0.956 x rate",
            value=ours / ideal, target=">= 0.93", holds=ours >= 0.93 * ideal)
    )  # fmt: skip
    unshaped = measured("fragments", node_configs(2))[0]["bps"]
    rows.append(Row(figure="unshaped loopback: fragments", value=unshaped / 1e6, unit="Mbit/s"))
    return rows


def late_bytes(receiver: dict[str, Any], sender: dict[str, Any]) -> int:
    """Of the old round, after the cancel."""
    return sum(
        size
        for at, message, size in receiver["arrivals"]
        if at > sender["dropped_at"] and message <= sender["last"]
    )


def cancel() -> list[Row]:
    """What still arrives of the old round after `DropQueued` at 10 Mbit/s."""
    bandwidth_delay = (TEN.rate_bps or 0) * 2 * TEN.delay_ns // (8 * SECOND)
    limit = CANCEL_SLACK + bandwidth_delay
    worst = {}
    with shaped(TEN) as (configs, starts):
        said = [measured("cancel", configs, starts=starts) for _ in range(TRIES)]
        worst["shaped by the kernel"] = max(late_bytes(*one) for one in said)
    application = node_configs(2, links_path=TEN, emulator=Emulator.APPLICATION)
    said = [measured("cancel", application) for _ in range(TRIES)]
    worst["in the application"] = max(late_bytes(*one) for one in said)
    return [
        Row(figure=f"10 Mbit/s, 10 ms, {where}: bytes after a cancel, worst of {TRIES}",
            value=late, unit="B", target=f"<= {limit} B", holds=late <= limit)
        for where, late in worst.items()
    ]  # fmt: skip


def ping() -> list[Row]:
    """Pings answered while the trainer of the same node computes for 200 ms and more at a time."""
    training = TrainingConfig(model="cnn", batch_size=1024)
    configs = node_configs(2, training=training)
    configs[1] = replace(configs[1], members=(configs[1].name,), index=0)
    receiver, sender = measured("ping", configs, seconds=8)
    trips = sender["trips_ms"]
    median = statistics.median(trips)
    return [
        Row(figure="the trainer computes at a stretch for", value=receiver["step_s"] * 1e3,
            unit="ms"),
        Row(figure=f"ping meanwhile, median of {len(trips)}", value=median, unit="ms",
            target="<= 20 ms", holds=median <= 20),
        Row(figure="ping meanwhile, 99th percentile",
            value=statistics.quantiles(trips, n=100)[98], unit="ms"),
    ]  # fmt: skip


def memory() -> list[Row]:
    """Resident memory of the processes of a real run of three nodes on loopback."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = node_configs(3, results=folder, algorithm=AlgorithmConfig(name="divshare"))
        coordinator = CoordinatorConfig(
            session="bench",
            members=nodes[0].members,
            seed=1,
            host=LOOPBACK,
            port=nodes[0].coordinator_port,
            policy=LinkPolicy.OFF,
            pairs=(),
            candidates=0,
            training=nodes[0].training,
            stop=nodes[0].stop,
            results=folder,
        )
        roles = [("coordinator", coordinator), *(("peer", config) for config in nodes)]
        processes = []
        for number, (role, config) in enumerate(roles):
            path = Path(folder) / f"{number}.json"
            path.write_text(to_json(config))
            argv = [sys.executable, "-m", "node", role, "--config", str(path)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            processes.append(subprocess.Popen(argv, cwd=folder, env=environment))
        try:
            peaks = _peaks(processes, nodes, Path(folder))
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(30)
    return [
        Row(figure="communicating process of a node, peak RSS", value=max(peaks[1:]), unit="MiB",
            target=f"<= {RSS_MAX} MiB", holds=max(peaks[1:]) <= RSS_MAX),
        Row(figure="coordinator's process, peak RSS", value=peaks[0], unit="MiB"),
    ]  # fmt: skip


def _peaks(
    processes: list[subprocess.Popen[bytes]], nodes: list[NodeConfig], folder: Path
) -> list[float]:
    """Peak RSS of each in MiB, once every node has done some rounds."""
    deadline = time.monotonic() + 90
    for config in nodes:
        log = folder / "nodes" / f"{config.name}.jsonl"
        for _ in itertools.count():
            if log.exists() and log.read_text().count('"kind":"round"') >= 20:
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{config.name} did not get to 20 rounds")
            time.sleep(0.2)
    return [_peak(process.pid) for process in processes]


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no peak of {pid}")


BENCHES: dict[str, Bench] = {
    "goodput": goodput,
    "cancel": cancel,
    "ping": ping,
    "memory": memory,
}
