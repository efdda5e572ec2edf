"""DivShare against AD-PSGD and SWIFT with half the nodes stragglers (Biswas et al., WWW 2025).

The published setting: 60 nodes, fast ones with 60 Mbit/s, stragglers with 60 / factor, 1 ms, J = 6,
omega = 0.1; CIFAR-10 with GN-LeNet, 5 shards a node, SGD with 0.05 and batches of 8. How long a
round computes is not published and decides the outcome: we state that a fast node ships a round's
six models in half of it, which is 0.575 s a round.

Baselines as the paper's artifact has them (`*-artifact`), once with its own queue, which grows
without bound, and once with a bounded one; and AD-PSGD and SWIFT as their own papers have them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from claims import DECISIVE, Claim, Key, ahead, quotient, sooner
from report import Report
from runs import ACCURACY, BY_ACCURACY, BY_RMSE, RMSE, SENT, WORST, Axis, Column, Measure
from study import Case, Make, Scope, Study

NODES: Final = 60
DEGREE: Final = 6
FAST_MBIT: Final = 60
FACTORS: Final = (5.0, 10.0, 1.0, 2.5)
"""The order is that of running: what the abstract's claim is about comes first."""
GN_LENET: Final = 4 * 89_834
FACTORS_OF_FILMS: Final = 4 * 206_680
"""Bytes of the published models: what a message counts for, whatever model stands for it."""
BUSY: Final = 0.5
"""Share of a round's computing in which a fast node ships its models."""
SPREAD: Final = 0.05
"""No two machines are as fast: speeds are even between 1 - `SPREAD` and 1 + `SPREAD`. With equal
ones all nodes would compute, send and average in lock step, to the nanosecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of the published setting is computed.

    Args:
        local_steps: mini-batch steps a round.
        rounds: that a run has time for.
        evaluate_every: rounds.
        model_bytes: what a message of a whole model counts for.
        training: of the topology file.
    """

    local_steps: int
    rounds: int
    evaluate_every: int
    model_bytes: int
    training: dict[str, Any]


_CIFAR: Final = {"preset": "divshare-cifar10"}
_MOVIES: Final = {"preset": "divshare-movielens"}
_CIFAR_SCALES: Final = {
    "paper": Scale(
        local_steps=128, rounds=1400, evaluate_every=20, model_bytes=GN_LENET, training=_CIFAR
    ),
    "small": Scale(
        local_steps=8,
        rounds=250,
        evaluate_every=5,
        model_bytes=GN_LENET,
        training={**_CIFAR, "model": "gn-lenet-small", "test_samples": 500},
    ),
}
_MOVIE_SCALES: Final = {
    name: Scale(
        local_steps=10,
        rounds=rounds,
        evaluate_every=20,
        model_bytes=FACTORS_OF_FILMS,
        training=_MOVIES,
    )
    for name, rounds in (("paper", 1400), ("small", 250))
}
SCALES: Final = tuple(_CIFAR_SCALES)

ALGORITHMS: Final[dict[str, dict[str, Any]]] = {
    "divshare": {"name": "divshare", "omega": 0.1, "degree": DEGREE},
    "adpsgd-bounded": {"name": "adpsgd-artifact", "degree": DEGREE, "queue": "bounded"},
    "adpsgd-unbounded": {"name": "adpsgd-artifact", "degree": DEGREE, "queue": "unbounded"},
    "swift-bounded": {"name": "swift-artifact", "degree": DEGREE, "queue": "bounded"},
    "swift-unbounded": {"name": "swift-artifact", "degree": DEGREE, "queue": "unbounded"},
    "adpsgd-paper": {"name": "adpsgd"},
    "swift-paper": {"name": "swift"},
}
PACING: Final = "parallel"
"""As the artifact's sockets: its send queue empties into one connection for each peer, and they
race. One at a time, a whole model for a straggler would hold up all that follow it."""
OVERLAYS: Final[dict[str, Any]] = {
    # Their own papers have graphs, not everybody: SWIFT sends its model to all neighbours.
    "adpsgd-paper": {"shape": "random-regular", "degree": DEGREE},
    "swift-paper": {"shape": "random-regular", "degree": DEGREE},
}
BASELINES: Final = ("adpsgd-bounded", "adpsgd-unbounded")
"""Both queue policies. The first sets the targets, at factor 1, where links are no bottleneck: what
the slower method can reach there."""
SHARES: Final = (0.8, 0.9, 0.95)
STRONGEST: Final = max(FACTORS)
SOONER: Final = 3.9
"""What is asked at the strongest factor; the paper: up to so many times sooner."""
PARITY: Final = 0.05


