"""The code of an algorithm of another package, as containers get it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import pytest

from deploy import foreign
from node.algorithms import CODE
from node.errors import ConfigError

MODULE = """
from dataclasses import dataclass
from other_people.helper import STEPS
from node.core.algorithm import Algorithm

class Idle(Algorithm):
    @dataclass(frozen=True)
    class Config:
        steps: int = STEPS
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an algorithm, as installed."""
    code = tmp_path / "site/other_people"
    (code / "tests").mkdir(parents=True)
    (code / "__init__.py").write_text("")
    (code / "idle.py").write_text(MODULE)
    (code / "helper.py").write_text("STEPS = 7\n")
    (code / "table.csv").write_text("1,2\n")
    (code / "fast.so").write_bytes(b"compiled")
    (code / "tests/test_idle.py").write_text("")
    info = tmp_path / "site/other_people-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-people\nVersion: 1.2\n")
    points = "[peerbed.algorithms]\nidle-there = other_people.idle:Idle\n"
    (info / "entry_points.txt").write_text(points)
    (info / "top_level.txt").write_text("other_people\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_ours_need_no_code_in_the_run_folder() -> None:
    assert foreign.packed("divshare") is None


def test_the_archive_has_the_package_and_its_entry_points(package: Path) -> None:
    data = foreign.packed("idle-there")
    assert data is not None
    (package / CODE).write_bytes(data)
    names = zipfile.ZipFile(package / CODE).namelist()
    assert names == [
        "other_people-1.2.dist-info/METADATA",
        "other_people-1.2.dist-info/entry_points.txt",
        "other_people/__init__.py",
        "other_people/helper.py",
        "other_people/idle.py",
        "other_people/table.csv",
    ]
    assert foreign.packed("idle-there") == data


def test_a_process_without_the_package_finds_the_algorithm_in_the_archive(package: Path) -> None:
    data = foreign.packed("idle-there")
    assert data is not None
    (package / CODE).write_bytes(data)
    script = (
        f"import sys; sys.path.append({str(package / CODE)!r})\n"
        "from node import algorithms\n"
        "made = algorithms.make('idle-there', {})\n"
        "module = sys.modules[type(made).__module__]\n"
        "print(made.config.steps, module.__name__, module.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [
        "7",
        "other_people.idle",
        f"{package}/{CODE}/other_people/idle.py",
    ]


def test_a_package_that_has_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Distribution):
        def read_text(self, filename: str) -> str | None:
            return "Name: gone\nVersion: 1\n" if filename == "METADATA" else None

        def locate_file(self, path: object) -> Path:  # type: ignore[override]
            return Path("/nowhere")

    point = EntryPoint("vanished", "no_such_module:Thing", "peerbed.algorithms")._for(Gone())
    monkeypatch.setattr(foreign, "entry_points", lambda group: [point])
    with pytest.raises(ConfigError, match="a module no_such_module, which is not there"):
        foreign.packed("vanished")
