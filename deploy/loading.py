"""Topology files for verbs of the command line: loaded, with what should be known of them said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy.topology import Problem, Topology, load_topology


def load_and_warn(file: Path, *, overrides: Sequence[str] = ()) -> Topology:
    """Load a file and print its warnings to stderr.

    Raises:
        TopologyErrors: with all that is wrong in it.
    """
    topology = load_topology(file, overrides=overrides)
    warn(topology.warnings)
    return topology


def warn(warnings: Iterable[Problem]) -> None:
    """Print warnings to stderr, each with its place."""
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")
