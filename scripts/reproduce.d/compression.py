"""D-PSGD that sends a part of the model: accuracy and bytes after the same rounds.

Random subsampling and top-k as decentralizepy has them (Dhasade et al., EuroMLSys 2023), Choco-SGD
as published (Koloskova et al., ICML 2019); JWINS, whose figure is the claim, is not among ours.
The factor is the share of the parameters that is sent; top-k sends an index with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from claims import Claim, Key, ahead, quotient, sooner
from common import CIFAR10, DIGITS, Task, topology
from report import Report
from runs import ACCURACY, SENT, WORST, Axis
from study import Case, Make, Scope, Study

DEGREE: Final = 4
TASKS: Final = {
    "small": Task(nodes=16, rounds=300, local_steps=10, evaluate_every=3, training=DIGITS),
    "paper": Task(nodes=96, rounds=1000, local_steps=10, evaluate_every=20, training=CIFAR10),
}
PARTITION: Final = {"kind": "shards", "shards": 4}
WHOLE: Final[Key] = ("dpsgd", 1.0)
OPTIONS: Final[Mapping[Key, Mapping[str, Any]]] = {
    WHOLE: {"name": "dpsgd"},
    ("subsampling", 0.34): {"name": "subsampling", "share": 0.34},
    ("topk", 0.17): {"name": "topk", "share": 0.17},
    ("choco", 0.17): {"name": "choco", "share": 0.17, "gamma": 0.5},
}
"""All send about 0.34 of D-PSGD's bytes, as JWINS does on average."""


def _claims() -> list[Claim]:
    claims = []
    for key in OPTIONS:
        if key != WHOLE:
            name = f"{key[0]} {key[1]:g}"
            claims += [
                quotient(
                    f"{name}: D-PSGD's bytes / own (JWINS: up to 2.8)",
                    of=(WHOLE, SENT),
                    by=(key, SENT),
                    least=2.2,
                ),
                ahead(
                    f"{name}: accuracy above D-PSGD's after the same rounds, in points",
                    base=(WHOLE, ACCURACY),
                    own=(key, ACCURACY),
                    least=-2.0,
                ),
                sooner(
                    f"{name}: bytes with which D-PSGD goes 90 % of its way / own",
                    base=WHOLE,
                    own=key,
                    least=1.0,
                ),
            ]
    return claims


def _study(scope: Scope) -> Study:
    cases = [
        Case(
            series=series,
            factor=share,
            seed=seed,
            topology=topology(
                scope=scope,
                seed=seed,
                task=TASKS[scope.scale],
                partition=PARTITION,
                algorithm=algorithm,
                overlay={"shape": "random-regular", "degree": DEGREE},
            ),
        )
        for seed in scope.seeds
        for (series, share), algorithm in OPTIONS.items()
    ]
    report = Report(
        baseline=WHOLE,
        claims=_claims(),
        columns=(ACCURACY, WORST, SENT),
        factor="share sent",
        axis=Axis.MEGABYTES,
    )
    return Study(name=f"compression-{scope.scale}", cases=cases, report=report.write)


STUDIES: Final[dict[str, Make]] = {"compression": _study}
