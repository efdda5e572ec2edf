"""A Docker engine with the node image, and `deploy` on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from tests.docker.support import Deploy


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """Skips where there is none; tests/conftest.py makes that a failure where one is required."""
    try:
        return docker.from_env()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> str:
    """The node image of this checkout."""
    from deploy.image import ensure_image
    from deploy.version import ROOT

    return ensure_image(engine, root=ROOT, report=print).tag


@pytest.fixture
def deploy(image: str, tmp_path: Path) -> Iterator[Deploy]:
    """The command; whatever a failed test leaves behind is removed."""
    command = Deploy(tmp_path)
    yield command
    command.run("down", "--all")
    assert command.leftovers() == []
