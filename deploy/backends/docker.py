"""The docker backend: one container for each member, started and removed through Compose.

Everything of a run carries the label `peerbed.run`; only what carries it is looked at or touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from deploy import host
from deploy.backends.base import STOP_GRACE_S, Interrupted
from deploy.history import MemberState
from deploy.plan import BackendKind, Plan
from deploy.processes import end_all, labels
from deploy.render import NODE_LABEL, RESULTS_LABEL, RUN_LABEL, STANDBY_PROFILE
from deploy.results import RunFolder, writing
from node.errors import ConfigError, EnvironmentFault, PeerbedError, RunFailed

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

_UP_TIMEOUT_S: Final = 180
_COMPOSE_GRACE_S: Final = 5
_DOWN_TIMEOUT_S: Final = 60
_LOG_MAX_BYTES: Final = 32 << 20
_THREADS: Final = 16
_RESTART_S: Final = 10
"""From a container's end by a signal to the engine's word of it."""


def project(run_id: str) -> str:
    """Compose's name for a run."""
    return f"peerbed-{run_id}"


class DockerBackend:
    """See `deploy.backends.base.Backend`."""

    kind = BackendKind.DOCKER

    @cached_property
    def client(self) -> DockerClient:
        """Raises EnvironmentFault where no engine answers."""
        return host.docker_client()

    @cached_property
    def compose(self) -> host.Compose:
        """Raises EnvironmentFault where there is none."""
        return host.find_compose()

    # Before ------------------------------------------------------------------------------------

    def check(self, *, results: Path, run_id: str) -> list[PeerbedError]:
        problems: list[PeerbedError] = []
        try:
            containers, networks = self.labelled([f"{RUN_LABEL}={run_id}"])
            if containers or networks:
                problems.append(
                    ConfigError(
                        f"the engine has containers of a run named {run_id!r}",
                        where="--name",
                        remedy=f"choose another --name, or end that run: deploy down {run_id}",
                    )
                )
        except EnvironmentFault as error:
            problems.append(error)
        try:
            _ = self.compose
        except EnvironmentFault as error:
            problems.append(error)
        return problems + host.check_folder(results)

    def taken_networks(self) -> list[IPv4Network]:
        return host.taken_networks(self.client)

    def describe(self) -> dict[str, Any]:
        version = self.client.version()
        info = self.client.info()
        return {
            "engine": str(version.get("Version")),
            "engine_kernel": str(version.get("KernelVersion")),
            "storage_driver": str(info.get("Driver")),
            "compose": self.compose.version,
        }

    # The run -----------------------------------------------------------------------------------

    def start(self, plan: Plan, folder: RunFolder, *, interrupted: Interrupted) -> None:
        output = folder.log_file("compose")
        timeout_s = _UP_TIMEOUT_S + 4 * len(plan.nodes)
        steps = [["up", "-d", "--no-build"]]
        if plan.coordinator.standby:  # made now, so that starting one takes no time then
            steps.insert(0, ["up", "--no-start", "--no-build", *plan.coordinator.standby])
        for step in steps:
            status = self._compose(
                step, folder=folder, timeout_s=timeout_s, interrupted=interrupted
            )
            if interrupted():
                return
            if status == 0:
                continue
            raise RunFailed(
                f"Compose could not start the containers: {_last_words(output)}",
                where=str(output),
                remedy="see `deploy doctor` for what this machine lacks",
            )

    def poll(self, folder: RunFolder) -> Mapping[str, MemberState]:
        with _engine_faults():
            # `sparse` spares one request a container; `attrs` then lacks what `inspect` adds.
            listed = self.client.containers.list(
                all=True, sparse=True, filters={"label": _labels(folder)}
            )
            states = [self._state(container) for container in listed]
        return {state.member: state for state in states if state is not None}

    def _state(self, container: Container) -> MemberState | None:
        member = str(container.attrs["Labels"].get(NODE_LABEL, container.attrs["Id"][:12]))
        status = str(container.attrs["State"])
        if status in ("running", "paused", "restarting"):
            return MemberState(member=member, status=status, alive=True)
        from docker.errors import NotFound

        try:
            state = self.client.api.inspect_container(container.attrs["Id"])["State"]
        except NotFound:
            return None
        started = not str(state.get("StartedAt", "")).startswith("0001")
        return MemberState(
            member=member,
            status=str(state["Status"]),
            alive=False,
            exit_status=int(state["ExitCode"]) if started or state["ExitCode"] else None,
            oom_killed=bool(state["OOMKilled"]),
            error=str(state["Error"]) or None,
        )

    def act(self, folder: RunFolder, node: str, verb: str) -> None:
        with _engine_faults():
            found = self.client.containers.list(
                all=True, sparse=True, filters={"label": [*_labels(folder), f"{NODE_LABEL}={node}"]}
            )
        if not found:
            raise RunFailed("it has no container any more", where=node)
        import requests
        from docker.errors import DockerException

        try:
            _ACTS[verb](found[0])
        except (DockerException, requests.RequestException) as error:
            raise RunFailed(f"cannot {verb}: {_one_line(error)}", where=node) from error

    def stop(self, folder: RunFolder, *, grace_s: float = STOP_GRACE_S) -> list[str]:
        end_all(folder, grace_s=_COMPOSE_GRACE_S)  # Compose of an owner that was killed
        containers, _ = self.find(folder)
        alive = [c for c in containers if c.status in ("running", "paused", "restarting")]
        _each(_terminate, alive)
        deadline = time.monotonic() + grace_s
        left = {s.member for s in self.poll(folder).values() if s.alive}
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = {s.member for s in self.poll(folder).values() if s.alive}
        _each(_kill, [c for c in alive if c.labels.get(NODE_LABEL) in left])
        return sorted(left)

    # Afterwards --------------------------------------------------------------------------------

    def collect(self, folder: RunFolder) -> list[str]:
        containers, _ = self.find(folder)
        failures = _each(lambda container: _save_log(container, folder), containers)
        return [f"the log of {name} could not be saved: {why}" for name, why in failures]

    def follow_logs(
        self, folder: RunFolder, members: Sequence[str], *, follow: bool
    ) -> Iterator[tuple[str, str]]:
        """What these members print, line by line, with the member that printed it."""
        containers, _ = self.find(folder)
        chosen = {c.labels[NODE_LABEL]: c for c in containers if c.labels[NODE_LABEL] in members}
        lines: Queue[tuple[str, str] | None] = Queue(maxsize=1000)
        for member in members:
            if container := chosen.get(member):
                arguments = {"member": member, "container": container, "follow": follow}
                read = Thread(target=_read_log, kwargs={**arguments, "lines": lines}, daemon=True)
                read.start()
        left = len(chosen)
        while left:
            item = lines.get()
            if item is None:
                left -= 1
            else:
                yield item

    def destroy(self, folder: RunFolder) -> None:
        containers, networks = self.find(folder)
        # Without any, Compose's project of that name, if there is one, is another folder's.
        if (containers or networks) and folder.compose_file.exists():
            with contextlib.suppress(PeerbedError, OSError):
                self._compose(
                    ["down", "--volumes", "--timeout", "1"],
                    folder=folder,
                    timeout_s=_DOWN_TIMEOUT_S,
                    interrupted=lambda: False,
                )
            containers, networks = self.find(folder)
        failures = _each(lambda container: container.remove(force=True, v=True), containers)
        failures += _each(lambda network: network.remove(), networks)
        containers, networks = self.find(folder)
        if containers or networks:
            names = ", ".join(str(thing.attrs["Name"]) for thing in (*containers, *networks))
            raise RunFailed(
                f"these could not be removed: {names} ({'; '.join(why for _, why in failures)})",
                remedy=f"see what holds them, then: deploy down {folder.run_id}",
            )

    def has_rest(self, folder: RunFolder) -> bool:
        return any(self.find(folder))

    def find(self, folder: RunFolder) -> tuple[list[Container], list[Network]]:
        """Containers and networks of a run."""
        return self.labelled(_labels(folder))

    def find_all(self) -> tuple[list[Container], list[Network]]:
        """Containers and networks of all runs on this engine, whoever owns them."""
        return self.labelled([RUN_LABEL])

    def labelled(self, wanted: list[str]) -> tuple[list[Container], list[Network]]:
        """Containers and networks that carry all these labels."""
        filters: dict[str, str | list[str] | bool] = {"label": wanted}
        with _engine_faults():
            containers = self.client.containers.list(all=True, filters=filters, ignore_removed=True)
            return containers, self.client.networks.list(filters=filters)

    def _compose(
        self,
        arguments: list[str],
        *,
        folder: RunFolder,
        timeout_s: float,
        interrupted: Interrupted,
    ) -> int:
        """Run Compose on the run's file, its output into the run's logs; returns its status."""
        command = [
            *self.compose.command,
            "-p",
            project(folder.run_id),
            "-f",
            str(folder.compose_file),
        ]
        settings = {"COMPOSE_IGNORE_ORPHANS": "1", "COMPOSE_PROGRESS": "plain"}
        if arguments[:2] != ["up", "-d"]:
            settings["COMPOSE_PROFILES"] = STANDBY_PROFILE
        ours = labels(folder, member="compose")
        environment = {**host.foreign_environment(), **settings, **ours}
        if address := host.engine_address():
            environment["DOCKER_HOST"] = address
        deadline = time.monotonic() + timeout_s
        with (
            writing(folder.path),
            folder.log_file("compose").open("ab") as output,
            # A session of its own: Ctrl-C reaches us alone, and we end it in order.
            subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            ) as process,
        ):
            try:
                while process.poll() is None:
                    if interrupted() or time.monotonic() > deadline:
                        return _end(process)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.1)
            except BaseException:
                _end(process)
                raise
            return process.returncode


