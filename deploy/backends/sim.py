"""The simulator as a backend: a run in virtual time is the process that plays it
(`deploy.simulate`), so that nothing is started, watched or removed beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from deploy import host
from deploy.backends.base import STOP_GRACE_S, Interrupted
from deploy.history import MemberState
from deploy.plan import BackendKind, Plan
from deploy.results import RunFolder
from node.errors import PeerbedError, RunFailed


class SimBackend:
    """See `deploy.backends.base.Backend`."""

    kind = BackendKind.SIM

    def check(self, *, results: Path, run_id: str) -> list[PeerbedError]:
        del run_id
        missing = host.check_packages(("torch", "numpy"), who="a simulation")
        return [*missing, *host.check_folder(results)]

    def taken_networks(self) -> list[IPv4Network]:
        return []

    def describe(self) -> dict[str, Any]:
        return {"python": sys.executable, "links": "modelled, in virtual time"}

    def start(self, plan: Plan, folder: RunFolder, *, interrupted: Interrupted) -> None:
        del interrupted
        raise RunFailed(
            f"run {plan.run_id} is a simulation", where=str(folder.path), remedy="deploy sim FILE"
        )

    def poll(self, folder: RunFolder) -> Mapping[str, MemberState]:
        del folder
        return {}

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        del folder
        raise RunFailed(f"cannot {verb}: a simulation follows its file alone", where=node)

    def stop(self, folder: RunFolder, *, grace_s: float = STOP_GRACE_S) -> list[str]:
        del folder, grace_s
        return []

    def collect(self, folder: RunFolder) -> list[str]:
        del folder
        return []

    def destroy(self, folder: RunFolder) -> None:
        """Its trainers end with the process that started them."""

    def has_rest(self, folder: RunFolder) -> bool:
        del folder
        return False
