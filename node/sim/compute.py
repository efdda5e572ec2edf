"""How long training takes in virtual time (pure).

The compute models of a topology file: `fixed` (a step time), `trace` (a step time for each job),
`scaled` (a speed, on top of the others), and `measured` where a file says none of them: what a step
takes on this machine, measured once and kept with the run, so that a repetition can use it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.config import ComputeConfig
from node.errors import ConfigError
from node.units import Nanos


def needs_measuring(configs: Iterable[ComputeConfig]) -> bool:
    """Whether `lasts` needs a measured step time for one of them."""
    return any(config.measured for config in configs)


def lasts(config: ComputeConfig, *, job: int, steps: int, measured_step_ns: Nanos | None) -> Nanos:
    """How long a training job lasts; at least 1 ns, so that time goes on.

    Args:
        job: its number in this life of the node, from 1 (`effects.Train.job`).
        measured_step_ns: what a step takes on this machine; None: it was not measured.

    Raises:
        ConfigError: it was not measured, and nothing else says it.
    """
    if config.measured and measured_step_ns is None:
        raise ConfigError(
            "nothing says how long a training step takes",
            where="compute",
            remedy="Set compute.step or compute.trace, or let the run measure it.",
        )
    return max(1, config.job_ns(job=job, steps=steps, measured_ns=steps * (measured_step_ns or 0)))
