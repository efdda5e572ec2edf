"""What a backend is: where members of a run live, and how they are started, watched and removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, Protocol

from deploy.history import MemberState
from deploy.plan import BackendKind, Plan
from deploy.results import RunFolder
from node.errors import PeerbedError

COORDINATOR: Final = "coordinator"
STOP_GRACE_S: Final = 10
"""A member that was asked to stop is killed after this long."""

Say = Callable[[str], None]
"""Takes one line for the user."""
Interrupted = Callable[[], bool]
"""Whether the user wants an end; asked during every wait."""


class Backend(Protocol):
    """Stateless where it can be: every call finds the run by its folder, also in a new process."""

    @property
    def kind(self) -> BackendKind: ...

    def check(self, *, results: Path, run_id: str) -> list[PeerbedError]:
        """What keeps a run from starting here, all of it at once."""

    def taken_networks(self) -> list[IPv4Network]:
        """What the run's subnet must not overlap."""

    def describe(self) -> dict[str, Any]:
        """What the manifest should say about the place: versions, image."""

    def start(self, plan: Plan, folder: RunFolder, *, interrupted: Interrupted) -> None:
        """Start all members but those on standby; returns early when `interrupted`.

        Raises:
            RunFailed: they cannot be started.
        """

    def poll(self, folder: RunFolder) -> Mapping[str, MemberState]:
        """Every member that was started and not removed."""

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        """Do something to a member: join, leave, crash, pause, resume, restart or return.

        Returns when it is done. The coordinator, too, may be restarted. May be called from several
        threads at once. Raises RunFailed where it cannot be done.
        """

    def stop(self, folder: RunFolder, *, grace_s: float = STOP_GRACE_S) -> list[str]:
        """Ask all to stop, kill after `grace_s`; returns whom it had to kill."""

    def collect(self, folder: RunFolder) -> list[str]:
        """Save what the members printed; returns what could not be saved."""

    def destroy(self, folder: RunFolder) -> None:
        """Remove all that carries the run's label. Raises RunFailed where something stays."""

    def has_rest(self, folder: RunFolder) -> bool:
        """Whether anything is left that carries the run's label."""
