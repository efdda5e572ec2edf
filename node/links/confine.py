"""Starts the node process as an ordinary user who can never become more.

No capability in any set, none to be had by running a program, no supplementary group. The agent
keeps its own; the two share only files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_TIMERSLACK: Final = 29
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def start(
    argv: Sequence[str], *, uid: int, gid: int, pipes: Mapping[str, int] | None = None
) -> int:
    """Start a program as this user without any privilege; its pid. Raises OSError if fork fails.

    Args:
        pipes: file descriptors that it keeps, by the variable that tells it their numbers.

    If something in between fails, the child ends with status 126 and says why on stderr: it never
    goes on with more than it should have.
    """
    pid = os.fork()
    if pid == 0:
        _become(argv, uid=uid, gid=gid, pipes=pipes or {})
    return pid


def _become(argv: Sequence[str], *, uid: int, gid: int, pipes: Mapping[str, int]) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for name, fd in pipes.items():
            os.set_inheritable(fd, True)
            os.environ[name] = str(fd)
        drop(uid=uid, gid=gid)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
        os.execvp(argv[0], list(argv))
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    os._exit(126)


def drop(*, uid: int, gid: int) -> None:
    """Give up everything that root has. Raises OSError when the kernel refuses."""
    for capability in _bounding_set():
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(ValueError, OSError):
        # The agent may have been given these limits to be punctual; the node needs no such thing.
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def punctual() -> bool:
    """Ask for exact timers and to run before ordinary processes; whether the latter was granted.

    Granted where the container has SYS_NICE or an rtprio limit, which ours do not by default; not
    inherited by children.
    """
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except OSError:
        return False
    return True


def _bounding_set() -> Iterator[int]:
    capability = 0
    while (there := _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if there:
            yield capability
        capability += 1


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
