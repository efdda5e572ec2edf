"""A coordinator that dies in the middle of a run is started again by the process that owns the run.

The nodes go on without it (docs/signaling.md); the new one learns from them how far they are. What
was done stands in `control.jsonl`, and so among the verdict's remarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from deploy.actions import append_event
from deploy.backends.base import COORDINATOR, Backend
from deploy.history import MemberState, describe_exit
from deploy.results import RunFolder
from node.errors import PeerbedError

TIMES: Final = 3
"""A coordinator that dies more often than this in one run is not started again."""
_ITS_OWN_WORD: Final = (0, 1, 2, 3)
"""Exit statuses with which it ends by itself, having said why."""
_UNDER_WAY: Final = ("running", "recovering")


class Revival:
    """See the module.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        backend: Backend,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._say = say
        self._clock = clock
        self._times = 0

    def tend(
        self, states: Mapping[str, MemberState], *, phase: str, started_at: float | None
    ) -> bool:
        """Start the coordinator again if it has died; whether that was done.

        Args:
            phase: of the run, as the coordinator said last.
            started_at: Unix time at which the run clock stood at zero.
        """
        state = states.get(COORDINATOR)
        if state is None or state.alive or state.exit_status in _ITS_OWN_WORD:
            return False
        if phase not in _UNDER_WAY or started_at is None or self._times == TIMES:
            return False
        self._times += 1
        why = describe_exit(state)
        begun, error = self._clock(), None
        try:
            self._backend.act(self._folder, COORDINATOR, "restart")
        except PeerbedError as fault:
            error = " ".join(str(fault).split())
            self._times = TIMES
        done = self._clock()
        what = f"started again by deploy at {begun - started_at:.3f} s, having been {why}"
        append_event(
            self._folder,
            {
                "t": round(done - started_at, 6),
                "wall": round(done, 6),
                "node": "deploy",
                "kind": "control",
                "number": 0,
                "member": COORDINATOR,
                "verb": "restart",
                "by": "deploy",
                "what": [what],
                "asked": round(begun - started_at, 6),
                "begun": round(begun - started_at, 6),
                "error": error,
            },
        )
        self._say(f"{COORDINATOR}: {'' if error is None else 'not '}{what}{_because(error)}")
        return error is None


def _because(error: str | None) -> str:
    return "" if error is None else f": {error}"
