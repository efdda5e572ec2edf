"""Who measures this node's paths: the kernel's links by their own packets, ours by our streams."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, Protocol

from node.config import ExpectedPair, NodeConfig, PathSpec, PeerLink
from node.core.effects import ProbeLinks
from node.core.ids import NodeId
from node.core.messages import Delivery
from node.core.signals import LinkReading
from node.errors import EnvironmentFault
from node.links import probes, schedule
from node.runtime.mesh import Mesh
from node.runtime.peer_stream import PeerStream
from node.units import MILLISECOND, SECOND, Nanos

_PINGS: Final = 11
_RATE_NS: Final = SECOND
"""How long ballast is sent at the asked rate."""
_PIECES: Final = 24
_PIECE: Final = (4 * 1024, 64 * 1024)
"""Bytes of one piece of ballast."""
_LOSS_COUNT: Final = 2000
_LOSS_PACE: Final = 1000
_BURST: Final = 20
"""Datagrams in which loss is counted, how many a second at most, and how many at once."""


class Prober(Protocol):
    async def open(self) -> None:
        """Answer the probes of others from now on. Raises EnvironmentFault."""

    async def probe(self, order: ProbeLinks) -> tuple[LinkReading, ...]:
        """Measure; what cannot be measured is in the reading's `error`."""

    async def close(self) -> None: ...


def make_prober(config: NodeConfig, mesh: Mesh, *, application: bool) -> Prober:
    """`application`: the links are emulated in this process."""
    return ApplicationProber(config, mesh) if application else KernelProber(config)


class KernelProber:
    """Measures what the kernel shapes, with TCP and UDP of its own (`node.links.probes`)."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._server = probes.ProbeServer(config.host, config.port + 1)

    async def open(self) -> None:
        try:
            await self._server.start()
        except OSError as error:
            where = f"{self._config.host}:{self._config.port + 1}"
            raise EnvironmentFault(
                f"cannot listen on {where} for link probes: {error.strerror}",
                remedy="Another process may use that port; see who with `ss -ltnp`.",
            ) from error

    async def probe(self, order: ProbeLinks) -> tuple[LinkReading, ...]:
        me, links = self._config.name, _targets(self._config, order)
        deadline = deadline_s(me, links, order.measures)
        return await _together(
            probes.measure(link, measures=order.measures, me=me, deadline=deadline)
            for link in links
        )

    async def close(self) -> None:
        await self._server.close()


class ApplicationProber:
    """Measures the application's links as its messages find them: pings, ballast, datagrams.

    The rate counts lost datagrams too, since they take their share of the path; so on a path with
    loss it is the rate that is held against the asked one, and the loss is counted apart.
    """

    def __init__(self, config: NodeConfig, mesh: Mesh) -> None:
        self._config = config
        self._mesh = mesh

    async def open(self) -> None:
        """Connect to all that there is a path to; the streams answer by themselves."""
        self._mesh.connect(peer.name for peer in self._config.links.peers)

    async def probe(self, order: ProbeLinks) -> tuple[LinkReading, ...]:
        links = _targets(self._config, order)
        deadline = deadline_s(self._config.name, links, order.measures)
        return await _together(self._measure(link, order.measures, deadline) for link in links)

    async def close(self) -> None:
        """The streams stay: neighbours use them."""

    async def _measure(
        self, link: PeerLink, measures: Sequence[str], deadline: float
    ) -> LinkReading:
        values: dict[str, float | int | None] = {}
        error = None
        try:
            async with asyncio.timeout(deadline):
                await self._mesh.connected((link.name,), deadline_s=deadline)
                stream = self._mesh.stream(link.name)
                if stream is None:
                    raise ConnectionError("not connected")
                path = link.out or PathSpec()
                if "rtt" in measures:
                    values["rtt_ns"] = await _round_trip(stream)
                if "rate" in measures:
                    values["goodput_bps"] = await self._goodput(link.name, path)
                if "loss" in measures and path.loss_rate:
                    values["loss"], values["loss_packets"] = await _loss(stream, link)
        except TimeoutError:
            error = f"no end within {deadline:g} s"
        except ConnectionError as broken:
            error = str(broken)
        return LinkReading(
            source=self._config.name,
            target=link.name,
            rtt_ns=_whole(values.get("rtt_ns")),
            goodput_bps=values.get("goodput_bps"),
            loss=values.get("loss"),
            loss_packets=_whole(values.get("loss_packets")),
            transport="application" if "goodput_bps" in values else None,
            error=error,
        )

    async def _goodput(self, peer: NodeId, path: PathSpec) -> float:
        """Bit/s from the end of the first piece of ballast to that of the last."""
        rate = path.rate_bps or 10**9
        size = min(_PIECE[1], max(_PIECE[0], rate * _RATE_NS // (8 * SECOND * _PIECES)))
        pieces = [
            self._mesh.fill(peer, size=size, delivery=Delivery.DATAGRAM) for _ in range(_PIECES)
        ]
        try:
            ends = await asyncio.gather(*pieces)
        finally:
            # Of a measurement that was given up: or the ballast would go on into the run.
            self._mesh.drop_fillers()
        return (_PIECES - 1) * size * 8 * SECOND / max(1, ends[-1] - ends[0])


async def _round_trip(stream: PeerStream) -> int:
    """The median, one ping after the other."""
    return round(statistics.median([await _answered(stream) for _ in range(_PINGS)]))


async def _answered(stream: PeerStream) -> int:
    trip = await stream.ping()
    if trip is None:
        raise ConnectionError("the connection broke")
    return trip


async def _loss(stream: PeerStream, link: PeerLink) -> tuple[float, int]:
    """Share of small datagrams lost on the way out, and of how many. Answers are not lost."""
    assert link.out is not None
    count, pace = _LOSS_COUNT, min(_LOSS_PACE, schedule.loss_pace(link.out)[1])
    answers: list[asyncio.Future[Nanos | None]] = []
    while len(answers) < count:
        batch = min(_BURST, count - len(answers))
        answers += [stream.ping(delivery=Delivery.DATAGRAM) for _ in range(batch)]
        await asyncio.sleep(batch / pace)
    # One that is not lost is sent last: when it is back, so are all the others that will be.
    await _answered(stream)
    arrived = sum(answer.done() and answer.result() is not None for answer in answers)
    return 1 - arrived / count, count


def deadline_s(me: NodeId, links: Sequence[PeerLink], measures: Sequence[str]) -> float:
    """For an order to measure; the coordinator's own, for a slot that has more in it, is later."""
    pairs = [
        ExpectedPair(source=me, target=x.name, out=x.out or PathSpec(), back=x.into or PathSpec())
        for x in links
    ]
    slots = schedule.schedule(pairs)
    wanted = [slot.deadline_ns for slot in slots if set(slot.measures) & set(measures)]
    return (max(wanted, default=3 * SECOND) - 500 * MILLISECOND) / SECOND


def _targets(config: NodeConfig, order: ProbeLinks) -> list[PeerLink]:
    return [peer for peer in config.links.peers if peer.name in order.targets]


async def _together(work: Iterable[Awaitable[LinkReading]]) -> tuple[LinkReading, ...]:
    return tuple(await asyncio.gather(*work))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
