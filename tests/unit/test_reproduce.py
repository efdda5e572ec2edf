"""scripts/reproduce: targets and ratios, figures of runs, claims, and that its files are right."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.plan import BackendKind, make_plan
from deploy.topology import parse_topology

FOLDER = Path(__file__).parents[2] / "scripts" / "reproduce.d"
RISING = [(0.0, 0.1), (1.0, 0.5), (2.0, 0.5), (3.0, 0.9)]


@pytest.fixture(scope="module")
def scripts() -> Iterator[Mapping[str, ModuleType]]:
    """The scripts' modules, which import each other by their bare names."""
    names = [path.stem for path in sorted(FOLDER.glob("*.py")) if path.stem != "__main__"]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


# Pure parts ---------------------------------------------------------------------------------------


def test_the_way_ends_at_the_mean_of_the_last_tenth(scripts: Mapping[str, ModuleType]) -> None:
    noisy = [(float(i), 0.0 if i < 18 else 0.5 + i % 2) for i in range(20)]
    assert scripts["reckon"].targets([noisy], (0.5, 1.0)) == (0.5, 1.0)


def test_targets_are_shares_of_the_way_from_the_mean_first_to_the_mean_last(
    scripts: Mapping[str, ModuleType],
) -> None:
    curves = [[(0.0, 0.1), (1.0, 0.8)], [(0.0, 0.3), (5.0, 0.6)]]
    assert scripts["reckon"].targets(curves, (0.5, 1.0)) == pytest.approx((0.45, 0.7))
    assert scripts["reckon"].targets([], (0.5,)) == ()


@pytest.mark.parametrize(
    ("target", "falling", "expected"),
    [(0.5, False, 1.0), (0.05, False, 0.0), (0.91, False, math.inf), (0.1, True, 0.0)],
)
def test_arrival_is_the_first_time_at_the_target_and_infinite_without_one(
    scripts: Mapping[str, ModuleType], target: float, falling: bool, expected: float
) -> None:
    assert scripts["reckon"].arrival(RISING, target, falling=falling) == expected


def test_a_loss_reaches_its_target_from_above(scripts: Mapping[str, ModuleType]) -> None:
    falling = [(0.0, 2.0), (1.0, 1.0), (2.0, 0.4)]
    assert scripts["reckon"].arrival(falling, 0.5, falling=True) == 2.0
    assert scripts["reckon"].arrival(falling, 0.3, falling=True) == math.inf


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [(20.0, 10.0, 2.0), (math.inf, 10.0, math.inf), (10.0, math.inf, 0.0), (0.0, 0.0, 1.0)],
)
def test_speedup_divides_arrivals_and_knows_never(
    scripts: Mapping[str, ModuleType], base: float, own: float, expected: float
) -> None:
    assert scripts["reckon"].speedup(base, own) == expected


def test_speedup_is_unknown_where_neither_arrived(scripts: Mapping[str, ModuleType]) -> None:
    assert math.isnan(scripts["reckon"].speedup(math.inf, math.inf))


def test_numbers_in_tables(scripts: Mapping[str, ModuleType]) -> None:
    reckon = scripts["reckon"]
    assert [reckon.shown(v) for v in (1.234, math.inf, math.nan)] == ["1.23", "∞", "-"]


def test_a_round_counts_once_all_nodes_have_evaluated_it(
    scripts: Mapping[str, ModuleType],
) -> None:
    def told(round_: int, accuracy: float) -> dict[str, Any]:
        return {"kind": "evaluation", "round": round_, "accuracy": accuracy}

    nodes = {"a": [told(0, 0.1), told(2, 0.4), told(4, 0.8)], "b": [told(0, 0.3), told(2, 0.6)]}
    assert scripts["runs"].by_round(nodes) == [(0, pytest.approx(0.2)), (2, pytest.approx(0.5))]


# Claims -------------------------------------------------------------------------------------------


def _held(scripts: Mapping[str, ModuleType], values: list[float], least: float) -> str:
    claims = scripts["claims"]
    column = scripts["runs"].Column(label="x", of=lambda run: 0.0)
    claim = claims.Claim(says="it is so", of=lambda s: s.at(("one", 1.0), column), least=least)
    row = claim.held([claims.Figures(values={("one", 1.0): {"x": value}}) for value in values])
    return str(row)


@pytest.mark.parametrize(
    ("values", "least", "row"),
    [
        ([1.0, 3.0, 2.0], 2.0, "| it is so | 2.00 | 2.00 (1.00 to 3.00) | yes |"),
        ([1.0, 3.0, 1.9], 2.0, "| it is so | 2.00 | 1.90 (1.00 to 3.00) | no |"),
        ([1.0, math.inf, math.inf], 2.0, "| it is so | 2.00 | ∞ (1.00 to ∞) | yes |"),
        ([math.nan, 5.0], 2.0, "| it is so | 2.00 | 5.00 (5.00 to 5.00) | yes |"),
        ([math.nan], 2.0, "| it is so | 2.00 | - | not known |"),
    ],
)
def test_a_claim_holds_by_the_median_of_the_seeds_that_know(
    scripts: Mapping[str, ModuleType], values: list[float], least: float, row: str
) -> None:
    assert _held(scripts, values, least) == row


