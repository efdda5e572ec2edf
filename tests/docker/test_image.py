"""The node image on a real engine: built once, reused, rebuilt quickly, and what is in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from deploy.image import REPOSITORY, NodeImage, ensure_image
from node.errors import EnvironmentFault

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PYTHON = "/opt/peerbed/bin/python"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        if os.environ.get("PEERBED_REQUIRE_DOCKER") == "1":
            raise
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


def copy(root: Path, to: Path) -> None:
    for name in ("Dockerfile", "LICENSE", "pyproject.toml"):
        shutil.copy(root / name, to)
    for name in ("node", "scripts"):
        shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as it is now: somebody may edit it while the tests run."""
    folder = tmp_path_factory.mktemp("sources")
    copy(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def built(client: docker.DockerClient, sources: Path) -> NodeImage:
    return ensure_image(client, root=sources, report=print)


@pytest.fixture
def checkout(sources: Path, tmp_path: Path, client: docker.DockerClient) -> Iterator[Path]:
    """A copy to change, with a version of its own; its image is removed in the end."""
    version = f"0.0.0.test{os.getpid()}"
    copy(sources, tmp_path)
    project = (sources / "pyproject.toml").read_text()
    project = re.sub(r'^version = ".*"$', f'version = "{version}"', project, flags=re.MULTILINE)
    (tmp_path / "pyproject.toml").write_text(project)
    yield tmp_path
    try:
        image = client.images.get(f"{REPOSITORY}:{version}")
    except ImageNotFound:
        return
    for tag in image.tags:
        client.images.remove(tag)


@pytest.fixture(scope="module")
def container(client: docker.DockerClient, built: NodeImage) -> Iterator[Container]:
    """One that only waits, started as a node's container is but for the command."""
    container = client.containers.run(
        built.tag,
        ["300"],
        entrypoint=["sleep"],
        detach=True,
        network_mode="none",
        cap_add=["NET_ADMIN"],
        labels={"peerbed.test": "image"},
    )
    yield container
    container.remove(force=True)


def run(container: Container, *command: str, user: str = "root") -> tuple[int | None, str]:
    status, output = container.exec_run(list(command), user=user)
    assert isinstance(output, bytes)
    return status, output.decode().strip()


def layers(client: docker.DockerClient, image: str) -> list[str]:
    return list(client.images.get(image).attrs["RootFS"]["Layers"])


def test_a_second_build_is_none(
    client: docker.DockerClient, built: NodeImage, sources: Path
) -> None:
    lines: list[str] = []
    again = ensure_image(client, root=sources, report=lines.append)
    assert not again.built
    assert (again.tag, again.image_id) == (built.tag, built.image_id)
    assert again.seconds < 5
    assert lines == []


def test_a_change_in_node_rebuilds_only_the_last_layers(
    client: docker.DockerClient, built: NodeImage, checkout: Path
) -> None:
    (checkout / "node" / "added.py").write_text("ADDED = 1\n")
    changed = ensure_image(client, root=checkout, report=print)
    assert changed.built
    assert changed.tag != built.tag
    assert changed.seconds < 30
    before, after = layers(client, built.tag), layers(client, changed.tag)
    assert len(before) == len(after)
    # All but: the sources, their byte code.
    assert before[:-2] == after[:-2]
    command = [PYTHON, "-c", "import node.added; print(node.added.__cached__)"]
    output = client.containers.run(changed.tag, command[1:], entrypoint=command[:1], remove=True)
    assert b"added.cpython-311.pyc" in output


def test_a_build_that_fails_says_where_and_shows_its_output(
    client: docker.DockerClient, checkout: Path
) -> None:
    (checkout / "Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nRUN echo going well; echo no luck >&2; exit 7\n"
    )
    with pytest.raises(EnvironmentFault) as caught:
        ensure_image(client, root=checkout, report=print)
    assert caught.value.where == "Dockerfile, step 3/3"
    assert "going well" in caught.value.message
    assert "no luck" in caught.value.message
    assert "code: 7" in caught.value.message
    assert caught.value.remedy


def test_what_training_needs_works_and_nothing_of_deploy_is_there(container: Container) -> None:
    code = (
        "import grpc, numpy, torch\n"
        "from google import protobuf\n"
        "from importlib.util import find_spec\n"
        "layer = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)\n"
        "layer(torch.ones(4, 2)).sum().backward()\n"
        "optimizer.step()\n"
        "absent = ('click', 'jinja2', 'docker', 'pydantic', 'pip', 'deploy')\n"
        "print([name for name in absent if find_spec(name)])\n"
    )
    status, output = run(container, PYTHON, "-W", "ignore", "-c", code, user="peerbed")
    assert (status, output) == (0, "[]")


def test_torchvision_works_beside_whichever_torch_is_there(container: Container) -> None:
    code = (
        "from node.training.vision import import_torchvision\n"
        "import torch\n"
        "resnet = import_torchvision().models.resnet18(num_classes=10)\n"
        "print(list(resnet(torch.ones(2, 3, 32, 32)).shape))\n"
    )
    status, output = run(container, PYTHON, "-W", "ignore", "-c", code, user="peerbed")
    assert (status, output) == (0, "[2, 10]")


def test_tools_and_user_of_the_link_agent(container: Container) -> None:
    assert run(container, "sh", "-c", "tc -V && iptables -V && ip -V")[0] == 0
    assert run(container, "id", "-un")[1] == "root"
    assert run(container, "id", "-u", user="peerbed") == (0, "10001")
    assert run(container, "stat", "-c", "%U", "/run/peerbed")[1] == "peerbed"


def test_the_health_check_follows_the_heartbeat(
    client: docker.DockerClient, built: NodeImage, container: Container
) -> None:
    kind, check = client.images.get(built.tag).attrs["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD-SHELL"
    assert "python" not in check

    def healthy(prepare: str) -> bool:
        return run(container, "sh", "-c", f"{prepare} && {check}", user="peerbed")[0] == 0

    heartbeat = "/run/peerbed/heartbeat"
    assert not healthy(f"rm -f {heartbeat}")
    assert healthy(f"touch {heartbeat}")
    assert healthy(f"touch -d '-25 sec' {heartbeat}")
    assert not healthy(f"touch -d '-31 sec' {heartbeat}")
