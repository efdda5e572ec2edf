"""One global merge after sparse gossip ("On the Surprising Effectiveness of a Single Global Merging
in Decentralized Learning", Zhu et al., ICLR 2026).

Each node pulls r models a round on average: none, one in five rounds, or all others; the last
round of the first two is a merge of all. The local models are those after the last round but one,
before the merge. All others in every round (r = n - 1) is what all-reduce does.
"""

from __future__ import annotations

from typing import Any, Final

from claims import Claim, Key, ahead, quotient
from common import CIFAR10, DIGITS, Task, topology
from report import Report
from runs import ACCURACY, SENT, Axis, Column, Run
from study import Case, Make, Scope, Study

TASKS: Final = {
    "small": Task(nodes=16, rounds=150, local_steps=10, evaluate_every=1, training=DIGITS),
    "paper": Task(nodes=32, rounds=300, local_steps=100, evaluate_every=1, training=CIFAR10),
}
PARTITIONS: Final = {
    "small": {"kind": "shards", "shards": 2},
    "paper": {"kind": "dirichlet", "alpha": 0.1},
}
SPARSE: Final = (0.0, 0.2)
SERIES: Final = "merge"


def _before(run: Run) -> float:
    """The nodes' mean accuracy after the last round but one."""
    rounds = run.curve(Axis.ROUNDS)
    last = rounds[-1][0]
    return next(value for round_, value in reversed(rounds) if round_ < last)


LOCAL: Final = Column(label="before the last round", of=_before)
MERGED: Final = Column(label="after it", of=ACCURACY.of)


def _algorithm(r: float, task: Task) -> dict[str, Any]:
    schedule = "truncate" if r in SPARSE else "fixed"
    # The last round alone: the round before it is not as far as this.
    point = 1 - 0.5 / task.rounds
    options = {"rounds": task.rounds, "schedule": schedule, "r_start": r, "point": point}
    return {"name": "single-merge", **options}


def _claims(dense: Key) -> list[Claim]:
    none, some = ((SERIES, r) for r in SPARSE)
    return [
        quotient(
            "the merged model of r = 0.2 / that of all-reduce",
            of=(some, MERGED),
            by=(dense, MERGED),
            least=0.85,
        ),
        ahead(
            "what the merge adds to the nodes' models at r = 0.2, in points",
            base=(some, LOCAL),
            own=(some, MERGED),
            least=20.0,
        ),
        quotient(
            "the merged model of r = 0.2 / that of r = 0",
            of=(some, MERGED),
            by=(none, MERGED),
            least=2.0,
        ),
    ]


def _study(scope: Scope) -> Study:
    task = TASKS[scope.scale]
    dense: Key = (SERIES, task.nodes - 1)
    cases = [
        Case(
            series=SERIES,
            factor=r,
            seed=seed,
            topology=topology(
                scope=scope,
                seed=seed,
                task=task,
                partition=PARTITIONS[scope.scale],
                algorithm=_algorithm(r, task),
                overlay="full",
            ),
        )
        for seed in scope.seeds
        for r in (*SPARSE, dense[1])
    ]
    columns = (LOCAL, MERGED, SENT)
    report = Report(baseline=dense, claims=_claims(dense), columns=columns, factor="r", shares=())
    return Study(name=f"single-merge-{scope.scale}", cases=cases, report=report.write)


STUDIES: Final[dict[str, Make]] = {"single-merge": _study}
