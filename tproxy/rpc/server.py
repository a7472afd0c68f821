"""The node's end of the gRPC transport: nobody gets further than HELLO without the session's token."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

import grpc
import grpc.aio

from tproxy.errors import ClusterError, DeniedError
from tproxy.rpc import channel
from tproxy.rpc.certificate import ServerCertificate
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
from tproxy.tunnel.memory import keep_buffers

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
MAX_UNAUTHENTICATED = 64
MAX_STREAMS = 1024
STOP_SECONDS = 0.5
"""What laptops get to read why the stream ended; a laptop that reads nothing does not delay the stop further."""

STOPPING = "the node daemon is stopping"

IdentityT = TypeVar("IdentityT")


class TunnelServer(Generic[IdentityT]):
    """Listens for laptops.

    `authenticate` gets each HELLO and returns who it is or raises `DeniedError`, whose message the laptop is told.
    `on_endpoint` gets the identity and the live endpoint, and sets its `on_open` before returning.
    """

    def __init__(
        self,
        node: str,
        authenticate: Callable[[Hello], Awaitable[IdentityT]],
        on_endpoint: Callable[[IdentityT, Endpoint], None],
        hello_seconds: float = HELLO_SECONDS,
    ) -> None:
        self.refused = 0
        """Streams refused since the start."""
        self._node = node
        self._authenticate = authenticate
        self._on_endpoint = on_endpoint
        self._hello_seconds = hello_seconds
        self._server: grpc.aio.Server | None = None
        self._stopping = False
        self._unauthenticated = 0
        self._endpoints: set[Endpoint] = set()
        self._refusals = RefusalLog(log)

    async def start(self, host: str, port: int, certificate: ServerCertificate | None = None) -> int:
        """Listen; returns the port. Without `certificate` in the clear, which is for loopback addresses.

        Raises `ClusterError` when the address is taken.
        """
        keep_buffers()
        server = grpc.aio.server(options=channel.SERVER_OPTIONS if certificate is None else channel.EXPOSED_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(channel.SERVICE, {"Connect": handler}),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificate is None:
                bound = server.add_insecure_port(address)
            else:
                pair = (certificate.key, certificate.pem)
                bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            await server.stop(None)
            raise ClusterError(f"cannot listen on {address}", "see whether another node daemon runs here") from error
        await server.start()
        self._server = server
        return int(bound)

    async def stop(self) -> None:
        """End every tunnel and stop listening, at once."""
        self._stopping = True
        for endpoint in list(self._endpoints):
            endpoint.close(STOPPING)
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)

    async def _connect(self, _requests: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        if self._unauthenticated >= MAX_UNAUTHENTICATED:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams wait for their HELLO")
        if len(self._endpoints) >= MAX_STREAMS:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many tunnels")
        self._unauthenticated += 1
        try:
            hello, identity = await self._handshake(context)
        finally:
            self._unauthenticated -= 1
        if self._stopping:
            await context.abort(grpc.StatusCode.ABORTED, STOPPING)
        endpoint = Endpoint(_ServerStream(context), laptop=False, peer_software=hello.software)
        self._endpoints.add(endpoint)
        try:
            self._on_endpoint(identity, endpoint)
            reason = await endpoint.wait_closed()
            context.set_code(grpc.StatusCode.ABORTED)
            context.set_details(reason)
        finally:  # cancelled when the laptop hangs up
            self._endpoints.discard(endpoint)
            endpoint.close("the laptop closed the tunnel")

    async def _handshake(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> tuple[Hello, IdentityT]:
        try:
            async with asyncio.timeout(self._hello_seconds):
                first = await context.read()
                if not isinstance(first, bytes):
                    raise HandshakeError("the stream ended before HELLO")
                hello = decode_hello(first)
                version = negotiate(hello)
                identity = await self._authenticate(hello)
                await context.write(encode_welcome(Welcome(version, self._node)))
                return hello, identity
        except TimeoutError:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "no HELLO in time")
        except VersionMismatchError as error:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except HandshakeError as error:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, str(error))
        except DeniedError as error:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, error.message)

    async def _refuse(
        self, context: "grpc.aio.ServicerContext[bytes, bytes]", code: grpc.StatusCode, reason: str
    ) -> NoReturn:
        self.refused += 1
        self._refusals.note(context.peer(), reason)
        await context.abort(code, reason)
        raise AssertionError("abort raises")


class _ServerStream:
    """A server-side call as a `tproxy.tunnel.endpoint.Stream`."""

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context

    async def read(self) -> bytes | None:
        try:
            batch = await self._context.read()
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise StreamLostError("the connection to the laptop broke") from error
        return batch if isinstance(batch, bytes) else None

    async def write(self, batch: bytes) -> None:
        try:
            await self._context.write(batch)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise StreamLostError("the connection to the laptop broke") from error

    def abort(self, reason: str) -> None:
        """Nothing to do: the handler returns when the endpoint is closed, which ends the call with the reason."""
