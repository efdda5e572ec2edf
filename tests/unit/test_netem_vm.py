"""scripts/netem-vm with a QEMU that only pretends: how a guest's end is told, and what stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "netem-vm"
TOOLS = ("bash", "dirname", "git", "id", "uname")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "peerbed-stamp").exists() or shutil.which("git") is None,
    reason="scripts/venv has not made .venv, or there is no git",
)

QEMU = """#!/bin/bash
# The disk for results, the console and the serial line are where the script put them.
for word; do
    case $word in
    *file=*/out.img) out=${word##*file=} ;;
    file:*/console.log) console=${word#file:} ;;
    *checkout.tar*) checkout=${word##*file=}; checkout=${checkout%%,*} ;;
    esac
done
echo "$$" > "$PIDS"
"""


class Guest:
    """The script with a pretended QEMU, a kernel that is none, and a cache of its own."""

    def __init__(self, folder: Path, behaviour: str) -> None:
        self.pids = folder / "pids"
        self.kept = folder / "out"
        bin_ = folder / "bin"
        bin_.mkdir()
        for name, text in (("qemu-system-x86_64", QEMU + behaviour), ("mke2fs", "")):
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PEERBED_CACHE": str(folder / "cache"),
            "PIDS": str(self.pids),
        }
        ask = ". scripts/lib.sh; . scripts/debian.sh; . scripts/netem-vm.d/images.sh; system_hash"
        digest = subprocess.run(
            ["bash", "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True
        )
        system = folder / "cache" / f"system-{digest.stdout.strip()}"
        (system / "root" / "lib" / "modules" / "6.1.0-none").mkdir(parents=True)
        for name in ("kernel", "system.img"):
            (system / name).touch()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), "--no-install", "--out", str(self.kept), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def runs(self) -> bool:
        return Path(f"/proc/{self.pids.read_text().strip()}").exists()


def scratch() -> set[Path]:
    return set(Path("/var/tmp").glob("peerbed-netem.*"))


@pytest.mark.parametrize("arguments", [["--deadline", "soon"], ["run"], ["link"]])
def test_a_wrong_command_line_is_said_at_once(arguments: list[str]) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("netem-vm: ")


def test_what_is_lacking_is_said_in_one_line_with_the_remedy(tmp_path: Path) -> None:
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    done = subprocess.run(
        [str(SCRIPT), "--no-install", "links"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    error, remedy = done.stderr.splitlines()
    assert error.startswith("error: netem cannot be tested in a virtual machine without qemu")
    assert "qemu-system-x86" in remedy


@pytest.mark.parametrize("status", [0, 7])
def test_the_jobs_status_and_files_come_back(tmp_path: Path, status: int) -> None:
    behaviour = f"""
        echo "printed in the guest"; echo "kernel" > "$console"
        mkdir "$TMPDIR/left"; cd "$TMPDIR/left"; tar -xf "$checkout" .netem-vm
        tail -n 1 .netem-vm/job; echo {status} > status; tar -cf "$out" status
    """
    before = scratch()
    guest = Guest(tmp_path, behaviour)
    done = guest.run("run", "--", "echo", "two words", "$HOME")
    assert done.returncode == status
    assert done.stdout.splitlines() == ["printed in the guest", r" echo two\ words \$HOME"]
    assert (guest.kept / "run" / "status").read_text() == f"{status}\n"
    assert (guest.kept / "run" / "console.log").read_text() == "kernel\n"
    assert scratch() == before


def test_a_guest_that_hangs_is_ended_and_its_console_shown(tmp_path: Path) -> None:
    before = scratch()
    guest = Guest(tmp_path, 'echo "the last words" > "$console"; exec sleep 600')
    done = guest.run("--deadline", "1", "run", "--", "true")
    assert done.returncode == 1
    assert "the last words" in done.stderr
    assert "ended after 1 s" in done.stderr
    assert not guest.runs()
    assert scratch() == before


def test_a_guest_that_ends_without_a_result_has_failed(tmp_path: Path) -> None:
    done = Guest(tmp_path, 'echo "Kernel panic" > "$console"').run("run", "--", "true")
    assert done.returncode == 1
    assert "Kernel panic" in done.stderr
    assert "ended without a result" in done.stderr