def _labels(folder: RunFolder) -> list[str]:
    return [f"{RUN_LABEL}={folder.run_id}", f"{RESULTS_LABEL}={folder.path}"]


@contextlib.contextmanager
def _engine_faults() -> Iterator[None]:
    """An engine that stops answering is the machine's fault, and no traceback."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise EnvironmentFault(
            f"the Docker engine failed: {_one_line(error)}",
            remedy="see the engine's log, then `deploy doctor`",
        ) from error


def _each(action: Callable[[Any], object], things: list[Any]) -> list[tuple[str, str]]:
    """Do it to all at once; returns names and reasons of those that failed, gone ones not."""
    import requests
    from docker.errors import DockerException, NotFound

    def attempt(thing: Any) -> str | None:
        try:
            action(thing)
        except NotFound:
            return None
        except (DockerException, requests.RequestException, OSError, PeerbedError) as error:
            return _one_line(error)
        return None

    if not things:
        return []
    with ThreadPoolExecutor(min(_THREADS, len(things))) as pool:
        reasons = list(pool.map(attempt, things))
    return [(str(t.name), why) for t, why in zip(things, reasons, strict=True) if why is not None]


def _terminate(container: Container) -> None:
    if container.status == "paused":
        container.unpause()
    container.kill(signal="SIGTERM")


def _kill(container: Container) -> None:
    from docker.errors import APIError

    with contextlib.suppress(APIError):  # it has just ended by itself
        container.kill(signal="SIGKILL")


def _leave(container: Container) -> None:
    _awake(container)
    container.kill(signal="SIGTERM")


def _crash(container: Container) -> None:
    _awake(container)
    container.kill(signal="SIGKILL")


def _restart(container: Container) -> None:
    """Killed, if it runs, and started again."""
    if container.attrs["State"] != "exited":
        _crash(container)
        container.wait(timeout=_RESTART_S)
    container.start()


def _come_back(container: Container) -> None:
    """Started again; one that is still on its way out ends first."""
    if container.attrs["State"] not in ("created", "exited"):
        container.wait(timeout=STOP_GRACE_S)
    container.start()


def _awake(container: Container) -> None:
    """The engine signals no container that is paused."""
    if container.attrs["State"] == "paused":
        container.unpause()


_ACTS: Final[Mapping[str, Callable[[Container], None]]] = {
    "join": lambda container: container.start(),
    "leave": _leave,
    "crash": _crash,
    "pause": lambda container: container.pause(),
    "resume": lambda container: container.unpause(),
    "restart": _restart,
    "return": _come_back,
}


def _save_log(container: Container, folder: RunFolder) -> None:
    member = str(container.labels.get(NODE_LABEL, container.name))
    written = 0
    with writing(folder.path), folder.log_file(member).open("wb") as output:
        for chunk in container.logs(stream=True, follow=False):
            output.write(chunk)
            written += len(chunk)
            if written > _LOG_MAX_BYTES:
                output.write(b"\n[deploy: the rest of this log was left out]\n")
                return


def _read_log(
    *, member: str, container: Container, follow: bool, lines: Queue[tuple[str, str] | None]
) -> None:
    """Put a container's lines into the queue, then None."""
    import requests
    from docker.errors import DockerException

    rest = b""
    try:
        for chunk in container.logs(stream=True, follow=follow):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put((member, line.decode(errors="replace")))
    except (DockerException, requests.RequestException):
        pass  # it was removed: the run has ended
    lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> int:
    """End Compose with its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.wait(timeout=STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1].strip()


def _one_line(error: BaseException) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error).strip().splitlines()[0] if str(error) else repr(error)