def test_a_figure_of_a_run_that_is_missing_is_unknown(scripts: Mapping[str, ModuleType]) -> None:
    seed = scripts["claims"].Figures(values={}, curves={("base", 1.0): RISING})
    assert math.isnan(seed.at(("own", 1.0), scripts["runs"].ACCURACY))
    assert math.isnan(seed.speedup(("base", 1.0), ("own", 1.0), 0.5))
    assert math.isnan(seed.speedup(("own", 1.0), ("base", 1.0), 0.5))


@pytest.mark.parametrize(
    ("falling", "share", "expected"),
    [(False, 0.5, 1.5), (False, 1.0, 0.0), (True, 0.5, 1.5), (True, 1.0, 0.0)],
)
def test_a_speedup_is_to_a_share_of_the_way_that_the_baseline_goes(
    scripts: Mapping[str, ModuleType], falling: bool, share: float, expected: float
) -> None:
    """Whatever others reach: one may never get as far as the baseline, or further."""
    sign = -1 if falling else 1
    base = [(0.0, 0.0), (1.0, sign * 0.2), (3.0, sign * 0.5), (4.0, sign * 1.0)]
    own = [(0.0, 0.0), (2.0, sign * 0.6)]
    claims = scripts["claims"]
    seed = claims.Figures(
        values={}, curves={("base", 1.0): base, ("own", 1.0): own}, falling=falling
    )
    assert seed.speedup(("base", 1.0), ("own", 1.0), share) == expected


def test_points_ahead_and_quotients(scripts: Mapping[str, ModuleType]) -> None:
    claims, column = scripts["claims"], scripts["runs"].ACCURACY
    own, base = (("own", 1.0), column), (("base", 1.0), column)
    ahead = claims.ahead("ahead", base=base, own=own, least=0.0)
    quotient = claims.quotient("quotient", of=own, by=base, least=0.0)

    def seed(of_own: float, of_base: float) -> Any:
        label = column.label
        return claims.Figures(values={own[0]: {label: of_own}, base[0]: {label: of_base}})

    assert ahead.of(seed(0.9, 0.6)) == pytest.approx(30)
    assert quotient.of(seed(0.9, 0.6)) == pytest.approx(1.5)
    assert math.isnan(quotient.of(seed(0.9, 0.0)))


# From run folders to tables -----------------------------------------------------------------------


