"""How long training takes: the same in virtual time and in a container's trainer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import ComputeConfig
from node.errors import ConfigError
from node.sim.compute import lasts, needs_measuring

FIXED = ComputeConfig(step_ns=20)
TRACE = ComputeConfig(trace_ns=(10, 30), step_ns=5)
HALF = ComputeConfig(step_ns=20, speed=0.5)
AS_IT_IS = ComputeConfig(speed=2.0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FIXED, [200, 200, 200]),
        (TRACE, [100, 300, 100]),
        (HALF, [400, 400, 400]),
        (ComputeConfig(trace_ns=(10, 30, 7), speed=0.5), [200, 600, 140]),
        (AS_IT_IS, [35, 35, 35]),
        (ComputeConfig(step_ns=0), [1, 1, 1]),
    ],
)
def test_each_model_of_compute_time(config: ComputeConfig, expected: list[int]) -> None:
    assert [lasts(config, job=job, steps=10, measured_step_ns=7) for job in (1, 2, 3)] == expected


def test_only_what_a_file_leaves_open_is_measured() -> None:
    assert not needs_measuring([FIXED, TRACE, HALF])
    assert needs_measuring([FIXED, AS_IT_IS])
    assert lasts(FIXED, job=1, steps=1, measured_step_ns=None) == 20
    with pytest.raises(ConfigError, match="how long a training step takes"):
        lasts(AS_IT_IS, job=1, steps=1, measured_step_ns=None)


@given(st.integers(1, 50), st.integers(1, 10**9), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_a_speed_scales_all_models_alike(job: int, step_ns: int, speed: float) -> None:
    for base in ({"step_ns": step_ns}, {"trace_ns": (step_ns,)}, {}):
        plain = ComputeConfig(**base).job_ns(job=job, steps=4, measured_ns=4 * step_ns)
        scaled = ComputeConfig(**base, speed=speed).job_ns(
            job=job, steps=4, measured_ns=4 * step_ns
        )
        assert plain == 4 * step_ns
        assert abs(scaled - plain / speed) <= 1
