"""D-PSGD that sends a part of the model: accuracy and bytes after the same rounds.

Random subsampling and top-k as decentralizepy has them (Dhasade et al., EuroMLSys 2023), Choco-SGD
as published (Koloskova et al., ICML 2019); JWINS, whose figure is the claim, is not among ours.
The factor is the share of the parameters that is sent; top-k sends an index with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from claims import ACCURACY, SENT, WORST, Axis, Claim, Key, Report
from common import CIFAR10, DIGITS, Task, topology
from study import Case, Make, Scope, Study

DEGREE: Final = 4
TASKS: Final = {
    "small": Task(nodes=16, rounds=150, local_steps=10, evaluate_every=2, training=DIGITS),
    "paper": Task(nodes=96, rounds=1000, local_steps=10, evaluate_every=20, training=CIFAR10),
}
PARTITION: Final = {"kind": "shards", "shards": 4}
WHOLE: Final[Key] = ("dpsgd", 1.0)
OPTIONS: Final[Mapping[Key, Mapping[str, Any]]] = {
    WHOLE: {"name": "dpsgd"},
    ("subsampling", 0.25): {"name": "subsampling", "share": 0.25},
    ("topk", 0.1): {"name": "topk", "share": 0.1},
    ("choco", 0.1): {"name": "choco", "share": 0.1, "gamma": 0.4},
    ("choco-random", 0.25): {
        "name": "choco",
        "compression": "random",
        "share": 0.25,
        "gamma": 0.4,
    },
}


def _claims() -> list[Claim]:
    claims = []
    for key in OPTIONS:
        if key != WHOLE:
            name = f"{key[0]} {key[1]:g}"
            claims += [
                Claim(
                    says=f"{name}: D-PSGD's bytes / own bytes (JWINS: 2.8)",
                    of=lambda seed, key=key: seed.at(WHOLE, SENT) / seed.at(key, SENT),
                    least=2.2,
                ),
                Claim(
                    says=f"{name}: accuracy above D-PSGD's, in points",
                    of=lambda seed, key=key: (
                        100 * (seed.at(key, ACCURACY) - seed.at(WHOLE, ACCURACY))
                    ),
                    least=-2.0,
                ),
                Claim(
                    says=f"{name}: bytes of D-PSGD to its own 90 % / own bytes",
                    of=lambda seed, key=key: seed.speedup(WHOLE, key, 1),
                    least=1.0,
                ),
            ]
    return claims


def _study(scope: Scope) -> Study:
    name = f"compression-{scope.scale}"
    cases = [
        Case(
            series=series,
            factor=share,
            seed=seed,
            topology=topology(
                name,
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
    return Study(name=name, cases=cases, report=report.write)


STUDIES: Final[dict[str, Make]] = {"compression": _study}
