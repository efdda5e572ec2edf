"""The links while the node runs: changes on the run clock, and shares of interior links.

    planned changes, orders by hand -> at their time -> tc, delay line -> read back, aside -> record
    counters of the kernel, what other agents say -> every 50 ms -> ceilings -> tc

It does one thing at a time and never waits: `agent.py` calls `turn` when the time has come and
`ready` when one of its file descriptors is readable. What cannot be done is recorded, never fatal:
the links are then as they were, and the run says so.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from node.config import Emulator, LinkChange, LinksConfig, NodeConfig, Replan
from node.core.ids import NodeId
from node.errors import ConfigError, EnvironmentFault
from node.links import impair, nfqueue, orders, tc
from node.links.aside import Aside
from node.links.pending import Pending
from node.links.shares import Shares
from node.links.sizes import path_segments
from node.links.tc_change import Alteration, after, alter, ceiling_commands, under
from node.links.tc_pipe import Done, TcPipe
from node.links.tc_plan import LinkCommands, impaired
from node.units import MILLISECOND, SECOND, Nanos

QUIET_NS: Final[Nanos] = 50 * MILLISECOND
"""After a change nothing else is done for so long: on one host, other agents are at it, too."""
LOOK_NS: Final[Nanos] = 3 * MILLISECOND
"""Until tc has printed all classes, as a rule."""
REFUSALS_MAX: Final = 20
"""Refused orders that are recorded; the rest is counted."""
Recorder = Callable[[str, Mapping[str, Any]], None]
Applied = dict[tuple[NodeId, str], tc.Applied]


@dataclass(slots=True, kw_only=True)
class _Change:
    """One change that is being made, until it has been read back and recorded."""

    change: LinkChange
    peers: tuple[NodeId, ...]
    t_ns: Nanos | None = None
    error: str | None = None


class LiveLinks:
    """What becomes of one node's links.

    Args:
        plan: what is in force now.
        line: the delay line, with the nfqueue emulator.
        iptables: the variant that works here.
        orders_fd: where the node process writes.
        poll: gets our file descriptors; `owns` and `ready` are for those.
        record: writes a line of the node's events.
    """

    def __init__(
        self,
        config: NodeConfig,
        plan: LinkCommands,
        *,
        line: nfqueue.DelayLine | None,
        iptables: str,
        orders_fd: int,
        poll: select.epoll,
        record: Recorder,
    ) -> None:
        self._config, self._plan, self._line = config, plan, line
        self._links: LinksConfig = config.links
        self._iptables, self._poll, self._record = iptables, poll, record
        self._pending = Pending(config.links.changes)
        self._prepared: tuple[LinkChange, LinksConfig, Alteration] | None = None
        self._making: list[_Change] = []
        self._start: Nanos | None = None
        self._quiet_until: Nanos = 0
        self._unread = False
        self._lines = orders.Lines()
        self._refused = 0
        self._changed = 0
        self._orders_fd: int | None = orders_fd
        self._watch(orders_fd)
        self._ways = Aside(watch=self._watch, unwatch=self._unwatch)
        self._reading = Aside(watch=self._watch, unwatch=self._unwatch)
        self._tc: TcPipe | None = None
        self._look_at: Nanos | None = None
        self._shares: Shares | None = None
        if config.links.changes:
            self._tc_pipe()
        self._share()

    def _watch(self, fd: int) -> None:
        self._poll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)

    # Turns ---------------------------------------------------------------------------------------

    def turn(self, now: Nanos) -> Nanos | None:
        """Do what is due; when the next is, None if nothing is planned (monotonic clock)."""
        due: list[Nanos] = []
        if self._start is not None and (at := self._pending.next_at) is not None:
            if self._start + at <= now:
                self._apply(self._pending.due(now - self._start))
            elif now >= self._quiet_until and self._prepared is None:
                self._prepare()
        if self._unread and now >= self._quiet_until:
            self._begin_reading()
        if self._shares is not None:
            due.append(self._shares.turn(now))
        if self._start is not None and (at := self._pending.next_at) is not None:
            due.append(self._start + at)
        if now < self._quiet_until:
            due.append(self._quiet_until)
        if self._look_at is not None:
            due.append(self._look(now))
        return min(due, default=None)

    def _look(self, now: Nanos) -> Nanos:
        """See what tc has printed of many classes; when to look again."""
        if self._look_at is not None and now >= self._look_at:
            self._look_at = now + LOOK_NS
            self._hear_tc()
            if self._tc is not None and not self._tc.printing:
                self._watch(self._tc.fileno())
                self._look_at = None
        return self._look_at or now + LOOK_NS

    def ready(self, fd: int) -> None:
        """One of our file descriptors is readable."""
        if fd == self._orders_fd:
            self._take_orders(fd)
        elif self._tc is not None and fd == self._tc.fileno():
            self._hear_tc()
        elif self._shares is not None and fd == self._shares.fileno():
            self._shares.receive()
        elif not self._ways.receive(fd):
            self._reading.receive(fd)

    def counters(self) -> dict[str, Any]:
        """For the record at the end."""
        shares = {} if self._shares is None else {"shares": self._shares.counters()}
        return {"changes": self._changed, "orders_refused": self._refused, **shares}

    def close(self) -> None:
        """End what we started; changes that are not read back are recorded as they are."""
        self._ways.drop()
        self._reading.drop()
        self._finish(None, None)
        if self._tc is not None:
            self._tc.close()
        if self._shares is not None:
            self._shares.close()

    # Orders --------------------------------------------------------------------------------------

    def _take_orders(self, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._unwatch(fd)
            os.close(fd)
            self._orders_fd = None
            return
        for line in self._lines.take(data):
            try:
                order = orders.parse(line, now_wall=time.time_ns())
                if isinstance(order, Replan):
                    self._replan(order)
                else:
                    self._begin(order)
            except ConfigError as error:
                self._refuse(str(error))
            except Exception as error:  # whatever an order does, the links go on
                self._refuse(f"{type(error).__name__}: {error}")

    def _begin(self, start_wall: Nanos) -> None:
        start = time.monotonic_ns() + start_wall - time.time_ns()
        if self._start is not None and abs(start - self._start) > MILLISECOND:
            raise ConfigError("the run has begun already", where="an order")
        self._start = start if self._start is None else self._start

    def _replan(self, order: Replan) -> None:
        """Raises ConfigError before anything is changed."""
        links = under(self._links, order)
        impair.check(
            replace(links, peers=(), changes=order.changes),
            self._plan.emulator,
            me=self._config.name,
        )
        self._links = links
        self._pending.replan(order)
        self._prepared = None
        self._make_way(order.changes)
        self._share()

    def _make_way(self, changes: Sequence[LinkChange]) -> None:
        """What a change needs besides tc, ahead of its time: rules, shorter trains of packets."""
        plan, known = self._plan, {delay.peer: delay for delay in self._plan.delays}
        entries = [entry for change in changes for entry in change.peers]
        queues = {
            known[e.name].host: known[e.name].queue
            for e in entries
            if e.name in known and impaired(e.into)
        }
        paths = [entry.out for entry in entries if entry.out is not None]
        segments = path_segments(paths)
        shorter = segments is not None and segments < (plan.gso_segments or 1 << 16)
        new = {host: queue for host, queue in queues.items() if host not in plan.queues}
        if not new and not shorter:
            return
        self._plan = plan = replace(
            plan,
            queues={**plan.queues, **new},
            gso_segments=segments if shorter else plan.gso_segments,
        )
        iptables = self._iptables

        def work() -> None:
            if new:
                tc.replace_rules(plan, iptables=iptables)
            if shorter:
                tc.output(["ip", "link", "set", "dev", plan.device, "gso_max_segs", str(segments)])

        self._ways.do(work, lambda _, error: self._refuse(error) if error else None)

    def _refuse(self, message: str) -> None:
        self._refused += 1
        if self._refused <= REFUSALS_MAX:
            self._record("warning", {"message": f"the link agent refuses an order: {message}"})

    # Changes -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Think the next change through ahead of its time, so that at its time it is only done."""
        change = self._pending.next
        if change is None:
            return
        try:
            links = after(self._links, change)
            self._prepared = (change, links, self._alteration(links))
        except ConfigError:
            return  # said when it is due

    def _alteration(self, links: LinksConfig) -> Alteration:
        return alter(self._plan, links, coordinator_host=self._config.coordinator_host)

    def _apply(self, changes: Sequence[LinkChange]) -> None:
        """Make these changes, all of them at once."""
        prepared, self._prepared = self._prepared, None
        links, made = self._links, []
        for change in changes:
            try:
                links = after(links, change)
                made.append(_Change(change=change, peers=()))
            except ConfigError as error:
                made.append(_Change(change=change, peers=(), error=str(error)))
        if prepared is not None and [prepared[0]] == list(changes):
            links, alteration = prepared[1], prepared[2]
        else:
            alteration = self._alteration(links)
        self._changed += len(changes)
        self._quiet_until = time.monotonic_ns() + QUIET_NS
        self._interrupt()
        self._links, self._plan = links, alteration.plan
        for entry in made:
            entry.peers = tuple(p for p in alteration.peers if _about(entry.change, p, links))
        self._making += made
        limits = {} if self._shares is None else self._shares.state[1]
        limits = {peer: limits[peer] for peer in alteration.peers if peer in limits}
        commands = [*alteration.commands, *ceiling_commands(alteration.plan, {}, limits)]
        self._send(commands, made)
        if self._line is not None and alteration.delays:
            self._line.change(alteration.delays)
        self._share()

    def _interrupt(self) -> None:
        """A reading that is under way would mix what was and what comes."""
        if any(entry.t_ns is not None for entry in self._making):
            self._unread = False
            self._reading.drop()
            self._finish(None, None)

    def _send(self, commands: Sequence[tuple[str, ...]], made: Sequence[_Change]) -> None:
        try:
            pipe = self._tc_pipe()
            pipe.send(commands, lambda at, failed, _: self._done(made, at, failed))
        except (OSError, EnvironmentFault) as error:
            self._tc_lost(str(error))

    def _tc_pipe(self) -> TcPipe:
        if self._tc is None:
            self._tc = TcPipe(self._plan.device)
            self._watch(self._tc.fileno())
        return self._tc

    def _hear_tc(self) -> None:
        assert self._tc is not None
        try:
            self._tc.receive()
        except OSError as error:
            self._tc_lost(str(error))

    def _tc_lost(self, why: str) -> None:
        """It is started anew when it is needed; what it had not done is said to have failed."""
        if self._tc is not None:
            self._unwatch(self._tc.fileno())
            self._tc.close()
            self._tc, self._look_at = None, None
        if self._shares is not None:
            self._shares.failed(why)
        if made := [entry for entry in self._making if entry.t_ns is None]:
            self._done(made, time.monotonic_ns(), why)

    def _done(self, made: Sequence[_Change], at: Nanos, failed: str | None) -> None:
        """tc has done what these changes take."""
        for entry in made:
            entry.t_ns = at
            entry.error = "; ".join(filter(None, (entry.error, failed))) or None
        if all(entry.t_ns is not None for entry in self._making):
            self._unread = bool(self._making)

    def _begin_reading(self) -> None:
        """Read back what is there after the changes that have been made."""
        self._unread = False
        work = self._read_back(self._plan)
        times = 0 if self._shares is None else self._shares.state[0]

        def then(result: Any, error: str | None) -> None:
            self._finish(result, error or self._wrong_share(result, times))

        if self._ways.busy:
            self._ways.do(_nothing, lambda _, __: self._reading.do(work, then))
        else:
            self._reading.do(work, then)

    def _wrong_share(self, result: Any, times: int) -> str | None:
        """A ceiling of a shared path that is not what we set, if we set none since."""
        if self._shares is None or result is None or self._shares.state[0] != times:
            return None
        ceilings = self._shares.state[1]
        for peer, side, found in result:
            asked, seen = ceilings.get(peer), found["rate_bps"]
            if side == "out" and asked is not None and not tc.same_rate(seen or 0, asked):
                return f"the share of the path to {peer} is {seen} bit/s, set was {asked}"
        return None

    def _read_back(self, plan: LinkCommands) -> Callable[[], Any]:
        line, iptables = self._line, self._iptables

        def work() -> list[tuple[NodeId, str, dict[str, Any]]]:
            seen = with_delays(tc.read_back(plan, iptables=iptables), plan, line)
            return [(peer, side, asdict(found)) for (peer, side), found in seen.items()]

        return work

    def _finish(self, result: Any, error: str | None) -> None:
        """Record the changes that have been made."""
        ended = [entry for entry in self._making if entry.t_ns is not None]
        self._making = [entry for entry in self._making if entry.t_ns is None]
        seen = {(peer, side): found for peer, side, found in result or ()}
        for entry in ended:
            assert entry.t_ns is not None
            applied = None
            if result is not None:
                applied = {
                    peer: {side: seen.get((peer, side)) for side in ("out", "into")}
                    for peer in entry.peers
                }
            began = self._start or 0
            self._record(
                "link",
                {
                    "t": (entry.t_ns - began) / SECOND,
                    "at": entry.change.at_ns / SECOND,
                    "late_ms": (entry.t_ns - began - entry.change.at_ns) / MILLISECOND,
                    "what": list(entry.change.what),
                    "applied": applied,
                    "error": entry.error or error,
                },
            )

    # Shares --------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Take part in sharing from the first path on that crosses a shared link."""
        if self._shares is not None:
            self._shares.configure(self._links)
        elif any(peer.shared for peer in self._links.peers) or any(
            entry.shared for change in self._config.links.changes for entry in change.peers
        ):
            try:
                self._shares = Shares(
                    self._config,
                    self._links,
                    self._plan.device,
                    ask=self._ask,
                    set_ceilings=self._set_ceilings,
                    record=self._record,
                )
                self._watch(self._shares.fileno())
                self._tc_pipe()
            except (EnvironmentFault, OSError) as error:
                self._record("error", {"message": f"links cannot be shared: {error}"})

    def _set_ceilings(self, old: Mapping[NodeId, int], new: Mapping[NodeId, int]) -> None:
        if commands := list(ceiling_commands(self._plan, old, new)):
            self._ask(commands, self._ceilings_set)

    def _ceilings_set(self, _at: Nanos, failed: str | None, _printed: bytes) -> None:
        if failed and self._shares is not None:
            self._shares.failed(failed)

    def _ask(self, commands: Sequence[tuple[str, ...]], done: Done) -> None:
        try:
            pipe = self._tc_pipe()
            pipe.send(commands, done)
            if pipe.printing and self._look_at is None:
                self._unwatch(pipe.fileno())
                self._look_at = time.monotonic_ns() + LOOK_NS
        except (OSError, EnvironmentFault) as error:
            self._tc_lost(str(error))


