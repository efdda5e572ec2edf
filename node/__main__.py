"""Entry of every process of a run: `python -m node agent|peer|coordinator [--config FILE]`.

The configuration is JSON (`node.config`), from the file or, there packed where it is long
(`node.packing`), from the environment variable `PEERBED_CONFIG`. Exit status: 0 if all went well, 1
if the run failed, 2 and 3 as in `node.errors`.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from node.config import Config, CoordinatorConfig, NodeConfig, from_json
from node.core.ids import COORDINATOR
from node.errors import ConfigError, PeerbedError
from node.packing import unpack

VARIABLE: Final = "PEERBED_CONFIG"
ROLES: Final = ("agent", "peer", "coordinator")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m node", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--config", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    config: Config | None = None
    try:
        config = _configuration(options.role, options.config)
        return _run(options.role, config)
    except PeerbedError as error:
        _tell(config, str(error))
        return error.exit_status
    except Exception as error:
        traceback.print_exc()
        _tell(config, f"{type(error).__name__}: {error}")
        return 1


def _configuration(role: str, path: Path | None) -> Config:
    if path is not None:
        try:
            text = path.read_text()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the configuration: {error}", where=str(path)) from error
    else:
        text = unpack(os.environ.get(VARIABLE, ""))
        if not text:
            raise ConfigError(
                "no configuration", remedy=f"Pass --config FILE, or set {VARIABLE} to the JSON."
            )
    return (
        from_json(CoordinatorConfig, text) if role == "coordinator" else from_json(NodeConfig, text)
    )


def _run(role: str, config: Config) -> int:
    """Each role imports only what it needs: the agent has neither numpy nor grpc in memory."""
    if role == "agent":
        from node.links import agent

        assert isinstance(config, NodeConfig)
        return agent.main(config)
    if isinstance(config, CoordinatorConfig):
        _leave_root(config)
    # The trainer is started by fork and exec, which gRPC need not know of; and it says in its own
    # words, on the log of a run, that a peer is not there yet.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import asyncio

    if isinstance(config, NodeConfig):
        from node.runtime.node_runner import run_node

        return asyncio.run(run_node(config))
    from node.runtime.coordinator_runner import run_coordinator

    return asyncio.run(run_coordinator(config))


def _leave_root(config: CoordinatorConfig) -> None:
    """A coordinator's container starts as root only to own its results; then it is its user."""
    if os.getpid() != 1 or os.geteuid() != 0:
        return
    from node.links import agent, confine

    uid, gid = agent.owner_ids(config.owner)
    agent.own_directories(Path(config.results), agent.RUN_DIR, uid=uid, gid=gid)
    confine.drop(uid=uid, gid=gid)


def _tell(config: Config | None, message: str) -> None:
    """On standard error, and in the member's event log if there can be one."""
    sys.stderr.write(f"error: {message}\n")
    if config is None:
        return
    from node.metrics import EventLog

    class Stamp:
        def run_seconds(self) -> None: ...

        def wall_seconds(self) -> float:
            import time

            return time.time()

    name: Any = config.name if isinstance(config, NodeConfig) else COORDINATOR
    file = f"nodes/{name}.jsonl" if isinstance(config, NodeConfig) else "coordinator.jsonl"
    try:
        log = EventLog(Path(config.results) / file, node=name, clock=Stamp())
        log.record("error", {"message": message})
    except PeerbedError as error:
        sys.stderr.write(f"error: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
