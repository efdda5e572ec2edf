"""What becomes of a node's links while the run goes on, as far as the node process does it.

    planned changes --run clock--> mesh (windows, who can be dialled)
          ^ replan                 shaper, where the links are emulated here; recorded as `link`

Where the kernel has the links, the link agent changes and records them; it has the planned changes
from its configuration, and is told of the run clock and of what was ordered by hand.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from node.config import LinkChange, NodeConfig, Replan
from node.links.pending import Pending
from node.runtime.clock import RunClock
from node.runtime.link_agent import AgentPipe
from node.runtime.mesh import Mesh
from node.runtime.process import Process
from node.runtime.shaper import Shaper
from node.units import MILLISECOND, SECOND


class LinkPlan:
    """See the module. Make it on a running event loop; nothing happens before `begin`."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: RunClock,
        process: Process,
        mesh: Mesh,
        shaper: Shaper | None,
    ) -> None:
        self._pending = Pending(config.links.changes)
        self._clock = clock
        self._process = process
        self._mesh = mesh
        self._shaper = shaper
        self._agent = None if shaper else AgentPipe.from_environment(os.environ)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._begun: int | None = None

    def begin(self, at_wall_ns: int) -> None:
        """The run clock is set: what is due by now is done now, the rest in its time."""
        known = self._begun is not None and abs(at_wall_ns - self._begun) < MILLISECOND
        if self._agent is not None and not known:
            self._agent.start(at_wall_ns)
        self._begun = at_wall_ns
        self._arm()

    def replan(self, plan: Replan) -> None:
        """Something else than was planned, from `plan.at_ns` on."""
        if self._agent is not None:
            self._agent.replan(plan)
        self._pending.replan(plan)
        if self._begun is not None:
            self._arm()

    def close(self) -> None:
        """No more changes."""
        if self._timer is not None:
            self._timer.cancel()
        if self._agent is not None:
            self._agent.close()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._pending.next_at
        if at is not None:
            # Before the run clock's zero `now` stands still at 0.
            wait = max(at - self._clock.now(), self._clock.until_begin() + at, 0)
            self._timer = self._loop.call_later(wait / SECOND, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if self._clock.until_begin() <= 0:
            for change in self._pending.due(self._clock.now()):
                self._apply(change)
        self._arm()

    def _apply(self, change: LinkChange) -> None:
        self._mesh.change_paths(change.peers)
        if self._shaper is None:
            return
        applied = self._shaper.change(change)
        late: float = (self._clock.now() - change.at_ns) / MILLISECOND
        fields: dict[str, Any] = {
            "at": change.at_ns / SECOND,
            "late_ms": round(late, 3),
            "what": list(change.what),
            "applied": applied,
            "error": None,
        }
        self._process.record("link", fields)
