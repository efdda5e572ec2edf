"""Link agents on namespaces: a peerbed run without containers, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.config import (
    AccessLink,
    AlgorithmConfig,
    ComputeConfig,
    Emulator,
    ExpectedPair,
    LinksConfig,
    NodeConfig,
    PathSpec,
    PeerLink,
    StopConfig,
    TrainingConfig,
    from_json,
    to_json,
)
from node.core.ids import NodeId
from node.core.signals import LinkReading
from node.links.report import KERNEL, PairReport, judge
from node.units import SECOND
from tests.links.netns import NETWORK, Host, network, wait_until

Paths = Callable[[Host, Host], PathSpec | None]
Adapt = Callable[[Host, LinksConfig], LinksConfig]
"""From the links that a host has by default to those that it shall have."""
RELAY = ("bash", "-c", "exec cat >&$PEERBED_AGENT_FD")
"""A node process that hands its standard input on to the agent as orders."""
PORT = 7000
TOLERANCE = float(os.environ.get("PEERBED_TOLERANCE", "1"))
"""How much more room figures have here: a machine that is emulated itself is given 3."""
NOWHERE = f"{NETWORK}.250"
"""The coordinator's address where a test has no use for one."""


@dataclass(slots=True, kw_only=True)
class Probe:
    """A host's probing process."""

    process: subprocess.Popen[str]

    def ask(self, **wanted: Any) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise AssertionError(f"the probe ended: {self.process.communicate()[1]}")
        return answer


