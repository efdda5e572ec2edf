"""What runs left behind whose owner is gone, and `deploy down`.

A run is in the hands of the process that its `owner.json` names. Containers and networks say by
label which run folder they belong to, processes by their environment. Swept is only what belongs to
a folder whose owner is dead; what cannot be judged from here is named and left alone.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from deploy.backends import make_backend
from deploy.backends.base import Say
from deploy.checks import Judgement, Verdict
from deploy.conduct import abandon
from deploy.host import engine_answers
from deploy.live import PlainScreen
from deploy.plan import BackendKind, Plan, plan_from_json
from deploy.results import Results, RunFolder, RunState
from node.errors import ConfigError, EnvironmentFault, PeerbedError

_DOWN_TIMEOUT_S: Final = 90
"""The owner of a run that was told to end: stop, save logs, remove, judge."""


def sweep(results: Results, *, say: Say) -> list[RunFolder]:
    """End what dead owners left behind in this results folder, and on the engine; say so."""
    swept = []
    with results.lock() if results.path.is_dir() else nullcontext():
        engine = engine_answers()
        abandoned = [run for run in results.runs() if run.state() is RunState.ABANDONED]
        for folder in abandoned:
            if tidy(folder, engine=engine, say=say):
                swept.append(folder)
        for folder in _folders_on_engine() if engine else ():
            clean = {RunState.ABANDONED: tidy, RunState.ENDED: remove_rest}.get(folder.state())
            if clean is not None and clean(folder, engine=True, say=say):
                swept.append(folder)
    return swept


def tidy(folder: RunFolder, *, engine: bool, say: Say) -> bool:
    """End an abandoned run: save its logs, remove what is left of it, store a verdict.

    False where that cannot be done now, which is said.
    """
    name = f"{folder.topology}/{folder.run_id}"
    try:
        plan = _plan(folder)
        if plan is not None and plan.backend is BackendKind.DOCKER and not engine:
            say(f"{name} was left behind, but no Docker engine answers: it waits for the next time")
            return False
        say(f"sweeping {name}: the process that ran it is gone")
        folder.take_ownership()
        if plan is None:
            reason = "interrupted: deploy was killed before it had planned the run"
            verdict = Verdict(judgement=Judgement.INVALID, reasons=(reason,), exit_status=1)
            folder.write_json(folder.verdict_file, verdict.to_json())
        else:
            abandon(folder=folder, plan=plan, backend=make_backend(plan.backend), say=say)
    except PeerbedError as error:
        say(f"{name} cannot be swept: {error}")
        return False
    return True


def remove_rest(folder: RunFolder, *, engine: bool, say: Say) -> bool:
    """Remove what an ended run could not; False where nothing is left."""
    plan = _plan(folder)
    if plan is None or (plan.backend is BackendKind.DOCKER and not engine):
        return False
    backend = make_backend(plan.backend)
    if not backend.has_rest(folder):
        return False
    say(f"removing what is left of {folder.topology}/{folder.run_id}")
    for problem in backend.collect(folder):
        say(problem)
    backend.destroy(folder)
    return True


def _plan(folder: RunFolder) -> Plan | None:
    try:
        return plan_from_json(folder.plan_file.read_text())
    except (OSError, ConfigError):
        return None


def _folders_on_engine() -> list[RunFolder]:
    """Run folders to which containers or networks on this engine belong, and which are here."""
    from deploy.backends.docker import DockerBackend
    from deploy.render import RESULTS_LABEL

    containers, networks = DockerBackend().find_all()
    labels = [container.labels for container in containers]
    labels += [network.attrs.get("Labels") or {} for network in networks]
    paths = {Path(label[RESULTS_LABEL]) for label in labels if RESULTS_LABEL in label}
    return [RunFolder(path) for path in sorted(paths) if (path / "owner.json").exists()]


# deploy down ------------------------------------------------------------------------------------


def down(reference: str | None, *, everything: bool, results: Path, as_json: bool) -> int:
    """End the runs that are meant; returns the exit status. Nothing to end is no error."""
    say = PlainScreen().say
    folder = Results(results)
    chosen = _chosen(folder, reference, everything=everything)
    ended = [run for run in chosen if _end(run, say=say)]
    swept = sweep(folder, say=say)
    engine = engine_answers()
    idle = [r for r in chosen if r not in swept and r.state() is RunState.ENDED]
    left = [run for run in idle if remove_rest(run, engine=engine, say=say)]
    done = [*ended, *(run for run in (*swept, *left) if run not in ended)]
    if as_json:
        runs = [{"run": run.run_id, "path": str(run.path)} for run in done]
        sys.stdout.write(json.dumps({"ended": runs}) + "\n")
    elif not done:
        say("nothing to end")
    return 0


def _chosen(results: Results, reference: str | None, *, everything: bool) -> list[RunFolder]:
    """The runs that a user means by `down [REFERENCE | --all]`."""
    runs = results.runs()
    active = [run for run in runs if run.state() in (RunState.RUNNING, RunState.ELSEWHERE)]
    if everything:
        return active
    if reference is not None:
        of_topology = [run for run in active if run.topology == reference]
        return of_topology or [results.find(reference)]
    if len(active) > 1:
        names = ", ".join(run.run_id for run in active)
        raise ConfigError(
            f"{len(active)} runs are under way: {names}",
            remedy="name one of them, or end all: deploy down --all",
        )
    return active


def _end(run: RunFolder, *, say: Say) -> bool:
    """Ask the owner of a run to end it, and wait until it has; False if it is not under way."""
    state, owner = run.state(), run.owner()
    if state is RunState.ELSEWHERE and owner is not None:
        raise EnvironmentFault(
            f"run {run.run_id} belongs to process {owner.pid} on {owner.host}",
            where=str(run.owner_file),
            remedy="end it there",
        )
    if state is not RunState.RUNNING or owner is None:
        return False
    say(f"ending {run.topology}/{run.run_id}")
    try:
        owner.signal(signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_TIMEOUT_S
        while run.state() is RunState.RUNNING and time.monotonic() < deadline:
            time.sleep(0.1)
        if run.state() is RunState.RUNNING:
            say(f"its deploy (process {owner.pid}) does not react: killing it")
            owner.signal(signal.SIGKILL)
            while run.state() is RunState.RUNNING:
                time.sleep(0.05)
        run.await_owner()
    except PermissionError as error:
        raise EnvironmentFault(
            f"run {run.run_id} belongs to another user",
            where=str(run.owner_file),
            remedy="let that user end it, or use sudo",
        ) from error
    return True
