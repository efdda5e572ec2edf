"""How a process that trains is started, by `client` for a node and by `pool` for a simulation."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may add in any order
    # A step takes and returns the same few MiB again and again. Handing them to the kernel in
    # between costs a fifth of the time of a small convolutional network: page faults.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def command(memory: int) -> list[str]:
    """`python -m node.training`, which takes its shared memory as a descriptor."""
    return [sys.executable, "-P", "-m", "node.training", str(memory)]


def environment() -> Mapping[str, str]:
    """This process's own copy of the package, and one compute thread."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **_ENVIRONMENT}


def obituary(who: str, *, reason: str | None, status: int, stderr: bytes) -> tuple[str, str | None]:
    """How a process ended, with its last words, and what to do about it.

    Args:
        reason: why it was ended on purpose; None: it was not.
        status: as `subprocess` has it, below zero for a signal.
        stderr: the end of what it wrote there.
    """
    if reason is not None:
        how = reason
    elif status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    else:
        how = f"ended with exit status {status}"
    remedy = None
    if reason is None and status == -signal.SIGKILL:
        remedy = "If the kernel did it for want of memory, give it more."
    words = stderr.decode(errors="replace").strip()
    return f"{who} {how}" + (f"; its standard error ends:\n{words}" if words else ""), remedy
