"""Sets up a host's links, changes them behind our back, and says what reading back finds.

python -m tests.links.run_read_back [COMMAND ...]     (PEERBED_CONFIG set; one word a command)
"""

from __future__ import annotations

import os
import sys

from node.config import NodeConfig, from_json
from node.errors import EnvironmentFault
from node.links import tc
from node.links.tc_plan import plan_commands

if __name__ == "__main__":
    config = from_json(NodeConfig, os.environ["PEERBED_CONFIG"])
    plan = plan_commands(
        config.links,
        coordinator_host=config.coordinator_host,
        emulator=config.links.emulator,
        device=tc.device_of(config.host),
    )
    tc.teardown(plan.device)
    tc.apply(plan)
    for command in sys.argv[1:]:
        tc.output(command.split())
    try:
        for (peer, side), seen in tc.read_back(plan).items():
            print(peer, side, seen.rate_bps, seen.delay_ms, seen.jitter_ms, seen.loss)
    except EnvironmentFault as fault:
        print(f"fault: {fault}")
