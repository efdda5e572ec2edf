"""What the node process tells its link agent, which waits at the other end of a pipe.

One JSON object a line: `{"start": <Unix time in ns>}` when the run clock is set, and
`{"change": <node.config.Replan>}` for what was ordered while the run goes on. The agent knows the
planned changes from its own configuration.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Mapping
from typing import Final, Self

from node.config import Replan, to_json

VARIABLE: Final = "PEERBED_AGENT_FD"
"""The pipe's number in the environment of a node process."""


class AgentPipe:
    """The write end. Make it on a running event loop; writing never blocks that.

    An agent that is gone takes the node process with it, so that nothing is said about it here.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._watched = False
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """The pipe that an agent has left us; None where there is no agent."""
        number = environment.get(VARIABLE, "")
        return cls(int(number)) if number.isdecimal() else None

    def start(self, at_wall_ns: int) -> None:
        """The run clock stands at 0 at this Unix time."""
        self._put(json.dumps({"start": at_wall_ns}))

    def replan(self, plan: Replan) -> None:
        """Something else than was planned, from `plan.at_ns` on."""
        self._put(f'{{"change":{to_json(plan)}}}')

    def close(self) -> None:
        """No more will be written."""
        self._unwatch()
        self._waiting.clear()

    def _put(self, line: str) -> None:
        self._waiting.append(line.encode() + b"\n")
        self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                line = self._waiting.popleft()
                written = os.write(self._descriptor, line)
                if written < len(line):
                    self._waiting.appendleft(line[written:])
        except BlockingIOError:
            self._waiting.appendleft(line)
            if not self._watched:
                self._watched = True
                self._loop.add_writer(self._descriptor, self._write)
            return
        except OSError:
            self._waiting.clear()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_writer(self._descriptor)
