"""`deploy status`, `logs`, `wait` and `results`: runs as their folders show them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from deploy.follow import Follower, Tail
from deploy.history import as_float, as_int
from deploy.live import node_table, percent
from deploy.plan import BackendKind, Plan, plan_from_json
from deploy.progress import Progress
from deploy.report import plot_run, print_run, run_json
from deploy.results import Results, RunFolder, RunState
from node.errors import ConfigError, PeerbedError, RunFailed

_LOOK_EVERY_S: Final = 0.2
_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_red")


# status ------------------------------------------------------------------------------------------


def status(reference: str | None, *, results: Path, as_json: bool) -> int:
    """Show how far a run is; returns 0 whatever it is like: `wait` tells by its status."""
    folder = Results(results).find(reference)
    progress = read_progress(folder)
    state = folder.state()
    verdict = folder.verdict or {}
    if as_json:
        nodes = [asdict(row) for row in progress.rows.values()] if progress else []
        facts = {
            "run": folder.run_id,
            "topology": folder.topology,
            "path": str(folder.path),
            "state": state.value,
            "phase": progress.phase if progress else None,
            "accuracy": progress.accuracy if progress else None,
            "barrier": progress.barrier or None if progress else None,
            "waiting": progress.waiting or None if progress else None,
            "links": _link_changes(progress) if progress else None,
            "nodes": nodes,
            "verdict": verdict.get("verdict"),
            "reasons": verdict.get("reasons", []),
            "remarks": verdict.get("remarks", []),
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    from rich.console import Console

    console = Console()
    phase = progress.phase if progress and state is RunState.RUNNING else ""
    words = [f"{folder.topology}/{folder.run_id}:", state.value, phase, verdict.get("verdict", "")]
    console.print(" ".join(filter(None, words)), markup=False, highlight=False)
    for reason in (*verdict.get("reasons", []), *verdict.get("remarks", [])):
        console.print(f"  {reason}", markup=False, highlight=False)
    if progress is not None:
        console.print(node_table(progress))
        for line in filter(None, (progress.barrier, progress.waiting)):
            console.print(line, markup=False, highlight=False)
        if progress.last_change is not None:
            at, what = progress.last_change
            times = "once" if progress.link_changes == 1 else f"{progress.link_changes} times"
            text = f"links have changed {times}, last at {at:.6g} s: {what}"
            console.print(text, markup=False, highlight=False)
    if state is RunState.ABANDONED:
        console.print("its deploy was killed; deploy down removes what is left", markup=False)
    return 0


def _link_changes(progress: Progress) -> dict[str, Any]:
    at, what = progress.last_change or (None, None)
    return {"changes": progress.link_changes, "last_at_s": at, "last": what}


def read_progress(folder: RunFolder) -> Progress | None:
    """All records of a run so far, folded; None where it has no plan."""
    plan = read_plan(folder)
    if plan is None:
        return None
    names = tuple(str(node.name) for node in plan.nodes)
    told = plan.coordinator
    progress = Progress(nodes=names, stop=told.stop, standby=told.standby)
    for member, event in Follower(folder, nodes=names).poll():
        progress.feed(member, event)
    return progress


def read_plan(folder: RunFolder) -> Plan | None:
    """The plan of a run; None where it is missing or unreadable."""
    try:
        return plan_from_json(folder.plan_file.read_text())
    except (OSError, PeerbedError):
        return None


# wait --------------------------------------------------------------------------------------------


def wait(reference: str | None, *, timeout_s: float | None, results: Path, as_json: bool) -> int:
    """Wait for a run's end; returns what its verdict means."""
    folder = Results(results).find(reference)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (state := folder.state()) in (RunState.RUNNING, RunState.ELSEWHERE):
        if deadline is not None and time.monotonic() > deadline:
            raise RunFailed(
                f"run {folder.run_id} has not ended within {timeout_s:g} s",
                remedy=f"see deploy status {folder.run_id}; it goes on",
            )
        time.sleep(_LOOK_EVERY_S)
    if state is RunState.ABANDONED:
        raise RunFailed(
            f"run {folder.run_id} has no verdict: the process that ran it is gone",
            remedy="deploy down removes what is left of it",
        )
    folder.await_owner()
    if as_json:
        sys.stdout.write(json.dumps(run_json(folder), indent=2) + "\n")
    else:
        print_run(folder)
    return as_int((folder.verdict or {}).get("exit_status"), 1)


# logs --------------------------------------------------------------------------------------------


