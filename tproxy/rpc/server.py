"""The node's end of the gRPC transport: nobody gets further than HELLO without the session's token."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import grpc
import grpc.aio

from tproxy.errors import ClusterError, DeniedError
from tproxy.rpc import channel
from tproxy.rpc.refusals import RefusalLog
from tproxy.tunnel.endpoint import Endpoint, StreamLostError
from tproxy.tunnel.hello import (
    HandshakeError,
    Hello,
    VersionMismatchError,
    Welcome,
    decode_hello,
    encode_welcome,
    negotiate,
)

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
MAX_UNAUTHENTICATED = 64

IdentityT = TypeVar("IdentityT")


class TunnelServer(Generic[IdentityT]):
    """Listens for laptops.

    `authenticate` gets each HELLO and returns who it is or raises `DeniedError`, whose message goes to the laptop.
    `on_endpoint` gets the identity and the live endpoint, and sets its `on_open` before returning.
    """

    def __init__(
        self,
        node: str,
        authenticate: Callable[[Hello], Awaitable[IdentityT]],
        on_endpoint: Callable[[IdentityT, Endpoint], None],
        hello_seconds: float = HELLO_SECONDS,
    ) -> None:
        self._node = node
        self._authenticate = authenticate
        self._on_endpoint = on_endpoint
        self._hello_seconds = hello_seconds
        self._server: grpc.aio.Server | None = None
        self._unauthenticated = 0
        self._endpoints: set[Endpoint] = set()
        self._refusals = RefusalLog(log)
        self.refused = 0  # streams, since the start

    async def start(self, host: str, port: int) -> int:
        """Listen on a loopback address; returns the port. Raises `ClusterError` when the address is taken."""
        server = grpc.aio.server(options=channel.SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(channel.SERVICE, {"Connect": handler}),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ClusterError(f"cannot listen on {address}", "Is another node daemon running?") from error
        await server.start()
        self._server = server
        return int(bound)

    async def stop(self) -> None:
        """End every tunnel at once and stop listening."""
        for endpoint in list(self._endpoints):
            endpoint.close("the node daemon is stopping")
        if self._server is not None:
            await self._server.stop(grace=0.2)

    async def _connect(self, _requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if self._unauthenticated >= MAX_UNAUTHENTICATED:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams wait for their HELLO")
        self._unauthenticated += 1
        try:
            identity = await self._handshake(context)
        finally:
            self._unauthenticated -= 1
        endpoint = Endpoint(_ServerStream(context), laptop=False)
        self._on_endpoint(identity, endpoint)
        self._endpoints.add(endpoint)
        try:
            await endpoint.wait_closed()
        finally:
            self._endpoints.discard(endpoint)
            endpoint.close("the laptop closed the tunnel")

    async def _handshake(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> IdentityT:
        try:
            async with asyncio.timeout(self._hello_seconds):
                first = await context.read()
                if first is grpc.aio.EOF:
                    raise HandshakeError("the stream ended before HELLO")
                hello = decode_hello(first)
                version = negotiate(hello)
                identity = await self._authenticate(hello)
                await context.write(encode_welcome(Welcome(version, self._node)))
                return identity
        except TimeoutError:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "no HELLO in time")
        except VersionMismatchError as error:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except HandshakeError as error:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, str(error))
        except DeniedError as error:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, error.message)
        raise AssertionError("unreachable: a refusal raises")

    async def _refuse(
        self, context: grpc.aio.ServicerContext[bytes, bytes], code: grpc.StatusCode, reason: str
    ) -> None:
        self.refused += 1
        self._refusals.note(context.peer(), reason)
        await context.abort(code, reason)


class _ServerStream:
    """A server-side call as a `tproxy.tunnel.endpoint.Stream`."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        try:
            batch = await self._context.read()
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            raise StreamLostError("the stream broke") from error
        return None if batch is grpc.aio.EOF else batch

    async def write(self, batch: bytes) -> None:
        try:
            await self._context.write(batch)
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            raise StreamLostError("the stream broke") from error

    def abort(self, reason: str) -> None:
        """Nothing to do: the handler returns when the endpoint is closed, and that ends the call."""
