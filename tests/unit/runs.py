"""Made-up runs for tests: plans, records as nodes write them, and a backend that needs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from deploy.history import Ending, Event, History, MemberState
from deploy.plan import BackendKind, Plan, make_plan
from deploy.results import Results, RunFolder
from deploy.topology import parse_topology
from node.core.ids import COORDINATOR

TOPOLOGY = b"""
name: pair
nodes: 2
network: {shape: line, link: {rate: 10mbit, delay: 5ms}}
algorithm: {name: divshare, local_steps: 2}
stop: {rounds: 2, time: 30s}
"""
NAMES = ("n-0", "n-1")
WALL = 1_700_000_000.0


def plan(*, run_id: str = "r1", backend: BackendKind = BackendKind.LOCAL, **sets: str) -> Plan:
    """A plan for two nodes; `sets` override keys of the file, with `__` for a dot."""
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in sets.items()]
    topology = parse_topology(TOPOLOGY, path=Path("pair.yaml"), overrides=overrides)
    return make_plan(
        topology,
        run_id=run_id,
        backend=backend,
        subnet=IPv4Network("10.99.0.0/24"),
        ports={NAMES[0]: 7001, NAMES[1]: 7002, COORDINATOR: 7003},
    )


def event(node: str, kind: str, t: float | None = None, **fields: Any) -> Event:
    """One record; the run clocks stood at zero at `WALL`."""
    return {"t": t, "wall": WALL + (t or 0.0), "node": node, "kind": kind, **fields}


def node_events(name: str, *, rounds: int = 2, start: float = 0.0) -> list[Event]:
    """What a node that ends `rounds` rounds, one a second, writes."""
    made = [
        event(name, "state", state="running"),
        event(name, "evaluation", start + 0.1, round=0, accuracy=0.1, loss=2.3),
    ]
    for number in range(rounds):
        t = start + number + 1.0
        made += [
            event(name, "round", t, round=number, loss=1.0 / (number + 1), steps=2),
            event(
                name, "aggregate", t, round=number, fragments=3, coverage=0.5, age_mean=1.0 + number
            ),
            event(
                name, "evaluation", t + 0.2, round=number + 1, accuracy=0.5 + 0.4 * number, loss=0.5
            ),
        ]
    counts: dict[str, Any] = {"model_sent": 1000, "model_delivered": 900, "model_received": 950}
    counts |= {
        "sync_sent": 20,
        "control_sent": 50,
        "cancelled": 100,
        "wire_tx": 1200,
        "wire_rx": 1100,
        "kinds": {"fragment": {"sent": 1000, "delivered": 900, "cancelled": 100, "lost": 7}},
    }
    end = start + rounds + 0.3
    return [
        *made,
        event(name, "idle", end, seconds=0.25),
        event(name, "bytes", end, **counts),
        event(name, "finish", end, reason="rounds"),
    ]


def coordinator_events(*, reason: str = "rounds", error: str | None = None) -> list[Event]:
    """What the coordinator of an orderly run writes."""
    who = "coordinator"
    done = [
        event(who, "member", wall=WALL + 2.5, member=n, state="done", reason=reason) for n in NAMES
    ]
    return [
        *(event(who, "member", member=n, state="joined", emulator="application") for n in NAMES),
        event(who, "phase", phase="measuring"),
        event(who, "measuring", **{"try": 1}, pairs=2, slots=1),
        event(who, "start", at_wall=WALL),
        event(who, "phase", phase="running"),
        *done,
        event(who, "stop", wall=WALL + 2.6, reason=reason),
        event(who, "merged", wall=WALL + 2.7, accuracy=0.95, loss=0.3, distance=1.5),
        event(who, "finish", wall=WALL + 2.8, reason=reason, error=error),
    ]


def links_json(*, ok: bool | None = True, why: str | None = None) -> dict[str, Any]:
    """links.json of the pair."""
    asked = {"rate_bps": 10_000_000, "delay_ms": 5.0, "jitter_ms": 0.0, "loss": 0.0}
    measured = {"rtt_ms": 10.2, "goodput_bps": 9_560_000.0, "loss": None}
    pairs = [
        {"from": a, "to": b, "asked": asked, "applied": asked, "measured": measured}
        | {"ok": ok, "why": why}
        for a, b in (NAMES, NAMES[::-1])
    ]
    return {"emulator": "application", "pairs": pairs}


def ended(status: int | None = 0, **others: int | None) -> dict[str, MemberState]:
    """All members have exited with this status; `n_0=1` makes one differ."""
    statuses = {name: others.get(name.replace("-", "_"), status) for name in (*NAMES, COORDINATOR)}
    return {
        str(name): MemberState(member=str(name), status="exited", alive=False, exit_status=code)
        for name, code in statuses.items()
    }


def good_history() -> History:
    """A run with which nothing is wrong."""
    return History(
        plan=plan(),
        nodes={name: node_events(name) for name in NAMES},
        coordinator=coordinator_events(),
        garbled={},
        links=links_json(),
        ending=Ending(members=ended()),
    )


def changed(history: History, **changes: Any) -> History:
    """The history with other parts."""
    return replace(history, **changes)


def write_records(folder: RunFolder, history: History) -> None:
    """Put a history's records into a run folder, as the members would."""
    files = {folder.coordinator_file: history.coordinator}
    files |= {folder.node_file(name): events for name, events in history.nodes.items()}
    for path, events in files.items():
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    if history.links is not None:
        folder.links_file.write_text(json.dumps(history.links))


class FakeBackend:
    """A backend whose members are a table: `script` says what each poll sees."""

    kind = BackendKind.LOCAL

    def __init__(self, script: Callable[[int], Mapping[str, MemberState]]) -> None:
        self._script = script
        self.polls = 0
        self.calls: list[str] = []
        self.records: Callable[[RunFolder], None] = lambda folder: None

    def check(self, *, results: Path, run_id: str) -> list[Any]:
        return []

    def taken_networks(self) -> list[IPv4Network]:
        return []

    def describe(self) -> dict[str, Any]:
        return {}

    def start(self, plan: Plan, folder: RunFolder, *, interrupted: Callable[[], bool]) -> None:
        self.calls.append("start")
        self.records(folder)

    def poll(self, folder: RunFolder) -> Mapping[str, MemberState]:
        self.polls += 1
        return self._script(self.polls)

    def stop(self, folder: RunFolder, *, grace_s: float = 10) -> list[str]:
        self.calls.append("stop")
        return []

    def collect(self, folder: RunFolder) -> list[str]:
        self.calls.append("collect")
        return []

    def destroy(self, folder: RunFolder) -> None:
        self.calls.append("destroy")

    def has_rest(self, folder: RunFolder) -> bool:
        return False


class Lines:
    """A screen that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, progress: object) -> None:
        pass


def new_folder(tmp_path: Path, *, run_id: str = "r1") -> RunFolder:
    """A run folder with a plan."""
    from deploy.plan import plan_json

    folder = Results(tmp_path / "results").create(topology="pair", run_id=run_id)
    folder.write_text(folder.plan_file, plan_json(plan(run_id=run_id)))
    return folder


def reasons(found: Sequence[str]) -> str:
    """All reasons as one text, for `in`."""
    return "\n".join(found)
