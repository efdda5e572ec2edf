"""One end of a measurement between two processes: `_stream.py receive|send MODE --config FILE`.

Run it in whatever network is to be measured; both ends print one line of JSON. MODE:

    tcp        a plain TCP stream, sent as fast as it goes: what the link is worth
    fragments  model fragments over the peer stream, the send queue never empty
    cancel     the same, and after half the time `DropQueued`: what still arrives of the old round
    ping       pings over the peer stream while the receiver's trainer computes

The configuration is a node's (`node.config.NodeConfig`), with the other end as its only peer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from node.config import Emulator, NodeConfig, from_json
from node.core.effects import DropQueued, Send
from node.core.events import Event, Received, Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Part, Span
from node.metrics import MemoryLog
from node.runtime.mesh import Mesh
from node.runtime.refusals import Refusals
from node.runtime.shaper import Shaper
from node.runtime.tasks import Tasks
from node.units import SECOND
from node.wire.assembly import Assembler
from node.wire.frames import Chunk, Identity

STRETCH = 20
"""Large batches on end: what the communicating process cannot tell from one long step."""
FRAGMENT = 8981
"""Parameters in a tenth of GN-LeNet, DivShare's model for CIFAR-10: 36 kB."""
QUEUED = 40
CONNECT_S = 20.0
RAMP = 0.3
"""Share of the time that is not counted: until TCP fills the path."""

Curve = list[tuple[int, int]]


def steady_bps(curve: Curve) -> float:
    """Bit/s after the ramp, from arrival to arrival."""
    begin = curve[0][0] + (curve[-1][0] - curve[0][0]) * RAMP
    late = [point for point in curve if point[0] >= begin]
    return (late[-1][1] - late[0][1]) * 8 * SECOND / (late[-1][0] - late[0][0])


class End:
    """A mesh with one peer, and what it is told."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.peer: NodeId = config.links.peers[0].name
        self.received: Curve = []
        self.tasks = Tasks(on_defect=self._defect)
        application = config.links.emulator is Emulator.APPLICATION
        self.shaper = Shaper(config) if application else None
        self.mesh = Mesh(
            config=config,
            me=Identity(session=config.session, member=config.name, incarnation=time.time_ns()),
            on_event=self.on_event,
            refusals=Refusals(MemoryLog()),
            tasks=self.tasks,
            shaper=self.shaper,
        )
        self._messages = itertools.count()
        self._total = 0
        self.keep_full: int | None = None
        """Round whose fragments are queued as fast as they leave."""

    def _defect(self, error: Exception) -> None:
        raise SystemExit(f"{type(error).__name__}: {error}")

    def on_event(self, event: Event) -> None:
        match event:
            case Received(message=PeerMessage() as message):
                self._total += message.model_bytes
                self.received.append((time.monotonic_ns(), self._total))
            case Sent() if self.keep_full is not None:
                self.send(self.keep_full)

    def send(self, number: int) -> None:
        values = np.zeros(FRAGMENT, dtype=np.float32)
        part = Part(where=Span(0, FRAGMENT), values=values)
        message = PeerMessage(kind="fragment", round=number, part=part)
        self.mesh.send(Send(target=self.peer, message=message, key=f"fragment/{number}"))

    async def open(self) -> None:
        await self.mesh.open()
        self.mesh.connect((self.peer,))
        missing = await self.mesh.connected((self.peer,), deadline_s=CONNECT_S)
        if missing:
            raise SystemExit(f"not connected to {missing}")

    async def close(self) -> None:
        await self.mesh.close()
        await self.tasks.close()


async def receive_tcp(config: NodeConfig, seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    curve: Curve = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port + 2))
        listener.listen(1)
        listener.setblocking(False)
        connection, _ = await asyncio.wait_for(loop.sock_accept(listener), CONNECT_S)
        connection.setblocking(False)
        total, buffer = 0, bytearray(1 << 18)
        while size := await loop.sock_recv_into(connection, buffer):
            total += size
            curve.append((time.monotonic_ns(), total))
    return {"bps": steady_bps(curve)}


async def send_tcp(config: NodeConfig, seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    other = config.links.peers[0]
    deadline = time.monotonic() + CONNECT_S
    while True:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, (other.host, other.port + 2))
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            await asyncio.wait_for(loop.sock_sendall(connection, bytes(1 << 16)), seconds)
    connection.close()
    return {}


async def receive_fragments(config: NodeConfig, seconds: float) -> dict[str, Any]:
    end = End(config)
    await end.open()
    while end.mesh.stream(end.peer) is not None:
        await asyncio.sleep(0.05)
    await end.close()
    return {"bps": steady_bps(end.received), "messages": len(end.received)}


async def send_fragments(config: NodeConfig, seconds: float) -> dict[str, Any]:
    end = End(config)
    await end.open()
    end.keep_full = 0
    for _ in range(QUEUED):
        end.send(0)
    await asyncio.sleep(seconds)
    unacked = end.mesh._outbox.unacked(end.peer)
    await end.close()
    return {"unacked": unacked}


async def receive_cancel(config: NodeConfig, seconds: float) -> dict[str, Any]:
    """Every chunk's arrival, so that the bytes after the cancel can be counted."""
    arrivals: list[tuple[int, int, int]] = []
    take = Assembler.take

    def noted(self: Assembler, chunk: Chunk) -> bytearray | None:
        arrivals.append((time.monotonic_ns(), chunk.message, len(chunk.payload)))
        return take(self, chunk)

    Assembler.take = noted  # type: ignore[method-assign]
    result = await receive_fragments(config, seconds)
    return {**result, "arrivals": arrivals}


