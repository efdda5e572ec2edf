"""Meshes on loopback without anything above them: what they send is what a test says."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from node.config import (
    AlgorithmConfig,
    ComputeConfig,
    Deadlines,
    Emulator,
    LinksConfig,
    NodeConfig,
    Pacing,
    PathSpec,
    PeerLink,
    StopConfig,
    TrainingConfig,
)
from node.core.effects import Send
from node.core.events import Event, PeerChange, PeerChanged, Received, SendFailed, Sent
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import ANSWER
from node.core.outbox import Priority
from node.core.parts import Part, Span
from node.metrics import MemoryLog
from node.runtime.mesh import Mesh
from node.runtime.refusals import Refusals
from node.runtime.shaper import Shaper
from node.runtime.tasks import Tasks
from node.units import SECOND
from node.wire.frames import Identity
from tests.contract.world import LOOPBACK, free_ports, until

_lives = itertools.count(1)


class Station:
    """One mesh and all that it reports."""

    def __init__(self, config: NodeConfig, *, incarnation: int | None = None) -> None:
        self.config = config
        self.name = config.name
        self.events: list[Event] = []
        self.log = MemoryLog()
        self.defects: list[Exception] = []
        self.refusals = Refusals(self.log)
        self.tasks = Tasks(on_defect=self.defects.append)
        application = config.links.emulator is Emulator.APPLICATION
        self.shaper = Shaper(config) if application else None
        self.me = Identity(
            session=config.session,
            member=config.name,
            incarnation=next(_lives) if incarnation is None else incarnation,
        )
        self.mesh = Mesh(
            config=config,
            me=self.me,
            on_event=self.events.append,
            refusals=self.refusals,
            tasks=self.tasks,
            shaper=self.shaper,
        )

    async def open(self) -> None:
        await self.mesh.open()
        self.mesh.connect(self.config.neighbours)

    async def close(self) -> None:
        await self.mesh.close()
        await self.tasks.close()
        if self.shaper is not None:
            self.shaper.close()
        assert not self.defects

    def send_model(self, target: NodeId, *, size: int, key: str = "m", number: int = 0) -> None:
        """A message with `size` parameters, each of which is `number`."""
        part = Part(where=Span(0, size), values=np.full(size, number, dtype=np.float32))
        message = PeerMessage(kind="model", round=number, part=part)
        self.mesh.send(Send(target=target, message=message, key=key))

    def send_background(self, target: NodeId, *, size: int, number: int = 0) -> None:
        """A piece of a newcomer's model."""
        part = Part(where=Span(0, size), values=np.full(size, number, dtype=np.float32))
        message = PeerMessage(kind=ANSWER, round=number, part=part)
        send = Send(target=target, message=message, key="s")
        self.mesh.send(send, priority=Priority.BACKGROUND)

    def send_control(self, target: NodeId, *, number: int = 0, **fields: Any) -> None:
        message = PeerMessage(kind="control", round=number, fields=fields)
        self.mesh.send(Send(target=target, message=message, key="c"))

    def received(self, sender: NodeId | None = None, kind: str | None = None) -> list[PeerMessage]:
        return [
            event.message
            for event in self.events
            if isinstance(event, Received)
            and isinstance(event.message, PeerMessage)
            and sender in (None, event.sender)
            and kind in (None, event.message.kind)
        ]

    def sent(self) -> list[Sent]:
        return [event for event in self.events if isinstance(event, Sent)]

    def failed(self) -> list[SendFailed]:
        return [event for event in self.events if isinstance(event, SendFailed)]

    def changes(self, peer: NodeId) -> list[PeerChange]:
        return [e.change for e in self.events if isinstance(e, PeerChanged) and e.peer == peer]

    def refused(self) -> dict[str, int]:
        """How often, by reason."""
        self.refusals.flush()
        return {record["reason"]: record["count"] for record in self.log.of("refused")}


def configs(
    count: int,
    *,
    path: PathSpec | None = None,
    pacing: Pacing = Pacing.SEQUENTIAL,
    peer_ns: int = 5 * SECOND,
) -> list[NodeConfig]:
    """Nodes a, b, c, ...; `path` between all of them, emulated in the application."""
    names = [NodeId(letter) for letter in "abcdefghij"[:count]]
    ports = dict(zip(names, free_ports(count), strict=True))
    spec = path or PathSpec()
    return [
        NodeConfig(
            session="stations",
            name=name,
            index=index,
            members=tuple(names),
            neighbours=tuple(other for other in names if other != name),
            seed=1,
            host=LOOPBACK,
            port=ports[name],
            coordinator_host=LOOPBACK,
            coordinator_port=1,
            links=LinksConfig(
                emulator=Emulator.APPLICATION if path is not None else Emulator.NETEM,
                peers=tuple(
                    PeerLink(name=o, host=LOOPBACK, port=ports[o], out=spec, into=spec)
                    for o in names
                    if o != name
                ),
            ),
            algorithm=AlgorithmConfig(name="divshare", pacing=pacing),
            training=TrainingConfig(),
            compute=ComputeConfig(),
            stop=StopConfig(time_ns=60 * SECOND),
            deadlines=Deadlines(peer_ns=peer_ns),
        )
        for index, name in enumerate(names)
    ]


@contextlib.asynccontextmanager
async def stations(some: Sequence[NodeConfig]) -> AsyncIterator[list[Station]]:
    """All of them, connected."""
    made = [Station(config) for config in some]
    try:
        for station in made:
            await station.open()
        for station in made:
            missing = await station.mesh.connected(station.config.neighbours, deadline_s=20)
            assert not missing
        # Settled: what greets and connects has been counted.
        for station in made:
            station.mesh.traffic.reset()
        yield made
    finally:
        for station in made:
            await station.close()


async def all_acknowledged(station: Station, count: int) -> None:
    await until(lambda: len(station.sent()) >= count, what=f"{count} messages acknowledged")
