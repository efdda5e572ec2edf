"""What the kernel has is compared with what it was told: nobody changes a link unnoticed."""

from __future__ import annotations

import os
import subprocess

import pytest

from node.config import Emulator, PathSpec, to_json
from node.links.tc_plan import IFB
from node.units import MILLISECOND
from tests.links.bed import Bed, bed
from tests.links.netns import ROOT

pytestmark = pytest.mark.links

PATH = PathSpec(rate_bps=12_345_678, delay_ns=20 * MILLISECOND, loss=0.01)


def read_back(net: Bed, *tampering: str) -> str:
    host = net.hosts[0]
    done = subprocess.run(
        host.command(host.interpreter("tests.links.run_read_back", *tampering)),
        env={**os.environ, "PEERBED_CONFIG": to_json(net.config(host))},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


def test_what_is_read_back_is_what_was_asked(emulator: Emulator) -> None:
    with bed(3, path=PATH, access_bps=50_000_000, emulator=emulator, agents=False) as net:
        lines = read_back(net).splitlines()
        delays = "20.0 0.0 0.01" if emulator is Emulator.NETEM else "None None None"
        assert f"n1 out 12345000 {delays}" in lines
        assert "n2 into 50000000 None None None" in lines
        assert len(lines) == 4


@pytest.mark.parametrize(
    ("tampering", "complaint"),
    [
        ("tc class change dev eth0 classid 1:1000 htb rate 5mbit ceil 5mbit", "the rate is"),
        ("tc qdisc del dev eth0 root", "not refused"),
        (f"tc qdisc del dev {IFB} root", "not refused"),
        ("tc qdisc replace dev eth0 parent 1:3 handle 3: pfifo limit 10", "not refused"),
        ("tc filter del dev eth0 parent 1: prio 1", "not led to its class"),
        (f"tc filter del dev {IFB} parent 1: prio 1", "not led to its class"),
        ("tc qdisc del dev eth0 ingress", "download queues"),
        ("tc qdisc del dev eth0 parent 1:1001", "its queue is"),
        (f"ip link del {IFB}", "failed"),
    ],
)
def test_tampering_is_found(emulator: Emulator, tampering: str, complaint: str) -> None:
    with bed(3, path=PATH, access_bps=50_000_000, emulator=emulator, agents=False) as net:
        said = read_back(net, tampering)
        assert said.startswith("fault: ")
        assert complaint in said


def test_a_missing_rule_is_found(able: object) -> None:
    with bed(2, path=PATH, emulator=Emulator.NFQUEUE, agents=False) as net:
        assert "iptables rule is missing" in read_back(net, "iptables -F PEERBED")
