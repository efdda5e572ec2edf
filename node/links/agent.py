"""The first process of a node's container: sets up its links, then starts and watches the node.

    probe the kernel -> plan -> apply -> read back -> links.json -> node process, unprivileged
                                                          \\-> delay line, changes and shares
                                                              of links, in this process

It alone has NET_ADMIN. It ends when the node process does, with its exit status. It fails closed:
when the delay line cannot go on, the node is ended and nothing passes any more. It imports neither
asyncio nor grpc nor numpy, so that it stays under 25 MiB.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from node.config import NodeConfig
from node.core.ids import NodeId
from node.errors import ConfigError, EnvironmentFault, PeerbedError
from node.links import confine, kernel, nfqueue, tc
from node.links.live import LiveLinks, with_delays
from node.links.tc_change import after
from node.links.tc_plan import LinkCommands, plan_commands
from node.links.timer import Timer
from node.units import MILLISECOND, SECOND, Nanos

RUN_DIR: Final = Path("/run/peerbed")
LINKS_FILE: Final = "links.json"
CHILD: Final = (sys.executable, "-m", "node", "peer")
ORDERS: Final = "PEERBED_AGENT_FD"
"""Where the node process finds the file descriptor that it may give orders through."""
LOOK_NS: Final = 15 * MILLISECOND
"""So long at most is what comes from elsewhere left unread while the delay line is busy."""
GRACE_S: Final = 5.0
"""Between asking the node to end and making it, when the links have failed."""


@dataclass(slots=True, kw_only=True)
class _Links:
    """What is in force in this network namespace."""

    plan: LinkCommands
    line: nfqueue.DelayLine | None
    iptables: str
    state: dict[str, Any]


def main(config: NodeConfig, *, child: Sequence[str] = CHILD, run_dir: Path = RUN_DIR) -> int:
    """Run one node container to its end.

    Args:
        child: the node process; it finds its configuration in the environment, as this one did.
        run_dir: where links.json goes, for the node process to read.
    Returns:
        The child's exit status, 128 + n when signal n ended it; 2 or 3 when there was no child,
        because the configuration or the machine does not allow these links.
    """
    links: _Links | None = None
    watch: _Watch | None = None
    try:
        uid, gid = owner_ids(config.owner)
        own_directories(Path(config.results), run_dir, uid=uid, gid=gid)
        links = set_up(config)
        _write_links(run_dir, links.state)
        watch = _Watch(config, links, child=child, uid=uid, gid=gid)
        status = watch.run()
    except PeerbedError as fault:
        _say(f"error: {fault}")
        _record(config, "error", {"message": str(fault)})
        with contextlib.suppress(OSError):
            _write_links(run_dir, {"error": str(fault)})
        status = fault.exit_status
    if links is not None:
        _record(config, "links", _counters(links, watch))
    return status


def set_up(config: NodeConfig) -> _Links:
    """Apply this node's links and read them back. Raises ConfigError, EnvironmentFault."""
    try:
        able = kernel.probe()
        emulator = kernel.settle(config.links, able, me=config.name)
    except ValueError as error:
        raise ConfigError(str(error), where=config.name) from error
    _check_changes(config)
    device = tc.device_of(config.host)
    plan = plan_commands(
        config.links, coordinator_host=config.coordinator_host, emulator=emulator, device=device
    )
    iptables = able.iptables or "iptables"
    tc.teardown(device, iptables=able.iptables)
    tc.apply(plan, iptables=iptables)
    line = None
    if plan.delays:
        line = nfqueue.DelayLine(plan.delays, seed=f"{config.seed}/links/{config.name}")
    applied = with_delays(tc.read_back(plan, iptables=iptables), plan, line)
    return _Links(
        plan=plan, line=line, iptables=iptables, state=_state(config, plan, able, applied)
    )


def _check_changes(config: NodeConfig) -> None:
    """Raise ConfigError if what is planned cannot be done, before anything starts."""
    links = config.links
    known = {link.name for link in links.shared}
    for peer in links.peers:
        if strange := [name for name in peer.shared if name not in known]:
            raise ConfigError(f"there is no shared link {strange[0]!r}", where=peer.name)
    for change in links.changes:
        links = after(links, change)


def _state(
    config: NodeConfig,
    plan: LinkCommands,
    able: kernel.Capabilities,
    applied: Mapping[tuple[NodeId, str], tc.Applied],
) -> dict[str, Any]:
    """What links.json says; `node.links.report` reads it."""

    def side(peer: NodeId, name: str) -> dict[str, Any] | None:
        return asdict(applied[peer, name]) if (peer, name) in applied else None

    return {
        "emulator": plan.emulator.value,
        "device": plan.device,
        "gso_segments": plan.gso_segments,
        "capabilities": able.as_dict(),
        "commands": [" ".join(argv) for argv in plan.commands],
        "peers": {
            peer.name: {"applied": {name: side(peer.name, name) for name in ("out", "into")}}
            for peer in config.links.peers
        },
    }