def _folder(at: Path, curve: list[tuple[int, float]], *, sent: int) -> Path:
    """What a simulation of two nodes leaves, as far as reports read it."""
    (at / "nodes").mkdir(parents=True)
    for node, shift in (("a", -0.1), ("b", 0.1)):
        lines = [
            {"t": 2.0 * r, "kind": "evaluation", "round": r, "accuracy": value + shift, "loss": 1.0}
            for r, value in curve
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (at / "nodes" / f"{node}.jsonl").write_text(text)
    summary = {"bytes": {"model": sent}, "nodes": {"a": {}, "b": {}}}
    (at / "summary.json").write_text(json.dumps(summary))
    return at


def _case(scripts: Mapping[str, ModuleType], series: str, seed: int, factor: float = 1.0) -> Any:
    return scripts["study"].Case(series=series, factor=factor, seed=seed, topology={})


def test_a_report_from_run_folders(scripts: Mapping[str, ModuleType], tmp_path: Path) -> None:
    claims = scripts["claims"]
    base, own = ("base", 1.0), ("own", 1.0)
    report = scripts["report"].Report(
        baseline=base,
        claims=[
            claims.Claim(says="sooner", of=lambda seed: seed.speedup(base, own, 0.5), least=1.5),
            claims.Claim(says="at all", of=lambda seed: seed.speedup(base, own, 1.0), least=1.5),
        ],
        shares=(0.5, 1.0),
    )
    done = []
    for seed in (1, 2):
        slow = [(0, 0.2), (1, 0.3), (2, 0.4), (3, 0.8)]
        fast = [(0, 0.2), (1, 0.6), (2, 0.7), (3, 0.75)]
        for series, curve in (("base", slow), ("own", fast)):
            folder = _folder(tmp_path / f"{series}-{seed}", curve, sent=4_000_000)
            done.append((_case(scripts, series, seed), folder))
    text = report.write(done, tmp_path / "report")
    assert text.splitlines() == [
        "| series | seeds | final accuracy | worst node | MB a node | rounds to 0.500 |"
        " rounds to 0.800 |",
        "|---|---|---|---|---|---|---|",
        "| base | 2 | 0.800 ± 0.000 | 0.700 ± 0.000 | 2.00 ± 0.00 | 3 | 3 |",
        "| own | 2 | 0.750 ± 0.000 | 0.650 ± 0.000 | 2.00 ± 0.00 | 1 | never |",
        "",
        "| claim | asked | median (range) over seeds | holds |",
        "|---|---|---|---|",
        "| sooner | 1.50 | 3.00 (3.00 to 3.00) | yes |",
        "| at all | 1.50 | 0.00 (0.00 to 0.00) | no |",
    ]
    assert (tmp_path / "report" / "over-rounds.png").stat().st_size > 0
    table = (tmp_path / "report" / "table.csv").read_text().splitlines()
    assert table[2] == "own,1.0,1,0.7500,0.6500,2.0000,1.0000,inf"


def test_along_bytes_a_curve_ends_at_what_a_node_sent(
    scripts: Mapping[str, ModuleType], tmp_path: Path
) -> None:
    runs = scripts["runs"]
    folder = _folder(tmp_path / "run", [(0, 0.2), (2, 0.4), (4, 0.8)], sent=8_000_000)
    run = runs.Run(folder=folder, measure=runs.BY_ACCURACY)
    points = [(0.0, 0.2), (2.0, 0.4), (4.0, 0.8)]
    assert run.curve(runs.Axis.MEGABYTES) == [pytest.approx(point) for point in points]


def test_a_report_over_factors_has_ratios_at_each(
    scripts: Mapping[str, ModuleType], tmp_path: Path
) -> None:
    runs = scripts["runs"]
    report = scripts["report"].Report(
        baseline=("base", 1.0),
        claims=[],
        columns=(runs.RMSE, runs.WORST),
        measure=runs.BY_RMSE,
        factor="factor",
        axis=runs.Axis.TIME,
        subject="own",
        against=("base",),
    )
    done = []
    for factor in (2.0, 1.0):
        for series in ("base", "own"):
            folder = _folder(tmp_path / f"{series}-{factor}", [(0, 0.2), (1, 0.3)], sent=2)
            done.append((_case(scripts, series, 7, factor), folder))
    text = report.write(done, tmp_path / "report").splitlines()
    assert [line.split("|")[1:3] for line in text[2:6]] == [
        [" base ", " 1 "],
        [" own ", " 1 "],
        [" base ", " 2 "],
        [" own ", " 2 "],
    ]
    assert text[2].startswith("| base | 1 | 1 | 1.000 | 1.000 |")  # the loss of all records
    assert text[7:11] == [
        "| time of | factor | 80% of its way | 90% of its way |",
        "|---|---|---|---|",
        "| base | 1 | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |",
        "| base | 2 | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |",
    ]
    assert (tmp_path / "report" / "ratios.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("ratio", "holds"), [(0.94, "no"), (0.95, "yes"), (1.05, "yes"), (1.06, "no")]
)
def test_parity_is_held_from_both_sides(
    scripts: Mapping[str, ModuleType], ratio: float, holds: str
) -> None:
    claims = scripts["claims"]
    claim = claims.Claim(says="even", of=lambda seed: ratio, least=0.95, most=1.05)
    row = claim.held([claims.Figures(values={})])
    assert row == f"| even | 0.95 to 1.05 | {ratio:.2f} ({ratio:.2f} to {ratio:.2f}) | {holds} |"


# Interrupted and failed simulations ---------------------------------------------------------------


def _main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command itself; it puts its folder on Python's path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("reproduce_main", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_has_a_verdict_once_it_has_no_checkpoint_left(
    scripts: Mapping[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = _main(monkeypatch)
    assert main.verdict(tmp_path) is None
    (tmp_path / "verdict.json").write_text('{"verdict": "invalid"}')
    assert main.verdict(tmp_path) == "invalid"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000001.snapshot").write_bytes(b"")
    assert main.verdict(tmp_path) is None
    assert main.resumable(tmp_path)


# The studies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("study", ["epidemic", "single_merge", "compression", "swift", "divshare"])
def test_every_case_of_a_study_is_a_topology(
    scripts: Mapping[str, ModuleType], study: str, scale: str, tmp_path: Path
) -> None:
    scope = scripts["study"].Scope(scale=scale, seeds=[1, 2], data=tmp_path)
    for make in scripts[study].STUDIES.values():
        made = make(scope)
        names = [case.name for case in made.cases]
        assert len(set(names)) == len(names)
        for case in made.cases:
            if case.seed == 1:
                topology = parse_topology(
                    json.dumps(case.topology).encode(), path=Path(f"{case.name}.yaml")
                )
                plan = make_plan(topology, run_id="r", backend=BackendKind.SIM)
                assert plan.seed == 1
