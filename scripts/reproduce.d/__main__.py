"""Run a published experiment in virtual time: `scripts/reproduce NAME [--scale small]`.

Simulations that have ended are not run again, and one that was interrupted goes on from its last
checkpoint, so that a study may take several sittings: start it again with the same arguments. Each
is a run of its own under the results folder, to be looked at with `deploy compare`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
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

from deploy.results import RunFolder, RunState  # noqa: E402

STUDIES: dict[str, Make] = {
    **divshare.STUDIES,
    **epidemic.STUDIES,
    **single_merge.STUDIES,
    **compression.STUDIES,
    **swift.STUDIES,
}

RUNS = "runs"
"""The experiment that the runs of a study are of, for `deploy`."""


def folder_of(results: Path, study: Study, case: Case) -> Path:
    """The run folder of a case. Names of runs are unique in a results folder, so each study has one
    of its own: `<study>/{files,runs,report}`."""
    return results / study.name / RUNS / case.name


def verdict(folder: Path) -> str | None:
    """Of a simulation that has ended; None where there is none, or it was interrupted."""
    file = folder / "verdict.json"
    if resumable(folder) or not file.exists():
        return None
    return str(json.loads(file.read_text())["verdict"])


def resumable(folder: Path) -> bool:
    """Whether there is a checkpoint, which only those have that were interrupted."""
    return any((folder / "checkpoints").glob("*"))


def run(results: Path, study: Study, case: Case, workers: Sequence[str]) -> int:
    """Run one simulation, or go on with it; its exit status."""
    folder = folder_of(results, study, case)
    call = [sys.executable, "-m", "deploy", "sim"]
    if resumable(folder):
        call += ["--resume", case.name]
    else:
        if folder.exists() and RunFolder(folder).state() is RunState.ABANDONED:
            shutil.rmtree(folder)  # it was killed before its first checkpoint
        file = results / study.name / "files" / f"{case.name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        topology = {"name": RUNS, **case.topology}
        file.write_text(json.dumps(topology, indent=1) + "\n")  # YAML has JSON in it
        call += [str(file), "--name", case.name]
    call += ["--results", str(results / study.name), *workers]
    # What it prints is in the run folder: `deploy results`.
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it takes a checkpoint
            process.wait()
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/reproduce", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    scale = "paper: about the published setting, for a GPU; small: for two cores"
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
    failed = False
    for number, case in enumerate(cases, 1):
        if options.report or verdict(folder_of(results, study, case)):
            continue
        begin = time.monotonic()
        print(f"{number}/{len(cases)} {case.name} ...", file=sys.stderr, flush=True)
        status = run(results, study, case, workers)
        failed |= status != 0
        took = time.monotonic() - begin
        print(f"{case.name}: {took:.0f} s, exit status {status}", file=sys.stderr, flush=True)
    folders = {case: folder_of(results, study, case) for case in cases}
    found = {case: verdict(folder) for case, folder in folders.items()}
    done = [(case, folders[case]) for case in cases if found[case] == "valid"]
    print(f"{len(done)} of {len(cases)} simulations have ended and are valid.\n")
    if done:
        print(study.report(done, results / study.name / "report"))
    bad = [str(folders[case]) for case in cases if found[case] not in (None, "valid")]
    if bad:
        remedy = "see deploy results; delete the folder to run it again"
        print(f"not valid, and left out ({remedy}): {', '.join(bad)}", file=sys.stderr)
    return 1 if bad or failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the simulation is told, too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: start it again with the same arguments to go on")