def _nodes(step: str, factor: float, seed: int) -> dict[str, Any]:
    """The same machines for all series of a seed; the second half of them are stragglers."""
    rng = random.Random(seed)
    nodes: dict[str, Any] = {}
    for place in range(NODES):
        speed = round(rng.uniform(1 - SPREAD, 1 + SPREAD), 4)
        node: dict[str, Any] = {"compute": {"step": step, "speed": speed}}
        if place < NODES // 2:
            nodes[f"fast-{place:02}"] = node
        else:
            rate = f"{FAST_MBIT * 1e3 / factor:.0f}kbit"
            nodes[f"slow-{place - NODES // 2:02}"] = {**node, "link": {"rate": rate}}
    return nodes


def _topology(scale: Scale, scope: Scope, series: str, factor: float, seed: int) -> Any:
    """The topology file of one case: a switch, and half the nodes behind slow links."""
    round_s = DEGREE * scale.model_bytes * 8 / (FAST_MBIT * 1e6) / BUSY
    step = f"{round_s / scale.local_steps * 1e6:.0f}us"
    return {
        "seed": seed,
        "nodes": _nodes(step, factor, seed),
        "network": {"shape": "star", "link": {"rate": f"{FAST_MBIT}mbit", "delay": "1ms"}},
        "overlay": OVERLAYS.get(series, "network"),
        "algorithm": {
            **ALGORITHMS[series],
            "pacing": PACING,
            "local_steps": scale.local_steps,
        },
        "training": {
            **scale.training,
            "data_dir": str(scope.data),
            "message_size": f"{scale.model_bytes}B",
            "evaluate_every": scale.evaluate_every,
        },
        "stop": {"time": f"{round_s * scale.rounds:.0f}s"},
    }


def _cases(scale: Scale, scope: Scope) -> Iterator[Case]:
    """Seed by seed, so that an interrupted study has all of what it has; what claims are about
    before the papers' own forms."""
    for paper in (False, True):
        for seed in scope.seeds:
            for factor in FACTORS:
                for series in ALGORITHMS:
                    if (series in OVERLAYS) is paper:
                        topology = _topology(scale, scope, series, factor, seed)
                        yield Case(series=series, factor=factor, seed=seed, topology=topology)


def _sooner() -> list[Claim]:
    """How much sooner than AD-PSGD, for each factor and queue."""
    claims = []
    for base in BASELINES:
        for factor in sorted(FACTORS):
            least, most = 1.0, math.inf
            if factor == 1:
                least, most = 1 - PARITY, 1 + PARITY
            elif factor == STRONGEST:
                least = SOONER
            claims.append(
                sooner(
                    f"factor {factor:g}: time of {base} / DivShare's, {DECISIVE:.0%} of"
                    " its way (paper: up to 3.9)",
                    base=(base, factor),
                    own=("divshare", factor),
                    least=least,
                    most=most,
                )
            )
    return claims


def _report(claims: list[Claim], column: Column, measure: Measure) -> Report:
    return Report(
        baseline=(BASELINES[0], 1.0),
        claims=[*_sooner(), *claims],
        columns=(column, WORST, SENT),
        measure=measure,
        factor="straggling factor",
        axis=Axis.TIME,
        shares=SHARES,
        subject="divshare",
        against=BASELINES,
    )


def _cifar(scope: Scope) -> Study:
    own: Key = ("divshare", STRONGEST)
    claims = []
    for base in BASELINES:
        # Whether the abstract's 19.4 % is a share or points it does not say.
        theirs: Key = (base, STRONGEST)
        where, paper = f"factor {STRONGEST:g}: final accuracy", "(paper: up to 19.4 %)"
        claims += [
            quotient(
                f"{where} / that of {base} {paper}",
                of=(own, ACCURACY),
                by=(theirs, ACCURACY),
                least=1.194,
            ),
            ahead(
                f"{where} above that of {base}, in points {paper}",
                own=(own, ACCURACY),
                base=(theirs, ACCURACY),
                least=19.4,
            ),
        ]
    return Study(
        name=f"divshare-cifar10-{scope.scale}",
        cases=tuple(_cases(_CIFAR_SCALES[scope.scale], scope)),
        report=_report(claims, ACCURACY, BY_ACCURACY).write,
    )


def _movielens(scope: Scope) -> Study:
    own: Key = ("divshare", STRONGEST)
    claims = [
        quotient(
            f"factor {STRONGEST:g}: final RMSE of {base} / DivShare's (paper: up to 9.5 % lower)",
            of=((base, STRONGEST), RMSE),
            by=(own, RMSE),
            least=1 / (1 - 0.095),
        )
        for base in BASELINES
    ]
    return Study(
        name=f"divshare-movielens-{scope.scale}",
        cases=tuple(_cases(_MOVIE_SCALES[scope.scale], scope)),
        report=_report(claims, RMSE, BY_RMSE).write,
    )


STUDIES: Final[dict[str, Make]] = {"divshare": _cifar, "divshare-movielens": _movielens}
