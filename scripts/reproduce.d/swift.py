"""SWIFT against D-PSGD where one node computes slower than the others (Bornstein et al., ICLR
2023).

The factor is how many times slower. D-PSGD waits for that node in every round; SWIFT waits for
nobody. Both exchange whole models in a ring, as in the paper, and run for the same virtual time.
"""

from __future__ import annotations

from typing import Any, Final

from claims import Claim, Key, ahead, sooner
from common import CIFAR10, DIGITS, STEP, Task, topology
from report import Report
from runs import ACCURACY, SENT, WORST, Axis
from study import Case, Make, Scope, Study

SLOWNESS: Final = (1.0, 2.0, 4.0)
TASKS: Final = {
    "small": Task(nodes=16, rounds=150, local_steps=5, evaluate_every=1, training=DIGITS),
    "paper": Task(nodes=16, rounds=2000, local_steps=10, evaluate_every=20, training=CIFAR10),
}
PARTITION: Final = {"kind": "iid"}
ALGORITHMS: Final = ("dpsgd", "swift")


def _nodes(task: Task, slowness: float) -> dict[str, Any]:
    return {
        "n": {"replicas": task.nodes - 1, "compute": {"step": STEP}},
        "slow": {"compute": {"step": STEP, "speed": 1 / slowness}},
    }


def _claims() -> list[Claim]:
    claims = []
    for slowness in SLOWNESS:
        base: Key = ("dpsgd", slowness)
        own: Key = ("swift", slowness)
        where = f"slow node {slowness:g} x"
        claims += [
            sooner(
                f"{where}: time in which D-PSGD goes 90 % of its way / SWIFT's",
                base=base,
                own=own,
                least=1.0 if slowness == 1 else 1.2,
            ),
            ahead(
                f"{where}: accuracy above D-PSGD's after the same time, in points",
                base=(base, ACCURACY),
                own=(own, ACCURACY),
                least=-1.0,
            ),
        ]
    return claims


def _study(scope: Scope) -> Study:
    task = TASKS[scope.scale]
    seconds = task.rounds * task.local_steps * 0.012
    cases = [
        Case(
            series=algorithm,
            factor=slowness,
            seed=seed,
            topology=topology(
                scope=scope,
                seed=seed,
                task=task,
                partition=PARTITION,
                algorithm={"name": algorithm},
                overlay="ring",
                nodes=_nodes(task, slowness),
                stop={"time": f"{seconds:.0f}s"},
            ),
        )
        for seed in scope.seeds
        for slowness in SLOWNESS
        for algorithm in ALGORITHMS
    ]
    report = Report(
        baseline=("dpsgd", SLOWNESS[0]),
        claims=_claims(),
        columns=(ACCURACY, WORST, SENT),
        factor="slow node, times",
        axis=Axis.TIME,
    )
    return Study(name=f"swift-{scope.scale}", cases=cases, report=report.write)


STUDIES: Final[dict[str, Make]] = {"swift": _study}
