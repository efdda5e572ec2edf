"""Run the same files in containers and in virtual time, and say where the two differ.

For each shape, number of nodes and algorithm: `deploy up` and `deploy sim` with each seed, links as
the bottleneck, a training step that takes a stated time. What is compared are medians over the
seeds: time to 90 % mean accuracy, bytes, rounds, and how long messages took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

STEP_MS: Final = 20
NETWORKS: Final[dict[str, dict[str, int]]] = {
    "ring": {"rate_kbit": 2000, "delay_ms": 10},
    "star": {"rate_kbit": 3000, "delay_ms": 5},
}
"""Links that are the bottleneck with steps of `STEP_MS`: of DivShare's fragments some are dropped,
rounds of D-PSGD take three times their computing."""
ALGORITHMS: Final[dict[str, dict[str, Any]]] = {
    "divshare": {"name": "divshare", "omega": 0.1, "degree": 2, "local_steps": 8},
    "dpsgd": {"name": "dpsgd", "local_steps": 8},
}
OVERLAYS: Final = {("star", "divshare"): "network"}
"""All others exchange in a ring. Around a switch DivShare draws from all nodes, where D-PSGD would
send its model to each of them."""
ROUNDS: Final = 100
LEARNING_RATE: Final = 0.02
"""So that 90 % is reached after dozens of rounds: which one it is hangs less on chance."""
TIME_BOUND, BYTES_BOUND = 0.10, 0.01


Summaries: TypeAlias = Sequence[dict[str, Any] | None]
"""One for each seed; None where the run has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """One file that is run both ways."""

    shape: str
    nodes: int
    algorithm: str

    @property
    def name(self) -> str:
        return f"twin-{self.shape}-{self.nodes}-{self.algorithm}"

    @property
    def slowness(self) -> float:
        """By how much time is stretched: two cores train all nodes, and have to keep up."""
        return max(1.0, self.nodes / 3)

    def topology(self) -> dict[str, Any]:
        link = NETWORKS[self.shape]
        rate, step = link["rate_kbit"] / self.slowness, STEP_MS * self.slowness
        return {
            "name": self.name,
            "nodes": {"n": {"replicas": self.nodes, "compute": {"step": f"{step:g}ms"}}},
            "network": {
                "shape": self.shape,
                "link": {"rate": f"{rate:g}kbit", "delay": f"{link['delay_ms']}ms"},
            },
            "overlay": OVERLAYS.get((self.shape, self.algorithm), "ring"),
            "algorithm": ALGORITHMS[self.algorithm],
            "training": {
                "dataset": "digits",
                "model": "mlp",
                "learning_rate": LEARNING_RATE,
                "partition": {"kind": "dirichlet", "alpha": 1.0},
            },
            "stop": {"rounds": ROUNDS, "time": "10min"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of a summary, and how far the two may be apart; None: it only informs."""

    label: str
    of: Callable[[dict[str, Any]], float | None]
    bound: float | None = None


def _at(*keys: str) -> Callable[[dict[str, Any]], float | None]:
    def get(summary: dict[str, Any]) -> float | None:
        found: Any = summary
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return get


def _latency(figure: str) -> Callable[[dict[str, Any]], float | None]:
    """Of the kind of message that there are most of: those with the model."""

    def get(summary: dict[str, Any]) -> float | None:
        kinds = summary.get("latency") or {}
        most = max(kinds.values(), key=lambda kind: kind["count"], default={})
        return most.get(figure)

    return get


FIGURES: Final = (
    Figure(label="time to 90 %, s", of=_at("time_to_accuracy", "0.9"), bound=TIME_BOUND),
    Figure(label="model bytes sent", of=_at("bytes", "model"), bound=BYTES_BOUND),
    Figure(label="bytes on the wire", of=_at("bytes", "wire")),
    Figure(label="duration, s", of=_at("duration_s")),
    Figure(label="accuracy", of=_at("accuracy", "mean")),
    Figure(label="merged accuracy", of=_at("accuracy", "merged")),
    Figure(label="consensus distance", of=_at("consensus", "distance")),
    Figure(label="message latency, median, ms", of=_latency("p50_ms")),
    Figure(label="message latency, 90 %, ms", of=_latency("p90_ms")),
)


def run(
    twin: Twin, verb: str, seed: int, results: Path, options: list[str]
) -> dict[str, Any] | None:
    """One run's summary, None if it has none; a run that was made before is not made again."""
    name = f"{twin.name}-{verb}-{seed}"
    folder = results / twin.name / name
    if not (folder / "verdict.json").exists():
        file = results / f"{twin.name}.yaml"
        results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(twin.topology(), indent=1) + "\n")  # YAML has JSON in it
        call = [sys.executable, "-m", "deploy", verb, str(file), "--name", name]
        call += ["--seed", str(seed), "--results", str(results), *options]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{twin.name}/{name}: exit status {done.returncode}\n{done.stdout[-1000:]}"
                  f"{done.stderr[-1000:]}", file=sys.stderr)  # fmt: skip
    if not (folder / "summary.json").exists():
        return None
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def rows(twin: Twin, real: Summaries, simulated: Summaries) -> Iterator[str]:
    """Lines of the table, with what misses its bound marked."""
    if None in (*real, *simulated):
        yield f"| {twin.name} | a run failed, see above | - | - | - | **no** |"
        return
    for figure in FIGURES:
        theirs, ours = _median(figure, real), _median(figure, simulated)
        apart, holds = "-", ours == theirs
        if ours is not None and theirs:
            far = (ours - theirs) / theirs
            apart, holds = f"{far:+.1%}", abs(far) <= (figure.bound or 0)
        verdict = "" if figure.bound is None else "yes" if holds else "**no**"
        cells = (twin.name, figure.label, _cell(theirs), _cell(ours), apart, verdict)
        yield f"| {' | '.join(cells)} |"


def _median(figure: Figure, summaries: Summaries) -> float | None:
    found = [
        value for summary in summaries if summary and (value := figure.of(summary)) is not None
    ]
    return median(found) if len(found) == len(summaries) else None


def _cell(value: float | None) -> str:
    return "never" if value is None else f"{value:.5g}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/twin", description=__doc__)
    parser.add_argument("--backend", choices=("docker", "local"), default="docker")
    parser.add_argument("--shapes", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--nodes", nargs="+", type=int, default=[3, 8, 16])
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "twin")
    options = parser.parse_args()
    results = options.results.resolve()
    print("| file | figure | containers | virtual time | apart | holds |")
    print("|---|---|---|---|---|---|", flush=True)
    missed = False
    for shape in options.shapes:
        for nodes in options.nodes:
            for algorithm in options.algorithms:
                twin = Twin(shape=shape, nodes=nodes, algorithm=algorithm)
                real, simulated = (
                    [run(twin, verb, seed, results, more) for seed in options.seeds]
                    for verb, more in (("up", ["--backend", options.backend]), ("sim", []))
                )
                for line in rows(twin, real, simulated):
                    missed |= "**no**" in line
                    print(line, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