async def send_cancel(config: NodeConfig, seconds: float) -> dict[str, Any]:
    end = End(config)
    await end.open()
    end.keep_full = 0
    for _ in range(QUEUED):
        end.send(0)
    await asyncio.sleep(seconds / 2)
    end.keep_full = 1
    end.mesh.drop(DropQueued(key_prefix="fragment/0"))
    dropped_at = time.monotonic_ns()
    last = end.mesh._outbox._numbers
    for _ in range(QUEUED):
        end.send(1)
    await asyncio.sleep(seconds / 2)
    await end.close()
    return {"dropped_at": dropped_at, "last": last}


async def receive_ping(config: NodeConfig, seconds: float) -> dict[str, Any]:
    """Answer pings while the trainer computes for long stretches, one after the other."""
    from node.training.client import TrainerProcess

    trainer = await TrainerProcess.start(config, deadline_s=60)
    try:
        computed = []
        done = await trainer.train(job=0, steps=STRETCH, parameters=trainer.initial)
        end = End(config)
        await end.open()
        for job in itertools.count(1):
            if end.mesh.stream(end.peer) is None:
                break
            done = await trainer.train(job=job, steps=STRETCH, parameters=done.parameters)
            computed.append(done.compute_s)
        await end.close()
    finally:
        await trainer.close()
    return {"step_s": sorted(computed)[len(computed) // 2]}


async def send_ping(config: NodeConfig, seconds: float) -> dict[str, Any]:
    end = End(config)
    await end.mesh.open()
    end.mesh.connect((end.peer,))
    if await end.mesh.connected((end.peer,), deadline_s=60):
        raise SystemExit("not connected")
    trips = []
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        stream = end.mesh.stream(end.peer)
        assert stream is not None
        trip = await stream.ping()
        assert trip is not None
        trips.append(trip / 1e6)
        await asyncio.sleep(0.037)  # no multiple of a step
    await end.close()
    return {"trips_ms": trips}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("receive", "send"))
    parser.add_argument("mode", choices=("tcp", "fragments", "cancel", "ping"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    config = from_json(NodeConfig, options.config.read_text())
    work = globals()[f"{options.role}_{options.mode}"]
    print(json.dumps(asyncio.run(work(config, options.seconds))))


if __name__ == "__main__":
    main()
