"""`python -m node` with toy training: `synthetic_process peer|coordinator --config FILE`.

The processes are real, so that tests can kill them; only torch is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    CoordinatorConfig,
    LinksConfig,
    NodeConfig,
    from_json,
)
from node.runtime.coordinator_runner import run_coordinator
from node.runtime.node_runner import run_node
from node.training.protocol import Trainer
from node.training.synthetic import SyntheticTrainer

SIZE = 2000


async def trainer(config: NodeConfig, deadline_s: float) -> Trainer:
    return SyntheticTrainer(config, size=SIZE)


async def evaluator(config: CoordinatorConfig, deadline_s: float) -> Trainer:
    """The toy problem needs a node's view; any will do to evaluate."""
    node = NodeConfig(
        session=config.session,
        name=config.members[0],
        index=0,
        members=config.members,
        neighbours=(),
        seed=config.seed,
        host="-",
        port=1,
        coordinator_host="-",
        coordinator_port=1,
        links=LinksConfig(),
        algorithm=AlgorithmConfig(name="-"),
        training=config.training,
        compute=ComputeConfig(),
        stop=config.stop,
    )
    return SyntheticTrainer(node, size=SIZE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("peer", "coordinator"))
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    text = options.config.read_text()
    folder = options.config.parent
    if options.role == "coordinator":
        config = from_json(CoordinatorConfig, text)
        return asyncio.run(run_coordinator(config, start_evaluator=evaluator, run_dir=folder))
    return asyncio.run(run_node(from_json(NodeConfig, text), start_trainer=trainer, run_dir=folder))


if __name__ == "__main__":
    sys.exit(main())
