"""One run of an algorithm as one number: also `python -m deploy.check_algorithm.digest`, for a
process with another hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from deploy.check_algorithm.case import Broken, Case, Faults
from deploy.check_algorithm.network import Network
from deploy.check_algorithm.subject import Subject, subject
from node.config import Mode
from node.errors import EnvironmentFault
from node.units import MILLISECOND

_ROUNDS: Final = 6
_FAULTS: Final = Faults(broken=0.05, overtake_ns=50 * MILLISECOND)
_HASH_SEEDS: Final = ("1", "4711")
_TIMEOUT_S: Final = 120


def digest(case: Case, seed: int) -> str:
    """Of all that every node does in a few rounds. Raises Broken."""
    network = Network(case, seed=seed, faults=_FAULTS)
    network.run(_ROUNDS)
    network.end()
    return network.digest


def digests_elsewhere(what: Subject, *, nodes: int, mode: Mode, seed: int) -> dict[str, str]:
    """The same run in processes of their own, by hash seed. Raises Broken, EnvironmentFault."""
    order = {"name": what.name, "options": dict(what.options), "nodes": nodes}
    text = json.dumps({**order, "mode": mode.value, "seed": seed})
    found = {}
    for hash_seed in _HASH_SEEDS:
        env = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "deploy.check_algorithm.digest", text],
            env=env,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 3:
            raise Broken(done.stdout.strip())
        if done.returncode:
            raise EnvironmentFault(
                f"a process of its own for {what.name} ended with {done.returncode}:"
                f" {done.stderr.strip().splitlines()[-1:]}"
            )
        found[hash_seed] = done.stdout.strip()
    return found


def main(text: str) -> int:
    """Print the digest of an order; exit status 3 where the run broke."""
    order = json.loads(text)
    what = subject(order["name"], order["options"])
    _, case = what.case(nodes=order["nodes"], mode=Mode(order["mode"]))
    try:
        sys.stdout.write(digest(case, order["seed"]) + "\n")
    except Broken as broken:
        sys.stdout.write(f"{broken}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
