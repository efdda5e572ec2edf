"""The results folder: the only code that knows the names in it.

    results/<topology>/latest -> <run id>
    results/<topology>/<run id>/
        topology.yaml plan.json compose.yaml manifest.json links/   written before anything starts
        nodes/<node>.jsonl coordinator.jsonl links.json             written by the run itself
        control/<number>.json control.jsonl                         orders by plan and by hand; done
        logs/<member>.log deploy.log                                what they printed
        checkpoints/                                                of `deploy sim`, until it ends
        verify.json network.png timeline.png                        of `deploy verify`
        owner.json                                                  who runs it: see deploy/owner.py
        summary.json verdict.json                                   last; no verdict: not ended

JSON is written to a temporary name and renamed: a reader finds all of a file or none of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from deploy import owner
from deploy.owner import Liveness, Process
from node.algorithms import CODE
from node.errors import ConfigError, EnvironmentFault, PeerbedError

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_LATEST: Final = "latest"
_UNPRIVILEGED: Final = "10001:10001"
"""The node image's user."""
_RESERVE_BYTES: Final = 1 << 20
"""Kept free in each run folder, so that a disk that fills up still takes the verdict."""
_OWNER_EXIT_S: Final = 5


class RunState(Enum):
    """How far a run is, from its folder alone."""

    RUNNING = "running"
    ENDED = "ended"
    ABANDONED = "abandoned"
    """Its owner died before the verdict; the next `up` or `down` sweeps it."""
    ELSEWHERE = "elsewhere"
    """No verdict, and an owner that cannot be judged from here."""


def check_name(name: str) -> str:
    """A name that may be a run's, since it becomes part of container names; ConfigError if not."""
    if not _NAME.fullmatch(name) or name == _LATEST:
        raise ConfigError(
            f"{name!r} cannot name a run",
            where="--name",
            remedy="use up to 40 of a-z, 0-9, - and _, beginning with a letter or a digit",
        )
    return name


