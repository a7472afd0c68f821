"""The laptop's end of the gRPC transport."""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from tproxy.errors import ClusterError, DeniedError, TproxyError
from tproxy.rpc import channel
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Conn, Endpoint, StreamLostError
from tproxy.tunnel.hello import HandshakeError, Hello, decode_welcome, encode_hello

CONNECT_SECONDS = 10.0


async def connect(target: str, hello: Hello, on_open: Callable[[Conn], None]) -> Endpoint:
    """Open a tunnel to the node daemon at `target` (`unix:/path` or `host:port`).

    Raises `DeniedError` if the node does not accept the session's token, `ClusterError` if it cannot be reached or
    speaks no common protocol version.
    """
    transport = grpc.aio.insecure_channel(target, options=channel.CLIENT_OPTIONS)
    call = transport.stream_stream(channel.METHOD)()
    stream = _ClientStream(transport, call)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await call.write(encode_hello(hello))
            first = await call.read()
        if first is grpc.aio.EOF:
            raise HandshakeError("the node closed the tunnel before WELCOME")
        decode_welcome(first)
    except BaseException as error:
        call.cancel()
        await transport.close()
        if isinstance(error, grpc.aio.AioRpcError):
            raise _explain(error, target) from error
        if isinstance(error, asyncio.InvalidStateError):
            raise _explain(await _status(call), target) from error
        if isinstance(error, TimeoutError):
            raise ClusterError(
                f"the node daemon behind {target} does not answer", "Look at it with `tproxy doctor`"
            ) from error
        if isinstance(error, HandshakeError):
            raise ClusterError(str(error), "Look at the node daemon with `tproxy doctor`") from error
        raise
    return Endpoint(stream, laptop=True, on_open=on_open)


async def _status(call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> "grpc.aio.AioRpcError":
    return grpc.aio.AioRpcError(
        await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), details=await call.details()
    )


def _explain(error: "grpc.aio.AioRpcError", target: str) -> TproxyError:
    code, details = error.code(), (error.details() or "")[:256]
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return DeniedError(f"the node daemon refused the session: {details}", "Start afresh with `tproxy quit`")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return ClusterError(details, "Compare the versions with `tproxy version`")
    return ClusterError(f"cannot reach the node daemon behind {target}: {details}", "Look with `tproxy doctor`")


class _ClientStream:
    """A client-side call as a `tproxy.tunnel.endpoint.Stream`; owns its channel."""

    def __init__(self, transport: grpc.aio.Channel, call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> None:
        self._transport = transport
        self._call = call
        self._tasks = Tasks("rpc")

    async def read(self) -> bytes | None:
        try:
            batch = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamLostError(_text(error)) from error
        return None if batch is grpc.aio.EOF else batch

    async def write(self, batch: bytes) -> None:
        try:
            await self._call.write(batch)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamLostError(_text(error)) from error

    def abort(self, reason: str) -> None:
        self._call.cancel()
        self._tasks.start(self._transport.close(), "close channel")


def _text(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return (error.details() or "")[:256] or error.code().name
    return "the stream has ended"
