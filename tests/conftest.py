"""What holds for all tests: where everything must be there, a skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

STRICT = "PEERBED_REQUIRE_DOCKER"
"""Set to 1 in CI: tests with containers must run. For links see `links/conftest.py`."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needs_engine = item.get_closest_marker("docker") is not None
    if report.skipped and needs_engine and os.environ.get(STRICT) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although {STRICT}=1: {reason}"
    return report