def new_run_id(now: datetime | None = None) -> str:
    """A fresh name that sorts by time: `1121-040606-3fa9`."""
    return f"{now or datetime.now(UTC):%m%d-%H%M%S}-{token_hex(2)}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder; it must exist, see `create`."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def topology(self) -> str:
        return self.path.parent.name

    @property
    def topology_file(self) -> Path:
        return self.path / "topology.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def compose_file(self) -> Path:
        return self.path / "compose.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def algorithm_file(self) -> Path:
        """The code of an algorithm of another package."""
        return self.path / CODE

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    @property
    def coordinator_file(self) -> Path:
        return self.path / "coordinator.jsonl"

    @property
    def links_file(self) -> Path:
        return self.path / "links.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def deploy_log(self) -> Path:
        return self.path / "deploy.log"

    @property
    def owner_file(self) -> Path:
        return self.path / "owner.json"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def verdict_file(self) -> Path:
        return self.path / "verdict.json"

    @property
    def control(self) -> Path:
        """Orders to a run that is under way: see `deploy/order_files.py`."""
        return self.path / "control"

    @property
    def checkpoints(self) -> Path:
        """Of a simulation, as long as it has not ended."""
        return self.path / "checkpoints"

    @property
    def control_log(self) -> Path:
        """What `deploy` did to nodes."""
        return self.path / "control.jsonl"

    @property
    def verify_file(self) -> Path:
        return self.path / "verify.json"

    @property
    def network_picture(self) -> Path:
        return self.path / "network.png"

    @property
    def timeline_picture(self) -> Path:
        return self.path / "timeline.png"

    def node_file(self, node: str) -> Path:
        return self.nodes / f"{node}.jsonl"

    def log_file(self, member: str) -> Path:
        return self.logs / f"{member}.log"

    def config_file(self, member: str) -> Path:
        """What a local process reads."""
        return self.path / "config" / f"{member}.json"

    # Reading -----------------------------------------------------------------------------------

    def read_json(self, file: Path) -> dict[str, Any] | None:
        """A JSON file of this run; None where it is missing or not an object."""
        try:
            value = json.loads(file.read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def manifest(self) -> dict[str, Any]:
        return self.read_json(self.manifest_file) or {}

    @property
    def verdict(self) -> dict[str, Any] | None:
        return self.read_json(self.verdict_file)

    @property
    def summary(self) -> dict[str, Any] | None:
        return self.read_json(self.summary_file)

    def owner(self) -> Process | None:
        """The process that runs it; None where nobody said so."""
        try:
            return owner.from_json(self.owner_file.read_text())
        except (OSError, ValueError):
            return None

    def state(self) -> RunState:
        """Judged by verdict and owner."""
        if self.verdict is not None:
            return RunState.ENDED
        process = self.owner()
        if process is None:
            return RunState.ABANDONED
        return {
            Liveness.ALIVE: RunState.RUNNING,
            Liveness.DEAD: RunState.ABANDONED,
            Liveness.ELSEWHERE: RunState.ELSEWHERE,
        }[process.liveness()]

    def await_owner(self) -> None:
        """Let the process that ran it end: it writes the verdict a moment before it exits.

        Who was told that a run has ended finds none of its processes then. One that does not end
        has its verdict all the same, so that this waits for a few seconds only.
        """
        process = self.owner()
        if process is not None and process != owner.current():
            process.await_end(timeout_s=_OWNER_EXIT_S)

    # Writing -----------------------------------------------------------------------------------

    def write_json(self, file: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        self.write_text(file, json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")

    def write_text(self, file: Path, text: str) -> None:
        """Write a file whole or not at all; EnvironmentFault where the disk refuses."""
        self.write_bytes(file, text.encode())

    def write_bytes(self, file: Path, data: bytes) -> None:
        """As `write_text`."""
        with writing(self.path):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                Path(name).chmod(0o644)
                Path(name).replace(file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def take_ownership(self) -> None:
        """This process runs it from now on."""
        self.write_text(self.owner_file, owner.current().to_json())

    def member_owner(self, *, local: bool) -> str:
        """uid:gid that members' files belong to: this user's; in containers of root, nobody's."""
        if not local and os.geteuid() == 0:
            return _UNPRIVILEGED
        return f"{os.geteuid()}:{os.getegid()}"

    def give_to_members(self, member_owner: str) -> None:
        """Let members write where they must: the run's folder and `nodes`."""
        uid, gid = (int(number) for number in member_owner.split(":"))
        if os.geteuid() == 0 and uid != 0:
            with writing(self.path):
                for path in (self.path, self.nodes):
                    os.chown(path, uid, gid)

    def reserve(self) -> None:
        """Set disk space aside for what must be written at the end."""
        with (
            writing(self.path),
            (self.path / ".reserve").open("wb") as stream,
        ):
            os.posix_fallocate(stream.fileno(), 0, _RESERVE_BYTES)

    def release_reserve(self) -> None:
        """Nobody writes any more but us: give the reserve back."""
        with contextlib.suppress(OSError):
            (self.path / ".reserve").unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a fault with a remedy."""
    try:
        yield
    except OSError as error:
        raise _fault(error, path) from error


def _fault(error: OSError, path: Path) -> PeerbedError:
    where = str(error.filename or path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(
            "the disk is full", where=where, remedy="make room, or use another one: --results DIR"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFault(
            f"cannot write here: {error.strerror}",
            where=where,
            remedy="make it writable for this user, or use another folder: --results DIR",
        )
    return EnvironmentFault(f"cannot write: {error.strerror}", where=where)


class Results:
    """The folder over all runs."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One at a time in this folder: choosing a name and a subnet, sweeping."""
        with contextlib.ExitStack() as stack:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / ".lock").open("a"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check_free(self, run_id: str) -> None:
        """Raise ConfigError where a run of that name exists, in any experiment."""
        if taken := [run for run in self.runs() if run.run_id == run_id]:
            raise ConfigError(
                f"there is a run named {run_id!r} already",
                where=str(taken[0].path),
                remedy="choose another --name, or delete that folder",
            )

    def create(self, *, topology: str, run_id: str) -> RunFolder:
        """A new run's folder, with `latest` pointing to it."""
        self.check_free(run_id)
        folder = RunFolder(self.path / topology / run_id)
        with writing(self.path):
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            folder.path.mkdir()
            folder.take_ownership()
            folder.nodes.mkdir()
            folder.logs.mkdir()
            link = folder.path.parent / f".{_LATEST}.{run_id}"
            link.symlink_to(run_id)
            link.replace(folder.path.parent / _LATEST)
        return folder

    def discard(self, folder: RunFolder) -> None:
        """Take back a folder in which nothing has happened yet."""
        with contextlib.suppress(OSError):
            shutil.rmtree(folder.path)
        latest = folder.path.parent / _LATEST
        with contextlib.suppress(OSError):
            if latest.is_symlink() and str(latest.readlink()) == folder.run_id:
                latest.unlink()
                if rest := sorted(self.runs(topology=folder.topology), key=_age):
                    latest.symlink_to(rest[-1].run_id)
            folder.path.parent.rmdir()

    def runs(self, *, topology: str | None = None) -> list[RunFolder]:
        """All runs, oldest first."""
        found = [
            RunFolder(path)
            for path in self.path.glob(f"{topology or '*'}/*")
            if path.is_dir()
            and not path.is_symlink()
            and ((path / "owner.json").exists() or (path / "plan.json").exists())
        ]
        return sorted(found, key=_age)

    def find(self, reference: str | None) -> RunFolder:
        """The run that a user means: a name, the beginning of one, a topology, a folder, or none.

        None is the newest run that is under way, else the newest.
        """
        runs = self.runs()
        if reference is None:
            under_way = [run for run in runs if run.state() is RunState.RUNNING]
            if chosen := under_way or runs:
                return chosen[-1]
            raise ConfigError(f"no run in {self.path} yet", remedy="start one: deploy up FILE")
        for path in (Path(reference), self.path / reference):
            if (path / "plan.json").exists():
                return RunFolder(path.resolve())
        exact = [r for r in runs if reference in (r.run_id, f"{r.topology}/{r.run_id}")]
        of_topology = [run for run in runs if reference == run.topology]
        started = [run for run in runs if run.run_id.startswith(reference)]
        if exact or of_topology:
            return (exact or of_topology)[-1]
        if len(started) == 1:
            return started[0]
        if reference == _LATEST and runs:
            return runs[-1]
        names = ", ".join(run.run_id for run in (started or runs)[-5:])
        problem = "is the beginning of several" if started else "is no run and no topology"
        raise ConfigError(
            f"{reference!r} {problem} in {self.path}",
            remedy=f"name one of: {names}" if names else "start one: deploy up FILE",
        )


def _age(run: RunFolder) -> tuple[float, str]:
    """Sorting key: when the folder was made (its owner file's time changes with a new owner)."""
    started = run.manifest.get("started_unix")
    if isinstance(started, int | float):
        return float(started), run.run_id
    try:
        return run.path.stat().st_mtime, run.run_id
    except OSError:
        return 0.0, run.run_id
