"""docs/adding-an-algorithm.md is followed literally, in a folder and an environment of its own."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.algorithms import CODE

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/adding-an-algorithm.md"
FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ALLOWED_S = 240


@dataclass
class Reader:
    """Somebody with the page, an empty folder, and peerbed installed."""

    folder: Path
    environ: dict[str, str]

    def types(self, line: str) -> str:
        """Run a line of the page; what it printed."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ALLOWED_S,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """An environment that has what this one has, in which she can install without changing it."""
    home = tmp_path_factory.mktemp("reader")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in here)
    (home / f"venv/lib/{version}/site-packages/here.pth").write_text(lines)
    for command in ("pip", "deploy"):
        script = home / "venv/bin" / command
        script.write_text(f'#!/bin/sh\nexec "{home}/venv/bin/python" -m {command} "$@"\n')
        script.chmod(0o755)
    folder = home / "my-algorithms"
    folder.mkdir()
    environ = {
        **os.environ,
        "PATH": f"{home}/venv/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PEERBED_RESULTS": str(home / "results"),
        # Offline: setuptools is here already.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environ.pop("VIRTUAL_ENV", None)
    return Reader(folder, environ)


def test_the_guide_ends_with_a_working_algorithm_of_one_s_own(reader: Reader) -> None:
    """All its files and all its commands, but for the run in containers."""
    page = GUIDE.read_text()
    for name, text in FILE.findall(page):
        (reader.folder / name).write_text(text)
    names = ["experiment.yaml", "gossip.py", "mean.py", "pyproject.toml"]
    assert sorted(path.name for path in reader.folder.iterdir()) == names
    commands = [line for block in SHELL.findall(page) for line in block.splitlines()]
    assert [line for line in commands if "--backend docker" in line] == commands[-1:]
    assert len(commands) == 7
    for line in commands[:-1]:
        reader.types(line)
    results = Path(reader.environ["PEERBED_RESULTS"]) / "gossip"
    runs = [path for path in results.iterdir() if not path.is_symlink()]
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    verdicts = [json.loads((run / "verdict.json").read_text()) for run in runs]
    assert len(runs) == 3
    assert all(summary["rounds"] >= 5 for summary in summaries)
    assert "invalid" not in [verdict["verdict"] for verdict in verdicts]
    assert all((run / CODE).exists() for run in runs)
    plans = [json.loads((run / "plan.json").read_text()) for run in runs]
    assert sum('"mean"' in json.dumps(plan) for plan in plans) == 1


def test_a_wrong_option_is_answered_with_the_right_one(reader: Reader) -> None:
    done = subprocess.run(
        ["bash", "-c", "deploy validate experiment.yaml --set algorithm.local_step=3"],
        cwd=reader.folder,
        env=reader.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=ALLOWED_S,
    )
    assert done.returncode == 2
    assert "local_steps" in done.stderr
