"""Run a published experiment in virtual time: `scripts/reproduce NAME [--scale small]`.

Simulations that have ended are not run again, and one that was interrupted goes on from its last
checkpoint, so that a study may take several sittings: start it again with the same arguments. Each
is a run of its own under the results folder, to be looked at with `deploy compare`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import compression  # noqa: E402
import divshare  # noqa: E402
import epidemic  # noqa: E402
import single_merge  # noqa: E402
import swift  # noqa: E402
from study import Case, Make, Scope, Study  # noqa: E402

STUDIES: dict[str, Make] = {
    **divshare.STUDIES,
    **epidemic.STUDIES,
    **single_merge.STUDIES,
    **compression.STUDIES,
    **swift.STUDIES,
}


def folder_of(results: Path, study: Study, case: Case) -> Path:
    """The run folder of a case."""
    return results / study.name / case.name


def ended(folder: Path) -> bool:
    return (folder / "verdict.json").exists()


def run(results: Path, study: Study, case: Case, workers: Sequence[str]) -> int:
    """Run one simulation, or go on with it; its exit status."""
    folder = folder_of(results, study, case)
    call = [sys.executable, "-m", "deploy", "sim"]
    if (folder / "plan.json").exists():
        call += ["--resume", f"{study.name}/{case.name}"]
    else:
        files = results / f"{study.name}-files"
        files.mkdir(parents=True, exist_ok=True)
        file = files / f"{case.name}.yaml"
        file.write_text(json.dumps(case.topology, indent=1) + "\n")  # YAML has JSON in it
        call += [str(file), "--name", case.name]
    call += ["--results", str(results), *workers]
    return subprocess.run(call, cwd=ROOT, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/reproduce", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    scale = "paper: the published setting, for a GPU; small: for two cores"
    parser.add_argument("--scale", choices=divshare.SCALES, default="small", help=scale)
    data = "folder of cifar10.zip and ratings.csv"
    parser.add_argument("--data", type=Path, default=ROOT / "data", help=data)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "reproduce")
    parser.add_argument("--workers", help="processes that train; default: as deploy sim")
    parser.add_argument("--report", action="store_true", help="only report on what there is")
    options = parser.parse_args()
    results = options.results.resolve()
    study = STUDIES[options.study](
        Scope(scale=options.scale, seeds=options.seeds, data=options.data.resolve())
    )
    workers = ["--workers", options.workers] if options.workers else []
    cases = [case for case in study.cases if options.only in case.name]
    failed = []
    for number, case in enumerate(cases, 1):
        if options.report or ended(folder_of(results, study, case)):
            continue
        begin = time.monotonic()
        print(f"{number}/{len(cases)} {case.name} ...", file=sys.stderr, flush=True)
        status = run(results, study, case, workers)
        took = time.monotonic() - begin
        print(f"{case.name}: {took:.0f} s, exit status {status}", file=sys.stderr, flush=True)
        if status:
            failed.append(case.name)
    done = [(case, folder_of(results, study, case)) for case in cases]
    done = [(case, folder) for case, folder in done if ended(folder)]
    print(f"{len(done)} of {len(cases)} simulations have ended.\n")
    print(study.report(done, results / f"{study.name}-report"))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
