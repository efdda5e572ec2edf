"""The link agent as the first process of a container: privileges, signals, ends, failures."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from node.config import Emulator, PathSpec
from node.links.kernel import Capabilities
from node.units import MILLISECOND
from tests.links.bed import bed, cpu_and_memory
from tests.links.netns import wait_until

pytestmark = pytest.mark.links

PATH = PathSpec(rate_bps=20_000_000, delay_ns=20 * MILLISECOND)


def test_the_node_has_no_privileges_and_the_agent_says_what_is_in_force(emulator: Emulator) -> None:
    with bed(2, path=PATH, emulator=emulator, agents=False) as net:
        host = net.hosts[0]
        agent = net.start_agent(host, child=["cat", "/proc/self/status"])
        out, err = agent.communicate(timeout=20)
        assert agent.returncode == 0, err
        status = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
        assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
        assert status["Groups"].split() == []
        state = net.state(host)
        assert state["emulator"] == emulator.value
        applied = state["peers"]["n1"]["applied"]
        side = "out" if emulator is Emulator.NETEM else "into"
        assert applied["out"]["rate_bps"] == 20_000_000
        assert applied[side]["delay_ms"] == 20
        assert any(command.startswith("tc qdisc add") for command in state["commands"])
        assert (net.results / "nodes").stat().st_uid == 10001
        (end,) = net.events(host, "links")
        assert end["node"] == "n0"
        assert end["t"] is None


def test_exit_status_and_signals_are_the_childs(able: Capabilities) -> None:
    with bed(2, path=PATH, agents=False) as net:
        first, second = net.hosts
        assert net.start_agent(first, child=["sh", "-c", "exit 7"]).wait(20) == 7
        said = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"
        agent = net.start_agent(second, child=["sh", "-c", said])
        assert agent.stdout is not None
        assert agent.stdout.readline() == "up\n"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 9


def test_a_killed_child_gives_128_and_the_signal(able: Capabilities) -> None:
    with bed(2, path=PATH, agents=False) as net:
        agent = net.start_agent(net.hosts[0], child=["sh", "-c", "kill -9 $$"])
        assert agent.wait(20) == 137


def test_as_process_1_it_takes_in_orphans(able: Capabilities) -> None:
    """The child leaves orphans behind and then looks for ones that nobody took in."""
    script = (
        "for i in 1 2 3; do (true & exec true); done; n=0;"
        "while [ $n -lt 100 ] && grep -ls '^State:.Z' /proc/[0-9]*/status >/dev/null;"
        "do n=$((n+1)); sleep 0.05; done; [ $n -lt 100 ]"
    )
    with bed(2, path=PATH, agents=False) as net:
        agent = net.start_agent(
            net.hosts[0],
            child=["sh", "-c", script],
            prefix=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
        )
        _, err = agent.communicate(timeout=30)
        assert agent.returncode == 0, err


def test_killing_the_agent_stops_all_traffic(able: Capabilities) -> None:
    if not able.nfqueue:
        pytest.skip("this kernel has no nfqueue")
    with bed(2, path=PATH, emulator=Emulator.NFQUEUE) as net:
        me, other = net.hosts
        assert len(net.round_trips(me, other.address)) == 5
        children = Path(f"/proc/{net.agents['n1'].pid}/task/{net.agents['n1'].pid}/children")
        (child,) = children.read_text().split()
        net.agents["n1"].kill()
        net.agents["n1"].wait(10)
        assert net.round_trips(me, other.address) == []
        wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the node outlived its agent")


def test_a_delay_line_that_fails_ends_the_node_and_says_so(able: Capabilities) -> None:
    if not able.nfqueue:
        pytest.skip("this kernel has no nfqueue")
    with bed(2, path=PATH, emulator=Emulator.NFQUEUE, agents=False) as net:
        me, other = net.hosts
        net.start_agent(me)
        agent = net.start_agent(other, prefix=["env", "BREAK_AFTER=10"])
        net.round_trips(me, other.address, count=20)
        _, err = agent.communicate(timeout=20)
        assert agent.returncode == 3
        assert "the delay line failed, the node was ended: broken on purpose" in err
        (event,) = net.events(other, "error")
        assert "broken on purpose" in event["message"]
        assert "broken on purpose" in net.state(other)["error"]
        assert net.round_trips(me, other.address) == []


def test_what_the_kernel_lacks_is_said_and_recorded(able: Capabilities) -> None:
    if able.netem:
        pytest.skip("this kernel has netem: nothing is lacking")
    with bed(2, path=PATH, emulator=Emulator.NETEM, agents=False) as net:
        host = net.hosts[0]
        agent = net.start_agent(host)
        _, err = agent.communicate(timeout=20)
        assert agent.returncode == 3
        assert err.startswith("error: `emulator: netem`: this kernel has no netem\n")
        assert "modprobe sch_netem" in err
        (event,) = net.events(host, "error")
        assert "no netem" in event["message"]
        assert "no netem" in net.state(host)["error"]


def test_the_agent_is_small(emulator: Emulator) -> None:
    with bed(2, path=PATH, emulator=emulator) as net:
        _, resident_kib = cpu_and_memory(net.agents["n0"].pid)
        assert resident_kib < 25 * 1024
