"""Rendered files: what a run is started from, within what both generations of Compose read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

import deploy.render
from deploy.plan import BackendKind, Plan, make_plan, plan_json
from deploy.render import Files, links_text, render
from deploy.topology import load_topology, parse_topology
from node.config import CoordinatorConfig, Emulator, NodeConfig, from_json
from node.core.ids import COORDINATOR, NodeId
from node.errors import ConfigError
from node.links.tc_plan import plan_commands

ROOT = Path(__file__).parents[2]
EXAMPLES = ["ring", "star", "line"]
IMAGE = "peerbed-node:0.1.0"
ROOT_HEADER = (
    "Three nodes in a ring, ready to run without `deploy`:",
    "",
    "    docker compose up --build        or, with the older Compose: docker-compose up --build",
    "",
    "The containers measure their links, train, exchange model fragments, and end. Their records",
    "are then in results/ring/compose/, or in the folder that $PEERBED_RESULTS names. The network",
    "takes 10.77.0.0/24; `deploy up topologies/ring.yaml` finds a free one, watches and judges.",
    "",
    "Rendered from topologies/ring.yaml; do not edit. Made anew by:",
    "    PEERBED_REWRITE=1 pytest tests/unit/test_render.py",
)
needs_compose = pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="no docker-compose here"
)


def planned(name: str = "ring", *, run_id: str = "r1", **changes: Any) -> Plan:
    given: dict[str, Any] = {"subnet": IPv4Network("10.77.0.0/24")} | changes
    topology = load_topology(ROOT / "topologies" / f"{name}.yaml")
    return make_plan(topology, run_id=run_id, backend=BackendKind.DOCKER, **given)


def compose(files: Files) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(files[PurePosixPath("compose.yaml")])
    return read


# The files ---------------------------------------------------------------------------------------


def test_what_there_is() -> None:
    plan = planned()
    files = render(plan, image=IMAGE)
    nodes = ["n-0", "n-1", "n-2"]
    assert {str(path) for path in files} == {
        "plan.json",
        "compose.yaml",
        "config/coordinator.json",
        *(f"config/{node}.json" for node in nodes),
        *(f"links/{node}.{emulator}.txt" for node in nodes for emulator in ("netem", "nfqueue")),
    }
    assert files[PurePosixPath("plan.json")] == plan_json(plan)
    told = files[PurePosixPath("config/n-1.json")]
    assert from_json(NodeConfig, told) == plan.nodes[1].config


def test_without_containers_there_is_nothing_to_compose() -> None:
    topology = load_topology(ROOT / "topologies" / "ring.yaml")
    names = [*(node.name for node in topology.nodes), COORDINATOR]
    ports = {NodeId(name): 5000 + 2 * i for i, name in enumerate(names)}
    plan = make_plan(topology, run_id="r", backend=BackendKind.LOCAL, ports=ports)
    assert {str(path.parent) for path in render(plan, image="")} == {".", "config"}
    assert PurePosixPath("compose.yaml") not in render(plan, image="")


def test_the_same_plan_the_same_bytes() -> None:
    assert render(planned("star"), image=IMAGE) == render(planned("star"), image=IMAGE)


# Links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("emulator", [Emulator.NETEM, Emulator.NFQUEUE])
def test_the_commands_shown_are_those_that_run(name: str, emulator: Emulator) -> None:
    for node in planned(name).nodes:
        shown = [
            tuple(shlex.split(line)) for line in links_text(node, emulator=emulator).split("\n")
        ]
        config = node.config
        made = plan_commands(
            config.links, coordinator_host=config.coordinator_host, emulator=emulator
        )
        assert tuple(shown[:-1]) == made.commands
        assert shown[-1] == ()


# Compose -----------------------------------------------------------------------------------------


def test_one_service_for_each_member() -> None:
    plan = planned("line")
    services = compose(render(plan, image=IMAGE))["services"]
    assert set(services) == {"coordinator", "east-0", "east-1", "west-0", "west-1"}
    east = services["east-0"]
    assert east["image"] == IMAGE
    assert east["command"] == ["agent"]
    assert services["coordinator"]["command"] == ["coordinator"]
    assert (east["cpus"], east["mem_limit"]) == (0.5, 2**30)
    assert "cpus" not in services["west-0"]
    assert east["networks"]["peers"]["ipv4_address"] == "10.77.0.3"
    assert (east["restart"], east["init"], east["stop_grace_period"]) == ("no", False, "10s")


def test_no_more_rights_than_needed() -> None:
    services = compose(render(planned(), image=IMAGE))["services"]
    assert services["n-0"]["cap_add"] == ["NET_ADMIN"]
    assert "cap_add" not in services["coordinator"]
    for service in services.values():
        assert not {"privileged", "security_opt", "devices", "pid", "ipc", "ports"} & set(service)
        assert "docker.sock" not in json.dumps(service)


def test_each_member_is_told_its_own_part() -> None:
    plan = planned("star")
    services = compose(render(plan, image=IMAGE))["services"]
    for node in plan.nodes:
        told = services[node.name]["environment"]["PEERBED_CONFIG"].replace("$$", "$")
        assert from_json(NodeConfig, told) == node.config
    told = services["coordinator"]["environment"]["PEERBED_CONFIG"].replace("$$", "$")
    assert from_json(CoordinatorConfig, told) == plan.coordinator


def test_runs_are_told_apart_by_name_and_label() -> None:
    one, other = (
        compose(render(planned(run_id=run), image=IMAGE, results=Path("/r") / run))
        for run in ("r1", "r2")
    )
    assert one["networks"]["peers"]["name"] == "peerbed-r1"
    assert other["networks"]["peers"]["name"] == "peerbed-r2"
    labels = {"peerbed.run": "r1", "peerbed.topology": "ring", "peerbed.results": "/r/r1"}
    assert one["networks"]["peers"]["labels"] == labels
    for name, service in one["services"].items():
        assert service["labels"] == labels | {"peerbed.node": name}
        assert "container_name" not in service


def test_the_subnet_is_explicit() -> None:
    plan = planned(subnet=IPv4Network("10.99.3.0/24"))
    [ipam] = compose(render(plan, image=IMAGE))["networks"]["peers"]["ipam"]["config"]
    assert ipam == {"subnet": "10.99.3.0/24", "gateway": "10.99.3.1"}


def test_an_image_that_is_ours_is_built_or_there_and_never_pulled() -> None:
    service = compose(render(planned(), image=IMAGE))["services"]["n-0"]
    assert service["pull_policy"] == "never"
    assert "build" not in service
    service = compose(render(planned(), image=IMAGE, build=True))["services"]["n-0"]
    assert service["build"] == {"context": "."}


STRANGE = Path("/tmp/it's: ${HOME} #1 \\ ü")


def test_a_data_folder_is_mounted_and_cannot_be_written() -> None:
    text = (
        "nodes: 2\nnetwork: {shape: line}\nalgorithm: {name: divshare}\nstop: {rounds: 1}\n"
        "training: {data_dir: '/data/it''s $HOME'}\n"
    )
    topology = parse_topology(text.encode(), path=Path("t.yaml"))
    plan = make_plan(
        topology, run_id="r", backend=BackendKind.DOCKER, subnet=IPv4Network("10.77.0.0/24")
    )
    for service in compose(render(plan, image=IMAGE))["services"].values():
        mount = service["volumes"][1]
        assert mount == {
            "type": "bind",
            "source": "/data/it's $$HOME",
            "target": "/data",
            "read_only": True,
        }


def test_a_configuration_that_fits_into_no_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert deploy.render.ENVIRONMENT_MAX + len("PEERBED_CONFIG=") < 128 * 1024
    monkeypatch.setattr(deploy.render, "ENVIRONMENT_MAX", 500)
    with pytest.raises(ConfigError, match="does not fit into a container's environment"):
        render(planned(), image=IMAGE)


# The Compose file at the root of the repository --------------------------------------------------


def root_compose() -> str:
    files = render(planned(run_id="compose"), image=IMAGE, build=True, header=ROOT_HEADER)
    return files[PurePosixPath("compose.yaml")]


def test_the_root_compose_file_is_the_rendered_ring() -> None:
    path = ROOT / "docker-compose.yml"
    if os.environ.get("PEERBED_REWRITE"):
        path.write_text(root_compose())
    assert path.read_text() == root_compose(), (
        "made anew by: PEERBED_REWRITE=1 pytest tests/unit/test_render.py"
    )


# What Compose itself says ------------------------------------------------------------------------


def resolved(path: Path, **environment: str) -> dict[str, Any]:
    """The file as docker-compose understands it."""
    done = subprocess.run(
        ["docker-compose", "-f", str(path), "config"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", **environment},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


@needs_compose
@pytest.mark.parametrize("name", EXAMPLES)
def test_docker_compose_reads_what_is_rendered(name: str, tmp_path: Path) -> None:
    plan = planned(name)
    path = tmp_path / "compose.yaml"
    path.write_text(render(plan, image=IMAGE, results=STRANGE)[PurePosixPath("compose.yaml")])
    services = resolved(path)["services"]
    for node in plan.nodes:
        service = services[node.name]
        told = service["environment"]["PEERBED_CONFIG"].replace("$$", "$")
        assert from_json(NodeConfig, told) == node.config
        assert service["volumes"][0]["source"].replace("$$", "$") == str(STRANGE)
        assert service.get("cpus") == node.resources.cpus
        assert service.get("mem_limit") == node.resources.memory


@needs_compose
def test_docker_compose_reads_the_root_file() -> None:
    path = ROOT / "docker-compose.yml"
    service = resolved(path)["services"]["n-0"]
    assert service["volumes"] == [f"{ROOT}/results/ring/compose:/results:rw"]
    assert service["build"]["context"] == str(ROOT)
    service = resolved(path, PEERBED_RESULTS="/tmp/elsewhere")["services"]["n-0"]
    assert service["volumes"] == ["/tmp/elsewhere:/results:rw"]
