"""gRPC's bidirectional streams as plain pipes of byte strings; only this file imports grpc.

Messages stay bytes on both sides (`node.wire` reads them), so that malformed ones are ours to
count. Deadlines are the callers'.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from node.errors import EnvironmentFault, PeerFault

EXCHANGE: Final = ("peerbed.v1.Peer", "Exchange")
CONNECT: Final = ("peerbed.v1.Signaling", "Connect")
Method = tuple[str, str]

_MESSAGE_MAX: Final = 4 * 2**20
_FLOW_WINDOW: Final = 16 * 2**20
"""HTTP/2 must never be what limits a stream: we bound what is under way ourselves, to less."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
    ("grpc.max_send_message_length", _MESSAGE_MAX),
    ("grpc.http2.lookahead_bytes", _FLOW_WINDOW),
    # Bandwidth probes would add pings to a network that is being measured.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_retries", 0),
)
_CLIENT: Final = (
    *_OPTIONS,
    # A proxy from the environment has no business between containers.
    ("grpc.enable_http_proxy", 0),
    # Each attempt connects anew: waiting between attempts is our affair.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_SERVER: Final = (*_OPTIONS, ("grpc.so_reuseport", 0))
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 4000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)
"""For streams that do not ping by themselves."""


class Pipe(Protocol):
    """One end of a stream. Reading and writing raise ConnectionError when it is broken."""

    async def read(self) -> bytes | None:
        """The next message; None when the other end has finished."""

    async def write(self, data: bytes) -> None:
        """Returns when the transport has taken it. One write at a time."""

    async def finish(self) -> None:
        """No more will be written."""


Handler = Callable[[Pipe], Awaitable[None]]


class _ClientPipe:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> bytes | None:
        with _broken():
            data: bytes | Any = await self._call.read()
        return None if data is grpc.aio.EOF else data

    async def write(self, data: bytes) -> None:
        with _broken():
            await self._call.write(data)

    async def finish(self) -> None:
        with _broken():
            await self._call.done_writing()


class _ServerPipe:
    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        with _broken():
            data: bytes | Any = await self._context.read()
        return None if data is grpc.aio.EOF else data

    async def write(self, data: bytes) -> None:
        with _broken():
            await self._context.write(data)

    async def finish(self) -> None:
        """A server's end is finished when its handler returns."""


@contextlib.contextmanager
def _broken() -> Any:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise ConnectionError(_told(error.code().name, error.details())) from error
    except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
        raise ConnectionError(str(error) or "the stream has ended") from error


def _told(code: str, details: str | None) -> str:
    return f"{code.lower().replace('_', ' ')}: {details}" if details else code.lower()


@contextlib.asynccontextmanager
async def dial(
    host: str, port: int, method: Method, *, deadline_s: float, keepalive: bool = False
) -> AsyncIterator[Pipe]:
    """Connect and open a stream; leaving the context closes both.

    Raises:
        ConnectionError: nobody answers, or not within the deadline.
    """
    options = (*_CLIENT, *_KEEPALIVE) if keepalive else _CLIENT
    channel = grpc.aio.insecure_channel(f"{host}:{port}", options=options)
    try:
        call = channel.stream_stream("/{}/{}".format(*method))()
        try:
            with _broken():
                await asyncio.wait_for(call.wait_for_connection(), deadline_s)
        except TimeoutError as error:
            raise ConnectionError(f"no answer within {deadline_s:g} s") from error
        yield _ClientPipe(call)
    finally:
        await channel.close()


class Server:
    """Serves one method; every stream that is opened runs `handler` until it returns.

    A PeerFault that the handler raises ends the stream and is told to the other end.

    Args:
        on_defect: told of any other exception than that and ConnectionError.
    """

    def __init__(
        self,
        method: Method,
        handler: Handler,
        *,
        on_defect: Callable[[Exception], None],
        keepalive: bool = False,
    ) -> None:
        self._handler = handler
        self._on_defect = on_defect
        options = (*_SERVER, *_KEEPALIVE) if keepalive else _SERVER
        self._server = grpc.aio.server(options=options)
        service, name = method
        stream = grpc.stream_stream_rpc_method_handler(self._serve)
        handlers = grpc.method_handlers_generic_handler(service, {name: stream})
        self._server.add_generic_rpc_handlers((handlers,))

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises EnvironmentFault when that is impossible."""
        try:
            bound = int(self._server.add_insecure_port(f"{host}:{port}"))
        except RuntimeError as error:
            raise EnvironmentFault(
                f"cannot listen on {host}:{port}",
                remedy="Another process may use that port; see who with `ss -ltnp`.",
            ) from error
        await self._server.start()
        return bound

    async def close(self, *, grace_s: float = 0.0) -> None:
        await self._server.stop(grace_s or None)

    async def _serve(self, _: object, context: Any) -> None:
        try:
            await self._handler(_ServerPipe(context))
        except PeerFault as fault:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, fault.message)
        except ConnectionError:
            pass
        except Exception as error:
            self._on_defect(error)