def _nothing() -> None:
    """A piece of work that only waits for its turn."""


def _about(change: LinkChange, peer: NodeId, links: LinksConfig) -> bool:
    """Whether a change says something of a peer, of its access link at least."""
    access = {link.name for link in change.access}
    return any(entry.name == peer for entry in change.peers) or any(
        entry.name == peer and {entry.up, entry.down} & access for entry in links.peers
    )


def with_delays(
    applied: Mapping[tuple[NodeId, str], tc.Applied],
    plan: LinkCommands,
    line: nfqueue.DelayLine | None,
) -> Applied:
    """What was read back of tc, with the delays that the delay line has in force.

    Raises EnvironmentFault if the kernel has given its queues to somebody else.
    """
    whole = dict(applied)
    if plan.emulator is not Emulator.NFQUEUE:
        return whole
    for (peer, side), seen in applied.items():
        if side == "into":
            whole[peer, side] = replace(seen, delay_ms=0.0, jitter_ms=0.0, loss=0.0)
    if line is not None:
        nfqueue.read_back(line)
        for delay in line.in_force():
            if delay.path is not None and (delay.peer, "into") in whole:
                whole[delay.peer, "into"] = replace(
                    whole[delay.peer, "into"],
                    delay_ms=delay.path.delay_ns / MILLISECOND,
                    jitter_ms=delay.path.jitter_ns / MILLISECOND,
                    loss=delay.path.loss_rate,
                )
    return whole
