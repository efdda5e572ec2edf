"""Parts of what the agent does while the node runs: work aside, counters as tc prints them."""

from __future__ import annotations

import os
import select
from typing import Any

import pytest

from node.core.ids import NodeId
from node.errors import EnvironmentFault
from node.links.aside import Aside
from node.links.exchange import Sample
from node.links.usage import DeviceBytes, minors, samples

PRINTED = b"""class htb 1:10 root rate 30Mbit ceil 30Mbit burst 3750b cburst 3750b
 Sent 40638 bytes 39 pkt (dropped 0, overlimits 38 requeues 0)
 backlog 0b 0p requeues 0
class htb 1:1000 parent 1:10 leaf 1000: prio 0 rate 1Mbit ceil 1Mbit burst 1600b cburst 1600b
 Sent 123456789012 bytes 39 pkt (dropped 7, overlimits 38 requeues 0)
 backlog 21882b 21p requeues 0
 lended: 39 borrowed: 0 giants: 0
class htb 1:1001 root leaf 1001: prio 0 rate 1Mbit ceil 1Mbit burst 1600b cburst 1600b
 Sent 0 bytes 0 pkt (dropped 0, overlimits 0 requeues 0)
class htb 1:1002 root leaf 1002: prio 0 rate 1Mbit ceil 1Mbit burst 1600b cburst 1600b
 Sent 5 bytes 1 pkt (dropped 0, overlimits 0 requeues 0)
"""


def test_counters_as_tc_prints_them() -> None:
    peers = minors({0: NodeId("a"), 1: NodeId("b")})
    assert dict(samples(PRINTED, peers)) == {
        "a": Sample(size=123456789012, held=38),
        "b": Sample(size=0, held=0),
    }
    assert dict(samples(b"", peers)) == {}
    assert dict(samples(b"RTNETLINK answers: No such file", peers)) == {}


def test_a_device_that_is_not_there_has_moved_every_time() -> None:
    """What cannot be seen is not taken for rest."""
    device = DeviceBytes("no-such-device")
    assert device.moved()
    assert device.moved()
    device.close()


class Loop:
    """The agent's loop, as far as work aside needs one."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.aside = Aside(
            watch=lambda fd: self.poll.register(fd, select.POLLIN), unwatch=self.poll.unregister
        )
        self.told: list[tuple[Any, str | None]] = []

    def tell(self, result: Any, error: str | None) -> None:
        self.told.append((result, error))

    def run(self, count: int) -> None:
        while len(self.told) < count:
            events = self.poll.poll(10_000)
            assert events, "nothing came of the work"
            for fd, _ in events:
                assert self.aside.receive(fd)


def _fail() -> None:
    raise EnvironmentFault("the kernel said no")


def test_work_aside_is_done_in_order_in_another_process_and_its_end_is_told() -> None:
    loop = Loop()
    for work in (os.getpid, _fail, lambda: 1 / 0, lambda: "x" * 300_000, lambda: os._exit(3)):
        loop.aside.do(work, loop.tell)
    loop.run(5)
    (pid, none), *others = loop.told
    assert none is None
    assert pid not in (None, os.getpid())
    assert others[0][0] is None
    assert "the kernel said no" in str(others[0][1])
    assert others[1] == (None, "ZeroDivisionError: division by zero")
    assert others[2] == ("x" * 300_000, None)
    assert others[3] == (None, "a piece of the agent's work ended without a word")
    assert not loop.aside.busy


def test_work_that_is_dropped_ends_and_nobody_is_told() -> None:
    loop = Loop()
    loop.aside.do(lambda: select.select([], [], []), loop.tell)
    loop.aside.do(os.getpid, loop.tell)
    loop.aside.drop()
    assert not loop.aside.busy
    loop.aside.do(lambda: "after", loop.tell)
    loop.run(1)
    assert loop.told == [("after", None)]


def test_somebody_elses_file_descriptor_is_left_alone() -> None:
    assert Loop().aside.receive(0) is False


@pytest.fixture(autouse=True)
def _reap() -> Any:
    """The agent takes in its children by itself; here nobody does."""
    yield
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return
