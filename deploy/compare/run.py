"""The verb `compare`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy.compare.analysis import compare as compared
from deploy.compare.reading import read_runs
from deploy.compare.tables import as_json as comparison_json
from deploy.compare.tables import lines
from deploy.results import Results
from node.errors import ConfigError


def compare(
    references: Sequence[str],
    *,
    accuracies: Sequence[float],
    losses: Sequence[float],
    plot: Path | None,
    results: Path,
    as_json: bool,
) -> int:
    """Print a comparison of runs. Raises ConfigError where fewer than two can be compared."""
    runs, notes = read_runs(Results(results), references)
    if len(runs) < 2:
        raise ConfigError(
            f"there is {len(runs)} run to compare, and it takes two",
            remedy="; ".join(notes) or "name two or more: deploy compare RUN RUN",
        )
    comparison = compared(runs, accuracies=accuracies, losses=losses)
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    if plot is not None:
        from deploy.compare.picture import draw

        draw(comparison, plot)
    if as_json:
        sys.stdout.write(json.dumps(comparison_json(comparison), indent=2) + "\n")
        return 0
    from rich.console import Console

    console = Console(width=None if os.isatty(1) else 160, highlight=False)
    for line in lines(comparison):
        console.print(line, markup=False)
    return 0
