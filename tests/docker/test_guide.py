"""The last command of docs/adding-an-algorithm.md: somebody else's algorithm, in containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_adding_an_algorithm import FILE, GUIDE, SHELL, Reader, reader

__all__ = ["reader"]

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("image")]


def test_an_algorithm_of_one_s_own_runs_in_containers(reader: Reader) -> None:
    page = GUIDE.read_text()
    for name, text in FILE.findall(page):
        (reader.folder / name).write_text(text)
    commands = [line for block in SHELL.findall(page) for line in block.splitlines()]
    [install] = [line for line in commands if line.startswith("pip install")]
    [run] = [line for line in commands if "--backend docker" in line]
    reader.types(install)
    reader.types(run)
    folder = Path(reader.environ["PEERBED_RESULTS"]) / "gossip" / "latest"
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "valid"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["algorithm"] == "gossip"
    assert summary["bytes"]["model"] > 0
