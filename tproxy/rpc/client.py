"""The laptop's end of the gRPC transport."""

import asyncio
import ssl
from collections.abc import Callable
from typing import NoReturn

import grpc
import grpc.aio

from tproxy.errors import ClusterError, DeniedError, TproxyError
from tproxy.model.direct import SERVER_NAME
from tproxy.rpc import channel
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Conn, Endpoint, StreamLostError
from tproxy.tunnel.hello import HandshakeError, Hello, decode_welcome, encode_hello
from tproxy.tunnel.memory import keep_buffers

CONNECT_SECONDS = 10.0
MAX_TEXT_CHARACTERS = 256


class IncompatibleError(ClusterError):
    """The node daemon speaks no version of the protocol that we do: trying again will not help."""


async def connect(
    target: str, hello: Hello, on_open: Callable[[Conn], None], certificate: bytes | None = None
) -> Endpoint:
    """Open a tunnel to the node daemon at `target` (`unix:/path` or `host:port`).

    With `certificate` (DER) by TLS, to whoever shows exactly that one; without, in the clear.

    Raises `DeniedError` if the node does not accept the session's token, `IncompatibleError` if it speaks no common
    version of the protocol, `ClusterError` if it cannot be reached or does not answer in `CONNECT_SECONDS`.
    """
    keep_buffers()
    transport = _channel(target, certificate)
    stream = _ClientStream(transport)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await stream.write(encode_hello(hello))
            first = await stream.read()
        if first is None:
            raise HandshakeError("the node daemon ended the tunnel before its WELCOME")
        welcome = decode_welcome(first)
    except BaseException as error:
        stream.abort("")
        await stream.closed()
        if isinstance(error, _RefusedError):
            raise _explain(error) from error
        if isinstance(error, TimeoutError):
            raise ClusterError("the node daemon does not answer", "look at it with `tproxy doctor`") from error
        if isinstance(error, HandshakeError):
            raise ClusterError(str(error), "compare the versions with `tproxy version`") from error
        raise
    endpoint = Endpoint(stream, laptop=True, on_open=on_open)
    endpoint.peer_software = welcome.software
    return endpoint


def _channel(target: str, certificate: bytes | None) -> grpc.aio.Channel:
    if certificate is None:
        return grpc.aio.insecure_channel(target, options=channel.CLIENT_OPTIONS)
    # It is signed by itself and no authority: as the only root it is the only certificate that is accepted.
    trusted = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(certificate).encode("ascii"))
    options = [*channel.CLIENT_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]
    return grpc.aio.secure_channel(target, trusted, options=options)


class _RefusedError(StreamLostError):
    """The call ended with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details or code.name)
        self.code = code


def _explain(error: _RefusedError) -> TproxyError:
    details = str(error)
    match error.code:
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return DeniedError(f"the node daemon refused the session: {details}", "start afresh with `tproxy quit`")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return IncompatibleError(details, "compare the versions with `tproxy version`")
        case _:
            return ClusterError(f"cannot reach the node daemon: {details}", "look at it with `tproxy doctor`")


class _ClientStream:
    """A client-side call as a `tproxy.tunnel.endpoint.Stream`. Owns its channel."""

    def __init__(self, transport: grpc.aio.Channel) -> None:
        self._transport = transport
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = transport.stream_stream(channel.METHOD)()
        self._tasks = Tasks("rpc")
        self._closing: asyncio.Task[None] | None = None

    async def read(self) -> bytes | None:
        try:
            batch = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            await self._lost(error)
        return batch if isinstance(batch, bytes) else None

    async def write(self, batch: bytes) -> None:
        try:
            await self._call.write(batch)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            await self._lost(error)

    def abort(self, reason: str) -> None:
        self._call.cancel()
        if self._closing is None:
            self._closing = self._tasks.start(self._transport.close(), "close channel")

    async def closed(self) -> None:
        """After `abort`: wait until the channel has released its connection."""
        if self._closing is not None:
            await self._closing

    async def _lost(self, error: BaseException) -> NoReturn:
        """Say what the call ended with. gRPC reports a call that the *peer* cancelled as a cancellation of ours."""
        task = asyncio.current_task()
        cancelled_here = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
        if cancelled_here or not self._call.done():
            raise error
        code, details = await self._call.code(), await self._call.details() or ""
        # A write failed before the node's own words arrived, or there were none: gRPC's are no use to people.
        if code is grpc.StatusCode.INTERNAL or "Socket closed" in details:
            details = "the connection to the node broke"
        raise _RefusedError(code, details[:MAX_TEXT_CHARACTERS]) from error
