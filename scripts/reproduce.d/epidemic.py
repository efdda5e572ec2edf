"""Epidemic Learning against D-PSGD on a static graph, for the same bytes (de Vos et al., NeurIPS
2023).

Both send s models a node and round: D-PSGD to the s neighbours of a random regular graph that
stays, Epidemic Learning to s nodes that are drawn anew. So rounds count bytes, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from claims import Claim, Key, ahead, sooner
from common import CIFAR10, DIGITS, Task, topology
from report import Report
from runs import ACCURACY
from study import Case, Make, Scope, Study

DEGREES: Final = {"small": 4, "paper": 7}
TASKS: Final = {
    "small": Task(nodes=32, rounds=60, local_steps=10, evaluate_every=1, training=DIGITS),
    "paper": Task(nodes=96, rounds=1000, local_steps=10, evaluate_every=20, training=CIFAR10),
}
PARTITION: Final = {"kind": "dirichlet", "alpha": 0.1}


def _series(degree: int) -> Mapping[str, tuple[Mapping[str, Any], Any]]:
    """Algorithm and overlay of each."""
    epidemic = {"name": "epidemic", "degree": degree}
    regular = {"shape": "random-regular", "degree": degree}
    return {
        "dpsgd": ({"name": "dpsgd"}, regular),
        "el-local": ({**epidemic, "variant": "local"}, "full"),
        "el-oracle": ({**epidemic, "variant": "oracle"}, "full"),
    }


def _claims(degree: int) -> list[Claim]:
    base: Key = ("dpsgd", degree)
    claims = []
    for name in ("el-local", "el-oracle"):
        own: Key = (name, degree)
        claims += [
            sooner(
                f"{name}: rounds in which D-PSGD goes 90 % of its way / own (paper: up to 1.7)",
                base=base,
                own=own,
                least=1.1,
            ),
            ahead(
                f"{name}: final accuracy above D-PSGD's, in points (paper: up to 2.2)",
                base=(base, ACCURACY),
                own=(own, ACCURACY),
                least=0.0,
            ),
        ]
    return claims


def _study(scope: Scope) -> Study:
    degree, task = DEGREES[scope.scale], TASKS[scope.scale]
    cases = [
        Case(
            series=series,
            factor=degree,
            seed=seed,
            topology=topology(
                scope=scope,
                seed=seed,
                task=task,
                partition=PARTITION,
                algorithm=algorithm,
                overlay=overlay,
            ),
        )
        for seed in scope.seeds
        for series, (algorithm, overlay) in _series(degree).items()
    ]
    report = Report(baseline=("dpsgd", degree), claims=_claims(degree))
    return Study(name=f"epidemic-{scope.scale}", cases=cases, report=report.write)


STUDIES: Final[dict[str, Make]] = {"epidemic": _study}