def logs(reference: str | None, *, node: str | None, follow: bool, results: Path) -> int:
    """Print what members printed; with `follow`, until the run has ended."""
    folder, node = _run_and_node(Results(results), reference, node)
    plan = read_plan(folder)
    members = ["coordinator", *(str(n.name) for n in plan.nodes)] if plan else []
    if node is not None and node not in (*members, "deploy", "compose"):
        raise ConfigError(
            f"run {folder.run_id} has no member {node!r}",
            remedy=f"name one of: {', '.join(members)}",
        )
    chosen = [node] if node is not None else members
    from_engine = (
        folder.state() is RunState.RUNNING
        and plan is not None
        and plan.backend is BackendKind.DOCKER
        and node not in ("deploy", "compose")
    )
    if from_engine:
        from deploy.backends.docker import DockerBackend

        _print_lines(
            DockerBackend().follow_logs(folder, chosen, follow=follow), alone=len(chosen) == 1
        )
        return 0
    _print_lines(_file_lines(folder, chosen, follow=follow), alone=len(chosen) == 1)
    return 0


def _run_and_node(
    results: Results, reference: str | None, node: str | None
) -> tuple[RunFolder, str | None]:
    """One argument may be a node of the newest run, or a run."""
    if reference is not None and node is None and results.runs():
        newest = results.find(None)
        plan = read_plan(newest)
        names = {str(n.name) for n in plan.nodes} if plan else set()
        if reference in names | {"coordinator", "deploy", "compose"}:
            return newest, reference
    return results.find(reference), node


def _file_lines(
    folder: RunFolder, members: Iterable[str], *, follow: bool
) -> Iterable[tuple[str, str]]:
    """Lines of log files with the member that each is of."""
    tails = {
        member: Tail(folder.deploy_log if member == "deploy" else folder.log_file(member))
        for member in members
    }
    while True:
        over = not follow or folder.state() is not RunState.RUNNING
        for member, tail in tails.items():
            for line in tail.lines():
                yield member, line.decode(errors="replace")
        if over:
            return
        time.sleep(_LOOK_EVERY_S)


def _print_lines(lines: Iterable[tuple[str, str]], *, alone: bool) -> None:
    """Print lines; of several members, each behind its member's name."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    styles: dict[str, str] = {}
    for member, line in lines:
        text = Text()
        if not alone:
            style = styles.setdefault(member, _COLOURS[len(styles) % len(_COLOURS)])
            text.append(f"{member} | ", style=style)
        console.print(text.append(line))


# results -----------------------------------------------------------------------------------------


def results(
    reference: str | None, *, topology: str | None, plot: Path | None, results: Path, as_json: bool
) -> int:
    """List runs, or show one."""
    folder = Results(results)
    if reference is not None or plot is not None:
        run = folder.find(reference)
        if plot is not None:
            plot_run(run, plot)
        if as_json:
            sys.stdout.write(json.dumps(run_json(run), indent=2) + "\n")
        else:
            print_run(run)
        return 0
    rows = [_row(run) for run in folder.runs(topology=topology)]
    if as_json:
        sys.stdout.write(json.dumps({"runs": rows}, indent=2) + "\n")
    else:
        _print_rows(rows, folder)
    return 0


def _row(run: RunFolder) -> dict[str, Any]:
    summary, manifest = run.summary or {}, run.manifest
    accuracy = (summary.get("accuracy") or {}).get("mean")
    return {
        "run": run.run_id,
        "topology": run.topology,
        "path": str(run.path),
        "started": manifest.get("started"),
        "state": run.state().value,
        "verdict": (run.verdict or {}).get("verdict"),
        "backend": manifest.get("backend"),
        "nodes": manifest.get("nodes"),
        "purpose": manifest.get("purpose", "train"),
        "algorithm": manifest.get("algorithm"),
        "accuracy": as_float(accuracy),
        "duration_s": as_float(summary.get("duration_s")),
    }


def _print_rows(rows: list[dict[str, Any]], results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        sys.stdout.write(f"no runs in {results.path} yet; start one: deploy up FILE\n")
        return
    table = Table()
    for heading in ("run", "started", "state", "backend", "algorithm"):
        table.add_column(heading)
    for heading in ("nodes", "accuracy", "seconds"):
        table.add_column(heading, justify="right")
    for row in rows:
        duration = row["duration_s"]
        table.add_row(
            f"{row['topology']}/{row['run']}",
            str(row["started"] or "-").replace("T", " ").rstrip("Z"),
            str(row["verdict"] or row["state"]),
            str(row["backend"] or "-"),
            str(row["algorithm"] or (row["purpose"] if row["purpose"] != "train" else "-")),
            str(row["nodes"] or "-"),
            percent(row["accuracy"]),
            "-" if duration is None else f"{duration:.1f}",
        )
    Console(width=None if os.isatty(1) else 160).print(table)