@dataclass(slots=True, kw_only=True)
class Bed:
    """Hosts with links between them.

    Attributes:
        hosts: those with a link agent.
        strangers: on the same network, without one; no node's configuration knows them, except
            that the first is the coordinator.
        folder: with `results/` and a folder per host where its agent writes `links.json`.
    """

    hosts: list[Host]
    strangers: list[Host]
    folder: Path
    path: Paths
    access_bps: int | None
    emulator: Emulator
    adapt: Adapt
    agents: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def config(self, me: Host) -> NodeConfig:
        """What this host's node is told."""
        link = (AccessLink(name="access", rate_bps=self.access_bps),)
        names = tuple(NodeId(host.name) for host in self.hosts)
        return NodeConfig(
            session="test",
            name=NodeId(me.name),
            index=names.index(NodeId(me.name)),
            members=names,
            neighbours=tuple(name for name in names if name != me.name),
            seed=1,
            host=me.address,
            port=PORT,
            coordinator_host=self.strangers[0].address if self.strangers else NOWHERE,
            coordinator_port=PORT,
            links=self.adapt(
                me,
                LinksConfig(
                    emulator=self.emulator,
                    up=link,
                    down=link,
                    peers=tuple(self.peer(me, other) for other in self.hosts if other is not me),
                ),
            ),
            algorithm=AlgorithmConfig(name="none"),
            training=TrainingConfig(),
            compute=ComputeConfig(),
            stop=StopConfig(time_ns=60 * SECOND),
            results=str(self.results),
        )

    def peer(self, me: Host, other: Host) -> PeerLink:
        return PeerLink(
            name=NodeId(other.name),
            host=other.address,
            port=PORT,
            out=self.path(me, other),
            into=self.path(other, me),
            up="access",
            down="access",
        )

    def start_agent(
        self, host: Host, *, child: Sequence[str] = ("sleep", "600"), prefix: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a host's link agent and wait until its links are in force, or it has ended."""
        process = host.start(
            *prefix,
            *host.interpreter("tests.links.run_agent", str(self.folder / host.name), *child),
            env={"PEERBED_CONFIG": to_json(self.config(host))},
        )
        self.agents[host.name] = process
        wait_until(
            lambda: process.poll() is not None or (self.folder / host.name / "links.json").exists(),
            what=f"the agent of {host.name} set up no links",
        )
        return process

    def order(self, host: Host, **order: Any) -> None:
        """Tell a host's agent something, as its node process would (its child is `RELAY`)."""
        pipe = self.agents[host.name].stdin
        assert pipe is not None
        pipe.write(json.dumps(order) + "\n")
        pipe.flush()

    def begin(self, *, in_s: float = 0.3) -> float:
        """Let the run clock of all hosts start shortly; when that is, on the monotonic clock."""
        start = time.time_ns() + round(in_s * SECOND)
        for host in self.hosts:
            self.order(host, start=start)
        return time.monotonic() + (start - time.time_ns()) / SECOND

    def changes(self, host: Host, count: int, *, seconds: float = 10.0) -> list[dict[str, Any]]:
        """The first changes that a host's agent has recorded, waited for."""
        wait_until(
            lambda: len(self.events(host, "link")) >= count,
            seconds=seconds,
            what=f"{host.name} has not recorded {count} changes",
        )
        return self.events(host, "link")[:count]

    def state(self, host: Host) -> dict[str, Any]:
        """What the host's agent wrote to links.json."""
        found: dict[str, Any] = json.loads((self.folder / host.name / "links.json").read_text())
        return found

    def events(self, host: Host, kind: str) -> list[dict[str, Any]]:
        """What the host's agent recorded."""
        path = self.results / "nodes" / f"{host.name}.jsonl"
        text = path.read_text() if path.exists() else ""
        return [e for e in map(json.loads, text.splitlines()) if e["kind"] == kind]

    def probe(self, host: Host) -> Probe:
        """The host's probing process, started at the first call."""
        if host.name not in self.probes:
            process = host.python("tests.links.run_probe", host.address, str(PORT + 1))
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
            self.probes[host.name] = Probe(process=process)
        return self.probes[host.name]

    def measure(
        self, me: Host, other: Host, *measures: str, peer: PeerLink | None = None
    ) -> LinkReading:
        """Measure the path between two hosts."""
        self.probe(other)
        answer = self.probe(me).ask(
            peer=json.loads(to_json(peer or self.peer(me, other))), measures=measures, deadline=30.0
        )
        return from_json(LinkReading, answer)

    def judged(self, me: Host, other: Host, *measures: str, tries: int = 3) -> PairReport:
        """The verdict on a path, measured again while it is missed: the machine is shared."""
        out, back = self.path(me, other), self.path(other, me)
        assert out is not None
        assert back is not None
        expected = ExpectedPair(
            source=NodeId(me.name), target=NodeId(other.name), out=out, back=back
        )
        for _ in range(tries):
            reading = self.measure(me, other, *measures)
            report = judge(
                expected,
                reading,
                None,
                emulator=self.emulator,
                tolerance=KERNEL.times(TOLERANCE),
            )
            if report.ok:
                break
        return report

    def round_trips(
        self, me: Host, address: str, *, count: int = 5, every_ms: float = 10
    ) -> list[float]:
        """Round trips to an address in ms, of those pings that were answered within a second."""
        answer = self.probe(me).ask(address=address, count=count, every_ms=every_ms)
        trips: list[float] = json.loads(answer)
        return trips


@contextlib.contextmanager
def bed(
    count: int,
    *,
    path: PathSpec | Paths,
    access_bps: int | None = None,
    emulator: Emulator = Emulator.AUTO,
    strangers: int = 0,
    agents: bool = True,
    adapt: Adapt = lambda _, links: links,
    child: Sequence[str] = ("sleep", "600"),
) -> Iterator[Bed]:
    """A bed whose agents run; everything ends and goes with it.

    Args:
        path: one for all pairs, or a function of the two ends.
        access_bps: rate of every host's up and down link.
        adapt: what else is different, per host.
        child: the agents' node process.
    """
    folder = Path(tempfile.mkdtemp(prefix="peerbed-links-"))
    folder.chmod(0o755)
    try:
        with network(count + strangers) as hosts:
            made = Bed(
                hosts=hosts[:count],
                strangers=hosts[count:],
                folder=folder,
                path=path if callable(path) else lambda _a, _b: path,
                access_bps=access_bps,
                emulator=emulator,
                adapt=adapt,
            )
            for host in made.hosts if agents else ():
                agent = made.start_agent(host, child=child)
                if agent.poll() is not None:
                    raise AssertionError(f"the agent of {host.name}: {agent.communicate()[1]}")
            yield made
    finally:
        shutil.rmtree(folder)


def cpu_and_memory(pid: int) -> tuple[float, int]:
    """(CPU seconds so far, resident KiB) of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return ticks / os.sysconf("SC_CLK_TCK"), int(resident.split()[1])
