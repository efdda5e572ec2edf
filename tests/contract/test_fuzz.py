"""Anything at all on the ports of a run under way: counted, refused or ignored, and no harm done.

A member that never came, `ghost`, is who writes. `FUZZ_SEED=7 pytest tests/contract/test_fuzz.py`
sends the same bytes again; the seed is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from node.config import Deadlines, Mode, RoundsConfig, StopConfig
from node.core.ids import COORDINATOR, NodeId
from node.core.signals import Hello, Leave
from node.errors import PeerFault
from node.runtime.pipes import CONNECT, EXCHANGE, Pipe, dial
from node.runtime.signaling import GARBAGE_MAX
from node.units import MILLISECOND, SECOND
from node.wire.codec import decode_signal, encode_frame, encode_signal
from node.wire.frames import Greeting, Identity
from tests.contract.fuzz import Fuzz, Kind
from tests.contract.test_processes import Fleet, fleet
from tests.contract.world import Setting, run, setting

SEED = int(os.environ.get("FUZZ_SEED", "1"))
SIGNALS = 100_000
FRAMES = 6_000
WARM_UP = 10_000
GROWTH_MAX = 20 * 2**20
GHOST = NodeId("a-ghost")
"""Sorts first, so that it dials nodes."""
ROUNDS = RoundsConfig(mode=Mode.ASYNC, connection_timeout_ns=SECOND)
WAITS = Deadlines(
    join_ns=30 * SECOND,
    ready_ns=30 * SECOND,
    stop_ns=10 * SECOND,
    heartbeat_ns=200 * MILLISECOND,
    lease_ns=10 * SECOND,
    peer_ns=5 * SECOND,
)
HELLO = Hello(emulator="none", applied="{}")


def with_ghost(folder: Path) -> Setting:
    """Three nodes that learn, and a member on standby which is nobody's neighbour."""
    base = setting(
        folder,
        count=4,
        rounds=ROUNDS,
        deadlines=WAITS,
        stop=StopConfig(time_ns=300 * SECOND),
        step_ns=20 * MILLISECOND,
    )
    last = NodeId("n-3")

    def renamed(names: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        return tuple(GHOST if name == last else name for name in names)

    nodes = {}
    for name, config in base.nodes.items():
        if name == last:
            continue
        peers = tuple(
            dataclasses.replace(peer, name=GHOST) if peer.name == last else peer
            for peer in config.links.peers
        )
        nodes[name] = dataclasses.replace(
            config,
            members=renamed(config.members),
            neighbours=tuple(n for n in config.neighbours if n != last),
            links=dataclasses.replace(config.links, peers=peers),
        )
    coordinator = dataclasses.replace(
        base.coordinator,
        members=renamed(base.coordinator.members),
        standby=(GHOST,),
        overlay=tuple(pair for pair in base.coordinator.overlay if last not in pair),
        pairs=(),
    )
    return Setting(nodes=nodes, coordinator=coordinator)


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")


class Line:
    """A stream on which anything is written, and what has to be refused of it."""

    def __init__(self, fuzz: Fuzz, pipe: Pipe) -> None:
        self.fuzz = fuzz
        self.pipe = pipe
        self.refused = 0
        self.kinds: Counter[Kind] = Counter()
        self._in_a_row = 0

    async def say(self, signal: Any) -> None:
        await self.pipe.write(encode_signal(signal, member=self.fuzz.me))

    async def write(self, count: int) -> None:
        """So many messages; the stream is not ended for being nothing but garbage."""
        for _ in range(count):
            kind, data = self.fuzz.signal()
            self.kinds[kind] += 1
            await self.pipe.write(data)
            try:
                who, _ = decode_signal(data)
                wrong = who != self.fuzz.me
            except PeerFault:
                wrong = True
            self.refused += wrong
            self._in_a_row = self._in_a_row + 1 if wrong else 0
            if self._in_a_row > GARBAGE_MAX // 2:
                await self.pipe.write(self.fuzz.whole_signal())
                self._in_a_row = 0

    async def drain(self) -> None:
        """Read what is answered."""
        with contextlib.suppress(ConnectionError):
            while await self.pipe.read() is not None:
                pass


def counted(some: Setting) -> int:
    """Bytes of the ghost that were refused as no signals, as the coordinator counted them."""
    return sum(
        record["count"]
        for record in some.of_coordinator("refused")
        if record["peer"] == GHOST
        and ("signal" in record["reason"] or "beyond the limits" in record["reason"])
        and " while " not in record["reason"]
    )


async def fuzz_signaling(some: Setting, fleet_of: Fleet) -> tuple[Line, int]:
    """100,000 signals on the coordinator's port; what it grew by after the first ones."""
    config = some.coordinator
    me = Identity(session=config.session, member=GHOST, incarnation=10**6)
    # Leave would end the ghost's part; it is sent at the end.
    fuzz = Fuzz(SEED, me=me, names=(*some.nodes, GHOST), skip=(Leave,))
    pid = fleet_of.processes[COORDINATOR].pid
    async with dial(config.host, config.port, CONNECT, deadline_s=5) as pipe:
        line = Line(fuzz, pipe)
        reading = asyncio.create_task(line.drain())
        await line.say(HELLO)
        await line.write(WARM_UP)
        before = resident(pid)
        await line.write(SIGNALS - WARM_UP)
        deadline = time.monotonic() + 30
        while counted(some) < line.refused and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        growth = resident(pid) - before
        await line.say(Leave())
        await asyncio.sleep(0.2)
        reading.cancel()
    return line, growth


async def strangers(some: Setting) -> None:
    """Streams that are refused, monstrous messages, and a life of n-0 that is over."""
    config = some.coordinator
    node = next(iter(some.nodes))
    for number in range(60):
        who = Identity(session=config.session, member=node, incarnation=number)
        data = encode_signal(HELLO, member=who) if number % 3 else os.urandom(50)
        with contextlib.suppress(ConnectionError):
            async with dial(config.host, config.port, CONNECT, deadline_s=5) as pipe:
                await pipe.write(data if number % 10 else bytes(5 * 2**20))
                while await pipe.read() is not None:
                    pass


async def fuzz_peer(some: Setting, node: NodeId) -> int:
    """Some thousands of frames on a node's port, on as many streams as that takes; how many."""
    config = some.nodes[node]
    written = 0
    for life in range(1, 40):
        me = Identity(session=config.session, member=GHOST, incarnation=life)
        fuzz = Fuzz(SEED + life, me=me, names=(*some.nodes, GHOST))
        with contextlib.suppress(ConnectionError):
            async with dial(config.host, config.port, EXCHANGE, deadline_s=5) as pipe:
                await pipe.write(encode_frame(Greeting(identity=me)))
                reading = asyncio.create_task(Line(fuzz, pipe).drain())
                try:
                    while written < FRAMES * life // 20:
                        _, data = fuzz.frame()
                        await pipe.write(data)
                        written += 1
                finally:
                    reading.cancel()
        if written >= FRAMES:
            break
    return written


@pytest.mark.timeout(200)
def test_a_run_under_way_bears_anything(tmp_path: Path) -> None:
    print(f"FUZZ_SEED={SEED}")
    some = with_ghost(tmp_path)
    with fleet(some, tmp_path) as running:
        running.start_all()
        running.wait_for_rounds(5)
        victim = next(iter(some.nodes))
        node_pid = running.processes[victim].pid
        line, growth = run(fuzz_signaling(some, running), limit_s=120)
        run(strangers(some), limit_s=30)
        node_before = resident(node_pid)
        frames = run(fuzz_peer(some, victim), limit_s=60)
        node_growth = resident(node_pid) - node_before
        rounds = {name: len(some.of(name, "round")) for name in some.nodes}
        running.wait(
            lambda: all(len(some.of(n, "round")) > rounds[n] + 3 for n in some.nodes),
            what="training goes on",
        )
        running.processes[COORDINATOR].send_signal(signal.SIGTERM)
        statuses = running.statuses()
    print(f"refused {line.refused} of {SIGNALS}; {frames} frames; grew by {growth}, {node_growth}")
    assert sum(line.kinds.values()) == SIGNALS
    assert set(line.kinds) == set(Kind)
    assert counted(some) == line.refused > SIGNALS // 4, "each is counted, and no other"
    assert growth < GROWTH_MAX, f"the coordinator grew by {growth / 2**20:.1f} MiB"
    assert frames >= FRAMES
    refused = [e for e in some.of(victim, "refused") if e["peer"] in (GHOST, "?")]
    assert sum(e["count"] for e in refused) > FRAMES // 4
    assert node_growth < GROWTH_MAX, f"{victim} grew by {node_growth / 2**20:.1f} MiB"
    assert {statuses[name] for name in some.nodes} == {0}
    for name in some.nodes:
        (finish,) = some.of(name, "finish")
        assert (finish["reason"], finish["error"]) == ("SIGTERM", None)
        times = [record["t"] for record in some.of(name, "round")]
        assert len(times) > 20
        assert [r["round"] for r in some.of(name, "round")] == list(range(len(times)))
    (end,) = some.of_coordinator("finish")
    assert end["error"] == f"{GHOST}: left; stopped from outside: SIGTERM", "nobody else"
    size = (tmp_path / "coordinator.jsonl").stat().st_size
    assert size < 10 * 2**20, "nor does the log grow with what is written to the port"
