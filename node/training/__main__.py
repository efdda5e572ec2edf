"""Entry of the trainer process and of a worker of the simulator's pool:
`python -m node.training FD`, started by `client` and by `pool`, never by hand.

FD is the shared memory. What must come before the slow import of torch stands here: the process
lowers its priority, ties its life to its parent, and keeps standard output for the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Final, NoReturn

from node.training.catalog import EAGER_MODELS, LEFT_OUT
from node.training.protocol import (
    Assignment,
    Device,
    Enlistment,
    Fault,
    FaultKind,
    Stage,
    decode,
    encode,
)

_NICE: Final = 10
"""The communicating process and the delay line get the CPU first."""

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Read the assignment, then serve requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group: the parent decides
    os.nice(_NICE)
    memory = int(sys.argv[1])
    answers = _take_stdout()
    assignment = decode(sys.stdin.buffer.readline() or b"nothing\n")
    if not isinstance(assignment, Assignment | Enlistment):
        raise TypeError(f"expected an assignment, not {assignment}")
    _die_with(assignment.parent)
    if isinstance(assignment, Assignment) or assignment.device is Device.CPU:
        _lighten(assignment.training.model)
    gc.disable()  # nothing that an import makes is garbage: a tenth of its time is looking for it
    try:
        serve = _worker(assignment) if isinstance(assignment, Enlistment) else _trainer(assignment)
    except ImportError as error:
        _refuse(answers, error)
    gc.enable()
    serve(requests=sys.stdin.buffer, answers=answers, memory=memory)


def _trainer(assignment: Assignment) -> Callable[..., NoReturn]:
    from node.training import server

    return partial(server.serve, assignment)


def _worker(enlistment: Enlistment) -> Callable[..., NoReturn]:
    from node.training import worker

    return partial(worker.serve, enlistment)


def _take_stdout() -> int:
    """A descriptor of standard output that only the protocol uses; prints go to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the thread that spawned it ends, also when that is
    killed; the end of standard input says the same to a process that reads it."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: standard input has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        raise SystemExit(0)


def _lighten(model: str) -> None:
    """Leave out what torch registers for tensors without values (its compiler's).

    It is a quarter of the CPU time of `import torch` (0.9 to 0.67 s with torch 2.13), which every
    node of a run pays when all start at once.
    """
    if model in EAGER_MODELS:
        sys.modules[LEFT_OUT] = ModuleType(LEFT_OUT)


def _refuse(answers: int, error: ImportError) -> NoReturn:
    fault = Fault(
        stage=Stage.SETUP,
        kind=FaultKind.ENVIRONMENT,
        message=f"the trainer cannot import what it needs: {error}",
        remedy="Install the extra that nodes train with: pip install 'peerbed[train]'.",
    )
    os.write(answers, encode(fault))
    raise SystemExit(3)


if __name__ == "__main__":
    main()
