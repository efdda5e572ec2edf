"""A node container without the container: the link agent with any program as its child.

    python -m tests.links.run_agent RUN_DIR PROGRAM [ARGUMENT ...]      (PEERBED_CONFIG set)

With BREAK_AFTER=n in the environment the delay line fails at its n-th turn.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from node.config import NodeConfig, from_json
from node.links import agent, nfqueue


def break_after(turns: int) -> None:
    """Let the delay line fail as it would if the kernel took its queues away."""
    whole = nfqueue.DelayLine.turn

    def turn(line: nfqueue.DelayLine) -> int | None:
        nonlocal turns
        turns -= 1
        if turns < 0:
            raise OSError("broken on purpose")
        return whole(line)

    nfqueue.DelayLine.turn = turn  # type: ignore[method-assign]


if __name__ == "__main__":
    if "BREAK_AFTER" in os.environ:
        break_after(int(os.environ["BREAK_AFTER"]))
    config = from_json(NodeConfig, os.environ["PEERBED_CONFIG"])
    sys.exit(agent.main(config, child=sys.argv[2:], run_dir=Path(sys.argv[1])))
