"""`deploy replay`: what a run's traced nodes were fed, fed once more to today's code."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from deploy.results import Results, RunFolder
from node.errors import ConfigError
from node.sim.replay import Difference, Replayed, replay
from node.sim.trace import SUFFIX, read_trace, whole_frames
from node.units import SECOND

_TEXT_MAX: Final = 400
"""Characters of an event or an effect, for people."""


def replay_run(run: str | None, *, node: str | None, results: Path, as_json: bool) -> int:
    """Play the traces of a run again; the exit status: 0 all identical, 1 there is a difference.

    Raises:
        ConfigError: there is no such run, or no such trace in it.
        EnvironmentFault: a trace is damaged.
    """
    folder = Results(results).find(run)
    found = {path.stem: _replayed(path) for path in _traces(folder, node)}
    if as_json:
        plain = {name: {**asdict(one), "cut_off": cut} for name, (one, cut) in found.items()}
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        for name, (one, cut) in found.items():
            sys.stdout.writelines(f"{line}\n" for line in _told(name, one, cut))
    return int(any(one.difference is not None for one, _ in found.values()))


def _traces(folder: RunFolder, node: str | None) -> list[Path]:
    every = sorted(folder.nodes.glob(f"*{SUFFIX}"))
    chosen = [path for path in every if node in (None, path.stem)]
    if not chosen:
        traced = ", ".join(path.stem for path in every)
        remedy = f"Traced were: {traced}." if traced else "Begin a new run with --set trace=[NODE]."
        whom = "any node" if node is None else repr(node)
        text = f"there is no trace of {whom} in this run"
        raise ConfigError(text, where=str(folder.path), remedy=remedy)
    return chosen


def _replayed(path: Path) -> tuple[Replayed, int]:
    """What came of a trace, and bytes at its end that are no whole frame."""
    with path.open("rb") as file:
        cut_off = path.stat().st_size - whole_frames(file)
        file.seek(0)
        return replay(read_trace(file, where=str(path))), cut_off


def _told(name: str, replayed: Replayed, cut_off: int) -> list[str]:
    lines = []
    found = replayed.difference
    if found is None:
        lives = "" if replayed.lives == 1 else f" in {replayed.lives} lives"
        lines.append(f"{name}: identical: {replayed.events} events{lives}")
    else:
        lines += _difference(name, found)
    if cut_off:
        lines.append(f"  the trace ends in mid-event: {cut_off} bytes were not read")
    return lines


def _difference(name: str, found: Difference) -> list[str]:
    life = f" of life {found.life}" if found.life > 1 else ""
    rows: dict[str, Any] = {
        "event": _short(found.what),
        f"effect {found.effect}, recorded": _short(found.recorded or "none"),
        f"effect {found.effect}, now": _short(found.came or "none"),
    }
    width = max(map(len, rows))
    first = f"{name}: differs at event {found.event}{life}, at {found.now / SECOND:.6f} s"
    return [first, *(f"  {key:{width}}  {value}" for key, value in rows.items())]


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
