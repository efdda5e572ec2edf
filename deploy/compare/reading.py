"""Run folders as `analysis.Run`s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.compare.analysis import Run
from deploy.compare.settings import network_settings, plan_settings
from deploy.curves import mean_over_time, merged_over_time
from deploy.membership import parts
from deploy.records import read_events
from deploy.results import Results, RunFolder, RunState
from deploy.topology import load_topology
from node.errors import PeerbedError

_WHY = {
    RunState.RUNNING: "it is under way",
    RunState.ABANDONED: "it was left behind before its end; deploy down ends it",
    RunState.ELSEWHERE: "it runs on another machine",
    RunState.ENDED: "it ended without one",
}


def read_runs(results: Results, references: Iterable[str]) -> tuple[list[Run], list[str]]:
    """The runs that are meant and can be compared; of the others, why not.

    Raises:
        ConfigError: a reference is no run.
    """
    runs: list[Run] = []
    notes: list[str] = []
    seen: set[RunFolder] = set()
    for reference in references:
        folder = results.find(reference)
        name = f"{folder.topology}/{folder.run_id}"
        summary, plan = folder.summary, folder.read_json(folder.plan_file)
        if folder in seen:
            notes.append(f"{name} is named twice and counts once")
        elif folder.manifest.get("purpose") == "verify":
            notes.append(f"{name} is left out: it measured links and learnt nothing")
        elif summary is None or plan is None:
            what = "summary" if plan is not None else "plan"
            notes.append(f"{name} is left out: no {what} yet: {_WHY[folder.state()]}")
        else:
            run, unknown = _read(folder, name, plan, summary)
            runs.append(run)
            notes += unknown
        seen.add(folder)
    return runs, notes


def _read(
    folder: RunFolder, name: str, plan: Mapping[str, Any], summary: Mapping[str, Any]
) -> tuple[Run, list[str]]:
    settings, notes = plan_settings(plan), []
    try:
        overrides = [str(text) for text in folder.manifest.get("overrides") or ()]
        settings |= network_settings(load_topology(folder.topology_file, overrides=overrides))
    except PeerbedError as error:
        notes.append(f"the links of {name} are not compared: {error.message}")
    names = [str(node["name"]) for node in plan.get("nodes") or ()]
    nodes = {node: read_events(folder.node_file(node))[0] for node in names}
    told = read_events(folder.coordinator_file)[0]
    standby = [str(node) for node in (plan.get("coordinator") or {}).get("standby") or ()]
    spells = {node: part.spells for node, part in parts(told, nodes=nodes, standby=standby).items()}
    version = folder.manifest.get("git") or folder.manifest.get("peerbed")
    run = Run(
        name=name,
        settings=settings,
        summary=summary,
        accuracy=mean_over_time(nodes, spells),
        loss=mean_over_time(nodes, spells, of="loss"),
        merged=merged_over_time(told),
        version=None if version is None else str(version),
    )
    return run, notes
