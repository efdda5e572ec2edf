"""The simulator's engine alone: DivShare with J = 6 and 10 fragments, training off, one core.

A transfer is one fragment that has come to one peer's algorithm, through all that a run of `deploy
sim --no-training` consists of. A model of 1,000 parameters stands for one of 359 kB; every node has
60 Mbit/s up and down, and knows all others.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc

from _engine import ROUND_NS, Bed, bed
from rows import Bench, Row

from node.config import Pacing
from node.sim.interfaces import Sharing

_WARM = 2
"""Rounds that are not counted."""
ASKED = {Sharing.NONE: 100_000, Sharing.FAIR: 40_000}
MEMORY_KIB = 100


def started(nodes: int, sharing: Sharing, **others: object) -> Bed:
    made = bed(nodes, sharing, **others)  # type: ignore[arg-type]
    while made.delivered == 0:
        made.world.run(events=10_000)
    made.world.run(until=made.world.now + _WARM * ROUND_NS)
    made.world.records.flush()  # a line for each of a million streams
    gc.freeze()  # what is there stays, and need not be looked at again and again
    return made


def rate(made: Bed, *, rounds: int) -> float:
    """Transfers a second of this process's time; the median over so many rounds."""
    rates = []
    for _ in range(rounds):
        before, begin = made.delivered, time.process_time()
        made.world.run(until=made.world.now + ROUND_NS)
        took = time.process_time() - begin
        rates.append((made.delivered - before) / took)
    return statistics.median(rates)


def engine() -> list[Row]:
    rows = []
    for sharing, asked in ASKED.items():
        for nodes, rounds, least in ((60, 30, asked), (1000, 3, asked // 2)):
            measured = rate(started(nodes, sharing), rounds=rounds)
            rows.append(
                Row(
                    figure=f"transfers a second, {nodes} nodes, sharing: {sharing.value}",
                    value=measured,
                    unit="/s",
                    target=f"at least {least}",
                    holds=measured >= least,
                )
            )
    crowd = started(60, Sharing.FAIR, slow=30, pacing=Pacing.PARALLEL)
    rows.append(
        Row(
            figure="the same, 60 nodes, fair, half of them with 12 Mbit/s, parallel pacing",
            value=rate(crowd, rounds=5),
            unit="/s",
        )
    )
    rows.append(memory())
    return rows


def memory() -> Row:
    """What 1,000 nodes take after some rounds, with all that is under way, less their models."""
    gc.collect()
    tracemalloc.start()
    made = started(1000, Sharing.FAIR)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    hosts = made.world.hosts.values()
    models = sum(host.machine.parameters.nbytes for host in hosts)
    each = (held - models) / len(hosts) / 1024
    return Row(
        figure=f"memory a node, 1,000 nodes, {_WARM} rounds, models apart",
        value=each,
        unit="KiB",
        target=f"below {MEMORY_KIB}",
        holds=each < MEMORY_KIB,
    )


BENCHES: dict[str, Bench] = {"engine": engine}
