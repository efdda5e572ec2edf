"""A node that comes late, in containers: what it knows, and what it costs the others."""

from __future__ import annotations

import bisect
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import Bench, Row

ROOT = Path(__file__).parents[2]
SYNCS = 10
FIRST_S, EVERY_S, AWAY_S = 8, 9, 3
"""The node joins; later it is killed again and again, and comes back."""
POINTS = 0.02
GROWTH = 1.10


def newcomer() -> list[Row]:
    """topologies/sync-ring.yaml: a ring of 4 with 10 Mbit/s; the fifth node comes ten times."""
    results = Path(tempfile.mkdtemp(prefix="peerbed-bench-"))
    events: list[dict[str, Any]] = [{"at": f"{FIRST_S}s", "join": "late"}]
    for at in range(FIRST_S + EVERY_S, FIRST_S + EVERY_S * SYNCS, EVERY_S):
        events += [{"at": f"{at}s", "crash": "late"}, {"at": f"{at + AWAY_S}s", "return": "late"}]
    call = [sys.executable, "-m", "deploy", "up", "topologies/sync-ring.yaml", "--json"]
    call += ["--results", str(results), "--set", f"events={json.dumps(events)}"]
    call += ["--set", f"stop.time={FIRST_S + EVERY_S * SYNCS}s", "--set", "links=off"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    run = results / "sync-ring" / "latest"
    if not (run / "summary.json").exists():
        raise RuntimeError(f"deploy up exited with {done.returncode}: {done.stderr[-2000:]}")
    syncs = {r["sync"]: r for r in records(run / "coordinator.jsonl", "sync", state="done")}
    begun = records(run / "coordinator.jsonl", "sync", state="assigned")
    rows = figures(run, [(r, syncs[r["sync"]]) for r in begun if r["sync"] in syncs])
    shutil.rmtree(results)
    return rows


def figures(run: Path, syncs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Row]:
    """Of each sync, when it began and when it was done."""
    serving: list[float] = []
    quiet: list[float] = []
    for provider in sorted({done["provider"] for _, done in syncs}):
        own = [(b["wall"], d["wall"]) for b, d in syncs if d["provider"] == provider]
        times = [r["wall"] for r in records(run / "nodes" / f"{provider}.jsonl", "round")]
        for before, after in itertools.pairwise(times[5:]):
            overlaps = any(before < end and after > begin for begin, end in own)
            (serving if overlaps else quiet).append(after - before)
    ratio = statistics.median(serving) / statistics.median(quiet)
    apart = [abs(known(run, "late", done["wall"], after=True) - ring(run, done["wall"]))
             for _, done in syncs]  # fmt: skip
    took = [done["wall"] - begin["wall"] for begin, done in syncs]
    return [
        Row(figure="syncs of a newcomer", value=len(syncs), target=f"{SYNCS}",
            holds=len(syncs) == SYNCS),
        Row(figure="median time of a sync", value=statistics.median(took), unit="s"),
        Row(figure=f"provider's round while it serves / else, medians of {len(serving)} and "
            f"{len(quiet)}", value=ratio, target=f"< {GROWTH:.2f}", holds=ratio < GROWTH),
        Row(figure="accuracy right after a sync, apart from the others' mean, farthest",
            value=max(apart), target=f"<= {POINTS}", holds=max(apart) <= POINTS),
    ]  # fmt: skip


def records(path: Path, kind: str, **fields: object) -> list[dict[str, Any]]:
    every = (json.loads(line) for line in path.read_text().splitlines())
    return [r for r in every if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())]


def known(run: Path, node: str, at: float, *, after: bool) -> float:
    """A node's accuracy as evaluated last before a time, or first after it."""
    found = records(run / "nodes" / f"{node}.jsonl", "evaluation")
    place = bisect.bisect([r["wall"] for r in found], at)
    return float(found[place if after else place - 1]["accuracy"])


def ring(run: Path, at: float) -> float:
    return statistics.fmean(known(run, f"n-{i}", at, after=False) for i in range(4))


BENCHES: dict[str, Bench] = {"signaling-newcomer": newcomer}
