"""Traces of compute times that a topology file names: text files of durations (pure).

# what a training step took on a phone, job by job
11ms
14.5ms, 12ms, 90ms
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deploy.topology.model import TopologyFile
from deploy.topology.problems import Place, Problem
from deploy.topology.quantities import duration
from deploy.topology.reader import Document
from node.units import Nanos

MAX_BYTES: Final = 1 << 16
MAX_DURATIONS: Final = 1000
"""A node is told all of them, through its environment."""
_MAX_PROBLEMS: Final = 50

Read = Callable[[Path], bytes]
Traces = Mapping[str, tuple[Nanos, ...]]
"""What the files say, by their names in the topology file; ns."""


def read_traces(document: Document, file: TopologyFile, *, folder: Path, read: Read) -> Traces:
    """Read all traces; what is wrong is reported in the document.

    Args:
        folder: where names of files count from.
        read: gives a file's bytes, or raises OSError.
    """
    traces: dict[str, tuple[Nanos, ...]] = {}
    for group, entry in file.nodes.items():
        name = entry.compute.trace
        if name is None or name in traces:
            continue
        loc = ("nodes", group, "compute", "trace")
        path = folder / name
        try:
            raw = read(path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            document.report(loc, f"{path} cannot be read: {why}")
            continue
        if len(raw) > MAX_BYTES:
            document.report(loc, f"{path} has more than {MAX_BYTES >> 10} KiB")
            continue
        traces[name] = _durations(document, raw, file=str(path))
    return traces


def _durations(document: Document, raw: bytes, *, file: str) -> tuple[Nanos, ...]:
    """Separated by commas, semicolons, tabs or ends of lines; # begins a comment."""

    def report(line: int | None, message: str, hint: str = "") -> None:
        document.problems.append(Problem.at(Place(file=file, line=line), (), message, hint))

    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        report(None, "this is not a text file: expected durations in UTF-8")
        return ()
    found: list[Nanos] = []
    wrong = 0
    for number, line in enumerate(text.splitlines(), start=1):
        for cell in re.split(r"[,;\t]", line.partition("#")[0]):
            if not cell.strip():
                continue
            try:
                found.append(duration(cell))
            except ValueError as error:
                wrong += 1
                if wrong <= _MAX_PROBLEMS:
                    report(number, str(error))
    if len(found) > MAX_DURATIONS:
        report(None, f"{len(found)} durations; at most {MAX_DURATIONS}")
    elif not found and not wrong:
        report(None, "there is no duration in it", "such as 20ms, one for each training job")
    return tuple(found)
