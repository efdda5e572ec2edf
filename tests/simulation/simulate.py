"""Runs of the harness: one seed, or thousands on all cores, with a summary (`scripts/simulate`)."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from tests.simulation.draw import draw
from tests.simulation.holds import ALL
from tests.simulation.invariants import Violation
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.tables import all_rows
from tests.simulation.transitions import RowId
from tests.simulation.world import World

SEEDS = 20_000
_CHUNK = 25


@dataclass(slots=True)
class Outcome:
    """What came of some seeds.

    Args:
        rounds: completed, of all members together.
        faults: injected, by kind.
        rows: of the tables, how often each was taken.
        slowest: seconds and seed.
        violations: invariant and text of each seed that failed.
    """

    seeds: int = 0
    rounds: int = 0
    syncs: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    rows: Counter[RowId] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    violations: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.seeds += other.seeds
        self.rounds += other.rounds
        self.syncs += other.syncs
        self.steps += other.steps
        self.virtual_s += other.virtual_s
        self.faults.update(other.faults)
        self.rows.update(other.rows)
        self.ends.update(other.ends)
        self.slowest = max(self.slowest, other.slowest)
        self.violations += other.violations


def world_of(seed: int, *, trace: bool = False) -> World:
    """The world of a seed, watched by all invariants."""
    world = World(draw(seed), trace=trace)
    world.watch.use([invariant(world.watch) for invariant in ALL])
    return world


def play(seed: int, *, trace: bool = False) -> Outcome:
    """One seed to its end; a violation is part of the outcome."""
    begin = time.perf_counter()
    world = world_of(seed, trace=trace)
    outcome = Outcome(seeds=1)
    try:
        world.run()
    except Violation as violation:
        outcome.violations.append((seed, violation.invariant, str(violation)))
    except Exception as error:  # a machine raised: a defect, to be replayed like any other
        if trace:
            raise
        raised = Violation(invariant="no-exception", text=repr(error), world=world)
        outcome.violations.append((seed, "no-exception", str(raised)))
    finish = world.coordinator.finish
    outcome.ends[finish.reason if finish is not None else "none"] += 1
    outcome.rounds = sum(node.machine.round for node in world.lives)
    outcome.steps = world.steps
    outcome.virtual_s = world.watch.seconds
    outcome.faults = world.counts
    outcome.syncs = sum(
        record.kind == "sync" and record.fields["state"] == "done"
        for _, record in world.coordinator_records
    )
    outcome.rows = world.watch.rows()
    outcome.slowest = (time.perf_counter() - begin, seed)
    return outcome


def play_all(seeds: Iterable[int]) -> Outcome:
    total = Outcome()
    for seed in seeds:
        total.add(play(seed))
    return total


def unseen(rows: Counter[RowId]) -> list[RowId]:
    """Rows of the tables that were never taken."""
    return [row for row in all_rows() if not rows[row]]


def _job(arguments: tuple[list[int], str | None]) -> Outcome:
    seeds, mutation = arguments
    with mutated(mutation) if mutation is not None else nullcontext():
        return play_all(seeds)


def _chunks(seeds: range, mutation: str | None) -> Iterator[tuple[list[int], str | None]]:
    for start in range(0, len(seeds), _CHUNK):
        yield list(seeds[start : start + _CHUNK]), mutation


def run_many(
    seeds: range, *, jobs: int, mutation: str | None, progress: Callable[[Outcome], None]
) -> Outcome:
    """All seeds on `jobs` processes."""
    total = Outcome()
    work = _chunks(seeds, mutation)
    if jobs == 1:
        results: Iterator[Outcome] = map(_job, work)
        pool = None
    else:
        # Forked before anything runs: the workers have the machines, mutated or not, as they are.
        pool = multiprocessing.get_context("fork").Pool(jobs)
        results = pool.imap_unordered(_job, work)
    try:
        for outcome in results:
            total.add(outcome)
            progress(total)
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()
    return total


def summary(total: Outcome, *, wall_s: float) -> str:
    """What a run of many seeds came to, for people."""
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(total.faults.items()))
    ends = ", ".join(f"{reason} {count}" for reason, count in total.ends.most_common())
    rows, never = all_rows(), unseen(total.rows)
    many = total.seeds >= 1000
    lines = [
        f"{total.seeds} seeds in {wall_s:.0f} s ({total.virtual_s / 3600:.1f} hours of virtual "
        f"time, {total.steps} steps)",
        f"rounds completed: {total.rounds}; models synced: {total.syncs}; ends: {ends}",
        f"faults: {faults or 'none'}",
        f"rows of the tables taken: {len(rows) - len(never)} of {len(rows)}",
        *(f"  never: {table}: {state}, {event}" for table, state, event in never if many),
        f"slowest seed: {total.slowest[1]} with {total.slowest[0] * 1000:.0f} ms",
    ]
    kinds = Counter(invariant for _, invariant, _ in total.violations)
    lines.append(f"violations: {len(total.violations)}")
    for invariant, count in kinds.most_common():
        examples = sorted(seed for seed, name, _ in total.violations if name == invariant)
        shown = ", ".join(map(str, examples[:8]))
        lines.append(f"  {invariant}: {count} (seeds {shown}{', ...' if count > 8 else ''})")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many (default {SEEDS})")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first (default 0)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--mutate", choices=sorted(MUTATIONS), help="break a machine on purpose")
    options = parser.parse_args()
    if options.trace and options.seed is None:
        parser.error("--trace needs --seed")
    if options.seeds < 1 or options.jobs < 1 or options.first < 0:
        parser.error("--seeds and --jobs must be at least 1, --from at least 0")
    return options


def main() -> int:
    options = _arguments()
    begin = time.monotonic()
    if options.seed is not None:
        with mutated(options.mutate) if options.mutate else nullcontext():
            total = play(options.seed, trace=options.trace)
    else:
        seeds = range(options.first, options.first + options.seeds)
        shown = [0.0]

        def progress(so_far: Outcome) -> None:
            now = time.monotonic()
            if now >= shown[0] + 5:
                shown[0] = now
                rate = so_far.seeds / (now - begin)
                text = f"{so_far.seeds}/{len(seeds)} seeds, {rate:.0f} a second"
                print(f"{text}, {len(so_far.violations)} violations", file=sys.stderr, flush=True)

        total = run_many(seeds, jobs=options.jobs, mutation=options.mutate, progress=progress)
    if total.violations:
        _, _, text = min(total.violations)
        print(text + (f" --mutate {options.mutate}" if options.mutate else ""))
    print(summary(total, wall_s=time.monotonic() - begin))
    return 1 if total.violations else 0
