"""The sections of our files that other formats do not have, with stated values (pure)."""

from __future__ import annotations

from typing import Final

from deploy.topology.problems import Place, Problem
from deploy.topology.reader import Document

LEAST_RUN_S: Final = 60
AFTER_LAST_S: Final = 10


def defaults(document: Document, *, place: Place, last_s: int = 0) -> None:
    """Say what is learnt and when it ends, and warn that the file does not.

    Args:
        place: of the warning, and of problems with these sections.
        last_s: time of the last event. The run goes on for a while after it.
    """
    time = f"{max(LEAST_RUN_S, last_s + AFTER_LAST_S)}s"
    document.data |= {"algorithm": {"name": "divshare"}, "stop": {"time": time}}
    for key in ("algorithm", "stop"):
        document.keys[key,] = document.values[key,] = place
    message = (
        "what is learnt does not stand in such a file: algorithm divshare, training digits with "
        f"mlp, stop after {time}"
    )
    hint = "change it with --set, or `deploy convert` the file to YAML and edit that"
    document.warnings.append(Problem.at(place, (), message, hint))
