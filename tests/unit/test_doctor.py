"""What doctor says about kernels and machines that this one is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy import doctor, host
from deploy.doctor import State, judge_kernel
from deploy.plan import BackendKind
from node.errors import EnvironmentFault

ALL = ("htb", "netem", "ingress", "ifb", "nfqueue")


def probe(*lacking: str) -> str:
    no = "no Error: Specified qdisc kind is unknown."
    return "".join(f"{name} {no if name in lacking else 'ok'}\n" for name in ALL)


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        ((), set()),
        (("netem",), set()),
        (("nfqueue",), set()),
        (("netem", "nfqueue"), {"kernel: netem", "kernel: nfqueue"}),
        (("htb",), {"kernel: htb"}),
        (("ifb", "netem"), {"kernel: ifb"}),
    ],
)
def test_one_way_to_delay_is_enough(lacking: tuple[str, ...], missing: set[str]) -> None:
    items = list(judge_kernel(probe(*lacking)))
    assert {item.name for item in items if item.state is State.MISSING} == missing
    assert all(item.remedy for item in items if item.state is State.MISSING)
    assert {item.name for item in items if item.state is State.OK} == {
        f"kernel: {name}" for name in ALL if name not in lacking
    }


def test_a_probe_that_says_nothing_finds_nothing() -> None:
    assert all(item.state is State.MISSING for item in judge_kernel("sh: tc: not found\n"))


def test_no_engine_and_no_compose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise EnvironmentFault("nothing there", remedy="install it")

    monkeypatch.setattr(host, "docker_client", fail)
    monkeypatch.setattr(host, "find_compose", fail)
    assert doctor.doctor(results=tmp_path, backend="docker", as_json=True) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is False
    missing = {item["name"]: item for item in found["items"] if item["state"] == "missing"}
    assert set(missing) == {"engine", "compose"}
    assert missing["engine"]["remedy"] == "install it"


def test_the_local_backend_asks_for_no_engine(tmp_path: Path) -> None:
    items = doctor.examine(results=tmp_path, backend=BackendKind.LOCAL)
    assert "engine" not in {item.name for item in items}


def test_little_disk_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda path: 1000)
    items = doctor.examine(results=tmp_path, backend=BackendKind.LOCAL)
    (disk,) = [item for item in items if item.name == "results"]
    assert disk.state is State.MISSING
    assert "--results" in disk.remedy


def test_routes_of_the_host() -> None:
    text = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert [str(network) for network in host.parse_routes(text)] == [
        "172.17.0.0/16",
        "192.0.2.0/24",
    ]


def test_a_probe_never_raises() -> None:
    assert host.run_quietly(["/nonexistent/program"], timeout_s=1).returncode == 127
    assert host.run_quietly(["sleep", "5"], timeout_s=0.05).returncode == 124
