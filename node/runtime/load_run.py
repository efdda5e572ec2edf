"""The run on a node that sends load instead of training: what `deploy verify` measures with.

    load, prepare   connect to every target that has a path
    begin           at run time 0 all send as much as goes; the receiver counts, by source
    end             at the time limit, or when told

It has the interface of `LocalRun`, but neither trainer nor model: no torch comes into memory. What
arrives is recorded as `throughput`: bytes of payload from each source in every interval of
`LoadConfig.sample_ns`, an interval counting from its beginning on the run clock.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from node.config import Emulator, LinkChange, LoadConfig, NodeConfig
from node.core.effects import Effect, Send
from node.core.events import Event, Failed, PeerChanged, Prepared, Progress, RunEnded
from node.core.ids import NodeId
from node.errors import PeerbedError
from node.runtime.clock import RunClock
from node.runtime.load_mesh import MeshLoad
from node.runtime.load_tcp import TcpLoad
from node.runtime.mesh import Mesh
from node.runtime.process import Process
from node.units import SECOND

_DEADLINE_SHARE: Final = 0.9
"""Of the coordinator's deadline: better to say what is missing than to be given up."""
_BATCH_MAX: Final = 600
"""Intervals in one record: a process that stood still must not write a line without end."""


class Load(Protocol):
    """How the load is sent and counted: by the kernel's TCP, or on the streams of the mesh."""

    async def open(self) -> None:
        """Take in load from now on. Raises EnvironmentFault."""

    async def connect(self, *, deadline_s: float) -> Sequence[NodeId]:
        """Connect to the targets that have a path; returns those that do not answer in time."""

    def begin(self) -> None:
        """Send, from now on."""

    def renew(self, target: NodeId) -> None:
        """Make the connection to a target anew."""

    def changed(self, change: LinkChange) -> None:
        """Links of this node are different from now on."""

    def tick(self) -> None:
        """Called each second."""

    async def close(self) -> None: ...


class LoadRun:
    """See the module. Make it on a running event loop."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        process: Process,
        clock: RunClock,
        tell: Callable[[Event], None],
    ) -> None:
        assert config.load is not None
        self._config = config
        self._orders: LoadConfig = config.load
        self._process = process
        self._clock = clock
        self._tell = tell
        self._load: Load | None = None
        self._load_error: str | None = None
        self._counts: dict[NodeId, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        """Bytes by source and number of the interval."""
        self._recorded = 0
        """Intervals that have been recorded."""
        self._timers: list[asyncio.TimerHandle] = []
        self._begun = False
        self._over = False

    @property
    def round(self) -> int:
        """No rounds are trained."""
        return 0

    async def load(self, mesh: Mesh) -> None:
        """Listen; `prepare` says what went wrong."""
        application = self._config.links.emulator is Emulator.APPLICATION
        self._load = (
            MeshLoad(self._config, mesh=mesh, arrived=self._arrived, tasks=self._process.tasks)
            if application
            else TcpLoad(self._config, arrived=self._arrived, tasks=self._process.tasks)
        )
        try:
            await self._load.open()
        except PeerbedError as error:
            self._load_error = str(error)

    async def prepare(self) -> None:
        """Targets connected; or the reason why not."""
        if self._load_error is not None:
            self._tell(Prepared(error=self._load_error))
            return
        assert self._load is not None
        limit = self._config.deadlines.ready_ns * _DEADLINE_SHARE / SECOND
        missing = await self._load.connect(deadline_s=limit)
        self._tell(Prepared(error=f"not connected to {', '.join(missing)}" if missing else None))

    def begin(self, at_wall_ns: int) -> None:
        """Send from this Unix time on, when the run clock stands at 0."""
        self._clock.begin(at_wall_ns)
        self._at(0, self._started, at_wall_ns)
        self._at(self._config.stop.time_ns, self._ended, "time")
        for renewal in self._orders.renewals:
            self._at(renewal.at_ns, self._renew, renewal.target)
        for change in self._config.links.changes:
            self._at(change.at_ns, self._changed, change)

    def sit_out(self, at_wall_ns: int) -> None:
        """The run began at this Unix time without this life of the node."""
        self._clock.begin(at_wall_ns)
        self._over = True

    def send(self, effect: Send) -> None:
        """There is no model to give."""
        raise TypeError(f"a node that sends load wants {effect}")

    def order(self, effect: Effect) -> None:
        """There are no rounds."""
        raise TypeError(f"a node that sends load wants {effect}")

    def end(self, reason: str) -> None:
        """End the run here; RunEnded is told."""
        self._process.record("stop", {"reason": reason})
        if self._over:
            self._tell(RunEnded(reason=reason, round=0))
        else:
            self._ended(reason)

    def fail(self, reason: str) -> None:
        """Something broke for good."""
        if not self._over:
            self._tell(Failed(reason=reason))
            self._ended("failed")

    def from_mesh(self, event: Event) -> None:
        """Who came and went, for the record."""
        if isinstance(event, PeerChanged):
            fields = {"peer": event.peer, "change": event.change.value}
            self._process.record("peer", fields)

    def tick(self) -> None:
        """To be called each second."""
        if self._load is not None and self._begun and not self._over:
            self._load.tick()
            self._record(until=self._interval())
            self._tell(Progress(phase="sending", round=0, accuracy=None, loss=None, model_bytes=0))

    def record_bytes(self) -> None:
        """No model is sent: there is nothing to count but what `throughput` says."""

    async def close(self) -> None:
        """Nothing is sent any more."""
        for timer in self._timers:
            timer.cancel()
        if self._load is not None:
            await self._load.close()

    def _at(self, run_ns: int, call: Callable[..., None], argument: object) -> None:
        """Call at a time on the run clock, which has been set."""
        after = max(0, self._clock.until_begin() + run_ns)
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(after / SECOND, call, argument))

    def _started(self, at_wall_ns: int) -> None:
        if not self._over and self._load is not None:
            self._begun = True
            self._process.record("start", {"at_wall": at_wall_ns / SECOND})
            self._load.begin()

    def _renew(self, target: NodeId) -> None:
        if not self._over and self._load is not None:
            self._load.renew(target)

    def _changed(self, change: LinkChange) -> None:
        if not self._over and self._load is not None:
            self._load.changed(change)

    def _arrived(self, source: NodeId, size: int) -> None:
        if self._begun and not self._over:
            self._counts[source][self._interval()] += size

    def _interval(self) -> int:
        """The number of the interval that is under way."""
        return self._clock.now() // self._orders.sample_ns

    def _record(self, *, until: int) -> None:
        """Record all intervals before `until` that have not been."""
        while self._recorded < until:
            first, stop = self._recorded, min(until, self._recorded + _BATCH_MAX)
            received = {}
            for source, counts in sorted(self._counts.items()):
                received[source] = [counts.pop(number, 0) for number in range(first, stop)]
            fields = {
                "begin": first * self._orders.sample_ns / SECOND,
                "every": self._orders.sample_ns / SECOND,
                "from": received,
            }
            self._process.record("throughput", fields)
            self._recorded = stop

    def _ended(self, reason: str) -> None:
        if self._over:
            return
        if self._begun:
            self._record(until=self._interval())
        self._over = True
        self._tell(RunEnded(reason=reason, round=0))