class _Watch:
    """The agent's event loop: signals, the child's end, the delay line."""

    def __init__(
        self, config: NodeConfig, links: _Links, *, child: Sequence[str], uid: int, gid: int
    ) -> None:
        self._line = links.line
        self._timer = Timer()
        self._signals: list[int] = []
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda seen, _: self._signals.append(seen))
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.epoll()
        self._own = {self._wake, self._timer.fileno()}
        if links.line is not None:
            self._own.add(links.line.fileno())
        for fd in self._own:
            self._poll.register(fd, select.EPOLLIN)
        self._looked = 0
        self._next: Nanos | None = None
        """When the changes want their next turn; sooner when something has come in for them."""
        self._heard = True
        orders, written = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(orders, False)
        self.live = LiveLinks(
            config,
            links.plan,
            line=links.line,
            iptables=links.iptables,
            orders_fd=orders,
            poll=self._poll,
            record=lambda kind, fields: _record(config, kind, fields),
        )
        self._child = confine.start(child, uid=uid, gid=gid, pipes={ORDERS: written})
        os.close(written)
        self._status: int | None = None

    def run(self) -> int:
        """Until the child has ended; its status. Raises EnvironmentFault if the delays fail."""
        confine.punctual()
        try:
            while self._status is None:
                due = self._line.turn() if self._line is not None else None
                if self._heard or (self._next is not None and time.monotonic_ns() >= self._next):
                    self._heard = False
                    self._next = self.live.turn(time.monotonic_ns())
                if due is None or (self._next is not None and self._next < due):
                    due = self._next
                self._wait(due)
                if self._signals:
                    self._handle_signals()
        except OSError as error:
            if self._line is not None:
                self._line.close()  # nothing passes from here on
            self._end_child()
            raise EnvironmentFault(
                f"the delay line failed, the node was ended: {error}",
                remedy="nothing of this run after this moment counts; start it again",
            ) from error
        finally:
            self.live.close()
        return self._status

    def _wait(self, until: Nanos | None) -> None:
        """Until something happens or the time has come.

        A wait of one pause at most is slept through: packets that come meanwhile have time, and
        being woken by each would cost several times as much.
        """
        now = time.monotonic_ns()
        left = until - now if until is not None else None
        if left is not None and self._line is not None and left <= self._line.pause_ns:
            if left > 0:
                time.sleep(left / SECOND)
            if now - self._looked > LOOK_NS:
                self._ready(now, 0)
            return
        self._timer.set(until)
        self._ready(now, None)

    def _ready(self, now: Nanos, timeout: float | None) -> None:
        """Give what has come in to whom it is for; signals and packets are looked after anyway."""
        self._looked = now
        for fd, _ in self._poll.poll(timeout):
            if fd not in self._own:
                self.live.ready(fd)
                self._heard = True

    def _handle_signals(self) -> None:
        if not self._signals:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        signals, self._signals[:] = self._signals[:], []
        for number in signals:
            if number == signal.SIGCHLD:
                self._reap()
            elif self._status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, number)

    def _reap(self) -> None:
        """As process 1 of the container, take in every orphan that ends, too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    code = os.waitstatus_to_exitcode(status)
                    self._status = code if code >= 0 else 128 - code

    def _end_child(self) -> None:
        deadline = time.monotonic() + GRACE_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)
            while self._status is None and time.monotonic() < deadline:
                self._poll.poll(max(0.0, deadline - time.monotonic()))
                self._handle_signals()
            deadline = time.monotonic() + GRACE_S


def owner_ids(text: str) -> tuple[int, int]:
    """`uid:gid` as numbers. Raises ConfigError, also for root."""
    try:
        uid, gid = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not uid:gid", where="owner") from error
    if uid == 0 or gid == 0:
        raise ConfigError("the node process must not run as root", where="owner")
    return uid, gid


def own_directories(results: Path, run_dir: Path, *, uid: int, gid: int) -> None:
    """Make what a member writes to, and give it to its user. Raises EnvironmentFault."""
    try:
        for path in (run_dir, results, results / "nodes"):
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, uid, gid)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write to {error.filename}: {error.strerror}",
            remedy="the results folder of the run must be writable for the container",
        ) from error


def _write_links(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Whole or not at all, and readable for the node process."""
    scratch = run_dir / f".{LINKS_FILE}"
    scratch.write_text(json.dumps(state, indent=1) + "\n")
    scratch.chmod(0o644)
    scratch.replace(run_dir / LINKS_FILE)


def _counters(links: _Links, watch: _Watch | None) -> dict[str, Any]:
    delays = {} if links.line is None else links.line.counters()
    return {
        **({} if watch is None else watch.live.counters()),
        "emulator": links.plan.emulator.value,
        "delay_line": {peer: counters.as_dict() for peer, counters in delays.items()},
        "queues": tc.statistics(links.plan),
    }


def _record(config: NodeConfig, kind: str, fields: Mapping[str, Any]) -> None:
    """One line in the node's own file, in one write: the node process may be writing there too.

    Args:
        fields: with `t` on the run clock where it is known.
    """
    event = {"t": None, "wall": time.time(), "node": config.name, "kind": kind, **fields}
    line = json.dumps(event, separators=(",", ":")) + "\n"
    path = Path(config.results) / "nodes" / f"{config.name}.jsonl"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            data = line.encode()
            if (written := os.write(fd, data)) < len(data):  # the disk is full: no half lines
                os.ftruncate(fd, os.fstat(fd).st_size - written)
                _say(f"cannot record in {path}: no space left")
            with contextlib.suppress(OSError, ConfigError):
                os.fchown(fd, *owner_ids(config.owner))
        finally:
            os.close(fd)
    except OSError as error:
        _say(f"cannot record in {path}: {error.strerror}")


def _say(text: str) -> None:
    """To whoever reads the container's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
